"""How fast and when it is sent: hours of background work, rate limits, and as many sessions as help."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from edge.board import Board
from edge.config import Config, DimseDestination, FolderDestination
from edge.evidence import Evidence
from edge.findings import Journal
from edge.forward.dimse import DimseTransport
from edge.forward.dispatcher import Lane
from edge.forward.gate import Gate
from edge.forward.judge import Judge
from edge.forward.limit import Limiter, Paced
from edge.forward.outcome import Accepted, Outcome, Unreachable
from edge.forward.oversize import Oversize
from edge.forward.width import Width
from edge.hours import told, until_open, until_shut
from edge.model import BACKGROUND, ROUTINE, Kind, Need
from edge.routing import Leg
from edge.spool import Syncer
from edge.status.collect import Collector
from edge.status.lights import LIGHTS
from edge.status.pace import Bounds, drain
from edge.store import Parcel
from tests.fakes import FakeTransport, ManualClock
from tests.peers.objects import mr
from tests.peers.ports import LOOPBACK
from tests.peers.raw import RawReceiver
from tests.stored import Stored, instance
from tests.test_forward import World, content, world
from tests.test_forward import instance as small
from tests.test_transport import parcel as parcel_of

__all__ = ["world"]

NIGHT: Final = (20 * 60, 6 * 60)
DAY: Final = (8 * 60, 17 * 60 + 30)
HOUR: Final = 3600


@pytest.fixture(params=["UTC", "America/Santiago"])
def local_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(hour: int, minute: int = 0, second: int = 0) -> ManualClock:
    """A clock that shows this hour where the box stands."""
    clock = ManualClock()
    clock.wall = time.mktime((2026, 7, 1, hour, minute, second, 0, 0, -1))
    return clock


# hours


@pytest.mark.usefixtures("local_time")
@pytest.mark.parametrize(
    ("hours", "hour", "minute", "wait"),
    [
        (NIGHT, 20, 0, 0),
        (NIGHT, 23, 59, 0),
        (NIGHT, 0, 0, 0),
        (NIGHT, 5, 59, 0),
        (NIGHT, 6, 0, 14 * 3600),
        (NIGHT, 19, 59, 60),
        (DAY, 8, 0, 0),
        (DAY, 17, 29, 0),
        (DAY, 17, 30, 14.5 * 3600),
        (DAY, 7, 30, 1800),
        (None, 12, 0, 0),
    ],
)
def test_hours_are_those_of_the_local_clock(hours: tuple[int, int] | None, hour: int, minute: int, wait: float) -> None:
    assert until_open(hours, at(hour, minute)) == wait


@pytest.mark.usefixtures("local_time")
def test_hours_end_too() -> None:
    assert [until_shut(NIGHT, at(hour)) / HOUR for hour in (5, 6, 12, 20, 23)] == [1, 0, 0, 10, 7]
    assert until_shut(None, at(12)) == math.inf


def test_a_clock_that_is_not_trusted_opens_everything() -> None:
    clock = at(12)
    assert until_open(NIGHT, clock) > 0
    clock.believed = False
    assert (until_open(NIGHT, clock), until_shut(NIGHT, clock)) == (0, math.inf)


def test_hours_are_told_as_they_were_written() -> None:
    assert [told(NIGHT), told(DAY)] == ["20:00-06:00", "08:00-17:30"]


async def test_background_work_waits_for_its_hours_and_nothing_else_does(world: World) -> None:
    lowest = [ROUTINE]
    fake = FakeTransport()
    for number in range(1, 5):
        (world.folder / f"{number}.dcm").write_bytes(content(number))
        priority = BACKGROUND if number % 2 else ROUTINE
        await world.store.record([(small(number), [Leg("pacs", priority, needs_proof=False)])])
    gauge, clock = world.board.destination("pacs"), ManualClock()
    lane = Lane(
        "pacs",
        fake,
        world.store,
        Gate("pacs", gauge, world.journal, clock, lambda: 0.0),
        associations=1,
        skip_unsupported=False,
        gauge=gauge,
        journal=world.journal,
        clock=clock,
        random=lambda: 0.0,
        spawn=world.supervisor.spawn,
        lowest=lambda: lowest[0],
    )
    world.lanes.append(lane)
    world.supervisor.service("lane pacs", lane.run)
    await world.until({"accepted": 2, "queued": 2})
    assert [p.instance for p in fake.delivered] == [2, 4]
    lowest[0] = BACKGROUND
    await world.until({"accepted": 4})


# the estimate


def parcel_with(length: int) -> Parcel:
    return Parcel(
        delivery=1,
        instance=1,
        kind=Kind("1.2", "1.3"),
        sop_instance_uid="1.2.3",
        length=length,
        offset=0,
        digest=b"",
        calling="CT1",
        strikes=0,
        path=Path("nowhere"),
    )


@pytest.mark.parametrize(
    ("waiting", "rate", "bounds", "up", "seconds"),
    [
        (0, 100.0, Bounds(rate=50), True, None),
        (1000, 100.0, Bounds(), True, 10),
        (1000, 0.0, Bounds(), True, None),
        (1000, 100.0, Bounds(rate=50), True, 20),
        (1000, 10.0, Bounds(rate=50), True, 100),
        (1000, 0.0, Bounds(rate=50), True, 20),
        (1000, 0.0, Bounds(rate=50), False, None),
        (1000, 100.0, Bounds(), False, None),
        (1000, 100.0, Bounds(hours=NIGHT, shut=3600, waits=True), True, 3610),
        (1000, 100.0, Bounds(hours=NIGHT, shut=3600), True, 10),
        (100 * 15 * HOUR, 100.0, Bounds(hours=NIGHT, shut=HOUR, left=0, waits=True), True, (1 + 10 + 14 + 5) * HOUR),
        (100 * 2 * HOUR, 100.0, Bounds(hours=NIGHT, left=HOUR, waits=True), True, (1 + 14 + 1) * HOUR),
        (100 * HOUR, 100.0, Bounds(hours=NIGHT, left=HOUR, waits=True), True, HOUR),
        (100 * 30 * HOUR, 100.0, Bounds(hours=DAY, left=0, shut=HOUR, waits=True), True, (1 + 30 + 3 * 14.5) * HOUR),
        (100 * 30 * HOUR, 100.0, Bounds(hours=NIGHT, waits=True), True, 30 * HOUR),
    ],
)
def test_the_time_to_drain_follows_rate_limit_and_hours(
    waiting: int, rate: float, bounds: Bounds, seconds: int | None, *, up: bool
) -> None:
    assert drain(waiting, rate, bounds, up=up) == seconds


def test_a_large_object_over_a_slow_line_is_no_fast_line() -> None:
    clock = ManualClock()
    gauge = Board(clock).destination("pacs")
    journal = Journal(clock)
    gate = Gate("pacs", gauge, journal, clock, lambda: 0.0)
    judge = Judge(
        "pacs", gate, Width(1, clock), Oversize("pacs", journal), gauge, clock, lambda: 0.0, skip_unsupported=False
    )
    stored = Accepted("0000", Evidence.STORE_SUCCESS)
    judge.settlement(large := parcel_with(length=1_000_000_000), stored, took=1000.0)
    assert gauge.rate.per_second() == 1_000_000
    clock.pass_time(20)
    judge.settlement(large, stored, took=5.0)
    assert gauge.rate.per_second() == 100_000_000


async def test_the_snapshot_tells_limit_hours_and_when_it_will_be_done(tmp_path: Path) -> None:
    pacs = DimseDestination(name="pacs", host="h", ae_title="P", hours=NIGHT, rate_limit=100)
    folder = FolderDestination(name="archive", path=tmp_path)
    async with Stored(tmp_path) as box:
        clock = at(19)
        board = Board(clock)
        board.destination("pacs")
        collector = Collector(
            Config(destination=(pacs, folder)),
            "id",
            box.store.reading,
            board,
            Journal(clock),
            clock,
            lambda: 1 << 40,
            1 << 30,
            light=lambda: LIGHTS["G1"],
            autonomy=lambda: None,
        )

        async def seen() -> tuple[object, ...]:
            one = (await collector.snapshot()).destinations[0]
            return one.rate_limit_bytes_per_second, one.hours, one.hours_open, one.drain_seconds

        await box.receive(instance(1), to=[Leg("pacs", ROUTINE, needs_proof=False)])
        assert await seen() == (100, "20:00-06:00", False, 1)
        await box.receive(instance(2), to=[Leg("pacs", BACKGROUND, needs_proof=False)])
        assert await seen() == (100, "20:00-06:00", False, 3602)
        clock.pass_time(3600)
        assert await seen() == (100, "20:00-06:00", True, 2)
        other = (await collector.snapshot()).destinations[1]
        assert (other.rate_limit_bytes_per_second, other.hours, other.hours_open) == (None, None, True)


# the limit


class Line:
    """What passed a limiter, on a clock that a sleep moves."""

    def __init__(self, rate: int) -> None:
        self.clock = ManualClock(0.0)
        self.limiter = Limiter(rate, self.clock, self._sleep)
        self.passed: list[tuple[float, str, int]] = []

    async def _sleep(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        await asyncio.sleep(0)

    async def send(self, who: str, pieces: Sequence[int]) -> None:
        for piece in pieces:
            await self.limiter.take(piece)
            self.passed.append((self.clock.seconds, who, piece))

    def most_within(self, seconds: float) -> int:
        return max(
            sum(size for moment, _, size in self.passed if begin <= moment < begin + seconds)
            for begin, _, _ in self.passed
        )


@pytest.mark.parametrize("rate", [8_000, 1_000_000, 50_000_000])
async def test_no_second_has_much_more_than_the_limit_and_the_whole_has_it(rate: int) -> None:
    line = Line(rate)
    piece = line.limiter.piece
    assert piece % 2 == 0
    assert piece <= rate * 0.13
    await asyncio.gather(line.send("a", [piece] * 100), line.send("b", [piece] * 100))
    assert line.most_within(1.0) <= rate + 2 * max(piece, int(rate * 0.1))
    assert line.clock.seconds == pytest.approx(200 * piece / rate, rel=0.05)


async def test_an_idle_line_gives_no_more_than_a_tenth_of_a_second_in_advance() -> None:
    line = Line(100_000)
    line.clock.pass_time(3600)
    await line.send("a", [1000] * 300)
    assert line.clock.seconds - 3600 == pytest.approx(2.9, abs=0.05)


async def test_sessions_share_the_rate_by_bytes_whatever_their_pieces() -> None:
    line = Line(1_000_000)
    small_ones = asyncio.ensure_future(line.send("small", [12_000] * 10_000))
    large_ones = asyncio.ensure_future(line.send("large", [100_000] * 10_000))
    while line.clock.seconds < 20:  # noqa: ASYNC110 - the clock is moved by those who wait
        await asyncio.sleep(0)
    for task in (small_ones, large_ones):
        task.cancel()
    await asyncio.wait((small_ones, large_ones))
    sums = {who: sum(size for _, name, size in line.passed if name == who) for who in ("small", "large")}
    assert 0.3 < sums["small"] / sums["large"] < 1.1, sums


async def test_the_body_of_a_request_goes_in_slices_and_is_what_it_was() -> None:
    class Whole:
        length, content_type = 250_000, "text/plain"
        closed = False

        async def stream(self) -> AsyncGenerator[bytes]:
            try:
                yield bytes(range(250)) * 1000
            finally:
                self.closed = True

    whole, line = Whole(), Line(100_000)
    paced = Paced(whole, line.limiter)
    slices = [piece async for piece in paced.stream()]
    assert b"".join(slices) == bytes(range(250)) * 1000
    assert max(map(len, slices)) == line.limiter.piece == 10_000
    assert line.clock.seconds == pytest.approx(2.5, abs=0.15)
    assert whole.closed
    assert (paced.length, paced.content_type) == (250_000, "text/plain")


async def test_a_pacs_gets_no_more_than_the_limit_over_two_associations(tmp_path: Path) -> None:
    rate, syncer, clock = 400_000, Syncer(), time.monotonic
    with RawReceiver() as pacs:
        where = DimseDestination(name="pacs", host=LOOPBACK, port=pacs.port, ae_title="PACS")
        line = Line(rate)
        transport = DimseTransport(where, syncer, limiter=line.limiter)
        objects = mr(24)
        parcels = [parcel_of(tmp_path, one, number) for number, one in enumerate(objects)]
        needs = [Need(Kind(objects[0].sop_class_uid, objects[0].transfer_syntax_uid), "CT1")]

        async def send(some: Sequence[Parcel]) -> None:
            session = await transport.open(needs)
            assert not isinstance(session, Unreachable)
            assert [outcome.code async for _, outcome in session.send(some)] == ["0000"] * len(some)
            await session.close()

        begun = clock()
        await asyncio.gather(send(parcels[::2]), send(parcels[1::2]))
        assert sorted(r.digest for r in pacs.accepted) == sorted(one.digest for one in objects)
        total = sum(one.length for one in objects)
        assert line.clock.seconds == pytest.approx(total / rate, abs=0.2)
        assert clock() - begun < 20
    syncer.close()


# how many sessions


class Peer:
    """A destination whose total rate depends on how many sessions it has."""

    def __init__(self, rate: Callable[[int], float], most: int = 16) -> None:
        self.clock = ManualClock()
        self.width = Width(most, self.clock)
        self.rate = rate
        self.seen: list[int] = []

    def work(self, seconds: float) -> None:
        for _ in range(int(seconds * 100)):
            standing = self.width.target
            self.clock.pass_time(0.01)
            for _ in range(standing):
                self.width.sent(int(self.rate(standing) * 0.01 / standing))
            self.width.turn(standing)
            self.seen.append(self.width.target)


def test_it_grows_as_long_as_the_rate_grows_and_never_above_what_is_allowed() -> None:
    peer = Peer(lambda sessions: sessions * 1e6, most=12)
    peer.work(3)
    assert peer.width.target == 12
    peer.work(60)
    assert set(peer.seen[300:]) == {12}
    assert list(dict.fromkeys(peer.seen)) == [1, 2, 4, 8, 12]


def test_it_stops_where_more_do_not_help_and_asks_again_more_and_more_rarely() -> None:
    peer = Peer(lambda sessions: min(sessions, 4) * 1e6)
    peer.work(5)
    assert peer.width.target == 4
    peer.work(600)
    assert set(peer.seen[500:]) == {4, 5}
    tries = sum(1 for a, b in zip(peer.seen[500:], peer.seen[501:], strict=False) if (a, b) == (4, 5))
    assert 3 <= tries <= 8
    assert peer.seen.count(5) < 600


def test_one_session_stays_one_where_two_are_slower() -> None:
    peer = Peer(lambda sessions: 1e6 / sessions)
    peer.work(60)
    assert peer.width.target == 1
    assert max(peer.seen) == 2


def test_a_line_that_becomes_wide_is_used() -> None:
    wide = [2]
    peer = Peer(lambda sessions: min(sessions, wide[0]) * 1e6)
    peer.work(5)
    assert peer.width.target == 2
    wide[0] = 8
    peer.work(60)
    assert peer.width.target == 8


def test_it_shrinks_on_loss_and_comes_back_one_by_one() -> None:
    peer = Peer(lambda sessions: sessions * 1e6)
    peer.work(5)
    peer.width.lost()
    assert peer.width.target == 8
    for _ in range(9):
        peer.width.lost()
    assert peer.width.target == 8, "the line was cut under all of them, once"
    for _ in range(3):
        peer.clock.pass_time(1.1)
        peer.width.lost()
    assert peer.width.target == 1
    peer.work(9)
    assert peer.width.target == 1, "it is left in peace first"
    peer.work(20)
    assert peer.width.target == 16


def test_a_step_is_judged_over_whole_cycles_of_work() -> None:
    # one object takes 0.3 s, of which 0.2 are the line's: two sessions fill it, and end one soon after the other
    clock = ManualClock()
    width = Width(16, clock)
    apart = 0.05
    targets = []
    for _ in range(40):
        standing = width.target
        apart = 0.4 - apart
        clock.pass_time(0.3 if standing == 1 else apart)
        width.sent(500_000)
        width.turn(standing)
        targets.append(width.target)
    assert width.target >= 2
    assert targets == sorted(targets) or max(targets) <= 4, "and more do not help"
    assert 1 not in targets[targets.index(2) :], "the second is not taken back"


def test_what_was_refused_is_not_asked_for_again_soon() -> None:
    peer = Peer(lambda sessions: sessions * 1e6)
    peer.work(2)
    peer.width.refused(3)
    peer.work(55)
    assert peer.width.target == 3
    peer.work(30)
    assert peer.width.target > 3


def test_a_pause_says_nothing_of_the_rate() -> None:
    peer = Peer(lambda sessions: sessions * 1e6)
    peer.work(1.2)
    before = peer.width.target
    peer.width.rest()
    peer.clock.pass_time(3600)
    peer.width.turn(before)
    assert peer.width.target == before
    peer.work(5)
    assert peer.width.target == 16


class Slow:
    """A destination that takes its time for each object; `most` sessions at once, the others are refused."""

    def __init__(self, most: int) -> None:
        self.open_now = 0
        self.most_open = 0
        self.refused = 0
        self.most = most
        self.fake = FakeTransport()

    async def open(self, needs: Sequence[Need]) -> "SlowSession | Unreachable":
        del needs
        if self.open_now >= self.most:
            self.refused += 1
            return Unreachable("ASSOCIATION_REJECTED", "too many.")
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        return SlowSession(self)


class SlowSession:
    usable = True

    def __init__(self, slow: Slow) -> None:
        self._slow = slow

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        for parcel in parcels:
            await asyncio.sleep(0.05)  # what a long line takes for one answer
            yield parcel, self._slow.fake.take(parcel)

    async def close(self) -> None:
        self._slow.open_now -= 1


@pytest.mark.parametrize(("allowed", "taken", "reached"), [(4, 9, 4), (8, 2, 2)])
async def test_a_lane_has_as_many_sessions_as_help_are_allowed_and_are_taken(
    world: World, allowed: int, taken: int, reached: int
) -> None:
    await world.arrive(range(1, 301))
    slow = Slow(taken)
    world.serve(slow, associations=allowed)
    await world.until({"accepted": 300})
    assert slow.most_open == reached
    assert slow.refused <= 2, "those that were to join at once, and no more"
    assert not [f for f in world.journal.open() if f.code == "DESTINATION_DOWN"], "a session more is no news"
