"""The snapshot in the text format of Prometheus. No patient data; the only label is the name of a destination.

Made anew for every question from one snapshot: there is no registry of the process, and so nothing to keep in step.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge.snapshot import Destination, Snapshot

TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_MOST: Final = 64
"""Destinations that are told."""

_Number = int | float | None

_COUNTERS: Final[tuple[tuple[str, str, Callable[[Snapshot], int]], ...]] = (
    ("edge_received_instances", "Objects answered with success since the start.", lambda s: s.intake.instances),
    ("edge_received_bytes", "Bytes of their datasets.", lambda s: s.intake.bytes),
    ("edge_refused", "Objects and associations refused since the start.", lambda s: s.intake.refused),
)
_GAUGES: Final[tuple[tuple[str, str, Callable[[Snapshot], _Number]], ...]] = (
    ("edge_accepting", "1 while images are accepted.", lambda s: int(s.intake.open)),
    ("edge_associations", "Associations of modalities that are open.", lambda s: s.intake.associations),
    ("edge_queue_instances", "Objects that a destination does not have yet.", lambda s: s.queue.instances),
    ("edge_queue_bytes", "Bytes of their datasets.", lambda s: s.queue.bytes),
    ("edge_queue_oldest_seconds", "Age of the oldest of them.", lambda s: s.queue.oldest_seconds),
    ("edge_storage_free_bytes", "Free on the disk.", lambda s: s.storage.free_bytes),
    ("edge_storage_reserve_bytes", "Of these never used for objects.", lambda s: s.storage.reserve_bytes),
    ("edge_storage_autonomy_seconds", "Until the disk is full.", lambda s: s.storage.autonomy_seconds),
    ("edge_clock_trusted", "1 where the clock may be believed.", lambda s: int(s.clock.trusted)),
)
_EACH: Final[tuple[tuple[str, str, Callable[[Destination], _Number]], ...]] = (
    ("edge_destination_up", "1 where it is reached and not paused.", lambda d: int(d.state == "up")),
    ("edge_destination_rate_bytes_per_second", "Sent over the last seconds.", lambda d: d.rate_bytes_per_second),
    ("edge_destination_drain_seconds", "Until nothing waits, at this rate.", lambda d: d.drain_seconds),
)
_STATES: Final = ("queued", "sending", "accepted", "verified", "held", "cancelled", "declined")
_SEVERITIES: Final = ("info", "warning", "error")


class _Told(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield InfoMetricFamily("edge", "Which box this is.", _which(snapshot))
        yield InfoMetricFamily("edge_light", "The status light.", {"code": snapshot.light.code})
        for name, text, count in _COUNTERS:
            yield CounterMetricFamily(name, text, count(snapshot))
        for name, text, read in _GAUGES:
            if (value := read(snapshot)) is not None:
                yield GaugeMetricFamily(name, text, value)
        findings = GaugeMetricFamily("edge_findings", "Open findings.", labels=["severity"])
        for severity in _SEVERITIES:
            findings.add_metric([severity], sum(f.severity == severity for f in snapshot.findings))
        yield findings
        yield from self._destinations()

    def _destinations(self) -> Iterator[Metric]:
        destinations = self._snapshot.destinations[:_MOST]
        for name, text, read in _EACH:
            family = GaugeMetricFamily(name, text, labels=["destination"])
            for destination in destinations:
                if (value := read(destination)) is not None:
                    family.add_metric([destination.name], value)
            yield family
        deliveries = GaugeMetricFamily("edge_deliveries", "Deliveries by state.", labels=["destination", "state"])
        for destination in destinations:
            for state in _STATES:
                deliveries.add_metric([destination.name, state], getattr(destination, state))
        yield deliveries


def _which(snapshot: Snapshot) -> dict[str, str]:
    return {"id": snapshot.device.id, "version": snapshot.device.version}


def exposition(snapshot: Snapshot) -> bytes:
    """Write ``snapshot``, one without what may name somebody."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(snapshot))
    return generate_latest(registry)
