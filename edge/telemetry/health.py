"""From a snapshot to what the broker is told of it: health by component, and alerts. Pure; no patient data goes in.

Findings carry sentences with what peers said and files are called; only their codes, counts and severities leave.
"""

from collections.abc import Iterable, Mapping, Sequence
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


_BLIND: Final = "STORE"
"""Why a part is not known while the database cannot be read."""
_LOW: Final = "UNDER_VOLTAGE"

_Found = dict[str, tuple[Status, str]]


def health(
    snapshot: Snapshot, before: Mapping[str, Component], *, power: bool | None = None, image: bool = False
) -> Health:
    """Tell how each part of the box is; one that is as in ``before`` keeps the time since when.

    ``power``: whether the voltage was enough; None where that is not known. ``image``: whether the box is updated as a
    whole.
    """
    found: _Found = {"receive": ("ok", ""), "queue": ("ok", ""), "storage": ("ok", "")}
    found["clock"] = ("ok", "") if snapshot.clock.trusted else ("attention", "CLOCK_WRONG")
    if snapshot.watches:
        found["watch"] = ("ok", "")
    if power is not None:
        found["power"] = ("ok", "") if power else ("attention", _LOW)
    if image:
        found["update"] = ("ok", "")
    _find(found, snapshot.findings)
    if not snapshot.intake.open:
        _worsen(found, "receive", "down", "INTAKE_CLOSED")
    for destination in snapshot.destinations:
        name = f"destination.{destination.name}"
        found.setdefault(name, ("ok", ""))
        if destination.problem is not None:
            found[name] = ("down", destination.problem.code)
        elif destination.state == "paused":
            _worsen(found, name, "paused", "PAUSED")
    return _health(snapshot.light.code, found, snapshot.findings, before, snapshot.taken_at)


def blind(findings: Sequence[FindingStatus], before: Mapping[str, Component], now: str) -> Health:
    """Tell how the box is while its database cannot be read: what findings say; the rest of ``before`` is not known."""
    found: _Found = dict.fromkeys(("clock", "queue", *before), ("unknown", _BLIND))
    found |= {"receive": ("ok", ""), "storage": ("fault", _BLIND)}
    _find(found, findings)
    light = "R2" if any(finding.code == "INTAKE_CLOSED" for finding in findings) else "R1"
    return _health(light, found, findings, before, now)


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


def _find(found: _Found, findings: Iterable[FindingStatus]) -> None:
    """Worsen the parts that findings are about."""
    for finding in findings:
        status: Status = "down" if finding.code in _DOWN else _BAD.get(finding.severity, "ok")
        _worsen(found, _part(finding), status, finding.code if status != "ok" else "")


def _part(finding: FindingStatus) -> str:
    component = public(finding.component)
    head, _, _ = component.partition(".")
    if head == "destination":
        return component
    if head == "watch":
        return "watch"
    if head in _HOLDS_WHAT_LIES:
        return "receive" if finding.code == "INTAKE_CLOSED" else "storage"
    if head in {"clock", "receive", "update"}:
        return head
    return "receive" if head in {"files", "import"} or finding.code == "INTAKE_CLOSED" else "service"


def _worsen(found: _Found, name: str, status: Status, code: str) -> None:
    if name not in found or _RANK.index(status) > _RANK.index(found[name][0]):
        found[name] = (status, code)


def _health(
    light: str, found: _Found, findings: Sequence[FindingStatus], before: Mapping[str, Component], now: str
) -> Health:
    components = {
        name: _component(name, *found[name], since=_opened(name, found[name], findings), now=now, before=before)
        for name in sorted(found)
    }
    return Health(light=light, overall=_overall(found), components=components, ts=now)


def _opened(name: str, told: tuple[Status, str], findings: Iterable[FindingStatus]) -> str | None:
    """Since when the finding is open that says what is told of a part; of a destination that is down: that it is."""
    status, code = told
    codes = {code, "DESTINATION_DOWN"} if status == "down" else {code}
    return min(
        (finding.since for finding in findings if finding.code in codes and _part(finding) == name), default=None
    )


def _component(
    name: str, status: Status, code: str, *, since: str | None, now: str, before: Mapping[str, Component]
) -> Component:
    old = before.get(name)
    if since is None:
        since = old.since if old is not None and (old.status, old.code) == (status, code) else now
    return Component(status=status, code=code, since=since)


def _overall(found: _Found) -> Status:
    """The worst; but a destination that is down takes nothing from what the box is for while it stores."""
    worst: Status = "ok"
    for name, (status, _) in found.items():
        felt: Status = "degraded" if status == "down" and name.startswith("destination.") else status
        if _RANK.index(felt) > _RANK.index(worst):
            worst = felt
    return worst
