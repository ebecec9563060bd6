"""How fast and when a destination may be sent to, and when it will have everything."""

import math

import msgspec

from edge.config import Config, FolderDestination
from edge.hours import DAY, length


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination may be sent, and when."""

    rate: int | None = None
    """Bytes a second."""
    hours: tuple[int, int] | None = None
    """Of background work, minutes of the day."""
    shut: float = 0.0
    """Seconds until those hours begin."""
    left: float = math.inf
    """Seconds until they end, where they have begun."""
    waits: bool = False
    """Whether there is background work."""


def bounds_of(config: Config, name: str) -> Bounds:
    """Return what ``config`` says of the destination ``name``."""
    found = next((d for d in config.destination if d.name == name), None)
    if found is None or isinstance(found, FolderDestination):
        return Bounds()
    return Bounds(rate=found.rate_limit, hours=found.hours)


def drain(waiting: int, rate: float, bounds: Bounds, *, up: bool) -> int | None:
    """Seconds until ``waiting`` bytes are gone; where nothing goes at this moment, as fast as the limit allows.

    None where nobody can tell: what went a moment ago says nothing of a destination that is not ``up``.
    """
    speed = min(rate, bounds.rate or rate)
    if speed < 1 and bounds.rate is not None:
        speed = bounds.rate
    if not up or not waiting or speed < 1:
        return None
    work = waiting / speed
    return int(work if bounds.hours is None or not bounds.waits else _within(bounds.hours, bounds, work))


def _within(hours: tuple[int, int], bounds: Bounds, work: float) -> float:
    """Seconds until ``work`` seconds of it are done, if nothing is done outside ``hours``."""
    span = length(hours)
    left = span if bounds.shut else bounds.left
    nights = math.ceil((work - left) / span) if work > left else 0
    return bounds.shut + work + nights * (DAY - span)
