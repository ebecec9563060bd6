"""Where an object goes: the routes of the configuration, first to last; all that match add up.

Pure: configuration in, orders out. No route means every destination.
"""

from fnmatch import fnmatchcase
from typing import Final

import msgspec

from edge.config import Config, When
from edge.model import PRIORITIES, ROUTINE, WATCH, Header, Source

_PROVES: Final = frozenset({"commitment", "query", "commitment-or-query"})


class Leg(msgspec.Struct, frozen=True):
    """One destination of one object."""

    destination: str
    priority: int
    """Index into `model.PRIORITIES`."""
    needs_proof: bool
    """Whether acceptance is not enough; written into the delivery when it is made."""


class Routing:
    """The routes of one configuration."""

    def __init__(self, config: Config) -> None:
        self._proof = {d.name: d.verify in _PROVES for d in config.destination}
        self._routes = config.route

    def legs(self, header: Header, source: Source) -> tuple[Leg, ...]:  # noqa: ARG002 - rules will look at both
        """Return the destinations of an object, each once, with the most urgent priority that any route gives it."""
        if not self._routes:
            return tuple(Leg(name, ROUTINE, proof) for name, proof in self._proof.items())
        urgency: dict[str, int] = {}
        for route in self._routes:
            if not _matches(route.when, source):
                continue
            priority = PRIORITIES.index(route.priority)
            for name in route.to or self._proof:
                urgency[name] = min(priority, urgency.get(name, priority))
        return tuple(Leg(name, priority, self._proof[name]) for name, priority in urgency.items())


def _matches(when: When, source: Source) -> bool:
    """Whether a route takes what came from ``source``."""
    if not when.watch:
        return True
    return source.door == WATCH and any(fnmatchcase(source.address, glob) for glob in when.watch)
