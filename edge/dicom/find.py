"""C-FIND at IMAGE level: the question for one series, and the UIDs of each answer (PS3.4 C.4.1, C.6.2.1).

All of a series is asked for, never single instances: a peer that sends back what it was asked, found or not, would
otherwise prove anything.
"""

from typing import Final

import msgspec

from edge.dicom.dataset import Encoder, InvalidDatasetError, read

MOST_BYTES: Final = 256 << 10
"""Bytes of one answer that are taken off the wire."""

_CLASS: Final = 0x00080016
_INSTANCE: Final = 0x00080018
_LEVEL: Final = 0x00080052
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_WANTED: Final = dict.fromkeys((_CLASS, _INSTANCE, _STUDY, _SERIES), b"UI")


class FindError(Exception):
    """The peer ended a query with ``status``, which is no success (PS3.4 C.4.1.1.4)."""

    def __init__(self, status: int, comment: str = "") -> None:
        super().__init__(f"it answered the query with {status:04X}" + (f": {comment}" if comment else ""))
        self.status = status


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """One instance that the peer says it has; what it does not say is empty."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""


def image_query(study_uid: str, series_uid: str, transfer_syntax: str) -> bytes:
    """Encode the identifier that asks for every instance of a series.

    In one of `edge.dicom.dataset.SYNTAXES`; ValueError in any other.
    """
    identifier = Encoder(transfer_syntax)
    identifier.uid(_CLASS)
    identifier.uid(_INSTANCE)
    identifier.text(_LEVEL, b"CS", "IMAGE")
    identifier.uid(_STUDY, study_uid)
    identifier.uid(_SERIES, series_uid)
    return identifier.whole()


def decode_match(identifier: bytes, transfer_syntax: str) -> Match:
    """Decode the identifier of one pending answer. Raises `InvalidDatasetError` for bytes that are no dataset."""
    texts = read(identifier, transfer_syntax, _WANTED).texts
    return Match(
        sop_class_uid=texts.get(_CLASS, ""),
        sop_instance_uid=texts.get(_INSTANCE, ""),
        study_uid=texts.get(_STUDY, ""),
        series_uid=texts.get(_SERIES, ""),
    )


def instance_uid(identifier: bytes, transfer_syntax: str) -> str:
    """Give the SOP Instance UID that one pending answer names; empty where it names none, or makes no sense."""
    try:
        return decode_match(identifier, transfer_syntax).sop_instance_uid
    except InvalidDatasetError:
        return ""
