"""How much a broker may send: a measure that fills at a steady rate. A flood is read at this rate, and no faster."""


class Allowance:
    """``rate`` a second, up to ``most`` saved. Times are seconds of any one clock that only grows."""

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate = rate
        self._most = most
        self._saved = most
        self._at = now

    def spend(self, amount: float, now: float) -> None:
        """Take ``amount``, which may be more than is there."""
        self._saved = min(self._most, self._saved + (now - self._at) * self._rate) - amount
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until something is there again; 0 where something is."""
        return max(0.0, -self._saved / self._rate - (now - self._at))
