"""Priority: what is urgent goes first, also past what was claimed already, and people can make it so."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from edge.config import DimseDestination
from edge.control import Control
from edge.forward.batch import Batch
from edge.forward.dimse import DimseTransport
from edge.forward.outcome import Outcome, Unreachable
from edge.forward.transport import Session
from edge.forward.width import Width
from edge.model import BACKGROUND, ROUTINE, STAT, Need
from edge.routing import Leg
from edge.spool import Syncer
from edge.states import DeliveryState
from edge.store import Choice, Parcel, Settlement
from edge.store.people import INSTANCES
from tests.appliance import Edge, dimse
from tests.fakes import FakeTransport
from tests.peers.objects import tiny, uid
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.stored import Stored, instance
from tests.test_forward import World, content, world
from tests.test_forward import instance as small

__all__ = ["world"]


def to_pacs(priority: int = ROUTINE) -> list[Leg]:
    return [Leg("pacs", priority, needs_proof=False)]


async def urgent(world: World, *numbers: int) -> None:
    for number in numbers:
        (world.folder / f"{number}.dcm").write_bytes(content(number))
    await world.store.record([(small(number), to_pacs(STAT)) for number in numbers])


# in the queue


async def test_deliveries_are_claimed_by_priority_then_by_age(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        for number, priority in ((1, BACKGROUND), (2, ROUTINE), (3, STAT), (4, ROUTINE), (5, STAT)):
            await box.receive(instance(number), to=to_pacs(priority))
        claimed = await box.store.claim("pacs", 9)
        assert [(p.instance, p.priority) for p in claimed] == [(3, 0), (5, 0), (2, 1), (4, 1), (1, 2)]


async def test_what_is_less_urgent_than_may_go_stays(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        for number, priority in ((1, BACKGROUND), (2, ROUTINE)):
            await box.receive(instance(number), to=to_pacs(priority))
        assert [p.instance for p in await box.store.claim("pacs", 9, ROUTINE)] == [2]
        assert await box.store.upcoming("pacs", lowest=ROUTINE) == []
        assert len(await box.store.upcoming("pacs")) == 1


async def test_the_store_hints_at_what_presses_until_it_is_claimed(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        store = box.store
        assert store.pressing("pacs") > BACKGROUND
        await box.receive(*map(instance, (1, 2, 3)), to=to_pacs(ROUTINE))
        assert store.pressing("pacs") == ROUTINE
        await box.receive(*map(instance, (4, 5)), to=to_pacs(STAT))
        assert (store.pressing("pacs"), store.pressing("cloud")) == (STAT, BACKGROUND + 1)
        assert [p.instance for p in await store.claim("pacs", 1)] == [4]
        assert store.pressing("pacs") == STAT, "another waits"
        assert [p.instance for p in await store.claim("pacs", 9)] == [5, 1, 2, 3]
        assert store.pressing("pacs") > BACKGROUND


# by a person


async def test_a_person_lets_a_study_go_first_and_the_trail_says_who(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(*(instance(n, study="1.2.3") for n in (1, 2)), to=to_pacs())
        await box.receive(*(instance(n, study="1.2.9") for n in (3, 4)), to=to_pacs())
        assert await box.store.hurry(Choice(uid="1.2.9"), who="command line", reason="stroke") == 2
        assert [row.priority for row in await box.store.reading.queue()] == ["routine", "routine", "stat", "stat"]
        assert [p.instance for p in await box.store.claim("pacs", 2)] == [3, 4]
        (row,) = await box.store.reading.trace("3")
        (step,) = [t for t in row.trail if t.event == "hurried"]
        assert (step.destination, step.code, step.detail) == ("pacs", "command line", "stroke")
        assert await box.store.hurry(Choice(uid="1.2.3.3"), who="command line") == 0, "it is on its way"


async def test_what_is_made_stat_waits_for_nothing(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(instance(1), to=to_pacs())
        (parcel,) = await box.store.claim("pacs", 1)
        put_off = Settlement(
            delivery=parcel.delivery, instance=1, destination="pacs", state=DeliveryState.QUEUED, not_before=1e9
        )
        await box.store.settle([put_off])
        assert await box.store.claim("pacs", 1) == []
        assert await box.store.hurry(Choice(delivery=parcel.delivery), who="test") == 1
        assert [p.instance for p in await box.store.claim("pacs", 1)] == [1]


async def test_what_is_made_stat_takes_along_what_it_waits_behind(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(instance(1), to=to_pacs())
        await box.receive(*(instance(n, uid="1.7", content=n) for n in (2, 3, 4)), to=to_pacs())
        await box.store.hurry(Choice(uid="4"), who="test")
        assert [row.priority for row in await box.store.reading.queue()] == ["routine", "stat", "stat", "stat"]
        assert [p.instance for p in await box.store.claim("pacs", 1)] == [2]


async def test_what_is_urgent_hurries_what_it_waits_behind(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        for number, priority in ((1, BACKGROUND), (2, ROUTINE), (3, STAT), (4, BACKGROUND)):
            await box.receive(instance(number, uid="1.7", content=number), to=to_pacs(priority))
        assert [row.priority for row in await box.store.reading.queue()] == ["stat", "stat", "stat", "background"]
        assert [p.instance for p in await box.store.claim("pacs", 9, ROUTINE)] == [1], "its hours are not waited for"


async def test_a_study_is_found_without_a_look_at_every_instance(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.store.record([(instance(n, study=f"1.2.{n // 10}"), to_pacs()) for n in range(1, 3000)])

        def steps(raw: sqlite3.Connection, name: str) -> tuple[int, int]:
            ticks: list[None] = []
            raw.set_progress_handler(lambda: ticks.append(None), 100)
            found = raw.execute(INSTANCES, (name,) * INSTANCES.count("?")).fetchall()
            raw.set_progress_handler(None, 0)
            return len(found), len(ticks)

        async def looked(name: str) -> tuple[int, int]:
            return await box.store.reading.run(lambda raw: steps(raw, name))

        (series, thorough), (studies, quick) = await looked("1.2.7.4"), await looked("1.2.7")
        assert (series, studies) == (10, 10)
        assert quick * 5 < thorough
        for name in ("1.2.3.1234", "1234"):
            assert (found := await looked(name))[0] == 1
            assert found[1] * 5 < thorough
        assert (await looked("1.2.9999"))[0] == 0


class NoLanes:
    def __init__(self) -> None:
        self.hastened: list[str] = []

    def has(self, name: str) -> bool:
        return name == "pacs"

    def hasten(self, name: str) -> None:
        self.hastened.append(name)

    def pause(self, name: str) -> None:
        raise AssertionError(name)

    resume = pause


async def test_control_makes_stat_and_opens_the_gate(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(instance(1), to=to_pacs())
        lanes = NoLanes()
        assert await Control(box.store, lanes).act("stat", Choice(destination="pacs"), who="dashboard") == 1
        assert lanes.hastened == ["pacs"]


# on the wire


class Gated:
    """A destination that takes one object each time it is let; it notes in which order they begin."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.let = asyncio.Semaphore(0)
        self.fake = FakeTransport()

    async def open(self, needs: Sequence[Need]) -> "GatedSession":
        del needs
        return GatedSession(self)

    async def waits(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:  # noqa: ASYNC110 - a list does not call
                await asyncio.sleep(0.001)


class GatedSession:
    usable = True

    def __init__(self, gated: Gated) -> None:
        self._gated = gated

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        for parcel in parcels:
            self._gated.begun.append(parcel.instance)
            await self._gated.let.acquire()
            yield parcel, self._gated.fake.take(parcel)

    async def close(self) -> None:
        self._gated.let.release()


async def test_what_is_urgent_overtakes_the_batch_and_what_was_claimed_ahead(world: World) -> None:
    await world.arrive(range(1, 101))
    gated = Gated()
    world.serve(gated)
    await gated.waits(1)
    for number in range(1, 5):  # one by one, until it is known how long they take
        gated.let.release()
        await gated.waits(number + 1)
    async with asyncio.timeout(10):
        while (await world.states())["sending"] < 4:  # noqa: ASYNC110 - the store is asked
            await asyncio.sleep(0.001)
    await urgent(world, 500)
    gated.let.release()
    await gated.waits(6)
    assert gated.begun == [1, 2, 3, 4, 5, 500]
    for _ in range(100):
        gated.let.release()
    await world.until({"accepted": 101})
    assert gated.begun == [1, 2, 3, 4, 5, 500, *range(6, 101)], "the others keep their order"
    attempts = {row.attempts for n in (3, 40, 100) for row in (await world.store.reading.trace(str(n)))[0].deliveries}
    assert attempts == {1}, "what was given back was no attempt"


async def test_what_a_person_makes_stat_overtakes_too(world: World) -> None:
    await world.arrive(range(1, 101))
    gated = Gated()
    world.serve(gated)
    await gated.waits(1)
    await world.store.hurry(Choice(uid="90"), who="test")
    gated.let.release()
    await gated.waits(2)
    assert gated.begun == [1, 90]
    for _ in range(100):
        gated.let.release()
    await world.until({"accepted": 100})


async def test_a_pause_stops_what_was_claimed_between_two_objects(world: World) -> None:
    await world.arrive(range(1, 101))
    gated = Gated()
    world.serve(gated)
    await gated.waits(1)
    world.lanes[0].pause()
    gated.let.release()
    await world.until({"accepted": 1, "queued": 99})
    assert gated.begun == [1], "it was on the wire"
    world.lanes[0].resume()
    for _ in range(100):
        gated.let.release()
    await world.until({"accepted": 100})


async def test_background_work_that_was_claimed_stops_when_its_hours_are_over(world: World) -> None:
    for number in range(1, 101):
        (world.folder / f"{number}.dcm").write_bytes(content(number))
        await world.store.record([(small(number), to_pacs(ROUTINE if number == 2 else BACKGROUND))])
    gated, lowest = Gated(), [BACKGROUND]
    world.serve(gated, lowest=lambda: lowest[0])
    await gated.waits(1)
    gated.let.release()
    await gated.waits(2)
    lowest[0] = ROUTINE
    gated.let.release()
    await world.until({"accepted": 2, "queued": 98})
    assert gated.begun == [2, 1]
    lowest[0] = BACKGROUND
    for _ in range(100):
        gated.let.release()
    await world.until({"accepted": 100})


class Noting:
    """A transport that notes in which order objects go onto the wire."""

    def __init__(self, transport: DimseTransport) -> None:
        self.begun: list[int] = []
        self._transport = transport

    async def open(self, needs: Sequence[Need]) -> Session | Unreachable:
        session = await self._transport.open(needs)
        return session if isinstance(session, Unreachable) else NotingSession(session, self.begun)


class Noted(Batch):
    """Parcels that are noted when they are given out."""

    def __init__(self, parcels: Sequence[Parcel], begun: list[int]) -> None:
        super().__init__(parcels, lambda _: False)
        self._begun = begun

    def __iter__(self) -> Iterator[Parcel]:
        for parcel in self._parcels:
            self._begun.append(parcel.instance)
            yield parcel


class NotingSession:
    def __init__(self, session: Session, begun: list[int]) -> None:
        self._session = session
        self._begun = begun

    @property
    def usable(self) -> bool:
        return self._session.usable

    def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        return self._session.send(Noted(parcels, self._begun))

    async def close(self) -> None:
        await self._session.close()


@pytest.mark.parametrize("associations", [1, 4])
async def test_a_stat_study_is_at_the_pacs_before_two_thousand_that_wait(
    world: World, associations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Width, "turn", lambda *_: None)  # how many there are is not what is looked at
    study = range(5000, 5020)
    await world.arrive(range(1, 2001))
    syncer = Syncer()
    with RawReceiver(delay_response=0.002) as pacs:
        where = DimseDestination(name="pacs", host=LOOPBACK, port=pacs.port, ae_title="PACS", associations=associations)
        noting = Noting(DimseTransport(where, syncer))
        world.serve(noting, associations=associations)
        world.lanes[0]._width.target = associations
        gauge = world.board.destination("pacs")
        async with asyncio.timeout(20):
            while gauge.associations < associations or len(pacs.received) < 100:  # noqa: ASYNC110 - a gauge
                await asyncio.sleep(0.001)
        await urgent(world, *study)
        before = len(noting.begun)
        there: list[int] = []
        async with asyncio.timeout(10):
            while len(there) < len(study):
                await asyncio.sleep(0.001)
                came = [r.sop_instance_uid for r in list(pacs.received)]
                there = [i for i, one in enumerate(came) if one in {f"1.2.{n}" for n in study}]
        # what others began while the first and the last were claimed is on the wire beside them
        begun = [number in study for number in noting.begun]
        last = len(begun) - begun[::-1].index(True)
        assert begun[:last].count(False) <= before + 2 * associations
        assert there[-1] < 2000
        world.lanes[0].stop()
        async with asyncio.timeout(10):
            while gauge.associations:  # noqa: ASYNC110 - a gauge
                await asyncio.sleep(0.001)
    syncer.close()


# the whole appliance


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Edge]:
    """One whose PACS is down."""
    modality = '[[modality]]\nname = "{0}"\nae_title = "{0}"\nhonor_priority = {1}\n'
    more = modality.format("HONEST", "true") + modality.format("RANDOM", "false")
    with Edge(tmp_path, dimse("pacs", free_port()), more=more) as running:
        yield running


HIGH: Final = 1


@pytest.mark.rig
def test_the_priority_of_a_modality_counts_where_so_configured_and_people_may_change_it(appliance: Edge) -> None:
    study = uid()
    first, second = tiny(2, study)
    for title, one in (("HONEST", first), ("RANDOM", second)):
        with RawSender(appliance.port, calling=title) as modality:
            modality.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
            assert modality.store(one, priority=HIGH) == 0
    wait_for(lambda: len(appliance.json("queue")) == 2, 10, "two rows")
    assert [row["priority"] for row in appliance.json("queue")] == ["stat", "routine"]
    said = appliance.command("stat", study, "--reason", "stroke")
    assert said.stdout == "2 deliveries to be sent before all others\n"
    assert [row["priority"] for row in appliance.json("queue")] == ["stat", "stat"]
    again = appliance.command("stat", "--destination", "nowhere", check=False)
    assert again.returncode == 1
    assert "destinations are: pacs" in again.stderr
