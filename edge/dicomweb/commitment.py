"""Storage commitment by DICOMweb (PS3.18 chapter 13): its two payloads, to values and back.

A request names what is to be committed (Table J.1-1), a result what was and what was not (Table J.2-1); both in DICOM
JSON (annex F). What is no result, or is one of another request, is an `UnreadableError`: it proves nothing.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from edge.dicomweb.answer import UnreadableError
from edge.model import Failure, Reference
from edge.phrase import N_, say

MEDIA_TYPE: Final = "application/dicom+json"
MOST_REFERENCES: Final = 20_000
"""Instances that one result may name."""
_JSON: Final = frozenset({MEDIA_TYPE, "application/json", ""})
_LONGEST_UID: Final = 64
_PROCESSING_FAILURE: Final = 0x0110
"""The reason of a failure that gives none, or none that can be read (PS3.3 C.14.1.1)."""
_LARGEST: Final = 0xFFFF


class Result(msgspec.Struct, frozen=True):
    """What a server committed to and what not. An instance may stand in both lists, or in one twice.

    A SOP Class UID may be empty.
    """

    committed: tuple[Reference, ...]
    failed: tuple[Failure, ...]


class Request:
    """The body of a request for commitment to ``references``, of which there is at least one."""

    content_type = MEDIA_TYPE

    def __init__(self, references: Iterable[Reference]) -> None:
        items = [{"00081150": _uid(r.sop_class_uid), "00081155": _uid(r.sop_instance_uid)} for r in references]
        self._data = msgspec.json.encode({"00081199": {"vr": "SQ", "Value": items}})
        self.length = len(self._data)

    async def stream(self) -> AsyncGenerator[bytes]:
        """Give it."""
        yield self._data


def result(media_type: str, body: bytes, transaction_uid: str) -> Result:
    """Read the result of the request ``transaction_uid``. Raises `UnreadableError`.

    A result needs to name no request (PS3.18 13.4.1.1). One that names another is none of ours. Items without a SOP
    Instance UID say nothing and are passed over. A large one takes a tenth of a second.
    """
    found = _decoded(media_type, body)
    named = next(_texts(found.transaction), transaction_uid)
    if named != transaction_uid:
        raise UnreadableError(N_("its result is of another request"))
    committed, failed = list(_items(found.committed)), list(_items(found.failed))
    if len(committed) + len(failed) > MOST_REFERENCES:
        raise UnreadableError(say("its result names more than {most} instances", most=MOST_REFERENCES))
    return Result(
        tuple(reference for reference, _ in committed),
        tuple(Failure(reference, reason) for reference, reason in failed),
    )


def _uid(text: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": [text]}


class _Values(msgspec.Struct, frozen=True):
    value: list[Any] | None = msgspec.field(name="Value", default=None)


class _Item(msgspec.Struct, frozen=True):
    sop_class: _Values | None = msgspec.field(name="00081150", default=None)
    instance: _Values | None = msgspec.field(name="00081155", default=None)
    reason: _Values | None = msgspec.field(name="00081197", default=None)


class _Items(msgspec.Struct, frozen=True):
    value: list[_Item | None] | None = msgspec.field(name="Value", default=None)


class _Dataset(msgspec.Struct, frozen=True):
    transaction: _Values | None = msgspec.field(name="00081195", default=None)
    failed: _Items | None = msgspec.field(name="00081198", default=None)
    committed: _Items | None = msgspec.field(name="00081199", default=None)


def _decoded(media_type: str, body: bytes) -> _Dataset:
    text = body.lstrip()
    if text[:1] == b"<":
        raise UnreadableError(N_("it answered with a web page, or in XML"))
    if media_type not in _JSON:
        raise UnreadableError(say("it answered with {value}", value=media_type))
    try:
        # some give one dataset in a list
        if not text.startswith(b"["):
            return msgspec.json.decode(body, type=_Dataset)
        found = msgspec.json.decode(body, type=list[_Dataset])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise UnreadableError(N_("its answer is not whole, or no DICOM JSON")) from None
    if len(found) != 1:
        raise UnreadableError(N_("its answer is a list, and no result"))
    return found[0]


def _items(found: _Items | None) -> Iterator[tuple[Reference, int]]:
    for item in (found.value or ()) if found is not None else ():
        uid = next(_texts(item.instance), "") if item is not None else ""
        if item is not None and _fine(uid):
            yield Reference(next(_texts(item.sop_class), ""), uid), _reason(item.reason)


def _texts(values: _Values | None) -> Iterator[str]:
    for value in _given(values):
        if isinstance(value, str) and (text := value.strip(" \0\r\n\t")):
            yield text


def _given(values: _Values | None) -> Sequence[Any]:
    return (values.value or ()) if values is not None else ()


def _reason(values: _Values | None) -> int:
    """Give the first of ``values``; some write numbers as text."""
    text = str(next(iter(_given(values)), "")).strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST)) else 0
    return number if 0 < number <= _LARGEST else _PROCESSING_FAILURE


def _fine(uid: str) -> bool:
    """Whether it can be a UID: vendors make odd ones, so only nonsense is passed over."""
    return 0 < len(uid) <= _LONGEST_UID and uid.isascii() and uid.isprintable()
