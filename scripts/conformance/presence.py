"""Judges of what must be there: payloads that can be read, flags, retained topics, session and lease."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Final

from edge.messages import Birth, ConfigReport, Health, Metrics, Payload, State, UpdateReport
from scripts.conformance.heard import Heard, Node
from scripts.conformance.verdict import Verdict, Watch, verdict

_RETAINED: Final = frozenset(
    {"up/state", "up/birth", "up/health", "up/alerts", "up/config", "up/update", "down/config", "down/ack"}
)
_NEVER_RETAINED: Final = frozenset({"up/metrics", "up/events", "down/command"})
"""``up/command`` may be either: what was rejected is told and not kept."""
_WANTED: Final[dict[str, type[Payload]]] = {
    "state": State,
    "birth": Birth,
    "health": Health,
    "config": ConfigReport,
    "update": UpdateReport,
}
_METRICS: Final = 70.0
"""Seconds within which metrics must have come."""


def payloads(node: Node, watch: Watch) -> Verdict:
    """Every topic is one of the contract, and every payload is read strictly."""
    del watch
    return verdict(node.problems)


def flags(node: Node, watch: Watch) -> Verdict:
    """QoS and retain flag are those of the topic."""
    return verdict(_flags(node, watch))


def _flags(node: Node, watch: Watch) -> Iterator[str]:
    for one in node.heard:
        qos = 0 if one.kind == "up/metrics" else 1
        if one.message.qos != qos:
            yield f"{_topic(one)} came with QoS {one.message.qos}, not {qos}"
        if one.message.retain and one.kind in _NEVER_RETAINED:
            yield f"{_topic(one)} is retained"
        if watch.flags and not one.message.retain and one.kind in _RETAINED:
            yield f"{_topic(one)} is not retained"


def _topic(one: Heard) -> str:
    return f"{one.kind}/{one.rest}" if one.rest else one.kind


def presence(node: Node, watch: Watch) -> Verdict:
    """What is retained stands there; metrics come while it is online."""
    missing = [f"no {name}" for name, kind in _WANTED.items() if node.last(kind) is None]
    state = node.last(State)
    doubts: list[str] = []
    if state is not None and state.state == "online" and node.last(Metrics) is None:
        (missing if watch.seconds >= _METRICS else doubts).append(f"no metrics in {watch.seconds:.0f} s")
    return verdict(missing, doubts)


def session(node: Node, watch: Watch) -> Verdict:
    """Sessions only grow, but for a will that comes late; birth and metrics are of the session that is online."""
    del watch
    return verdict(_session(node))


def _session(node: Node) -> Iterator[str]:
    online = 0
    boot_ids: dict[int, str] = {}
    for _, state in node.all(State):
        if state.state != "lost" and state.session < online:
            yield f"{state.state} of session {state.session} after {online}"
        if boot_ids.setdefault(state.session, state.boot_id) != state.boot_id:
            yield f"session {state.session} has two boot ids"
        if state.state == "online":
            online = max(online, state.session)
    last = node.last(State)
    birth = node.last(Birth)
    if last is not None and last.state == "online" and birth is not None and birth.session != last.session:
        yield f"birth is of session {birth.session}, state of {last.session}"
    for _, metrics in node.all(Metrics):
        if metrics.session not in boot_ids:
            yield f"metrics of session {metrics.session}, which no state tells of"


def lease(node: Node, watch: Watch) -> Verdict:
    """A state comes again before its lease is over."""
    states = node.all(State)
    problems = [f"a lease of {state.lease_s} s" for _, state in states if state.lease_s < 1]
    for (before, old), (after, new) in pairwise(states):
        if old.state == new.state == "online" and old.session == new.session and after - before > old.lease_s:
            problems.append(f"{after - before:.0f} s between two states, with a lease of {old.lease_s} s")
    doubts = []
    if states and states[-1][1].state == "online":
        at, last = states[-1]
        if watch.ended - at > last.lease_s:
            problems.append(f"online, and not a word in {watch.ended - at:.0f} s")
        try:
            over = watch.now - datetime.fromisoformat(last.ts).timestamp() - last.lease_s
        except ValueError:  # of the right form, and no day or hour
            problems.append(f"{last.ts} is no time")
        else:
            if over > 0:
                doubts.append(f"stale: its lease ended {over:.0f} s ago, or a clock is wrong")
    return verdict(problems, doubts)
