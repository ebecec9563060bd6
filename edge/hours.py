"""Hours of the day, by the local clock of the box.

A clock that is not trusted opens everything: what waits for an hour that may never come would wait for ever.
"""

import math
import time
from typing import Final

from edge.clock import Clock

DAY: Final = 86_400
"""Seconds."""


def until_open(hours: tuple[int, int] | None, clock: Clock) -> float:
    """Seconds until ``hours`` begin, minutes of the day that may reach over midnight; 0 within them, or without any."""
    if hours is None or not clock.trusted():
        return 0.0
    second = _second(clock)
    return 0.0 if _inside(hours, second) else float((hours[0] * 60 - second) % DAY)


def until_shut(hours: tuple[int, int] | None, clock: Clock) -> float:
    """Seconds until ``hours`` end; 0 outside of them, infinity without any."""
    if hours is None or not clock.trusted():
        return math.inf
    second = _second(clock)
    return float((hours[1] * 60 - second) % DAY) if _inside(hours, second) else 0.0


def length(hours: tuple[int, int]) -> int:
    """Seconds of each day that are within ``hours``."""
    begin, end = hours
    return (end - begin) * 60 % DAY


def told(hours: tuple[int, int]) -> str:
    """Write ``hours`` as the configuration has them."""
    begin, end = hours
    return f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"


def _second(clock: Clock) -> int:
    local = time.localtime(clock.now())
    return local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec


def _inside(hours: tuple[int, int], second: int) -> bool:
    begin, end = (minute * 60 for minute in hours)
    return begin <= second < end if begin < end else second >= begin or second < end
