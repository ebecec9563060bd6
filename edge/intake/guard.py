"""What happens when the disk fails an object: it is refused alone; when that goes on, intake stops.

A descriptor whose sync failed is never synced again: what it had written may be gone, and a second sync would not say.
While intake is closed for this reason a probe is written, synced and read back now and then, and opens it again.
"""

import asyncio
import errno
from collections import deque
from typing import Final

from edge.clock import Clock
from edge.findings import Journal
from edge.intake.admission import Admission
from edge.phrase import say
from edge.spool import FolderError, Spool, Syncer

_MOST: Final = 2
_WINDOW: Final = 86_400.0
"""So many failures within so many seconds stop intake."""
_AT_ONCE: Final = frozenset({errno.EROFS})
_NOT_THE_DISK: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds between two probes."""


class DiskGuard:
    """Counts failures, closes intake, and opens it again."""

    def __init__(self, spool: Spool, syncer: Syncer, admission: Admission, journal: Journal, clock: Clock) -> None:
        self._spool = spool
        self._syncer = syncer
        self._admission = admission
        self._journal = journal
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=_MOST)
        self._closed = asyncio.Event()

    def failed(self, error: OSError) -> None:
        """Hear that writing or syncing an object, or the folder of objects, failed."""
        why = error.strerror or str(error)
        self._journal.note("STORAGE_ERROR", "storage", why)
        if error.errno in _NOT_THE_DISK:
            return
        self._failures.append(self._clock.monotonic())
        often = len(self._failures) == _MOST and self._failures[-1] - self._failures[0] < _WINDOW
        if often or error.errno in _AT_ONCE or isinstance(error, FolderError):
            self._admission.close("disk", say("the disk fails: {why}.", why=why))
            self._closed.set()

    async def run(self) -> None:
        """Probe the disk while intake is closed for its sake; for ever."""
        while True:
            await self._closed.wait()
            pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            while not await self._sound():
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            self._closed.clear()
            self._failures.clear()
            self._admission.open("disk")

    async def _sound(self) -> bool:
        try:
            await self._syncer.run(self._spool.reopen)
            await self._syncer.run(self._spool.probe)
        except OSError as e:
            self._journal.note("STORAGE_ERROR", "storage", e.strerror or str(e))
            return False
        return True
