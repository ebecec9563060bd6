"""How long to wait: exponential with full jitter, and never for ever."""

from collections.abc import Callable
from typing import Final

FIRST: Final = 1.0
LONGEST: Final = 300.0
LEAST: Final = 0.1


def backoff(failures: int, random: Callable[[], float]) -> float:
    """Seconds to wait after ``failures`` (1 or more) in a row: up to 1 s doubling to 5 min, full jitter.

    ``random`` returns numbers from 0 to 1.
    """
    ceiling = min(LONGEST, FIRST * float(1 << min(failures - 1, 20)))
    return max(LEAST, ceiling * random())
