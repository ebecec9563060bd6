"""Part 10 files with the pixels that a test wants."""

import io
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
LITTLE: Final = str(ExplicitVRLittleEndian)
BIG: Final = str(ExplicitVRBigEndian)
RLE: Final = str(RLELossless)
IMPLICIT: Final = "1.2.840.10008.1.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"


def dataset(rows: int, columns: int, *, bits: int = 16, samples: int = 1, **more: Any) -> Dataset:
    """Attributes of an image without its pixels."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CT, "1.2.3"
    made.SamplesPerPixel = samples
    made.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    if samples > 1:
        made.PlanarConfiguration = 0
    made.Rows, made.Columns = rows, columns
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit, made.PixelRepresentation = bits - 1, 0
    for name, value in more.items():
        setattr(made, name, value)
    return made


def part10(of: Dataset, pixels: bytes | None = None, syntax: str = LITTLE, vr: str = "OW") -> bytes:
    """The file; ``pixels`` is the value of Pixel Data, as it lies there."""
    if pixels is not None:
        of.add_new("PixelData", vr, pixels + bytes(len(pixels) % 2))
        of["PixelData"].is_undefined_length = syntax not in {LITTLE, BIG, IMPLICIT, DEFLATED}
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(CT), UID("1.2.3")
    meta.TransferSyntaxUID = UID(syntax)
    of.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, of, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, enforce_file_format=True)
    return buffer.getvalue()


def of_array(array: np.ndarray[Any, Any], syntax: str = LITTLE, **more: Any) -> bytes:
    """A file with the samples of ``array``, (rows, columns) or (rows, columns, 3), of as many bits as they have."""
    colour = array.ndim == 3
    made = dataset(*array.shape[:2], bits=array.dtype.itemsize * 8, samples=3 if colour else 1, **more)
    if array.dtype.kind == "i":
        made.PixelRepresentation = 1
    order = ">" if syntax == BIG else "<"
    return part10(made, array.astype(array.dtype.newbyteorder(order)).tobytes(), syntax)


def rle(*segments: bytes) -> bytes:
    """A frame of RLE with these segments (PS3.5 annex G)."""
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    header = [len(segments), *offsets] + [0] * (15 - len(segments))
    return b"".join(number.to_bytes(4, "little") for number in header) + b"".join(segments)


def literal(data: bytes) -> bytes:
    """A segment of RLE that repeats nothing."""
    pieces = (data[at : at + 128] for at in range(0, len(data), 128))
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def compressed(of: Dataset, *frames: bytes, syntax: str = RLE) -> bytes:
    """A file whose frames are these."""
    return part10(of, encapsulate(list(frames)), syntax, "OB")
