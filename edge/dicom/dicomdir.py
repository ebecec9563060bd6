"""Which files the directory of a medium names (PS3.3 F, PS3.10 8.6)."""

import os
import stat
import warnings
from pathlib import Path, PurePath
from typing import BinaryIO, Final

MOST: Final = 64 << 20
"""Bytes of a DICOMDIR that is read."""
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DirectoryError(Exception):
    """The directory cannot be read."""


def referenced(path: Path) -> list[PurePath]:
    """Return the Referenced File IDs (0004,1500), relative to the folder of the DICOMDIR. Raises `DirectoryError`.

    A link is not followed.
    """
    try:
        with os.fdopen(os.open(path, _OPEN), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DirectoryError("it is no regular file")
            if found.st_size > MOST:
                raise DirectoryError(f"it is longer than {MOST >> 20} MiB")
            named = _named(file)
    except OSError as e:
        raise DirectoryError(f"it cannot be read: {e.strerror or e}") from e
    return [name for name in named if not name.is_absolute() and ".." not in name.parts]


def _named(file: BinaryIO) -> list[PurePath]:
    # slow to import, and seldom needed
    from pydicom import dcmread  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            records = dcmread(file, specific_tags=["DirectoryRecordSequence"]).get("DirectoryRecordSequence") or ()
            named = [record.get("ReferencedFileID") for record in records]
            return [PurePath(name) if isinstance(name, str) else PurePath(*map(str, name)) for name in named if name]
    except OSError:
        raise
    except Exception as e:  # on bytes that are damaged, anything may come out of the parser
        raise DirectoryError(f"it cannot be read: {str(e).partition('. ')[0] or type(e).__name__}") from e
