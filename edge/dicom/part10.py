"""The File Meta Information of our own Part 10 files (PS3.10 chapter 7), of a length known before the dataset comes.

The places of the AE titles and of the private information are kept when the file is begun and filled when it is
sealed, so a file is Part 10 from its first byte and is written in one pass.
"""

from struct import Struct, error
from typing import Final

import msgspec

from edge.dicom.pdu import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

PREAMBLE: Final = bytes(128) + b"DICM"
PRIVATE_CREATOR: Final = "2.25.242844071644968350697173694672403275707"
"""Private Information Creator UID (0002,0100) of what we keep in (0002,0102)."""
MOST_META: Final = 1 << 20
"""Bytes of File Meta read at the most."""

_SHORT: Final = Struct("<HH2sH")
_LONG: Final = Struct("<HH2sxxL")
_LONG_VRS: Final = frozenset(
    (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV")
)


class NotPart10Error(Exception):
    """The bytes are no Part 10 file with a readable File Meta group."""


class CutMetaError(NotPart10Error):
    """The bytes end before the File Meta group does."""


class Head(msgspec.Struct, frozen=True):
    """The bytes that stand before the dataset, and where to fill in later."""

    data: bytes
    titles_at: int
    """Offset of the three AE titles: sending elements (0002,0016) to (0002,0018)."""
    private_at: int
    """Offset of the value of (0002,0102)."""
    private_room: int
    """Bytes kept for it."""


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What a File Meta group says; empty where absent."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    private: bytes
    """Value of (0002,0102), trailing NULs included, where its creator is ours; else empty."""
    offset: int
    """Where the dataset starts."""


def _ui(element: int, uid: str) -> bytes:
    raw = uid.encode("latin-1")
    raw += b"\0" * (len(raw) & 1)
    return _SHORT.pack(2, element, b"UI", len(raw)) + raw


def _ae(element: int, title: str) -> bytes:
    return _SHORT.pack(2, element, b"AE", 16) + title.encode("latin-1", "replace").ljust(16)[:16]


def _titles(source: str, sending: str, receiving: str) -> bytes:
    return _ae(0x0016, source) + _ae(0x0017, sending) + _ae(0x0018, receiving)


def _front(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    version = IMPLEMENTATION_VERSION.encode()
    version += b" " * (len(version) & 1)
    return (
        _LONG.pack(2, 0x0001, b"OB", 2)
        + b"\0\1"
        + _ui(0x0002, sop_class_uid)
        + _ui(0x0003, sop_instance_uid)
        + _ui(0x0010, transfer_syntax_uid)
        + _ui(0x0012, IMPLEMENTATION_CLASS_UID)
        + _SHORT.pack(2, 0x0013, b"SH", len(version))
        + version
    )


def _headed(front: bytes, length: int) -> bytes:
    return PREAMBLE + _SHORT.pack(2, 0, b"UL", 4) + length.to_bytes(4, "little") + front


def plain(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Lay out preamble and File Meta of a file for others: it says nothing of who sent it, nor where it goes."""
    front = _front(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
    return _headed(front, len(front))


def begin(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, private_room: int) -> Head:
    """Lay out preamble and File Meta, with ``private_room`` bytes (even) kept for the private information."""
    front = _front(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
    titles = _titles("", "", "")
    private = _ui(0x0100, PRIVATE_CREATOR) + _LONG.pack(2, 0x0102, b"OB", private_room)
    head = _headed(front, len(front) + len(titles) + len(private) + private_room)
    return Head(
        head + titles + private + bytes(private_room),
        len(head),
        len(head) + len(titles) + len(private),
        private_room,
    )


def sealed(head: Head, *, source: str, sending: str, receiving: str, private: bytes) -> bytes:
    """``head`` with its kept places filled: what to write over the first bytes of the file."""
    if len(private) > head.private_room:
        raise ValueError(f"the seal needs {len(private)} bytes and {head.private_room} were kept")
    data = bytearray(head.data)
    titles = _titles(source, sending, receiving)
    data[head.titles_at : head.titles_at + len(titles)] = titles
    data[head.private_at : head.private_at + len(private)] = private
    return bytes(data)


def read_meta(data: bytes) -> Meta:
    """Read preamble and File Meta from the beginning of a file.

    Raises `NotPart10Error` where the prefix is missing, or the group is cut or is not Explicit VR Little Endian.
    """
    if data[128:132] != b"DICM":
        raise NotPart10Error("there is no DICM prefix at byte 128")
    values: dict[int, bytes] = {}
    position = 132
    try:
        while position + 8 <= len(data):
            group, element, vr, length = _SHORT.unpack_from(data, position)
            if group != 2:
                break
            if vr in _LONG_VRS:
                length = _LONG.unpack_from(data, position)[3]
                position += 12
            else:
                position += 8
            if position + length > len(data):
                raise CutMetaError("the File Meta group is cut")
            values[element] = data[position : position + length]
            position += length
    except error as e:
        raise CutMetaError(f"the File Meta group is cut: {e}") from e
    # only where the data ends: the group length of a whole file may be wrong or absent, and is not believed
    declared = 144 + int.from_bytes(values.get(0, b""), "little")
    if position + 8 > len(data) and (position < declared or data[position : position + 2] == b"\2\0"):
        raise CutMetaError("the File Meta group is cut")

    def uid(element: int) -> str:
        return values.get(element, b"").decode("latin-1").strip(" \0")

    if not uid(0x0010):
        raise NotPart10Error("the File Meta group names no Transfer Syntax UID (0002,0010)")
    return Meta(
        sop_class_uid=uid(0x0002),
        sop_instance_uid=uid(0x0003),
        transfer_syntax_uid=uid(0x0010),
        private=values.get(0x0102, b"") if uid(0x0100) == PRIVATE_CREATOR else b"",
        offset=position,
    )
