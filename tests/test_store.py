"""The store: what durability rests on, one writer for many callers, and deliveries that are never lost.

The last part is a model: a few dictionaries that say what a queue is, moved by Hypothesis side by side with the real
tables.
"""

import asyncio
import errno
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, cast

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge.local import Request, ask
from edge.model import Header, Instance, Kind, Need, Source
from edge.routing import Leg
from edge.states import MOVES, WAITING, DeliveryState
from edge.store import (
    Choice,
    Fate,
    Mended,
    Parcel,
    Reading,
    Settlement,
    Store,
    StoreError,
    deliver,
    people,
    record,
    schema,
)
from edge.store import committer as committing
from edge.store.committer import Committer, Work
from edge.store.connection import FILE, Connection, StoreFailedError, open_reader, open_writer
from tests.fakes import ManualClock, evidence_of

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
JPEG: Final = "1.2.840.10008.1.2.4.50"
S: Final = DeliveryState
STAT, ROUTINE, BACKGROUND = range(3)


def instance(number: int, *, uid: str = "", content: int | None = None, syntax: str = EXPLICIT) -> Instance:
    """An instance as intake would hand it over; ``content`` stands for its bytes."""
    return Instance(
        id=number,
        kind=Kind(CT, syntax),
        sop_instance_uid=uid or f"1.2.3.{number}",
        digest=(number if content is None else content).to_bytes(32, "big"),
        length=100,
        offset=10,
        source=Source(door="dimse", calling="CT1", called="EDGE", address="10.0.0.7"),
        received_at=1_800_000_000.0 + number,
        clock_trusted=True,
        header=Header(study_uid="1.2.3", series_uid="1.2.4", accession="A7", modality="CT"),
    )


def leg(destination: str = "pacs", priority: int = ROUTINE, *, proof: bool = False) -> Leg:
    return Leg(destination, priority, needs_proof=proof)


def settled(parcel: Parcel, state: DeliveryState, **more: Any) -> Settlement:
    return Settlement(
        delivery=parcel.delivery,
        instance=parcel.instance,
        destination="pacs",
        state=state,
        code="0000",
        evidence=evidence_of(state),
        **more,
    )


@dataclass
class Opened:
    """A store with its committer running."""

    store: Store
    committing: asyncio.Task[None]

    closed: bool = False

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.store.finish()
            await self.committing
            await self.store.close()


class Opener(Protocol):
    async def __call__(
        self, storage: Path, clock: ManualClock, session: int = 1, *, ripe_in: float = 0.0
    ) -> Opened: ...


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    """Opens stores, and closes them in the end: an open connection would keep its thread."""
    made: list[Opened] = []

    async def opener(storage: Path, clock: ManualClock, session: int = 1, *, ripe_in: float = 0.0) -> Opened:
        store = await Store.open(storage, clock, session, lambda number: storage / f"{number}.dcm", ripe_in=ripe_in)
        made.append(Opened(store, asyncio.create_task(store.run())))
        return made[-1]

    yield opener
    for one in made:
        await one.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock, opened: Opener) -> Store:
    return (await opened(tmp_path, clock)).store


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Connection]:
    connection = await open_writer(tmp_path)
    await connection.run(lambda raw: raw.execute("CREATE TABLE note (word TEXT UNIQUE)"))
    yield connection
    await connection.close()


def writing(word: str) -> Work[str]:
    def work(raw: sqlite3.Connection) -> str:
        raw.execute("INSERT INTO note VALUES (?)", (word,))
        return word

    return work


async def words(connection: Connection) -> set[str]:
    return await connection.run(lambda raw: {row[0] for row in raw.execute("SELECT word FROM note")})


async def traced(connection: Connection) -> list[str]:
    """Every statement that SQLite runs from now on."""
    seen: list[str] = []
    await connection.run(lambda raw: raw.set_trace_callback(seen.append))
    return seen


class Busy:
    """A work that occupies the writer until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, raw: sqlite3.Connection) -> None:
        raw.execute("INSERT INTO note VALUES ('busy')")
        self.begun.set()
        if not self.let_go.wait(30):
            raise TimeoutError

    async def running(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 30)


@pytest.fixture
async def committer(writer: Connection) -> AsyncIterator[Committer]:
    running = Committer(writer)
    task = asyncio.create_task(running.run())
    yield running
    running.close()
    await asyncio.wait([task])


async def together(committer: Committer, works: Sequence[Work[Any]]) -> list[Any]:
    """Queue ``works`` while another one runs; what each caller got."""
    busy = Busy()
    first = asyncio.create_task(committer.commit(busy))
    await busy.running()
    callers = [asyncio.create_task(committer.commit(work)) for work in works]
    await asyncio.sleep(0)
    busy.let_go.set()
    await asyncio.wait([first])
    return await asyncio.gather(*callers, return_exceptions=True)


# what durability rests on


async def test_the_writer_has_every_pragma_that_the_promise_needs(store: Store) -> None:
    asked = {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 10_000,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "wal_autocheckpoint": 0,
    }

    def read(raw: sqlite3.Connection) -> dict[str, object]:
        return {name: raw.execute(f"PRAGMA {name}").fetchone()[0] for name in asked}

    assert await store._connection.run(read) == asked


async def test_the_reader_waits_for_locks_and_trusts_no_schema(store: Store) -> None:
    asked = {"journal_mode": "wal", "busy_timeout": 10_000, "trusted_schema": 0, "cell_size_check": 1}

    def read(raw: sqlite3.Connection) -> dict[str, object]:
        return {name: raw.execute(f"PRAGMA {name}").fetchone()[0] for name in asked}

    assert await store.reading.run(read) == asked


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM delivery", "CREATE TABLE t (x)", "PRAGMA user_version = 9", "UPDATE tally SET instances = 0"],
)
async def test_the_reader_cannot_write(store: Store, statement: str) -> None:
    with pytest.raises(StoreError, match="readonly database"):
        await store.reading.run(lambda raw: raw.execute(statement))


async def test_a_pragma_that_sqlite_does_not_take_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.store.connection._PRAGMAS", (("synchronous", "FULL", 3),))
    with pytest.raises(StoreError, match="SQLite keeps synchronous at 2 where FULL was asked"):
        await open_writer(tmp_path)


async def test_a_new_storage_path_gets_the_newest_schema(tmp_path: Path, store: Store) -> None:
    with closing(sqlite3.connect(tmp_path / "db" / FILE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"study", "instance", "delivery", "trail", "tally"} <= tables
    assert await store.highest_id() == 0


async def test_a_database_that_is_there_already_is_left_as_it_is(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    first = await opened(tmp_path, clock)
    await first.store.record([(instance(1), [leg()])])
    await first.close()
    second = await opened(tmp_path, clock, 2)
    assert await second.store.highest_id() == 1
    await second.close()


def test_a_migration_that_fails_leaves_the_version_before_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (("CREATE TABLE one (x)",), ("CREATE TABLE two (x)", "CREATE TABLE one (x)"))
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    monkeypatch.setattr(schema, "VERSION", 2)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            schema.migrate(raw, 2)
        assert not raw.in_transaction
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("one",)]


async def test_a_database_of_the_next_version_is_served_as_a_rolled_back_update_left_it(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    await (await opened(tmp_path, clock)).close()
    set_version(tmp_path, schema.VERSION + 1)
    here = await opened(tmp_path, clock, 2)
    await here.store.record([(instance(1), [leg()])])
    await here.store.settle([settled(p, S.ACCEPTED) for p in await here.store.claim("pacs", 1)])
    await here.close()
    with closing(sqlite3.connect(tmp_path / "db" / FILE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 1,)


async def test_a_database_of_a_yet_newer_version_is_refused_in_a_sentence(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    await (await opened(tmp_path, clock)).close()
    set_version(tmp_path, schema.VERSION + 2)
    with pytest.raises(StoreError) as refused:
        await opened(tmp_path, clock)
    assert str(refused.value) == (
        f"The database is of version {schema.VERSION + 2}, newer than this program's {schema.VERSION}: "
        "install the newer program."
    )


def set_version(storage: Path, version: int) -> None:
    with closing(sqlite3.connect(storage / "db" / FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


async def test_a_file_that_is_no_database_is_put_aside_for_a_new_one(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    (tmp_path / "db").mkdir()
    nonsense = b"this is not a database, however long it may be" * 100
    (tmp_path / "db" / FILE).write_bytes(nonsense)
    store = (await opened(tmp_path, clock)).store
    assert store.mended is Mended.ANEW
    assert (tmp_path / "db.damaged" / FILE).read_bytes() == nonsense
    assert await store.highest_id() == 0


async def test_reading_where_no_appliance_ever_ran_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no appliance has run on this storage path yet"):
        await Reading.open(tmp_path)


async def test_whoever_may_not_enter_is_told_as_whom_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", closed)
    monkeypatch.setattr(asyncio, "open_unix_connection", closed)
    for asked in (Reading.open(tmp_path), ask(tmp_path, Request(command="status"))):
        with pytest.raises(StoreError, match=r"is closed to this user: run it as the user of the appliance"):
            await asked


async def test_the_log_stays_bounded_while_thousands_of_works_commit(
    tmp_path: Path, writer: Connection, committer: Committer
) -> None:
    log = tmp_path / f"{FILE}-wal"
    page = "x" * 4000
    sizes = []
    for round_number in range(36):
        await together_quickly(committer, [writing(f"{round_number}.{n}.{page}") for n in range(256)])
        sizes.append(log.stat().st_size)
    assert len(await words(writer)) == 36 * 256
    written = 36 * 256 * len(page)
    assert written > 30 << 20
    assert max(sizes) < 30 << 20
    assert sizes[-1] == sizes[-12], "it grew although it was written back"


async def together_quickly(committer: Committer, works: Sequence[Work[Any]]) -> None:
    await asyncio.gather(*(committer.commit(work) for work in works))


# one writer for many callers


async def test_works_that_queue_while_one_runs_share_one_transaction(writer: Connection, committer: Committer) -> None:
    seen = await traced(writer)
    got = await together(committer, [writing(f"w{n}") for n in range(40)])
    assert got == [f"w{n}" for n in range(40)]
    counted = Counter(statement for statement in seen if statement in {"BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"})
    assert counted == {"BEGIN IMMEDIATE": 2, "COMMIT": 2}


async def test_when_idle_a_work_commits_at_once_and_alone(writer: Connection, committer: Committer) -> None:
    seen = await traced(writer)
    for n in range(3):
        await committer.commit(writing(f"w{n}"))
    assert seen.count("COMMIT") == 3


@pytest.mark.parametrize("error", [ValueError("mine alone"), StoreError("not ours"), OverflowError("too big")])
async def test_a_work_that_fails_takes_nothing_of_its_neighbours(
    writer: Connection, committer: Committer, error: Exception
) -> None:
    def failing(raw: sqlite3.Connection) -> None:
        raw.execute("INSERT INTO note VALUES ('half done')")
        raise error

    got = await together(committer, [writing("before"), failing, writing("after")])
    assert got == ["before", error, "after"]
    assert await words(writer) == {"busy", "before", "after"}


async def test_a_row_that_a_constraint_refuses_fails_its_own_work_only(
    writer: Connection, committer: Committer
) -> None:
    before, twice, after = await together(committer, [writing("one"), writing("one"), writing("two")])
    assert (before, after) == ("one", "two")
    assert isinstance(twice, StoreError)
    assert str(twice) == "The store refused it: UNIQUE constraint failed: note.word."
    assert await words(writer) == {"busy", "one", "two"}


async def test_trouble_of_the_database_itself_fails_everyone_and_leaves_nothing(
    writer: Connection, committer: Committer
) -> None:
    def broken(raw: sqlite3.Connection) -> None:
        raw.execute("INSERT INTO nowhere VALUES (1)")

    got = await together(committer, [writing("one"), broken, writing("two")])
    assert [type(error) for error in got] == [StoreError] * 3
    assert "The database could not be written: no such table: nowhere." in str(got[0])
    assert await words(writer) == {"busy"}
    assert not await writer.run(lambda raw: raw.in_transaction)
    assert await committer.commit(writing("later")) == "later"


async def test_nobody_hears_of_success_before_the_commit(writer: Connection, committer: Committer) -> None:
    await writer.run(lambda raw: raw.execute("CREATE TABLE child (note TEXT REFERENCES note(word))"))

    def refused_at_the_end(raw: sqlite3.Connection) -> str:
        raw.execute("PRAGMA defer_foreign_keys = ON")
        raw.execute("INSERT INTO child VALUES ('an orphan')")
        return "well so far"

    got = await together(committer, [writing("one"), refused_at_the_end])
    assert [type(error) for error in got] == [StoreError] * 2
    assert await words(writer) == {"busy"}
    assert not await writer.run(lambda raw: raw.in_transaction)


async def test_a_result_is_given_only_once_another_connection_can_see_the_row(
    tmp_path: Path, committer: Committer
) -> None:
    reader = await open_reader(tmp_path)
    for n in range(20):
        word = await committer.commit(writing(f"w{n}"))
        assert word in await words(reader)
    await reader.close()


async def test_a_caller_that_goes_away_mid_commit_undoes_nothing_and_leaves_nothing_open(
    writer: Connection, committer: Committer
) -> None:
    busy = Busy()
    caller = asyncio.create_task(committer.commit(busy))
    await busy.running()
    neighbour = asyncio.create_task(committer.commit(writing("neighbour")))
    gone = asyncio.create_task(committer.commit(writing("gone, yet written")))
    await asyncio.sleep(0)
    caller.cancel()
    gone.cancel()
    await asyncio.wait([caller, gone])
    assert caller.cancelled()
    assert gone.cancelled()
    busy.let_go.set()
    assert await neighbour == "neighbour"
    assert await words(writer) == {"busy", "neighbour", "gone, yet written"}
    assert not await writer.run(lambda raw: raw.in_transaction)


async def test_a_log_that_cannot_be_written_back_fails_nobody_and_is_tried_again(
    writer: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committing, "_CHECKPOINT_BATCHES", 2)
    asked = 0

    class NoRoom:
        """The connection, on a disk too full for the log to be written back."""

        def __init__(self, raw: sqlite3.Connection) -> None:
            self._raw = raw

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            nonlocal asked
            if "checkpoint" in statement:
                asked += 1
                raise sqlite3.OperationalError("database or disk is full")
            return self._raw.execute(statement, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._raw, name)

    class Narrow:
        async def run(self, work: Callable[[Any], Any]) -> Any:
            return await writer.run(lambda raw: work(NoRoom(raw)))

    running = Committer(cast("Connection", Narrow()))
    task = asyncio.create_task(running.run())
    for n in range(6):
        assert await running.commit(writing(f"w{n}")) == f"w{n}"
    running.close()
    await task
    assert asked == 3
    assert await words(writer) == {f"w{n}" for n in range(6)}


async def test_what_is_queued_when_the_writer_is_cut_fails_instead_of_waiting_for_ever(writer: Connection) -> None:
    running = Committer(writer)
    task = asyncio.create_task(running.run())
    busy = Busy()
    callers: list[asyncio.Task[Any]] = [asyncio.create_task(running.commit(busy))]
    await busy.running()
    callers += [asyncio.create_task(running.commit(writing(word))) for word in ("one", "two")]
    await asyncio.sleep(0)
    task.cancel()
    busy.let_go.set()
    await asyncio.wait([task])
    async with asyncio.timeout(10):
        got = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(error) for error in got] == [StoreError] * 3
    with pytest.raises(StoreError, match="closed"):
        await running.commit(writing("three"))


async def test_a_writer_started_again_after_a_crash_serves_what_still_waits(
    writer: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Committer(writer)
    crashed = False

    async def crash_once() -> None:
        nonlocal crashed
        if not crashed:
            crashed = True
            raise RuntimeError("crash")
        await Committer._batch(running)

    monkeypatch.setattr(running, "_batch", crash_once)
    waiting = asyncio.create_task(running.commit(writing("one")))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="crash"):
        await running.run()
    again = asyncio.create_task(running.run())
    async with asyncio.timeout(10):
        assert await waiting == "one"
    running.close()
    await again


async def test_a_closed_store_finishes_what_was_asked_and_takes_no_more(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    here = await opened(tmp_path, clock)
    asked = [asyncio.create_task(here.store.record([(instance(n), [leg()])])) for n in range(1, 6)]
    await asyncio.sleep(0)
    here.store.finish()
    await here.committing
    assert [(await one)[0].fate for one in asked] == [Fate.NEW] * 5
    with pytest.raises(StoreError, match="closed"):
        await here.store.claim("pacs", 1)
    await here.store.close()


# recording


async def fates(store: Store, *batch: Instance, legs: Sequence[Leg] = (leg(),)) -> list[Fate]:
    return [recorded.fate for recorded in await store.record([(one, legs) for one in batch])]


async def states(store: Store, destination: str = "pacs") -> dict[int, str]:
    """State of each delivery to ``destination``, by instance."""
    asked = "SELECT instance, state FROM delivery WHERE destination = ?"
    return await store.reading.run(lambda raw: dict(raw.execute(asked, (destination,)).fetchall()))


async def test_a_recorded_instance_can_be_traced_with_all_that_was_known_of_it(store: Store) -> None:
    await store.record([(instance(7), [leg("pacs"), leg("cloud", STAT, proof=True)])])
    for name in ("1.2.3.7", "1.2.3", "1.2.4", "A7", "7"):
        (row,) = await store.reading.trace(name)
        assert row.sop_instance_uid == "1.2.3.7"
        assert row.sha256 == (7).to_bytes(32, "big").hex()
        assert [(d.destination, d.state) for d in row.deliveries] == [("pacs", "queued"), ("cloud", "queued")]
        assert [(step.event, step.detail) for step in row.trail] == [("received", "CT1 at 10.0.0.7")]
    assert await store.reading.trace("1.2.5") == []


async def test_recording_an_id_again_changes_nothing(store: Store) -> None:
    await fates(store, instance(1))
    before = await everything(store)
    assert await fates(store, instance(1), instance(1, uid="9.9", content=9)) == [Fate.KNOWN, Fate.KNOWN]
    assert await everything(store) == before


async def everything(store: Store) -> dict[str, list[Any]]:
    """Every row there is."""
    tables = ("study", "instance", "delivery", "trail", "tally")
    return await store.reading.run(
        lambda raw: {name: raw.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
    )


async def test_the_same_bytes_while_waiting_make_no_second_instance(store: Store) -> None:
    await fates(store, instance(1, uid="1.9", content=5))
    (recorded,) = await store.record([(instance(2, uid="1.9", content=5), [leg()])])
    assert (recorded.fate, recorded.id) == (Fate.DUPLICATE, 1)
    assert await states(store) == {1: "queued"}
    (row,) = await store.reading.trace("1.9")
    assert [step.event for step in row.trail] == ["received", "received-again"]


async def test_the_same_bytes_once_accepted_are_not_delivered_again(store: Store) -> None:
    await fates(store, instance(1, uid="1.9", content=5))
    await store.settle([settled(p, S.ACCEPTED) for p in await store.claim("pacs", 1)])
    assert await fates(store, instance(2, uid="1.9", content=5)) == [Fate.DUPLICATE]
    assert await states(store) == {1: "accepted"}
    assert await store.claim("pacs", 5) == []


async def test_the_same_bytes_for_one_more_destination_go_there_too(store: Store) -> None:
    await fates(store, instance(1, uid="1.9", content=5))
    await store.settle([settled(p, S.ACCEPTED) for p in await store.claim("pacs", 1)])
    await fates(store, instance(2, uid="1.9", content=5), legs=[leg("pacs"), leg("cloud")])
    assert await states(store, "cloud") == {1: "queued"}
    assert (await store.reading.tallies())["", "owed"].instances == 1


async def test_another_content_under_the_same_uid_is_kept_and_waits_its_turn(store: Store) -> None:
    await fates(store, instance(1, uid="1.9", content=5))
    (recorded,) = await store.record([(instance(2, uid="1.9", content=6), [leg()])])
    assert (recorded.fate, recorded.id, recorded.twin) == (Fate.NEW, 2, True)
    (first,) = await store.claim("pacs", 5)
    assert first.instance == 1
    await store.settle([settled(first, S.QUEUED)])
    assert [p.instance for p in await store.claim("pacs", 5)] == [1]
    await store.settle([settled(first, S.ACCEPTED)])
    assert [p.instance for p in await store.claim("pacs", 5)] == [2]


async def test_what_came_first_goes_first_though_its_row_was_written_later(store: Store) -> None:
    for number in (2, 4, 1, 3):  # as after a restart: what came before it is found while new objects come in
        await fates(store, instance(number, uid="1.9", content=number))
    went = []
    while parcels := await store.claim("pacs", 5):
        (parcel,) = parcels
        went.append(parcel.instance)
        await store.settle([settled(parcel, S.ACCEPTED)])
    assert went == [1, 2, 3, 4]


async def test_an_outcome_that_comes_after_its_delivery_was_given_back_is_recorded(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    store = (await opened(tmp_path, clock)).store
    await fates(store, *(instance(n) for n in range(1, 5)))
    parcels = await store.claim("pacs", 4)
    await store._committer.commit(lambda raw: deliver.recover(raw, None, 0.0, 0.0, trusted=True))
    await store.decide("cancel", Choice(delivery=3), who="test", reason="x")
    assert await states(store) == {1: "queued", 2: "queued", 3: "cancelled", 4: "queued"}
    await store.settle_late([settled(p, S.ACCEPTED) for p in parcels[:3]])
    assert await states(store) == {1: "accepted", 2: "accepted", 3: "cancelled", 4: "queued"}


async def test_an_outcome_never_meets_another_delivery_that_has_its_number_in_a_database_made_anew(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    old = (await opened(tmp_path / "old", clock)).store
    await fates(old, instance(1), instance(2))
    first, second = await old.claim("pacs", 2)
    new = (await opened(tmp_path / "new", clock)).store
    await fates(new, instance(2), instance(3))  # whose deliveries are 1 and 2
    assert len(await new.claim("pacs", 1)) == 1
    with pytest.raises(StoreError, match="Object 1 is not being sent"):
        await new.settle([settled(first, S.ACCEPTED)])
    await new.settle_late([settled(first, S.ACCEPTED), settled(second, S.ACCEPTED)])
    assert await states(new) == {2: "accepted", 3: "queued"}


@pytest.mark.parametrize("before", [0, 1], ids=["the first", "not the first"])
async def test_a_decision_that_was_salvaged_stands_when_its_delivery_is_made_again(store: Store, before: int) -> None:
    for number in range(10, 10 + before):  # tallies at none, and at none again
        await fates(store, instance(number))
        await store.settle([settled(p, S.ACCEPTED) for p in await store.claim("pacs", 9)])
    await store._committer.commit(
        lambda raw: raw.executemany(
            "INSERT INTO salvaged VALUES (?, 'pacs', ?, ?, 'x')", [(1, "held", "HELD"), (2, "cancelled", "CANCELLED")]
        )
    )
    await fates(store, *(instance(n) for n in range(1, 4)))
    assert {n: s for n, s in (await states(store)).items() if n < 10} == {1: "held", 2: "cancelled", 3: "queued"}
    assert [p.instance for p in await store.claim("pacs", 9)] == [3]
    tallies = {key: t.instances for key, t in (await store.reading.tallies()).items() if t.instances}
    expected = {("", "owed"): 2, ("pacs", "held"): 1, ("pacs", "cancelled"): 1, ("pacs", "sending"): 1}
    assert tallies == expected | ({("pacs", "accepted"): before} if before else {})


async def test_a_disk_that_fails_is_opened_anew_and_what_is_known_is_kept(
    tmp_path: Path, clock: ManualClock, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three attempts fail, so a copy in memory stands in: it serves lanes, refuses people, and its outcomes last."""
    monkeypatch.setattr("edge.store.opened._FIRST_PAUSE", 0.01)
    store = (await opened(tmp_path, clock)).store
    await fates(store, *(instance(n) for n in range(1, 4)))
    works, heard = asyncio.Event(), list[str]()
    real = open_writer

    async def failing(folder: Path) -> Connection:
        if folder == tmp_path / "db" and not works.is_set():
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return await real(folder)

    monkeypatch.setattr("edge.store.opened.open_writer", failing)
    store._committer.fail(StoreFailedError("the disk fails"))
    back = asyncio.Event()
    keeping = asyncio.create_task(store.keep(heard.append, lambda _: back.set()))
    async with asyncio.timeout(20):
        while store._copy is None or store._committer.broken is not None:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        assert heard == ["the disk fails"]
        (parcel,) = await store.claim("pacs", 1)
        await store.settle([settled(parcel, S.ACCEPTED)])
        with pytest.raises(StoreError, match="can only be read"):
            await store.decide("hold", Choice(), who="test")
        assert not back.is_set()
        works.set()
        await back.wait()
    keeping.cancel()
    assert await states(store) == {1: "accepted", 2: "queued", 3: "queued"}
    assert await store.decide("hold", Choice(delivery=2), who="test") == 1


@pytest.mark.parametrize("verb", ["hold", "cancel"])
async def test_another_content_goes_on_when_a_person_stops_the_first(store: Store, verb: str) -> None:
    await fates(store, instance(1, uid="1.9", content=5), instance(2, uid="1.9", content=6))
    await store.decide(verb, Choice(delivery=1), who="test")
    assert [p.instance for p in await store.claim("pacs", 5)] == [2]


@pytest.mark.parametrize("verb", ["hold", "cancel"])
async def test_stopping_the_one_in_the_middle_lets_nothing_overtake_the_first(store: Store, verb: str) -> None:
    await fates(store, *(instance(n, uid="1.9", content=n) for n in (1, 2, 3)))
    await store.decide(verb, Choice(delivery=2), who="test")
    assert [p.instance for p in await store.claim("pacs", 5)] == [1]


async def test_what_was_held_and_released_still_waits_its_turn(store: Store) -> None:
    await fates(store, instance(1, uid="1.9", content=5), instance(2, uid="1.9", content=6))
    await store.decide("hold", Choice(delivery=2), who="test")
    await store.decide("release", Choice(delivery=2), who="test")
    (first,) = await store.claim("pacs", 5)
    assert first.instance == 1
    await store.settle([settled(first, S.ACCEPTED)])
    assert [p.instance for p in await store.claim("pacs", 5)] == [2]


async def test_an_instance_whose_file_is_lost_is_replaced_by_the_same_bytes_sent_again(store: Store) -> None:
    await fates(store, instance(1, uid="1.9", content=5))
    await store.lose([1])
    (row,) = await store.reading.trace("1")
    assert (row.state, row.trail[-1].event) == ("lost", "lost")
    assert await fates(store, instance(2, uid="1.9", content=5)) == [Fate.NEW]


async def test_a_batch_with_one_row_that_cannot_be_stored_is_not_half_recorded(store: Store) -> None:
    poisoned = msgspec.structs.replace(instance(2), digest=b"short")
    with pytest.raises(StoreError, match="CHECK constraint failed"):
        await store.record([(instance(1), [leg()]), (poisoned, [leg()])])
    assert await store.states([1, 2]) == {}
    assert await store.reading.tallies() == {}


# claiming and settling


async def test_claims_go_by_priority_then_by_arrival(store: Store) -> None:
    order = [BACKGROUND, ROUTINE, STAT, ROUTINE, STAT, BACKGROUND]
    await store.record([(instance(n), [leg(priority=p)]) for n, p in enumerate(order, 1)])
    claimed = [await store.claim("pacs", 4), await store.claim("pacs", 4), await store.claim("pacs", 4)]
    assert [[p.instance for p in batch] for batch in claimed] == [[3, 5, 2, 4], [1, 6], []]


async def test_a_claim_carries_all_that_a_transport_needs(tmp_path: Path, store: Store) -> None:
    await fates(store, instance(3))
    assert await store.claim("pacs", 1) == [
        Parcel(
            delivery=1,
            instance=3,
            kind=Kind(CT, EXPLICIT),
            sop_instance_uid="1.2.3.3",
            length=100,
            offset=10,
            digest=(3).to_bytes(32, "big"),
            calling="CT1",
            strikes=0,
            path=tmp_path / "3.dcm",
        )
    ]


async def test_upcoming_names_each_need_once_the_most_urgent_first(store: Store) -> None:
    jpeg = [(instance(n, syntax=JPEG), [leg(priority=BACKGROUND)]) for n in (1, 2)]
    await store.record([*jpeg, (instance(3), [leg()]), (instance(4), [leg("cloud", STAT)])])
    assert await store.upcoming("pacs") == [Need(Kind(CT, EXPLICIT), "CT1"), Need(Kind(CT, JPEG), "CT1")]
    assert await store.upcoming("nobody") == []


async def test_what_one_session_claims_no_other_can_claim_or_settle(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    ours, theirs = await opened(tmp_path, clock, 1), await opened(tmp_path, clock, 2)
    await fates(ours.store, instance(1), instance(2))
    mine = await ours.store.claim("pacs", 1)
    (other,) = await theirs.store.claim("pacs", 5)
    assert other.instance == 2
    with pytest.raises(StoreError, match="Object 1 is not being sent to pacs by this session"):
        await theirs.store.settle([settled(other, S.ACCEPTED), settled(mine[0], S.ACCEPTED)])
    assert await states(ours.store) == {1: "sending", 2: "sending"}, "one that is not ours undoes the whole batch"
    await ours.store.settle([settled(mine[0], S.ACCEPTED)])
    with pytest.raises(StoreError, match="Object 1 is not being sent"):
        await ours.store.settle([settled(mine[0], S.HELD)])
    assert await states(ours.store) == {1: "accepted", 2: "sending"}
    await theirs.close()
    await ours.close()


@pytest.mark.parametrize("state", set(S) - MOVES[S.SENDING])
async def test_an_outcome_against_the_table_is_refused(store: Store, state: DeliveryState) -> None:
    await fates(store, instance(1))
    (parcel,) = await store.claim("pacs", 1)
    with pytest.raises(StoreError, match=f"cannot go from sending to {state}"):
        await store.settle([settled(parcel, state)])
    assert await states(store) == {1: "sending"}


async def test_a_new_session_gives_back_exactly_what_others_were_sending(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    first = await opened(tmp_path, clock, 1)
    await fates(first.store, *(instance(n) for n in range(1, 7)))
    one, two, three = await first.store.claim("pacs", 3)
    await first.store.settle([settled(one, S.ACCEPTED), settled(two, S.HELD)])
    await first.close()
    second = await opened(tmp_path, clock, 2)
    assert await states(second.store) == {1: "accepted", 2: "held"} | dict.fromkeys((3, 4, 5, 6), "queued")
    (given_back,) = await second.store.claim("pacs", 1)
    assert given_back.instance == three.instance
    (row,) = await second.store.reading.trace("3")
    assert [step.event for step in row.trail] == ["received", "given-back"]
    await second.close()
    again = await opened(tmp_path, clock, 2)
    assert (await states(again.store))[3] == "sending", "what a session sends is its own"
    await again.close()


async def test_what_waited_for_its_time_waits_by_the_new_clock_after_a_restart(
    tmp_path: Path, clock: ManualClock, opened: Opener
) -> None:
    first = await opened(tmp_path, clock, 1)
    await fates(first.store, instance(1))
    (parcel,) = await first.store.claim("pacs", 1)
    await first.store.settle([settled(parcel, S.QUEUED, not_before=clock.seconds + 300, strikes=4)])
    await first.close()
    clock.seconds = 5.0
    second = await opened(tmp_path, clock, 2, ripe_in=8.0)
    clock.seconds = 12.9
    assert not await second.store.ripe()
    clock.seconds = 13.0
    assert await second.store.ripe()
    hint = second.store.hint("pacs")
    hint.clear()
    await second.store.ripen()
    assert hint.is_set()
    (parcel,) = await second.store.claim("pacs", 1)
    assert parcel.strikes == 4
    await second.close()


async def test_an_attempt_is_counted_and_on_the_trail_only_where_something_was_sent(store: Store) -> None:
    await fates(store, instance(1))
    (parcel,) = await store.claim("pacs", 1)
    await store.settle([settled(parcel, S.QUEUED, attempted=False)])
    (parcel,) = await store.claim("pacs", 1)
    await store.settle([settled(parcel, S.QUEUED, detail="busy")])
    (row,) = await store.reading.trace("1")
    assert row.deliveries[0].attempts == 1
    assert [(step.event, step.destination, step.detail) for step in row.trail[1:]] == [("attempted", "pacs", "busy")]


# people


async def in_every_state(store: Store) -> None:
    """Seven deliveries, one in each state, by the order of the table."""
    await fates(store, *(instance(n) for n in range(1, 8)))
    parcels = {p.instance: p for p in await store.claim("pacs", 9)}
    outcomes = {3: S.ACCEPTED, 4: S.VERIFIED, 5: S.HELD, 7: S.DECLINED, 1: S.QUEUED, 6: S.QUEUED}
    await store.settle([settled(parcels[n], state) for n, state in outcomes.items()])
    await store.decide("cancel", Choice(uid="6"), who="test", reason="test")
    assert await states(store) == {n: str(state) for n, state in enumerate(S, 1)}


@pytest.mark.parametrize(
    ("verb", "moved", "new"),
    [
        ("hold", {1}, S.HELD),
        ("release", {5}, S.QUEUED),
        ("cancel", {1, 5}, S.CANCELLED),
        ("resend", {3, 4, 6, 7}, S.QUEUED),
    ],
)
async def test_a_verb_moves_what_it_may_and_says_so_on_the_trail(
    store: Store, verb: str, moved: set[int], new: DeliveryState
) -> None:
    await in_every_state(store)
    before = await states(store)
    hint = store.hint("pacs")
    hint.clear()
    assert await store.decide(verb, Choice(), who="Ana", reason="because") == len(moved)
    assert await states(store) == before | dict.fromkeys(moved, str(new))
    assert hint.is_set()
    for number in range(1, 8):
        (row,) = await store.reading.trace(str(number))
        said = [(step.code, step.detail) for step in row.trail if step.code == "Ana"]
        assert said == ([("Ana", "because")] if number in moved else [])


async def test_an_unknown_verb_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="'forget' is nothing that can be done to a delivery"):
        await store.decide("forget", Choice(), who="test")


@pytest.mark.parametrize(
    ("choice", "moved"),
    [
        (Choice(), 4),
        (Choice(destination="cloud"), 2),
        (Choice(delivery=1), 1),
        (Choice(delivery=1, destination="cloud"), 0),
        (Choice(uid="1.2.3.2"), 2),
        (Choice(uid="2", destination="pacs"), 1),
        (Choice(uid="1.2.3"), 4),
        (Choice(uid="1.2.4"), 4),
        (Choice(uid="A7"), 4),
        (Choice(uid="' OR 1 OR '"), 0),
        (Choice(destination="nobody"), 0),
    ],
)
async def test_a_choice_means_what_every_part_of_it_applies_to(store: Store, choice: Choice, moved: int) -> None:
    await store.record([(instance(n), [leg("pacs"), leg("cloud")]) for n in (1, 2)])
    assert await store.decide("hold", choice, who="test") == moved


async def test_hastening_lets_go_what_waits_for_its_time(store: Store, clock: ManualClock) -> None:
    await fates(store, instance(1), instance(2))
    parcels = await store.claim("pacs", 1)
    await store.settle([settled(p, S.QUEUED, not_before=clock.seconds + 60, strikes=3) for p in parcels])
    assert [p.instance for p in await store.claim("pacs", 1)] == [2]
    assert await store.hasten(Choice(destination="pacs")) == 1
    (parcel,) = await store.claim("pacs", 1)
    assert (parcel.instance, parcel.strikes) == (1, 0)


async def test_the_queue_lists_what_the_destination_lacks_or_the_state_asked_for(store: Store) -> None:
    await in_every_state(store)
    await store.record([(instance(8), [leg("cloud")])])
    reading = store.reading
    assert [row.state for row in await reading.queue(destination="pacs")] == ["queued", "sending", "held"]
    assert [row.destination for row in await reading.queue(state=S.QUEUED)] == ["pacs", "cloud"]
    assert [row.instance for row in await reading.queue(state=S.CANCELLED)] == [6]
    assert len(await reading.queue(most=2)) == 2


# the model


SYNTAXES: Final = (EXPLICIT, JPEG, "1.2.840.10008.1.2.5")
DESTINATIONS: Final = ("pacs", "cloud")
UIDS: Final = ("1.1", "1.2")


@dataclass
class Delivery:
    """What the model knows of one delivery."""

    id: int
    instance: int
    destination: str
    priority: int
    behind: int | None = None
    state: DeliveryState = S.QUEUED
    not_before: float | None = None
    session: int | None = None
    attempts: int = 0
    strikes: int = 0
    kept_back: bool = False
    """Held by a person, not refused."""

    def row(self) -> tuple[object, ...]:
        return (
            *(self.id, self.instance, self.destination, str(self.state), self.priority),
            *(self.not_before, self.behind, self.session, self.attempts, self.strikes),
        )

    def claimable(self, destination: str) -> bool:
        ready = self.not_before is None and self.behind is None
        return self.destination == destination and self.state is S.QUEUED and ready


_ROWS: Final = """SELECT id, instance, destination, state, priority, not_before, behind, session, attempts, strikes
    FROM delivery ORDER BY id"""


@dataclass
class Model:
    """A queue as dictionaries."""

    instances: dict[int, Instance] = field(default_factory=dict)
    deliveries: dict[int, Delivery] = field(default_factory=dict)

    def of(self, number: int) -> dict[str, Delivery]:
        return {d.destination: d for d in self.deliveries.values() if d.instance == number}

    def deliver(self, number: int, legs: Sequence[Leg]) -> None:
        made = []
        for one in legs:
            if one.destination not in self.of(number):
                made.append(Delivery(len(self.deliveries) + 1, number, one.destination, one.priority))
                self.deliveries[made[-1].id] = made[-1]
        for delivery in made:
            self.enter(delivery)

    def record(self, new: Instance, legs: Sequence[Leg]) -> Fate:
        if new.id in self.instances:
            return Fate.KNOWN
        twins = [i for i in self.instances.values() if i.sop_instance_uid == new.sop_instance_uid]
        for old in reversed(twins):
            if (old.digest, old.kind) == (new.digest, new.kind):
                self.deliver(old.id, legs)
                return Fate.DUPLICATE
        self.instances[new.id] = new
        self.deliver(new.id, legs)
        return Fate.NEW

    def rendering(self, delivery: Delivery) -> bool:
        """Whether it is the same instance in another transfer syntax: not where one syntax has two contents."""
        uid = self.instances[delivery.instance].sop_instance_uid
        all_of_it = [i for i in self.instances.values() if i.sop_instance_uid == uid]
        earlier = {i.kind.transfer_syntax_uid for i in all_of_it if i.id <= delivery.instance}
        contents = {(i.kind.transfer_syntax_uid, i.digest) for i in all_of_it}
        return len(earlier) > 1 and len({syntax for syntax, _ in contents}) == len(contents)

    def line(self, delivery: Delivery) -> tuple[list[Delivery], list[Delivery]]:
        """What goes to the same destination under the same UID: earlier, and later."""
        uid = self.instances[delivery.instance].sop_instance_uid
        line = [
            d
            for d in self.deliveries.values()
            if d.destination == delivery.destination and self.instances[d.instance].sop_instance_uid == uid
        ]
        line.sort(key=lambda d: d.instance)
        here = line.index(delivery)
        return line[:here], line[here + 1 :]

    def stand(self, delivery: Delivery) -> None:
        kept = self.rendering(delivery)
        ahead = [
            d.id
            for d in self.line(delivery)[0]
            if d.state in {S.QUEUED, S.SENDING} or (kept and d.state is S.HELD and d.kept_back)
        ]
        delivery.behind = ahead[-1] if ahead else None
        one = delivery
        while one.behind is not None:
            one = self.deliveries[one.behind]
            if one.state is S.QUEUED:
                one.priority = min(one.priority, delivery.priority)

    def place(self, delivery: Delivery, *, forced: bool = False) -> None:
        there = any(d.state in {S.ACCEPTED, S.VERIFIED} for d in self.line(delivery)[0])
        if there and self.rendering(delivery) and not forced:
            delivery.not_before, delivery.strikes = None, 0
            self.move([delivery], S.CANCELLED)
        else:
            self.stand(delivery)

    def enter(self, delivery: Delivery, *, forced: bool = False) -> None:
        if delivery.state is S.QUEUED:
            self.place(delivery, forced=forced)
        for later in self.line(delivery)[1]:
            if later.state is S.QUEUED:
                self.stand(later)

    def move(
        self, moved: Sequence[Delivery], new: DeliveryState, *, forced: bool = False, person: bool = False
    ) -> None:
        """Who waits behind what is over, refused or put aside goes on, or ends where it is not needed."""
        came = any(delivery.state is not S.SENDING for delivery in moved)
        for delivery in moved:
            assert new in MOVES[delivery.state]
            delivery.state, delivery.behind, delivery.kept_back = new, None, person and new is S.HELD
        if new is S.QUEUED and came:
            for delivery in sorted(moved, key=lambda d: d.instance):
                self.enter(delivery, forced=forced)
        elif new not in {S.QUEUED, S.SENDING}:
            for delivery in moved:
                for other in self.deliveries.values():
                    if other.behind == delivery.id:
                        self.place(other)

    def chosen(self, choice: Choice, states: Sequence[DeliveryState]) -> list[Delivery]:
        return [
            d
            for d in self.deliveries.values()
            if d.state in states
            and choice.destination in ("", d.destination)
            and choice.uid in ("", self.instances[d.instance].sop_instance_uid)
            and choice.delivery in (None, d.id)
        ]


choices = st.one_of(
    st.just(Choice()),
    st.sampled_from(DESTINATIONS).map(lambda name: Choice(destination=name)),
    st.sampled_from(UIDS).map(lambda uid: Choice(uid=uid)),
    st.integers(1, 12).map(lambda number: Choice(delivery=number)),
)
orders = st.dictionaries(st.sampled_from(DESTINATIONS), st.sampled_from([STAT, ROUTINE, BACKGROUND]), min_size=1)


class QueueMachine(RuleBasedStateMachine):
    """The functions that the committer runs, in the committer's own transaction, against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = sqlite3.connect(":memory:", isolation_level=None)
        self.raw.execute("PRAGMA foreign_keys = ON")
        self.committer = Committer(cast("Connection", None))
        self.model = Model()
        self.session = 1
        self.time = 100.0
        self.ordered: set[tuple[str, bytes, str, str]] = set()

    def teardown(self) -> None:
        self.raw.close()

    def commit(self, work: Work[Any]) -> Any:
        ((result, error),) = self.committer._transact(self.raw, [work])
        if error is not None:
            raise error
        return result

    @initialize()
    def migrate(self) -> None:
        schema.migrate(self.raw)

    @rule(
        number=st.integers(1, 30),
        uid=st.sampled_from(UIDS),
        content=st.integers(1, 3),
        syntax=st.sampled_from(SYNTAXES),
        order=orders,
    )
    def receive(self, number: int, uid: str, content: int, syntax: str, order: dict[str, int]) -> None:
        new = instance(number, uid=uid, content=content, syntax=syntax)
        legs = [Leg(name, priority, needs_proof=False) for name, priority in order.items()]
        (recorded,) = self.commit(lambda raw: record.record(raw, [(new, legs)]))
        assert recorded.fate == self.model.record(new, legs)
        if recorded.fate is not Fate.KNOWN:
            self.ordered |= {(uid, new.digest, syntax, name) for name in order}

    @rule(destination=st.sampled_from(DESTINATIONS), most=st.integers(1, 4))
    def claim(self, destination: str, most: int) -> None:
        rows = self.commit(lambda raw: deliver.claim(raw, destination, most, self.session, 0.0))
        able = [d for d in self.model.deliveries.values() if d.claimable(destination)]
        expected = sorted(able, key=lambda d: (d.priority, d.id))[:most]
        assert [row[0] for row in rows] == [d.id for d in expected]
        self.model.move(expected, S.SENDING)
        for d in expected:
            d.session = self.session
            d.attempts += 1

    def sending(self) -> list[Delivery]:
        return [d for d in self.model.deliveries.values() if d.state is S.SENDING]

    @precondition(lambda self: self.sending())
    @rule(
        data=st.data(),
        state=st.sampled_from(sorted(MOVES[S.SENDING])),
        wait=st.none() | st.floats(1, 50),
        attempted=st.booleans(),
        strikes=st.integers(0, 3),
    )
    def settle(
        self, data: st.DataObject, state: DeliveryState, wait: float | None, strikes: int, *, attempted: bool
    ) -> None:
        d = data.draw(st.sampled_from(self.sending()))
        not_before = self.time + wait if wait is not None and state is S.QUEUED else None
        one = Settlement(
            delivery=d.id,
            instance=d.instance,
            destination=d.destination,
            state=state,
            not_before=not_before,
            strikes=strikes,
            attempted=attempted,
            evidence=evidence_of(state),
        )
        self.commit(lambda raw: deliver.settle(raw, [one], self.session, 0.0, trusted=True))
        self.model.move([d], state)
        d.session, d.not_before, d.strikes = None, not_before, strikes
        d.attempts -= not attempted

    @rule(number=st.integers(1, 15), session=st.integers(1, 3))
    def settle_what_is_not_ours(self, number: int, session: int) -> None:
        d = self.model.deliveries.get(number)
        if d is not None and d.session == session:
            return
        instance, destination = (d.instance, d.destination) if d is not None else (99, "pacs")
        one = Settlement(delivery=number, instance=instance, destination=destination, state=S.HELD)
        with pytest.raises(StoreError, match=r"is not being sent to .* by this session"):
            self.commit(lambda raw: deliver.settle(raw, [one], session, 0.0, trusted=True))

    @rule(verb=st.sampled_from(sorted(people._VERBS)), choice=choices)
    def decide(self, verb: str, choice: Choice) -> None:
        new, olds = people._VERBS[verb]
        moved = self.commit(lambda raw: people.decide(raw, verb, choice, who="test", reason="", now=0.0, trusted=True))
        chosen = self.model.chosen(choice, olds)
        assert moved == len(chosen)
        for d in chosen:
            d.not_before, d.strikes = None, 0
        self.model.move(chosen, new, forced=verb == "resend", person=True)

    @rule(choice=choices)
    def hasten(self, choice: Choice) -> None:
        queued = self.commit(lambda raw: people.hasten(raw, choice))
        chosen = self.model.chosen(choice, [S.QUEUED])
        assert queued == len(chosen)
        for d in chosen:
            if d.not_before is not None:
                d.not_before, d.strikes = None, 0

    @rule(seconds=st.floats(0, 60))
    def ripen(self, seconds: float) -> None:
        self.time += seconds
        names = self.commit(lambda raw: deliver.ripen(raw, self.time))
        ripe = [d for d in self.model.deliveries.values() if d.not_before is not None and d.not_before <= self.time]
        assert names == sorted({(d.destination, d.priority) for d in ripe})
        for d in ripe:
            d.not_before = None

    @rule(wait=st.floats(0, 10))
    def restart(self, wait: float) -> None:
        self.session += 1
        self.time = 0.0
        given_back = self.commit(lambda raw: deliver.recover(raw, self.session, wait, 0.0, trusted=True))
        assert given_back == len(self.sending())
        for d in self.model.deliveries.values():
            if d.state is S.QUEUED and d.not_before is not None:
                d.not_before = wait
        for d in self.sending():
            d.state, d.session = S.QUEUED, None

    @invariant()
    def rows_are_the_models(self) -> None:
        if self.model.instances:
            assert self.raw.execute(_ROWS).fetchall() == [d.row() for d in self.model.deliveries.values()]

    @invariant()
    def tallies_equal_counts(self) -> None:
        if not self.model.instances:
            return
        kept = self.raw.execute("SELECT * FROM tally WHERE instances > 0 OR bytes > 0").fetchall()
        counted = self.raw.execute(
            """SELECT destination, state, count(*), sum(bytes) FROM delivery GROUP BY 1, 2 UNION ALL
            SELECT '', 'owed', count(*), sum(length) FROM instance WHERE owed > 0 HAVING count(*) > 0"""
        )
        assert sorted(kept) == sorted(counted)

    @invariant()
    def owed_is_what_waits(self) -> None:
        if not self.model.instances:
            return
        rows = self.raw.execute("SELECT id, owed FROM instance").fetchall()
        assert dict(rows) == {
            number: sum(d.state in WAITING for d in self.model.of(number).values()) for number in self.model.instances
        }

    @invariant()
    def nothing_that_was_ordered_is_lost(self) -> None:
        have = {
            (i.sop_instance_uid, i.digest, i.kind.transfer_syntax_uid, name)
            for i in self.model.instances.values()
            for name in self.model.of(i.id)
        }
        assert have == self.ordered

    @invariant()
    def nobody_waits_behind_what_is_over(self) -> None:
        if not self.model.instances:
            return
        stuck = """SELECT d.id FROM delivery d JOIN delivery p ON p.id = d.behind
            WHERE p.state NOT IN ('queued', 'sending') AND NOT (p.state = 'held' AND p.code = 'HELD')
            OR d.state <> 'queued'"""
        assert self.raw.execute(stuck).fetchall() == []

    @invariant()
    def no_transaction_is_left_open(self) -> None:
        assert not self.raw.in_transaction


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
