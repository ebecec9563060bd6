"""Images of nobody: a synthetic CT series, so that the demonstration needs no patient."""

import hashlib
import uuid
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from edge.dicom.uids import EXPLICIT_LITTLE
from edge.model import Kind

CT: Final = Kind("1.2.840.10008.5.1.4.1.1.2", EXPLICIT_LITTLE)
_SIZE: Final = 128


class Image(msgspec.Struct, frozen=True):
    """One instance, ready to send."""

    sop_instance_uid: str
    dataset: bytes
    digest: bytes
    """SHA-256 of the dataset."""


def uid() -> str:
    """Return a new UID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def study(images: int, number: int) -> Iterator[Image]:
    """Make the ``images`` slices of study ``number``: a ball in noise."""
    study_uid, series_uid = uid(), uid()
    noise = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    for slice_number in range(1, images + 1):
        z = 2 * slice_number / (images + 1) - 1
        ball = (x * x + y * y + z * z < 0.8) * 1000.0  # noqa: PLR2004 - a radius that looks well
        pixels = (ball + noise.normal(0, 20, ball.shape)).clip(0, 4095).astype("<u2")
        dataset = Dataset()
        dataset.SOPClassUID = CT.sop_class_uid
        dataset.SOPInstanceUID = uid()
        dataset.StudyDate = "20260101"
        dataset.AccessionNumber = f"DEMO{number}"
        dataset.Modality = "CT"
        dataset.StudyDescription = "Demonstration phantom"
        dataset.PatientName = "Phantom^Demo"
        dataset.PatientID = f"DEMO-{number}"
        dataset.StudyInstanceUID = study_uid
        dataset.SeriesInstanceUID = series_uid
        dataset.SeriesNumber = 1
        dataset.InstanceNumber = slice_number
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows = dataset.Columns = _SIZE
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.add_new(0x7FE00010, "OW", pixels.tobytes())
        encoded = _encode(dataset)
        yield Image(dataset.SOPInstanceUID, encoded, hashlib.sha256(encoded).digest())


def _encode(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    value: bytes = buffer.getvalue()
    return value
