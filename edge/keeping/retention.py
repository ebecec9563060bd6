"""Deletion of what every destination has: after the time kept, or early where room is short; never what one lacks.

The rows decide; a tombstone is committed before its file is unlinked, so a cut in between leaves a file that the next
start deletes, and never a row that claims a file that is gone. Where room is short, objects that were refused and set
aside go first: their senders know.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from edge.clock import Clock
from edge.findings import Journal
from edge.phrase import N_
from edge.spool import Ballast, Spool, Syncer
from edge.store import Store, StoreError

_EVERY: Final = 1.0
_TICK: Final = 300.0
"""Seconds between two additions to the uptime: each is a commit, which wears the card."""
_BATCH: Final = 200
_AT_ONCE: Final = 10
"""Instances deleted between two looks at the room."""

log = structlog.get_logger()


class Retention:
    """Deletes; ``keep`` and ``keep_trail`` are seconds of uptime, ``short`` tells whether room is short."""

    def __init__(
        self,
        spool: Spool,
        syncer: Syncer,
        store: Store,
        ballast: Ballast,
        journal: Journal,
        clock: Clock,
        *,
        keep: float,
        keep_trail: float,
        short: Callable[[], bool],
    ) -> None:
        self._spool = spool
        self._syncer = syncer
        self._store = store
        self._ballast = ballast
        self._journal = journal
        self._clock = clock
        self._keep = keep
        self._keep_trail = keep_trail
        self._short = short
        self._ticked = clock.monotonic()

    async def run(self) -> None:
        """Delete what may go, for ever."""
        while True:
            try:
                await self.sweep()
            except StoreError as e:
                log.warning("nothing is deleted while the store cannot be written", error=str(e))
            except OSError as e:
                self._journal.note("STORAGE_ERROR", "retention", e.strerror or str(e))
            await asyncio.sleep(_EVERY)

    async def sweep(self) -> None:
        """One pass. Raises `StoreError`, OSError."""
        passed = self._clock.monotonic() - self._ticked
        if passed >= _TICK:
            await self._store.tick(passed)
            self._ticked += passed
            while await self._store.forget(self._keep_trail, _BATCH) == _BATCH:
                pass
        while await self._delete(self._keep, _BATCH, N_("kept as long as configured")):
            pass
        while self._short() and await self._make_room():
            pass
        if not self._short():
            await self._syncer.run(self._ballast.load)

    async def _make_room(self) -> int:
        """Delete a little: what was refused and set aside, else what was delivered; how much."""
        dropped = await self._syncer.run(lambda: self._spool.drop_refused(_AT_ONCE))
        return dropped or await self._delete(0.0, _AT_ONCE, N_("room was short"))

    async def _delete(self, age: float, most: int, why: str) -> int:
        """Delete one batch of what has been settled for ``age`` seconds; how many."""
        due = await self._store.settled(age, most)
        if not due:
            return 0
        gone = await self._store.expire(due, why)
        await self._syncer.run(lambda: self._spool.delete(gone))
        return len(gone)
