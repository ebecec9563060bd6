"""Watches the wall clock: whether it may be believed, when it jumps, and the latest time that is known to have been.

Nothing is decided by the wall clock; people read it. A box without a battery begins at some time that was, so the
latest time believed is kept in ``identity/time``, and a clock that says less is wrong.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from edge.clock import Clock, iso
from edge.findings import Journal
from edge.phrase import say

_EVERY: Final = 30.0
_KEEP_EVERY: Final = 3600.0
"""Seconds between two writes of the time, each of which wears the card, and before the first."""
_JUMP: Final = 120.0
"""Seconds by which the wall clock may leave the monotonic one between two looks: NTP slews, it does not leap."""


def latest(storage: Path) -> float:
    """Return the latest time that is known to have been, seconds since 1970; 0 where none is known."""
    try:
        return float((storage / "identity" / "time").read_text("ascii"))
    except (OSError, ValueError):
        return 0.0


class Timekeeper:
    """Looks at the clock; ``keep`` stores a time for the next start and may raise OSError.

    A time is kept only once the clock has gone evenly for an hour: one that is wrong for a moment, years ahead, would
    have every right one after it taken for wrong.
    """

    def __init__(self, clock: Clock, journal: Journal, keep: Callable[[str], Awaitable[None]]) -> None:
        self._clock = clock
        self._journal = journal
        self._keep = keep
        self._offset = clock.now() - clock.monotonic()
        self._kept_at = clock.monotonic()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Look once."""
        clock, journal = self._clock, self._journal
        offset = clock.now() - clock.monotonic()
        if abs(offset - self._offset) > _JUMP:
            journal.note(
                "CLOCK_JUMPED",
                "clock",
                say("by {seconds} seconds, to {time}.", seconds=f"{offset - self._offset:+.0f}", time=iso(clock.now())),
            )
            self._kept_at = clock.monotonic()  # a time that leaps must hold before it is kept
        self._offset = offset
        if not clock.trusted():
            journal.state("CLOCK_WRONG", "clock", say("It says {time}.", time=iso(clock.now())))
            return
        journal.clear("CLOCK_WRONG", "clock")
        if clock.monotonic() - self._kept_at >= _KEEP_EVERY:
            self._kept_at = clock.monotonic()
            try:
                await self._keep(str(int(clock.now())))
            except OSError as e:
                journal.note("STORAGE_ERROR", "identity", e.strerror or str(e))
