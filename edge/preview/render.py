"""One file to one small picture: pure, within bounds of memory, whatever the file holds.

What cannot be shown is a value with its reason. Only the worker imports this.
"""

import io
from typing import BinaryIO, Final

import numpy as np
from PIL import Image

from edge.preview import frame, shade
from edge.preview.answer import Answer, NoPicture, Picture, Reason
from edge.preview.found import Found, NoPreview, find, number_of

_QUALITY: Final = 85
_EFFORT: Final = 3
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_OBLONG: Final = 20.0
"""A pixel that is longer than so many times its width is taken for square: somebody mistyped."""
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_WORDS: Final = (
    ("88.", Reason.REPORT),
    ("104.", Reason.DOCUMENT),
    ("11.", Reason.PRESENTATION),
    ("9.", Reason.WAVEFORM),
    ("481.", Reason.RADIOTHERAPY),
)
Image.MAX_IMAGE_PIXELS = 64 << 20


def render(file: BinaryIO, side: int) -> Answer:
    """Return a picture of a Part 10 file whose longer side is at most ``side`` pixels, or why there is none."""
    try:
        image = picture(file, side)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=_QUALITY, method=_EFFORT)
    except NoPreview as e:
        return NoPicture(e.reason)
    except (MemoryError, Image.DecompressionBombError):
        return NoPicture(Reason.TOO_LARGE)
    except Exception:  # noqa: BLE001 - the libraries raise anything over what is no image
        return NoPicture(Reason.DAMAGED)
    return Picture(buffer.getvalue(), *image.size)


def picture(file: BinaryIO, side: int) -> Image.Image:
    """Return the picture before it is encoded: grey (L) or RGB. Raises `NoPreview` and what the libraries do."""
    found = find(file)
    if not found.kind:
        raise NoPreview(_word(found.text("SOPClassUID")))
    shape = frame.shape_of(found)
    samples, photometric = frame.read(found, shape, side)
    return _fit(_image(samples, photometric, found, shape), found, shape, side)


def _word(sop_class: str) -> Reason:
    return next((word for part, word in _WORDS if sop_class.startswith(_STORAGE + part)), Reason.OTHER)


def _image(samples: frame.Samples, photometric: str, found: Found, shape: frame.Shape) -> Image.Image:
    if shape.samples == 1:
        if photometric == "PALETTE COLOR":
            return Image.fromarray(shade.palette(samples, found, shape))
        if photometric not in _GREY:
            raise NoPreview(Reason.UNUSUAL)
        return Image.fromarray(shade.grey(samples, found, shape))
    if photometric not in {"RGB", "YBR_FULL", "YBR_FULL_422"}:
        raise NoPreview(Reason.UNUSUAL)
    colours = np.ascontiguousarray(shade.shallow(samples, shape))
    if photometric == "RGB":
        return Image.fromarray(colours)
    size = (colours.shape[1], colours.shape[0])
    return Image.frombytes("YCbCr", size, colours.tobytes()).convert("RGB")


def _fit(image: Image.Image, found: Found, shape: frame.Shape, side: int) -> Image.Image:
    """Make its pixels square, and its longer side at most ``side``."""
    tall, wide = shape.rows * _height(found, shape), float(shape.columns)
    # what is small stays as it is: who shows it can enlarge it
    scale = min(1.0, side / max(tall, wide))
    size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _height(found: Found, shape: frame.Shape) -> float:
    """Return the height of a pixel in widths (PS3.3 10.7, C.7.6.3.1.7)."""
    measures = shade.group(found, shape, "PixelMeasuresSequence")
    for where, keyword in (
        (measures, "PixelSpacing"),
        (found.dataset, "PixelAspectRatio"),
        (found.dataset, "ImagerPixelSpacing"),
        (found.dataset, "NominalScannedPixelSpacing"),
    ):
        tall, wide = number_of(where, keyword, 0), number_of(where, keyword, 1)
        if tall and wide and 1 / _OBLONG <= tall / wide <= _OBLONG:
            return tall / wide
    return 1.0
