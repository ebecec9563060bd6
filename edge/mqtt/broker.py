"""One connection after another, for ever, with pauses that grow; and why there is none now.

A broker that is absent for weeks costs one short-lived thread every few minutes: the next connection begins only when
nothing of the one before is left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from edge.clock import Clock
from edge.mqtt.client import Version
from edge.mqtt.inbox import Inbox
from edge.mqtt.line import Line
from edge.mqtt.problem import REFUSED, LostError, Problem, UnreachableError, refused
from edge.mqtt.report import Will
from edge.mqtt.session import Session
from edge.mqtt.settings import Patience, Settings
from edge.phrase import say

log = structlog.get_logger()

_GRACE: Final = 1.0
"""Seconds that who serves has to notice the end by himself."""
_MOST_DOUBLINGS: Final = 30
_PATIENT: Final = Patience()

Prepare = Callable[[], Awaitable[Will]]
Serve = Callable[[Session], Awaitable[None]]
Listener = Callable[[Problem | None], None]


class Broker:
    """The broker as this box sees it. ``listener`` hears each change of `problem`; ``random`` is from 0 to 1."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        random: Callable[[], float],
        listener: Listener = lambda _: None,
        patience: Patience = _PATIENT,
    ) -> None:
        self.problem: Problem | None = None
        """Why there is no connection now; None also before the first was tried."""
        self._settings = settings
        self._clock = clock
        self._random = random
        self._listener = listener
        self._patience = patience
        self._version = Version.MQTTv311 if settings.protocol == "3.1.1" else Version.MQTTv5
        self._sure = settings.protocol != "auto"
        self._guessed = False
        """Whether 3.1.1 is spoken only because the broker once hung up on 5."""
        self._failures = 0

    async def run(self, prepare: Prepare, serve: Serve) -> None:
        """Connect again and again; return after a session was stopped.

        ``prepare`` is awaited once TCP and TLS stand, once for each CONNECT; ``serve`` while the connection holds, and
        is cancelled if it does not notice the end. What either raises is raised here, save `LostError`.
        """
        while True:
            line = None
            try:
                inbox = Inbox()
                line = Line(self._settings, self._version, inbox, self._clock)
                problem = await self._once(line, inbox, prepare, serve)
            except UnreachableError as e:
                problem = e.problem
            except LostError as e:
                problem = Problem("LOST", str(e))
            finally:
                if line is not None:
                    line.end()
            self._say(problem)
            if problem is None:
                return
            if line is not None:
                await asyncio.wait((line.ended,))
            await asyncio.sleep(self._pause())

    async def _once(self, line: Line, inbox: Inbox, prepare: Prepare, serve: Serve) -> Problem | None:
        """Make one connection and serve it. Return why it ended; None where it was stopped."""
        await line.stand(self._patience.connect)
        will = await prepare()
        try:
            greeting = await line.greet(will, self._patience.connect)
            if greeting.code >= REFUSED:
                raise UnreachableError(refused(greeting.code, self._settings.where))
        except UnreachableError as e:
            self._doubt(e.problem)
            raise
        self._sure = True
        self._say(None)
        session = Session(line, inbox, greeting, self._patience)
        begun = self._clock.monotonic()
        await _serve(line, session, serve)
        if self._clock.monotonic() - begun >= self._patience.held:
            self._failures = 0
        if self._guessed:
            self._version, self._sure, self._guessed = Version.MQTTv5, False, False
        if session.dropped:
            log.warning("messages came too fast and were dropped", count=session.dropped)
        if session.stopped:
            return None
        return line.problem or Problem(
            "LOST", say("the connection to {where} was given up here.", where=self._settings.where)
        )

    def _doubt(self, problem: Problem) -> None:
        """Take the other version next time, where this one may be why.

        An old broker may close the connection on MQTT 5 without a word; one that once took it does so for other
        reasons. Who only hung up is asked for 5 again on the next connection: it may have been starting, and in 3.1.1
        it cannot say that nobody listens.
        """
        suspect = problem.code == "PROTOCOL" or (problem.code == "LOST" and not self._sure)
        if suspect and self._settings.protocol == "auto":
            self._version = Version.MQTTv5 if self._version == Version.MQTTv311 else Version.MQTTv311
            self._guessed = problem.code == "LOST" and self._version == Version.MQTTv311
            log.info("the other version of MQTT is tried", version=self._version.name)

    def _pause(self) -> float:
        patience = self._patience
        ceiling = min(patience.longest_pause, patience.first_pause * 2.0 ** min(self._failures, _MOST_DOUBLINGS))
        self._failures += 1
        return ceiling * self._random()

    def _say(self, problem: Problem | None) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if problem is not None:
            log.info("no connection to the broker", code=problem.code, reason=problem.sentence)
        self._listener(problem)


async def _serve(line: Line, session: Session, serve: Serve) -> None:
    """Serve until that returns or the connection is gone. Raises what it raises, save `LostError`."""
    serving = asyncio.ensure_future(serve(session))
    try:
        await asyncio.wait((serving, line.ended), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((serving,), timeout=_GRACE)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    error = None if serving.cancelled() else serving.exception()
    if error is not None and not _only_lost(error):
        raise error


def _only_lost(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(LostError)[1] is None
    return isinstance(error, LostError)
