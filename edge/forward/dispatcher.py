"""A lane: claim, send, settle, for one destination, until told to stop. It never gives up.

Each of its workers keeps one session while there is work. The first opens as soon as something is queued; others join
one by one while the backlog lasts, up to what the destination allows. While a batch is on the wire the next one
is claimed and the last one settled, and no more is claimed ahead than goes out in a moment, so what is urgent is
never far behind.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from edge.board import DestinationGauge
from edge.clock import Clock
from edge.evidence import Evidence
from edge.findings import Journal
from edge.forward.backoff import backoff
from edge.forward.gate import Gate
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable
from edge.forward.transport import Session, Transport
from edge.states import DeliveryState
from edge.store import NotOursError, Parcel, Settlement, Store, StoreError

log = structlog.get_logger()

_POLL: Final = 2.0
"""Seconds after which the store is asked even without a hint."""
_IDLE: Final = 10.0
"""Seconds for which a session without work is kept."""
_WIDEN: Final = 0.5
"""Seconds of unbroken work after which one more session is opened."""
_AHEAD_SECONDS: Final = 0.05
_AHEAD_MOST: Final = 16
"""Of work claimed ahead, in time and in instances."""
_STRIKES: Final = 3
"""Failures in the middle of one instance after which it waits alone."""
_LATER_IN_A_ROW: Final = 3
"""Instances put off in a row after which the destination as a whole is given a rest."""
_HOURLY: Final = 24
_DAY: Final = 86400.0

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
    ) -> None:
        self.name = name
        self.gate = gate
        self._transport = transport
        self._store = store
        self._associations = associations
        self._skip = skip_unsupported
        self._gauge = gauge
        self._journal = journal
        self._clock = clock
        self._random = random
        self._spawn = spawn
        self._hint = store.hint(name)
        self._stopping = asyncio.Event()
        self._resumed = asyncio.Event()
        self._joined: set[asyncio.Task[None]] = set()
        self._wide_at = 0.0
        self._later = 0
        self._unsettled: list[Settlement] = []
        self._pace = 0.0

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
            await self._settle_late()

    async def _round(self) -> None:
        """Wait for work and for the gate, then serve one session."""
        await self._settle_late()
        if self._gauge.paused:
            await self._wait(self._resumed, _POLL)
            return
        self._hint.clear()
        needs = await self._store.upcoming(self.name)
        if not needs:
            await self._wait(self._hint, _POLL)
            return
        await self._until_stopped(self.gate.wait())
        if self._stopping.is_set():
            return
        session = await self._transport.open(needs)
        if isinstance(session, Unreachable):
            self.gate.fail(session)
            return
        await self._serve(session)

    async def _join(self) -> None:
        """One more worker, as long as it finds work; a failure to open is no news of the destination."""
        try:
            await self._join_in()
        except StoreError as e:
            log.warning("the store does not serve this worker", destination=self.name, error=str(e))

    async def _join_in(self) -> None:
        needs = await self._store.upcoming(self.name)
        session = await self._transport.open(needs) if needs else None
        if session is None or isinstance(session, Unreachable):
            self._wide_at = self._clock.monotonic() + 60.0
            return
        await self._serve(session)

    async def _serve(self, session: Session) -> None:
        """Claim, send, settle, while the session holds and there is work."""
        self._gauge.associations += 1
        ahead: asyncio.Task[list[Parcel]] | None = None
        settling: asyncio.Task[None] | None = None
        busy_since = worked_at = self._clock.monotonic()
        try:
            while session.usable and not self._stopping.is_set() and not self._gauge.paused:
                if self._unsettled:
                    await self._settle_late()
                parcels = await (ahead or self._claim())
                ahead = None
                if not parcels:
                    busy_since = self._clock.monotonic()
                    if busy_since - worked_at > _IDLE:
                        break
                    await self._wait(self._hint, _POLL)
                    self._hint.clear()
                    continue
                ahead = asyncio.ensure_future(self._claim())
                settlements = await self._send(session, parcels)
                if settling is not None:
                    await settling
                settling = asyncio.ensure_future(self._settle(settlements))
                worked_at = self._clock.monotonic()
                self._widen(busy_since)
        finally:
            self._gauge.associations -= 1
            if settling is not None:
                await settling
            if ahead is not None:
                with contextlib.suppress(StoreError):
                    await self._settle([self._untouched(p) for p in await ahead])
            await session.close()

    async def _settle(self, settlements: list[Settlement]) -> None:
        """Record outcomes; what the store cannot take now is kept for `_settle_late`."""
        if not settlements:
            return
        try:
            await self._store.settle(settlements)
        except NotOursError:
            # the store was opened anew meanwhile and gave some back
            await self._settle_again(settlements)
        except StoreError as e:
            log.warning("outcomes wait for the store", destination=self.name, error=str(e))
            self._unsettled += settlements

    async def _settle_again(self, settlements: list[Settlement]) -> None:
        try:
            await self._store.settle_late(settlements)
        except StoreError as e:
            log.warning("outcomes wait for the store", destination=self.name, error=str(e))
            self._unsettled += settlements

    async def _settle_late(self) -> None:
        """Record the outcomes that the store could not take. Raises `StoreError` while it still cannot."""
        late, self._unsettled = self._unsettled, []
        await self._settle(late)
        if self._unsettled:
            raise StoreError("Outcomes of what was sent cannot be recorded yet.")

    async def _claim(self) -> list[Parcel]:
        most = _AHEAD_MOST if self._pace <= 0 else int(_AHEAD_SECONDS / self._pace)
        return await self._store.claim(self.name, max(1, min(_AHEAD_MOST, most)))

    async def _send(self, session: Session, parcels: Sequence[Parcel]) -> list[Settlement]:
        """Send one batch and say what becomes of each parcel; those not tried go back untouched."""
        begun = self._clock.monotonic()
        left = {parcel.delivery: parcel for parcel in parcels}
        settlements = []
        try:
            async for parcel, outcome in session.send(parcels):
                del left[parcel.delivery]
                settlements.append(self._judge(parcel, outcome))
        except asyncio.CancelledError:
            await self._settle(settlements + [self._untouched(p) for p in left.values()])
            raise
        if settlements:
            self._pace = (self._clock.monotonic() - begun) / len(settlements)
        return settlements + [self._untouched(p) for p in left.values()]

    def _judge(self, parcel: Parcel, outcome: Outcome) -> Settlement:
        """Turn an outcome into a state, and tell gate and gauges."""
        match outcome:
            case Accepted():
                self._later = 0
                self.gate.succeed()
                self._gauge.rate.add(parcel.length)
                return self._settlement(
                    parcel, DeliveryState.ACCEPTED, outcome.code, outcome.detail, evidence=outcome.evidence
                )
            case TryLater():
                self._later += 1
                if self._later >= _LATER_IN_A_ROW:
                    self.gate.fail(Unreachable(outcome.code, outcome.detail))
                return self._put_off(parcel, outcome.code, outcome.detail, outcome.after)
            case Refused():
                self._later = 0
                self.gate.succeed()
                if outcome.unsupported and self._skip:
                    return self._settlement(parcel, DeliveryState.DECLINED, outcome.code, outcome.detail)
                return self._settlement(parcel, DeliveryState.HELD, outcome.code, outcome.detail)
            case Unreachable():
                if parcel.strikes + 1 < _STRIKES or self.gate.failing:
                    self.gate.fail(outcome)
                if outcome.midway:
                    return self._put_off(parcel, outcome.code, outcome.detail, None)
                return self._untouched(parcel)

    def _put_off(self, parcel: Parcel, code: str, detail: str, after: float | None) -> Settlement:
        strikes = parcel.strikes + 1
        wait = backoff(strikes, self._random) if after is None else after
        if after is not None and strikes > _HOURLY:
            wait = max(wait, _DAY)
        return self._settlement(
            parcel,
            DeliveryState.QUEUED,
            code,
            detail,
            strikes=strikes,
            not_before=self._clock.monotonic() + wait,
        )

    def _settlement(
        self,
        parcel: Parcel,
        state: DeliveryState,
        code: str,
        detail: str,
        *,
        strikes: int = 0,
        not_before: float | None = None,
        evidence: Evidence | None = None,
    ) -> Settlement:
        return Settlement(
            delivery=parcel.delivery,
            instance=parcel.instance,
            destination=self.name,
            state=state,
            code=code,
            detail=detail,
            strikes=strikes,
            not_before=not_before,
            evidence=evidence,
        )

    def _untouched(self, parcel: Parcel) -> Settlement:
        return Settlement(
            delivery=parcel.delivery,
            instance=parcel.instance,
            destination=self.name,
            state=DeliveryState.QUEUED,
            strikes=parcel.strikes,
            attempted=False,
        )

    def _widen(self, busy_since: float) -> None:
        now = self._clock.monotonic()
        if (
            len(self._joined) + 1 < self._associations
            and now - busy_since > _WIDEN
            and now - self._wide_at > _WIDEN
            and not self.gate.failing
            and not self._stopping.is_set()
        ):
            self._wide_at = now
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
