"""The slow check of what lies: the database soon after the start, then every file against its seal and its row.

Every file comes up once a month. One that is not what was received is set aside with a finding, its row first, so that
the same bytes sent again are taken as new. Where the file is sound and the row differs, the seal outvotes the row.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from edge.dicom.part10 import NotPart10Error
from edge.findings import Journal
from edge.intake.recovery import DamagedError, examine
from edge.intake.seal import BadSealError
from edge.spool import Spool, Syncer
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

    def __init__(self, spool: Spool, syncer: Syncer, store: Store, journal: Journal, used: Callable[[], int]) -> None:
        self._spool = spool
        self._syncer = syncer
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
            except OSError as e:
                self._journal.note("STORAGE_ERROR", "audit", e.strerror or str(e))
            await asyncio.sleep(_IDLE)

    async def batch(self) -> int:
        """Check the next files; how many. After the last one it begins again. Raises `StoreError`, OSError."""
        rows = await self._store.next_to_audit(_BATCH)
        for row in rows:
            await self.check(row)
            await asyncio.sleep(row.length / max(_SLOWEST, self._used() / _ROUND))
        await self._store.audited(rows[-1].id if rows else 0)
        return len(rows)

    async def check(self, row: Stored) -> None:
        """Check one file. Raises `StoreError`, OSError."""
        path = self._spool.path(row.id)
        try:
            instance, _ = await self._syncer.run(lambda: examine(path))
        except FileNotFoundError:
            if (await self._store.states([row.id])).get(row.id) == "stored":
                await self._store.lose([row.id])
                self._journal.note("LOST", "storage", f"object {row.id}")
        except (BadSealError, DamagedError, NotPart10Error) as e:
            await self._set_aside(row.id, str(e))
        else:
            true = Stored.of(instance)
            if true != row:
                await self._store.amend(true)
                self._journal.note("ROW_AMENDED", "storage", f"object {row.id}")

    async def _set_aside(self, number: int, wrong: str) -> None:
        await self._store.quarantine(number, wrong)
        why = msgspec.json.encode({"why": wrong})
        await self._syncer.run(lambda: self._spool.set_aside(number, why))
        self._journal.note("DAMAGED_FILE", "storage", f"object {number}: {wrong}")
