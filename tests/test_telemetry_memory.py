"""Telemetry over simulated weeks: what it holds in the end is what it held after the first of them.

Measured with tracemalloc again and again; the least of the first quarter is compared with the least of the last, for
what is in use just then comes and goes. What is allowed between the two is less than it would take to keep anything of
each attempt, of each connection or of each message. The database is no part of it, and has bounds of its own.
"""

import asyncio
import base64
import gc
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final
from unittest import mock

import psutil
import pytest

from edge.clock import iso
from edge.config import Config, Mqtt
from edge.findings import Journal
from edge.keeping.chronicle import Chronicle
from edge.messages import Ack, Topics, encode
from edge.mqtt import Broker, LostError, Message, Patience, Problem, Will, settings, wire
from edge.signing import sign
from edge.snapshot import Snapshot
from edge.store import Store
from edge.store import connection as connections
from edge.telemetry.commander import Commander
from edge.telemetry.commands import Result
from edge.telemetry.configurator import Configurator
from edge.telemetry.service import Telemetry
from edge.telemetry.twin import Twin
from tests.fakes import ManualClock
from tests.peers.ports import LOOPBACK
from tests.signer import KEY, SIGNER
from tests.simulated import SimulatedDisk, SimulatedLoop
from tests.snapshots import finding, snapshot

NODE: Final = "0123456789abcdef"
TOPICS: Final = Topics(NODE)
MQTT: Final = Mqtt(url=f"mqtt://{LOOPBACK}", signer=(SIGNER,))
WEEK: Final = 7 * 86_400.0

ATTEMPTS: Final = 4_096
EACH_ATTEMPT: Final = 16
"""Bytes: less than one number in a list."""
WARM: Final = 150
CONNECTIONS: Final = 300
"""After those that fill what is kept for good: caches, free lists."""
CONNECTED: Final = 4.0
ABSENT: Final = 2.5 * 3600
"""Seconds."""
FORGED: Final = 24
"""Commands and configurations that nobody signed, on each connection: more than are told in a minute."""
EACH_CONNECTION: Final = 180
"""Bytes: less than 8 for each forged message, and less than any object with attributes."""


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # what other tests left is no longer looked at each time
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.unfreeze()


def held() -> int:
    """Bytes that Python objects take, without what waits for the collector."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def grown(sizes: Sequence[int]) -> int:
    """Bytes from the first quarter to the last, at the least of each."""
    quarter = len(sizes) // 4
    return min(sizes[-quarter:]) - min(sizes[:quarter])


def means() -> tuple[int, int]:
    """Threads and descriptors of this process."""
    return threading.active_count(), psutil.Process().num_fds()


@pytest.mark.usefixtures("traced")
async def test_a_broker_that_is_never_there_costs_the_same_after_two_weeks_as_after_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    journal = Journal(clock)
    attempts = 0
    sizes: list[int] = []
    over = asyncio.Event()
    before = means()
    tasks = len(asyncio.all_tasks())

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    def pause() -> float:
        """Let the longest pause pass on the clock, and none for the test."""
        nonlocal attempts
        attempts += 1
        clock.pass_time(Patience().longest_pause)
        if attempts % (ATTEMPTS // 32) == 0:
            sizes.append(held())
        if attempts == ATTEMPTS:
            over.set()
        return 0.0

    def trouble(problem: Problem | None) -> None:
        journal.state("BROKER_DOWN", "mqtt", problem.sentence if problem else "")

    async def never(*_: object) -> Will:
        raise AssertionError("nobody is there")

    monkeypatch.setattr(wire, "dial", refuse)
    broker = Broker(settings(MQTT, NODE), clock, pause, trouble)
    trying = asyncio.create_task(broker.run(never, lambda _: asyncio.sleep(0)))
    await asyncio.wait_for(over.wait(), 240)
    trying.cancel()
    with suppress(asyncio.CancelledError):
        await trying
    assert clock.seconds > 2 * WEEK
    assert [f.count for f in journal.open() if f.code == "BROKER_DOWN"] == [1]
    assert grown(sizes) < EACH_ATTEMPT * ATTEMPTS * 3 // 4
    async with asyncio.timeout(10):
        while means() != before:  # noqa: ASYNC110 - the thread of the last attempt ends by itself
            await asyncio.sleep(0.001)
    assert len(asyncio.all_tasks()) == tasks


class FickleBroker:
    """Stands where `Broker` does: one session after another, each as long as the test lets it be."""

    def __init__(self) -> None:
        self.session: FickleSession | None = None
        self.served = 0
        self._again = asyncio.Event()

    async def run(self, prepare: Callable[[], Any], serve: Callable[[Any], Any]) -> None:
        while True:
            await self._again.wait()
            self._again.clear()
            await prepare()
            self.session = FickleSession()
            self.served += 1
            await serve(self.session)
            self.session = None

    def connect(self) -> None:
        self._again.set()


class FickleSession:
    """A session that acknowledges events as a monitor does, and keeps nothing but numbers of what it was told."""

    def __init__(self) -> None:
        self.published = 0
        self.rejected = 0
        self.succeeded = 0
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._lost = False

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> int:
        del qos, retain
        await asyncio.sleep(0)
        self._check()
        self.published += 1
        if topic == TOPICS.events:
            batch = json.loads(payload)
            self.give(TOPICS.down_ack, encode(Ack(epoch=batch["epoch"], up_to=batch["to"])))
        self.rejected += b'"rejected"' in payload and topic.startswith(f"{TOPICS.base}/up/command/")
        self.succeeded += b'"succeeded"' in payload and topic.startswith(f"{TOPICS.base}/up/command/")
        return 0

    async def subscribe(self, topics: list[tuple[str, int]]) -> tuple[int, ...]:
        return (1,) * len(topics)

    def insist(self, code: int) -> None:
        assert code == 0

    async def receive(self) -> Message:
        self._check()
        message = await self._inbox.get()
        if message is None:
            raise LostError("it is gone")
        return message

    def give(self, topic: str, payload: bytes) -> None:
        self._inbox.put_nowait(Message(topic, payload, 1, retain=False))

    def lose(self) -> None:
        self._lost = True
        self._inbox.put_nowait(None)

    def _check(self) -> None:
        if self._lost:
            raise LostError("it is gone")


class Box:
    """Telemetry as an appliance has it, over a broker that comes and goes, on a clock that the test moves."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.clock = ManualClock()
        self.loop = SimulatedLoop(self.clock)
        stack.callback(self.loop.close)
        disk = SimulatedDisk(folder, lambda _: None)
        stack.enter_context(mock.patch.object(connections, "Connection", disk.connection))
        self.journal = Journal(self.clock)
        self.broker = FickleBroker()
        opening = self.loop.create_task(Store.open(folder, self.clock, 1, lambda n: folder / str(n)))
        self.store: Store = self.loop.finish(opening)
        # nothing here is lost with the power, and thousands of syncs take minutes on a busy disk
        self.store._connection.raw.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]
        self._number = 0
        acts = {"retry": self._act}
        commander = Commander(NODE, TOPICS, (SIGNER,), acts, self.store, self.clock)
        config = Config(mqtt=MQTT)
        configurator = Configurator(
            Twin(folder, folder / "edge.toml"),
            None,
            NODE,
            TOPICS,
            config,
            (SIGNER,),
            self.store,
            snapshot=self._snapshot,
            restart=lambda: None,
            run=self._run,
            clock=self.clock,
        )
        telemetry = Telemetry(
            config,
            MQTT,
            self.broker,  # type: ignore[arg-type]
            NODE,
            self.store,
            commander,
            configurator,
            snapshot=self._snapshot,
            next_session=self._next,
            run=self._run,
            journal=self.journal,
            clock=self.clock,
        )
        chronicle = Chronicle(self.store, self.journal, self.clock)
        self._tasks = [self.loop.create_task(service) for service in (self.store.run(), chronicle.run())]
        self._telemetry = self.loop.create_task(telemetry.run())
        self.loop.settle()

    def connect(self, number: int) -> FickleSession:
        """Have a connection for a while, on which much happens; the session, once it is lost."""
        self.broker.connect()
        self.loop.advance(CONNECTED / 4)
        session = self.broker.session
        assert session is not None
        self.journal.state("DESTINATION_DOWN", "destination.pacs", "it is gone")
        self.journal.note("PEER_REFUSED", f"title.S{number}", "nobody knows it")
        for one in range(FORGED):
            session.give(*forged(number * FORGED + one))
        session.give(TOPICS.down_command(f"r{number}"), self._signed(f"r{number}"))
        self.loop.advance(CONNECTED / 2)
        self.journal.clear("DESTINATION_DOWN", "destination.pacs")
        self.journal.clear("PEER_REFUSED", f"title.S{number}")
        self.loop.advance(CONNECTED / 4)
        session.lose()
        self.loop.settle()
        return session

    def close(self) -> None:
        for task in (self._telemetry, *self._tasks[1:]):
            task.cancel()
        self.store.finish()
        self.loop.finish(self._tasks[0])
        self.loop.finish(self.loop.create_task(self.store.close()))

    def _signed(self, number: str) -> bytes:
        payload: dict[str, Any] = {"v": 1, "id": number, "type": "retry", "args": {}, "issued_by": "monitor-1"}
        payload["expires_at"] = iso(self.clock.now() + 600)
        return json.dumps(payload | {"signature": sign(payload, NODE, KEY)}).encode()

    async def _act(self, _arguments: object, _issuer: str) -> Result:
        return {"deliveries": 3}

    async def _snapshot(self) -> Snapshot:
        shown = [finding(f.code, f.component, count=f.count) for f in self.journal.open()]
        return snapshot(destinations=["pacs"], findings=shown)

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _run(self, work: Callable[[], int]) -> int:
        return work()


def forged(number: int) -> tuple[str, bytes]:
    """A message that nobody may send, never the same twice: topic and payload."""
    signature = base64.b64encode(number.to_bytes(64)).decode()
    command = {"v": 1, "id": f"f{number}", "type": "retry", "args": {}, "issued_by": "monitor-1"}
    command |= {"expires_at": "2030-01-01T00:00:00Z", "signature": signature}
    document = {"v": 1, "revision": number + 1, "document": "", "issued_by": "monitor-1", "signature": signature}
    return (
        (TOPICS.down_command(f"f{number}"), json.dumps(command).encode()),
        (TOPICS.down_command(f"f{number}"), b"{" * 100 + str(number).encode()),
        (TOPICS.down_command(f"f {number}"), b"nonsense"),
        (TOPICS.down_command(f"f{number}"), json.dumps(command | {"issued_by": f"stranger-{number}"}).encode()),
        (TOPICS.down_config, json.dumps(document).encode()),
        (TOPICS.down_ack, json.dumps({"v": 1, "epoch": number, "up_to": number}).encode()),
    )[number % 6]


@pytest.mark.usefixtures("traced")
def test_connections_that_come_and_go_and_forgeries_leave_nothing_behind_in_four_weeks(tmp_path: Path) -> None:
    with ExitStack() as stack:
        box = Box(tmp_path, stack)
        stack.callback(box.close)
        begun = box.clock.seconds
        sizes: list[int] = []
        others = set()
        for number in range(WARM + CONNECTIONS):
            session = box.connect(number)
            assert session.published > 10
            assert 0 < session.rejected <= 10
            assert session.succeeded >= 1
            box.loop.leap(ABSENT)
            box.loop.advance(2.0)
            del session
            if number >= WARM:
                sizes.append(held())
                others.add((*means(), len(asyncio.all_tasks(box.loop))))
        assert box.broker.served == WARM + CONNECTIONS
        assert box.clock.seconds - begun > 4 * WEEK
        assert len(others) == 1
        assert grown(sizes) < EACH_CONNECTION * CONNECTIONS * 3 // 4
