"""How often a password may be tried: an address that fails waits longer each time, but never for long.

All addresses together have a budget, so that many of them are no faster than a few. An address that has logged in
lately is outside that budget: who knows the password is never kept out by who does not.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge.quota import MINUTE, Quota

FREE: Final = 3
"""Failures without a wait, for fingers that slip."""
LONGEST: Final = 60.0
"""Seconds, the longest wait."""
_STEPS: Final = 16
"""Doublings of a wait: far beyond the longest, and no number that a day of failures makes too large."""
TOGETHER: Final = 30
"""Attempts in a minute of all addresses that have not logged in lately."""
_FORGOTTEN: Final = 3600.0
"""Seconds after the last failure at which an address begins afresh."""
_KNOWN: Final = 86_400.0
"""Seconds for which a login makes an address known."""
_MOST: Final = 1024
"""Addresses remembered, of each kind."""


@dataclass(slots=True)
class _Failures:
    count: int
    last: float


class Throttle:
    """Counts failures by address; ``now`` is monotonic."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures: dict[str, _Failures] = {}
        self._known: dict[str, float] = {}
        self._budget = Quota(TOGETHER, MINUTE, now)

    def wait(self, address: str) -> float:
        """Seconds that ``address`` must wait before its next attempt; 0: it may try now, and that counts."""
        key, now = _key(address), self._now()
        failures = self._failures.get(key)
        if failures is not None and now - failures.last >= _FORGOTTEN:
            del self._failures[key]
            failures = None
        if failures is not None and failures.count >= FREE:
            left = failures.last + min(LONGEST, 2.0 ** min(failures.count - FREE, _STEPS)) - now
            if left > 0:
                return left
        if now - self._known.get(key, -_KNOWN) < _KNOWN or self._budget.take():
            return 0.0
        return MINUTE / TOGETHER

    def failed(self, address: str) -> None:
        """Count a failure."""
        key = _key(address)
        before = self._failures.pop(key, None)
        _make_room(self._failures)
        self._failures[key] = _Failures(before.count + 1 if before else 1, self._now())

    def succeeded(self, address: str) -> None:
        """Forget the failures of ``address``, and know it."""
        key = _key(address)
        self._failures.pop(key, None)
        self._known.pop(key, None)
        _make_room(self._known)
        self._known[key] = self._now()


def _make_room(table: dict[str, _Failures] | dict[str, float]) -> None:
    while len(table) >= _MOST:
        del table[next(iter(table))]


def _key(address: str) -> str:
    """The address, or the network of one that may choose among 2^64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
