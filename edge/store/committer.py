"""The one writer: works in, one synced transaction a batch, results out.

A work is a function of the raw connection. What queued while the last batch ran goes together; when idle, at
once. Each work has a savepoint, so one that fails takes nothing of its neighbours with it; an error of the database
itself fails the whole batch. Callers get their result after the COMMIT, never before.
"""

import asyncio
import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import structlog

from edge.store.connection import (
    Connection,
    StoreDamagedError,
    StoreError,
    StoreFailedError,
    explain,
    primary,
)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_COUNTERS: Final = re.compile(r"CHECK constraint failed: (instances|bytes) >= 0")
"""A kept counter that would fall below nothing was wrong before; it is counted anew when the database is mended."""
_MOST: Final = 256
"""Works in one transaction."""
_CHECKPOINT_CHANGES: Final = 3000
_CHECKPOINT_BATCHES: Final = 300
"""Rows changed, or transactions, after which the write-ahead log is written back: it stays within about 30 MB."""

log = structlog.get_logger()


class Committer:
    """Runs until cancelled; what is queued then fails with `StoreError`.

    Where the disk fails under the database, or the database is damaged, everything fails at once until `resume`: what
    a failed sync has or has not written is not known, so nothing may be built on it.
    """

    def __init__(self, connection: Connection, relieve: Callable[[], bool] = lambda: False) -> None:
        self.broken: StoreFailedError | None = None
        self._connection = connection
        self._relieve = relieve
        self._broke = asyncio.Event()
        self._queue: deque[tuple[Work[Any], asyncio.Future[Any]]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._batches = 0
        self._changes = 0

    async def commit(self, work: Work[T]) -> T:
        """Run ``work`` in the next transaction and return its result once that is on stable storage.

        Raises what ``work`` raises, and `StoreError` where the database fails or is closed.
        """
        if self._closed:
            raise StoreError("The database is closed.")
        if self.broken is not None:
            raise self.broken
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((work, future))
        self._arrived.set()
        # shielded: a caller that goes away does not undo what others share a transaction with
        return await asyncio.shield(future)

    async def run(self) -> None:
        """Serve until `close` was called and the queue is empty."""
        try:
            while not (self._closed and not self._queue):
                if not self._queue:
                    await self._arrived.wait()
                self._arrived.clear()
                while self._queue:
                    await self._batch()
        except asyncio.CancelledError:
            self._closed = True
            _answer(self._queue, StoreError("The database is closed."))
            self._queue.clear()
            raise

    def fail(self, error: StoreFailedError) -> None:
        """Fail everything from now on, because of ``error``."""
        if self.broken is None:
            self.broken = error
            self._broke.set()

    async def wait_broken(self) -> StoreFailedError:
        """Wait until the database cannot be used as it is; the reason."""
        while self.broken is None:
            await self._broke.wait()
            self._broke.clear()
        return self.broken

    def resume(self, connection: Connection) -> None:
        """Go on with a database that was opened anew."""
        self._connection = connection
        self._batches = self._changes = 0
        self.broken = None

    def close(self) -> None:
        """Take no more; let `run` finish what is queued and return."""
        self._closed = True
        self._arrived.set()

    async def _batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(_MOST, len(self._queue)))]
        works = [work for work, _ in batch]
        if self.broken is not None:
            _answer(batch, self.broken)
            return
        try:
            outcomes = await self._connection.run(lambda raw: self._commit(raw, works))
        except (sqlite3.Error, StoreDamagedError) as e:
            failure = e if isinstance(e, StoreError) else explain(e, "could not be written")
            if isinstance(failure, StoreFailedError):
                self.fail(failure)
            _answer(batch, failure)
            return
        except BaseException:
            _answer(batch, StoreError("The writer was cut; whether this was written is not known."))
            raise
        for (_, future), (result, error) in zip(batch, outcomes, strict=True):
            if error is not None:
                _fail(future, error)
            elif not future.done():
                future.set_result(result)

    # in the connection's thread

    def _commit(self, raw: sqlite3.Connection, works: list[Work[Any]]) -> list[tuple[Any, Exception | None]]:
        """Run a batch; on a full disk once more, with what `relieve` gives back to the disk."""
        try:
            return self._transact(raw, works)
        except sqlite3.Error as e:
            if primary(e) != sqlite3.SQLITE_FULL or not self._relieve():
                raise
            return self._transact(raw, works)

    def _transact(self, raw: sqlite3.Connection, works: list[Work[Any]]) -> list[tuple[Any, Exception | None]]:
        outcomes: list[tuple[Any, Exception | None]] = []
        raw.execute("BEGIN IMMEDIATE")
        try:
            for work in works:
                raw.execute("SAVEPOINT work")
                try:
                    outcomes.append((work(raw), None))
                except sqlite3.IntegrityError as e:
                    if _COUNTERS.search(str(e)):
                        raise StoreDamagedError(f"The database contradicts itself: {e}.") from e
                    raw.execute("ROLLBACK TO work")
                    outcomes.append((None, StoreError(f"The store refused it: {e}.")))
                except sqlite3.Error:
                    raise  # the database's own trouble is everybody's
                except Exception as e:  # noqa: BLE001 - one caller's fault must not fail its neighbours
                    raw.execute("ROLLBACK TO work")
                    outcomes.append((None, e))
                raw.execute("RELEASE work")
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise
        self._checkpoint(raw)
        return outcomes

    def _checkpoint(self, raw: sqlite3.Connection) -> None:
        """Write the log back when it is long; between batches, so alone with the readers.

        What is in the log is committed: where it cannot be written back now, that is tried again later.
        """
        self._batches += 1
        changed = raw.total_changes - self._changes
        if changed >= _CHECKPOINT_CHANGES or self._batches >= _CHECKPOINT_BATCHES:
            try:
                raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as e:
                log.warning("the write-ahead log could not be written back", error=str(e))
            self._batches, self._changes = 0, raw.total_changes


def _answer(batch: Iterable[tuple[Work[Any], "asyncio.Future[Any]"]], error: Exception) -> None:
    for _, future in batch:
        _fail(future, error)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen here, in case its caller is gone
