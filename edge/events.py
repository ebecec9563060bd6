"""What happened to the box, for who looks after many of them: a closed list of events, each with its data.

An event is a row that is written in the transaction of what it tells, and leaves the box over MQTT. So nothing of a
patient, of a peer's words or of a file's name may be in one: the data are numbers and words from this program or from
the configuration, and components are cut to what those may be.
"""

from typing import Final

import msgspec

from edge.findings import CODES as FINDINGS
from edge.findings import Severity

Value = str | int | bool

_OWN: Final = frozenset(
    {
        *("audit", "clock", "config", "identity", "index", "mqtt", "receive", "recovery", "retention", "service"),
        *("storage", "store", "starting", "disk", "files", "task", "update", "appliance", "commands"),
        *("dashboard", "lights"),
    }
)
"""Components that are words of this program."""
_CONFIGURED: Final = frozenset({"destination", "watch"})
"""Components whose second word is a name from the configuration."""
_STRANGERS: Final = {"modality": "receive", "title": "receive", "import": "import"}
"""Components whose second word came from outside, and what is said instead."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event. ``code`` is one of `EVENTS`, or that of a finding."""

    code: str
    severity: Severity
    component: str
    data: dict[str, Value] = {}


class Code(msgspec.Struct, frozen=True):
    """One kind of event: what it tells, and what each of its data is."""

    text: str
    data: dict[str, str]


EVENTS: Final[dict[str, Code]] = {
    "STARTED": Code(
        "The program has started; findings that were open are closed.",
        {"session": "count of starts", "version": "of the program"},
    ),
    "STOPPED": Code("The program was told to stop, and did.", {}),
    "DELIVERIES_REFUSED": Code(
        "A destination refused objects for good; they are held, or declined as configured.",
        {
            "destination": "its name",
            "reason": "code as in docs/findings.md, or the DICOM status",
            "instances": "how many",
            "state": "held or declined",
        },
    ),
    "DECIDED": Code(
        "Somebody decided about deliveries.",
        {
            "verb": "hold, release, cancel, resend, stat, pause or resume",
            "destination": "its name; empty: more than one",
            "instances": "deliveries concerned",
            "by": "who: command line, or a signer's name",
        },
    ),
    "DELETED": Code(
        "Objects that every destination has were deleted after the time kept.",
        {"instances": "how many", "bytes": "of their datasets"},
    ),
    "COMMAND": Code(
        "A command came over MQTT.",
        {
            "id": "the command's; empty where it has none of the right form",
            "type": "as in docs/mqtt.md; empty where it is none",
            "issued_by": "the signer's name; empty where the signature is not good",
            "status": "accepted, running, succeeded, failed, rejected or expired",
            "reason": "code as in docs/mqtt.md, where it did not succeed",
        },
    ),
    "CONFIGURATION": Code(
        "A configuration came over MQTT.",
        {
            "revision": "its number; 0 where it has none",
            "status": "applied, rejected or rolled-back",
            "reason": "code as in docs/mqtt.md, where it is not applied",
        },
    ),
    "UPDATE": Code(
        "An update of the box's image went on, or ended.",
        {
            "phase": "as on up/update in docs/mqtt.md",
            "from": "version before",
            "to": "version after; empty where it is not known yet",
            "slot": "where the new version goes",
            "reason": "code as in docs/mqtt.md, where it failed or was rolled back",
        },
    ),
    "GAP": Code(
        "Events were dropped, for there were too many: the least severe, oldest first.",
        {"from": "first number dropped", "to": "last number dropped", "count": "how many of those between"},
    ),
}
"""Codes other than those of findings, which tell of one with ``open`` (true or false) and ``count``."""


def public(component: str) -> str:
    """Cut ``component`` to what may be told outside: words of this program and names from the configuration."""
    head, _, name = component.partition(".")
    if head in _CONFIGURED and name:
        return f"{head}.{name}"
    if head in _OWN:
        return head
    return _STRANGERS.get(head, "appliance")


def started(session: int, version: str) -> Event:
    """Tell of a start."""
    return _own("STARTED", Severity.INFO, "appliance", session=session, version=version)


def stopped() -> Event:
    """Tell of an end that was asked for."""
    return _own("STOPPED", Severity.INFO, "appliance")


def finding(code: str, component: str, *, is_open: bool, count: int) -> Event:
    """Tell that a finding was opened or closed."""
    severity = FINDINGS[code].severity if is_open else Severity.INFO
    return Event(code=code, severity=severity, component=public(component), data={"open": is_open, "count": count})


def refused(destination: str, reason: str, state: str, instances: int) -> Event:
    """Tell what a destination refused for good."""
    return _own(
        "DELIVERIES_REFUSED",
        Severity.WARNING,
        f"destination.{destination}",
        destination=destination,
        reason=reason,
        instances=instances,
        state=state,
    )


def decided(verb: str, destination: str, instances: int, by: str) -> Event:
    """Tell what somebody decided."""
    component = f"destination.{destination}" if destination else "store"
    return _own("DECIDED", Severity.INFO, component, verb=verb, destination=destination, instances=instances, by=by)


def deleted(instances: int, size: int) -> Event:
    """Tell what was deleted, of ``size`` bytes in all."""
    return _own("DELETED", Severity.INFO, "retention", instances=instances, bytes=size)


def command(number: str, kind: str, issued_by: str, status: str, reason: str = "") -> Event:
    """Tell what became of a command."""
    severity = Severity.WARNING if status in {"failed", "rejected"} else Severity.INFO
    return _own(
        "COMMAND", severity, "commands", id=number, type=kind, issued_by=issued_by, status=status, reason=reason
    )


def configuration(revision: int, status: str, reason: str = "") -> Event:
    """Tell what became of a configuration."""
    severity = Severity.INFO if status == "applied" else Severity.WARNING
    return _own("CONFIGURATION", severity, "config", revision=revision, status=status, reason=reason)


def updated(phase: str, *, before: str, after: str, slot: str, reason: str) -> Event:
    """Tell how an update is."""
    severity = Severity.WARNING if phase in {"failed", "rolled-back"} else Severity.INFO
    data: dict[str, Value] = {"phase": phase, "from": before, "to": after, "slot": slot, "reason": reason}
    return Event(code="UPDATE", severity=severity, component="update", data=data)


def gap(first: int, last: int, count: int) -> Event:
    """Tell that numbers are missing for good."""
    return Event(
        code="GAP", severity=Severity.WARNING, component="mqtt", data={"from": first, "to": last, "count": count}
    )


def _own(code: str, severity: Severity, component: str, **data: Value) -> Event:
    return Event(code=code, severity=severity, component=component, data=dict(data))
