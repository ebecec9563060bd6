"""A dataset in another uncompressed transfer syntax, its values as they were (PS3.5 A.1 to A.3, A.5, 10.1).

One pass, forward only, in flat memory, by whoever has a thread to spare. It is strict: a dataset that is not exactly
what its transfer syntax says, or that would mean something else in the other one, is an `UnfaithfulError`, never a
guess. What does change: sequences and items get undefined length; group lengths and Length to End, which would be
untrue, are left out; the VRs that Implicit VR has no room for. An attribute that PS3.6 does not know becomes UN where
its VR was never said.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from itertools import count
from struct import Struct
from typing import Final, Protocol

from edge.dicom.dictionary import vr_of
from edge.dicom.elements import BIG, ITEM, ITEMS, LITTLE, LONG_VRS, SEQUENCE_END, SHORT_VRS, UNDEFINED, Layout
from edge.dicom.stream import CHUNK, CutError, File, Stream, inflated
from edge.dicom.uids import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, UNCOMPRESSED
from edge.phrase import N_, say

PIXELS: Final = 0x7FE00010
_ITEM_END: Final = 0xFFFEE00D
_LENGTH_TO_END: Final = 0x00080001
_PHOTOMETRIC: Final = 0x00280004
_PLANAR: Final = 0x00280006
_BITS: Final = 0x00280100
_REPRESENTATION: Final = 0x00280103
_FRAME_TABLES: Final = frozenset({0x7FE00001, 0x7FE00002})
"""Extended Offset Table and its lengths: of encapsulated pixel data only (PS3.3 C.7.6.3.1.8)."""
_MAX_DEPTH: Final = 64
_MOST_ELEMENTS: Final = 1_000_000
_SMALL: Final = 64 << 10
"""Bytes of a value that is looked at as a whole."""
_LONGEST_SHORT: Final = 0xFFFE
"""Bytes of a value whose length has 16 bits, and is even."""

_WIDTH: Final = {
    **dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"OF", b"OL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), 8),
}
"""Bytes that are swapped together (PS3.5 7.3)."""
_CODE: Final = {2: "H", 4: "I", 8: "Q"}
_TEXT: Final = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
_BYTES: Final = frozenset((b"OB", b"OW"))

_TAG_LENGTH: Final = Struct("<HHL").pack
_SHORT_HEAD: Final = Struct("<HH2sH").pack
_LONG_HEAD: Final = Struct("<HH2sxxL").pack
_MARK: Final = Struct("<LL").pack
_SEQUENCE_OVER: Final = _TAG_LENGTH(ITEMS, SEQUENCE_END & 0xFFFF, 0)
_ITEM_OPEN: Final = _TAG_LENGTH(ITEMS, ITEM & 0xFFFF, UNDEFINED)
_ITEM_OVER: Final = _TAG_LENGTH(ITEMS, _ITEM_END & 0xFFFF, 0)

Write = Callable[[bytes], None]


class UnfaithfulError(Exception):
    """It cannot be said in the other transfer syntax without doubt; the text says why."""


class Frames(Protocol):
    """What the compressed pixel data of a dataset becomes."""

    @property
    def length(self) -> int:
        """Bytes of all frames."""
        ...

    @property
    def photometric(self) -> str:
        """Photometric Interpretation (0028,0004) of what comes out; empty: as it was."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Give each frame, little-endian, its samples pixel by pixel."""
        ...

    def check(self, fragments: int) -> None:
        """See that it is of so many fragments. Raises `UnfaithfulError`."""
        ...


class _Code:
    """How a dataset is written."""

    def __init__(self, layout: Layout, *, explicit: bool) -> None:
        self.layout = layout
        self.explicit = explicit
        self.big = layout is BIG


_IMPLICIT: Final = _Code(LITTLE, explicit=False)
_CODES: Final = {
    IMPLICIT_LITTLE: _IMPLICIT,
    EXPLICIT_LITTLE: _Code(LITTLE, explicit=True),
    DEFLATED: _Code(LITTLE, explicit=True),
    EXPLICIT_BIG: _Code(BIG, explicit=True),
}


class _Scope:
    """What a dataset or item says of its own pixels, or of those around it."""

    __slots__ = ("bits", "signed")

    def __init__(self, outer: "_Scope | None" = None) -> None:
        self.signed: bool | None = None if outer is None else outer.signed
        self.bits: int | None = None if outer is None else outer.bits

    def notice(self, tag: int, value: bytes) -> None:
        if tag == _REPRESENTATION and len(value) == 2:
            self.signed = value == b"\1\0"
        elif tag == _BITS and len(value) == 2:
            self.bits = int.from_bytes(value, "little")


class _Pass:
    """One pass: what is read is written in the other syntax, and its values go into a fingerprint."""

    def __init__(self, source: Stream, code: _Code, target: _Code, write: Write, frames: Frames | None) -> None:
        self._source = source
        self._code = code
        self._target = target
        self._write = write
        self._frames = frames
        self._fingerprint = hashlib.blake2b(digest_size=32)  # quicker where no instruction helps SHA-256
        self._elements = 0
        self._out = bytearray()

    def run(self) -> bytes:
        """Go to the end; the fingerprint of all values."""
        self._dataset(self._code, None, _Scope(), 0)
        self._flush()
        return self._fingerprint.digest()

    def _emit(self, data: bytes) -> None:
        self._out += data
        if len(self._out) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        self._write(bytes(self._out))
        self._out.clear()

    def _dataset(self, code: _Code, end: int | None, scope: _Scope, depth: int) -> None:
        """Pass over the elements of a dataset or an item, which ends at ``end``, or by itself."""
        source = self._source
        while source.position != end:
            if end is None and not depth and source.over():
                return
            tag, vr, length = self._head(code)
            if tag == _ITEM_END and depth and end is None:
                return
            if tag >> 16 in (0, ITEMS):
                raise UnfaithfulError(say("{tag} stands where an element should begin", tag=_name(tag)))
            if end is not None and length != UNDEFINED and source.position + length > end:
                raise UnfaithfulError(say("{tag} is longer than the item that it is in", tag=_name(tag)))
            self._elements += 1
            if self._elements > _MOST_ELEMENTS:
                raise UnfaithfulError(say("it has more than {most} elements", most=_MOST_ELEMENTS))
            self._element(tag, vr, length, code, scope, depth)
            if end is not None and source.position > end:
                raise UnfaithfulError(say("{tag} is longer than the item that it is in", tag=_name(tag)))

    def _head(self, code: _Code) -> tuple[int, bytes, int]:
        """Read tag, VR (empty where none is said) and length."""
        head = self._source.take(8)
        group, element, length = code.layout.implicit(head)
        tag = group << 16 | element
        if not code.explicit or group == ITEMS:
            return tag, b"", length
        _, _, vr, length = code.layout.explicit(head)
        if vr in SHORT_VRS:
            return tag, vr, length
        if vr not in LONG_VRS:
            raise UnfaithfulError(say("the VR of {tag} is none of the standard", tag=_name(tag)))
        (length,) = code.layout.long(self._source.take(4))
        return tag, vr, length

    def _element(self, tag: int, vr: bytes, length: int, code: _Code, scope: _Scope, depth: int) -> None:
        if (not tag & 0xFFFF or tag == _LENGTH_TO_END) and length != UNDEFINED:
            if length != 4:
                raise UnfaithfulError(
                    say("{tag} is of {length} bytes, which no length can be", tag=_name(tag), length=length)
                )
            self._source.take(length)
            return
        known = vr_of(tag)
        if length == UNDEFINED and tag == PIXELS and self._frames is not None and not depth:
            self._unpacked(self._frames, scope)
        elif vr == b"SQ" or length == UNDEFINED or (known == "SQ" and vr in (b"", b"UN")):
            if vr not in (b"", b"SQ", b"UN"):
                raise UnfaithfulError(
                    say("{tag} is encapsulated, which no uncompressed transfer syntax has", tag=_name(tag))
                )
            # what is in UN is Implicit VR Little Endian, wherever it stands (PS3.5 6.2.2)
            self._sequence(tag, length, _IMPLICIT if vr == b"UN" else code, scope, depth)
        elif not (self._frames is not None and not depth and tag in _FRAME_TABLES):
            self._value(tag, vr, length, code, scope, known)
        else:
            for _ in self._source.pieces(length):
                pass

    def _sequence(self, tag: int, length: int, code: _Code, scope: _Scope, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            raise UnfaithfulError(say("sequences are nested more than {most} deep", most=_MAX_DEPTH))
        source = self._source
        end = None if length == UNDEFINED else source.position + length
        self._emit(self._header(tag, b"SQ", UNDEFINED))
        self._fingerprint.update(_MARK(tag, UNDEFINED))
        while source.position != end:
            group, element, size = code.layout.implicit(source.take(8))
            mark = group << 16 | element
            if mark == SEQUENCE_END and end is None:
                break
            over = end is not None and size != UNDEFINED and source.position + size > end
            if mark != ITEM or over:
                raise UnfaithfulError(say("{tag} is no sequence of whole items", tag=_name(tag)))
            self._emit(_ITEM_OPEN)
            self._fingerprint.update(_ITEM_OPEN)
            item_end = None if size == UNDEFINED else source.position + size
            self._dataset(code, item_end, _Scope(scope), depth + 1)
            self._emit(_ITEM_OVER)
            self._fingerprint.update(_ITEM_OVER)
            if end is not None and source.position > end:
                raise UnfaithfulError(say("{tag} is no sequence of whole items", tag=_name(tag)))
        self._emit(_SEQUENCE_OVER)
        self._fingerprint.update(_SEQUENCE_OVER)

    def _value(self, tag: int, vr: bytes, length: int, code: _Code, scope: _Scope, known: str) -> None:
        width = _WIDTH.get(vr, 1) if code.big else 1
        if length % width:
            raise UnfaithfulError(
                say("{tag} is of {length} bytes, which no {vr} can be", tag=_name(tag), length=length, vr=vr.decode())
            )
        if code.big and vr == b"OW" and tag == PIXELS and (scope.bits or 0) > 16:
            raise UnfaithfulError(
                N_("its big-endian pixels are of more than 16 bits in OW, which senders write in two ways")
            )
        self._fingerprint.update(_MARK(tag, length))
        small = length <= _SMALL
        value = _swapped(self._source.take(length), width) if small else b""
        if small:
            value = self._changed(tag, value)
            scope.notice(tag, value)
        written = self._vr(tag, vr, value, len(value) if small else length, scope, known)
        self._emit(self._header(tag, written, len(value) if small else length))
        for piece in (value,) if small else (_swapped(piece, width) for piece in self._source.pieces(length)):
            self._fingerprint.update(piece)
            self._emit(piece)

    def _changed(self, tag: int, value: bytes) -> bytes:
        """Give a value as it is when the pixel data is not compressed any more."""
        if self._frames is None:
            return value
        if tag == _PHOTOMETRIC and self._frames.photometric:
            text = self._frames.photometric.encode()
            return text + b" " * (len(text) & 1)
        return b"\0\0" if tag == _PLANAR else value

    def _unpacked(self, frames: Frames, scope: _Scope) -> None:
        """Write decompressed frames in place of the encapsulated ones, which are passed over."""
        padded = frames.length + (frames.length & 1)
        vr = b"OB" if (scope.bits or 0) <= 8 else b"OW"
        self._emit(self._header(PIXELS, vr, padded))
        for frame in frames:
            self._emit(frame)
        self._emit(bytes(padded - frames.length))
        for number in count(-1):  # the first item is the Basic Offset Table
            group, element, size = LITTLE.implicit(self._source.take(8))
            mark = group << 16 | element
            if mark == SEQUENCE_END:
                frames.check(number)
                return
            if mark != ITEM or size == UNDEFINED:
                raise UnfaithfulError(N_("its fragments are no whole items"))
            for _ in self._source.pieces(size):
                pass

    def _vr(self, tag: int, vr: bytes, value: bytes, length: int, scope: _Scope, known: str) -> bytes:
        """Return the VR to write: the one that was said, else what PS3.6 knows as far as the value is such."""
        if not vr:
            return _implied(known, value, length, scope)
        if not self._target.explicit and not _agrees(vr, known, value, scope):
            said = vr.decode()
            raise UnfaithfulError(
                say("{tag} is {said}, and Implicit VR would make it {known}", tag=_name(tag), said=said, known=known)
            )
        return vr

    def _header(self, tag: int, vr: bytes, length: int) -> bytes:
        group, element = tag >> 16, tag & 0xFFFF
        if not self._target.explicit:
            return _TAG_LENGTH(group, element, length)
        if vr in LONG_VRS:
            return _LONG_HEAD(group, element, vr, length)
        if length > 0xFFFF:  # too long for its VR (PS3.5 6.2.2)
            return _LONG_HEAD(group, element, b"UN", length)
        return _SHORT_HEAD(group, element, vr, length)


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _swapped(data: bytes, width: int) -> bytes:
    if width == 1:
        return data
    words = array(_CODE[width], data)
    words.byteswap()
    return words.tobytes()


def _high(value: bytes) -> bool:
    """Whether a word of ``value`` has its high bit, so that US and SS differ."""
    return any(byte & 0x80 for byte in value[1::2])


def _implied(known: str, value: bytes, length: int, scope: _Scope) -> bytes:
    """Return the VR that was not said; UN where it cannot be known."""
    vr = known.encode()
    if known == "US or SS":
        if length <= _LONGEST_SHORT and (not _high(value) or scope.signed is not None):
            vr = b"SS" if scope.signed else b"US"
        else:
            vr = b"UN"
    elif " or " in known:  # in Implicit VR it is OW (PS3.5 A.1)
        vr = b"OW"
    if not vr or length % _WIDTH.get(vr, 1):
        return b"UN"
    return vr


def _agrees(vr: bytes, known: str, value: bytes, scope: _Scope) -> bool:
    """Whether whoever finds the VR in PS3.6 reads the value as it was."""
    may = known.encode().split(b" or ")
    if not known or vr == b"UN" or [vr] == may:
        return True
    if vr in (b"US", b"SS") and vr in may:
        return not _high(value) or scope.signed is (vr == b"SS")
    return vr in may or (vr in _TEXT and may[0] in _TEXT) or (vr in _BYTES and may[0] in _BYTES)


def recode(source: File, syntax: str, target: str, write: Write, frames: Frames | None = None) -> bytes:
    """Write the dataset of ``source``, which is in ``syntax``, in ``target``; return the fingerprint of its values.

    ``target`` is Implicit or Explicit VR Little Endian. With ``frames`` the dataset may be one of encapsulated pixel
    data (PS3.5 A.4), which they stand for; then the fingerprint is of nothing that was read. Raises `UnfaithfulError`,
    EOFError, and what ``source`` and ``write`` raise; what was written then is of no use.
    """
    if syntax not in UNCOMPRESSED and frames is None:
        raise UnfaithfulError(N_("its transfer syntax is no uncompressed one"))
    code = _CODES.get(syntax, _CODES[EXPLICIT_LITTLE])
    pieces = iter(source)
    stream = Stream(inflated(pieces) if syntax == DEFLATED else pieces)
    try:
        return _Pass(stream, code, _CODES[target], write, frames).run()
    except CutError as e:
        raise UnfaithfulError(str(e)) from e


def fingerprint(source: File, syntax: str) -> bytes:
    """Return the fingerprint of the values of a dataset: the same in whatever uncompressed syntax it is written.

    Raises as `recode`.
    """
    return recode(source, syntax, EXPLICIT_LITTLE if syntax != IMPLICIT_LITTLE else IMPLICIT_LITTLE, _nowhere)


def _nowhere(_: bytes) -> None:
    pass
