"""What one connection after another tells of a box: all of it, whatever the store, the disk and the broker do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from edge import events
from edge.clock import iso
from edge.config import Config, Mqtt
from edge.findings import Journal
from edge.messages import Topics
from edge.mqtt import LostError, Message
from edge.snapshot import Snapshot
from edge.store import Store, StoreError
from edge.telemetry import service
from edge.telemetry.commander import Commander
from edge.telemetry.configurator import Configurator
from edge.telemetry.discovery import topic
from edge.telemetry.service import Telemetry
from edge.telemetry.twin import Twin
from tests.fakes import FakeBrokerSession, ManualClock
from tests.peers.ports import LOOPBACK
from tests.signer import SIGNER
from tests.snapshots import destination, snapshot

NODE: Final = "0123456789abcdef"
TOPICS: Final = Topics(NODE)
MQTT: Final = Mqtt(url=f"mqtt://{LOOPBACK}", signer=(SIGNER,), home_assistant=True)
LATER: Final = 1_800_003_600.0


class Session(FakeBrokerSession):
    """A broker in memory that also can be heard, and may refuse what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, int] = {}
        self.insisted: list[int] = []
        self._ended = asyncio.Event()

    async def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> int:
        await super().publish(topic, payload, qos=qos, retain=retain)
        return self.refused.get(topic, 0)

    async def subscribe(self, topics: list[tuple[str, int]]) -> tuple[int, ...]:
        return (1,) * len(topics)

    async def receive(self) -> Message:
        await self._ended.wait()
        raise LostError("it is gone")

    def insist(self, code: int) -> None:
        self.insisted.append(code)
        if code:
            raise LostError("it is of no use")

    def lose(self) -> None:
        self.lost = True
        self._ended.set()

    def last(self, name: str) -> Any:
        found = self.on(name)
        return json.loads(found[-1]) if found and found[-1] else None


class Line:
    """Stands where `Broker` does."""

    def __init__(self) -> None:
        self._next: asyncio.Queue[Session] = asyncio.Queue()
        self.wills: list[Any] = []

    async def run(self, prepare: Callable[[], Awaitable[Any]], serve: Callable[[Session], Awaitable[None]]) -> None:
        while True:
            session = await self._next.get()
            try:
                will = await prepare()
            except LostError:
                continue
            self.wills.append(json.loads(will.payload))
            await serve(session)

    def connect(self) -> Session:
        session = Session()
        self._next.put_nowait(session)
        return session


class Box:
    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        self.clock = ManualClock()
        self.journal = Journal(self.clock)
        self.line = Line()
        self.problem = ""
        self.readable = True
        self.counted = 41
        self.writable = True
        commander = Commander(NODE, TOPICS, (SIGNER,), {}, store, self.clock)
        config = Config(mqtt=MQTT)
        configurator = Configurator(
            Twin(folder, folder / "edge.toml"),
            None,
            NODE,
            TOPICS,
            config,
            (SIGNER,),
            store,
            snapshot=self._snapshot,
            restart=lambda: None,
            run=self._run,
            clock=self.clock,
        )
        self.telemetry = Telemetry(
            config,
            MQTT,
            self.line,  # type: ignore[arg-type]
            NODE,
            store,
            commander,
            configurator,
            snapshot=self._snapshot,
            next_session=self._next,
            run=self._run,
            journal=self.journal,
            clock=self.clock,
        )

    async def _snapshot(self) -> Snapshot:
        if not self.readable:
            raise StoreError("The database cannot be read.")
        return snapshot(destinations=[destination("pacs", problem=self.problem)], taken_at=iso(self.clock.now()))

    def _next(self) -> int:
        if not self.writable:
            raise OSError(30, "Read-only file system")
        self.counted += 1
        return self.counted

    async def _run(self, work: Callable[[], Any]) -> Any:
        return work()


@pytest.fixture
async def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    monkeypatch.setattr("edge.telemetry.reporter._LOOK", 0.005)
    store = await Store.open(tmp_path, ManualClock(), 1, lambda n: tmp_path / str(n))
    running = asyncio.create_task(store.run())
    made = Box(tmp_path, store)
    telling = asyncio.create_task(made.telemetry.run())
    yield made
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    store.finish()
    await running
    await store.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to give
            await asyncio.sleep(0.001)


async def test_a_box_whose_database_cannot_be_read_is_online_and_says_what_is_wrong(box: Box) -> None:
    box.readable = False
    box.journal.state("INTAKE_CLOSED", "store", "the disk fails.")
    session = box.line.connect()
    await until(lambda: session.on(TOPICS.config))
    assert session.last(TOPICS.state)["state"] == "online"
    assert session.last(TOPICS.health)["components"]["storage"]["status"] == "fault"
    assert session.last(TOPICS.health)["light"] == "R2"
    assert session.last(TOPICS.alert("INTAKE_CLOSED"))["severity"] == "error"
    assert not session.on(TOPICS.metrics), "what is not known is not told"
    box.readable = True
    await until(lambda: session.last(TOPICS.health)["components"]["storage"]["status"] == "ok")
    await until(lambda: session.on(TOPICS.metrics))


async def test_a_rebirth_publishes_all_that_is_retained_and_sends_events_again(box: Box) -> None:
    await box.store.begin_command("c1", "retry", "monitor-1", LATER)
    await box.store.finish_command("c1", "succeeded")
    session = box.line.connect()
    told = [TOPICS.state, TOPICS.birth, TOPICS.update, TOPICS.health, TOPICS.config, TOPICS.command("c1"), topic(NODE)]
    told.append(TOPICS.events)
    await until(lambda: all(session.on(name) for name in told))
    session.published.clear()
    box.telemetry.rebirth()
    await until(lambda: all(session.on(name) for name in told))
    assert session.last(TOPICS.command("c1"))["status"] == "succeeded"


async def test_a_disk_that_takes_no_more_numbers_keeps_no_box_from_being_seen(box: Box) -> None:
    first = box.line.connect()
    await until(lambda: first.on(TOPICS.state))
    box.writable = False
    first.lose()
    second = box.line.connect()
    await until(lambda: second.on(TOPICS.state))
    sessions = [will["session"] for will in box.line.wills]
    assert sessions == [42 * service._BLOCK + 1, 42 * service._BLOCK + 2]
    assert second.last(TOPICS.state)["session"] == sessions[1]


async def test_what_was_known_on_the_connection_before_is_known_on_the_next(box: Box) -> None:
    first = box.line.connect()
    await until(lambda: first.on(TOPICS.config))
    since = first.last(TOPICS.health)["components"]["receive"]["since"]
    first.lose()
    box.clock.pass_time(3600)
    second = box.line.connect()
    await until(lambda: second.on(TOPICS.health))
    assert second.last(TOPICS.health)["components"]["receive"]["since"] == since


async def test_a_broker_that_does_not_take_the_state_is_given_up(box: Box) -> None:
    session = Session()
    session.refused = {TOPICS.state: 0x87}
    box.line._next.put_nowait(session)
    await until(lambda: session.insisted)
    assert session.insisted == [0x87]
    after = box.line.connect()
    await until(lambda: after.on(TOPICS.birth))


async def test_what_cannot_be_cleared_or_counted_while_the_disk_can_only_be_read_ends_no_connection(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise StoreError("The database can only be read at this moment.")

    for verb in ("forget_commands", "drop_events", "expired_commands", "recent_commands"):
        monkeypatch.setattr(box.store, verb, fails)
    await box.store.write_events([events.stopped()])
    session = box.line.connect()
    await until(lambda: session.on(TOPICS.config) and session.on(TOPICS.events))
    await until(lambda: len(session.on(TOPICS.metrics)) == 1)
    assert len(box.line.wills) == 1
