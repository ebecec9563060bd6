"""Part 10 files (PS3.10 7.1) written and read by hand: the dataset's bytes are kept, never parsed."""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, Final, NamedTuple

from tests.peers import wire

_MIB: Final = 1 << 20
_PREAMBLE: Final = bytes(128) + b"DICM"
_LARGEST_META: Final = 1 << 20
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
)


class NotPart10Error(ValueError):
    """A file that does not say what it holds; the message says what it lacks."""


class Part10(NamedTuple):
    """What the File Meta names (not what the dataset says of itself), and the dataset verbatim."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: bytes


@dataclass(frozen=True)
class FileObject:
    """An object in a Part 10 file, read piece by piece whatever its size."""

    path: Path
    offset: int
    """Where the dataset starts."""
    length: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str = ""
    """Empty where the dataset would have to be read for it."""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the dataset, 32 bytes."""
        return sha256(self.fragments(_MIB), pad=False)

    @cached_property
    def wire_digest(self) -> bytes:
        """The same, padded to an even length."""
        return sha256(self.fragments(_MIB), pad=True)

    def fragments(self, size: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while data := file.read(size):
                yield data


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and File Meta Information, of even length."""
    body = (
        struct.pack("<HH2sHIH", 2, 0x0001, b"OB", 0, 2, 0x0100)
        + _meta_uid(0x0002, sop_class_uid)
        + _meta_uid(0x0003, sop_instance_uid)
        + _meta_uid(0x0010, transfer_syntax_uid)
        + _meta_uid(0x0012, wire.IMPLEMENTATION_CLASS)
    )
    return _PREAMBLE + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def part10_split(path: Path) -> Part10:
    """The file's meta UIDs and its dataset verbatim. Raises NotPart10Error."""
    return part10_bytes(path.read_bytes())


def part10_bytes(data: bytes) -> Part10:
    """The same of a file's content."""
    elements, offset = _read_meta(BytesIO(data))
    return Part10(*_meta_uids(elements), data[offset:])


def part10(path: Path) -> FileObject:
    """The file as an object that can be sent, whatever its size. Raises NotPart10Error."""
    with path.open("rb") as file:
        elements, offset = _read_meta(file)
    return FileObject(path, offset, path.stat().st_size - offset, *_meta_uids(elements))


def _meta_uid(element: int, value: str) -> bytes:
    data = value.encode("ascii")
    data += b"\0" * (len(data) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(data)) + data


def _meta_uids(elements: dict[int, bytes]) -> tuple[str, str, str]:
    names = {0x0002: "SOP class", 0x0003: "SOP instance", 0x0010: "transfer syntax"}
    values = {element: elements.get(element, b"").decode("latin-1").strip(" \0") for element in names}
    missing = [name for element, name in names.items() if not values[element]]
    if missing:
        raise NotPart10Error(f"File Meta without {', '.join(missing)}")
    return values[0x0002], values[0x0003], values[0x0010]


def _read_meta(file: IO[bytes]) -> tuple[dict[int, bytes], int]:
    """Group 0002 by the walk, as its length element may be absent or wrong; and where the dataset starts."""
    head = file.read(_LARGEST_META)
    if head[128:132] != b"DICM":
        raise NotPart10Error("no preamble and DICM")
    elements: dict[int, bytes] = {}
    position = len(_PREAMBLE)
    while head[position : position + 2] == b"\x02\x00":
        long = head[position + 4 : position + 6] in _LONG_VRS
        layout, size = ("<HH2sxxI", 12) if long else ("<HH2sH", 8)
        if position + size > len(head):
            raise NotPart10Error("File Meta cut short")
        _, element, _, length = struct.unpack_from(layout, head, position)
        end = position + size + length
        if end > len(head):
            raise NotPart10Error("File Meta cut short")
        elements[element] = head[position + size : end]
        position = end
    if not elements:
        raise NotPart10Error("no File Meta after DICM")
    return elements, position


def sha256(pieces: Iterable[bytes], *, pad: bool) -> bytes:
    sha, length = hashlib.sha256(), 0
    for piece in pieces:
        sha.update(piece)
        length += len(piece)
    if pad and length % 2:
        sha.update(b"\0")
    return sha.digest()
