"""Telemetry: one connection after another to the broker, and on each of them all that is told and heard.

It observes through one snapshot and waits for nobody but the broker: absent, slow or hostile, that costs telemetry and
nothing else.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from edge import __version__
from edge.clock import Clock, iso
from edge.config import Config, Mqtt
from edge.findings import Journal
from edge.messages import Ack, Birth, EventRange, Health, Topics, encode
from edge.mqtt import Broker, LostError, Message, Session, Will
from edge.snapshot import FindingStatus, Snapshot
from edge.status.collect import finding_status
from edge.status.power import Power
from edge.store import Store, StoreError
from edge.telemetry.commander import Commander
from edge.telemetry.configurator import Configurator
from edge.telemetry.discovery import document, topic
from edge.telemetry.metrics import dictionary
from edge.telemetry.reporter import Reporter, Who, state
from edge.telemetry.shipment import Shipment
from edge.updating.watch import UpdateWatch

log = structlog.get_logger()

_RETRY: Final = 5.0
_BLOCK: Final = 1 << 10
"""Sessions for which one number is counted, so that a disk that takes nothing more keeps no box from being seen."""
_REFUSED: Final = 0x80
"""Reason codes from here on say that a subscription was not taken."""
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_MODEL: Final = Path("/proc/device-tree/model")


class Telemetry:
    """The whole of it, for one appliance."""

    def __init__(
        self,
        config: Config,
        mqtt: Mqtt,
        broker: Broker,
        node: str,
        store: Store,
        commander: Commander,
        configurator: Configurator,
        *,
        snapshot: Callable[[], Awaitable[Snapshot]],
        next_session: Callable[[], int],
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        journal: Journal,
        clock: Clock,
        updates: UpdateWatch | None = None,
    ) -> None:
        """``next_session`` gives a number that is higher than any before, synced, and is called by way of ``run``.

        ``run`` does something in a thread. ``updates`` tells of updates; None: this is no image of the box.
        """
        self._updates = updates
        self._config = config
        self._mqtt = mqtt
        self._broker = broker
        self._node = node
        self._store = store
        self._commander = commander
        self._configurator = configurator
        self._snapshot = snapshot
        self._next_session = next_session
        self._run = run
        self._journal = journal
        self._clock = clock
        self._topics = Topics(node)
        self._boot = _read(_BOOT)
        self._who = Who(session=0, boot_id=self._boot)
        self._reporter: Reporter | None = None
        self._shipment: Shipment | None = None
        self._health: Health | None = None
        self._power = Power(clock)
        self._session = 0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Connect again and again until `stop`."""
        await self._recover()
        serving = asyncio.ensure_future(self._broker.run(self._prepare, self._serve))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
            if self._reporter is not None and not serving.done():
                await asyncio.wait((serving,), timeout=2.0)  # its last word
            if serving.done():
                serving.result()
        finally:
            for task in (serving, stop):
                task.cancel()
            await asyncio.gather(serving, stop, return_exceptions=True)

    async def _recover(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._commander.recover()
            except StoreError as e:
                log.warning("telemetry waits for the store", error=str(e))
                await asyncio.sleep(_RETRY)
            else:
                return

    def stop(self) -> None:
        """Say ``offline`` and let `run` return."""
        self._stopping.set()

    def rebirth(self) -> None:
        """Publish everything that is retained again, and send events again."""
        if self._reporter is not None:
            self._reporter.rebirth()
        if self._shipment is not None:
            self._shipment.again()
        self._commander.tell_again()
        self._configurator.tell_again()

    def trouble(self, problem: tuple[str, str] | None) -> None:
        """Hear why there is no connection, or None while there is one."""
        if problem is None:
            self._journal.clear("BROKER_DOWN", "mqtt")
        else:
            self._journal.state("BROKER_DOWN", "mqtt", problem[1])

    async def _prepare(self) -> Will:
        try:
            if self._session % _BLOCK == 0:
                self._session = await self._run(self._next_session) * _BLOCK
        except OSError as e:
            raise LostError(f"no session can be counted: {e.strerror or e}") from e
        self._session += 1
        self._who = Who(session=self._session, boot_id=self._boot)
        return Will(topic=self._topics.state, payload=encode(state(self._who, "lost", self._clock)))

    async def _serve(self, session: Session) -> None:
        """One connection, until it is lost or the box stops."""
        topics = self._topics
        reporter = self._reporter = self._made_reporter(session)
        shipment = self._shipment = Shipment(session, self._store, topics, acknowledged=self._mqtt.acknowledged)
        self._commander.report_over(session)
        try:
            with contextlib.suppress(StoreError):  # it begins later then
                await shipment.begin()
            await self._subscribe(session)
            await reporter.begin()
            self._configurator.connected()
            await self._attend(session)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(reporter.run()),
                    group.create_task(shipment.run()),
                    group.create_task(self._hear(session, shipment)),
                    group.create_task(self._commander.serve(session)),
                    group.create_task(self._configurator.report(session)),
                ]
                await self._stopping.wait()
                await self._commander.finish()
                for task in tasks:
                    task.cancel()
            await session.stop(topics.state, encode(state(self._who, "offline", self._clock)))
        except* LostError:
            pass  # what was not acknowledged is told again
        finally:
            self._health = reporter.health
            self._reporter = self._shipment = None

    async def _attend(self, session: Session) -> None:
        """Report on commands before any is heard: what a new one comes to must be the last word."""
        try:
            await self._commander.attend(session)
        except StoreError:
            self._commander.tell_again()

    def _made_reporter(self, session: Session) -> Reporter:
        return Reporter(
            session,
            self._topics,
            self._who,
            self._clock,
            snapshot=self._snapshot,
            birth=self._birth,
            findings=self._findings,
            power=self._look_at_power,
            before=self._health,
            introduce=lambda: self._introduce(session),
            update=self._updates.report if self._updates is not None else None,
        )

    async def _subscribe(self, session: Session) -> None:
        topics = [self._topics.down_commands, self._topics.down_config, self._topics.down_ack]
        codes = await session.subscribe([(name, 1) for name in topics])
        for name, code in zip(topics, codes, strict=False):
            if code >= _REFUSED:
                log.warning("the broker does not let this box read", topic=name, reason=f"0x{code:02X}")

    def _findings(self) -> list[FindingStatus]:
        return [finding_status(finding) for finding in self._journal.open()]

    async def _look_at_power(self) -> bool | None:
        return await asyncio.to_thread(self._power.good) if self._power.known else None

    async def _hear(self, session: Session, shipment: Shipment) -> None:
        while True:
            message = await session.receive()
            if message.topic == self._topics.down_ack:
                _acknowledge(shipment, message)
            elif message.topic == self._topics.down_config:
                await self._configurator.take(message)
            else:
                await self._commander.take(message)

    async def _birth(self) -> Birth:
        try:
            first, last = await self._store.event_range()
        except StoreError:
            first, last = 1, 0
        return Birth(
            session=self._who.session,
            model=_read(_MODEL).strip("\0") or "generic",
            name=self._config.device.name,
            site=self._config.device.site,
            version=__version__,
            slot=self._updates.slot if self._updates is not None else "",
            capabilities=self._commander.capabilities,
            metrics=dictionary([d.name for d in self._config.destination]),
            events=EventRange(epoch=self._store.epoch, first=first, last=last),
            ts=iso(self._clock.now()),
        )

    async def _introduce(self, session: Session) -> None:
        """Describe the box to Home Assistant, where that is wanted."""
        if not self._mqtt.home_assistant:
            return
        device = self._config.device
        metrics = dictionary([d.name for d in self._config.destination])
        text = document(self._node, device.name, device.site, __version__, self._topics, metrics)
        await session.publish(topic(self._node), text, qos=1, retain=True)


def _acknowledge(shipment: Shipment, message: Message) -> None:
    try:
        shipment.acknowledge(msgspec.json.decode(message.payload, type=Ack))
    except (msgspec.DecodeError, ValueError, RecursionError):
        log.warning("an acknowledgement of events is malformed")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
