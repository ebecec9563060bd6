"""One connection to the broker, for who publishes and hears: a small window, every wait with an end.

Nothing is kept here for later: what could not be published is the caller's to publish again on the next connection.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from edge.mqtt.inbox import Inbox, Message
from edge.mqtt.line import Line
from edge.mqtt.problem import REFUSED, LostError, UnreachableError, refused
from edge.mqtt.report import Greeting
from edge.mqtt.settings import Patience
from edge.phrase import N_

WINDOW: Final = 20
"""Messages on their way at once, at most; fewer where the broker says so."""
TOO_LARGE: Final = 0x95
"""Reason code: packet too large (MQTT 5, 2.4)."""
_OVERHEAD: Final = 16
"""Bytes of a PUBLISH beyond topic and payload, at most."""


class Session:
    """What `Broker.run` gives away; of no use once the connection is lost."""

    def __init__(self, line: Line, inbox: Inbox, greeting: Greeting, patience: Patience) -> None:
        self.stopped = False
        """Whether `stop` was called."""
        self._line = line
        self._inbox = inbox
        self._patience = patience
        self._places = asyncio.Semaphore(min(WINDOW, greeting.receive_maximum))
        self._most_bytes = greeting.maximum_packet - _OVERHEAD

    @property
    def dropped(self) -> int:
        """How many messages came faster than they were received, and are gone."""
        return self._inbox.dropped

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> int:
        """Publish, and wait for PUBACK where ``qos`` is 1; for the network to take it where it is 0.

        Return the reason code: 0; 16, nobody listens; from 128 on the broker did not take it. Raises `LostError` where
        the connection ends first, also because no answer came in time.
        """
        if len(topic.encode()) + len(payload) > self._most_bytes:
            return TOO_LARGE
        await self._places.acquire()
        future = self._line.publish(topic, payload, qos, retain=retain)
        # not when the caller goes: the message is on its way, whether somebody waits or not
        future.add_done_callback(lambda _: self._places.release())
        return (await self._codes(future))[0]

    async def subscribe(self, topics: Sequence[tuple[str, int]]) -> tuple[int, ...]:
        """Subscribe to all ``topics``, each with its QoS; return a reason code for each. Raises `LostError`."""
        return await self._codes(self._line.subscribe(list(topics)))

    async def receive(self) -> Message:
        """Wait for the next message; one caller at a time. Raises `LostError`, once all that came is taken."""
        while (message := self._inbox.take()) is None:
            if self._line.ended.done():
                raise LostError(self._why())
            self._line.news.clear()
            await self._line.news.wait()
        return message

    def insist(self, code: int) -> None:
        """Give the connection up where ``code`` is a no: of what it is useless without. Raises `LostError`."""
        if code >= REFUSED:
            self._line.end(refused(code, self._line.where))
            raise LostError(self._why())

    async def stop(self, topic: str, payload: bytes) -> None:
        """Say a last, retained word and disconnect, so that the will is void. Takes two seconds at most.

        Where the broker does not take it in time, the will stands: a broker must not go on believing the word before.
        """
        self.stopped = True
        try:
            with contextlib.suppress(TimeoutError, LostError):
                async with asyncio.timeout(self._patience.stop):
                    await self.publish(topic, payload, qos=1, retain=True)
                    self._line.disconnect()
                    await asyncio.wait((self._line.ended,))
        finally:
            self._line.end()

    async def _codes(self, future: "asyncio.Future[tuple[int, ...]]") -> tuple[int, ...]:
        try:
            return await self._line.codes(future, self._patience.answer)
        except UnreachableError as e:
            raise LostError(str(e)) from None

    def _why(self) -> str:
        return self._line.problem.sentence if self._line.problem is not None else N_("the connection is gone")
