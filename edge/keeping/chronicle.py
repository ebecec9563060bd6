"""Writes the openings and closings of findings into the event log, in batches, at most once a second.

Components that look alike from outside are one finding there: it is open while any of them is, and their counts are
added. One that flaps is told six times a minute, and its last state in the end. While the store cannot be written the
last thousand are kept in memory. A start closes every finding: nothing is said of those that an earlier run left open.
"""

import asyncio
from collections import deque
from typing import Final

import msgspec
import structlog

from edge.clock import Clock
from edge.events import Event, finding, public
from edge.findings import Journal, Severity
from edge.store import Dated, Store, StoreError

_EVERY: Final = 1.0
_MOST_TOLD: Final = 6
"""Openings and closings of one finding that are told in `_PERIOD` seconds."""
_PERIOD: Final = 60.0
MOST_PENDING: Final = 1000
"""Events kept in memory while they cannot be written."""

log = structlog.get_logger()

_Key = tuple[str, str]


class _Outside:
    """A finding as it is seen from outside: the open ones that look like it, and what was told."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        """Counts, by the components inside."""
        self.closed = 0
        """Counts of what was closed since nothing was open and told so."""
        self.told = False
        """Whether it is open, as the last event said."""
        self.times: deque[float] = deque()
        """When it was told, by the monotonic clock."""

    def count(self) -> int:
        return self.closed + sum(self.open.values())

    def may_be_told(self, now: float) -> bool:
        while self.times and now - self.times[0] >= _PERIOD:
            self.times.popleft()
        return len(self.times) < _MOST_TOLD


class _Pending(msgspec.Struct, frozen=True):
    key: _Key
    is_open: bool
    dated: Dated


class Chronicle:
    """Listens to the journal from the moment it is made; `run` writes. Also keeps the log within its bound."""

    def __init__(self, store: Store, journal: Journal, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._findings: dict[_Key, _Outside] = {}
        self._pending: list[_Pending] = []
        self._failing = False
        journal.listen(self._hear)

    async def run(self) -> None:
        """Write until cancelled."""
        await asyncio.sleep(_EVERY)  # the start is told first, for it closes what an earlier run left open
        while True:
            try:
                await self.write()
                await self._store.prune_events()
            except StoreError as e:
                log.warning("events wait for the store", error=str(e), pending=len(self._pending))
            await asyncio.sleep(_EVERY)

    async def write(self) -> None:
        """Write what is pending. Raises `StoreError`; then it is still pending."""
        if not self._failing:
            self._catch_up()
        batch, self._pending = self._pending, []
        if not batch:
            return
        try:
            await self._store.write_dated_events([pending.dated for pending in batch])
        except StoreError:
            self._failing = True
            self._pending = batch + self._pending
            self._bound()
            raise
        self._failing = False

    def _hear(self, code: str, component: str, is_open: bool, count: int) -> None:  # noqa: FBT001 - as it is told
        key = (code, public(component))
        outside = self._findings.setdefault(key, _Outside())
        if is_open:
            outside.open[component] = count
        else:
            outside.open.pop(component, None)
            outside.closed += count
        self._tell(key, outside)

    def _tell(self, key: _Key, outside: _Outside) -> None:
        """Say how it stands, where that is not what was said last and it was not said too often."""
        now = self._clock.monotonic()
        may_be_told = outside.may_be_told(now)
        is_open = bool(outside.open)
        if is_open == outside.told or not may_be_told:
            return
        outside.told = is_open
        outside.times.append(now)
        event = finding(*key, is_open=is_open, count=outside.count())
        if not is_open:
            outside.closed = 0
        dated = Dated(self._clock.now(), self._clock.trusted(), event)
        self._pending.append(_Pending(key, is_open, dated))
        self._bound()

    def _catch_up(self) -> None:
        """Tell the last state of what was kept back, and forget what is over."""
        for key, outside in list(self._findings.items()):
            self._tell(key, outside)
            if not (outside.open or outside.told or outside.times):
                del self._findings[key]

    def _bound(self) -> None:
        """Let the oldest of the least severe go; what it said is said again when all else is written."""
        while len(self._pending) > MOST_PENDING:
            least = min(_rank(pending.dated.event) for pending in self._pending)
            at = next(i for i, pending in enumerate(self._pending) if _rank(pending.dated.event) == least)
            gone = self._pending.pop(at)
            if all(pending.key != gone.key for pending in self._pending[at:]):
                self._findings.setdefault(gone.key, _Outside()).told = not gone.is_open


def _rank(event: Event) -> int:
    return (Severity.INFO, Severity.WARNING, Severity.ERROR).index(event.severity)
