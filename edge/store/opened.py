"""The open database: opened, mended where it is damaged, opened anew when the disk failed under it, closed.

While the disk can only be read, a copy in memory stands in, so that what lies here is still sent.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, TypeVar

import structlog

from edge.clock import Clock
from edge.fsync import sync_path
from edge.model import PRIORITIES, STAT
from edge.phrase import N_, say
from edge.store import deliver, events, repair, schema
from edge.store.committer import Committer, Work
from edge.store.connection import (
    FILE,
    Connection,
    StoreDamagedError,
    StoreError,
    StoreFailedError,
    explain,
    open_writer,
)
from edge.store.counting import Counted
from edge.store.deciding import Deciding
from edge.store.deliver import Settlement
from edge.store.proofs import Calm
from edge.store.reading import Reading

T = TypeVar("T")

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it, readable by nobody else
_PATIENCE: Final = 3
"""Attempts to open the database after which a copy stands in."""
_TABLES: Final = ("study", "instance", "delivery", "trail", "event", "log", "command", "pause", "proof", "promise")
"""What must be there to be of any use."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts to open a database that cannot be opened."""

log = structlog.get_logger()


class Opened:
    """A database and who writes and reads it. Raises `StoreError` where something was not committed."""

    def __init__(
        self,
        storage: Path,
        connection: Connection,
        reading: Reading,
        clock: Clock,
        session: int,
        path: Callable[[int], Path],
        relieve: Callable[[], bool],
        new_epoch: Callable[[], int],
        most_events: int,
    ) -> None:
        self.reading = reading
        self.epoch = 0
        self.events_arrived = asyncio.Event()
        self.mended: repair.Mended | None = None
        """How the database came back, where it was damaged when it was opened."""
        self._storage = storage
        self._connection = connection
        self._committer = Committer(connection, relieve)
        self._clock = clock
        self._session = session
        self._path = path
        self._new_epoch = new_epoch
        self._most_events = most_events
        self._calm, self._deciding, self._ticked = Calm(), Deciding(), clock.monotonic()
        self._counted, self.on_record = Counted(), lambda: True
        self._copy: Path | None = None
        """A copy in memory that stands in while the disk can only be read."""
        self._outcomes: list[Settlement] = []
        """What came of deliveries meanwhile."""
        self._hints: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._pressing: dict[str, int] = {}
        self._claiming: defaultdict[str, list[int]] = defaultdict(list)
        """What pressed when claims were made that are not committed yet."""

    @classmethod
    async def open(
        cls,
        storage: Path,
        clock: Clock,
        session: int,
        path: Callable[[int], Path],
        relieve: Callable[[], bool] = lambda: False,
        ripe_in: float = 0.0,
        *,
        new_epoch: Callable[[], int] = lambda: 1,
        most_events: int = events.MOST,
    ) -> Self:
        """Open or make the database below ``storage``; mend one that is damaged; migrate it. Raises `StoreError`.

        ``path`` tells where an instance's file lies; ``relieve`` makes room on a full disk, or returns False. What an
        earlier session was sending is given back; what waited may go after ``ripe_in`` seconds. ``new_epoch`` gives a
        number that never comes twice, whatever becomes of the database; it is called in another thread and may raise
        OSError. `prune_events` keeps ``most_events``.
        """
        ripe_at, now, trusted = clock.monotonic() + ripe_in, clock.now(), clock.trusted()

        def begin(raw: sqlite3.Connection) -> int:
            epoch = events.begin(raw, new_epoch)
            deliver.recover(raw, session, ripe_at, now, trusted=trusted)
            return epoch

        mended = None
        try:
            await asyncio.to_thread(repair.complete, storage)
            try:
                connection, epoch = await _open(storage, begin)
            except StoreDamagedError:
                mended = await _repair(storage)
                connection, epoch = await _open(storage, begin)
            try:
                reading = await Reading.open(storage)
            except BaseException:
                await connection.close()
                raise
        except OSError as e:
            raise StoreError(
                say("The database in {path} cannot be opened: {error}.", path=storage / "db", error=e.strerror or e)
            ) from e
        store = cls(storage, connection, reading, clock, session, path, relieve, new_epoch, most_events)
        store.mended, store.epoch = mended, epoch
        reading.on_failure(store._committer.fail)
        return store

    async def keep(self, broken: Callable[[str], None], back: Callable[[repair.Mended | None], None]) -> None:
        """Open the database anew whenever the disk failed under it, mending it where it is damaged; for ever.

        ``broken`` hears why nothing can be written; ``back`` that it can be again, and how the database was mended.
        """
        while True:
            error = await self._committer.wait_broken()
            broken(str(error))
            back(await self._bring_back(error))
            self._hint_all()

    async def _bring_back(self, error: StoreError) -> repair.Mended | None:
        """Try until the database can be written again; meanwhile let the lanes read from a copy in memory."""
        mended, pause, failures = None, _FIRST_PAUSE, 0
        while True:
            try:
                if self._copy is None:
                    await self._close_connections()
                if isinstance(error, StoreDamagedError):
                    mended = await _repair(self._storage)
                await self._serve_from(self._storage)
            except (StoreError, OSError) as e:
                log.warning("the database is not back", error=str(e))
                error = e if isinstance(e, StoreDamagedError) else StoreError(str(e))
            else:
                await self._drop_copy()
                return mended
            failures += 1
            if self._copy is None and failures >= _PATIENCE:
                await self._serve_from_copy()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _serve_from(self, storage: Path) -> None:
        """Use the database below ``storage`` from now on. Raises `StoreError`, OSError."""
        ripe_at, now, trusted = self._clock.monotonic(), self._clock.now(), self._clock.trusted()

        def begin(raw: sqlite3.Connection) -> int:
            epoch = self.epoch
            if copied:
                events.mute(raw)  # what happens meanwhile is told when the database is back
            else:
                epoch = events.begin(raw, self._new_epoch)
            # what this session had claimed before is nobody's any more either
            deliver.recover(raw, None, ripe_at, now, trusted=trusted)
            deliver.settle_late(raw, outcomes, self._session, now, trusted=trusted)
            return epoch

        outcomes, copied = list(self._outcomes), storage == self._copy
        connection, epoch = await _open(storage, begin)
        del self._outcomes[: len(outcomes)]
        self._committer.fail(StoreFailedError(N_("The database is being opened anew.")))
        await self._close_connections()
        self._connection = connection
        await self.reading.reopen(storage)
        self._calm, self._deciding = Calm(), Deciding()  # what they saw may be otherwise now
        self.epoch = epoch
        self._committer.resume(connection)

    async def _serve_from_copy(self) -> None:
        """Where the disk can only be read, what can be read is still sent; what comes of it is remembered."""
        try:
            self._copy = await asyncio.to_thread(_copy_to_memory, self._storage)
            await self._serve_from(self._copy)
        except (StoreError, OSError) as e:
            log.warning("the database cannot be read either", error=str(e))
            await self._drop_copy()
        else:
            self._hint_all()

    async def _drop_copy(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)

    async def _commit(self, work: Work[T]) -> T:
        """Commit what must last. Raises `StoreError`, also while there is only a copy in memory."""
        if self._copy is not None:
            raise StoreError(N_("The database can only be read at this moment."))
        return await self._committer.commit(work)

    async def _close_connections(self) -> None:
        for connection in (self.reading, self._connection):
            with contextlib.suppress(sqlite3.Error, ValueError):
                await connection.close()

    async def check(self) -> None:
        """Read the whole database, beside what goes on; one that is damaged is mended by `keep`. Raises `StoreError`.

        Takes seconds for each 100 MB.
        """
        try:
            found = await asyncio.to_thread(repair.check, self._storage / "db" / FILE)
        except sqlite3.Error as e:
            error = explain(e, "cannot be checked")
            if isinstance(error, StoreDamagedError):
                self._committer.fail(error)
            raise error from e
        if found:
            error = StoreDamagedError(say("The database is damaged: {said}.", said=found[0]))
            self._committer.fail(error)
            raise error

    async def run(self) -> None:
        """Commit what is asked until `close`."""
        await self._committer.run()

    def finish(self) -> None:
        """Take no more; `run` returns when all that was asked is committed."""
        self._committer.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._close_connections()
        await self._drop_copy()

    def hint(self, destination: str) -> asyncio.Event:
        """Return the event that is set when there may be work for ``destination``."""
        return self._hints[destination]

    def pressing(self, destination: str) -> int:
        """Return the most urgent priority that may wait for ``destination`` and was not claimed: a hint like others.

        Above every priority where nothing is known to wait.
        """
        return min(self._pressing.get(destination, len(PRIORITIES)), *self._claiming[destination], len(PRIORITIES))

    def press(self, destination: str, priority: int) -> None:
        """Give the hint that there is work of ``priority`` for ``destination``."""
        self._pressing[destination] = min(priority, self._pressing.get(destination, len(PRIORITIES)))
        self._hints[destination].set()

    def _hint_all(self) -> None:
        self.events_arrived.set()
        for name in tuple(self._hints):
            self.press(name, STAT)


async def _open(storage: Path, begin: Callable[[sqlite3.Connection], int]) -> tuple[Connection, int]:
    """Open the writing connection, with the schema of this program, and ``begin``; what that returns.

    Raises `StoreError`, OSError.
    """
    folder = storage / "db"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        connection = await open_writer(folder)
        try:
            await connection.run(schema.migrate)
            await connection.run(_write_back)
            await connection.run(_try)
            begun = await connection.run(begin)
            await asyncio.to_thread(sync_path, folder)
            await asyncio.to_thread(sync_path, storage)
        except BaseException:
            await connection.close()
            raise
    except sqlite3.Error as e:
        raise explain(e, f"in {folder} cannot be opened") from e
    return connection, begun


async def _repair(storage: Path) -> repair.Mended:
    """Mend or replace the database. Raises `StoreError`, OSError."""
    try:
        return await asyncio.to_thread(repair.repair, storage)
    except sqlite3.Error as e:
        raise explain(e, "cannot be mended") from e


def _write_back(raw: sqlite3.Connection) -> None:
    """Empty the log into the database, and begin it anew.

    Where a sync of the log failed, what it was to sync may be in memory and nowhere else, and look whole to whoever
    reads it; nothing may be appended to that.
    """
    busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        log.warning("somebody reads the database: its log could not be begun anew")


def _try(raw: sqlite3.Connection) -> None:
    """Fail now where writing fails, or where a table cannot be entered: a disk that is only read opens all the same."""
    raw.execute("UPDATE uptime SET seconds = seconds")
    for table in _TABLES:
        raw.execute(f"SELECT max(rowid) FROM {table}").fetchone()


def _copy_to_memory(storage: Path) -> Path:
    """Copy the database to where no disk is. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix="edge-", dir=_MEMORY if _MEMORY.is_dir() else None))
    (folder / "db").mkdir(mode=0o700)
    for name in (FILE, f"{FILE}-wal"):
        if (storage / "db" / name).exists():
            shutil.copyfile(storage / "db" / name, folder / "db" / name)
    return folder
