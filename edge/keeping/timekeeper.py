"""Watches the wall clock: whether it may be believed, when it jumps, and the latest time that is known to have been.

Nothing is decided by the wall clock; people read it. A box without a battery begins at some time that was, so the
latest time believed is kept in ``identity/time``, and a clock that says less is wrong.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge.clock import Clock, iso
from edge.findings import Journal

_EVERY: Final = 30.0
_KEEP_EVERY: Final = 3600.0
"""Seconds between two writes of the time: each wears the card."""
_JUMP: Final = 120.0
"""Seconds by which the wall clock may leave the monotonic one between two looks: NTP slews, it does not leap."""


def latest(storage: Path) -> float:
    """Return the latest time that is known to have been, seconds since 1970; 0 where none is known."""
    try:
        return float((storage / "identity" / "time").read_text("ascii"))
    except (OSError, ValueError):
        return 0.0


class Timekeeper:
    """Looks at the clock; ``keep`` stores a time for the next start and may raise OSError."""

    def __init__(self, clock: Clock, journal: Journal, keep: Callable[[str], None]) -> None:
        self._clock = clock
        self._journal = journal
        self._keep = keep
        self._offset = clock.now() - clock.monotonic()
        self._kept_at = float("-inf")

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(_EVERY)

    def look(self) -> None:
        """Look once."""
        clock, journal = self._clock, self._journal
        offset = clock.now() - clock.monotonic()
        if abs(offset - self._offset) > _JUMP:
            journal.note("CLOCK_JUMPED", "clock", f"by {offset - self._offset:+.0f} seconds, to {iso(clock.now())}.")
        self._offset = offset
        if not clock.trusted():
            journal.state("CLOCK_WRONG", "clock", f"It says {iso(clock.now())}.")
            return
        journal.clear("CLOCK_WRONG", "clock")
        if clock.monotonic() - self._kept_at >= _KEEP_EVERY:
            self._kept_at = clock.monotonic()
            try:
                self._keep(f"{clock.now():.0f}")
            except OSError as e:
                journal.note("STORAGE_ERROR", "identity", e.strerror or str(e))
