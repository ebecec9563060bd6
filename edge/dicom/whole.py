"""What a file is: one whole DICOM object, one that is not whole, or something else (PS3.10 7.1, PS3.5 7 and 10).

Whole means that every element's length leads exactly to the end of the file. A copy that was cut just where a top level
element ends cannot be told from a whole one by that; an image that lacks its pixel data is in ``doubt``, and whoever
asks must see that the file does not grow any more. Pixel data and other values are skipped, never
read; memory is flat. Errors of ``read`` pass through, nothing else is raised.
"""

import zlib
from collections.abc import Callable
from struct import error
from typing import Final, Protocol

import msgspec

from edge.dicom import part10
from edge.dicom.elements import (
    BIG,
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT_SYNTAXES,
    ITEM,
    ITEMS,
    LITTLE,
    LONG_HEADER,
    SEQUENCE_END,
    SHORT_HEADER,
    UNDEFINED,
    VRS,
    Layout,
    explicit_length,
    printable,
)
from edge.dicom.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, is_image, valid_uid
from edge.model import Kind

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 5_000_000

_Read = Callable[[int, int], bytes]

_CHUNK: Final = 64 << 10
_PROBE: Final = 1024
"""Bytes read after a long value: mostly another long one follows, such as the next fragment of pixel data."""
_KEPT: Final = 256
"""Bytes kept of what was inflated: a header, or a UID, may have begun in them."""
_TRAILER: Final = 8
"""Bytes that may follow a deflated dataset: a byte of padding, or the checksum and length that gzip appends."""
_ZEROS: Final = 1024
_DICOMDIR: Final = "1.2.840.10008.1.3.10"
_LONGEST_UID: Final = 64
_PACKED: Final = (b"PK\3\4", b"PK\5\6")
_CLASS, _INSTANCE = 0x00080016, 0x00080018
_ROWS: Final = 0x00280010
_PIXELS: Final = frozenset({0x00287FE0, 0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Where an image has its pixels, or says where they are (PS3.3 C.7.6.3)."""

_EMPTY: Final = "it is empty"
_ONLY_ZEROS: Final = "it begins with zeros: it is still being written"
_NOT_DICOM: Final = "it is not DICOM"
_CUT_META: Final = "it ends in the File Meta Information"
_CUT: Final = "it ends in the middle of an element"
_TOO_LONG: Final = "an element is longer than the rest of the file"
_OPEN: Final = "a sequence is not closed before the file ends"
_NO_ELEMENT: Final = "there is no element where one should begin: zeros, or something else"
_TOO_DEEP: Final = f"sequences are nested more than {MAX_DEPTH} deep"
_TOO_MANY: Final = f"it has more than {MAX_ELEMENTS} elements"
_NOT_DEFLATED: Final = "its transfer syntax says deflated, but it cannot be inflated to its end"
_NO_PIXELS: Final = "it describes an image and has no pixel data"
_LONG_META: Final = f"its File Meta Information is longer than {part10.MOST_META >> 20} MiB"
_NO_SYNTAX: Final = "its File Meta Information names no transfer syntax"
_NO_UIDS: Final = "it names no SOP Class or no SOP Instance UID"
_BAD_UIDS: Final = "its UIDs are not such as can be sent"
_DIFFER: Final = "its File Meta Information names another instance than its dataset, which was believed."
_OTHER_SYNTAX: Final = "its File Meta Information names another transfer syntax than its dataset, which was believed."
_UNCOMPRESSED: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG})
_RAN_OUT: Final = frozenset({_CUT, _TOO_LONG, _OPEN})


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """A whole object. The UIDs are those of the dataset; where it has none, those of the File Meta Information."""

    kind: Kind
    sop_instance_uid: str
    offset: int
    """Where the dataset starts in the file."""
    length: int
    """Bytes of the dataset."""
    private: bytes = b""
    """(0002,0102) where its creator is ours: the seal."""
    oddity: str = ""
    """A sentence; empty where nothing is odd."""
    doubt: str = ""
    """Why it may be a copy that was cut between two elements; empty where that is not likely."""


class Unfinished(msgspec.Struct, frozen=True):
    """DICOM as far as it goes, and not whole."""

    why: str


class Unusable(msgspec.Struct, frozen=True):
    """DICOM that cannot be stored."""

    why: str


class Foreign(msgspec.Struct, frozen=True):
    """Another kind of file."""

    why: str = _NOT_DICOM


class Directory(msgspec.Struct, frozen=True):
    """A DICOMDIR (PS3.10 8.6)."""


class Archive(msgspec.Struct, frozen=True):
    """Begins as a ZIP archive does."""


Found = Whole | Unfinished | Unusable | Foreign | Directory | Archive


def recognise(read: _Read, size: int) -> Found:
    """Say what a file of ``size`` bytes is. ``read(offset, count)`` gives up to ``count`` bytes, as ``os.pread``."""
    if not size:
        return Unfinished(_EMPTY)
    head = read(0, min(size, _CHUNK))
    # a preamble may hold anything (PS3.10 7.1), also what makes the file an archive to others
    if head[:4] in _PACKED and head[128:134] != b"DICM\2\0":
        return Archive()
    if not head[:_ZEROS].strip(b"\0"):
        return Unfinished(_ONLY_ZEROS)
    for missing in (b"", bytes(128), part10.PREAMBLE):
        if _begins_with_meta(missing + head[: 140 - len(missing)]):
            return _with_meta(read, size, missing)
    if head[128:132] == b"DICM":
        return _without_meta(read, 132, size)
    if head[:128].strip(b"\0") == b"" and size <= len(part10.PREAMBLE):
        return Unfinished(_CUT_META)
    return _without_meta(read, 0, size)


def _begins_with_meta(head: bytes) -> bool:
    """Whether a File Meta group follows the prefix, as far as there is one."""
    return head[128:132] == b"DICM" and (head[132:134] == b"\2\0" or len(head) < 134)


def _with_meta(read: _Read, size: int, missing: bytes) -> Found:
    """Judge a file with File Meta Information, of whose preamble and prefix ``missing`` is not there."""
    meta = _read_meta(read, size, missing)
    if not isinstance(meta, part10.Meta):
        return meta
    offset = meta.offset - len(missing)
    if offset == size:
        return Unfinished(_CUT_META)
    walk = _walk(read, offset, size, meta.transfer_syntax_uid)
    if _DICOMDIR in (meta.sop_class_uid, walk.uid(_CLASS)):
        return Directory()
    if walk.problem:
        return Unfinished(walk.problem)
    classes, instances = walk.uid(_CLASS), walk.uid(_INSTANCE)
    differ = any(
        own and named and own != named
        for own, named in ((classes, meta.sop_class_uid), (instances, meta.sop_instance_uid))
    )
    syntax = walk.syntax if meta.transfer_syntax_uid in _UNCOMPRESSED else meta.transfer_syntax_uid
    return _named(
        classes or meta.sop_class_uid,
        instances or meta.sop_instance_uid,
        syntax,
        Whole(
            kind=Kind("", ""),
            sop_instance_uid="",
            offset=offset,
            length=size - offset,
            private=meta.private,
            oddity=_DIFFER if differ else _OTHER_SYNTAX if syntax != meta.transfer_syntax_uid else "",
            doubt=_NO_PIXELS if walk.lacks_pixels() else "",
        ),
    )


def _read_meta(read: _Read, size: int, missing: bytes) -> part10.Meta | Unfinished | Unusable:
    most = _CHUNK
    while True:
        head = missing + read(0, min(size, most))
        try:
            return part10.read_meta(head)
        except part10.CutMetaError:
            if most >= size:
                return Unfinished(_CUT_META)
            if most == part10.MOST_META:
                return Unusable(_LONG_META)
            most = part10.MOST_META
        except part10.NotPart10Error:
            return Unusable(_NO_SYNTAX)


def _without_meta(read: _Read, offset: int, size: int) -> Found:
    """Judge a file that is a bare dataset, or none: it must begin with group 0008."""
    head = read(offset, min(SHORT_HEADER, size - offset))
    if head[:2] not in (b"\x08\0", b"\0\x08")[: 2 if len(head) > 1 else 0]:
        return Foreign()
    explicit, big = head[4:6] in VRS, head[:1] == b"\0"
    if big and not explicit:
        return Foreign()
    syntax = (EXPLICIT_BIG if big else EXPLICIT_LITTLE) if explicit else IMPLICIT_LITTLE
    walk = _walk(read, offset, size, syntax)
    known = walk.uid(_CLASS) or walk.uid(_INSTANCE)
    if walk.uid(_CLASS) == _DICOMDIR:
        return Directory()
    if walk.problem:
        return Unfinished(walk.problem) if known or (walk.problem in _RAN_OUT and size < _CHUNK) else Foreign()
    if not known:
        return Foreign()
    whole = Whole(
        kind=Kind("", ""),
        sop_instance_uid="",
        offset=offset,
        length=size - offset,
        doubt=_NO_PIXELS if walk.lacks_pixels() else "",
    )
    return _named(walk.uid(_CLASS), walk.uid(_INSTANCE), syntax, whole)


def _named(sop_class: str, instance: str, syntax: str, whole: Whole) -> Found:
    if not (sop_class and instance):
        return Unusable(_NO_UIDS)
    fine = len(instance) <= _LONGEST_UID and instance.isascii() and instance.isprintable()
    if not (fine and valid_uid(sop_class) and valid_uid(syntax)):
        return Unusable(_BAD_UIDS)
    return msgspec.structs.replace(whole, kind=Kind(sop_class, syntax), sop_instance_uid=instance)


class _Bytes(Protocol):
    """A dataset to walk over, forward only."""

    def peek(self, position: int, count: int, /) -> bytes:
        """Give ``count`` bytes at ``position``, fewer at the end."""

    def over(self, position: int, /) -> bool:
        """Whether the dataset ends at ``position`` exactly."""


class _Plain:
    """A dataset as it lies in the file."""

    def __init__(self, read: _Read, offset: int, size: int) -> None:
        self._read = read
        self._offset = offset
        self._length = size - offset
        self._base = 0
        self._buffer = b""

    def peek(self, position: int, count: int, /) -> bytes:
        at = position - self._base
        if at < 0 or at + count > len(self._buffer):
            if position >= self._length:
                return b""
            ask = _CHUNK if not position or at < len(self._buffer) else _PROBE
            self._buffer = self._read(self._offset + position, min(ask, self._length - position))
            self._base, at = position, 0
        return self._buffer[at : at + count]

    def over(self, position: int, /) -> bool:
        return position == self._length


class _Inflated:
    """A deflated dataset (PS3.5 A.5): what was passed is thrown away."""

    def __init__(self, read: _Read, offset: int, size: int) -> None:
        self._read = read
        self._at = offset
        self._size = size
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._base = 0
        self._buffer = b""
        self.broken = False

    def peek(self, position: int, count: int, /) -> bytes:
        while self._base + len(self._buffer) < position + count and self._more():
            if self._base + len(self._buffer) <= position:
                self._base += len(self._buffer)
                self._buffer = b""
        at = position - self._base
        return self._buffer[at : at + count] if at >= 0 else b""

    def over(self, position: int, /) -> bool:
        """Whether the stream, all of it read but for a short trailer, comes to its end at ``position``."""
        while self._more():
            pass
        rest = self._inflater.unused_data + self._read(self._at, _TRAILER + 1) if self._at <= self._size else b""
        return self._inflater.eof and position == self._base + len(self._buffer) and len(rest) <= _TRAILER

    def _more(self) -> bool:
        if self._inflater.eof or self.broken:
            return False
        data = self._inflater.unconsumed_tail or self._read(self._at, min(_CHUNK, self._size - self._at))
        if not self._inflater.unconsumed_tail:
            self._at += len(data)
        try:
            out = self._inflater.decompress(data, _CHUNK)
        except zlib.error:
            self.broken = True
            return False
        if not (out or data):
            self.broken = True
        keep = self._buffer[-_KEPT:] if len(self._buffer) > _CHUNK else self._buffer
        self._base += len(self._buffer) - len(keep)
        self._buffer = keep + out
        return not self.broken


class _Walk:
    """One pass over all elements."""

    def __init__(self, source: _Bytes, layout: Layout, *, explicit: bool) -> None:
        self.problem = ""
        self.syntax = (EXPLICIT_BIG if layout is BIG else EXPLICIT_LITTLE) if explicit else IMPLICIT_LITTLE
        """That of an uncompressed dataset, by its first element."""
        self._uids: dict[int, str] = {}
        self._image = False
        self._pixels = False
        self._source = source
        self._layout = layout
        self._explicit = explicit
        self._outer: list[tuple[bool, Layout]] = []
        """How to go on after each sequence of undefined length that is open."""

    def uid(self, tag: int) -> str:
        """The value of SOP Class or SOP Instance UID; empty where there is none."""
        return self._uids.get(tag, "")

    def lacks_pixels(self) -> bool:
        """Whether it says that it is an image, and has no pixel data."""
        return (self._image or is_image(self.uid(_CLASS))) and not self._pixels

    def run(self) -> None:
        """Walk to the end, or to the problem."""
        position = 0
        for _ in range(MAX_ELEMENTS):
            head = self._source.peek(position, LONG_HEADER)
            if len(head) < SHORT_HEADER:
                self._end(position, head)
                return
            position = self._element(position, head)
            if self.problem:
                return
        self.problem = _TOO_MANY

    def _end(self, position: int, head: bytes) -> None:
        if head:
            self.problem = _CUT
        elif not self._source.over(position):
            self.problem = _TOO_LONG
        elif self._outer:
            self.problem = _OPEN

    def _element(self, position: int, head: bytes) -> int:
        """Pass one element, item or delimiter; where the next begins."""
        group, element, length = self._layout.implicit(head)
        tag = group << 16 | element
        if group == ITEMS:
            return self._item(tag, length, position)
        if not group:
            self.problem = _NO_ELEMENT
            return position
        start = position + SHORT_HEADER
        if self._explicit:
            try:
                size, length = explicit_length(self._layout, head)
            except error:
                self.problem = _CUT
                return position
            start = position + size
        if length == UNDEFINED:
            self._enter(head[4:6])
        if not self._outer:
            self._notice(tag, start, length)
        elif length == UNDEFINED and len(self._outer) == 1 and tag in _PIXELS:
            self._pixels = True
        return start if length == UNDEFINED else start + length

    def _notice(self, tag: int, start: int, length: int) -> None:
        if tag in (_CLASS, _INSTANCE):
            # one too long is seen to be so, and not taken for absent
            value = self._source.peek(start, min(length, 2 * _LONGEST_UID))
            self._uids[tag] = value.decode("ascii", "replace").rstrip(" \0")
        elif tag == _ROWS:
            self._image = True
        elif tag in _PIXELS:
            self._pixels = True

    def _enter(self, vr: bytes) -> None:
        """Open a sequence of undefined length; under VR UN it is implicit little endian (PS3.5 6.2.2)."""
        if len(self._outer) >= MAX_DEPTH:
            self.problem = _TOO_DEEP
        self._outer.append((self._explicit, self._layout))
        if self._explicit and vr == b"UN":
            self._explicit, self._layout = False, LITTLE

    def _item(self, tag: int, length: int, position: int) -> int:
        """Pass an item or an end; items of undefined length are walked, others skipped (PS3.5 7.5)."""
        if not self._outer:
            self.problem = _NO_ELEMENT
        elif tag == SEQUENCE_END:
            self._explicit, self._layout = self._outer.pop()
        elif tag == ITEM and length != UNDEFINED:
            return position + SHORT_HEADER + length
        return position + SHORT_HEADER


def _walk(read: _Read, offset: int, size: int, syntax: str) -> _Walk:
    """Walk over the dataset; the first element is believed more than the transfer syntax, for senders confuse them."""
    head = read(offset, SHORT_HEADER)
    source: _Plain | _Inflated = _Plain(read, offset, size)
    if syntax in DEFLATED and head[4:6] not in VRS:
        source = _Inflated(read, offset, size)
        head = source.peek(0, SHORT_HEADER)
    layout = BIG if syntax == BIG_ENDIAN else LITTLE
    if head[:2] in (b"\x08\0", b"\0\x08"):
        layout = LITTLE if head[:1] == b"\x08" else BIG
    explicit = syntax not in IMPLICIT_SYNTAXES
    if head[4:6] in VRS:
        explicit = True
    elif not printable(head[4:6]):
        explicit = False
    walk = _Walk(source, layout, explicit=explicit)
    walk.run()
    if isinstance(source, _Inflated) and walk.problem in _RAN_OUT:
        walk.problem = _NOT_DEFLATED
    return walk
