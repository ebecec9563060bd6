"""Where an object goes: the routes of the configuration, first to last; all that match add up.

Pure: configuration in, orders out; what only others know, the names of SOP classes and the addresses of hosts, is given
to it as functions. No route means every destination. An object that a destination sent is not sent back to it.
"""

from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import msgspec

from edge.config import Config, DimseDestination, Modality, When
from edge.model import DIMSE, PRIORITIES, ROUTINE, STAT, WATCH, Header, Source
from edge.patterns import Pattern, any_matches

_PROVES: Final = frozenset({"commitment", "query", "commitment-or-query"})
_NAMES: Final = frozenset({"calling", "called", "source", "watch"})
"""Keys of `When` whose patterns are of names, which are what they are; the others are of texts."""
_ONLY_IN_FILE: Final = frozenset({"study_description", "station", "body_part"})
"""Keys that look at what no row has, or has of another object of the study."""


class Leg(msgspec.Struct, frozen=True):
    """One destination of one object."""

    destination: str
    priority: int
    """Index into `model.PRIORITIES`."""
    needs_proof: bool
    """Whether acceptance is not enough; written into the delivery when it is made."""
    back: bool = False
    """Whether the object came from there, so that it is not sent."""


class Miss(msgspec.Struct, frozen=True):
    """A key of a route that an object does not match."""

    key: str
    wanted: tuple[str, ...]
    """The patterns."""
    found: tuple[str, ...]
    """What the object has, undecodable characters replaced; nothing where it has no such thing."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one route makes of an object."""

    number: int
    """Of the route in the configuration, from 1."""
    to: tuple[str, ...]
    priority: str
    fires: bool
    misses: tuple[Miss, ...]
    """Why it does not."""


class Routing:
    """The routes of one configuration."""

    def __init__(
        self,
        config: Config,
        class_names: Callable[[str], tuple[str, ...]],
        addresses: Callable[[str], Collection[str]] = lambda _: (),
    ) -> None:
        """``class_names`` gives what a SOP class is called, ``addresses`` the addresses that a host is known to have.

        A host that is an address itself is not asked about.
        """
        self._proof = {d.name: d.verify in _PROVES for d in config.destination}
        self._routes = [(route, _patterns(route.when)) for route in config.route]
        self._modalities = [
            (m, None if m.address is None else ip_network(m.address, strict=False)) for m in config.modality
        ]
        self._callers = [d for d in config.destination if isinstance(d, DimseDestination)]
        self._class_names = class_names
        self._addresses = addresses

    @property
    def reads_files(self) -> bool:
        """Whether it looks at more of an object than its row has: then header and source come from the file."""
        honors = any(modality.honor_priority for modality, _ in self._modalities)
        return honors or any(key in _ONLY_IN_FILE for _, patterns in self._routes for key in patterns)

    def legs(self, header: Header, source: Source) -> tuple[Leg, ...]:
        """Return the destinations of an object, each once, with the most urgent priority that any route gives it."""
        urgency = {} if self._routes else dict.fromkeys(self._proof, ROUTINE)
        for route, patterns in self._routes:
            if next(self._misses(patterns, header, source), None) is not None:
                continue
            priority = PRIORITIES.index(route.priority)
            for name in route.to:
                urgency[name] = min(priority, urgency.get(name, priority))
        asked, back = self._asked(source), self._back(source)
        return tuple(
            Leg(name, _with_asked(priority, asked), self._proof[name], name in back)
            for name, priority in urgency.items()
        )

    def explain(self, header: Header, source: Source) -> tuple[Verdict, ...]:
        """Return what each route makes of an object, in their order."""
        return tuple(
            Verdict(
                number=number,
                to=route.to,
                priority=route.priority,
                fires=not (misses := tuple(self._misses(patterns, header, source))),
                misses=misses,
            )
            for number, (route, patterns) in enumerate(self._routes, 1)
        )

    def _misses(self, patterns: dict[str, tuple[Pattern, ...]], header: Header, source: Source) -> Iterator[Miss]:
        for key, wanted in patterns.items():
            found = self._values(key, header, source)
            if not any_matches(wanted, found):
                yield Miss(key, tuple(pattern.text for pattern in wanted), found)

    def _values(self, key: str, header: Header, source: Source) -> tuple[str, ...]:
        """What an object has for a key of `When`."""
        match key:
            case "calling":
                return (source.calling,)
            case "called":
                return (source.called,)
            case "watch":
                return (source.address,) if source.door == WATCH else ()
            case "source":
                watch = (source.address,) if source.door == WATCH else ()
                return (*(modality.name for modality in self._senders(source)), *watch)
            case "sop_class":
                return (header.sop_class_uid, *self._class_names(header.sop_class_uid))
            case _:
                return (str(getattr(header, key)),)

    def _senders(self, source: Source) -> Iterator[Modality]:
        """Every modality of the configuration that ``source`` may be."""
        at = _address(source.address) if source.door == DIMSE else None
        for modality, network in self._modalities:
            if modality.ae_title == source.calling and (network is None or (at is not None and at in network)):
                yield modality

    def _asked(self, source: Source) -> int | None:
        """The priority that the sender asked for, where it is one that is believed."""
        honored = source.priority is not None and any(m.honor_priority for m in self._senders(source))
        return source.priority if honored else None

    def _back(self, source: Source) -> frozenset[str]:
        """The destinations that ``source`` is: a title alone is no proof, for two machines may have one."""
        if source.door != DIMSE:
            return frozenset()
        titled = (d for d in self._callers if d.ae_title == source.calling)
        return frozenset(d.name for d in titled if self._is_at(d.host, source.address))

    def _is_at(self, host: str, address: str) -> bool:
        at = _address(address)
        known = [host] if _address(host) is not None else self._addresses(host)
        return at is not None and any(_address(one) == at for one in known)


def _patterns(when: When) -> dict[str, tuple[Pattern, ...]]:
    asked = {key: getattr(when, key) for key in When.__struct_fields__}
    return {key: tuple(Pattern(g, exact=key in _NAMES) for g in globs) for key, globs in asked.items() if globs}


def _with_asked(priority: int, asked: int | None) -> int:
    """Raise or lower what a route says to what a sender asked for; a route's stat stays."""
    return priority if asked is None or priority == STAT else asked


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        at = ip_address(text)
    except ValueError:
        return None
    return at.ipv4_mapped or at if isinstance(at, IPv6Address) else at
