"""Judges of what comes as a stream: events, metrics, reports of commands."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec

from edge.events import EVENTS
from edge.findings import CODES
from edge.messages import Birth, CommandReport, ConfigReport, Events, Metrics, SentEvent, State
from edge.telemetry.commands import REASONS
from scripts.conformance.heard import Node
from scripts.conformance.verdict import Verdict, Watch, verdict

_BATCH: Final = 64 * 1024
_RESEND: Final = 25.0
"""Seconds before which nothing is sent again on one connection: 30, and what a network may take from it."""
_FINDING: Final = frozenset({"open", "count"})
_FAILURES: Final = frozenset({"failed", "rejected", "expired"})


class _Sent(msgspec.Struct):
    event: SentEvent
    at: float
    session: int


def events(node: Node, watch: Watch) -> Verdict:
    """Batches are in order, of at most 64 KiB; an event comes again only as it was, and not soon; codes are known."""
    del watch
    log = _Log()
    problems: list[str] = []
    session = 0
    for one in node.heard:
        if isinstance(one.payload, State):
            session = one.payload.session if one.payload.state == "online" else session
        elif isinstance(one.payload, Events):
            if len(one.message.payload) > _BATCH:
                problems.append(f"a batch of {len(one.message.payload)} bytes")
            problems += log.take(one.payload, one.at, session)
    return verdict(problems, log.missing())


class _Log:
    """The events heard, by epoch and number."""

    def __init__(self) -> None:
        self._sent: dict[tuple[int, int], _Sent] = {}
        self._top: dict[int, int] = {}

    def take(self, batch: Events, at: float, session: int) -> Iterator[str]:
        """Add a batch, and tell what is wrong with it."""
        numbers = [event.seq for event in batch.events]
        if not numbers or (batch.from_, batch.to) != (numbers[0], numbers[-1]):
            yield f"a batch from {batch.from_} to {batch.to} has other events"
        if any(after <= before for before, after in pairwise(numbers)):
            yield f"the batch from {batch.from_} is not in order"
        for event in batch.events:
            yield from _known(event)
            yield from self._add(batch.epoch, event, at, session)

    def _add(self, epoch: int, event: SentEvent, at: float, session: int) -> Iterator[str]:
        before = self._sent.get((epoch, event.seq))
        if before is None:
            # what is new comes in order, even among what is sent again
            if event.seq < self._top.get(epoch, 0):
                yield f"event {event.seq} came first after event {self._top[epoch]}"
        elif msgspec.structs.replace(before.event, late=event.late) != event:
            yield f"event {event.seq} came again, and says something else"
        elif before.session == session and at - before.at < _RESEND:
            yield f"event {event.seq} came again after {at - before.at:.0f} s"
        self._top[epoch] = max(self._top.get(epoch, 0), event.seq)
        self._sent[epoch, event.seq] = _Sent(event, at, session)

    def missing(self) -> Iterator[str]:
        """Tell of numbers between the first and the last of an epoch that did not come, and that no GAP explains."""
        for epoch in self._top:
            numbers = sorted(seq for one, seq in self._sent if one == epoch)
            gaps = sorted(self._gaps(epoch))
            for before, after in pairwise(numbers):
                if (first := _beyond(before + 1, gaps)) < after:
                    yield f"the events from {first} to {after - 1} did not come; no GAP tells why (yet)"

    def _gaps(self, epoch: int) -> Iterator[tuple[int, int]]:
        for (one, _), sent in self._sent.items():
            if one == epoch and sent.event.code == "GAP":
                first, last = sent.event.data.get("from"), sent.event.data.get("to")
                if isinstance(first, int) and isinstance(last, int):
                    yield first, last


def _beyond(number: int, gaps: list[tuple[int, int]]) -> int:
    """Return the first number from ``number`` on that lies in none of ``gaps``, which are in order."""
    for first, last in gaps:
        if first <= number <= last:
            number = last + 1
    return number


def _known(event: SentEvent) -> Iterator[str]:
    own = EVENTS.get(event.code)
    if own is None and event.code not in CODES:
        yield f"event {event.seq}: {event.code} is no code of this version"
        return
    wanted = frozenset(own.data) if own is not None else _FINDING
    if event.data.keys() != wanted:
        yield f"event {event.seq}: {event.code} has the data {sorted(event.data)}, not {sorted(wanted)}"


def metrics(node: Node, watch: Watch) -> Verdict:
    """Every metric is in the dictionary of the birth; counters and numbers only grow in a session."""
    del watch
    return verdict(_metrics(node))


def _metrics(node: Node) -> Iterator[str]:
    birth = node.last(Birth)
    kinds = {metric.name: metric.kind for metric in birth.metrics} if birth is not None else {}
    last: Metrics | None = None
    for _, now in node.all(Metrics):
        if birth is not None and now.session == birth.session:
            yield from (f"{name} is not in the dictionary" for name in now.m if name not in kinds)
        if last is not None and last.session == now.session:
            if now.seq <= last.seq:
                yield f"metrics {now.seq} after {last.seq}"
            for name, value in now.m.items():
                if kinds.get(name) == "counter" and value < last.m.get(name, value):
                    yield f"{name} fell"
        last = now


def reports(node: Node, watch: Watch) -> Verdict:
    """Reports of commands stand where their id says; they, and that of the configuration, say why where they say no."""
    del watch
    return verdict(_reports(node))


def _reports(node: Node) -> Iterator[str]:
    for one in node.heard:
        report = one.payload
        if isinstance(report, CommandReport):
            if report.id != one.rest:
                yield f"the report of {report.id} stands at {one.rest}"
            if (report.status in _FAILURES) != bool(report.reason) or report.reason not in {"", *REASONS}:
                yield f"command {report.id}: {report.status} with the reason {report.reason!r}"
        elif isinstance(report, ConfigReport):
            if (report.status in {"rejected", "rolled-back"}) != bool(report.reason):
                yield f"configuration: {report.status} with the reason {report.reason!r}"
            if report.revision > report.desired:
                yield f"revision {report.revision} is in force, and {report.desired} the last that came"
