"""Time, injected.

Two clocks that are never mixed: ``monotonic`` decides (waits, deadlines, rates), ``now`` labels
(trail, status). A box without a battery-backed clock may label wrongly; it must not decide wrongly.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

_EPOCH_OF_TRUST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A wall clock before this program was written is wrong."""


class Clock(Protocol):
    """What every room that needs time is given."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, from an arbitrary start."""
        ...

    def now(self) -> float:
        """Wall time: seconds since 1970, UTC."""
        ...

    def trusted(self) -> bool:
        """Whether ``now`` may be believed."""
        ...


class SystemClock:
    """The machine's clocks. ``floor`` is a wall time that is known to have been, seconds since 1970."""

    def __init__(self, floor: float = 0.0) -> None:
        self._floor = max(floor, _EPOCH_OF_TRUST)

    def monotonic(self) -> float:
        """Seconds since boot."""
        return time.monotonic()

    def now(self) -> float:
        """Wall time: seconds since 1970, UTC."""
        return time.time()

    def trusted(self) -> bool:
        """False where the wall clock is older than the program itself, or than a time that has been."""
        return time.time() > self._floor


def iso(timestamp: float) -> str:
    """Write ``timestamp`` (seconds since 1970) as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
