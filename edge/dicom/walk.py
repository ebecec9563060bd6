"""One pass over all elements of a dataset, to its end or to what is wrong with it (PS3.5 7 and annex A).

Values are skipped, never read, but for two UIDs. Memory is flat, and time is bounded: so many elements, so many bytes
inflated. Errors of ``read`` pass through, nothing else is raised.
"""

from struct import error
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
    SEQUENCE_END,
    SHORT_HEADER,
    UNDEFINED,
    VRS,
    Layout,
    explicit_length,
    printable,
)
from edge.dicom.source import MOST_INFLATED, Bytes, Inflated, Plain, Read
from edge.dicom.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, is_image
from edge.phrase import N_, say

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 5_000_000
LONGEST_UID: Final = 64
CLASS, INSTANCE = 0x00080016, 0x00080018
_ROWS: Final = 0x00280010
_PIXELS: Final = frozenset({0x00287FE0, 0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Where an image has its pixels, or says where they are (PS3.3 C.7.6.3)."""

_CUT: Final = N_("it ends in the middle of an element")
_TOO_LONG: Final = N_("an element is longer than the rest of the file")
_OPEN: Final = N_("a sequence is not closed before the file ends")
_NO_ELEMENT: Final = N_("there is no element where one should begin: zeros, or something else")
_TOO_DEEP: Final = say("sequences are nested more than {most} deep", most=MAX_DEPTH)
_TOO_MANY: Final = say("it has more than {most} elements", most=MAX_ELEMENTS)
_BOMB: Final = say("more than {most} GiB come out when it is inflated", most=MOST_INFLATED >> 30)
_NOT_DEFLATED: Final = N_("its transfer syntax says deflated, but it cannot be inflated to its end")
RAN_OUT: Final = frozenset({_CUT, _TOO_LONG, _OPEN})


class Walk:
    """One pass over all elements."""

    def __init__(self, source: Bytes, layout: Layout, *, explicit: bool) -> None:
        self.problem = ""
        self.endless = False
        """Whether the problem is that more came out of it than is ever looked at."""
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
        return (self._image or is_image(self.uid(CLASS))) and not self._pixels

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
        if tag in (CLASS, INSTANCE):
            # one too long is seen to be so, and not taken for absent
            value = self._source.peek(start, min(length, 2 * LONGEST_UID))
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


def walk(read: Read, offset: int, size: int, syntax: str) -> Walk:
    """Walk over the dataset; the first element is believed more than the transfer syntax, for senders confuse them."""
    head = read(offset, SHORT_HEADER)
    source: Plain | Inflated = Plain(read, offset, size)
    if syntax in DEFLATED and head[4:6] not in VRS:
        source = Inflated(read, offset, size)
        head = source.peek(0, SHORT_HEADER)
    layout = BIG if syntax == BIG_ENDIAN else LITTLE
    if head[:2] in (b"\x08\0", b"\0\x08"):
        layout = LITTLE if head[:1] == b"\x08" else BIG
    explicit = syntax not in IMPLICIT_SYNTAXES
    if head[4:6] in VRS:
        explicit = True
    elif not printable(head[4:6]):
        explicit = False
    walked = Walk(source, layout, explicit=explicit)
    walked.run()
    if isinstance(source, Inflated) and (source.bomb or walked.problem in RAN_OUT):
        walked.problem, walked.endless = (_BOMB, True) if source.bomb else (_NOT_DEFLATED, False)
    return walked
