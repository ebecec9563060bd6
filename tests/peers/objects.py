"""Synthetic DICOM objects, made in bulk; and, from `part10` and `bundled`, those in files.

Nobody was ever imaged for these. UIDs are fresh at every call, under 2.25, all of one length: a dataset is
encoded once with pydicom and then copied with its UIDs and instance number replaced as bytes.
"""

import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from tests.peers import wire
from tests.peers.bundled import NOT_STORAGE, UIDS_DIFFER, bundled
from tests.peers.part10 import (
    FileObject,
    NotPart10Error,
    Part10,
    file_meta,
    part10,
    part10_bytes,
    part10_split,
    sha256,
)

__all__ = [
    "CT",
    "MR",
    "MULTIFRAME",
    "NOT_STORAGE",
    "RAW_DATA",
    "UIDS_DIFFER",
    "DicomObject",
    "FileObject",
    "NotPart10Error",
    "Part10",
    "bundled",
    "ct",
    "file_meta",
    "iterate_ct",
    "mr",
    "multiframe",
    "part10",
    "part10_bytes",
    "part10_split",
    "tiny",
    "uid",
    "write_multiframe",
]

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
MR: Final = "1.2.840.10008.5.1.4.1.1.4"
MULTIFRAME: Final = "1.2.840.10008.5.1.4.1.1.7.3"
"""Multi-frame Grayscale Word Secondary Capture Image Storage."""
RAW_DATA: Final = "1.2.840.10008.5.1.4.1.1.66"

_MIB: Final = 1 << 20
_SMALLEST: Final = 10**38
_LAST_NUMBER: Final = 999_999


@dataclass(frozen=True)
class DicomObject:
    """An object in memory."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str
    dataset: bytes = field(repr=False)

    @property
    def length(self) -> int:
        return len(self.dataset)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the dataset, 32 bytes."""
        return sha256(self.fragments(_MIB), pad=False)

    @cached_property
    def wire_digest(self) -> bytes:
        """The same of what a standard sender puts on the wire: padded to an even length (PS3.8 Annex E)."""
        return sha256(self.fragments(_MIB), pad=True)

    def fragments(self, size: int) -> Iterator[bytes]:
        """The dataset in pieces of `size` bytes, the last one shorter."""
        for start in range(0, len(self.dataset), size):
            yield self.dataset[start : start + size]

    def write(self, path: Path) -> Path:
        """A Part 10 file: preamble, File Meta, the dataset verbatim."""
        with path.open("wb") as out:
            out.write(file_meta(self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid))
            out.write(self.dataset)
        return path


def uid() -> str:
    """A fresh UID of 44 characters (PS3.5 B.2)."""
    return f"2.25.{_SMALLEST + secrets.randbelow(2**128 - _SMALLEST)}"


def ct(n: int, study: str | None = None) -> list[DicomObject]:
    """`n` CT images of one series, 512 x 512 x 16 bit: 525 KB each, which all stay in memory."""
    return list(iterate_ct(n, study))


def iterate_ct(n: int, study: str | None = None) -> Iterator[DicomObject]:
    """The same, made as they are asked for."""
    return _series(_template("CT", CT, 512, 512), n, study)


def mr(n: int, study: str | None = None) -> list[DicomObject]:
    """`n` MR images of one series, 76 x 76 x 16 bit: 12 KB each."""
    return list(_series(_template("MR", MR, 76, 76), n, study))


def tiny(n: int, study: str | None = None) -> list[DicomObject]:
    """`n` Raw Data objects of one series without pixels: half a KB each."""
    return list(_series(_template("OT", RAW_DATA, 0, 0), n, study))


def multiframe(megabytes: int, study: str | None = None) -> DicomObject:
    """One multi-frame object in memory, of `megabytes` MiB of pixels and a KB around them; below 4096."""
    study_uid, instance, pieces = _multiframe(megabytes, study)
    return DicomObject(MULTIFRAME, instance, wire.EXPLICIT_LITTLE, study_uid, b"".join(pieces))


def write_multiframe(path: Path, megabytes: int, study: str | None = None) -> FileObject:
    """The same as a Part 10 file; never more than a frame of it is in memory."""
    study_uid, instance, pieces = _multiframe(megabytes, study)
    with path.open("wb") as out:
        offset = out.write(file_meta(MULTIFRAME, instance, wire.EXPLICIT_LITTLE))
        length = sum(out.write(piece) for piece in pieces)
    return FileObject(path, offset, length, MULTIFRAME, instance, wire.EXPLICIT_LITTLE, study_uid)


# Making them


class _Template:
    """An encoded dataset with holes for the UIDs and the instance number."""

    def __init__(self, sop_class: str, encoded: bytes, holes: dict[str, bytes]) -> None:
        self.sop_class = sop_class
        found = sorted((encoded.index(value), name, len(value)) for name, value in holes.items())
        self.pieces: list[tuple[str, bytes]] = []
        end = 0
        for start, name, length in found:
            self.pieces.append((name, encoded[end:start]))
            end = start + length
        self.rest = encoded[end:]

    def fill(self, values: dict[str, bytes]) -> Iterator[bytes]:
        for name, before in self.pieces:
            yield before
            yield values[name]
        yield self.rest


@cache
def _template(modality: str, sop_class: str, rows: int, columns: int) -> _Template:
    return _make(modality, sop_class, rows, columns, frames=0, pixels=_pixels(rows, columns))


def _make(modality: str, sop_class: str, rows: int, columns: int, *, frames: int, pixels: bytes) -> _Template:
    holes = {name: uid() for name in ("instance", "study", "series")}
    dataset = Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = holes["instance"]
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240102"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "030405"
    dataset.AccessionNumber = "SYN0001"
    dataset.Modality = modality
    dataset.Manufacturer = "Synthetic"
    dataset.ReferringPhysicianName = "Nobody^Referring"
    dataset.StationName = "PEER"
    dataset.StudyDescription = "Synthetic study"
    dataset.SeriesDescription = "Synthetic series"
    dataset.PatientName = "Synthetic^Patient"
    dataset.PatientID = "SYNTHETIC-1"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "O"
    dataset.BodyPartExamined = "PHANTOM"
    dataset.StudyInstanceUID = holes["study"]
    dataset.SeriesInstanceUID = holes["series"]
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = str(_LAST_NUMBER)
    if rows:
        _describe_pixels(dataset, rows, columns, frames)
    out = BytesIO()
    dataset.save_as(out, implicit_vr=False, little_endian=True)
    encoded = {name: value.encode() for name, value in holes.items()}
    return _Template(sop_class, out.getvalue() + pixels, {**encoded, "number": str(_LAST_NUMBER).encode()})


def _describe_pixels(dataset: Dataset, rows: int, columns: int, frames: int) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if frames:
        dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelSpacing = [0.5, 0.5]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1


def _pixel_header(length: int) -> bytes:
    return struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, length)


def _frame(rows: int, columns: int) -> bytes:
    """12-bit pixels, little endian: noise, so that no filter or compression makes them small."""
    noise = bytearray(secrets.token_bytes(rows * columns * 2))
    noise[1::2] = noise[1::2].translate(bytes(value & 0x0F for value in range(256)))
    return bytes(noise)


def _pixels(rows: int, columns: int) -> bytes:
    return _pixel_header(rows * columns * 2) + _frame(rows, columns) if rows else b""


def _series(template: _Template, n: int, study: str | None) -> Iterator[DicomObject]:
    study_uid, series = study or uid(), uid().encode()
    for number in range(1, n + 1):
        instance = uid()
        dataset = b"".join(template.fill(_values(instance, study_uid, series, number)))
        yield DicomObject(template.sop_class, instance, wire.EXPLICIT_LITTLE, study_uid, dataset)


def _values(instance: str, study: str, series: bytes, number: int) -> dict[str, bytes]:
    if len(study) != len(instance):
        raise ValueError(f"study UID {study} has {len(study)} characters where uid() makes {len(instance)}")
    return {
        "instance": instance.encode(),
        "study": study.encode(),
        "series": series,
        "number": b"%06d" % number,
    }


def _multiframe(megabytes: int, study: str | None) -> tuple[str, str, Iterable[bytes]]:
    if not 0 < megabytes < 4096:
        raise ValueError(f"{megabytes} MiB do not fit a native pixel data element")
    frames = 2 * megabytes
    template = _make("OT", MULTIFRAME, 512, 512, frames=frames, pixels=b"")
    study_uid, instance = study or uid(), uid()
    frame = _frame(512, 512)
    tail = frame[4:]

    def pieces() -> Iterator[bytes]:
        yield from template.fill(_values(instance, study_uid, uid().encode(), 1))
        yield _pixel_header(frames * len(frame))
        for number in range(frames):
            yield struct.pack("<I", number)
            yield tail

    return study_uid, instance, pieces()
