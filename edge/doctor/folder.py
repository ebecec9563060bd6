"""The steps with a folder: there, mounted, with room, and one small file written, synced and removed.

All of it in threads that nobody waits for at the end: a share that hangs would keep the program from ending.
"""

import os
from functools import partial
from pathlib import Path
from typing import Final

from edge.config import FolderDestination
from edge.doctor.step import Told, doubtful, failed, fine
from edge.doctor.words import TEXTS
from edge.forward.folder import FULL, is_there
from edge.fsync import sync_path
from edge.threads import aside

_SHORT: Final = 1 << 30
_EXPECTED: Final = frozenset({"mnt", "media", "srv"})
"""Folders of the root below which other disks are mounted."""
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class FolderVisit:
    """One folder."""

    def __init__(self, destination: FolderDestination) -> None:
        self.path = destination.path

    async def close(self) -> None:
        """Nothing is open."""


async def folder(visit: FolderVisit) -> Told:
    """See whether it is there."""
    if await aside(partial(is_there, visit.path)):
        return fine("folder", path=visit.path)
    return failed("FOLDER_MISSING", TEXTS["folder_missing"].format(path=visit.path))


async def mounted(visit: FolderVisit) -> Told:
    """See what it is mounted on; where a disk of its own is to be expected, say that there is none."""
    mount: Path = await aside(partial(mount_of, visit.path))
    if mount == Path("/") and set(visit.path.parts[1:2]) & _EXPECTED:
        return doubtful("FOLDER_NOT_MOUNTED", TEXTS["not_mounted"].format(path=visit.path))
    return fine("mounted", mount=mount)


async def room(visit: FolderVisit) -> Told:
    """See how much room there is."""
    try:
        free = await aside(partial(free_bytes, visit.path))
    except OSError as e:
        return failed("FOLDER_FAILED", TEXTS["folder_failed"].format(path=visit.path, why=e.strerror))
    if not free:
        return failed("FOLDER_FULL", TEXTS["folder_full"].format(path=visit.path, free=size(free)))
    if free < _SHORT:
        return doubtful("FOLDER_SHORT", TEXTS["room_short"].format(free=size(free)))
    return fine("room", free=size(free))


async def written(visit: FolderVisit) -> Told:
    """Write, sync and remove a small file."""
    try:
        await aside(partial(write_and_remove, visit.path))
    except OSError as e:
        code = "FOLDER_FULL" if e.errno in FULL else "FOLDER_FAILED"
        return failed(code, TEXTS["folder_failed"].format(path=visit.path, why=e.strerror or e))
    return fine("written")


def mount_of(path: Path) -> Path:
    """Return where the file system of ``path`` is mounted. Blocks."""
    at = Path(os.path.realpath(path))
    while not os.path.ismount(at) and at != at.parent:
        at = at.parent
    return at


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write. Blocks. Raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def write_and_remove(path: Path) -> None:
    """Write a file of a few bytes below ``path``, sync it and the folder, and remove it. Blocks. Raises OSError."""
    file = path / f".edge-doctor-{os.getpid()}"
    try:
        with file.open("xb") as target:
            target.write(b"edge doctor\n")
            target.flush()
            os.fsync(target.fileno())
        sync_path(path)
    finally:
        file.unlink(missing_ok=True)


def size(number: float) -> str:
    """Write a number of bytes for a person."""
    for unit in _UNITS[:-1]:
        if number < 1024:  # noqa: PLR2004 - binary units
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} {_UNITS[-1]}"
