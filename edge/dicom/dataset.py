"""Small datasets that are held whole: the few elements of a report or an identifier, to bytes and back (PS3.5 7).

For storage commitment and queries, never for objects. Reading takes what its caller names and passes over the rest;
it is bounded in elements and depth, and raises `InvalidDatasetError`, nothing else, whatever the bytes are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct, error
from typing import Final

from edge.dicom.elements import (
    BIG,
    ITEM,
    ITEMS,
    LITTLE,
    LONG_HEADER,
    LONG_VRS,
    SEQUENCE_END,
    SHORT_HEADER,
    UNDEFINED,
    VRS,
    Layout,
    explicit_length,
)
from edge.dicom.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

SYNTAXES: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
"""Transfer syntaxes that are proposed and taken where such datasets are exchanged: nothing is inflated there."""
MAX_ELEMENTS: Final = 200_000
"""Elements, items and delimiters that are read of one dataset; takes about a quarter of a second."""
MAX_DEPTH: Final = 16

_ITEM_END: Final = 0xFFFEE00D
_LONGEST_VALUE: Final = 256
"""Bytes kept of a value, four times as many as a UID has."""


class InvalidDatasetError(Exception):
    """The bytes are no dataset, or not the one that was due; says why."""


class Encoder:
    """Writes elements one after another; whoever calls gives them in the order of their tags (PS3.5 7.1)."""

    def __init__(self, transfer_syntax: str) -> None:
        """Raises ValueError for a transfer syntax that is not among `SYNTAXES`."""
        if transfer_syntax not in SYNTAXES:
            raise ValueError(f"no small dataset is written in {transfer_syntax}")
        order = ">" if transfer_syntax == EXPLICIT_BIG else "<"
        self._syntax = transfer_syntax
        self._explicit = transfer_syntax != IMPLICIT_LITTLE
        self._tag = Struct(order + "HH")
        self._short = Struct(order + "H")
        self._long = Struct(order + "L")
        self._parts: list[bytes] = []

    def nested(self) -> "Encoder":
        """Begin an item for `sequence`."""
        return Encoder(self._syntax)

    def uid(self, tag: int, uid: str = "") -> None:
        """Write UI, without a value where none is given."""
        raw = uid.encode("ascii")
        self._element(tag, b"UI", raw + b"\0" * (len(raw) & 1))

    def text(self, tag: int, vr: bytes, text: str) -> None:
        """Write a value of letters."""
        raw = text.encode("ascii")
        self._element(tag, vr, raw + b" " * (len(raw) & 1))

    def number(self, tag: int, value: int) -> None:
        """Write US."""
        self._element(tag, b"US", self._short.pack(value))

    def sequence(self, tag: int, items: "list[Encoder]") -> None:
        """Write SQ, with defined lengths."""
        parts: list[bytes] = []
        for item in items:
            value = item.whole()
            parts += (self._tag.pack(ITEM >> 16, ITEM & 0xFFFF), self._long.pack(len(value)), value)
        self._element(tag, b"SQ", b"".join(parts))

    def whole(self) -> bytes:
        """Give what was written."""
        return b"".join(self._parts)

    def _element(self, tag: int, vr: bytes, value: bytes) -> None:
        size = len(value)
        self._parts.append(self._tag.pack(tag >> 16, tag & 0xFFFF))
        if not self._explicit:
            self._parts.append(self._long.pack(size))
        elif vr in LONG_VRS:
            self._parts += (vr, b"\0\0", self._long.pack(size))
        elif size > 0xFFFF:
            raise ValueError(f"a value of {size} bytes has no length of 16 bits")
        else:
            self._parts += (vr, self._short.pack(size))
        self._parts.append(value)


@dataclass(slots=True)
class Item:
    """What was found of what was wanted, by tag."""

    texts: dict[int, str] = field(default_factory=dict)
    """Outer spaces and NULs stripped; cut where longer than any UID."""
    numbers: dict[int, int] = field(default_factory=dict)
    items: "dict[int, list[Item]]" = field(default_factory=dict)


Wanted = Mapping[int, bytes]
"""Tag to VR: SQ is read into items, US as a number, anything else as text."""


def read(data: bytes, transfer_syntax: str, wanted: Wanted, *, most_items: int = 0) -> Item:
    """Read what is ``wanted`` at the top level and in the items of wanted sequences; at most ``most_items`` of these.

    Its first element is believed more than the transfer syntax. Raises `InvalidDatasetError`.
    """
    if transfer_syntax not in SYNTAXES:
        raise InvalidDatasetError(f"it is in transfer syntax {transfer_syntax[:64]}, which is not used for it")
    return _Reader(data, transfer_syntax, wanted, most_items).run()


class _Reader:
    """One pass over a dataset."""

    def __init__(self, data: bytes, transfer_syntax: str, wanted: Wanted, most_items: int) -> None:
        self._data = data
        self._position = 0
        self._wanted = wanted
        self._items = most_items
        self._elements = MAX_ELEMENTS
        self._layout: Layout = BIG if transfer_syntax == EXPLICIT_BIG else LITTLE
        self._explicit = transfer_syntax != IMPLICIT_LITTLE
        if data[:2] in (b"\x08\0", b"\0\x08"):
            self._layout = LITTLE if data[:1] == b"\x08" else BIG
            self._explicit = data[4:6] in VRS

    def run(self) -> Item:
        return self._dataset(len(self._data), delimited=False, depth=0)

    def _dataset(self, end: int, *, delimited: bool, depth: int) -> Item:
        """Read elements up to ``end``, or to the delimiter of the item that they are in."""
        found = Item()
        while delimited or not self._over(end, depth):
            tag, vr, length = self._head(end)
            if tag == _ITEM_END and delimited:
                break
            if tag >> 16 == ITEMS:
                raise InvalidDatasetError("an item or a delimiter stands where no sequence is")
            if tag not in self._wanted:
                self._skip(vr, length, end)
            elif tag in found.texts or tag in found.numbers or tag in found.items:
                raise InvalidDatasetError(f"the element {tag >> 16:04x},{tag & 0xFFFF:04x} is there twice")
            elif self._wanted[tag] == b"SQ":
                found.items[tag] = self._sequence(vr, length, end, depth)
            else:
                self._value(found, tag, self._within(length, end))
        return found

    def _over(self, end: int, depth: int) -> bool:
        left = end - self._position
        # a NUL that evens out a dataset of odd length is no element
        return not left or (not depth and left < SHORT_HEADER and not self._data[self._position :].strip(b"\0"))

    def _head(self, end: int) -> tuple[int, bytes, int]:
        """Pass the header of an element, item or delimiter: tag, VR (where there is one) and length."""
        self._elements -= 1
        if self._elements < 0:
            raise InvalidDatasetError(f"it has more than {MAX_ELEMENTS} elements")
        position = self._position
        head = self._data[position : min(position + LONG_HEADER, end)]
        try:
            group, element, length = self._layout.implicit(head)
            size, vr = SHORT_HEADER, b""
            if self._explicit and group != ITEMS:
                size, length = explicit_length(self._layout, head)
                vr = head[4:6]
        except error as e:
            raise InvalidDatasetError("it ends in the middle of an element") from e
        self._position = position + size
        return group << 16 | element, vr, length

    def _within(self, length: int, end: int) -> int:
        """Where a value of ``length`` bytes ends."""
        if length == UNDEFINED or self._position + length > end:
            raise InvalidDatasetError("an element is longer than what it is in")
        return self._position + length

    def _value(self, found: Item, tag: int, end: int) -> None:
        raw = self._data[self._position : min(end, self._position + _LONGEST_VALUE)]
        self._position = end
        if self._wanted[tag] != b"US":
            found.texts[tag] = raw.decode("ascii", "replace").strip(" \0")
        elif len(raw) >= 2:
            found.numbers[tag] = int.from_bytes(raw[:2], "big" if self._layout is BIG else "little")

    def _sequence(self, vr: bytes, length: int, end: int, depth: int) -> list[Item]:
        if depth == MAX_DEPTH:
            raise InvalidDatasetError(f"sequences are nested more than {MAX_DEPTH} deep")
        outer = self._explicit, self._layout
        open_end = length == UNDEFINED
        end = end if open_end else self._within(length, end)
        self._enter(vr)
        found: list[Item] = []
        while open_end or self._position < end:
            tag, _, size = self._head(end)
            if tag == SEQUENCE_END and open_end:
                break
            if tag != ITEM:
                raise InvalidDatasetError("a sequence holds something that is no item")
            self._items -= 1
            if self._items < 0:
                raise InvalidDatasetError("it has too many items")
            delimited = size == UNDEFINED
            item_end = end if delimited else self._within(size, end)
            found.append(self._dataset(item_end, delimited=delimited, depth=depth + 1))
        self._explicit, self._layout = outer
        return found

    def _enter(self, vr: bytes) -> None:
        """Within a sequence under VR UN all is implicit little endian (PS3.5 6.2.2)."""
        if vr == b"UN":
            self._explicit, self._layout = False, LITTLE

    def _skip(self, vr: bytes, length: int, end: int) -> None:
        """Pass a value that nobody wants; one of undefined length is walked to its end."""
        if length != UNDEFINED:
            self._position = self._within(length, end)
            return
        outer = [(self._explicit, self._layout)]
        self._enter(vr)
        while outer:
            tag, vr, length = self._head(end)
            if tag == SEQUENCE_END:
                self._explicit, self._layout = outer.pop()
            elif length != UNDEFINED:
                self._position = self._within(length, end)
            elif tag != ITEM:
                if len(outer) == MAX_DEPTH:
                    raise InvalidDatasetError(f"sequences are nested more than {MAX_DEPTH} deep")
                outer.append((self._explicit, self._layout))
                self._enter(vr)
