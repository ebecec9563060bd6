"""Findings: what a person should know, each once, with a code, a sentence and an advice.

The journal is bounded: codes are a closed list and components a bounded set, so no peer can make it grow. A
finding opens when it is first observed, counts while it is observed again, and closes when its cause is gone.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from edge.clock import Clock

MOST_OPEN: Final = 256
"""Findings kept open at once; the oldest gives way."""


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Code(msgspec.Struct, frozen=True):
    """One kind of finding. ``text`` and ``advice`` are for a technician; ``{detail}`` is filled in."""

    name: str
    severity: Severity
    text: str
    advice: str


def _code(name: str, severity: Severity, text: str, advice: str) -> Code:
    return Code(name, severity, text, advice)


_I, _W, _E = Severity.INFO, Severity.WARNING, Severity.ERROR

CODES: Final[dict[str, Code]] = {
    code.name: code
    for code in (
        _code(
            "NO_DESTINATION",
            _W,
            "No destination is configured: images are stored here and go nowhere.",
            "Add a [[destination]] to the configuration and restart.",
        ),
        _code(
            "ACCEPTS_ANYONE",
            _I,
            "No [[modality]] is configured, so images are taken from any sender.",
            "List the modalities in the configuration to refuse everyone else.",
        ),
        _code(
            "NOT_IN_THIS_VERSION",
            _I,
            "The configuration uses {detail}, on which this version does not act yet.",
            "Nothing; or remove it until an update brings it.",
        ),
        _code(
            "DESTINATION_DOWN",
            _W,
            "{detail}",
            "Images are stored safely and go on as soon as it answers. If it stays, tell IT.",
        ),
        _code(
            "DELIVERIES_HELD",
            _W,
            "{detail}",
            "Open `edge queue --state held`; then `edge release` or `edge cancel --reason`.",
        ),
        _code(
            "INTAKE_CLOSED",
            _E,
            "Not accepting images: {detail}",
            "Keep the images on the modality and call IT now.",
        ),
        _code(
            "PEER_REFUSED",
            _W,
            "{detail}",
            "Check the AE titles on the modality and under [[modality]] in the configuration.",
        ),
        _code(
            "PEER_MISBEHAVES",
            _W,
            "{detail}",
            "Check what is connected at this address.",
        ),
        _code(
            "ODD_OBJECT",
            _I,
            "An object was stored as it came, although {detail}",
            "Nothing: it is forwarded byte for byte.",
        ),
        _code(
            "QUARANTINED",
            _W,
            "An object was set aside in quarantine/: {detail}",
            "Send it again from the modality, and tell IT.",
        ),
        _code(
            "STORAGE_ERROR",
            _E,
            "The disk reports an error: {detail}",
            "Images that were not acknowledged are still on the modality. Have IT check the card or disk.",
        ),
        _code(
            "LOST",
            _E,
            "A stored object has no file any more: {detail}",
            "Send the study again from the modality, and tell IT.",
        ),
        _code(
            "SERVICE_RESTARTED",
            _W,
            "A part of the program failed and was started again: {detail}",
            "Nothing while it is rare. If it repeats, send the log to IT.",
        ),
        _code(
            "NOT_RUNNING",
            _E,
            "The appliance is not running; this is what its store says.",
            "Start it: systemctl start edge, or edge run.",
        ),
    )
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One open finding."""

    code: str
    severity: Severity
    component: str
    since: float
    count: int
    text: str
    advice: str


class Journal:
    """The open findings, by (code, component)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[tuple[str, str], Finding] = {}

    def note(self, code: str, component: str, detail: str = "") -> None:
        """Open the finding, or count it once more. ``detail`` is cut at 300 characters."""
        kind = CODES[code]
        key = (code, component)
        old = self._open.pop(key, None)
        if len(self._open) >= MOST_OPEN:
            del self._open[next(iter(self._open))]
        self._open[key] = Finding(
            code=code,
            severity=kind.severity,
            component=component,
            since=old.since if old else self._clock.now(),
            count=old.count + 1 if old else 1,
            text=kind.text.format(detail=printable(detail)),
            advice=kind.advice,
        )

    def clear(self, code: str, component: str) -> None:
        """Close the finding, if it is open."""
        self._open.pop((code, component), None)

    def open(self) -> tuple[Finding, ...]:
        """Every open finding, the worst first, then the oldest."""
        rank = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
        return tuple(sorted(self._open.values(), key=lambda f: (rank[f.severity], f.since)))


def printable(text: str, most: int = 300) -> str:
    """``text`` on one line, without control characters, cut at ``most``: safe to log and to show."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The worst severity among ``findings``; None for none."""
    order = [Severity.INFO, Severity.WARNING, Severity.ERROR]
    return max((f.severity for f in findings), key=order.index, default=None)
