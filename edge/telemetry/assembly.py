"""Puts telemetry together for one appliance: broker, commands, configuration twin."""

from collections.abc import Awaitable, Callable
from random import random
from typing import Any

from edge.board import Board
from edge.clock import Clock
from edge.config import Config, Mqtt
from edge.control import Control
from edge.findings import Journal
from edge.forward.probe import Probe, probe
from edge.messages import Topics
from edge.mqtt import Broker, settings
from edge.snapshot import Snapshot
from edge.store import Store
from edge.telemetry.acts import Acts
from edge.telemetry.commander import Commander
from edge.telemetry.configurator import Configurator
from edge.telemetry.service import Telemetry
from edge.telemetry.trial import Trial
from edge.telemetry.twin import Twin
from edge.updating.wanted import Asking
from edge.updating.watch import UpdateWatch


class Assembly:
    """Telemetry and what belongs to it; run `telemetry.run` and `configurator.watch` as services."""

    def __init__(
        self,
        config: Config,
        mqtt: Mqtt,
        twin: Twin,
        node: str,
        store: Store,
        board: Board,
        control: Control,
        journal: Journal,
        clock: Clock,
        *,
        snapshot: Callable[[], Awaitable[Snapshot]],
        restart: Callable[[], None],
        next_session: Callable[[], int],
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        asking: Asking | None = None,
        updates: UpdateWatch | None = None,
    ) -> None:
        """What the words mean is said where each goes: `Acts`, `Configurator`, `Telemetry`."""
        topics = Topics(node)
        destinations = {d.name: d for d in config.destination}

        async def ask(name: str) -> Probe:
            return await probe(destinations[name], trusted=clock.trusted())

        async def answers(name: str) -> bool:
            # one that only takes no C-ECHO is reached, and was up before without it
            return name not in destinations or (await ask(name)).code in {"", "NO_ECHO"}

        acts = Acts(
            destinations,
            board,
            control,
            clock,
            probe=ask,
            rebirth=lambda: self.telemetry.rebirth(),  # noqa: PLW0108 - it is made below
            restart=restart,
            asking=asking,
        )
        self.configurator = Configurator(
            twin,
            Trial(twin.record.were_up, clock, answers) if twin.record.trial else None,
            node,
            topics,
            config,
            mqtt.signer,
            store,
            snapshot=snapshot,
            restart=restart,
            run=run,
            clock=clock,
        )
        broker = Broker(settings(mqtt, node), clock, random, self._trouble)
        self.telemetry = Telemetry(
            config,
            mqtt,
            broker,
            node,
            store,
            Commander(node, topics, mqtt.signer, acts.table(), store, clock, acts.refusal),
            self.configurator,
            snapshot=snapshot,
            next_session=next_session,
            run=run,
            journal=journal,
            clock=clock,
            updates=updates,
        )

    def _trouble(self, problem: tuple[str, str] | None) -> None:
        self.telemetry.trouble(problem)
