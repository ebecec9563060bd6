"""The judge of what a node says of its condition: health in itself, and beside the alerts that stand."""

from collections.abc import Iterator
from typing import Final

from edge.findings import CODES
from edge.messages import Alert, Health
from scripts.conformance.heard import Node
from scripts.conformance.verdict import Verdict, Watch, verdict

_SETTLE: Final = 1.5
"""Seconds for which health and alerts may differ, for they are not told in one message."""


def health(node: Node, watch: Watch) -> Verdict:
    """Overall is ok where all components are; each code of a finding has its alert, and each alert its trouble."""
    heard = [one for one in node.heard if one.kind in {"up/health", "up/alerts"}]
    last = node.last(Health)
    if last is None:
        return verdict([], ["no health"])
    if heard[-1].at > watch.ended - _SETTLE:
        return verdict([], ["it changed at the very end"])
    standing = {one.rest: one.payload for one in heard if one.kind == "up/alerts"}
    alerts = {code: alert for code, alert in standing.items() if isinstance(alert, Alert)}
    return verdict([*_itself(last), *_beside(last, alerts)], _unexplained(last, alerts))


def _itself(said: Health) -> Iterator[str]:
    bad = sorted(name for name, component in said.components.items() if component.status != "ok")
    if (said.overall == "ok") != (not bad):
        yield f"overall is {said.overall}, and not ok are: {', '.join(bad) or 'none'}"
    for name, component in said.components.items():
        if (component.status == "ok") != (component.code == ""):
            yield f"{name} is {component.status} with the code {component.code!r}"


def _beside(said: Health, alerts: dict[str, Alert]) -> Iterator[str]:
    for code, alert in alerts.items():
        if code not in CODES:
            yield f"{code} is no finding of this version"
        if alert.count < 1 or not alert.components:
            yield f"alert {code} is of nothing"
        if alert.severity != "info" and said.overall == "ok":
            yield f"alert {code} stands, and all is ok"
        for name in alert.components:
            component = said.components.get(name)
            if component is not None and component.status == "ok" and alert.severity != "info":
                yield f"alert {code} is of {name}, which is ok"


def _unexplained(said: Health, alerts: dict[str, Alert]) -> Iterator[str]:
    for name, component in said.components.items():
        if component.code in CODES and component.code not in alerts:
            yield f"{name} has {component.code}, and no alert stands"
