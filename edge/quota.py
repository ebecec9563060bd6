"""How often something may be said: who floods the box fills neither its log nor its events."""

from collections import deque
from collections.abc import Callable
from typing import Final

MINUTE: Final = 60.0


class Quota:
    """``most`` times in any ``seconds``, by the monotonic clock ``now``."""

    def __init__(self, most: int, seconds: float, now: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._times: deque[float] = deque()

    def take(self) -> bool:
        """Use it once more; False where it is used up."""
        now = self._now()
        while self._times and now - self._times[0] >= self._seconds:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True


class Lines:
    """``most`` lines of a log in a minute; once another begins, ``silenced`` hears how many there would have been."""

    def __init__(self, most: int, now: Callable[[], float], silenced: Callable[[int], None]) -> None:
        self._most = most
        self._now = now
        self._silenced = silenced
        self._minute = float("-inf")
        self._lines = 0

    def take(self) -> bool:
        """Use one line; False where this minute's are used up."""
        now = self._now()
        if now - self._minute >= MINUTE:
            if self._lines > self._most:
                self._silenced(self._lines - self._most)
            self._minute, self._lines = now, 0
        self._lines += 1
        return self._lines <= self._most
