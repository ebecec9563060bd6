"""The samples of one frame, without the other frames in memory: the middle one, thinned while it is read.

Native frames are read row by row, so that neither what the header declares nor what is there can fill the memory.
Only the worker imports this.
"""

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder

from edge.preview.answer import Reason
from edge.preview.found import Found, NoPreview

Samples = NDArray[Any]
"""(rows, columns) or (rows, columns, 3)."""

_MOST_DECODED: Final = 48 << 20
"""Bytes that a compressed frame may become."""
_FINE: Final = 4
"""Times as many pixels a side are read as are shown, at the most: what is left is averaged."""
_WIDTHS: Final = frozenset((1, 8, 16, 32, 64))
_COLOURS: Final = 3
_BYTE: Final = 8
_RLE: Final = "1.2.840.10008.1.2.5"
_VIDEO: Final = "1.2.840.10008.1.2.4.10"
_VIDEO_LENGTH: Final = len(_VIDEO) + 1
"""MPEG-2, MPEG-4 and HEVC: 1.2.840.10008.1.2.4.100 to .108 and their fragmentable kin, .100.1 to .106.1."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What the attributes of the Image Pixel module (PS3.3 C.7.6.3) declare."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    """The highest bit of a stored value."""
    signed: bool
    planar: bool
    """Whether each colour is a plane of its own."""
    photometric: str
    frames: int
    kind: str
    """As of `Found`."""

    @property
    def middle(self) -> int:
        """The frame that is shown."""
        return self.frames // 2

    def step(self, side: int) -> int:
        """Of how many rows and columns one is read, to show ``side`` pixels."""
        return -(-max(self.rows, self.columns) // (side * _FINE))


def shape_of(found: Found) -> Shape:
    """Read what is declared. Raises `NoPreview` where it makes no sense."""
    floats = {"f4": 32, "f8": 64}.get(found.kind)
    allocated = floats or found.whole("BitsAllocated", 0)
    stored = found.whole("BitsStored", allocated)
    if not 0 < stored <= allocated:
        stored = allocated
    high = found.whole("HighBit", stored - 1)
    shape = Shape(
        rows=found.whole("Rows", 0),
        columns=found.whole("Columns", 0),
        samples=found.whole("SamplesPerPixel", 1),
        allocated=allocated,
        stored=stored,
        high=high if stored - 1 <= high < allocated else stored - 1,
        signed=found.whole("PixelRepresentation", 0) == 1,
        planar=found.whole("PlanarConfiguration", 0) == 1,
        photometric=found.text("PhotometricInterpretation") or "MONOCHROME2",
        frames=max(1, found.whole("NumberOfFrames", 1)),
        kind=found.kind,
    )
    if shape.rows < 1 or shape.columns < 1:
        raise NoPreview(Reason.DAMAGED)
    if shape.allocated not in _WIDTHS or shape.samples not in {1, _COLOURS}:
        raise NoPreview(Reason.UNUSUAL)
    return shape


def read(found: Found, shape: Shape, side: int) -> tuple[Samples, str]:
    """Return the samples of the middle frame, and what their colours are then. Raises `NoPreview` and what decoders do.

    Integers come as they are stored: shifted, and with their sign.
    """
    if found.length is None:
        return _decoded(found, shape, side)
    photometric = shape.photometric
    if photometric == "YBR_FULL_422" and _is_full(found.length, shape):
        photometric = "YBR_FULL"
    samples = _Native(found, shape, halved=photometric == "YBR_FULL_422").read(shape.step(side))
    return (samples if found.kind != "u" else _stored(samples, shape)), photometric


def _decoded(found: Found, shape: Shape, side: int) -> tuple[Samples, str]:
    """Have one frame decompressed by what pydicom has for it."""
    if found.syntax.startswith(_VIDEO) and len(found.syntax.removesuffix(".1")) == _VIDEO_LENGTH:
        raise NoPreview(Reason.VIDEO)
    if shape.rows * shape.columns * shape.samples * -(-shape.allocated // _BYTE) > _MOST_DECODED:
        raise NoPreview(Reason.TOO_LARGE)
    try:
        decoder = get_decoder(found.syntax)
    except NotImplementedError:
        raise NoPreview(Reason.COMPRESSION) from None
    if not decoder.is_available or decoder.is_native:
        raise NoPreview(Reason.COMPRESSION if decoder.is_encapsulated else Reason.DAMAGED)
    found.file.seek(found.start)
    try:
        array, properties = decoder.as_array(found.file, index=shape.middle, raw=True, **_options(found, shape))
    except RuntimeError as e:
        # every decoder refused this stream; the one for RLE knows all of RLE
        raise NoPreview(Reason.DAMAGED if found.syntax == _RLE else Reason.COMPRESSION) from e
    step = shape.step(side)
    return array[::step, ::step].copy(), str(properties["photometric_interpretation"])


def _options(found: Found, shape: Shape) -> dict[str, Any]:
    options: dict[str, Any] = {
        "rows": shape.rows,
        "columns": shape.columns,
        "samples_per_pixel": shape.samples,
        "bits_allocated": shape.allocated,
        "bits_stored": shape.stored,
        "photometric_interpretation": shape.photometric,
        "pixel_representation": int(shape.signed),
        "number_of_frames": shape.frames,
        "pixel_keyword": "PixelData",
    }
    if shape.samples > 1:
        options["planar_configuration"] = int(shape.planar)
    offsets, lengths = (found.dataset.get(f"ExtendedOffsetTable{name}") for name in ("", "Lengths"))
    if offsets and lengths:
        options["extended_offsets"] = (offsets, lengths)
    return options


def _is_full(length: int, shape: Shape) -> bool:
    """Whether pixels said to share colours in twos have each their own."""
    return length >= shape.frames * shape.rows * shape.columns * _COLOURS * (shape.allocated // _BYTE)


class _Native:
    """Reads rows of pixels that are not compressed (PS3.5 8.1, 8.2)."""

    def __init__(self, found: Found, shape: Shape, *, halved: bool) -> None:
        self._found = found
        self._shape = shape
        self._halved = halved
        bits = shape.allocated * (1 if shape.planar and shape.samples > 1 else shape.samples)
        if halved:
            if shape.columns % 2 or shape.allocated != _BYTE or shape.samples != _COLOURS:
                raise NoPreview(Reason.UNUSUAL)
            bits = 2 * _BYTE  # two pixels: Y, Y, Cb, Cr
        self._row_bits = bits * shape.columns
        self._plane_bits = self._row_bits * shape.rows
        self._planes = shape.samples if shape.planar and not halved else 1
        self._begin = shape.middle * self._plane_bits * self._planes
        if -(-(self._begin + self._plane_bits * self._planes) // _BYTE) > (found.length or 0):
            raise NoPreview(Reason.DAMAGED)

    def read(self, step: int) -> Samples:
        """Return every ``step``-th pixel of every ``step``-th row."""
        planes = [self._plane(self._begin + plane * self._plane_bits, step) for plane in range(self._planes)]
        return planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)

    def _plane(self, begin: int, step: int) -> Samples:
        return np.stack([self._row(begin + row * self._row_bits, step) for row in range(0, self._shape.rows, step)])

    def _row(self, begin: int, step: int) -> Samples:
        """Return the pixels of the row that starts at bit ``begin``."""
        shape = self._shape
        first, last = begin // _BYTE, -(-(begin + self._row_bits) // _BYTE)
        data = self._bytes(first, last)
        if shape.allocated == 1:
            bits = np.unpackbits(np.frombuffer(data, "u1"), bitorder="little")
            return bits[begin % _BYTE :][: shape.columns * shape.samples : step].copy()
        kind = f"u{shape.allocated // _BYTE}" if shape.kind == "u" else shape.kind
        values = np.frombuffer(data, f"{'<' if self._found.little else '>'}{kind}")
        if self._halved:
            return _unhalved(values, step)
        if shape.samples > 1 and not shape.planar:
            values = values.reshape(shape.columns, shape.samples)
        return values[::step].astype(kind)

    def _bytes(self, first: int, last: int) -> bytes:
        """Return bytes of the pixels, in the order that they are meant in."""
        swapped = self._found.swapped and self._shape.allocated <= _BYTE
        begin, end = (first & ~1, last + last % 2) if swapped else (first, last)
        self._found.file.seek(self._found.start + begin)
        data = self._found.file.read(end - begin)
        if len(data) < end - begin:
            raise NoPreview(Reason.DAMAGED)
        if swapped:
            data = np.frombuffer(data, "u2").byteswap().tobytes()
        return data[first - begin : last - begin]


def _unhalved(values: Samples, step: int) -> Samples:
    """Give each pixel the colour that it shares with its neighbour (PS3.3 C.7.6.3.1.2)."""
    pairs = values.reshape(-1, 4)
    pixels = np.empty((len(pairs), 2, _COLOURS), "u1")
    pixels[:, :, 0] = pairs[:, :2]
    pixels[:, :, 1:] = pairs[:, None, 2:]
    return pixels.reshape(-1, _COLOURS)[::step].copy()


def _stored(samples: Samples, shape: Shape) -> Samples:
    """Take the stored bits out of the allocated ones (PS3.5 8.1.1)."""
    if shape.allocated == 1:
        return samples
    above = shape.allocated - 1 - shape.high
    shifted = np.left_shift(samples, above)  # what lies above the stored bits falls out
    if shape.signed:
        shifted = shifted.view(f"i{shape.allocated // _BYTE}")
    return np.right_shift(shifted, shape.allocated - shape.stored)
