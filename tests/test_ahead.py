"""What is said ahead: room that runs out, images that wait too long, modalities that are silent; and who calls."""

import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import pytest

from edge.board import Board
from edge.config import Config, DimseDestination, Modality
from edge.dicom.acceptor import Peer
from edge.dicom.pdu import AssociateRequest, UserInformation
from edge.findings import Journal
from edge.intake.admission import Admission
from edge.intake.callers import MOST_STRANGERS, Callers
from edge.intake.policy import ReceivePolicy
from edge.model import Instance, Source
from edge.routing import Leg
from edge.spool import Free, Ledger
from edge.states import DeliveryState
from edge.status import silence
from edge.status.backlog import BacklogWatch
from edge.status.room import Room
from edge.status.silence import SilenceWatch
from edge.store import Choice, Reading, outlook
from edge.store.outlook import Heard, arrivals, heard, may_go, oldest_waiting
from tests.stored import Stored, instance

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
GB: Final = 10**9
CT1: Final = Modality(name="CT room", ae_title="CT1", address="10.0.0.0/24", silent_after=3 * DAY)
MR1: Final = Modality(name="MR", ae_title="MR1", silent_after=3 * DAY)
US1: Final = Modality(name="US", ae_title="US1")
PACS: Final = DimseDestination(name="pacs", host="h", ae_title="PACS")
CONFIG: Final = Config(modality=(CT1, MR1, US1), destination=(PACS,))


class Box:
    """A store that is real, and gauges, findings and a disk that are a test's."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.clock = stored.clock
        self.free = 1000 * GB
        self.reserve = 10 * GB
        self.begin()

    def begin(self) -> None:
        """Start the process anew: gauges and findings are gone, the store is not."""
        self.board = Board(self.clock)
        self.board.destination("pacs")
        self.journal = Journal(self.clock)
        reading = self.stored.store.reading
        self.room = Room(reading, self.board, self.journal, self.clock, lambda: self.free, self.reserve)
        self.backlog = BacklogWatch(reading, self.board, self.journal, self.clock)
        self.silence = SilenceWatch(CONFIG, reading, self.board, self.journal, self.clock)

    async def come(
        self, number: int, *to: str, size: int = 100, ago: float = 0.0, calling: str = "CT1", address: str = "10.0.0.7"
    ) -> None:
        """Record an object that came ``ago`` seconds before now."""
        one = msgspec.structs.replace(
            instance(number),
            length=size,
            source=Source(door="dimse", calling=calling, called="EDGE", address=address),
            received_at=self.clock.wall - ago,
            clock_trusted=self.clock.believed,
        )
        await self.record(one, *to)

    async def record(self, one: Instance, *to: str) -> None:
        await self.stored.store.record([(one, [Leg(name, 1, needs_proof=False) for name in to])])

    def codes(self) -> list[str]:
        return [one.code for one in self.journal.open()]

    def text(self) -> str:
        (only,) = self.journal.open()
        return only.text


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with Stored(tmp_path) as stored:
        yield Box(stored)


# how long the room lasts


async def test_nothing_came_so_nobody_can_tell(box: Box) -> None:
    await box.room.look()
    assert box.room.seconds() is None
    assert box.codes() == []


async def test_the_room_lasts_as_things_came_over_the_last_day(box: Box) -> None:
    await box.room.look()
    for _ in range(48):
        box.board.received(GB)
        box.clock.pass_time(HOUR)
        await box.room.look()
    assert box.room.seconds() == pytest.approx(990 * HOUR, rel=0.05), "a gigabyte an hour"
    for _ in range(24):
        box.board.received(10 * GB)
        box.clock.pass_time(HOUR)
        await box.room.look()
    assert box.room.seconds() == pytest.approx(99 * HOUR, rel=0.05), "what was before the last day is forgotten"


async def test_one_burst_is_the_work_of_a_shift(box: Box) -> None:
    box.board.received(8 * GB)
    box.clock.pass_time(60)
    assert box.room.seconds() == pytest.approx(990 * HOUR, rel=0.01)


async def test_a_restart_does_not_forget_the_day_before(box: Box) -> None:
    for hour in range(24, 0, -1):
        await box.come(100 - hour, size=GB, ago=hour * HOUR - 60)
    box.begin()
    await box.room.look()
    assert box.room.seconds() == pytest.approx(990 * HOUR, rel=0.1)
    box.board.received(GB)
    await box.come(101, size=GB)
    await box.room.look()
    assert box.room.seconds() == pytest.approx(990 * 24 / 25 * HOUR, rel=0.1), "counted once"


async def test_a_clock_that_was_wrong_counts_for_nothing(box: Box) -> None:
    box.clock.believed = False
    await box.come(1, size=500 * GB)
    box.clock.believed = True
    box.begin()
    await box.room.look()
    assert box.room.seconds() is None


async def test_a_disk_that_fills_within_a_day_is_a_finding_until_there_is_more_room(box: Box) -> None:
    box.free = 30 * GB
    for _ in range(24):
        box.board.received(GB)
        await box.room.look()
        box.clock.pass_time(HOUR)
        await box.room.look()
    assert box.codes() == ["DISK_FILLING"]
    assert "20.0 GB are left for images, enough for about 20 hours" in box.text()
    box.free = 36 * GB
    await box.room.look()
    assert box.codes() == ["DISK_FILLING"], "a little more is not enough"
    box.free = 42 * GB
    await box.room.look()
    assert box.codes() == []
    box.free = 36 * GB
    await box.room.look()
    assert box.codes() == [], "and a little less is not too little"


async def test_half_the_reserve_is_too_little_though_nothing_comes(box: Box) -> None:
    box.free = 14 * GB
    await box.room.look()
    assert box.codes() == ["DISK_FILLING"]
    box.free = 2 * GB
    await box.room.look()
    assert "0.0 GB are left for images." in box.text()


async def test_what_was_delivered_and_makes_way_is_room(box: Box) -> None:
    for number in range(1, 31):
        await box.come(number, "pacs", size=GB, ago=20 * HOUR if number > 22 else 2 * DAY)
    box.begin()
    box.free = 12 * GB
    await box.room.look()
    assert box.codes() == ["DISK_FILLING"]
    await box.stored.settle(DeliveryState.ACCEPTED)
    await box.room.look()
    assert box.codes() == ["DISK_FILLING"], "it is not counted again at once"
    box.clock.pass_time(61)
    await box.room.look()
    assert box.codes() == []
    assert box.room.seconds() == pytest.approx(32 * GB / (8 * GB / (20 * HOUR)), rel=0.05)
    assert await may_go(box.stored.store.reading, 5 * GB) == 5 * GB, "no more is counted than is of use"


# what waits


async def test_images_that_wait_for_a_day_are_a_finding_that_says_why(box: Box) -> None:
    await box.come(1, "pacs", ago=DAY - 60)
    await box.come(2, "pacs")
    await box.backlog.look()
    assert box.codes() == []
    box.clock.pass_time(2 * HOUR)
    await box.backlog.look()
    said = "Images have waited for more than a day: 2 objects wait for pacs, the oldest for 25 hours: "
    assert box.text() == f"{said}it answers, but takes them slowly or not at all."
    box.board.destination("pacs").problem_code = "NO_ANSWER"
    await box.backlog.look()
    assert box.text() == f"{said}it cannot be reached (NO_ANSWER)."
    box.board.destination("pacs").paused = True
    await box.backlog.look()
    assert box.text() == f"{said}somebody paused it: edge resume pacs."
    assert box.journal.open()[0].component == "destination.pacs"
    assert box.journal.open()[0].count == 1


async def test_what_is_held_or_came_by_a_wrong_clock_does_not_wait_too_long(box: Box) -> None:
    await box.come(1, "pacs", ago=2 * DAY)
    await box.stored.store.decide("hold", Choice(), who="test")
    box.clock.believed = False
    await box.come(2, "pacs", ago=2 * DAY)
    box.clock.believed = True
    await box.backlog.look()
    assert box.codes() == []


async def test_a_clock_that_is_wrong_now_makes_nothing_old(box: Box) -> None:
    await box.come(1, "pacs", ago=2 * DAY)
    box.clock.believed = False
    await box.backlog.look()
    assert box.codes() == []
    box.clock.believed = True
    await box.backlog.look()
    assert box.codes() == ["BACKLOG_OLD"]


async def test_the_oldest_is_found_whatever_it_waits_for(box: Box) -> None:
    reading = box.stored.store.reading
    assert await oldest_waiting(reading, "pacs") is None
    for number, priority in ((1, 2), (2, 0), (3, 1)):
        one = msgspec.structs.replace(instance(number), received_at=1000.0 * number)
        await box.stored.store.record([(one, [Leg("pacs", priority, needs_proof=False)])])
    assert await oldest_waiting(reading, "pacs") == 1000.0
    (first, *_) = await box.stored.store.claim("pacs", 1)
    assert first.instance == 2
    assert await oldest_waiting(reading, "pacs") == 1000.0
    assert await oldest_waiting(reading, "other") is None


async def test_what_is_tried_again_later_waits_too(box: Box) -> None:
    await box.come(1, "pacs", ago=2 * DAY)
    await box.stored.run("UPDATE delivery SET not_before = 99999")
    await box.backlog.look()
    assert box.codes() == ["BACKLOG_OLD"]
    await box.stored.run("UPDATE delivery SET not_before = NULL")
    await box.stored.settle(DeliveryState.ACCEPTED)
    await box.backlog.look()
    assert box.codes() == []


async def test_no_question_walks_the_whole_store(box: Box) -> None:
    plans: list[str] = []

    async def explained(work: Callable[[sqlite3.Connection], object]) -> object:
        def ask(raw: sqlite3.Connection) -> object:
            raw.set_trace_callback(asked.append)
            try:
                return work(raw)
            finally:
                raw.set_trace_callback(None)

        asked: list[str] = []
        answer = await real(ask)
        for one in asked:
            rows = await real(lambda raw, one=one: raw.execute(f"EXPLAIN QUERY PLAN {one}").fetchall())  # type: ignore[misc]
            plans.extend(row[3] for row in rows)
        return answer

    await box.come(1, "pacs")
    reading = box.stored.store.reading
    real, reading.run = reading.run, explained  # type: ignore[assignment, method-assign]
    await oldest_waiting(reading, "pacs")
    await may_go(reading, 5)
    assert any("delivery_claim" in plan for plan in plans)
    assert any("delivery_ripen" in plan for plan in plans)
    assert any("delivery_sending" in plan for plan in plans)
    assert any("instance_settled" in plan for plan in plans)
    assert [plan for plan in plans if re.match(r"SCAN (delivery|instance)(?! USING INDEX)", plan)] == []


async def test_arrivals_are_told_by_the_hour_between_two_times(box: Box) -> None:
    noon = 1_800_000_000.0
    for number, at in enumerate((noon - 7200, noon - 30, noon + 10, noon + 20, noon + 4000), 1):
        await box.record(msgspec.structs.replace(instance(number), received_at=at), "pacs")
    told = await arrivals(box.stored.store.reading, noon - 3600, noon + 3600)
    assert [(one.at, one.bytes) for one in told] == [(noon + 20, 200), (noon - 30, 100)]


# who calls


def called(calling: str, called: str = "EDGE") -> AssociateRequest:
    return AssociateRequest(called=called, calling=calling, contexts=(), user=UserInformation())


@pytest.fixture
def policy(box: Box) -> ReceivePolicy:
    admission = Admission(box.board, box.journal, box.clock, Ledger(lambda: Free(1 << 40, 1 << 20), 1))
    admission.open("starting")
    return ReceivePolicy(CONFIG, admission, box.board, box.journal, now=box.clock.monotonic)


def test_each_modality_has_its_own_line_and_strangers_theirs(box: Box, policy: ReceivePolicy) -> None:
    assert [gauge.heard_at for gauge in box.board.modalities.values()] == [None] * 3
    assert policy.admit(called("CT1"), "10.0.0.7") is None
    ct1 = box.board.modalities["CT room"]
    assert (ct1.heard_at, ct1.object_at, ct1.address) == (box.clock.wall, None, "10.0.0.7")
    box.clock.pass_time(10)
    policy.received(Peer("CT1", "EDGE", "10.0.0.7"))
    assert (ct1.heard_at, ct1.object_at) == (box.clock.wall, box.clock.wall)
    assert policy.admit(called("CT1"), "192.168.1.1") is not None
    assert policy.admit(called("CT1", "OTHER"), "10.0.0.8") is not None
    assert (ct1.refused, ct1.refused_because) == (1, "it calls this box by another name")
    assert (ct1.heard_at, ct1.address) == (box.clock.wall, "10.0.0.7"), "who is refused was not heard"
    (stranger,) = box.board.strangers.values()
    assert (stranger.name, stranger.ae_title, stranger.address) == ("", "CT1", "192.168.1.1")
    assert (stranger.refused, stranger.refused_because) == (1, "it is not among the modalities")


def test_a_destination_that_calls_is_no_stranger(box: Box, policy: ReceivePolicy) -> None:
    assert policy.admit(called("PACS"), "10.9.9.9") is None
    assert box.board.strangers == {}


def test_strangers_are_bounded_and_their_titles_too(box: Box, policy: ReceivePolicy) -> None:
    for number in range(3 * MOST_STRANGERS):
        policy.admit(called("regular"), "10.1.1.1")
        policy.admit(called(f"{number}\n" + "X" * 500), f"10.2.0.{number % 256}")
    assert len(box.board.strangers) == MOST_STRANGERS
    assert box.board.strangers["regular", "10.1.1.1"].refused == 3 * MOST_STRANGERS
    assert all(len(g.ae_title) <= 16 and g.ae_title.isprintable() for g in box.board.strangers.values())


# who is silent


async def test_a_modality_is_silent_when_nothing_was_heard_for_as_long_as_configured(box: Box) -> None:
    await box.silence.remember()
    Callers(CONFIG, box.board).let_in("CT1", "10.0.0.7")
    Callers(CONFIG, box.board).let_in("MR1", "10.7.7.7")
    box.clock.pass_time(3 * DAY - 1)
    box.silence.look()
    assert box.codes() == []
    Callers(CONFIG, box.board).let_in("MR1", "10.7.7.7")
    box.clock.pass_time(2)
    box.silence.look()
    assert box.text() == "CT room is silent: for more than 3 days nothing was heard of it."
    assert box.journal.open()[0].component == "modality.CT room"
    Callers(CONFIG, box.board).let_in("CT1", "10.0.0.7")
    box.silence.look()
    assert box.codes() == []


async def test_a_restart_does_not_forget_how_long_it_is(box: Box) -> None:
    await box.come(1, ago=5 * DAY)
    await box.come(2, calling="MR1", ago=1 * DAY)
    await box.come(3, calling="CT1", address="192.168.1.1", ago=HOUR)
    box.begin()
    box.silence.look()
    assert box.codes() == [], "it is not known yet"
    await box.silence.remember()
    box.clock.pass_time(HOUR - 1)
    box.silence.look()
    assert box.codes() == [], "the box has hardly listened"
    box.clock.pass_time(2)
    box.silence.look()
    assert box.text().startswith("CT room is silent: for more than 5 days"), "another address is another machine"
    ct1 = box.board.modalities["CT room"]
    assert (ct1.heard_at, ct1.object_at) == (box.clock.wall - 5 * DAY - HOUR - 1,) * 2


async def test_what_is_heard_while_the_store_is_read_counts(box: Box) -> None:
    await box.come(1, ago=5 * DAY)
    box.begin()
    box.clock.pass_time(10)
    Callers(CONFIG, box.board).let_in("CT1", "10.0.0.9")
    await box.silence.remember()
    ct1 = box.board.modalities["CT room"]
    assert (ct1.heard_at, ct1.address, ct1.object_at) == (box.clock.wall, "10.0.0.9", box.clock.wall - 5 * DAY - 10)


async def test_a_modality_that_was_never_heard_is_measured_from_the_start(box: Box) -> None:
    await box.silence.remember()
    box.clock.pass_time(3 * DAY + 1)
    box.silence.look()
    assert {one.component for one in box.journal.open()} == {"modality.CT room", "modality.MR"}
    assert "it was never heard of" in box.journal.open()[0].text


async def test_the_store_is_read_in_parts_and_no_further_than_needed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "CHUNK", 3)
    for number, calling in enumerate(["US1", "MR1", *["X"] * 5, "CT1", "X"], 1):
        await box.come(number, calling=calling, ago=1000 - number)
    asked: list[int] = []

    async def part(reading: Reading, titles: Sequence[str], upto: int) -> tuple[list[Heard], int]:
        asked.append(upto)
        return await heard(reading, titles, upto)

    monkeypatch.setattr(silence, "heard", part)
    box.begin()
    await box.silence.remember()
    assert asked == [9, 6, 3]
    assert all(gauge.object_at is not None for gauge in box.board.modalities.values())


async def test_while_the_clock_is_wrong_what_was_before_is_not_known(box: Box) -> None:
    await box.come(1, ago=5 * DAY)
    box.begin()
    box.clock.believed = False
    await box.silence.remember()
    box.clock.pass_time(9 * DAY)
    box.silence.look()
    assert box.codes() == []
    box.clock.believed = True
    await box.silence.remember()
    box.silence.look()
    assert box.codes() == ["MODALITY_SILENT"] * 2
