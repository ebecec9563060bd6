"""How the elements of a dataset are laid out (PS3.5 7 and annex A): what every walk over one needs to know."""

from struct import Struct
from typing import Final

UNDEFINED: Final = 0xFFFFFFFF
ITEMS: Final = 0xFFFE
"""The group of items and delimiters (PS3.5 7.5)."""
ITEM: Final = 0xFFFEE000
SEQUENCE_END: Final = 0xFFFEE0DD
SHORT_HEADER: Final = 8
LONG_HEADER: Final = 12

IMPLICIT_SYNTAXES: Final = frozenset(
    {
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.20",  # Papyrus 3
        "1.2.840.113619.5.2",  # GE: only its pixel data is big-endian
    }
)
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""PS3.5 7.1.2: two reserved bytes, then a length of 32 bits."""
SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(b" "),
)
VRS: Final = LONG_VRS | SHORT_VRS


class Layout:
    """How elements are laid out in one byte order."""

    __slots__ = ("explicit", "implicit", "long")

    def __init__(self, order: str) -> None:
        self.explicit = Struct(order + "HH2sH").unpack_from
        self.implicit = Struct(order + "HHL").unpack_from
        self.long = Struct(order + "L").unpack_from


LITTLE: Final = Layout("<")
BIG: Final = Layout(">")


def printable(vr: bytes) -> bool:
    """Whether two bytes could be a VR at all."""
    return vr.isascii() and vr.decode("ascii").isprintable()


def explicit_length(layout: Layout, head: bytes) -> tuple[int, int]:
    """Give the lengths of header and value (PS3.5 7.1.2), guessing where the VR is not known.

    Raises `struct.error` where the header is cut.
    """
    _group, _element, vr, length = layout.explicit(head)
    if vr in LONG_VRS or (vr not in VRS and vr.isalpha() and vr.isupper() and not length):
        return LONG_HEADER, layout.long(head, 8)[0]
    if printable(vr):
        return SHORT_HEADER, length
    # an implicit element in an explicit dataset
    return SHORT_HEADER, layout.implicit(head)[2]
