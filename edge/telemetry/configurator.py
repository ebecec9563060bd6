"""The configuration over the broker: judges what is desired, has it tried, and tells what became of it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog

from edge import events
from edge.clock import Clock
from edge.config import Config, Signer
from edge.messages import Topics, encode
from edge.mqtt import Message, Session
from edge.quota import MINUTE, Quota
from edge.snapshot import Snapshot
from edge.store import Store, StoreError
from edge.telemetry.trial import Trial
from edge.telemetry.twin import Refused, Twin

log = structlog.get_logger()

_EVERY: Final = 5.0
_REJECTIONS: Final = 10
"""Rejections told as events in a minute; anybody who may publish can make them."""


class Configurator:
    """Owns the twin of a running appliance; its files are read and written by way of ``run``, in a thread.

    ``restart`` has the appliance begin anew with what is in force then.
    """

    def __init__(
        self,
        twin: Twin,
        trial: Trial | None,
        node: str,
        topics: Topics,
        config: Config,
        signers: tuple[Signer, ...],
        store: Store,
        *,
        snapshot: Callable[[], Awaitable[Snapshot]],
        restart: Callable[[], None],
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        clock: Clock,
    ) -> None:
        self._twin = twin
        self._trial = trial
        self._node = node
        self._topics = topics
        self._config = config
        self._signers = signers
        self._store = store
        self._snapshot = snapshot
        self._restart = restart
        self._run = run
        self._clock = clock
        self._changed = asyncio.Event()
        self._rejections = Quota(_REJECTIONS, MINUTE, clock.monotonic)

    def connected(self) -> None:
        """Hear that the broker was reached."""
        if self._trial is not None:
            self._trial.reached = True

    def tell_again(self) -> None:
        """Report once more, soon."""
        self._changed.set()

    async def report(self, session: Session) -> None:
        """Tell over ``session`` what is in force, at once and whenever it changes. Raises `LostError`."""
        while True:
            self._changed.clear()
            report = await self._run(partial(self._twin.report, self._clock))
            await session.publish(self._topics.config, encode(report), qos=1, retain=True)
            await self._changed.wait()

    async def take(self, message: Message) -> None:
        """Take what came on ``down/config``."""
        if not message.payload:
            return
        try:
            judged = partial(self._twin.consider, message.payload, self._node, self._signers, self._config)
            desired = await self._run(judged)
            if desired is None:
                return
        except Refused as e:
            await self._refuse(e)
            return
        try:
            snapshot = await self._snapshot()
            were_up = [d.name for d in snapshot.destinations if d.state == "up"]
            await self._run(partial(self._twin.take, desired, were_up))
        except (OSError, StoreError):
            # not remembered: it is judged again with the next connection
            await self._refuse(Refused(0, "STORAGE"))
            return
        await self._note(desired.revision, "applied")
        self._changed.set()
        self._restart()

    async def watch(self) -> None:
        """Tell of a trial that ended before this start, and judge one that goes on until it is over."""
        await self._tell_of_the_last()
        while self._trial is not None:
            await asyncio.sleep(_EVERY)
            try:
                verdict = await self._trial.judge(await self._snapshot())
                if verdict is None:
                    continue
                await self._run(partial(self._twin.roll_back, verdict) if verdict else self._twin.keep)
                self._trial = None
                if verdict:
                    await self._tell_of_the_last()
                    self._restart()
            except (StoreError, OSError) as e:
                log.warning("the trial of a configuration cannot be judged", error=str(e))
            self._changed.set()

    async def _tell_of_the_last(self) -> None:
        """Write an event of the roll-back that was not told yet; a failure is left for the next start."""
        if (untold := self._twin.untold) is None:
            return
        revision, reason = untold
        try:
            await self._store.write_events([events.configuration(revision, "rolled-back", reason)])
            await self._run(self._twin.told)
        except (StoreError, OSError) as e:
            log.warning("a roll-back could not be written down", revision=revision, error=str(e))

    async def _refuse(self, why: Refused) -> None:
        with contextlib.suppress(OSError):
            await self._run(partial(self._twin.refuse, why))
        if self._rejections.take():
            await self._note(why.revision, "rejected", why.reason)
        self._changed.set()

    async def _note(self, revision: int, status: str, reason: str = "") -> None:
        with contextlib.suppress(StoreError):
            await self._store.write_events([events.configuration(revision, status, reason)])
