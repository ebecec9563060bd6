"""The dispatcher: outcomes become states; the sick block nobody, lose nothing, and nobody gives up."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from edge.board import Board
from edge.clock import SystemClock
from edge.config import ClientTls
from edge.dicom import status
from edge.evidence import Evidence
from edge.findings import Journal
from edge.forward.backoff import LEAST, LONGEST, backoff
from edge.forward.dimse import DimseTransport
from edge.forward.dispatcher import Lane
from edge.forward.gate import Gate
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable, from_status
from edge.forward.transport import Transport
from edge.model import BACKGROUND, Header, Instance, Kind, Need, Source
from edge.routing import Leg
from edge.spool import Syncer
from edge.states import DeliveryState
from edge.store import Choice, Parcel, Settlement, Store
from edge.supervise import Supervisor
from tests.fakes import FakeSession, FakeTransport, ManualClock
from tests.peers.certificates import Authority
from tests.test_tls import box, pacs, serving

CT = Kind("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
MIDWAY = Unreachable("ABORTED", "it aborted.", midway=True)


def content(number: int) -> bytes:
    return f"{number:4}".encode()


def instance(number: int, *, uid: str = "", digest: int | None = None) -> Instance:
    return Instance(
        id=number,
        kind=CT,
        sop_instance_uid=uid or f"1.2.{number}",
        digest=digest.to_bytes(32, "big") if digest else hashlib.sha256(content(number)).digest(),
        length=4,
        offset=0,
        source=Source(door="dimse", calling="CT1", called="EDGE", address="127.0.0.1"),
        received_at=1_800_000_000.0 + number,
        clock_trusted=True,
        header=Header(study_uid="1.2.3"),
    )


@dataclass
class World:
    """A store and lanes on fakes; a random of 0 makes every backoff the shortest."""

    store: Store
    supervisor: Supervisor
    journal: Journal
    board: Board
    folder: Path
    lanes: list[Lane] = field(default_factory=list)

    async def arrive(self, numbers: range, destinations: tuple[str, ...] = ("pacs",)) -> None:
        legs = [Leg(name, 1, needs_proof=False) for name in destinations]
        for number in numbers:
            (self.folder / f"{number}.dcm").write_bytes(content(number))
        await self.store.record([(instance(n), legs) for n in numbers])

    def lane(
        self,
        judge: Callable[[Parcel], Outcome | None] | None = None,
        name: str = "pacs",
        *,
        skip: bool = False,
        associations: int = 1,
    ) -> FakeTransport:
        transport = FakeTransport(judge)
        self.serve(transport, name, skip=skip, associations=associations)
        return transport

    def serve(
        self,
        transport: Transport,
        name: str = "pacs",
        *,
        skip: bool = False,
        associations: int = 1,
        lowest: Callable[[], int] = lambda: BACKGROUND,
    ) -> None:
        clock = SystemClock()
        gauge = self.board.destination(name)
        lane = Lane(
            name,
            transport,
            self.store,
            Gate(name, gauge, self.journal, clock, lambda: 0.0),
            associations=associations,
            skip_unsupported=skip,
            gauge=gauge,
            journal=self.journal,
            clock=clock,
            random=lambda: 0.0,
            spawn=self.supervisor.spawn,
            lowest=lowest,
        )
        self.lanes.append(lane)
        self.supervisor.service(f"lane {name}", lane.run)

    async def states(self, name: str = "pacs") -> Counter[str]:
        tallies = await self.store.reading.tallies()
        return Counter({state: t.instances for (d, state), t in tallies.items() if d == name and t.instances})

    async def until(self, expected: dict[str, int], name: str = "pacs") -> None:
        async with asyncio.timeout(20):
            while await self.states(name) != Counter(expected):  # noqa: ASYNC110 - the store is asked, it does not call
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = SystemClock()
    journal = Journal(clock)
    supervisor = Supervisor(journal, clock)
    store = await Store.open(tmp_path, clock, 7, lambda number: tmp_path / f"{number}.dcm")
    committing = supervisor.service("store", store.run)

    async def ripen() -> None:
        while True:
            await asyncio.sleep(0.02)
            if await store.ripe():
                await store.ripen()

    ripening = supervisor.service("ripen", ripen)
    made = World(store, supervisor, journal, Board(clock), tmp_path)
    yield made
    for lane in made.lanes:
        lane.stop()
    supervisor.cancel([ripening])
    await supervisor.settle(0.5) if not made.lanes else await asyncio.sleep(0)
    store.finish()
    await supervisor.finish([committing], 5)
    await supervisor.settle(2)
    await store.close()
    assert not [f for f in journal.open() if f.code == "SERVICE_RESTARTED"], journal.open()


class Batches(FakeTransport):
    """Notes how much it is given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def open(self, needs: Sequence[Need]) -> "FakeSession | Unreachable":
        session = await super().open(needs)
        assert isinstance(session, FakeSession)
        send = session.send

        def noted(parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
            self.sizes.append(len(parcels[:]))
            return send(parcels)

        session.send = noted  # type: ignore[method-assign]
        return session


async def test_how_long_objects_take_is_learnt_from_a_single_one(world: World) -> None:
    await world.arrive(range(1, 30))
    transport = Batches()
    world.serve(transport)
    await world.until({"accepted": 29})
    assert transport.sizes[0] == 1
    assert max(transport.sizes) > 1


async def test_everything_queued_is_delivered_in_order(world: World) -> None:
    transport = world.lane()
    await world.arrive(range(1, 101))
    await world.until({"accepted": 100})
    assert [p.instance for p in transport.delivered] == list(range(1, 101))
    assert transport.opened == 1, "one session is kept while there is work"


async def test_several_destinations_each_go_their_own_way(world: World) -> None:
    down = world.lane(name="down")
    down.go_down()
    up = world.lane(name="up")
    await world.arrive(range(1, 21), ("down", "up"))
    await world.until({"accepted": 20}, "up")
    assert await world.states("down") == Counter({"queued": 20})
    assert len(up.delivered) == 20
    (finding,) = [f for f in world.journal.open() if f.code == "DESTINATION_DOWN"]
    assert finding.component == "destination.down"
    down.up = True
    await world.until({"accepted": 20}, "down")
    assert not [f for f in world.journal.open() if f.code == "DESTINATION_DOWN"]


async def test_what_is_refused_is_held_and_its_neighbours_go_on(world: World) -> None:
    world.lane(lambda p: Refused("A900", "it does not match.") if p.instance % 5 == 0 else None)
    await world.arrive(range(1, 21))
    await world.until({"accepted": 16, "held": 4})
    assert await world.store.reading.last_held("pacs") == "it does not match."


async def test_what_the_destination_never_takes_is_declined_where_so_configured(world: World) -> None:
    world.lane(lambda p: Refused("CONTEXT_REJECTED", "no.", unsupported=True) if p.instance == 2 else None, skip=True)
    await world.arrive(range(1, 4))
    await world.until({"accepted": 2, "declined": 1})


async def test_one_poisoned_instance_never_blocks_the_study(world: World) -> None:
    tries: Counter[int] = Counter()

    def judge(parcel: Parcel) -> Outcome | None:
        tries[parcel.instance] += 1
        return MIDWAY if parcel.instance == 3 else None

    world.lane(judge)
    await world.arrive(range(1, 31))
    await world.until({"accepted": 29, "queued": 1})
    assert all(n == 1 for i, n in tries.items() if i != 3)


async def test_a_poisoned_instance_is_delivered_when_it_heals(world: World) -> None:
    tries: Counter[int] = Counter()

    def judge(parcel: Parcel) -> Outcome | None:
        tries[parcel.instance] += 1
        return MIDWAY if parcel.instance == 3 and tries[3] < 6 else None

    world.lane(judge)
    await world.arrive(range(1, 11))
    await world.until({"accepted": 10})
    assert tries[3] == 6


async def test_what_is_put_off_is_tried_again(world: World) -> None:
    tries: Counter[int] = Counter()

    def judge(parcel: Parcel) -> Outcome | None:
        tries[parcel.instance] += 1
        return TryLater("A700", "full.") if tries[parcel.instance] == 1 else None

    world.lane(judge)
    await world.arrive(range(1, 11))
    await world.until({"accepted": 10})
    assert set(tries.values()) == {2}


async def test_a_destination_that_is_full_is_left_in_peace_as_a_whole(world: World) -> None:
    world.lane(lambda _: TryLater("A700", "full."))
    await world.arrive(range(1, 11))
    async with asyncio.timeout(10):
        while world.board.destination("pacs").problem_code != "A700":  # noqa: ASYNC110 - a gauge
            await asyncio.sleep(0.01)
    await world.store.decide("hold", Choice(destination="pacs"), who="test")


async def test_a_hold_keeps_back_and_a_release_lets_go(world: World) -> None:
    await world.arrive(range(1, 6))
    assert await world.store.decide("hold", Choice(uid="1.2.4"), who="test") == 1
    world.lane()
    await world.until({"accepted": 4, "held": 1})
    assert await world.store.decide("release", Choice(uid="1.2.4"), who="test") == 1
    await world.until({"accepted": 5})


async def test_the_second_content_under_one_uid_waits_for_the_first(world: World) -> None:
    order: list[int] = []
    tries: Counter[int] = Counter()

    def judge(parcel: Parcel) -> Outcome | None:
        tries[parcel.instance] += 1
        if parcel.instance == 1 and tries[1] < 3:
            return MIDWAY
        order.append(parcel.instance)
        return None

    leg = [Leg("pacs", 1, needs_proof=False)]
    for number in (1, 2):
        (world.folder / f"{number}.dcm").write_bytes(b"data")
    twins = [(instance(1, uid="1.9"), leg), (instance(2, uid="1.9"), leg)]
    fates = await world.store.record(twins)
    assert [f.twin for f in fates] == [False, True]
    world.lane(judge)
    await world.until({"accepted": 2})
    assert order == [1, 2]


async def test_a_clock_that_is_wrong_costs_no_attempt(world: World, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    late, good = authority.issue("late", begins=-30, ends=-1), authority.issue("good")
    shown = [serving(late)()]
    syncer = Syncer()
    async with box(lambda: shown[0]) as running:
        where = pacs(running.port, ClientTls(ca_file=authority.path))
        world.serve(DimseTransport(where, syncer, trusted=lambda: False))
        await world.arrive(range(1, 3))
        gauge = world.board.destination("pacs")
        async with asyncio.timeout(10):
            while gauge.problem_code != "CLOCK_NOT_TRUSTED":  # noqa: ASYNC110 - a gauge does not call
                await asyncio.sleep(0.01)
        assert "clock of this box is wrong" in gauge.problem_text
        assert [row.attempts for row in await world.store.reading.queue()] == [0, 0]
        assert await world.states() == {"queued": 2}
        shown[0] = serving(good)()
        world.lanes[0].gate.hasten()
        await world.until({"accepted": 2})
        world.lanes[0].stop()
    syncer.close()


async def test_stopping_gives_back_what_was_claimed_and_not_sent(world: World) -> None:
    transport = world.lane()

    def stop_at_three(parcel: Parcel) -> Outcome | None:
        if parcel.instance == 3:
            world.lanes[0].stop()
        return None

    transport._judge = stop_at_three
    await world.arrive(range(1, 101))
    async with asyncio.timeout(10):
        while (await world.states())["sending"] or not transport.delivered:  # noqa: ASYNC110 - the store is asked
            await asyncio.sleep(0.01)
    states = await world.states()
    assert states["accepted"] == len(transport.delivered) < 100
    assert states["queued"] == 100 - len(transport.delivered)


class Failing(FakeTransport):
    """A transport with a fault of ours, which shows at some objects."""

    def __init__(self, at: set[int]) -> None:
        super().__init__()
        self.at = at
        self.tries: Counter[int] = Counter()

    def take(self, parcel: Parcel) -> Outcome:
        self.tries[parcel.instance] += 1
        if parcel.instance in self.at:
            raise RuntimeError("a fault of ours")
        return super().take(parcel)


async def test_an_object_at_which_a_transport_fails_is_tried_again_and_blocks_nobody(world: World) -> None:
    transport = Failing({3})
    world.serve(transport)
    await world.arrive(range(1, 101))
    await world.until({"accepted": 99, "queued": 1})
    (finding,) = [f for f in world.journal.open() if f.code == "SERVICE_RESTARTED"]
    assert finding.component == "service.lane pacs"
    world.journal.clear("SERVICE_RESTARTED", finding.component)
    (row,) = await world.store.reading.queue()
    assert (row.instance, row.code) == (3, "TRANSPORT_FAILED")
    assert set(Counter(p.instance for p in transport.delivered).values()) == {1}, "none of the others went twice"
    transport.at.clear()
    await world.until({"accepted": 100})
    for one in world.journal.open():
        world.journal.clear(one.code, one.component)


async def test_what_a_lane_had_claimed_when_it_failed_is_sent_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, left = world.store.settle, [1]

    async def failing(settlements: Sequence[Settlement]) -> None:
        if left:
            left.pop()
            raise RuntimeError("a fault of ours")
        await settle(settlements)

    monkeypatch.setattr(world.store, "settle", failing)
    world.lane()
    await world.arrive(range(1, 101))
    await world.until({"accepted": 100})
    world.journal.clear("SERVICE_RESTARTED", "service.lane pacs")


async def test_a_session_is_opened_for_what_is_due_when_the_gate_opens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mr = Kind("1.2.840.10008.5.1.4.1.1.4", CT.transfer_syntax_uid)
    waiting, opening = asyncio.Event(), asyncio.Event()

    async def wait(_: Gate) -> None:
        waiting.set()
        await opening.wait()

    class Noting(FakeTransport):
        needs: list[Need]

        async def open(self, needs: Sequence[Need]) -> FakeSession | Unreachable:
            self.needs = list(needs)
            return await super().open(needs)

    monkeypatch.setattr(Gate, "wait", wait)
    transport = Noting()
    world.serve(transport)
    await world.arrive(range(1, 2))
    await waiting.wait()
    (world.folder / "2.dcm").write_bytes(content(2))
    urgent = msgspec.structs.replace(instance(2), kind=mr)
    await world.store.record([(urgent, [Leg("pacs", 0, needs_proof=False)])])
    opening.set()
    await world.until({"accepted": 2})
    assert [need.kind for need in transport.needs] == [mr, CT]


class InOneRequest:
    """A destination that takes what it is given in one request, of which the first fails."""

    usable = True

    def __init__(self) -> None:
        self.requests = 0

    async def open(self, needs: Sequence[Need]) -> "InOneRequest":
        del needs
        return self

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        self.requests += 1
        for number, each in enumerate(list(parcels)):
            failure = Unreachable("SERVER_ERROR", "500.", midway=True, echo=number > 0)
            yield each, failure if self.requests == 1 else Accepted("LISTED", Evidence.STOW_LISTED)

    async def close(self) -> None:
        pass


async def test_one_failure_that_many_instances_are_told_of_is_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Unreachable] = []
    monkeypatch.setattr(Gate, "fail", lambda _, why: failures.append(why))
    await world.arrive(range(1, 9))
    world.serve(InOneRequest())
    await world.until({"accepted": 8})
    assert [each.echo for each in failures] == [False]


def test_a_destination_is_left_alone_for_as_long_as_it_wants() -> None:
    clock = ManualClock()
    gate = Gate("p", Board(clock).destination("p"), Journal(clock), clock, lambda: 1.0)
    gate.fail(Unreachable("UNAVAILABLE", "503.", after=120.0))
    assert gate._open_at - clock.monotonic() == 120.0
    clock.pass_time(120.0)
    gate.fail(Unreachable("UNAVAILABLE", "503.", after=0.5))
    assert gate._open_at - clock.monotonic() == 2.0


def test_sessions_that_break_together_are_one_failure() -> None:
    clock = ManualClock()
    gate = Gate("p", Board(clock).destination("p"), Journal(clock), clock, lambda: 1.0)
    for _ in range(16):
        gate.fail(Unreachable("CONNECTION_LOST", "cut.", midway=True))
    assert gate._open_at - clock.monotonic() == 1.0
    clock.pass_time(1.0)
    gate.fail(Unreachable("CONNECTION_LOST", "cut.", midway=True))
    assert gate._open_at - clock.monotonic() == 2.0


async def test_a_retry_opens_the_gate_at_once(tmp_path: Path) -> None:
    del tmp_path
    clock = SystemClock()
    gauge = Board(clock).destination("p")
    gate = Gate("p", gauge, Journal(clock), clock, lambda: 1.0)
    for _ in range(9):
        gate.fail(Unreachable("NO_ANSWER", "silence."))
    waiting = asyncio.ensure_future(gate.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.hasten()
    await asyncio.wait_for(waiting, 1)


def test_backoff_doubles_from_a_second_to_five_minutes_with_full_jitter() -> None:
    assert [backoff(n, lambda: 1.0) for n in (1, 2, 3, 9, 10, 5000)] == [1, 2, 4, 256, LONGEST, LONGEST]
    assert backoff(10, lambda: 0.5) == LONGEST / 2
    assert backoff(10, lambda: 0.0) == LEAST


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x0000, Accepted),
        (0x0001, Accepted),
        (0x0107, Accepted),
        (0x0116, Accepted),
        (0xB000, Accepted),
        (0xB007, Accepted),
        (0xA700, TryLater),
        (0xA7FF, TryLater),
        (0x0110, TryLater),
        (0x0213, TryLater),
        (0xC000, TryLater),
        (0xCFFF, TryLater),
        (0xA900, Refused),
        (0x0117, Refused),
        (0x0122, Refused),
        (0x0210, Refused),
        (0x0211, Refused),
        (0x0212, Refused),
        (0x0124, Unreachable),
        (None, Unreachable),
    ],
)
def test_every_status_has_its_outcome(code: int | None, kind: type) -> None:
    assert type(from_status(code)) is kind


def test_an_outcome_is_found_for_every_number() -> None:
    for code in range(0x10000):
        outcome = from_status(code)
        assert outcome.code
        if isinstance(outcome, Accepted):
            warning = status.classify(code) is status.StatusClass.WARNING
            assert code == 0 or warning, f"{code:04X} proves nothing"


def test_only_moves_of_the_table_come_from_the_dispatcher() -> None:
    reached = {DeliveryState.QUEUED, DeliveryState.ACCEPTED, DeliveryState.HELD, DeliveryState.DECLINED}
    from edge.states import MOVES  # noqa: PLC0415 - beside its one use

    assert reached <= MOVES[DeliveryState.SENDING]
