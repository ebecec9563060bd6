"""Storage Commitment Push Model: its two datasets to values and back (PS3.4 J.3.2 and J.3.3).

An N-ACTION carries what is to be committed (Table J.3-1), an N-EVENT-REPORT what was and what was not (Table J.3-2).
Bytes that are neither raise `InvalidDatasetError`, in bounded time.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from edge.dicom.dataset import Encoder, InvalidDatasetError, Item, read
from edge.model import Failure, Reference

INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Instance, the only one of its class (PS3.4 J.3.5)."""
ACTION_TYPE: Final = 1
"""Request Storage Commitment (PS3.4 J.3.2)."""
ALL_COMMITTED: Final = 1
"""Event type: every instance of the request is committed (PS3.4 J.3.3)."""
SOME_FAILED: Final = 2
"""Event type: at least one is not."""

MOST_BYTES: Final = 4 << 20
"""Bytes of a dataset that are taken off the wire."""
MOST_REFERENCES: Final = 20_000
"""Instances that one dataset may name."""

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119
CLASS_NOT_SUPPORTED: Final = 0x0122
DUPLICATE_TRANSACTION: Final = 0x0131
RESOURCE_LIMITATION: Final = 0x0213

REASONS: Final[Mapping[int, str]] = {
    PROCESSING_FAILURE: "the receiver had an error of its own",
    NO_SUCH_INSTANCE: "the receiver does not have the object",
    CLASS_CONFLICT: "the receiver has this SOP Instance UID under another SOP class",
    CLASS_NOT_SUPPORTED: "the receiver commits to no objects of this SOP class",
    DUPLICATE_TRANSACTION: "the receiver has the transaction UID in use already",
    RESOURCE_LIMITATION: "the receiver is short of resources",
}
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""

_TRANSACTION: Final = 0x00081195
_FAILED: Final = 0x00081198
_REFERENCED: Final = 0x00081199
_CLASS: Final = 0x00081150
_INSTANCE: Final = 0x00081155
_REASON: Final = 0x00081197
_WANTED: Final = {
    _TRANSACTION: b"UI",
    _FAILED: b"SQ",
    _REFERENCED: b"SQ",
    _CLASS: b"UI",
    _INSTANCE: b"UI",
    _REASON: b"US",
}
_LONGEST_UID: Final = 64


class ActionInformation(msgspec.Struct, frozen=True):
    """What an N-ACTION asks for (PS3.4 Table J.3-1); at least one reference."""

    transaction_uid: str
    references: tuple[Reference, ...]


class Report(msgspec.Struct, frozen=True):
    """What an N-EVENT-REPORT says (PS3.4 Table J.3-2). An instance may stand in both lists, or in one twice.

    In one that came in a SOP Class UID may be empty.
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[Failure, ...]

    @property
    def event_type(self) -> int:
        """`ALL_COMMITTED` where nothing failed, else `SOME_FAILED` (PS3.4 J.3.3.1.1)."""
        return SOME_FAILED if self.failed else ALL_COMMITTED


def explain(reason: int) -> str:
    """Say what a Failure Reason means, as a part of a sentence that ends with the code in hexadecimal."""
    return f"{REASONS.get(reason, 'the receiver gives a reason that the DICOM standard does not know')} ({reason:04X})"


def encode_action(info: ActionInformation, transfer_syntax: str) -> bytes:
    """Encode the dataset of an N-ACTION in one of `edge.dicom.dataset.SYNTAXES`; ValueError in any other."""
    dataset = Encoder(transfer_syntax)
    dataset.uid(_TRANSACTION, info.transaction_uid)
    dataset.sequence(_REFERENCED, [_named(dataset, reference) for reference in info.references])
    return dataset.whole()


def encode_report(report: Report, transfer_syntax: str) -> bytes:
    """Encode the dataset of an N-EVENT-REPORT in one of `edge.dicom.dataset.SYNTAXES`; ValueError in any other.

    A list with nothing in it is left out: these sequences are there with items or not at all.
    """
    dataset = Encoder(transfer_syntax)
    dataset.uid(_TRANSACTION, report.transaction_uid)
    if report.failed:
        failed = []
        for failure in report.failed:
            item = _named(dataset, failure.reference)
            item.number(_REASON, failure.reason)
            failed.append(item)
        dataset.sequence(_FAILED, failed)
    if report.committed:
        dataset.sequence(_REFERENCED, [_named(dataset, reference) for reference in report.committed])
    return dataset.whole()


def _named(dataset: Encoder, reference: Reference) -> Encoder:
    item = dataset.nested()
    item.uid(_CLASS, reference.sop_class_uid)
    item.uid(_INSTANCE, reference.sop_instance_uid)
    return item


def decode_action(data: bytes, transfer_syntax: str) -> ActionInformation:
    """Decode the dataset of an N-ACTION. Raises `InvalidDatasetError`.

    Also where one reference lacks a UID: what is promised must be known. A large one takes a quarter of a second.
    """
    found = _read(data, transfer_syntax)
    references = tuple(_reference(item) for item in found.items.get(_REFERENCED, ()))
    if not references:
        raise InvalidDatasetError("it names no instance")
    if not all(_fine(r.sop_class_uid) and _fine(r.sop_instance_uid) for r in references):
        raise InvalidDatasetError("an instance is named without its UIDs")
    return ActionInformation(_transaction(found), references)


def decode_report(data: bytes, transfer_syntax: str) -> Report:
    """Decode the dataset of an N-EVENT-REPORT. Raises `InvalidDatasetError`.

    Items without a SOP Instance UID say nothing and are passed over; a failure without a reason is a
    `PROCESSING_FAILURE`. What the event type says is not asked: the lists count. A large one takes a quarter of a
    second.
    """
    found = _read(data, transfer_syntax)
    return Report(
        _transaction(found),
        tuple(_reference(item) for item in _named_items(found, _REFERENCED)),
        tuple(
            Failure(_reference(item), item.numbers.get(_REASON, PROCESSING_FAILURE))
            for item in _named_items(found, _FAILED)
        ),
    )


def _read(data: bytes, transfer_syntax: str) -> Item:
    if len(data) > MOST_BYTES:
        raise InvalidDatasetError(f"it is longer than {MOST_BYTES >> 20} MiB")
    return read(data, transfer_syntax, _WANTED, most_items=MOST_REFERENCES)


def _transaction(found: Item) -> str:
    uid = found.texts.get(_TRANSACTION, "")
    if not _fine(uid):
        raise InvalidDatasetError("it has no transaction UID")
    return uid


def _reference(item: Item) -> Reference:
    return Reference(item.texts.get(_CLASS, ""), item.texts.get(_INSTANCE, ""))


def _named_items(found: Item, sequence: int) -> Iterable[Item]:
    return (item for item in found.items.get(sequence, ()) if _fine(item.texts.get(_INSTANCE, "")))


def _fine(uid: str) -> bool:
    """Whether it can be kept as a UID: vendors make odd ones, so only nonsense is refused."""
    return 0 < len(uid) <= _LONGEST_UID and uid.isascii() and uid.isprintable()
