"""What is told outside: events that are never lost, never twice and never too many; commands, pauses and findings."""

import asyncio
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge import events as telling
from edge.events import Event
from edge.findings import MOST_OF_A_CODE, Journal, Severity
from edge.forward.outcome import Refused, from_status
from edge.keeping import chronicle as chronicling
from edge.keeping.chronicle import Chronicle
from edge.spool import Identity
from edge.states import DeliveryState
from edge.store import Choice, Dated, LoggedEvent, Mended, Parcel, Settlement, Store, StoreError, events, repair, schema
from edge.store.connection import FILE, Connection, StoreFailedError, open_writer
from tests.fakes import ManualClock, evidence_of
from tests.test_store import instance, leg

S: Final = DeliveryState
INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
YEAR: Final = 365 * 86_400.0
LATER: Final = 1_800_003_600.0


class Box:
    """A store that can be closed and opened again, with the numbers that outlive its database."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = ManualClock()
        self.identity = Identity(root)
        self.most = events.MOST
        self._committing: asyncio.Task[None] | None = None

    async def open(self) -> Store:
        self.identity.open(lambda: 0)
        self.store = await Store.open(
            self.root,
            self.clock,
            self.identity.session,
            lambda number: self.root / f"{number}.dcm",
            new_epoch=lambda: self.identity.next_number("epoch"),
            most_events=self.most,
        )
        self._committing = asyncio.create_task(self.store.run())
        return self.store

    async def close(self) -> None:
        if self._committing is not None:
            self.store.finish()
            await self._committing
            self._committing = None
            await self.store.close()

    async def restart(self) -> Store:
        await self.close()
        return await self.open()

    def burned(self) -> int:
        """Epochs that were taken so far."""
        return int((self.root / "identity" / "epoch").read_text())

    @property
    def database(self) -> Path:
        return self.root / "db" / FILE


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    made = Box(tmp_path)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def store(box: Box) -> Store:
    return box.store


def simple(number: int, severity: Severity = INFO) -> Event:
    return Event(code="DELETED", severity=severity, component="retention", data={"instances": number, "bytes": 1})


async def everything(store: Store) -> list[LoggedEvent]:
    return await store.events_after(0, 1_000_000)


async def told(store: Store) -> list[tuple[str, dict[str, telling.Value]]]:
    return [(e.code, e.data) for e in await everything(store)]


async def trail(store: Store, of: int = 0) -> list[tuple[str, str, str, str]]:
    asked = "SELECT event, destination, code, detail FROM trail WHERE instance = ? ORDER BY seq"
    return await store.reading.run(lambda raw: raw.execute(asked, (of,)).fetchall())


async def claimed(store: Store, *numbers: int, destination: str = "pacs") -> list[Parcel]:
    await store.record([(instance(n), [leg(destination)]) for n in numbers])
    return await store.claim(destination, len(numbers))


def outcome(parcel: Parcel, state: DeliveryState, code: str, destination: str = "pacs") -> Settlement:
    return Settlement(
        delivery=parcel.delivery,
        instance=parcel.instance,
        destination=destination,
        state=state,
        code=code,
        detail="It says: DOE^JANE is unknown here",
        evidence=evidence_of(state),
    )


# the log


async def test_a_month_of_events_is_read_in_order_and_leaves_once(box: Box) -> None:
    store, written, page = box.store, 100_000, 5000
    for start in range(0, written, page):
        await store.write_events([simple(n) for n in range(start, start + page)])
    store = await box.restart()
    assert await store.event_range() == (1, written)
    seen: list[int] = []
    while batch := await store.events_after(0, 777):
        assert [e.seq for e in batch] == list(range(len(seen) + 1, len(seen) + len(batch) + 1))
        seen += [int(e.data["instances"]) for e in batch]
        assert await store.drop_events(batch[-1].seq) == len(batch)
    assert seen == list(range(written))
    assert await store.event_range() == (written + 1, written)
    assert await store.reading.run(events.kept) == 0


async def test_numbers_go_on_when_all_events_have_left_and_the_box_was_started_again(box: Box) -> None:
    assert await box.store.event_range() == (1, 0)
    await box.store.write_events([simple(1), simple(2)])
    await box.store.drop_events(2)
    store = await box.restart()
    assert await store.event_range() == (3, 2)
    await store.write_events([simple(3)])
    assert [e.seq for e in await everything(store)] == [3]


async def test_an_event_is_read_as_it_was_written(box: Box) -> None:
    box.clock.believed = False
    event = Event(code="X", severity=ERROR, component="store", data={"word": "ä", "number": 7, "truth": True})
    await box.store.write_events([event])
    await box.store.write_dated_events([Dated(at=5.5, clock_trusted=True, event=event)])
    expected = LoggedEvent(
        seq=1,
        at=box.clock.wall,
        clock_trusted=False,
        severity=ERROR,
        component="store",
        code="X",
        data={"word": "ä", "number": 7, "truth": True},
    )
    first, second = await everything(box.store)
    assert first == expected
    assert (second.seq, second.at, second.clock_trusted) == (2, 5.5, True)


async def test_whoever_waits_hears_of_events_after_they_are_committed(store: Store) -> None:
    assert not store.events_arrived.is_set()
    await store.write_events([simple(1)])
    assert store.events_arrived.is_set()
    assert len(await everything(store)) == 1


async def test_an_event_that_the_disk_has_spoiled_does_not_stop_those_behind_it(store: Store) -> None:
    await store.write_events([simple(1), simple(2)])
    await store._committer.commit(lambda raw: raw.execute("UPDATE event SET data = '{\"instan' WHERE seq = 1"))
    assert [data for _, data in await told(store)] == [{}, {"instances": 2, "bytes": 1}]


# too many


def add_up(kept: list[LoggedEvent], written: int) -> None:
    """Every number is there, or missing and told to be so by exactly one GAP event."""
    gaps = [e.data for e in kept if e.code == "GAP"]
    missing = set(range(1, kept[-1].seq + 1)) - {e.seq for e in kept}
    assert sum(int(gap["count"]) for gap in gaps) == len(missing)
    assert all(any(int(gap["from"]) <= n <= int(gap["to"]) for gap in gaps) for n in missing)
    assert len(missing) + len(kept) == kept[-1].seq >= written


async def test_when_there_are_too_many_the_least_severe_go_and_of_these_the_oldest(box: Box) -> None:
    box.most = 1000
    store = await box.restart()
    severities = {0: ERROR, 1: WARNING}
    await store.write_events([simple(n, severities.get(n % 10, INFO)) for n in range(1000)])
    assert await store.prune_events() is None
    await store.write_events([simple(1000, ERROR)])
    gap = await store.prune_events()
    assert gap is not None
    assert gap.data == {"from": 3, "to": 128, "count": 102}
    kept = await everything(store)
    assert len(kept) == 900 == await store.reading.run(events.kept)
    assert next(e for e in kept if e.severity is INFO).seq == 129
    assert sum(e.severity is ERROR for e in kept) == 101
    assert sum(e.severity is WARNING for e in kept) == 100 + 1
    add_up(kept, 1001)
    assert await store.prune_events() is None


async def test_what_is_missing_adds_up_however_often_events_were_dropped(box: Box) -> None:
    box.most = 1000
    store = await box.restart()
    written, kept = 0, list[LoggedEvent]()
    for round_number in range(30):
        severity = (INFO, WARNING, WARNING, ERROR)[round_number % 4]
        await store.write_events([simple(n, severity) for n in range(written, written + 300)])
        written += 300
        await store.prune_events()
        kept = await everything(store)
        add_up(kept, written)
        assert len(kept) <= 1000
        assert await store.reading.run(events.kept) == len(kept)
    assert {e.severity for e in kept if e.code != "GAP"} == {ERROR}, "more than a thousand errors came"
    (gap,) = (e.data for e in kept if e.code == "GAP")
    assert gap["from"] == 1, "earlier gaps are part of the last"


async def test_what_somebody_has_is_missing_in_no_gap(box: Box) -> None:
    box.most = 1000
    store = await box.restart()
    await store.write_events([simple(n) for n in range(900)])
    await store.drop_events(400)
    await store.write_events([simple(n) for n in range(501)])
    gap = await store.prune_events()
    assert gap is not None
    assert gap.data == {"from": 401, "to": 502, "count": 102}


# acts


async def test_what_a_destination_refused_is_told_once_for_each_reason(store: Store) -> None:
    parcels = await claimed(store, *range(1, 8))
    states = [S.HELD, S.HELD, S.DECLINED, S.HELD, S.ACCEPTED, S.QUEUED]
    codes = ["0110", "0110", "0122", "FILE_MISSING", "0000", "A700"]
    store.events_arrived.clear()
    await store.settle([outcome(p, s, c) for p, s, c in zip(parcels, states, codes, strict=False)])
    assert store.events_arrived.is_set()
    same = {"destination": "pacs"}
    assert await told(store) == [
        ("DELIVERIES_REFUSED", same | {"reason": "0110", "instances": 2, "state": "held"}),
        ("DELIVERIES_REFUSED", same | {"reason": "0122", "instances": 1, "state": "declined"}),
        ("DELIVERIES_REFUSED", same | {"reason": "FILE_MISSING", "instances": 1, "state": "held"}),
    ]
    assert {e.component for e in await everything(store)} == {"destination.pacs"}
    await store.settle_late([outcome(parcels[6], S.HELD, "0110"), outcome(parcels[0], S.HELD, "0110")])
    assert (await told(store))[3:] == [
        ("DELIVERIES_REFUSED", same | {"reason": "0110", "instances": 1, "state": "held"})
    ], "one was settled before"


async def test_outcomes_that_are_not_recorded_are_not_told(store: Store) -> None:
    first, second = await claimed(store, 1, 2)
    await store.settle([outcome(second, S.ACCEPTED, "0000")])
    with pytest.raises(StoreError, match="not being sent"):
        await store.settle([outcome(first, S.HELD, "0110"), outcome(second, S.HELD, "0110")])
    assert await told(store) == []
    assert await trail(store, 1) == [("received", "", instance(1).digest.hex(), "CT1 at 10.0.0.7")]


async def test_an_act_whose_event_cannot_be_written_is_not_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (parcel,) = await claimed(store, 1)

    def fail(*_: object, **__: object) -> None:
        raise StoreError("no")

    with monkeypatch.context() as patched:
        patched.setattr(events, "write_dated", fail)
        with pytest.raises(StoreError):
            await store.settle([outcome(parcel, S.HELD, "0110")])
        with pytest.raises(StoreError):
            await store.pause("pacs", "command line")
    assert [row.state for row in await store.reading.queue()] == ["sending"]
    assert await store.paused() == frozenset()
    assert await trail(store) == []


async def test_an_event_whose_act_fails_is_not_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("no")

    with monkeypatch.context() as patched:
        patched.setattr("edge.store.people.write", fail)
        patched.setattr("edge.store.commands.write", fail)
        for act in (store.pause("pacs", "monitor"), store.begin_command("a", "retry", "monitor", LATER)):
            with pytest.raises(StoreError, match="no"):
                await act
    assert await told(store) == []
    assert await store.reading.run(events.kept) == 0
    assert await store.paused() == frozenset()
    assert await store.command("a") is None


def test_every_reason_for_a_refusal_is_a_word_of_ours_or_a_status() -> None:
    outcomes = [from_status(code, "DOE^JANE") for code in range(1 << 16)]
    reasons = {o.code for o in outcomes if isinstance(o, Refused)}
    assert len(reasons) > 1000
    assert [reason for reason in reasons if not re.fullmatch(r"[0-9A-F]{4}", reason)] == []


async def test_what_somebody_decided_is_told_with_who_it_was(store: Store) -> None:
    await store.record([(instance(n), [leg("pacs"), leg("cloud")]) for n in (1, 2)])
    await store.decide("hold", Choice(destination="pacs"), who="command line", reason="DOE^JANE asked")
    await store.decide("cancel", Choice(), who="monitor-1", reason="twice")
    await store.decide("hold", Choice(), who="command line")
    assert await told(store) == [
        ("DECIDED", {"verb": "hold", "destination": "pacs", "instances": 2, "by": "command line"}),
        ("DECIDED", {"verb": "cancel", "destination": "", "instances": 4, "by": "monitor-1"}),
    ], "what moves nothing is no event"
    assert "DOE" not in repr(await everything(store))


async def test_what_was_deleted_is_told_with_its_bytes(store: Store) -> None:
    await store.settle([outcome(p, S.ACCEPTED, "0000") for p in await claimed(store, 1, 2)])
    await store.record([(instance(3), [leg()])])
    assert await store.expire([1, 2, 3], "kept as long as configured") == [1, 2]
    assert await store.expire([1, 2], "kept as long as configured") == []
    assert await told(store) == [("DELETED", {"instances": 2, "bytes": 200})]


# pauses


async def test_a_pause_lasts_until_somebody_resumes(box: Box) -> None:
    await box.store.record([(instance(n), [leg()]) for n in range(1, 4)])
    assert await box.store.pause("pacs", "monitor-1")
    assert not await box.store.pause("pacs", "command line")
    assert not await box.store.resume("cloud", "command line")
    store = await box.restart()
    assert await store.paused() == frozenset({"pacs"})
    assert await store.resume("pacs", "command line")
    assert await store.paused() == frozenset()
    assert await told(store) == [
        ("DECIDED", {"verb": "pause", "destination": "pacs", "instances": 3, "by": "monitor-1"}),
        ("DECIDED", {"verb": "resume", "destination": "pacs", "instances": 3, "by": "command line"}),
    ]
    assert await trail(store) == [("paused", "pacs", "monitor-1", ""), ("resumed", "pacs", "command line", "")]


# commands


async def test_a_command_is_carried_out_once_also_after_a_restart(box: Box) -> None:
    store = box.store
    assert await store.begin_command("a", "retry", "monitor-1", LATER)
    assert not await store.begin_command("a", "pause", "monitor-2", LATER + 1)
    await store.finish_command("a", "succeeded", "", {"deliveries": 3})
    store = await box.restart()
    assert not await store.begin_command("a", "retry", "monitor-1", LATER)
    row = await store.command("a")
    assert row is not None
    assert (row.type, row.issued_by, row.received_at, row.expires_at) == ("retry", "monitor-1", box.clock.wall, LATER)
    assert (row.status, row.reason, row.result) == ("succeeded", "", {"deliveries": 3})
    assert await store.recent_commands() == [("a", "succeeded", "", {"deliveries": 3})]
    same = {"id": "a", "type": "retry", "issued_by": "monitor-1", "reason": ""}
    assert await told(store) == [
        ("COMMAND", same | {"status": "accepted"}),
        ("COMMAND", same | {"status": "succeeded"}),
    ], "a replay writes nothing here"
    assert await trail(store) == [
        ("command-accepted", "", "monitor-1", "retry a"),
        ("command-succeeded", "", "monitor-1", "retry a"),
    ]


async def test_a_command_that_was_cut_is_found_unfinished_and_finished_once(box: Box) -> None:
    for number, kind in (("z", "restart"), ("a", "retry"), ("b", "hold")):
        await box.store.begin_command(number, kind, "monitor-1", LATER)
    await box.store.finish_command("b", "failed", "NOTHING_FOUND", {})
    store = await box.restart()
    assert await store.unfinished_commands() == [("z", "restart"), ("a", "retry")]
    await store.finish_command("a", "running", "", {})
    assert await store.unfinished_commands() == [("z", "restart"), ("a", "retry")]
    await store.finish_command("a", "failed", "INTERRUPTED", {})
    for number in ("a", "never"):
        with pytest.raises(StoreError, match="not being carried out"):
            await store.finish_command(number, "succeeded", "", {})
    assert [status for _, status, _, _ in await store.recent_commands()] == ["failed", "failed"]
    last = (await everything(store))[-1]
    assert (last.severity, last.data["status"], last.data["reason"]) == (WARNING, "failed", "INTERRUPTED")
    assert (await trail(store))[-1] == ("command-failed", "", "monitor-1", "retry a: INTERRUPTED")


async def test_a_command_is_forgotten_when_it_is_over_and_has_expired(store: Store) -> None:
    for number, expires in (("a", LATER), ("b", LATER), ("c", LATER + 10)):
        await store.begin_command(number, "retry", "monitor-1", expires)
    await store.finish_command("a", "succeeded", "", {})
    await store.finish_command("c", "succeeded", "", {})
    assert await store.forget_commands(LATER) == []
    assert await store.forget_commands(LATER + 5) == ["a"]
    assert await store.command("a") is None
    assert await store.command("b") is not None, "it is not over"
    assert await store.command("c") is not None, "it could still be replayed"


async def test_a_command_that_was_rejected_is_an_event_and_on_the_trail_and_nothing_else(store: Store) -> None:
    await store.write_events([telling.command("a", "", "", "rejected", "BAD_SIGNATURE"), simple(1)])
    assert await store.command("a") is None
    assert await trail(store) == [("command-rejected", "", "", "a: BAD_SIGNATURE")]
    assert [e.code for e in await everything(store)] == ["COMMAND", "DELETED"]


async def test_rejected_commands_do_not_fill_the_trail(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.store.retain._MOST_REJECTED", 5)
    await store.pause("pacs", "monitor-1")
    await store.write_events([telling.command(f"{n}", "", "", "rejected", "UNSIGNED") for n in range(20)])
    await store.forget(YEAR, 10)
    found = await trail(store)
    assert [detail for event, _, _, detail in found if event != "paused"] == [f"{n}: UNSIGNED" for n in range(15, 20)]
    assert found[0][0] == "paused"


# the epoch


async def test_a_log_keeps_its_epoch_as_long_as_its_database_lives(box: Box) -> None:
    assert box.store.epoch == 1
    for _ in range(3):
        assert (await box.restart()).epoch == 1
    assert box.burned() == 1


async def test_a_database_that_was_set_back_behind_what_was_sent_has_a_new_epoch(box: Box) -> None:
    await box.store.write_events([simple(n) for n in range(10)])
    await box.close()
    shutil.copytree(box.root / "db", box.root / "backup")
    store = await box.open()
    await store.write_events([simple(n) for n in range(5)])
    await store.mark_events(15)
    assert (await box.restart()).epoch == 1, "nothing is amiss"
    await box.close()
    shutil.rmtree(box.root / "db")
    shutil.copytree(box.root / "backup", box.root / "db")
    store = await box.open()
    assert (store.epoch, await store.event_range()) == (2, (1, 10)), "11 to 15 are other events now"
    assert (await box.restart()).epoch == 2
    await box.store.mark_events(10)
    await box.close()
    shutil.rmtree(box.root / "db")
    shutil.copytree(box.root / "backup", box.root / "db")
    assert (await box.open()).epoch == 3, "also one from before the epoch that was sent last"


async def test_what_was_sent_is_kept_beside_the_database_and_only_grows(box: Box) -> None:
    mark = box.root / "identity" / "events"
    await box.store.write_events([simple(n) for n in range(3)])
    assert not mark.exists()
    await box.store.mark_events(3)
    assert mark.read_text() == "1 3\n"
    await box.store.mark_events(2)
    assert mark.read_text() == "1 3\n"
    await (await box.restart()).mark_events(2)
    assert mark.read_text() == "1 3\n", "what is sent again after a start does not set it back"


@pytest.mark.parametrize("nonsense", [b"", b"1", b"one two", b"\xff\xff", b"-1 -1", b"1 " + b"9" * 5000])
async def test_a_mark_that_is_nonsense_is_none(box: Box, nonsense: bytes) -> None:
    (box.root / "identity" / "events").write_bytes(nonsense)
    assert (await box.restart()).epoch == 1


async def test_a_database_that_was_made_anew_has_a_new_epoch_and_keeps_what_people_said(box: Box) -> None:
    await box.store.write_events([simple(n) for n in range(10)])
    await box.store.pause("pacs", "monitor-1")
    await box.store.begin_command("a", "pause", "monitor-1", LATER)
    await box.store.finish_command("a", "succeeded", "", {"changed": True})
    await box.close()
    spoil(box.database, "delivery")
    store = await box.open()
    assert store.mended is Mended.ANEW
    assert (store.epoch, await store.event_range()) == (2, (1, 0))
    assert await store.paused() == frozenset({"pacs"})
    assert not await store.begin_command("a", "pause", "monitor-1", LATER)
    assert await store.recent_commands() == [("a", "succeeded", "", {"changed": True})]
    assert ("paused", "pacs", "monitor-1", "") in await trail(store)
    await box.close()
    shutil.rmtree(box.root / "db")
    assert (await box.open()).epoch == 3


@pytest.mark.parametrize(("what", "epoch", "last"), [("event_by_severity", 1, 10), ("event", 2, 0), ("log", 2, 0)])
async def test_a_damaged_log_costs_no_delivery(box: Box, what: str, epoch: int, last: int) -> None:
    await box.store.record([(instance(1), [leg()])])
    await box.store.write_events([simple(n) for n in range(10)])
    await box.close()
    spoil(box.database, what)
    assert repair.repair(box.root) is Mended.WHOLE
    store = await box.open()
    assert (store.epoch, (await store.event_range())[1]) == (epoch, last)
    assert [row.instance for row in await store.reading.queue()] == [1]
    await store.write_events([simple(1)])
    assert await store.reading.run(events.kept) == len(await everything(store)) == last + 1


async def test_a_log_whose_root_is_damaged_is_begun_anew_at_the_start(box: Box) -> None:
    await box.close()
    spoil(box.database, "event")
    store = await box.open()
    assert (store.mended, store.epoch) == (Mended.WHOLE, 2)


def spoil(path: Path, what: str) -> None:
    """Write nonsense over the first page of a table or index."""
    with closing(sqlite3.connect(path)) as raw:
        asked = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        (page,) = raw.execute(asked, (what,)).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


async def test_a_copy_that_stands_in_gives_no_numbers_and_what_happened_is_told_afterwards(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.store.opened._FIRST_PAUSE", 0.01)
    store, works, real = box.store, asyncio.Event(), open_writer
    await store.record([(instance(n), [leg()]) for n in (1, 2)])
    await store.write_events([simple(1)])

    async def failing(folder: Path) -> Connection:
        if folder == box.root / "db" and not works.is_set():
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return await real(folder)

    monkeypatch.setattr("edge.store.opened.open_writer", failing)
    store._committer.fail(StoreFailedError("the disk fails"))
    back = asyncio.Event()
    keeping = asyncio.create_task(store.keep(lambda _: None, lambda _: back.set()))
    async with asyncio.timeout(20):
        while store._copy is None or store._committer.broken is not None:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        parcels = await store.claim("pacs", 2)
        await store.settle([outcome(p, S.HELD, "0110") for p in parcels])
        assert await store.event_range() == (1, 1), "what was kept can be read, and nothing is added"
        with pytest.raises(StoreError, match="can only be read"):
            await store.write_events([simple(2)])
        works.set()
        await back.wait()
    keeping.cancel()
    assert await told(store) == [
        ("DELETED", simple(1).data),
        ("DELIVERIES_REFUSED", {"destination": "pacs", "reason": "0110", "instances": 2, "state": "held"}),
    ]
    assert (store.epoch, box.burned()) == (1, 1)


async def test_a_number_that_cannot_be_kept_stops_the_start(box: Box) -> None:
    await box.close()
    shutil.rmtree(box.root / "db")
    (box.root / "identity" / "epoch.new").mkdir()
    with pytest.raises(StoreError, match="cannot be opened: Is a directory"):
        await box.open()


def test_counts_grow_over_restarts_and_are_apart(tmp_path: Path) -> None:
    def started() -> Identity:
        identity = Identity(tmp_path)
        identity.open(lambda: 0)
        return identity

    assert [started().next_number("epoch") for _ in range(3)] == [1, 2, 3]
    assert started().next_number("mqtt-session") == 1
    (tmp_path / "identity" / "epoch").write_bytes(b"\xff")
    lost = started()
    lost.at_least("epoch", 7)
    lost.at_least("epoch", 5)
    assert lost.next_number("epoch") == 8
    assert (tmp_path / "identity" / "epoch").read_text() == "8\n"


# migration


async def test_a_database_of_the_version_before_gets_its_log_and_keeps_its_rows(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with closing(sqlite3.connect(tmp_path / "db" / FILE, isolation_level=None)) as raw:
        schema.migrate(raw, 3)
        raw.execute("INSERT INTO study VALUES (1, '1.2', '', '', '', '', '')")
        raw.execute(
            "INSERT INTO instance (id, study, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest, length, "
            "offset, series_uid, modality, series_number, series_description, instance_number, door, calling, called, "
            "address, received_at, clock_trusted, owed, unrouted) "
            "VALUES (1, 1, '1', '1', '1', zeroblob(32), 1, 1, '', '', '', '', '', 'dimse', '', '', '', 0, 1, 1, 0)"
        )
        raw.execute(
            "INSERT INTO delivery (instance, destination, state, priority, needs_proof, bytes, changed_at) "
            "VALUES (1, 'pacs', 'queued', 1, 0, 1, 0)"
        )
    box = Box(tmp_path)
    store = await box.open()
    assert (store.epoch, await store.event_range()) == (1, (1, 0))
    (parcel,) = await store.claim("pacs", 9)
    await store.settle([outcome(parcel, S.HELD, "0110")])
    assert [code for code, _ in await told(store)] == ["DELIVERIES_REFUSED"]
    await box.close()
    with closing(sqlite3.connect(box.database)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


async def test_the_program_before_works_on_a_database_with_a_log(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does it does not tell; and what this one had told is still there after the next update."""
    await box.store.write_events([simple(1)])
    await box.store.record([(instance(1), [leg()])])
    with monkeypatch.context() as before:
        before.setattr(schema, "VERSION", schema.VERSION - 1)
        before.setattr(events, "write_dated", lambda *_: None)
        before.setattr(events, "begin", lambda *_: 0)
        store = await box.restart()
        await store.settle([outcome(p, S.HELD, "0110") for p in await store.claim("pacs", 1)])
        await box.close()
    store = await box.open()
    assert (store.epoch, await told(store)) == (1, [("DELETED", simple(1).data)])


# findings


Heard = tuple[str, str, bool, int]


def test_a_journal_tells_of_every_opening_and_closing() -> None:
    journal, heard = Journal(ManualClock()), list[Heard]()
    journal.note("TWIN", "receive")
    journal.listen(lambda *what: heard.append(what))
    journal.note("TWIN", "receive")
    journal.state("DESTINATION_DOWN", "destination.pacs")
    journal.state("DESTINATION_DOWN", "destination.pacs")
    journal.clear("TWIN", "receive")
    journal.clear("TWIN", "receive")
    assert heard == [
        ("TWIN", "receive", True, 1),
        ("DESTINATION_DOWN", "destination.pacs", True, 1),
        ("TWIN", "receive", False, 2),
    ]


def test_a_finding_that_gives_way_to_others_is_told_as_closed() -> None:
    journal, still_open = Journal(ManualClock()), set[str]()

    def hear(_code: str, component: str, is_open: bool, _count: int) -> None:  # noqa: FBT001
        (still_open.add if is_open else still_open.remove)(component)

    journal.listen(hear)
    for number in range(MOST_OF_A_CODE + 40):
        journal.note("PEER_REFUSED", f"modality.10.0.0.{number}")
    assert still_open == {f.component for f in journal.open()}
    assert len(still_open) == MOST_OF_A_CODE


def test_a_listener_that_fails_troubles_nobody() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    journal = Journal(ManualClock())
    journal.listen(fail)
    journal.note("TWIN", "receive")
    journal.clear("TWIN", "receive")
    assert journal.open() == ()


class Told:
    """A chronicle at work: what it wrote, each as (code, component, open, count)."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.journal = Journal(box.clock)
        self.chronicle = Chronicle(box.store, self.journal, box.clock)

    async def written(self) -> list[tuple[str, str, object, object]]:
        """All that was written, after one more second."""
        await self.chronicle.write()
        self.box.clock.pass_time(1.0)
        return [(e.code, e.component, e.data["open"], e.data["count"]) for e in await everything(self.box.store)]


@pytest.fixture
def watched(box: Box) -> Told:
    return Told(box)


async def test_findings_are_told_when_they_open_and_when_they_close(watched: Told) -> None:
    journal = watched.journal
    journal.note("STORAGE_ERROR", "storage")
    journal.note("TWIN", "receive")
    journal.clear("TWIN", "receive")
    journal.note("STORAGE_ERROR", "storage")
    expected = [
        ("STORAGE_ERROR", "storage", True, 1),
        ("TWIN", "receive", True, 1),
        ("TWIN", "receive", False, 1),
    ]
    assert await watched.written() == expected
    assert await watched.written() == expected
    journal.clear("STORAGE_ERROR", "storage")
    assert await watched.written() == [*expected, ("STORAGE_ERROR", "storage", False, 2)]
    severities = [e.severity for e in await everything(watched.box.store)]
    assert severities == [ERROR, WARNING, INFO, INFO]


async def test_a_finding_from_before_the_chronicle_is_told_too(box: Box) -> None:
    journal = Journal(box.clock)
    journal.note("ACCEPTS_ANYONE", "config.modality")
    await Chronicle(box.store, journal, box.clock).write()
    assert await told(box.store) == [("ACCEPTS_ANYONE", {"open": True, "count": 1})]


async def test_strangers_that_look_alike_outside_are_one_finding_there(watched: Told) -> None:
    journal = watched.journal
    for name in ("DOE^JANE", "10.0.0.7", "10.0.0.8"):
        journal.note("PEER_REFUSED", f"modality.{name}")
    journal.note("PEER_REFUSED", "modality.DOE^JANE")
    journal.clear("PEER_REFUSED", "modality.DOE^JANE")
    journal.clear("PEER_REFUSED", "modality.10.0.0.7")
    assert await watched.written() == [("PEER_REFUSED", "receive", True, 1)]
    journal.clear("PEER_REFUSED", "modality.10.0.0.8")
    assert await watched.written() == [("PEER_REFUSED", "receive", True, 1), ("PEER_REFUSED", "receive", False, 4)]
    journal.note("PEER_REFUSED", "modality.10.0.0.7")
    assert (await watched.written())[2:] == [("PEER_REFUSED", "receive", True, 1)]
    assert "DOE" not in repr(await everything(watched.box.store))


@pytest.mark.parametrize("ends_open", [True, False])
async def test_a_finding_that_flaps_is_told_six_times_a_minute_and_its_last_state_in_the_end(
    watched: Told, *, ends_open: bool
) -> None:
    async def flap(times: int) -> None:
        for _ in range(times):
            watched.journal.note("DESTINATION_DOWN", "destination.pacs")
            watched.journal.clear("DESTINATION_DOWN", "destination.pacs")
            await watched.written()

    await flap(50)
    watched.journal.note("DESTINATION_DOWN", "destination.cloud")
    if ends_open:
        watched.journal.note("DESTINATION_DOWN", "destination.pacs")
    assert sum(component == "destination.pacs" for _, component, _, _ in await watched.written()) == 6
    watched.box.clock.pass_time(10.0)
    found = [is_open for _, component, is_open, _ in await watched.written() if component == "destination.pacs"]
    assert found == [True, False] * 3 + [True] * ends_open
    await flap(120)
    watched.box.clock.pass_time(60.0)
    found = [is_open for _, component, is_open, _ in await watched.written() if component == "destination.pacs"]
    assert len(found) <= 6 * 4
    assert found[-1] is False


async def test_what_cannot_be_written_waits_with_its_time_and_the_oldest_infos_go_first(
    watched: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chronicling, "MOST_PENDING", 10)
    box, journal, chronicle = watched.box, watched.journal, watched.chronicle
    began = box.clock.wall
    box.store._committer.broken = StoreFailedError("the disk fails")
    for number in range(8):
        journal.note("WATCH_LEFT", f"watch.{number}")
        journal.clear("WATCH_LEFT", f"watch.{number}")
        with pytest.raises(StoreError, match="the disk fails"):
            await chronicle.write()
        box.clock.pass_time(1.0)
    assert len(chronicle._pending) == 10
    box.store._committer.broken = None
    found = await watched.written()
    assert [what for what in found if what[2]] == [("WATCH_LEFT", f"watch.{n}", True, 1) for n in range(8)]
    assert {what[1] for what in found if not what[2]} == {"watch.6", "watch.7"}
    times = [e.at for e in await everything(box.store) if e.data["open"]]
    assert times == [began + n for n in range(8)]
    last = {what[1]: what[2] for what in await watched.written()}
    assert last == dict.fromkeys((f"watch.{n}" for n in range(8)), False), "the last state of each is told"


async def test_a_chronicle_keeps_nothing_of_what_is_over(watched: Told) -> None:
    for name in ("a", "b", "c"):
        watched.journal.note("WATCH_LEFT", f"watch.{name}")
        watched.journal.clear("WATCH_LEFT", f"watch.{name}")
    await watched.written()
    assert len(watched.chronicle._findings) == 3
    watched.box.clock.pass_time(60.0)
    await watched.written()
    assert watched.chronicle._findings == {}


async def test_a_chronicle_that_runs_writes_by_itself_and_keeps_the_log_within_its_bound(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chronicling, "_EVERY", 0.01)
    box.most = 1000
    store = await box.restart()
    await store.write_events([simple(n) for n in range(1500)])
    journal = Journal(box.clock)
    running = asyncio.create_task(Chronicle(store, journal, box.clock).run())
    journal.note("TWIN", "receive")
    await until(store, lambda found: {e.code for e in found} == {"DELETED", "TWIN", "GAP"})
    running.cancel()
    kept = await everything(store)
    assert len(kept) == 900
    add_up(kept, 1501)


async def until(store: Store, done: Callable[[list[LoggedEvent]], bool]) -> None:
    async with asyncio.timeout(10):
        while not done(await everything(store)):  # noqa: ASYNC110 - a hint may be missed
            await asyncio.sleep(0.01)
