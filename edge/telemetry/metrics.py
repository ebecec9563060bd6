"""The metric dictionary: each number that is told, with its unit and how it is read off a snapshot."""

from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from edge.messages import Metric
from edge.snapshot import Destination, Snapshot

Number = int | float


class _Reading(msgspec.Struct, frozen=True):
    metric: Metric
    read: Callable[[Snapshot], Number | None]


def _metric(kind: Literal["gauge", "counter"], name: str, unit: str, text: str) -> Metric:
    return Metric(name=name, kind=kind, unit=unit, help=text)


_OWN: Final = (
    _Reading(_metric("counter", "received_instances", "1", "objects answered with success since the start"),
             lambda s: s.intake.instances),
    _Reading(_metric("counter", "received_bytes", "B", "of their datasets"), lambda s: s.intake.bytes),
    _Reading(_metric("counter", "refused", "1", "objects and associations refused since the start"),
             lambda s: s.intake.refused),
    _Reading(_metric("gauge", "associations", "1", "open, from modalities"), lambda s: s.intake.associations),
    _Reading(_metric("gauge", "queue_instances", "1", "objects that a destination does not have yet"),
             lambda s: s.queue.instances),
    _Reading(_metric("gauge", "queue_bytes", "B", "of their datasets"), lambda s: s.queue.bytes),
    _Reading(_metric("gauge", "queue_oldest_seconds", "s", "age of the oldest of them"),
             lambda s: s.queue.oldest_seconds),
    _Reading(_metric("gauge", "storage_free_bytes", "B", "free on the disk"), lambda s: s.storage.free_bytes),
    _Reading(_metric("gauge", "storage_reserve_bytes", "B", "of these never used for objects"),
             lambda s: s.storage.reserve_bytes),
    _Reading(_metric("gauge", "storage_autonomy_seconds", "s", "until the disk is full, at the rate of the last day"),
             lambda s: s.storage.autonomy_seconds),
    _Reading(_metric("gauge", "findings", "1", "open findings"), lambda s: len(s.findings)),
)  # fmt: skip

_EACH: Final[tuple[tuple[str, str, str, Callable[[Destination], Number | None]], ...]] = (
    ("up", "1", "1 where it is reached and not paused, else 0", lambda d: int(d.state == "up")),
    ("queued", "1", "deliveries that wait", lambda d: d.queued),
    ("sending", "1", "deliveries on the wire", lambda d: d.sending),
    ("accepted", "1", "deliveries it said yes to", lambda d: d.accepted),
    ("verified", "1", "deliveries proven", lambda d: d.verified),
    ("held", "1", "deliveries a person must decide about", lambda d: d.held),
    ("rate_bytes_per_second", "B/s", "sent over the last seconds", lambda d: d.rate_bytes_per_second),
    ("drain_seconds", "s", "until nothing waits, at this rate", lambda d: d.drain_seconds),
)


def dictionary(destinations: Sequence[str]) -> list[Metric]:
    """Every metric of a box with these destinations."""
    own = [reading.metric for reading in _OWN]
    return own + [
        _metric("gauge", f"destination.{name}.{word}", unit, text)
        for name in destinations
        for word, unit, text, _ in _EACH
    ]


def values(snapshot: Snapshot) -> dict[str, Number]:
    """Every metric that has a value now."""
    found: dict[str, Number | None] = {reading.metric.name: reading.read(snapshot) for reading in _OWN}
    for destination in snapshot.destinations:
        for word, _, _, read in _EACH:
            found[f"destination.{destination.name}.{word}"] = read(destination)
    return {name: value for name, value in found.items() if value is not None}
