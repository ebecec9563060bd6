"""The folder transport: each object a Part 10 file below a folder, named by its digest.

Copied, synced, renamed, and the folder synced, before it says yes; the same object twice is one file. The folder must
be there: a missing one is a card or share that is not mounted, and is never made. One that does not answer holds up
nobody else, nor the end of the process: each piece of work has a thread of its own, and while one has not come back
the folder is taken for down.
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from edge.config import FolderDestination
from edge.evidence import Evidence
from edge.forward.outcome import Accepted, Outcome, Refused, Unreachable, from_file
from edge.fsync import sync_path
from edge.model import Need
from edge.phrase import N_, say
from edge.store import Parcel
from edge.threads import aside

T = TypeVar("T")

_CHUNK: Final = 1 << 20
_SYNC_EVERY: Final = 16 << 20
"""Bytes after which what was written is synced, so that the last sync does not take long."""
_SILENCE: Final = 60.0
"""Seconds without any progress after which the folder does not answer."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class DamagedError(Exception):
    """The stored file is not what its row says."""


class OurFileError(Exception):
    """The stored file cannot be read, which is no failure of the folder. ``why`` is what the system said."""

    def __init__(self, why: OSError) -> None:
        super().__init__(str(why))
        self.why = why


class FolderTransport:
    """Reaches one folder; its own session, as nothing is kept open."""

    usable = True

    def __init__(self, destination: FolderDestination) -> None:
        self._path = destination.path
        self._work: asyncio.Future[Any] | None = None
        """What was begun last. Another beside it could write the same file."""
        self._moved = 0

    async def open(self, needs: Sequence[Need]) -> "FolderTransport | Unreachable":  # noqa: ARG002 - the seam's
        """See whether the folder is there."""
        there = await self._aside(partial(is_there, self._path))
        if isinstance(there, Unreachable):
            return there
        return (
            self
            if there
            else Unreachable("FOLDER_MISSING", say("{path} is not there: is it mounted?", path=self._path))
        )

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Copy each parcel in turn."""
        for parcel in parcels:
            outcome = await self._aside(partial(self._deliver, parcel))
            yield parcel, outcome
            if isinstance(outcome, Unreachable):
                return

    async def close(self) -> None:
        """Nothing is open."""

    async def _aside(self, work: Callable[[], T]) -> T | Unreachable:
        """Do ``work`` in a thread; say that the folder does not answer once that makes no progress."""
        silent = Unreachable(
            "FOLDER_SILENT", say("{path} does not answer: is the share or disk there?", path=self._path)
        )
        if self._work is not None and not self._work.done():
            return silent
        self._work = doing = asyncio.ensure_future(aside(work))
        moved = -1
        while not doing.done() and moved != self._moved:
            moved = self._moved
            await asyncio.wait((doing,), timeout=_SILENCE)
        return doing.result() if doing.done() else silent

    def _deliver(self, parcel: Parcel) -> Outcome:
        name = parcel.digest.hex()
        folder = self._path / name[:2]
        temporary, final = folder / f"{name}.{parcel.instance}.part", folder / f"{name}.dcm"
        try:
            source = parcel.path.open("rb")
        except OSError as e:
            return from_file(e)
        try:
            with source:
                folder.mkdir(exist_ok=True)
                with temporary.open("wb") as target:
                    target.write(_read(source, parcel.offset))
                    digest = hashlib.sha256()
                    while chunk := _read(source, _CHUNK):
                        digest.update(chunk)
                        target.write(chunk)
                        self._moved += 1
                        if target.tell() % _SYNC_EVERY < _CHUNK:
                            target.flush()
                            os.fdatasync(target.fileno())
                    if digest.digest() != parcel.digest:
                        raise DamagedError
                    target.flush()
                    os.fsync(target.fileno())
            temporary.replace(final)
            for path in (folder, self._path):
                sync_path(path)
        except DamagedError:
            temporary.unlink(missing_ok=True)
            return Refused("FILE_DAMAGED", N_("the stored file is not what was received: its digest differs"))
        except OurFileError as e:
            temporary.unlink(missing_ok=True)
            return from_file(e.why)
        except OSError as e:
            if e.errno in FULL:
                return Unreachable(
                    "FOLDER_FULL", say("{path} is full: {error}.", path=self._path, error=e.strerror), midway=True
                )
            return Unreachable(
                "FOLDER_FAILED",
                say("{path} cannot be written: {error}.", path=self._path, error=e.strerror),
                midway=True,
            )
        return Accepted("COPIED", Evidence.COPIED)


def _read(source: BinaryIO, count: int) -> bytes:
    try:
        return source.read(count)
    except OSError as e:
        raise OurFileError(e) from e


def is_there(folder: Path) -> bool:
    """Whether ``folder`` is there for us; a share that went stale, or that we may not enter, is not."""
    try:
        return folder.is_dir()
    except OSError:
        return False
