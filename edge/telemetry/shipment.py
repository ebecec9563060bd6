"""Events over one connection: in order, in batches, again and again until somebody says that they are stored.

PUBACK is the broker's word and no more; events leave the box after ``down/ack``, or where no monitor acknowledges, once
the broker had somebody to give them to. The store holds them; a connection that ends takes nothing with it, and a store
that fails does not end it: it is tried again.
"""

import asyncio
import contextlib
from collections import deque
from typing import Final

import msgspec
import structlog

from edge.clock import iso
from edge.messages import Ack, Events, SentEvent, Topics, encode
from edge.mqtt import Session
from edge.store import LoggedEvent, Store, StoreError

log = structlog.get_logger()

MOST_BYTES: Final = 64_000
"""Bytes of one batch."""
_PAGE: Final = 500
_WINDOW: Final = 8
"""Batches on their way without an acknowledgement."""
RESEND: Final = 30.0
"""Seconds without an acknowledgement after which all is sent again; and between tries where nobody listens."""
RAREST: Final = 1800.0
"""The same where nobody acknowledged anything for long."""
RETRY: Final = 5.0
"""Seconds after which a store that failed is tried again."""
NOBODY: Final = 0x10
"""Reason code of a PUBACK: no matching subscribers (MQTT 5, 3.4.2.1)."""
TOO_LARGE: Final = 0x95
"""Reason code: packet too large, there or already here."""
_FRAME: Final = 128


class Shipment:
    """The events of one connection. ``acknowledged``: a monitor says when they are stored."""

    def __init__(self, session: Session, store: Store, topics: Topics, *, acknowledged: bool) -> None:
        self._session = session
        self._store = store
        self._topics = topics
        self._acknowledged = acknowledged
        self._sent = 0
        self._range: tuple[int, int] | None = None
        self._told: Ack | None = None
        self._on_the_way: deque[int] = deque()
        self._news = asyncio.Event()
        self._patience = RESEND
        self._epoch = 0
        self._anew = False
        self._most_bytes = MOST_BYTES
        self._alone = False
        """Whether nobody listened: then one event is enough to ask again, for a mobile network is paid by the byte."""

    async def begin(self) -> None:
        """See what is there, as soon as the connection stands: these events are late. Raises `StoreError`."""
        self._epoch = self._store.epoch
        self._range = await self._store.event_range()
        self._begin_again(self._range[0])

    async def run(self) -> None:
        """Ship until cancelled. Raises `LostError`."""
        while True:
            try:
                if self._range is None or self._epoch != self._store.epoch:
                    await self.begin()
                await self._turn()
            except StoreError as e:
                log.warning("events wait for the store", error=str(e))
                await asyncio.sleep(RETRY)

    async def _turn(self) -> None:
        self._news.clear()
        self._store.events_arrived.clear()
        if self._anew:
            self._anew = False
            self._begin_again((await self._store.event_range())[0])
        await self._heed()
        batch = await self._batch() if len(self._on_the_way) < _WINDOW else None
        if batch is None:
            if not await self._wait(more=len(self._on_the_way) < _WINDOW) and self._on_the_way:
                self._doubt()
                self._begin_again((await self._store.event_range())[0])
        elif not await self._publish(batch):
            await self._wait(more=True)

    def again(self) -> None:
        """Send all once more, at once."""
        self._anew = True
        self._patience = RESEND
        self._news.set()

    def acknowledge(self, ack: Ack) -> None:
        """Hear an acknowledgement; what it says of events that were not sent is void until they are."""
        if ack.epoch == self._store.epoch:
            self._told = ack
            self._patience = RESEND  # somebody is there
            self._news.set()

    async def _publish(self, batch: Events) -> bool:
        with contextlib.suppress(OSError):  # a disk that takes nothing gives no new numbers either
            await self._store.mark_events(batch.to)
        code = await self._session.publish(self._topics.events, encode(batch), qos=1, retain=False)
        self._alone = code == NOBODY
        if code == TOO_LARGE:
            self._most_bytes = max(self._most_bytes // 2, _FRAME)
        if code:
            return False
        self._sent = batch.to
        if self._acknowledged:
            self._on_the_way.append(batch.to)
            return True
        if batch.epoch == self._store.epoch:
            await self._store.drop_events(batch.to)
        return True

    async def _heed(self) -> None:
        """Forget what was acknowledged."""
        told = self._told
        if told is None or not self._acknowledged:
            return
        if told.epoch == self._epoch and told.up_to <= self._sent:
            await self._store.drop_events(told.up_to)
            if self._told is told:
                self._told = None
            while self._on_the_way and self._on_the_way[0] <= told.up_to:
                self._on_the_way.popleft()

    def _begin_again(self, first: int) -> None:
        self._on_the_way.clear()
        self._sent = first - 1

    async def _batch(self) -> Events | None:
        """Return what comes next."""
        newest = self._range[1] if self._range is not None else 0
        page = await self._store.events_after(self._sent, 1 if self._alone else _PAGE)
        events: list[SentEvent] = []
        size = _FRAME
        for logged in page:
            event = _told(logged, late=logged.seq <= newest)
            size += len(msgspec.json.encode(event)) + 1
            if events and size > self._most_bytes:
                break
            events.append(event)
        if not events:
            return None
        return Events(epoch=self._store.epoch, from_=events[0].seq, to=events[-1].seq, events=events)

    def _doubt(self) -> None:
        self._patience = min(2 * self._patience, RAREST)

    async def _wait(self, *, more: bool) -> bool:
        """Wait for an acknowledgement, or for ``more`` events too; False where none came in time."""
        arrived = asyncio.ensure_future(self._store.events_arrived.wait())
        news = asyncio.ensure_future(self._news.wait())
        try:
            waited = {news, arrived} if more else {news}
            done, _ = await asyncio.wait(waited, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
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
