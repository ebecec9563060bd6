"""Objects too big for the line: how they are known, that they hold nobody up, and the line that is cut, in short.

`scripts/rig line` runs long.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import pytest

from edge.evidence import Evidence
from edge.findings import Journal
from edge.forward.outcome import Accepted, Outcome, Unreachable
from edge.forward.oversize import BREAKS, Oversize
from edge.forward.transport import Session
from edge.model import Kind, Need
from edge.store import Parcel
from scripts.rigs.line import Begun, Plan, hold
from tests.fakes import FakeTransport, ManualClock
from tests.peers.raw import Received
from tests.peers.relay import Bounds
from tests.test_forward import World, world

__all__ = ["world"]

YES = Accepted("0000", Evidence.STORE_SUCCESS)
FINDING = "OBJECT_TOO_BIG_FOR_LINK"


def parcel(instance: int, length: int) -> Parcel:
    return Parcel(
        delivery=instance,
        instance=instance,
        kind=Kind("1.2", "1.2.840.10008.1.2.1"),
        sop_instance_uid=f"2.25.{instance}",
        length=length,
        offset=0,
        digest=b"",
        calling="CT1",
        strikes=0,
        path=Path("nowhere"),
    )


HUGE, LARGE, SMALL = parcel(1, 200_000_000), parcel(2, 20_000_000), parcel(3, 500_000)


@pytest.fixture
def journal() -> Journal:
    return Journal(ManualClock())


@pytest.fixture
def oversize(journal: Journal) -> Oversize:
    return Oversize("pacs", journal)


def texts(journal: Journal) -> list[str]:
    return [finding.text for finding in journal.open() if finding.code == FINDING]


def test_an_object_is_too_big_when_it_breaks_off_three_times_while_smaller_ones_pass(
    oversize: Oversize, journal: Journal
) -> None:
    for _ in range(BREAKS):
        assert not oversize.has(HUGE)
        oversize.broke(HUGE)
        oversize.passed(SMALL)
    assert oversize.has(HUGE)
    assert oversize.any
    assert texts(journal) == [
        "pacs: the line broke off 3 times in the middle of an object of 200 MB, while smaller ones pass."
    ]
    oversize.broke(HUGE)
    assert "broke off 4 times" in texts(journal)[0]
    oversize.passed(HUGE)
    assert texts(journal) == []
    assert not oversize.any


def test_a_line_on_which_nothing_passes_is_no_matter_of_size(oversize: Oversize, journal: Journal) -> None:
    for _ in range(10):
        oversize.broke(HUGE)
        oversize.broke(SMALL)
    assert texts(journal) == []


def test_what_breaks_off_by_chance_is_not_too_big(oversize: Oversize, journal: Journal) -> None:
    for _ in range(10):
        oversize.broke(SMALL)
        oversize.passed(parcel(4, SMALL.length))
    assert texts(journal) == []


def test_of_several_the_largest_is_told_and_a_refusal_ends_it(oversize: Oversize, journal: Journal) -> None:
    for _ in range(BREAKS):
        oversize.broke(HUGE)
        oversize.broke(LARGE)
    oversize.passed(SMALL)
    assert "each of 2 objects, the largest of 200 MB" in texts(journal)[0]
    oversize.over(HUGE)
    assert "an object of 20 MB" in texts(journal)[0]


async def test_what_a_person_gave_up_is_forgotten(oversize: Oversize, journal: Journal) -> None:
    for _ in range(BREAKS):
        oversize.broke(HUGE)
        oversize.broke(LARGE)
    oversize.passed(SMALL)

    async def owed(name: str, instances: Collection[int]) -> Collection[int]:
        assert (name, set(instances)) == ("pacs", {1, 2})
        return {2}

    await oversize.look(owed)
    assert "20 MB" in texts(journal)[0]


def test_what_is_watched_is_bounded(oversize: Oversize) -> None:
    for number in range(1000):
        oversize.broke(parcel(number, 1000))
    assert len(oversize._broken) == 256


class Cutting:
    """Breaks off in the middle of one object until it is told to hold."""

    def __init__(self, instance: int) -> None:
        self.instance = instance
        self.holds = False
        self.tried: list[int] = []

    def __call__(self, parcel: Parcel) -> Outcome:
        self.tried.append(parcel.instance)
        if parcel.instance == self.instance and not self.holds:
            return Unreachable("CONNECTION_LOST", "cut.", midway=True)
        return YES


def enlarge(world: World, monkeypatch: pytest.MonkeyPatch, instance: int) -> None:
    """Let the store say that one object is large."""
    claim = world.store.claim

    async def larger(name: str, most: int, lowest: int) -> list[Parcel]:
        claimed = await claim(name, most, lowest)
        return [replaced(p, 200_000_000) if p.instance == instance else p for p in claimed]

    monkeypatch.setattr(world.store, "claim", larger)


def replaced(given: Parcel, length: int) -> Parcel:
    return Parcel(**{name: getattr(given, name) for name in given.__struct_fields__} | {"length": length})


async def test_others_go_first_and_it_goes_when_the_line_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    enlarge(world, monkeypatch, 1)
    cutting = Cutting(1)
    await world.arrive(range(1, 30))
    world.lane(cutting)
    await world.until({"accepted": 28, "queued": 1})
    async with asyncio.timeout(20):
        while not texts(world.journal):
            await asyncio.sleep(0.01)
            number = 100 + len(cutting.tried)
            if number not in cutting.tried:  # what passes in between
                await world.arrive(range(number, number + 1))
    assert cutting.tried.count(1) >= BREAKS
    (lane,) = world.lanes
    await world.arrive(range(400, 401))
    async with asyncio.timeout(20):
        while lane.gate.failing or 400 not in cutting.tried:  # noqa: ASYNC110 - nobody calls
            await asyncio.sleep(0.01)
    lane.pause()
    await world.arrive(range(500, 520))
    async with asyncio.timeout(20):
        while await claimable(world) < 21:  # noqa: ASYNC110 - nobody calls
            await asyncio.sleep(0.01)
    before = len(cutting.tried)
    cutting.holds = True
    lane.resume()
    async with asyncio.timeout(20):
        while texts(world.journal):  # noqa: ASYNC110 - nobody calls
            await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while set(await world.states()) != {"accepted"}:  # noqa: ASYNC110 - the store is asked
            await asyncio.sleep(0.01)
    assert [instance for instance in cutting.tried[before:] if instance in {1, *range(500, 520)}] == [
        *range(500, 520),
        1,
    ]


async def claimable(world: World) -> int:
    asked = "SELECT count(*) FROM delivery WHERE state = 'queued' AND not_before IS NULL"
    count: int = await world.store.reading.run(lambda raw: raw.execute(asked).fetchone()[0])
    return count


class Slow:
    """A transport on which one object takes until it is let go, and others no time."""

    def __init__(self, instance: int) -> None:
        self.instance = instance
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.fake = FakeTransport(lambda _: YES)

    async def open(self, needs: Sequence[Need]) -> "Session | Unreachable":
        session = await self.fake.open(needs)
        return session if isinstance(session, Unreachable) else SlowSession(session, self)


class SlowSession:
    def __init__(self, session: Session, slow: Slow) -> None:
        self._session = session
        self._slow = slow

    @property
    def usable(self) -> bool:
        return self._session.usable

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        async for told in self._session.send(parcels):
            if told[0].instance == self._slow.instance:
                self._slow.begun.set()
                await self._slow.let.wait()
            yield told

    async def close(self) -> None:
        await self._session.close()


async def test_what_comes_goes_beside_an_object_that_takes_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    enlarge(world, monkeypatch, 1)
    slow = Slow(1)
    await world.arrive(range(1, 2))
    world.serve(slow, associations=2)
    await slow.begun.wait()
    await world.arrive(range(2, 40))
    await world.until({"accepted": 38, "sending": 1})
    slow.let.set()
    await world.until({"accepted": 39})


def received(uid: str) -> Received:
    return Received("1.2", uid, "1.2.840.10008.1.2.1", b"", 0, "EDGE", 0.0)


def test_the_rig_notices_what_is_sent_again_without_a_break() -> None:
    begun = Begun()
    for uid in ("1.1", "1.2", "1.1"):
        assert begun(received(uid)) == 0
    first, _, last = begun.times["1.1"][0], None, begun.times["1.1"][1]
    assert begun.again() == 1
    assert [problem.split()[0] for problem in begun.needless([])] == ["1.1"]
    assert begun.needless([first - 1.0, last + 1.0]) != []
    begun.times["1.1"] = [first, first + 5.0]
    assert begun.needless([first + 1.0]) == []


@pytest.mark.rig
@pytest.mark.timeout(240)
def test_a_queue_drains_over_a_line_that_is_cut_again_and_again(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    plan = Plan(
        seconds=20.0,
        every=2.0,
        lasting=0.3,
        faults=3.0,
        bounds=Bounds(rate=5e6, delay=0.01),
        largest=2,
        huge=24,
        backlog=8 << 20,
        drain=90.0,
        response=3,
    )
    verdict = hold(tmp_path, plan, random.Random(seed))
    print(f"seed {seed}", *verdict.did, sep="\n")
    assert verdict.problems == []
