"""Which files the directory of a medium names (PS3.3 F, PS3.10 8.6)."""

import warnings
from pathlib import Path, PurePath
from typing import Final

MOST: Final = 64 << 20
"""Bytes of a DICOMDIR that is read."""


class DirectoryError(Exception):
    """The directory cannot be read."""


def referenced(path: Path) -> list[PurePath]:
    """Return the Referenced File IDs (0004,1500), relative to the folder of the DICOMDIR. Raises `DirectoryError`."""
    # slow to import, and seldom needed
    from pydicom import dcmread  # noqa: PLC0415
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    try:
        if path.stat().st_size > MOST:
            raise DirectoryError(f"it is longer than {MOST >> 20} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            records = dcmread(path, specific_tags=["DirectoryRecordSequence"]).get("DirectoryRecordSequence") or ()
            named = [record.get("ReferencedFileID") for record in records]
    except (OSError, InvalidDicomError, ValueError, AttributeError, TypeError, KeyError, NotImplementedError) as e:
        raise DirectoryError(f"it cannot be read: {e}") from e
    found = [PurePath(name) if isinstance(name, str) else PurePath(*map(str, name)) for name in named if name]
    return [name for name in found if not name.is_absolute() and ".." not in name.parts]
