"""From stored samples to what a person sees, in 8 bits (PS3.3 C.11, PS3.4 N.2).

Grey: modality transformation, then the first window, else the VOI LUT, else what most pixels are. Colour: palettes,
and deep colours made shallow. Only the worker imports this.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import _expand_segmented_lut

from edge.preview.answer import Reason
from edge.preview.found import Found, NoPreview, item_of, number_of, value_of
from edge.preview.frame import Samples, Shape

Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]

_WHITE: Final = 255
_BYTE: Final = 8
_FAINT, _BRIGHT = 0.5, 99.5
"""Percentiles that become black and white where nothing says what should."""
_SAMPLED: Final = 1 << 18
"""Pixels looked at for percentiles."""
_MOST_ENTRIES: Final = 1 << 16
_PALETTES: Final = ("Red", "Green", "Blue")


def grey(samples: Samples, found: Found, shape: Shape) -> Bytes:
    """Return the brightness of each pixel."""
    padding = _padding(samples, found, shape)
    values = _modality(samples, found, shape)
    seen = values[~padding & np.isfinite(values)]
    if not seen.size:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(all="ignore"):
        shown = _voi(values, found, shape)
        if shown is None or _says_nothing(shown[~padding], seen):
            shown = _spread(values, seen)
    if shape.photometric == "MONOCHROME1":
        shown = _WHITE - shown
    shown = np.where(padding, 0, np.nan_to_num(shown, nan=0.0))
    result: Bytes = np.clip(np.rint(shown), 0, _WHITE).astype(np.uint8)
    return result


def palette(samples: Samples, found: Found, shape: Shape) -> Bytes:
    """Return the colours that the tables give to each sample (PS3.3 C.7.6.3.1.5)."""
    channels = []
    for colour in _PALETTES:
        name = f"{colour}PaletteColorLookupTable"
        first, entries = _table(found.dataset, f"{name}Descriptor", f"{name}Data", found, shape)
        index = np.clip(samples.astype(np.int64) - first, 0, len(entries) - 1)
        deep = entries.max(initial=0) > _WHITE
        channels.append((entries >> _BYTE if deep else entries).astype(np.uint8)[index])
    return np.stack(channels, axis=-1)


def shallow(samples: Samples, shape: Shape) -> Bytes:
    """Return colours of any depth in 8 bits."""
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8)
    if samples.dtype.kind != "u":
        raise NoPreview(Reason.UNUSUAL)
    return np.right_shift(samples, max(0, shape.stored - _BYTE)).astype(np.uint8)


def group(found: Found, shape: Shape, sequence: str) -> Dataset:
    """Return the item of a functional group for the frame that is shown; the dataset itself where there is none."""
    shared = item_of(found.dataset, "SharedFunctionalGroupsSequence")
    macro = None if shared is None else item_of(shared, sequence)
    if macro is None:
        own = item_of(found.dataset, "PerFrameFunctionalGroupsSequence", shape.middle)
        macro = None if own is None else item_of(own, sequence)
    return found.dataset if macro is None else macro


def _padding(samples: Samples, found: Found, shape: Shape) -> NDArray[np.bool_]:
    """Where there is no image, but something must lie (PS3.3 C.7.5.1.1.2)."""
    keyword = "PixelPaddingValue" if shape.kind == "u" else "FloatPixelPaddingValue"
    first = number_of(found.dataset, keyword)
    if first is None or shape.allocated == 1:
        return np.zeros(samples.shape, np.bool_)
    last = number_of(found.dataset, "PixelPaddingRangeLimit") if shape.kind == "u" else None
    ends = sorted(
        _signed(int(end), shape) if shape.kind == "u" else end for end in (first, first if last is None else last)
    )
    mask: NDArray[np.bool_] = (samples >= ends[0]) & (samples <= ends[1])
    return mask


def _signed(value: int, shape: Shape) -> int:
    """Read what was written as an unsigned number as it was meant."""
    return value - (1 << shape.allocated) if shape.signed and value >= 1 << (shape.allocated - 1) else value


def _modality(samples: Samples, found: Found, shape: Shape) -> _Floats:
    table = item_of(found.dataset, "ModalityLUTSequence")
    if table is not None and shape.kind == "u":
        first, entries = _table(table, "LUTDescriptor", "LUTData", found, shape)
        index = np.clip(samples.astype(np.int64) - first, 0, len(entries) - 1)
        looked_up: _Floats = entries.astype(np.float32)[index]
        return looked_up
    where = group(found, shape, "PixelValueTransformationSequence")
    slope, intercept = number_of(where, "RescaleSlope"), number_of(where, "RescaleIntercept")
    values: _Floats = samples.astype(np.float32)
    if slope or intercept:
        with np.errstate(all="ignore"):
            values *= np.float32(slope or 1.0)
            values += np.float32(intercept or 0.0)
    return values


def _voi(values: _Floats, found: Found, shape: Shape) -> _Floats | None:
    """Return brightnesses from 0 to 255 as the object wants them; None where it does not say."""
    where = group(found, shape, "FrameVOILUTSequence")
    centre, width = number_of(where, "WindowCenter"), number_of(where, "WindowWidth")
    if centre is not None and width is not None and width > 0:
        return _window(values, centre, width, str(value_of(where, "VOILUTFunction") or "LINEAR"))
    table = item_of(found.dataset, "VOILUTSequence")
    if table is None:
        return None
    first, entries = _table(table, "LUTDescriptor", "LUTData", found, shape)
    index = np.clip(np.nan_to_num(values) - first, 0, len(entries) - 1).astype(np.int64)
    low, high = int(entries.min()), int(entries.max())
    shown: _Floats = (entries.astype(np.float32)[index] - low) * np.float32(_WHITE / max(1, high - low))
    return shown


def _window(values: _Floats, centre: float, width: float, function: str) -> _Floats:
    """Apply a window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        sigmoid: _Floats = _WHITE / (1 + np.exp(np.float32(-4 / width) * (values - np.float32(centre))))
        return sigmoid
    if function != "LINEAR_EXACT":
        centre, width = centre - 0.5, width - 1
    shown: _Floats
    if width <= 0:
        shown = np.where(values <= centre, np.float32(0), np.float32(_WHITE))
    else:
        shown = np.clip(((values - np.float32(centre)) / np.float32(width) + np.float32(0.5)) * _WHITE, 0, _WHITE)
    return shown


def _says_nothing(shown: _Floats, seen: _Floats) -> bool:
    """Whether all is one brightness that is not."""
    return bool(np.ptp(np.nan_to_num(shown)) < 1 and np.ptp(seen) > 0)


def _spread(values: _Floats, seen: _Floats) -> _Floats:
    low, high = np.percentile(seen[:: -(-seen.size // _SAMPLED)], (_FAINT, _BRIGHT))
    if low >= high:
        low, high = seen.min(), seen.max()
    if low >= high:
        return np.zeros_like(values)
    shown: _Floats = np.clip((values - low) / np.float32(high - low) * _WHITE, 0, _WHITE)
    return shown


def _table(dataset: Dataset, descriptor: str, data: str, found: Found, shape: Shape) -> tuple[int, NDArray[np.uint16]]:
    """Return the first sample that a lookup table maps, and its entries. Raises `NoPreview` where it is none."""
    count, first, bits = (number_of(dataset, descriptor, index) for index in range(3))
    if count is None or first is None or bits is None:
        raise NoPreview(Reason.DAMAGED)
    length = int(count) % _MOST_ENTRIES or _MOST_ENTRIES
    order = "<" if found.dataset.original_encoding[1] else ">"
    value = value_of(dataset, data)
    segments = value_of(dataset, f"Segmented{data}") if value is None else None
    if segments is not None:
        wide = "B" if bits <= _BYTE else "H"
        words = np.frombuffer(bytes(segments), f"{order}u{1 if wide == 'B' else 2}")
        value = _expand_segmented_lut(tuple(words.tolist()), f"{order}{len(words)}{wide}")[:length]
    if isinstance(value, bytes):
        value = np.frombuffer(value, f"{order}u2" if len(value) >= 2 * length else "u1")
    entries = np.atleast_1d(np.asarray(value if value is not None else [])).astype(np.int64)[:length]
    if not entries.size:
        raise NoPreview(Reason.DAMAGED)
    return _signed(int(first), _as_words(shape)), (entries % _MOST_ENTRIES).astype(np.uint16)


def _as_words(shape: Shape) -> Shape:
    """A descriptor is always of 16 bits."""
    return Shape(**{name: getattr(shape, name) for name in shape.__struct_fields__} | {"allocated": 16})
