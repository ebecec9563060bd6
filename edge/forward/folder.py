"""The folder transport: each object a Part 10 file below a folder, named by its digest.

Copied, synced, renamed, and the folder synced, before it says yes; the same object twice is one file. The folder must
be there: a missing one is a card or share that is not mounted, and is never made.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from edge.config import FolderDestination
from edge.evidence import Evidence
from edge.forward.outcome import Accepted, Outcome, Refused, Unreachable
from edge.fsync import sync_path
from edge.model import Need
from edge.spool import Syncer
from edge.store import Parcel

_CHUNK: Final = 1 << 20


class DamagedError(Exception):
    """The stored file is not what its row says."""


class FolderTransport:
    """Reaches one folder; its own session, as nothing is kept open."""

    usable = True

    def __init__(self, destination: FolderDestination, syncer: Syncer) -> None:
        self._path = destination.path
        self._syncer = syncer

    async def open(self, needs: Sequence[Need]) -> "FolderTransport | Unreachable":  # noqa: ARG002 - the seam's
        """See whether the folder is there."""
        if await self._syncer.run(partial(is_there, self._path)):
            return self
        return Unreachable("FOLDER_MISSING", f"{self._path} is not there: is it mounted?")

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Copy each parcel in turn."""
        for parcel in parcels:
            outcome = await self._syncer.run(partial(self._deliver, parcel))
            yield parcel, outcome
            if isinstance(outcome, Unreachable):
                return

    async def close(self) -> None:
        """Nothing is open."""

    def _deliver(self, parcel: Parcel) -> Outcome:
        name = parcel.digest.hex()
        folder = self._path / name[:2]
        temporary, final = folder / f"{name}.{parcel.instance}.part", folder / f"{name}.dcm"
        try:
            source = parcel.path.open("rb")
        except OSError as e:
            return Refused("FILE_MISSING", f"the stored file cannot be opened: {e.strerror}")
        try:
            with source:
                folder.mkdir(exist_ok=True)
                with temporary.open("wb") as target:
                    target.write(source.read(parcel.offset))
                    digest = hashlib.sha256()
                    while chunk := source.read(_CHUNK):
                        digest.update(chunk)
                        target.write(chunk)
                    if digest.digest() != parcel.digest:
                        raise DamagedError
                    target.flush()
                    os.fsync(target.fileno())
            temporary.replace(final)
            for path in (folder, self._path):
                sync_path(path)
        except DamagedError:
            temporary.unlink(missing_ok=True)
            return Refused("FILE_DAMAGED", "the stored file is not what was received: its digest differs")
        except OSError as e:
            return Unreachable("FOLDER_FAILED", f"{self._path} cannot be written: {e.strerror}.", midway=True)
        return Accepted("COPIED", Evidence.COPIED)


def is_there(folder: Path) -> bool:
    """Whether ``folder`` is there for us; a share that went stale, or that we may not enter, is not."""
    try:
        return folder.is_dir()
    except OSError:
        return False
