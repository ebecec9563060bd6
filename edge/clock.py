"""Time, injected.

Two clocks that are never mixed: ``monotonic`` decides (waits, deadlines, rates), ``now`` labels
(trail, status). A box without a battery-backed clock may label wrongly; it must not decide wrongly.
"""

import ctypes
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

_EPOCH_OF_TRUST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A wall clock before this program was written is wrong."""


_TIME_ERROR = 5
"""What adjtimex(2) returns where the clock is not synchronised."""


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
    """The machine's clocks. ``floor`` is a wall time that is known to have been, seconds since 1970.

    ``synchronised`` tells whether somebody who knows the time keeps this clock right: that outweighs what was known.
    """

    def __init__(self, floor: float = 0.0, synchronised: Callable[[], bool] = lambda: False) -> None:
        self._floor = max(floor, _EPOCH_OF_TRUST)
        self._synchronised = synchronised

    def monotonic(self) -> float:
        """Seconds since boot."""
        return time.monotonic()

    def now(self) -> float:
        """Wall time: seconds since 1970, UTC."""
        return time.time()

    def trusted(self) -> bool:
        """False where the wall clock is older than the program itself, or than a time that has been.

        A time that has been may have been wrong, so it counts for nothing once the clock is synchronised.
        """
        now = time.time()
        return now > self._floor or (now > _EPOCH_OF_TRUST and self._synchronised())


class _Timex(ctypes.Structure):
    """The head of struct timex of adjtimex(2), and room for the rest."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 512))


def kernel_synchronised() -> bool:
    """Whether the kernel's clock is disciplined by a time server, as adjtimex(2) tells; False where it cannot tell."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(_Timex()))
    except (OSError, AttributeError):
        return False
    return 0 <= int(state) < _TIME_ERROR


def iso(timestamp: float) -> str:
    """Write ``timestamp`` (seconds since 1970) as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
