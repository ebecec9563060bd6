"""The slow check of what lies: the database soon after the start, then every file against its seal and its row.

Every file comes up once a month. One that is not what was received is set aside with a finding, its row first, so that
the same bytes sent again are taken as new. Where the file is sound and the row differs, the seal outvotes the row.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from edge.findings import Journal
from edge.intake.soundness import Soundness
from edge.phrase import say
from edge.store import Store, Stored, StoreError

_FIRST_LOOK: Final = 10.0
"""Seconds after the start at which the database is checked: what waits to be sent goes first."""
_ROUND: Final = 30 * 86_400.0
"""Seconds in which every file comes up once."""
_SLOWEST: Final = 256 << 10
"""Bytes a second that are read at least, while anything lies."""
_BATCH: Final = 100
_IDLE: Final = 600.0
"""Seconds of rest after a round, and after an error."""


class Audit:
    """Checks, without hurry; ``used`` tells the bytes that lie."""

    def __init__(self, soundness: Soundness, store: Store, journal: Journal, used: Callable[[], int]) -> None:
        self._soundness = soundness
        self._store = store
        self._journal = journal
        self._used = used

    async def run(self) -> None:
        """Check the database, then files, for ever."""
        await asyncio.sleep(_FIRST_LOOK)
        with contextlib.suppress(StoreError):  # a damaged one is mended, and said, by the store's keeper
            await self._store.check()
        while True:
            try:
                if await self.batch():
                    continue
            except StoreError:
                pass  # the store's keeper says it
            except OSError as e:  # of the disk as a whole: its size cannot be asked
                self._journal.note("STORAGE_ERROR", "audit", e.strerror or str(e))
            await asyncio.sleep(_IDLE)

    async def batch(self) -> int:
        """Check the next files; how many. After the last one it begins again. Raises `StoreError`, OSError."""
        rows = await self._store.next_to_audit(_BATCH)
        for row in rows:
            try:
                await self.check(row)
            except OSError as e:  # one that cannot be read must not keep the others from being looked at
                self._journal.note(
                    "STORAGE_ERROR", "audit", say("object {number}: {error}", number=row.id, error=e.strerror or e)
                )
            await asyncio.sleep(row.length / max(_SLOWEST, self._used() / _ROUND))
        await self._store.audited(rows[-1].id if rows else 0)
        return len(rows)

    async def check(self, row: Stored) -> None:
        """Check one file. Raises `StoreError`, OSError."""
        instance = await self._soundness.check(row.id)
        true = row if instance is None else Stored.of(instance)
        if true != row:
            await self._store.amend(true)
            self._journal.note("ROW_AMENDED", "storage", say("object {number}", number=row.id))
