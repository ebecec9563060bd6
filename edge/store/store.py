"""The store as other rooms see it: verbs that commit, and hints that there is work.

A hint is given after a commit and may be missed; the rows are the truth, and whoever waits for a hint also looks by
itself now and then.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog

from edge.clock import Clock
from edge.fsync import sync_path
from edge.model import Header, Instance, Need, Origin, Source
from edge.routing import Leg
from edge.states import DeliveryState
from edge.store import audits, deliver, events, people, record, repair, retain, schema, studies, taken
from edge.store.audits import Stored
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
from edge.store.deciding import Deciding
from edge.store.deliver import Parcel, Settlement
from edge.store.people import Choice
from edge.store.proofs import Calm
from edge.store.proving import Proving
from edge.store.reading import Reading
from edge.store.record import Fate, Recorded
from edge.store.telling import Telling

T = TypeVar("T")

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it, readable by nobody else
_PATIENCE: Final = 3
"""Attempts to open the database after which a copy stands in."""
_MOST_REMEMBERED: Final = 100_000
_TABLES: Final = ("study", "instance", "delivery", "trail", "event", "log", "command", "pause", "proof", "promise")
"""What must be there to be of any use."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts to open a database that cannot be opened."""

log = structlog.get_logger()


class Store(Telling, Proving):
    """The open store of a running appliance. Every verb raises `StoreError` where it was not committed."""

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
        self._copy: Path | None = None
        """A copy in memory that stands in while the disk can only be read."""
        self._outcomes: list[Settlement] = []
        """What came of deliveries meanwhile."""
        self._hints: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

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
    ) -> "Store":
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
            raise StoreError(f"The database in {storage / 'db'} cannot be opened: {e.strerror or e}.") from e
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
        self._committer.fail(StoreFailedError("The database is being opened anew."))
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
            raise StoreError("The database can only be read at this moment.")
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
            error = StoreDamagedError(f"The database is damaged: {found[0]}.")
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

    # intake

    async def record(self, batch: Sequence[tuple[Instance, Sequence[Leg]]]) -> list[Recorded]:
        """Record received instances with their deliveries. Idempotent by id."""
        lag = self._lag()

        def work(raw: sqlite3.Connection) -> list[Recorded]:
            fates = record.record(raw, batch)
            studies.arrived(raw, [fate.id for fate in fates if fate.fate is Fate.NEW], lag)
            return fates

        fates = await self._commit(work)
        for name in {leg.destination for _, legs in batch for leg in legs}:
            self._hints[name].set()
        return fates

    async def highest_id(self) -> int:
        """Return the highest instance id on record, 0 for none."""
        row = await self.reading.run(lambda raw: raw.execute("SELECT max(id) FROM instance").fetchone())
        return int(row[0] or 0)

    async def states(self, ids: Sequence[int]) -> dict[int, str]:
        """Return the state of each of ``ids`` that is on record: stored, lost, quarantined or expired."""
        asked = "SELECT state FROM instance WHERE id = ?"

        def work(raw: sqlite3.Connection) -> dict[int, str]:
            rows = ((number, raw.execute(asked, (number,)).fetchone()) for number in ids)
            return {number: row[0] for number, row in rows if row}

        return await self.reading.run(work)

    async def lose(self, ids: Sequence[int]) -> None:
        """Record that the files of ``ids`` are gone: the same bytes sent again are then no duplicate."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: record.lose(raw, ids, now, trusted=trusted))
        self._hint_all()

    async def stored_after(self, last: int, most: int) -> list[int]:
        """Return the next ``most`` ids above ``last`` of instances whose file should be there.

        So it should be of those that are lost and owed, unless the same bytes came again.
        """

        def work(raw: sqlite3.Connection) -> list[int]:
            rows = raw.execute(
                f"""SELECT id FROM instance WHERE id > ?
                AND (state = 'stored' OR state = 'lost' AND owed > 0 AND NOT {record.CURED}) ORDER BY id LIMIT ?""",
                (last, most),
            )
            return [row[0] for row in rows]

        return await self.reading.run(work)

    async def unrouted(self, last: int, most: int) -> list[tuple[int, Header, Source]]:
        """Return the next ``most`` instances above ``last`` that have no delivery, with what a route looks at."""
        return await self.reading.run(lambda raw: record.unrouted(raw, last, most))

    async def route(self, routed: Sequence[tuple[int, Sequence[Leg]]]) -> None:
        """Make deliveries for instances that have none."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: record.route(raw, routed, now, trusted=trusted))
        for name in {leg.destination for _, legs in routed for leg in legs}:
            self._hints[name].set()

    # files that were read

    async def taken(self, origins: Sequence[Origin]) -> list[bool]:
        """Return for each whether this very file was taken, and what was in it is not lost."""
        return await self.reading.run(lambda raw: taken.known(raw, origins))

    async def has(self, sop_instance_uid: str, transfer_syntax_uid: str, digest: bytes, origin: Origin | None) -> bool:
        """Return whether this very object is stored, or was delivered after it was read from this very file.

        For an import: after it was imported from any file.
        """
        key = taken.Key(sop_instance_uid, transfer_syntax_uid, digest)
        return await self.reading.run(
            lambda raw: (
                record.stored(raw, sop_instance_uid, transfer_syntax_uid, digest)
                or (origin is not None and taken.delivered(raw, origin, key) is not None)
            )
        )

    async def remember(self, origin: Origin) -> None:
        """Record that an archive was taken with all its members."""
        await self._commit(lambda raw: taken.remember(raw, origin))

    async def taken_after(self, place: str, path: str, most: int) -> list[Origin]:
        """Return the next ``most`` files of ``place`` that were taken, by path, above ``path``."""
        return await self.reading.run(lambda raw: taken.after(raw, place, path, most))

    async def forget_taken(self, origins: Sequence[Origin]) -> None:
        """Forget files that are not there any more."""
        await self._commit(lambda raw: taken.forget(raw, origins))

    # dispatcher

    async def upcoming(self, destination: str, most: int = 256) -> list[Need]:
        """Return what the next deliveries to ``destination`` need, the most urgent first."""
        return await self.reading.run(lambda raw: deliver.upcoming(raw, destination, most))

    async def claim(self, destination: str, most: int) -> list[Parcel]:
        """Claim the next ``most`` deliveries to ``destination`` for this session."""
        work = partial(deliver.claim, destination=destination, most=most, session=self._session, now=self._clock.now())
        return [
            Parcel(
                delivery=delivery,
                instance=instance,
                strikes=strikes,
                kind=kind,
                sop_instance_uid=uid,
                length=length,
                offset=offset,
                digest=digest,
                calling=calling,
                path=self._path(instance),
            )
            for delivery, instance, strikes, kind, uid, length, offset, digest, calling in (
                await self._committer.commit(work)
            )
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record the outcomes of claimed deliveries."""
        now, trusted = self._clock.now(), self._clock.trusted()
        freed = await self._committer.commit(
            lambda raw: deliver.settle(raw, settlements, self._session, now, trusted=trusted)
        )
        self._remember(settlements)
        if any(s.state in deliver.REFUSED for s in settlements):
            self.events_arrived.set()
        for name in freed:
            self._hints[name].set()

    async def settle_late(self, settlements: Sequence[Settlement]) -> None:
        """Record outcomes whose deliveries may have been given back meanwhile: what is known need not be sent again."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._committer.commit(
            lambda raw: deliver.settle_late(raw, settlements, self._session, now, trusted=trusted)
        )
        self._remember(settlements)
        self._hint_all()

    def _remember(self, settlements: Sequence[Settlement]) -> None:
        """Keep outcomes that only the copy in memory knows, for the database when it is back."""
        if self._copy is not None:
            self._outcomes += [s for s in settlements if s.state is not DeliveryState.QUEUED][-_MOST_REMEMBERED:]

    async def ripe(self) -> bool:
        """Whether `ripen` would find anything; asked first, as a commit wears the card and a question does not."""
        now = self._clock.monotonic()
        asked = "SELECT 1 FROM delivery WHERE state = 'queued' AND not_before <= ? LIMIT 1"
        return await self.reading.run(lambda raw: raw.execute(asked, (now,)).fetchone() is not None)

    async def ripen(self) -> None:
        """Let what has waited long enough be claimed."""
        now = self._clock.monotonic()
        for name in await self._committer.commit(lambda raw: deliver.ripen(raw, now)):
            self._hints[name].set()

    # retention

    async def settled(self, age: float, most: int) -> list[int]:
        """Return the ids of what every destination has had for ``age`` seconds of uptime, the oldest first."""
        return await self.reading.run(lambda raw: retain.settled(raw, age, most))

    async def expire(self, ids: Sequence[int], why: str) -> list[int]:
        """Write the tombstones of those of ``ids`` that may still go; afterwards their files may be deleted."""
        now, trusted = self._clock.now(), self._clock.trusted()
        gone = await self._commit(lambda raw: retain.expire(raw, ids, why, now, trusted=trusted))
        self.events_arrived.set()
        return gone

    async def forget(self, age: float, most: int) -> int:
        """Delete trail and row of what expired ``age`` seconds of uptime ago; the number."""
        return await self._commit(lambda raw: retain.forget(raw, age, most))

    # audit

    async def next_to_audit(self, most: int) -> list[Stored]:
        """Return the next instances whose files are to be looked at."""
        return await self.reading.run(lambda raw: audits.upcoming(raw, most))

    async def audited(self, last: int) -> None:
        """Remember that files were looked at up to instance ``last``; 0 begins anew."""
        await self._commit(lambda raw: audits.passed(raw, last))

    async def quarantine(self, number: int, why: str) -> None:
        """Record that the file of an instance is damaged, and hold what was to be sent of it."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: audits.quarantine(raw, number, why, now, trusted=trusted))
        self._hint_all()

    async def amend(self, true: Stored) -> None:
        """Correct a row after the seal of its file."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: audits.amend(raw, true, now, trusted=trusted))

    async def find(self, ids: Sequence[int]) -> None:
        """Record that the files of ``ids``, which were lost, are there again."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: record.find(raw, ids, now, trusted=trusted))

    # people

    async def decide(self, verb: str, choice: Choice, *, who: str, reason: str = "") -> int:
        """Apply ``verb`` (hold, release, cancel, resend) to the deliveries chosen; the number moved."""
        now, trusted = self._clock.now(), self._clock.trusted()
        moved = await self._commit(
            lambda raw: people.decide(raw, verb, choice, who=who, reason=reason, now=now, trusted=trusted)
        )
        self._hint_all()
        return moved

    async def hasten(self, choice: Choice) -> int:
        """Let the deliveries chosen go without further waiting; the number that are queued."""
        queued = await self._commit(lambda raw: people.hasten(raw, choice))
        self._hint_all()
        return queued

    def _hint_all(self) -> None:
        self.events_arrived.set()
        for event in self._hints.values():
            event.set()


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
