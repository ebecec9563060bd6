"""The event loop's side of a connection: what its thread reports crosses over in `Line._cross`, and nowhere else."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

from edge.clock import Clock
from edge.mqtt.client import Version
from edge.mqtt.inbox import Inbox, Message
from edge.mqtt.problem import Problem, UnreachableError, timed_out
from edge.mqtt.report import Greeting, Will
from edge.mqtt.settings import Settings
from edge.mqtt.wire import Wire
from edge.phrase import say

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Line:
    """One connection. It is over when `ended` is done; until then somebody must be ready to `end` it."""

    def __init__(self, settings: Settings, version: Version, inbox: Inbox, clock: Clock) -> None:
        """Begin to connect. Raises `UnreachableError` where this machine has no means left."""
        self.problem: Problem | None = None
        """Why it ends, once it is known."""
        self.news = asyncio.Event()
        """Set when a message has come, or the end."""
        self.where = settings.where
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._stands: asyncio.Future[None] = self._loop.create_future()
        self._greeting: asyncio.Future[Greeting] = self._loop.create_future()
        self._pending: set[asyncio.Future[tuple[int, ...]]] = set()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when its thread and its descriptors are gone."""
        try:
            self._wire = Wire(settings, version, self, clock)
            threading.Thread(target=self._wire.run, name="mqtt", daemon=True).start()
        except (OSError, RuntimeError) as e:
            raise UnreachableError(
                Problem("NO_MEANS", say("no connection can be made from here: {error}.", error=e))
            ) from e

    async def stand(self, seconds: float) -> None:
        """Wait for TCP and TLS. Raises `UnreachableError`."""
        await self._outcome(self._stands, seconds)

    async def greet(self, will: Will, seconds: float) -> Greeting:
        """Send CONNECT and wait for the answer. Raises `UnreachableError`."""
        self._wire.post(partial(self._wire.greet, will))
        return await self._outcome(self._greeting, seconds)

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> "asyncio.Future[tuple[int, ...]]":
        """Publish; what is returned has the reason codes when the broker gave them, or is cancelled at the end."""
        answer, future = self._answer()
        self._wire.post(partial(self._wire.publish, topic, payload, qos, answer, retain=retain))
        return future

    def subscribe(self, topics: list[tuple[str, int]]) -> "asyncio.Future[tuple[int, ...]]":
        """Subscribe; as `publish`."""
        answer, future = self._answer()
        self._wire.post(partial(self._wire.subscribe, topics, answer))
        return future

    async def codes(self, future: "asyncio.Future[tuple[int, ...]]", seconds: float) -> tuple[int, ...]:
        """Wait for the answer. Raises `UnreachableError`; a broker that does not answer in time is given up."""
        return await self._outcome(future, seconds)

    def disconnect(self) -> None:
        """End it so that the broker forgets the will."""
        self._wire.post(self._wire.disconnect)

    def end(self, problem: Problem | None = None) -> None:
        """End it now, because of ``problem``; the first reason stands."""
        self.problem = self.problem or problem
        self._wire.abort()

    def stands(self) -> None:
        """Hear the thread."""
        self._cross(_settle, self._stands, None)

    def greeted(self, greeting: Greeting) -> None:
        """Hear the thread."""
        self._cross(_settle, self._greeting, greeting)

    def heard(self, message: Message) -> None:
        """Hear the thread."""
        if self._inbox.put(message):
            self._cross(self.news.set)

    def closed(self, problem: Problem) -> None:
        """Hear the thread."""
        self._cross(self._over, problem)

    def _cross(self, act: Callable[[Unpack[Ts]], object], *arguments: *Ts) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to hear it
            self._loop.call_soon_threadsafe(act, *arguments)

    def _over(self, problem: Problem) -> None:
        self.problem = self.problem or problem
        _settle(self.ended, None)
        self.news.set()
        for future in list(self._pending):
            future.cancel()

    def _answer(self) -> "tuple[Callable[[tuple[int, ...]], None], asyncio.Future[tuple[int, ...]]]":
        future: asyncio.Future[tuple[int, ...]] = self._loop.create_future()
        if self.ended.done():
            future.cancel()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return lambda codes: self._cross(_settle, future, codes), future

    async def _outcome(self, future: "asyncio.Future[T]", seconds: float) -> T:
        await asyncio.wait((future, self.ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if future.done() and not future.cancelled():
            return future.result()
        if not self.ended.done():
            self.end(timed_out(self.where))
        raise UnreachableError(self.problem or timed_out(self.where))


def _settle(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)
