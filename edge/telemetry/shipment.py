"""Events over one connection: in order, in batches, again and again until somebody says that they are stored.

PUBACK is the broker's word and no more; events leave the box after ``down/ack``, or where no monitor acknowledges, once
the broker had somebody to give them to. The store holds them; a connection that ends takes nothing with it.
"""

import asyncio
from collections import deque
from typing import Final

import msgspec

from edge.clock import iso
from edge.messages import Ack, Events, SentEvent, Topics, encode
from edge.mqtt import Session
from edge.store import LoggedEvent, Store

MOST_BYTES: Final = 64_000
"""Bytes of one batch."""
_PAGE: Final = 500
_WINDOW: Final = 8
"""Batches on their way without an acknowledgement."""
RESEND: Final = 30.0
"""Seconds without an acknowledgement after which all is sent again; and between tries where nobody listens."""
NOBODY: Final = 0x10
"""Reason code of a PUBACK: no matching subscribers (MQTT 5, 3.4.2.1)."""
_FRAME: Final = 128


class Shipment:
    """The events of one connection. ``acknowledged``: a monitor says when they are stored."""

    def __init__(self, session: Session, store: Store, topics: Topics, *, acknowledged: bool) -> None:
        self._session = session
        self._store = store
        self._topics = topics
        self._acknowledged = acknowledged
        self._sent = 0
        self._told: Ack | None = None
        self._on_the_way: deque[int] = deque()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Ship until cancelled. Raises `LostError`; `StoreError` where the store cannot be read."""
        first, newest = await self._store.event_range()
        self._sent = first - 1
        while True:
            self._news.clear()
            self._store.events_arrived.clear()
            await self._heed()
            batch = await self._batch(newest) if len(self._on_the_way) < _WINDOW else None
            if batch is None:
                if not await self._wait() and self._on_the_way:
                    self._begin_again((await self._store.event_range())[0])
            elif not await self._publish(batch):
                await self._wait()

    def acknowledge(self, ack: Ack) -> None:
        """Hear an acknowledgement; what it says of events that were not sent is void until they are."""
        if ack.epoch == self._store.epoch:
            self._told = ack
            self._news.set()

    async def _publish(self, batch: Events) -> bool:
        code = await self._session.publish(self._topics.events, encode(batch), qos=1, retain=False)
        if code:
            return False
        self._sent = batch.to
        if self._acknowledged:
            self._on_the_way.append(batch.to)
        else:
            await self._store.drop_events(batch.to)
        return True

    async def _heed(self) -> None:
        """Forget what was acknowledged."""
        told = self._told
        if told is None or not self._acknowledged:
            return
        if told.up_to <= self._sent:
            self._told = None
            await self._store.drop_events(told.up_to)
            while self._on_the_way and self._on_the_way[0] <= told.up_to:
                self._on_the_way.popleft()

    def _begin_again(self, first: int) -> None:
        self._on_the_way.clear()
        self._sent = first - 1

    async def _batch(self, newest: int) -> Events | None:
        """Return what comes next; ``newest`` is the last event that was there when the connection was made."""
        page = await self._store.events_after(self._sent, _PAGE)
        events: list[SentEvent] = []
        size = _FRAME
        for logged in page:
            event = _told(logged, late=logged.seq <= newest)
            size += len(msgspec.json.encode(event)) + 1
            if events and size > MOST_BYTES:
                break
            events.append(event)
        if not events:
            return None
        return Events(epoch=self._store.epoch, from_=events[0].seq, to=events[-1].seq, events=events)

    async def _wait(self) -> bool:
        """Wait for an acknowledgement or more events; False where none came in time."""
        arrived = asyncio.ensure_future(self._store.events_arrived.wait())
        news = asyncio.ensure_future(self._news.wait())
        try:
            waited = {news} if len(self._on_the_way) >= _WINDOW else {news, arrived}
            done, _ = await asyncio.wait(waited, timeout=RESEND, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            arrived.cancel()
            news.cancel()


def _told(logged: LoggedEvent, *, late: bool) -> SentEvent:
    return SentEvent(
        seq=logged.seq,
        ts=iso(logged.at),
        clock_trusted=logged.clock_trusted,
        severity="error" if logged.severity == "error" else "warning" if logged.severity == "warning" else "info",
        component=logged.component,
        code=logged.code,
        data=logged.data,
        late=late,
    )
