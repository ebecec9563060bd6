"""How many sessions one lane has side by side: as many as make it faster, and never more than allowed.

It grows, doubling, while each step makes the total rate grow; a step that does not is taken back, and one more session
is tried now and then, ever more rarely. A session that breaks halves the number, one that is refused sets it to those
that stand. Numbers in, numbers out: the lane opens and ends the sessions.
"""

from typing import Final

from edge.clock import Clock

_ROUND: Final = 0.5
"""Seconds of unbroken work over which a rate is measured."""
_FIRST_ROUND: Final = 0.2
"""The same until a step was in vain: a long line is idle until there are enough."""
_TURNS: Final = 4
"""Pieces of work of each session that a round must have seen: they count at their end, which may fall behind it."""
_WORTH: Final = 0.15
"""Part of the gain that more sessions could bring, which a step must bring to stay."""
_LEAST_WORTH: Final = 0.03
_HOLD: Final = 10.0
_LONGEST_HOLD: Final = 160.0
"""Seconds until another step is tried, doubling each time that one was in vain."""
_REFUSED: Final = 60.0
_TOGETHER: Final = 1.0
"""Seconds within which sessions that break are one loss: the line was cut under all of them."""


class Width:
    """The number of sessions for one lane; ``most`` at the most."""

    def __init__(self, most: int, clock: Clock) -> None:
        self.target = 1
        """How many there should be."""
        self._most = most
        self._clock = clock
        self._since: float | None = None
        self._bytes = 0
        self._turns = 0
        self._lost_at: float | None = None
        self._before: tuple[int, float] | None = None
        """Number and rate before the step that is being tried."""
        self._hold = 0.0
        self._hold_until = 0.0

    def sent(self, amount: int) -> None:
        """Count an object of ``amount`` bytes that was accepted."""
        self._bytes += amount

    def rest(self) -> None:
        """There is nothing to do: what was measured so far says nothing."""
        self._since = None

    def lost(self) -> None:
        """A session broke."""
        now = self._clock.monotonic()
        if self._lost_at is None or now - self._lost_at > _TOGETHER:
            self._lost_at = now
            self._settle(self.target // 2, _HOLD)

    def refused(self, standing: int) -> None:
        """Another session was not to be had beside those ``standing``."""
        self._settle(standing, _REFUSED)

    def turn(self, standing: int) -> None:
        """Look, after each piece of work, whether a round is over; with the number of sessions that stand."""
        now = self._clock.monotonic()
        if self._since is None or standing != self.target:
            self._begin(now)
            return
        elapsed = now - self._since
        self._turns += 1
        if elapsed < (_ROUND if self._hold else _FIRST_ROUND) or self._turns < _TURNS * standing:
            return
        rate = self._bytes / elapsed
        self._begin(now)
        if self._before is not None and not self._worth_it(*self._before, rate):
            self._step_back(self._before[0], now)
            return
        if self._before is not None:
            self._hold = min(self._hold, _HOLD)
            self._before = None
        if now >= self._hold_until:
            self._grow(rate)

    def _begin(self, now: float) -> None:
        self._since, self._bytes, self._turns = now, 0, 0

    def _worth_it(self, fewer: int, slower: float, rate: float) -> bool:
        gain = max(_LEAST_WORTH, _WORTH * (self.target - fewer) / fewer)
        return rate > slower * (1 + gain)

    def _grow(self, rate: float) -> None:
        step = self.target if not self._hold else 1  # once a step was in vain, one by one
        self._before = (self.target, rate) if self.target < self._most else None
        self.target = min(self._most, self.target + step)

    def _step_back(self, fewer: int, now: float) -> None:
        self._hold = min(_LONGEST_HOLD, 2 * self._hold or _HOLD)
        self.target, self._before, self._hold_until = fewer, None, now + self._hold

    def _settle(self, number: int, hold: float) -> None:
        self._hold = max(self._hold, _HOLD)
        self.target, self._before = max(1, min(number, self.target)), None
        self._hold_until = max(self._hold_until, self._clock.monotonic() + hold)
        self._since = None
