"""The few attributes of a dataset that route it, find it and show it, read quickly and within bounds.

`read_header` stops after Instance Number (0020,0013) or at the first element beyond it, so pixel data is
never touched; what it does not need it skips by offset. Whatever the bytes are, it gives a `Header`: what was
found until they made no more sense, with the reason in ``problem``. Only errors of ``read`` pass through.

Two loops share the work: `_Walk._plain` takes a run of ordinary elements that lie whole in memory,
`_Walk._element` one element of any kind, and everything odd is decided there.
"""

import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from struct import error
from threading import Lock
from typing import Final

from edge.dicom.elements import (
    BIG,
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT_SYNTAXES,
    ITEM,
    ITEMS,
    LITTLE,
    LONG_HEADER,
    LONG_VRS,
    SEQUENCE_END,
    SHORT_HEADER,
    SHORT_VRS,
    UNDEFINED,
    VRS,
    Layout,
    explicit_length,
    printable,
)
from edge.model import Header
from edge.phrase import N_, say

MAX_VALUE: Final = 4096
"""A longer value is not read."""
MAX_READ: Final = 1 << 20
"""Bytes asked of ``read``, in all; and bytes that a deflated dataset is inflated to."""
MAX_ELEMENTS: Final = 10_000
MAX_DEPTH: Final = 64

_CHUNK: Final = 8192
_INFLATE_FIRST: Final = 1 << 16

_CHARSET: Final = 0x00080005
_LAST: Final = 0x00200013
_UIDS: Final = {
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x0020000D: "study_uid",
    0x0020000E: "series_uid",
}
_TEXTS: Final = {
    0x00080020: "study_date",
    0x00080050: "accession",
    0x00080060: "modality",
    0x00081010: "station",
    0x00081030: "study_description",
    0x0008103E: "series_description",
    0x00100010: "patient_name",
    0x00100020: "patient_id",
    0x00180015: "body_part",
    0x00200011: "series_number",
    _LAST: "instance_number",
}
_WANTED: Final = frozenset({_CHARSET, *_UIDS, *_TEXTS})

_EMPTY: Final = N_("The dataset is empty.")
_CUT: Final = N_("The dataset ends in the middle of an element.")
_TOO_LONG: Final = N_("An element is longer than the rest of the dataset.")
_TOO_DEEP: Final = say("Sequences are nested more than {most} deep.", most=MAX_DEPTH)
_TOO_MANY: Final = say("There are more than {most} elements before Instance Number (0020,0013).", most=MAX_ELEMENTS)
_TOO_FAR: Final = N_("Instance Number (0020,0013) was not reached within the bytes that may be read.")
_STRAY: Final = N_("There is an item delimiter outside any sequence.")
_OPEN: Final = N_("A sequence is not closed before the dataset ends.")
_NOT_DEFLATED: Final = N_("The transfer syntax says deflated, but the dataset cannot be inflated.")
_RAN_OUT: Final = frozenset({_CUT, _TOO_LONG, _OPEN})
_NOTHING: Final = N_("The dataset has none of the attributes that identify an object.")


class _Stop(Exception):
    """The walk is over; the sentence says why, and is empty where nothing is wrong."""


def read_header(read: Callable[[int, int], bytes], length: int, transfer_syntax_uid: str, first: bytes = b"") -> Header:
    """Read a `Header` from a dataset of ``length`` bytes.

    ``read(offset, n)`` gives ``n`` bytes of the dataset from ``offset``, fewer at its end; ``first`` is its
    beginning as far as known, mostly enough. Never raises for what is in the dataset.
    """
    if not length:
        return Header(problem=_EMPTY)
    if len(first) > length:
        first = first[:length]
    if transfer_syntax_uid in DEFLATED:
        return _read_deflated(read, length, transfer_syntax_uid, first)
    walk = _Walk(read, length, transfer_syntax_uid, first)
    return _header(walk.found, walk.run())


def _read_deflated(read: Callable[[int, int], bytes], length: int, syntax: str, first: bytes) -> Header:
    """Inflate a little, and more only if that was not enough (PS3.5 A.5)."""
    head = first or read(0, min(length, _CHUNK))
    if head[4:6] in VRS:
        walk = _Walk(read, length, syntax, head)
        return _header(walk.found, walk.run())
    found: dict[int, bytes] = {}
    problem = ""
    for data, end in _inflate(read, length, head):
        walk = _Walk(lambda _offset, _n: b"", len(data) + bool(end), syntax, data)
        problem = walk.run()
        found = walk.found
        if problem not in _RAN_OUT:
            break
        problem = end or problem
    return _header(found, problem)


def _inflate(read: Callable[[int, int], bytes], length: int, head: bytes) -> Iterator[tuple[bytes, str]]:
    """Give the first bytes, then all that may be, each with why there are no more: empty at a proper end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    limit = _INFLATE_FIRST
    data, offset = head, len(head)
    while True:
        try:
            out += inflater.decompress(data, limit - len(out))
        except zlib.error:
            yield bytes(out), _NOT_DEFLATED
            return
        data = inflater.unconsumed_tail
        if inflater.eof:
            yield bytes(out), ""
            return
        if len(out) >= limit:
            yield bytes(out), _TOO_FAR
            if limit == MAX_READ:
                return
            limit = MAX_READ
        elif not data:
            ask = min(_CHUNK, length - offset, MAX_READ - offset)
            data = read(offset, ask) if ask > 0 else b""
            offset += len(data)
            if not data:
                yield bytes(out), _TOO_FAR if MAX_READ <= offset < length else _CUT
                return


class _Walk:
    """One pass over the elements of a dataset, as far as they are wanted."""

    def __init__(self, read: Callable[[int, int], bytes], length: int, syntax: str, first: bytes) -> None:
        self.found: dict[int, bytes] = {}
        self._read = read
        self._length = length
        self._buffer = first
        self._base = 0
        self._position = 0
        self._budget = MAX_READ
        self._elements = MAX_ELEMENTS
        self._explicit = syntax not in IMPLICIT_SYNTAXES
        self._layout = BIG if syntax == BIG_ENDIAN else LITTLE
        self._outer: list[tuple[bool, Layout]] = []
        """How to go on after each sequence of undefined length that is open."""

    def run(self) -> str:
        """Walk; give the problem met, or nothing."""
        try:
            self._look()
            while True:
                if not self._outer:
                    self._plain()
                self._element()
        except _Stop as stop:
            return str(stop)

    def _look(self) -> None:
        """Believe the first element more than the transfer syntax: some senders confuse the two."""
        head = self._bytes(0, SHORT_HEADER)
        if head[:2] == b"\x08\x00":
            self._layout = LITTLE
        elif head[:2] == b"\x00\x08":
            self._layout = BIG
        vr = head[4:6]
        if vr in VRS:
            self._explicit = True
        elif not printable(vr):
            self._explicit = False

    def _plain(self) -> None:
        """Pass over ordinary elements before the last wanted one that lie whole in the buffer."""
        position, taken = (self._plain_explicit if self._explicit else self._plain_implicit)()
        self._elements -= taken
        self._position = self._base + position

    def _plain_explicit(self) -> tuple[int, int]:
        unpack, unpack_long = self._layout.explicit, self._layout.long
        buffer, found = self._buffer, self.found
        size = len(buffer)
        enough = size - LONG_HEADER
        position = self._position - self._base
        for taken in range(self._elements):
            if position > enough:
                return position, taken
            group, element, vr, length = unpack(buffer, position)
            start = position + 8
            if vr not in SHORT_VRS:
                if vr not in LONG_VRS:
                    return position, taken
                (length,) = unpack_long(buffer, start)
                start += 4
            end = start + length
            tag = group << 16 | element
            if end > size or tag >= _LAST:
                return position, taken
            if tag in _WANTED and length <= MAX_VALUE:
                found[tag] = buffer[start:end]
            position = end
        return position, self._elements

    def _plain_implicit(self) -> tuple[int, int]:
        unpack, buffer, found = self._layout.implicit, self._buffer, self.found
        size = len(buffer)
        enough = size - LONG_HEADER
        position = self._position - self._base
        for taken in range(self._elements):
            if position > enough:
                return position, taken
            group, element, length = unpack(buffer, position)
            start = position + 8
            end = start + length
            tag = group << 16 | element
            if end > size or tag >= _LAST:
                return position, taken
            if tag in _WANTED and length <= MAX_VALUE:
                found[tag] = buffer[start:end]
            position = end
        return position, self._elements

    def _element(self) -> None:
        """Take one element, item or delimiter of any kind at the position."""
        position, nested = self._position, bool(self._outer)
        head = self._head(position)
        group, element, length = self._layout.implicit(head)
        tag = group << 16 | element
        if group == ITEMS:
            self._delimiter(tag, length)
            return
        if tag > _LAST and not nested:
            raise _Stop
        start = position + SHORT_HEADER
        if self._explicit:
            try:
                size, length = explicit_length(self._layout, head)
            except error as e:
                raise _Stop(_CUT) from e
            start = position + size
        if length == UNDEFINED:
            self._enter(head[4:6])
            self._position = start
            return
        self._position = start + length
        if self._position > self._length:
            raise _Stop(_TOO_LONG)
        if tag in _WANTED and not nested:
            self._keep(tag, start, length)

    def _head(self, position: int) -> bytes:
        """Give the 12 bytes in which an element begins, at least 8."""
        head = self._bytes(position, LONG_HEADER)
        if not head and position >= self._length:
            raise _Stop(_OPEN if self._outer else "")
        if len(head) < SHORT_HEADER:
            raise _Stop(_CUT)
        self._elements -= 1
        if self._elements < 0:
            raise _Stop(_TOO_MANY)
        return head

    def _keep(self, tag: int, start: int, length: int) -> None:
        if length <= MAX_VALUE:
            value = self._bytes(start, length)
            if len(value) < length:
                raise _Stop(_CUT)
            self.found[tag] = value
        if tag == _LAST:
            raise _Stop

    def _enter(self, vr: bytes) -> None:
        """Open a sequence of undefined length; under VR UN it is implicit little endian (PS3.5 6.2.2)."""
        if len(self._outer) >= MAX_DEPTH:
            raise _Stop(_TOO_DEEP)
        self._outer.append((self._explicit, self._layout))
        if self._explicit and vr == b"UN":
            self._explicit, self._layout = False, LITTLE

    def _delimiter(self, tag: int, length: int) -> None:
        """Pass an item or an end; items of undefined length are walked, others skipped (PS3.5 7.5)."""
        if not self._outer:
            raise _Stop(_STRAY)
        self._position += SHORT_HEADER
        if tag == SEQUENCE_END:
            self._explicit, self._layout = self._outer.pop()
        elif tag == ITEM and length != UNDEFINED:
            self._position += length
            if self._position > self._length:
                raise _Stop(_TOO_LONG)

    def _bytes(self, position: int, n: int) -> bytes:
        """Give ``n`` bytes at ``position``, fewer where the dataset ends; ``position`` never goes back."""
        n = min(n, self._length - position)
        if not n:
            return b""
        start = position - self._base
        if start + n > len(self._buffer):
            if n > self._budget:
                raise _Stop(_TOO_FAR)
            ask = min(max(n, _CHUNK), self._length - position, self._budget)
            self._budget -= ask
            self._buffer = self._read(position, ask)
            self._base, start = position, 0
        return self._buffer[start : start + n]


def _header(found: dict[int, bytes], problem: str) -> Header:
    values: dict[str, str] = {}
    for tag, raw in found.items():
        if (name := _TEXTS.get(tag)) is not None:
            if raw.isascii() and b"\x1b" not in raw:
                values[name] = raw.decode("ascii").strip(" \0")
            else:
                values[name] = _decode(raw, found.get(_CHARSET, b"")).strip(" \0")
        elif (name := _UIDS.get(tag)) is not None:
            values[name] = raw.decode("ascii", "replace").rstrip(" \0")
    return Header(problem=problem if values else problem or _NOTHING, **values)


_ESCAPE: Final = re.compile(r"\x1b(?:[$(),\-./]+[0-~])?")
_DELIMITERS: Final = frozenset(b"\t\n\f\r^=")
"""Where an ISO 2022 text falls back to its first character set (PS3.5 6.1.2.5.3)."""
_PUNCTUATION: Final = re.compile(r"[^A-Z0-9]+")
"""Senders write ``ISO-IR 100`` and ``ISO_IR100``."""
_QUIET: Final = Lock()
"""Warning filters belong to the process."""


def _decode(raw: bytes, charset: bytes) -> str:
    """Decode by Specific Character Set (PS3.3 C.12.1.1.2), replacement characters where that fails."""
    encodings = _encodings(charset)
    if b"\x1b" not in raw:
        return raw.decode(encodings[0], "replace")
    from pydicom.charset import decode_bytes  # noqa: PLC0415

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = decode_bytes(raw, encodings, set(_DELIMITERS))
    return _ESCAPE.sub("", text)


@lru_cache(maxsize=64)
def _encodings(charset: bytes) -> tuple[str, ...]:
    """Give Python's names for the terms of (0008,0005), never none; an unknown term is taken for Latin-1."""
    # slow to import, and most sites never need it
    from pydicom.charset import convert_encodings, python_encoding  # noqa: PLC0415

    known = {_PUNCTUATION.sub("", term): term for term in python_encoding} | {"UTF8": "ISO_IR 192"}
    terms = charset.decode("ascii", "replace").upper().split("\\")
    terms = [known.get(_PUNCTUATION.sub("", term), "") for term in terms]
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(convert_encodings(terms))
