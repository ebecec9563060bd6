"""How long the room on the disk lasts, and a finding in time before it is gone.

The measure is what came over the last day: from the store for the time before this start, then as it comes. What was
delivered and makes way by itself is room too. Nothing here is exact; it errs towards too little.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.findings import Journal
from edge.phrase import say
from edge.store import Reading, StoreError
from edge.store.outlook import arrivals, may_go

_EVERY: Final = 5.0
_DAY: Final = 86_400.0
_WEEK: Final = 7 * _DAY
_SHIFT: Final = 8 * 3600.0
"""Seconds over which what came is spread at the least: one burst is a day's work, and no rate."""
_MARK: Final = 300.0
"""Seconds of arrivals that are remembered as one."""
_COUNT: Final = 60.0
"""Seconds between two counts of what may go, which are made only where the free room lasts for less than a week."""
_AMPLE: Final = 1.25
"""The finding closes with so many times the room at which it opens."""
_CODE: Final = "DISK_FILLING"
_COMPONENT: Final = "storage"


class Room:
    """Watches the room above ``reserve``; ``free`` gives the free bytes. Raises OSError only where that does."""

    def __init__(
        self,
        reading: Reading,
        board: Board,
        journal: Journal,
        clock: Clock,
        free: Callable[[], int],
        reserve: int,
    ) -> None:
        self._reading = reading
        self._board = board
        self._journal = journal
        self._clock = clock
        self._free = free
        self._reserve = reserve
        self._marks: deque[tuple[float, int]] = deque()
        """Monotonic time, and bytes that came up to then since the mark before."""
        self._counted = board.bytes
        self._start = clock.monotonic()
        self._may_go = 0
        self._asked_at = float("-inf")
        self._began = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError:
                pass  # said by the store's keeper; what is known without it still counts
            except OSError as e:
                self._journal.note("STORAGE_ERROR", "storage", e.strerror or str(e))
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Look once. Raises `StoreError`, OSError."""
        if not self._began:
            await self._remember()
        self._count()
        needed, now = self._needed(), self._clock.monotonic()
        enough = max(int(_AMPLE * needed), int(self._rate() * _WEEK))
        if self._own() >= enough:
            self._may_go = 0
        elif now - self._asked_at >= _COUNT:
            self._asked_at = now
            self._may_go = await may_go(self._reading, enough)
        room = self._own() + self._may_go
        if room < needed:
            self._journal.state(_CODE, _COMPONENT, self._told(room))
        elif room >= _AMPLE * needed:
            self._journal.clear(_CODE, _COMPONENT)

    def seconds(self) -> int | None:
        """Seconds for which the room lasts, at the least, as things came over the last day; None: nothing came."""
        self._count()
        rate = self._rate()
        return None if not rate else int((self._own() + self._may_go) / rate)

    async def _remember(self) -> None:
        """Learn what came before this start, where the clock can tell when."""
        if self._clock.trusted():
            wall = self._clock.now() - self._clock.monotonic()
            began = self._start + wall
            # what came since is counted already
            came = await arrivals(self._reading, began - _DAY, began)
            self._marks.extendleft((one.at - wall, one.bytes) for one in came)
        self._began = True

    def _count(self) -> None:
        now, came = self._clock.monotonic(), self._board.bytes - self._counted
        self._counted += came
        if came and self._marks and now - self._marks[-1][0] < _MARK:
            at, before = self._marks.pop()
            self._marks.append((at, before + came))
        elif came:
            self._marks.append((now, came))
        while self._marks and now - self._marks[0][0] > _DAY:
            self._marks.popleft()

    def _rate(self) -> float:
        """Bytes a second."""
        if not self._marks:
            return 0.0
        span = self._clock.monotonic() - self._marks[0][0]
        return sum(came for _, came in self._marks) / min(max(span, _SHIFT), _DAY)

    def _needed(self) -> int:
        """Bytes of room below which it is worth a finding: of a day, and half the reserve."""
        return max(int(self._rate() * _DAY), self._reserve // 2)

    def _own(self) -> int:
        return max(0, self._free() - self._reserve)

    def _told(self, room: int) -> str:
        rate = self._rate()
        left = f"{room / 1e9:.1f}"
        if not rate:
            return say("{left} GB are left for images.", left=left)
        return say(
            "{left} GB are left for images, enough for about {hours} hours like those of the last day.",
            left=left,
            hours=f"{room / rate / 3600:.0f}",
        )
