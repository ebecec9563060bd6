"""A lane: claim, send, settle, for one destination, until told to stop. It never gives up.

Each of its workers keeps one session while there is work. The first opens as soon as something is queued; others join
and leave as `Width` says. While a batch is on the wire the next one is claimed and the last one settled, and no more is
claimed ahead than goes out in a moment. What is more urgent than the rest of a batch overtakes it, and what was claimed
ahead; a pause, an end and the end of the hours stop a batch too, between two objects. What is heavy for the line has
its session for itself, and others go beside it; what is too big for the line goes when nothing else waits. Whatever
fails here, each claim goes back to the queue.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from edge.board import DestinationGauge
from edge.clock import Clock
from edge.findings import Journal
from edge.forward.batch import Batch
from edge.forward.burden import Burden
from edge.forward.claims import Ahead, Claims
from edge.forward.gate import Gate
from edge.forward.judge import Judge
from edge.forward.outcome import Unreachable
from edge.forward.oversize import Oversize
from edge.forward.transport import Session, Transport
from edge.forward.width import Width
from edge.model import BACKGROUND, Need
from edge.store import Parcel, Settlement, Store, StoreError

log = structlog.get_logger()

_POLL: Final = 2.0
"""Seconds after which the store is asked even without a hint."""
_IDLE: Final = 10.0
"""Seconds for which a session without work is kept."""
_LOOK: Final = 1.0
"""Seconds after which others are seen to, and again, while a heavy object is sent."""

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


class Lane:
    """Everything that goes to one destination."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        store: Store,
        gate: Gate,
        *,
        associations: int,
        skip_unsupported: bool,
        gauge: DestinationGauge,
        journal: Journal,
        clock: Clock,
        random: Callable[[], float],
        spawn: Spawn,
        ahead: Ahead = Ahead(),  # noqa: B008 - frozen
        lowest: Callable[[], int] = lambda: BACKGROUND,
    ) -> None:
        """``associations`` is how many sessions there may be; ``lowest`` the least urgent priority that may go now."""
        self.name = name
        self.gate = gate
        self._transport = transport
        self._store = store
        self._width = Width(associations, clock)
        self._associations = associations
        self._oversize = Oversize(name, journal)
        self._burden = Burden(gate, self._oversize, gauge)
        self._judge = Judge(
            name, gate, self._width, self._oversize, gauge, clock, random, skip_unsupported=skip_unsupported
        )
        self._lowest = lowest
        self._gauge = gauge
        self._journal = journal
        self._clock = clock
        self._spawn = spawn
        self._claims = Claims(name, store, self._judge, self._burden, gauge, lowest, ahead)
        self._hint = store.hint(name)
        self._stopping = asyncio.Event()
        self._resumed = asyncio.Event()
        self._joined: set[asyncio.Task[None]] = set()
        self._ran = False

    def stop(self) -> None:
        """Let what is on the wire be answered and settled, then let `run` return."""
        self._stopping.set()
        self._hint.set()
        self._resumed.set()

    def pause(self) -> None:
        """Let what is on the wire be answered, then send nothing until `resume`."""
        self._gauge.paused = True
        self._resumed.clear()
        self._hint.set()

    def resume(self) -> None:
        """Go on."""
        self._gauge.paused = False
        self._resumed.set()

    async def run(self) -> None:
        """Serve until `stop`."""
        if self._ran:  # it failed, and what it had claimed is nobody's
            await self._claims.rescue()
        self._ran = True
        while not self._stopping.is_set():
            try:
                await self._round()
            except StoreError as e:
                # what was sent is remembered here and settled when the store is back; nothing new is claimed till then
                log.warning("the store does not serve this lane", destination=self.name, error=str(e))
                await self._wait(self._stopping, _POLL)
        if self._joined:
            await asyncio.wait(self._joined)
        with contextlib.suppress(StoreError):  # then they are sent again after the start
            await self._claims.settle_late()

    async def _round(self) -> None:
        """Wait for work and for the gate, then serve one session."""
        await self._claims.settle_late()
        if self._gauge.paused:
            await self._wait(self._resumed, _POLL)
            return
        self._hint.clear()
        await self._oversize.look(self._store.reading.owed)
        if not await self._needs():
            await self._wait(self._hint, _POLL)
            return
        await self._until_stopped(self.gate.wait())
        # minutes may have passed
        if self._ends(joined=False) or not (needs := await self._needs()):
            return
        session = await self._transport.open(needs)
        if isinstance(session, Unreachable):
            self.gate.fail(session)
            return
        await self._serve(session)

    async def _needs(self) -> list[Need]:
        """What a session must be opened for."""
        return await self._store.upcoming(self.name, lowest=self._lowest())

    async def _join(self) -> None:
        """One more worker, as long as it finds work; a failure to open is no news of the destination."""
        try:
            await self._join_in()
        except StoreError as e:
            log.warning("the store does not serve this worker", destination=self.name, error=str(e))

    async def _join_in(self) -> None:
        if not (needs := await self._needs()):
            return
        session = await self._transport.open(needs)
        if isinstance(session, Unreachable):
            self._width.refused(self._gauge.associations)
            return
        await self._serve(session, joined=True)

    async def _serve(self, session: Session, *, joined: bool = False) -> None:
        """Claim, send, settle, while the session holds and there is work; ``joined``: and while it is of use."""
        self._gauge.associations += 1
        ahead: asyncio.Task[list[Parcel]] | None = None
        settling: asyncio.Task[None] | None = None
        worked_at = self._clock.monotonic()
        try:
            while session.usable and not self._ends(joined=joined):
                if self._claims.unsettled:
                    await self._claims.settle_late()
                parcels = await ahead if ahead is not None else []
                ahead = None
                parcels = parcels or await self._claims.claim()
                if not parcels:
                    self._width.rest()
                    await self._oversize.look(self._store.reading.owed)
                    if self._clock.monotonic() - worked_at > _IDLE:
                        break
                    await self._wait(self._hint, _POLL)
                    self._hint.clear()
                    continue
                ahead = asyncio.ensure_future(self._claims.claim_ahead(parcels[-1].priority))
                batch = Batch(parcels, self._holds_back)
                settlements = await self._attend(session, batch)
                if settling is not None:
                    await settling
                settling = asyncio.ensure_future(self._claims.settle(settlements))
                if batch.stopped:  # all goes back first, and is claimed again in its order
                    await settling
                    await self._claims.drop(ahead)
                    ahead = None
                worked_at = self._clock.monotonic()
                self._width.turn(self._gauge.associations - self._burden.sending)
                self._widen()
        finally:
            self._gauge.associations -= 1
            try:
                if settling is not None:
                    await settling
            finally:
                if ahead is not None:
                    await self._claims.drop(ahead)
                await session.close()

    def _ends(self, *, joined: bool) -> bool:
        """Whether a worker sends nothing more; one that ``joined`` also where there are more than help."""
        if self._stopping.is_set() or self._gauge.paused:
            return True
        return joined and self._gauge.associations > self._most()

    def _most(self) -> int:
        """How many sessions there should be: those with a heavy object do not count, as far as allowed."""
        return min(self._width.target + self._burden.sending, self._associations)

    def _holds_back(self, parcel: Parcel) -> bool:
        """Whether ``parcel`` does not go now: something more urgent waits, its hours are over, or nothing may go."""
        overtaken = self._store.pressing(self.name) < parcel.priority
        return overtaken or parcel.priority > self._lowest() or self._ends(joined=False)

    async def _attend(self, session: Session, batch: Batch) -> list[Settlement]:
        """Send one batch; while a heavy object goes, others may join beside it."""
        if not any(map(self._burden.weighs, batch[:])):
            return await self._send(session, batch)
        sending = asyncio.ensure_future(self._send(session, batch))
        with self._burden.carrying():
            try:
                while not (await asyncio.wait((sending,), timeout=_LOOK))[0]:
                    self._widen()
                return await sending
            finally:
                if not sending.done():
                    sending.cancel()
                    await asyncio.wait((sending,))

    async def _send(self, session: Session, parcels: Batch) -> list[Settlement]:
        """Send one batch and say what becomes of each parcel; those not tried go back untouched."""
        begun = self._clock.monotonic()
        left = {parcel.delivery: parcel for parcel in parcels[:]}
        settlements = []
        self._gauge.sending += 1
        try:
            async for parcel, outcome in session.send(parcels):
                del left[parcel.delivery]
                settlements.append(self._judge.settlement(parcel, outcome, self._clock.monotonic() - begun))
        except asyncio.CancelledError:
            await self._claims.settle(settlements + [self._judge.untouched(p) for p in left.values()])
            raise
        except Exception as e:
            log.exception("a transport failed", destination=self.name)
            self._journal.note("SERVICE_RESTARTED", f"service.lane {self.name}", f"{self.name}: {type(e).__name__}")
            if first := next(iter(left.values()), None):  # it goes in order, so this is what it failed at
                settlements.append(self._judge.failed(left.pop(first.delivery), e))
            await session.close()
        finally:
            self._gauge.sending -= 1
        if settlements:
            self._claims.pace = (self._clock.monotonic() - begun) / len(settlements)
        return settlements + [self._judge.untouched(p) for p in left.values()]

    def _widen(self) -> None:
        """Have another worker join, where one more is of use."""
        # one on which a heavy object goes shows that sessions can be had
        failing = self.gate.failing and not self._burden.sending
        if len(self._joined) + 1 < self._most() and not (failing or self._ends(joined=False)):
            task = self._spawn(self._join(), f"destination {self.name}")
            self._joined.add(task)
            task.add_done_callback(self._joined.discard)

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def _until_stopped(self, waiting: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(waiting)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for t in (task, stop):
                t.cancel()
