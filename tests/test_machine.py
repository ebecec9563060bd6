"""Spool, store and dispatcher as one machine, under everything that disk, network, clock and people may do to it.

The system is real, from the door to the lanes; time, disk, database faults and the destinations are `tests.simulated`.
The model is a ledger: what was answered with success, what each destination was given, and what people decided. A kill
or a power cut may come at any single call. EDGE_MACHINE_EXAMPLES=2000 makes a long run.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from edge.board import Board
from edge.config import Config, DimseDestination
from edge.control import Control
from edge.dicom import part10
from edge.dicom.uids import class_names
from edge.evidence import Evidence
from edge.findings import Journal
from edge.forward.dispatcher import Lane
from edge.forward.gate import Gate
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable
from edge.intake import seal as seals
from edge.intake.admission import Admission
from edge.intake.door import Door, RefusedError
from edge.intake.guard import DiskGuard
from edge.intake.index import Index
from edge.intake.recovery import Recovery
from edge.keeping.retention import Retention
from edge.model import Kind, Need, Source
from edge.routing import Routing
from edge.spool import Ballast, Identity, Spool, StorageError, files
from edge.spool import Ledger as Room
from edge.spool import part as parts
from edge.spool.ledger import Free
from edge.states import DeliveryState, may_move
from edge.store import Choice, Parcel, Store, StoreError, repair
from edge.store import connection as connections
from edge.store.repair import Mended
from edge.supervise import Supervisor
from tests.fakes import GONE, ManualClock
from tests.simulated import ERRORS, Fault, SimulatedDisk, SimulatedLoop, SimulatedSyncer

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50")
UIDS: Final = ("1.2.3.1", "1.2.3.2", "1.2.3.3")
PACS: Final = ("pacs", "cloud")
"""The second one declines what it does not support."""
CONFIG: Final = Config(
    destination=tuple(DimseDestination(name=name, host="127.0.0.1", ae_title=name.upper()) for name in PACS)
)
SCANNER: Final = Source(door="dimse", calling="CT1", called="EDGE", address="10.0.0.7")
MIDWAY: Final = Unreachable("ABORTED", "it aborted.", midway=True)
OUTCOMES: Final[dict[str, Outcome]] = {
    "refuse": Refused("A900", "it does not match."),
    "unsupported": Refused("CONTEXT_REJECTED", "it takes no such kind.", unsupported=True),
    "later": TryLater("A700", "it is full."),
    "much later": TryLater("C000", "it cannot understand.", after=3600.0),
    "lost": MIDWAY,
    "stored, answer lost": MIDWAY,
    "cut": Unreachable("CUT", "it went before this one."),
}
KEEP: Final = 300.0
"""Seconds after which what was delivered is deleted."""
FOR_EVER: Final = 1e12
LONG: Final = int(os.environ.get("EDGE_MACHINE_EXAMPLES", "0"))


class Content(NamedTuple):
    """What makes two objects the same: the key of the ledger."""

    uid: str
    syntax: str
    digest: bytes


class Image(NamedTuple):
    """An object of nobody: a few elements and some bytes that tell variants apart."""

    uid: str
    variant: int
    syntax: str

    @property
    def dataset(self) -> bytes:
        uid = self.uid.encode() + b"\0" * (len(self.uid) % 2)
        text = f"variant {self.variant}".encode().ljust(16 + 90 * self.variant)
        return (
            struct.pack("<HH2sH", 0x0008, 0x0018, b"UI", len(uid))
            + uid
            + struct.pack("<HH2sH", 0x0020, 0x4000, b"LT", len(text))
            + text
        )

    @property
    def content(self) -> Content:
        return Content(self.uid, self.syntax, hashlib.sha256(self.dataset).digest())


Leg = tuple[int, str]
"""An instance's id and a destination."""


@dataclass
class Ledger:
    """What must be true whatever happens."""

    offered: set[Content] = field(default_factory=set)
    acknowledged: set[Content] = field(default_factory=set)
    arrived: list[int] = field(default_factory=list)
    """Ids of what was acknowledged, in order."""
    before: dict[int, frozenset[int]] = field(default_factory=dict)
    """What had arrived when the object of this id began."""
    given: dict[str, list[Content]] = field(default_factory=lambda: {name: [] for name in PACS})
    """What each destination was given, in order."""
    allowed: Counter[tuple[str, Content]] = field(default_factory=Counter)
    over: set[Content] = field(default_factory=set)
    """What was over and deleted before the database that said so was damaged."""
    """How many times more than once it may have got one: answers that were lost, people who wanted it."""
    unsettled: set[tuple[Leg, Content]] = field(default_factory=set)
    """Accepted by a destination, and not yet so in the store."""
    held: set[Leg] = field(default_factory=set)
    cancelled: set[Leg] = field(default_factory=set)
    touched: set[Leg] = field(default_factory=set)
    """What people decided about at least once: their order is people's."""
    refused: set[Leg] = field(default_factory=set)
    """What may be held though nobody is known to have said so."""
    wrong: list[str] = field(default_factory=list)
    """What was seen to be wrong at a moment that could not fail the test by itself."""


class Destination:
    """A destination that does what it was told to, else accepts; it outlives every crash of the box."""

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self.world = world
        self.up = True
        self.script: list[str] = []
        self.delay = 0.0

    def take(self, parcel: Parcel, session: "Session") -> Outcome:
        ledger = self.world.ledger
        what = self.script.pop(0) if self.script else "accept"
        leg = (parcel.instance, self.name)
        if leg in ledger.held | ledger.cancelled:
            ledger.wrong.append(f"{leg} was sent although a person had put it aside")
        if what in {"refuse", "unsupported"}:
            ledger.refused.add(leg)
        if what not in {"accept", "stored, answer lost"}:
            return OUTCOMES[what]
        try:
            data = parcel.path.read_bytes()
        except FileNotFoundError:
            ledger.wrong.append(f"{leg} was to be sent and its file is not in ready/")
            return Refused("FILE_MISSING", "the stored file cannot be opened.")
        dataset = data[parcel.offset : parcel.offset + parcel.length]
        content = Content(parcel.sop_instance_uid, parcel.kind.transfer_syntax_uid, hashlib.sha256(dataset).digest())
        if content not in ledger.offered or content.digest != parcel.digest:
            ledger.wrong.append(f"{leg} was delivered with bytes that nobody sent")
        self._in_order(parcel, session)
        ledger.given[self.name].append(content)
        if what == "accept":
            ledger.unsettled.add((leg, content))
            return Accepted("0000", Evidence.STORE_SUCCESS)
        ledger.allowed[self.name, content] += 1
        return OUTCOMES[what]

    def _in_order(self, parcel: Parcel, session: "Session") -> None:
        earlier = session.rows(
            """SELECT d.instance, d.destination FROM delivery d JOIN instance i ON i.id = d.instance
            WHERE i.sop_instance_uid = ? AND d.destination = ? AND i.state = 'stored'
            AND d.state IN ('queued', 'sending')""",
            (parcel.sop_instance_uid, self.name),
        )
        ledger = self.world.ledger
        overtaken = {leg for leg in earlier if leg[0] in ledger.before.get(parcel.instance, ())} - ledger.touched
        if (parcel.instance, self.name) not in ledger.touched and overtaken:
            ledger.wrong.append(f"{parcel.instance} overtook {overtaken} on its way to {self.name}")


class NoBallast(Ballast):
    """Nothing is kept for bad times: the room of this disk is what a test says."""

    def drop(self) -> bool:
        return False

    def load(self) -> None:
        pass


class Line:
    """The way of one session to a destination; broken once that session is dead."""

    def __init__(self, destination: Destination, session: "Session") -> None:
        self._destination = destination
        self._session = session
        self.usable = False

    async def open(self, needs: Sequence[Need]) -> "Line | Unreachable":
        assert needs
        if self._session.dead or not self._destination.up:
            return GONE
        line = Line(self._destination, self._session)
        line.usable = True
        return line

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        for parcel in parcels:
            if self._destination.delay:
                await asyncio.sleep(self._destination.delay)
            self._session.world.tick("send")
            alive = self._destination.up and not self._session.dead
            outcome = self._destination.take(parcel, self._session) if alive else GONE
            self._session.world.tick("sent")
            self.usable = not isinstance(outcome, Unreachable)
            yield parcel, outcome
            if not self.usable:
                return

    async def close(self) -> None:
        self.usable = False


class Session:
    """The box from one start to its end, put together as the appliance does it."""

    def __init__(self, world: "World", root: Path) -> None:
        self.world, self.root = world, root
        self.dead = False
        clock = world.clock
        self.board = Board(clock)
        self.journal = Journal(clock)
        self.supervisor = Supervisor(self.journal, clock)
        self.syncer = SimulatedSyncer(world.disk)
        self.spool = Spool(root, self.syncer)
        self.store: Store | None = None
        self.lanes: list[Lane] = []
        self.services: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Start. Raises StorageError, StoreError, OSError."""
        clock = self.world.clock
        self.spool.open()
        self.identity = Identity(self.root)
        self.identity.open(self.spool.highest)
        store = self.store = await Store.open(self.root, clock, self.identity.session, self.spool.path, ripe_in=1.0)
        self._watch(store)
        self.identity.rise_above(await store.highest_id())
        self.services["store"] = self.supervisor.service("store", store.run)
        ledger = Room(lambda: Free(self.world.disk.free, 1 << 20), 1 << 30)
        self.admission = Admission(self.board, self.journal, clock, ledger)
        guard = DiskGuard(self.spool, self.syncer, self.admission, self.journal, clock)
        self.index = Index(self.spool, self.syncer, store, self.admission, self.board, self.journal, clock)
        self.services["index"] = self.supervisor.service("index", self.index.run)
        self.door = Door(
            self.spool,
            self.identity,
            self.index,
            self.admission,
            guard,
            Routing(CONFIG, class_names),
            board=self.board,
            journal=self.journal,
            clock=clock,
            title="EDGE",
            most=1 << 20,
            destinations=len(PACS),
        )
        self.lanes = [self._lane(destination, store) for destination in self.world.destinations]
        self.control = Control(store, self)
        self.recover(store.mended)
        for lane in self.lanes:
            serve = partial(self._after_the_parts, lane)
            self.services[lane.name] = self.supervisor.service(f"lane {lane.name}", serve)
        retention = Retention(
            self.spool,
            self.syncer,
            store,
            NoBallast(self.root),
            self.journal,
            clock,
            keep=KEEP,
            keep_trail=FOR_EVER,
            short=ledger.short,
        )
        for name, run in (
            ("ripen", self._ripen),
            ("disk", guard.run),
            ("retention", retention.run),
            ("keeper", lambda: store.keep(lambda why: self.admission.close("store", why), self._back)),
        ):
            self.services[name] = self.supervisor.service(name, run)
        self.admission.open("starting")

    def recover(self, mended: Mended | None) -> None:
        """Finish what an earlier session, or an earlier database, left."""
        assert self.store is not None
        recovery = Recovery(
            self.spool,
            self.syncer,
            self.store,
            self.index,
            Routing(CONFIG, class_names),
            self.journal,
            self.identity.first_id,
            everything=mended is Mended.ANEW,
        )
        self.parts_done = recovery.parts_done
        self.recovering = self.supervisor.spawn(recovery.run(), "recovery")

    async def _after_the_parts(self, lane: Lane) -> None:
        await self.parts_done.wait()
        await lane.run()

    def _back(self, mended: Mended | None) -> None:
        self.admission.open("store")
        self.recover(mended)

    async def stop(self) -> None:
        """End in order."""
        assert self.store is not None
        for lane in self.lanes:
            lane.stop()
        await self.supervisor.finish([self.services[lane.name] for lane in self.lanes], 2.0)
        self.supervisor.cancel([self.services[name] for name in ("ripen", "disk", "retention", "keeper")])
        self.index.close()
        await self.supervisor.finish([self.services["index"]], 2.0)
        self.store.finish()
        await self.supervisor.finish([self.services["store"]], 2.0)

    async def bury(self) -> None:
        """Let go of what a session leaves behind in this process, which is not what it leaves on the disk."""
        self.syncer.flush()
        await self.supervisor.settle(0)
        left = asyncio.all_tasks() - {task for task in (asyncio.current_task(),) if task is not None}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        self.syncer.flush()
        if self.store is not None:
            await self.store.close()
        self.spool.close()
        self.syncer.close()

    async def receive(self, image: Image, cut: int, *, aborted: bool = False) -> None:
        """Take an object as a service does; what is answered with success goes into the ledger."""
        ledger = self.world.ledger
        try:
            incoming = self.door.begin(Kind(CT, image.syntax), image.uid, SCANNER)
        except RefusedError:
            return
        number = incoming.part.id
        # what recovery has not indexed yet may be overtaken, and the same bytes again have the place of the first
        free = image.content in ledger.acknowledged
        ledger.before[number] = frozenset() if free else frozenset(ledger.arrived)
        data = image.dataset
        for start in range(0, len(data), cut):
            incoming.write(memoryview(data)[start : start + cut])
            if incoming.pressure:
                await incoming.relieve()
            await asyncio.sleep(0)
            if aborted and start:
                with contextlib.suppress(OSError):
                    self.door.discard(incoming)
                return
        ledger.offered.add(image.content)
        try:
            await self.door.finish(incoming)
        except (RefusedError, OSError):
            return
        if not self.dead:
            ledger.acknowledged.add(image.content)
            ledger.over.discard(image.content)
            ledger.arrived.append(number)

    def rows(self, asked: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Ask the database, beside whatever the store is doing."""
        raw = sqlite3.connect(f"file:{self.root}/db/edge.sqlite?mode=ro", uri=True)
        try:
            return raw.execute(asked, values).fetchall()
        finally:
            raw.close()

    def moves(self) -> list[tuple[str, str]]:
        """Every move that a delivery made since this was last asked; none where the database was opened anew since."""
        assert self.store is not None
        raw: sqlite3.Connection = self.store._connection.raw  # type: ignore[attr-defined]
        with contextlib.suppress(sqlite3.Error):
            moves = raw.execute("SELECT * FROM temp.move").fetchall()
            raw.execute("DELETE FROM temp.move")
            return moves
        with contextlib.suppress(sqlite3.Error):
            self._watch(self.store)
        return []

    def _watch(self, store: Store) -> None:
        raw: sqlite3.Connection = store._connection.raw  # type: ignore[attr-defined]
        raw.execute("CREATE TEMP TABLE move (old TEXT, new TEXT)")
        raw.execute(
            """CREATE TEMP TRIGGER moved AFTER UPDATE OF state ON main.delivery WHEN OLD.state <> NEW.state
            BEGIN INSERT INTO move VALUES (OLD.state, NEW.state); END"""
        )

    def _lane(self, destination: Destination, store: Store) -> Lane:
        gauge = self.board.destination(destination.name)
        clock = self.world.clock
        return Lane(
            destination.name,
            Line(destination, self),
            store,
            Gate(destination.name, gauge, self.journal, clock, lambda: 0.25),
            associations=2,
            skip_unsupported=destination.name == PACS[1],
            gauge=gauge,
            journal=self.journal,
            clock=clock,
            random=lambda: 0.25,
            spawn=self.supervisor.spawn,
        )

    def has(self, name: str) -> bool:
        return any(lane.name == name for lane in self.lanes)

    def pause(self, name: str) -> None:
        raise NotImplementedError(name)

    def resume(self, name: str) -> None:
        raise NotImplementedError(name)

    def hasten(self, name: str) -> None:
        for lane in self.lanes:
            if name in ("", lane.name):
                lane.gate.hasten()

    async def _ripen(self) -> None:
        assert self.store is not None
        while True:
            await asyncio.sleep(0.5)
            if await self.store.ripe():
                await self.store.ripen()


class World:
    """The box, session after session, and everything around it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._roots = 0
        self.clock = ManualClock()
        self.loop = SimulatedLoop(self.clock)
        self.ledger = Ledger()
        self.destinations = [Destination(name, self) for name in PACS]
        self.disk = SimulatedDisk(self._next_root(), self.tick)
        self.disk.install(stack)
        stack.enter_context(mock.patch.object(connections, "Connection", self.disk.connection))
        stack.enter_context(mock.patch.multiple(parts, CHUNK=64, _SYNC_EVERY=100))
        stack.enter_context(mock.patch.multiple(files, _SHARDS=2, _SHARD_BITS=0))
        stack.enter_context(mock.patch.object(repair, "_MOST_FAILURES", 200))
        stack.enter_context(capture_logs())
        self.doom: tuple[str, int, random.Random | None] | None = None
        """After how many more calls, of one name or of any, the box is cut, and what a power cut takes."""
        self.left: Path | None = None
        """What it was cut at left on the disk."""
        self.session = self._start(self.disk.root)

    def tick(self, call: str) -> None:
        """Hear of every call that leaves a trace outside of the process."""
        if self.doom is None or self.left is not None:
            return
        at, count, power = self.doom
        if at not in ("", call):
            return
        self.doom = (at, count - 1, power)
        if count == 0:
            self.cut(power)

    def cut(self, power: random.Random | None) -> None:
        """End the session at this very moment; what goes on afterwards in this process concerns nobody."""
        self.left = self._next_root()
        self.disk.copy(self.left, power)
        self.session.dead = True
        self.ledger.allowed.update((leg[1], content) for leg, content in self.ledger.unsettled)
        self.ledger.unsettled.clear()
        if self.session.store is not None and self.session.store._copy is not None:
            # outcomes that only the copy in memory knew are gone with it
            self.ledger.allowed.update({(name, c) for name, given in self.ledger.given.items() for c in given})

    def run(self, *tasks: "asyncio.Future[Any]") -> None:
        """Let everything happen that happens now, and ``tasks`` come to their end."""
        for task in tasks:
            self.loop.finish(task)
        self.rest()

    def rest(self) -> None:
        """Come to rest; where the box was cut on the way, start it again."""
        self.loop.settle()
        while self.left is not None or self.session.supervisor._failed is not None:
            if self.left is None:
                self.cut(None)
            self._restart()
            self.loop.settle()

    def restart(self) -> None:
        """End the session in order, and begin another."""
        self.loop.finish(self.loop.create_task(self.session.stop()))
        if self.left is None:
            self.cut(None)
        self.rest()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine to its end, and everything else with it to rest; its result."""
        task = self.loop.create_task(coroutine)
        self.run(task)
        return task.result()

    def close(self) -> None:
        self.disk.heal()
        self._bury(self.session)
        self.loop.settle()
        self.loop.close()
        shutil.rmtree(self._folder)

    def _restart(self) -> None:
        assert self.left is not None
        root, self.left, self.doom = self.left, None, None
        old = self.session
        slow, self.disk.slow = self.disk.slow, 0.0
        self._bury(old)
        self.disk.slow = slow
        shutil.rmtree(old.root)
        self.disk.move_to(root)
        self.session = self._start(root)

    def _start(self, root: Path) -> Session:
        session = Session(self, root)
        starting = self.loop.create_task(session.start())
        try:
            self.loop.finish(starting)
        except (OSError, StorageError, StoreError):
            # it could not start; whoever repairs the disk starts it again
            self.disk.heal()
            self._bury(session)
            session = Session(self, root)
            self.loop.finish(self.loop.create_task(session.start()))
        self.session = session
        return session

    def _bury(self, session: Session) -> None:
        session.dead = True
        doom, self.doom = self.doom, None
        self.loop.finish(self.loop.create_task(session.bury()))
        self.doom = doom

    def _next_root(self) -> Path:
        self._roots += 1
        root = self._folder / str(self._roots)
        root.mkdir()
        return root


images = st.builds(Image, st.sampled_from(UIDS), st.integers(0, 2), st.sampled_from(SYNTAXES))
powers = st.none() | st.integers(0, 1 << 16).map(random.Random)
EVER: Final = 1 << 30


class Machine(RuleBasedStateMachine):
    """One box and what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()

    @initialize()
    def begin(self) -> None:
        folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.world = World(Path(tempfile.mkdtemp(prefix="edge-machine-", dir=folder)), self.stack)

    @property
    def session(self) -> Session:
        return self.world.session

    # the modality

    @rule(batch=st.lists(images, min_size=1, max_size=4), cut=st.sampled_from([16, 50, 1000]))
    def receive(self, batch: list[Image], cut: int) -> None:
        receiving = [self.world.loop.create_task(self.session.receive(image, cut)) for image in batch]
        self.world.run(*receiving)

    @rule(image=images)
    def receive_and_pass_the_time(self, image: Image) -> None:
        """The usual case, so that much comes to its end."""
        self.world.run(self.world.loop.create_task(self.session.receive(image, 1000)))
        self.pass_time(1.0)

    @rule(image=images)
    def abort(self, image: Image) -> None:
        self.world.run(self.world.loop.create_task(self.session.receive(image, 16, aborted=True)))

    # the disk

    @rule(
        call=st.sampled_from(["open", "pwrite", "fsync", "rename", "unlink"]),
        number=st.sampled_from(ERRORS),
        skip=st.integers(0, 3),
        times=st.sampled_from([1, 2, EVER]),
    )
    def break_the_disk(self, call: str, number: int, skip: int, times: int) -> None:
        self.world.disk.faults.append(Fault(call, number, skip, times))

    @rule(fails=st.lists(st.booleans(), min_size=1, max_size=3))
    def break_the_database(self, fails: list[bool]) -> None:
        self.world.disk.database_faults = fails

    @rule(seconds=st.sampled_from([0.01, 0.75, 25.0]))
    def slow_the_disk(self, seconds: float) -> None:
        self.world.disk.slow = seconds

    @rule()
    def fill_the_disk(self) -> None:
        self.world.disk.free = 0

    @rule()
    def heal_the_disk(self) -> None:
        self.world.disk.heal()

    # the network

    @rule(which=st.sampled_from([0, 1]), up=st.booleans())
    def switch_a_destination(self, which: int, up: bool) -> None:  # noqa: FBT001 - drawn
        self.world.destinations[which].up = up

    @rule(
        which=st.sampled_from([0, 1]),
        script=st.lists(st.sampled_from(["accept", *OUTCOMES]), min_size=1, max_size=4),
        delay=st.sampled_from([0.0, 0.0, 0.3]),
    )
    def instruct_a_destination(self, which: int, script: list[str], delay: float) -> None:
        self.world.destinations[which].script = script
        self.world.destinations[which].delay = delay

    # time

    @rule(seconds=st.sampled_from([0.05, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.loop.advance(seconds)
        self.world.rest()

    @rule()
    def sleep_long(self) -> None:
        self.world.loop.leap(4000.0)
        self.world.rest()

    @rule(wall=st.sampled_from([0.0, 1_800_000_000.0, 1_831_536_000.0, 4_000_000_000.0]))
    def set_the_wall_clock(self, wall: float) -> None:
        self.world.clock.wall = wall
        self.world.clock.believed = wall > 1_700_000_000

    # people

    @precondition(lambda self: self.legs())
    @rule(
        data=st.data(),
        verb=st.sampled_from(["hold", "release", "cancel", "retry", "force"]),
        wide=st.booleans(),
    )
    def decide(self, data: st.DataObject, verb: str, wide: bool) -> None:  # noqa: FBT001 - drawn
        legs = self.legs()
        one, destination, delivery = data.draw(st.sampled_from(sorted(legs)))
        chosen = {leg for leg in legs if leg[1] == destination} if wide else {(one, destination, delivery)}
        choice = Choice(destination=destination) if wide else Choice(delivery=delivery)
        session, ledger = self.session, self.world.ledger
        before = self.states()
        pairs = {(instance, name) for instance, name, _ in chosen}
        ledger.touched |= pairs
        acting = self.world.loop.create_task(
            session.control.act(
                "retry" if verb == "force" else verb, choice, who="somebody", reason="why not", force=verb == "force"
            )
        )
        try:
            self.world.loop.finish(acting)
            answered = not session.dead
        except StoreError:
            answered = False
        if verb in {"release", "retry", "force"} or not answered:
            # from the moment it is asked for, it may be sent; what was not answered is not promised
            ledger.held -= pairs
        if verb == "force" or not answered:
            ledger.cancelled -= pairs
        if verb == "hold" and not answered:
            ledger.refused |= pairs
        if verb == "force":
            ledger.allowed.update((name, self.contents()[instance]) for instance, name in pairs)
        self.world.rest()
        if answered and session is self.session:
            self._note(verb, pairs, before)

    def _note(self, verb: str, pairs: set[Leg], before: dict[Leg, str]) -> None:
        states = self.states()
        for leg in pairs:
            if verb == "hold" and before[leg] == "queued" and states[leg] == "held":
                self.world.ledger.held.add(leg)
            if verb == "cancel" and before[leg] in {"queued", "held"} and states[leg] == "cancelled":
                self.world.ledger.cancelled.add(leg)
                self.world.ledger.held.discard(leg)

    # the end

    @rule(power=powers)
    def crash(self, power: random.Random | None) -> None:
        self.world.cut(power)
        self.world.rest()

    @rule(
        call=st.sampled_from(["", "fsync", "rename", "transaction", "committed", "send", "sent"]),
        calls=st.integers(0, 6),
        power=powers,
    )
    def doom(self, call: str, calls: int, power: random.Random | None) -> None:
        self.world.doom = (call, calls, power)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(how=st.sampled_from(["header", "page", "zeros", "log", "all"]), where=st.integers(0, 1 << 10))
    def damage_the_database(self, how: str, where: int) -> None:
        """End the box, spoil its database, start it. What was given may be given again, decisions may be gone."""
        world, ledger = self.world, self.world.ledger
        ledger.over |= {content for content in ledger.acknowledged - self.files() if self.is_over(content)}
        before = {(name, content) for name, given in ledger.given.items() for content in given}
        for name, given in ledger.given.items():  # as often as before: what expired is forgotten
            ledger.allowed.update((name, content) for content in given)
        ledger.touched |= set(self.states())
        ledger.refused |= ledger.held
        ledger.held.clear()
        ledger.cancelled.clear()
        world.cut(None)
        assert world.left is not None
        spoil(world.left / "db" / "edge.sqlite", how, where)
        world.rest()
        # what was given before the damage was noticed may be given again too
        ledger.allowed.update({(name, c) for name, given in ledger.given.items() for c in given} - before)
        assert self.session.store is not None
        checking = world.loop.create_task(self.session.store.check())
        with contextlib.suppress(StoreError):
            world.loop.finish(checking)
        self.pass_time(5.0)

    # what must hold

    @invariant()
    def everything_holds(self) -> None:
        self.nothing_was_seen_to_be_wrong()
        self.what_was_acknowledged_is_here_or_delivered()
        self.every_published_file_is_whole()
        self.nobody_gets_twice_what_it_has()
        self.rows_are_lawful()
        self.tallies_equal_counts()
        self.decisions_stand()

    def nothing_was_seen_to_be_wrong(self) -> None:
        assert not self.world.ledger.wrong, self.world.ledger.wrong

    def what_was_acknowledged_is_here_or_delivered(self) -> None:
        ledger = self.world.ledger
        missing = ledger.acknowledged - self.files()
        if missing:
            assert not {c for c in missing if not self.is_over(c)}, f"lost: {missing}"

    def every_published_file_is_whole(self) -> None:
        for path in self.session.spool.ready.rglob("*.dcm"):
            assert whole(path) is not None, path

    def nobody_gets_twice_what_it_has(self) -> None:
        ledger = self.world.ledger
        states = self.states()
        contents = self.contents()
        expired = Counter(
            contents[row[0]] for row in self.session.rows("SELECT id FROM instance WHERE state = 'expired'")
        )
        ledger.unsettled = {(leg, c) for leg, c in ledger.unsettled if states.get(leg) == "sending"}
        for name in PACS:
            for content, times in Counter(ledger.given[name]).items():
                # what was deleted and comes again is new
                most = 1 + ledger.allowed[name, content] + expired[content]
                assert times <= most, f"{name} got {content} {times} times"

    def rows_are_lawful(self) -> None:
        for old, new in self.session.moves():
            assert may_move(DeliveryState(old), DeliveryState(new)), f"a delivery went from {old} to {new}"
        twice = self.session.rows(
            """SELECT sop_instance_uid FROM instance WHERE state = 'stored'
            GROUP BY sop_instance_uid, transfer_syntax_uid, digest HAVING count(*) > 1"""
        )
        assert not twice, f"the same object has two rows: {twice}"

    def tallies_equal_counts(self) -> None:
        kept = self.session.rows("SELECT * FROM tally WHERE instances > 0 OR bytes > 0")
        counted = self.session.rows(
            """SELECT destination, state, count(*), sum(bytes) FROM delivery GROUP BY 1, 2 UNION ALL
            SELECT '', 'owed', count(*), sum(length) FROM instance WHERE owed > 0 HAVING count(*) > 0"""
        )
        assert sorted(kept) == sorted(counted)

    def decisions_stand(self) -> None:
        states = self.states()
        for leg in self.world.ledger.cancelled:
            assert states[leg] == "cancelled", leg
        for leg in self.world.ledger.held:
            assert states[leg] == "held", leg

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            self.stack.close()
            return
        try:
            self.bring_to_its_end()
        finally:
            self.world.close()
            self.stack.close()

    def bring_to_its_end(self) -> None:
        """All is well again and time passes: everything that was acknowledged arrives, with no hand on it."""
        world, ledger = self.world, self.world.ledger
        world.doom = None
        world.disk.heal()
        for destination in world.destinations:
            destination.up, destination.script, destination.delay = True, [], 0.0
        for _ in range(4):
            self.pass_time(5.0)
            world.loop.leap(4000.0)
        self.pass_time(5.0)
        self.everything_holds()
        states = self.states()
        of_refusal = {leg for leg, state in states.items() if state == "held"} - ledger.held
        assert of_refusal <= ledger.refused, f"held, and nobody refused it: {of_refusal - ledger.refused}"
        assert set(states.values()) <= {"accepted", "held", "cancelled", "declined"}, states
        ledger.held.clear()
        ledger.touched |= set(states)
        world.call(self.session.control.act("release", Choice(), who="somebody"))
        self.pass_time(5.0)
        self.everything_holds()
        assert not {c for c in ledger.acknowledged if not self.is_over(c)}, "acknowledged, and never delivered"
        left = {p.name for p in self.session.spool.incoming.iterdir()}
        world.restart()
        self.pass_time(5.0)
        self.everything_holds()
        assert not list(self.session.spool.incoming.iterdir()), f"parts are left behind: {left}"

    # looking

    def legs(self) -> set[tuple[int, str, int]]:
        if not hasattr(self, "world"):
            return set()
        return set(self.session.rows("SELECT instance, destination, id FROM delivery"))

    def states(self) -> dict[Leg, str]:
        rows = self.session.rows("SELECT instance, destination, state FROM delivery")
        return {(instance, destination): state for instance, destination, state in rows}

    def contents(self) -> dict[int, Content]:
        rows = self.session.rows("SELECT id, sop_instance_uid, transfer_syntax_uid, digest FROM instance")
        return {number: Content(uid, syntax, digest) for number, uid, syntax, digest in rows}

    def files(self) -> set[Content]:
        """What is in the spool, whole."""
        spool = self.session.spool
        found = {whole(path) for path in (*spool.incoming.glob("*.part"), *spool.ready.rglob("*.dcm"))}
        return {content for content in found if content is not None}

    def is_over(self, content: Content) -> bool:
        """Whether every destination was given it, or a person or a destination did not want that."""
        if content in self.world.ledger.over:
            return True
        ids = [number for number, found in self.contents().items() if found == content]
        states = self.states()
        for name in PACS:
            ended = {states.get((number, name)) for number in ids} & {"cancelled", "declined"}
            if content not in self.world.ledger.given[name] and not ended:
                return False
        return True


def spoil(path: Path, how: str, where: int) -> None:
    """Damage a database that nobody has open."""
    log = path.with_name(f"{path.name}-wal")
    if how in {"log", "all"}:
        log.unlink(missing_ok=True)
        if how == "log":
            return
    else:
        raw = sqlite3.connect(path)
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        raw.close()
    data = bytearray(path.read_bytes())
    pages = len(data) // 4096
    at = 4096 * (where % pages if how != "header" and pages else 0)
    data[at : at + 4096] = bytes(4096) if how == "zeros" else b"\xff" * 4096
    path.write_bytes(data if how != "all" else random.Random(where).randbytes(len(data)))


def whole(path: Path) -> Content | None:
    """Read a sealed file; nothing where it is not what its seal says."""
    try:
        data = path.read_bytes()
        meta = part10.read_meta(data)
        seal = seals.decode(meta.private)
    except (FileNotFoundError, part10.NotPart10Error, seals.BadSealError):
        return None
    dataset = data[meta.offset :]
    digest = hashlib.sha256(dataset).digest()
    if str(seal.id) != path.stem or seal.length != len(dataset) or seal.digest != digest:
        return None
    return Content(meta.sop_instance_uid, meta.transfer_syntax_uid, digest)


TestMachine = pytest.mark.timeout(900)(Machine.TestCase)  # a failure is shrunk before it is told
TestMachine.settings = settings(
    max_examples=LONG or 45,
    stateful_step_count=50 if LONG else 30,
    deadline=None,
    derandomize=not LONG,  # the same every time in the suite; a long run looks for what is new
    print_blob=True,
    report_multiple_bugs=False,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # it takes longer than it tells
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
