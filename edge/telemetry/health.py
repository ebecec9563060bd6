"""From a snapshot to what the broker is told of it: health by component, and alerts. Pure; no patient data goes in.

Findings carry sentences with what peers said and files are called; only their codes, counts and severities leave.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from edge.events import public
from edge.findings import CODES
from edge.messages import Alert, Component, Health, Status
from edge.snapshot import FindingStatus, Snapshot

_BAD: Final[Mapping[str, Status]] = {"error": "fault", "warning": "attention"}
"""By severity of a finding; one that only informs leaves its component ok."""
_DOWN: Final = frozenset({"INTAKE_CLOSED", "DESTINATION_DOWN"})
_RANK: Final[tuple[Status, ...]] = ("ok", "unknown", "paused", "attention", "degraded", "down", "fault")
"""From the best to the worst."""
_HOLDS_WHAT_LIES: Final = frozenset({"disk", "storage", "store", "index", "retention", "audit", "recovery", "identity"})


def health(snapshot: Snapshot, before: Mapping[str, Component]) -> Health:
    """Tell how each part of the box is; one that is as in ``before`` keeps the time since when."""
    found: dict[str, tuple[Status, str]] = {"receive": ("ok", ""), "queue": ("ok", ""), "storage": ("ok", "")}
    found["clock"] = ("ok", "") if snapshot.clock.trusted else ("attention", "CLOCK_WRONG")
    if snapshot.watches:
        found["watch"] = ("ok", "")
    for finding in snapshot.findings:
        status: Status = "down" if finding.code in _DOWN else _BAD.get(finding.severity, "ok")
        _worsen(found, _part(finding), status, finding.code if status != "ok" else "")
    if not snapshot.intake.open:
        _worsen(found, "receive", "down", "INTAKE_CLOSED")
    for destination in snapshot.destinations:
        name = f"destination.{destination.name}"
        found.setdefault(name, ("ok", ""))
        if destination.problem is not None:
            found[name] = ("down", destination.problem.code)
        elif destination.state == "paused":
            _worsen(found, name, "paused", "PAUSED")
    components = {name: _since(name, *found[name], snapshot.taken_at, before) for name in sorted(found)}
    return Health(light=snapshot.light.code, overall=_overall(found), components=components, ts=snapshot.taken_at)


def same(a: Health, b: Health) -> bool:
    """Whether the two say the same, at whatever time."""
    return msgspec.structs.replace(a, ts=b.ts) == b


def alerts(findings: Iterable[FindingStatus], now: str) -> dict[str, Alert]:
    """Gather the open findings that somebody should act on, one alert a code."""
    gathered: dict[str, Alert] = {}
    for finding in findings:
        if finding.severity == "info":
            continue
        components = {public(finding.component)}
        old = gathered.get(finding.code)
        gathered[finding.code] = Alert(
            severity="error" if finding.severity == "error" else "warning",
            components=sorted(components | set(old.components if old else ())),
            since=min(finding.since, old.since) if old else finding.since,
            count=finding.count + (old.count if old else 0),
            advice=CODES[finding.code].advice,
            ts=now,
        )
    return gathered


def _part(finding: FindingStatus) -> str:
    component = public(finding.component)
    head, _, _ = component.partition(".")
    if head == "destination":
        return component
    if head == "watch":
        return "watch"
    if head in _HOLDS_WHAT_LIES:
        return "receive" if finding.code == "INTAKE_CLOSED" else "storage"
    if head in {"clock", "receive"}:
        return head
    return "receive" if head in {"files", "import"} or finding.code == "INTAKE_CLOSED" else "service"


def _worsen(found: dict[str, tuple[Status, str]], name: str, status: Status, code: str) -> None:
    if name not in found or _RANK.index(status) > _RANK.index(found[name][0]):
        found[name] = (status, code)


def _since(name: str, status: Status, code: str, now: str, before: Mapping[str, Component]) -> Component:
    old = before.get(name)
    since = old.since if old is not None and (old.status, old.code) == (status, code) else now
    return Component(status=status, code=code, since=since)


def _overall(found: Mapping[str, tuple[Status, str]]) -> Status:
    """The worst; but a destination that is down takes nothing from what the box is for while it stores."""
    worst: Status = "ok"
    for name, (status, _) in found.items():
        felt: Status = "degraded" if status == "down" and name.startswith("destination.") else status
        if _RANK.index(felt) > _RANK.index(worst):
            worst = felt
    return worst
