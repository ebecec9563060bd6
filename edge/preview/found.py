"""What is read of a file before its pixels: the attributes that say how they are shown, and where they begin.

Nothing else of the dataset is kept. Only the worker imports this.
"""

import io
import math
import zlib
from typing import Any, BinaryIO, Final, Literal

import msgspec
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble
from pydicom.tag import BaseTag

from edge.preview.answer import Reason

_GE_PRIVATE: Final = "1.2.840.113619.5.2"
"""Implicit VR Little Endian with big-endian pixel data."""
_MOST_INFLATED: Final = 96 << 20
"""Bytes that a deflated dataset may become."""
_PIECE: Final = 1 << 20
_PIXELS: Final = {0x7FE00008: "f4", 0x7FE00009: "f8", 0x7FE00010: "u"}
_LONG_VRS: Final = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN"))
_UNDEFINED: Final = 0xFFFFFFFF
_TAGS: Final[list[BaseTag | int]] = [
    0x00080016,  # SOP Class UID
    *(0x00181164, 0x00182010),  # Imager Pixel Spacing, Nominal Scanned Pixel Spacing
    *(0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280034),
    *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00280121, 0x00280122),
    *(0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056),
    *(0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203),
    *(0x00281221, 0x00281222, 0x00281223),  # segmented palettes
    *(0x00283000, 0x00283010),  # Modality and VOI LUT Sequence
    *(0x52009229, 0x52009230),  # functional groups
    *(0x7FE00001, 0x7FE00002),  # Extended Offset Table
]


class NoPreview(Exception):
    """There will be no picture, for this reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset without its pixels, and where those are."""

    dataset: Dataset
    syntax: str
    """Transfer Syntax UID."""
    file: BinaryIO
    start: int = 0
    """Offset of the pixels."""
    length: int | None = None
    """Bytes of them; None where they are encapsulated."""
    kind: str = ""
    """``u`` for integers, ``f4`` and ``f8`` for floating point (PS3.3 C.7.6.24); empty: no pixels at all."""
    little: bool = True
    """Whether the pixels have the least byte first."""
    swapped: bool = False
    """Whether bytes lie in words whose greater byte is first (PS3.5 annex A.3)."""

    def text(self, keyword: str) -> str:
        """Return the value of an attribute as text, empty where there is none."""
        value = value_of(self.dataset, keyword)
        return "" if value is None else str(value).strip()

    def whole(self, keyword: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        value = number_of(self.dataset, keyword)
        return default if value is None else int(value)


def find(file: BinaryIO) -> Found:
    """Read ``file`` up to its pixels. Raises `NoPreview`, and whatever pydicom does about what is no DICOM."""
    if read_preamble(file, force=True) is None:
        raise NoPreview(Reason.DAMAGED)
    syntax = str(_read_file_meta_info(file).get("TransferSyntaxUID", ""))
    if not syntax:
        raise NoPreview(Reason.DAMAGED)
    if syntax == "1.2.840.10008.1.2.1.99":
        file = _inflate(file)
    implicit, little = _encoding(syntax)
    dataset = read_dataset(file, implicit, little, stop_when=lambda tag, *_: tag >= min(_PIXELS), specific_tags=_TAGS)
    implicit = bool(dataset.original_encoding[0])
    return _locate(file, dataset, syntax, implicit=implicit, little=little)


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return the value of an attribute, None where it has none that can be read."""
    try:
        value = dataset.get(keyword)
    except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError):
        return None
    return None if value is None or value == "" else value


def number_of(dataset: Dataset, keyword: str, index: int = 0) -> float | None:
    """Return the number at ``index`` of an attribute; None where there is none, or none that is finite."""
    value = value_of(dataset, keyword)
    try:
        if not isinstance(value, int | float | str):
            value = value[index]
        elif index:
            return None
        number = float(value)
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def item_of(dataset: Dataset, keyword: str, index: int = 0) -> Dataset | None:
    """Return an item of a sequence."""
    value = value_of(dataset, keyword)
    try:
        item = value[index]
    except (TypeError, IndexError, KeyError):
        return None
    return item if isinstance(item, Dataset) else None


def _encoding(syntax: str) -> tuple[bool, bool]:
    if syntax in {"1.2.840.10008.1.2", _GE_PRIVATE}:
        return True, True
    return False, syntax != "1.2.840.10008.1.2.2"


def _inflate(file: BinaryIO) -> BinaryIO:
    """Inflate the rest of ``file`` (PS3.5 A.5) within a bound."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts, size = list[bytes](), 0
    while not inflater.eof and (data := inflater.unconsumed_tail or file.read(_PIECE)):
        parts.append(inflater.decompress(data, _PIECE))
        size += len(parts[-1])
        if size > _MOST_INFLATED:
            raise NoPreview(Reason.TOO_LARGE)
    return io.BytesIO(b"".join(parts))


def _locate(file: BinaryIO, dataset: Dataset, syntax: str, *, implicit: bool, little: bool) -> Found:
    order: Literal["little", "big"] = "little" if little else "big"
    head = file.read(8)
    tag = (int.from_bytes(head[:2], order) << 16) | int.from_bytes(head[2:4], order)
    if len(head) < 8 or tag not in _PIXELS:  # noqa: PLR2004 - tag and length, or tag, VR and length
        return Found(dataset=dataset, syntax=syntax, file=file)
    vr = b"" if implicit else head[4:6]
    length = int.from_bytes(file.read(4) if vr in _LONG_VRS else head[4:], order)
    return Found(
        dataset=dataset,
        syntax=syntax,
        file=file,
        start=file.tell(),
        length=None if length == _UNDEFINED else length,
        kind=_PIXELS[tag],
        little=little and syntax != _GE_PRIVATE,
        swapped=vr == b"OW" and not little,
    )
