"""The table from snapshot to light: colour, pattern, code and sentence, never colour alone. Worst wins.

Not a medical alarm system. Patterns follow the habits of IEC 60073.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from edge.snapshot import Destination, FindingStatus, ImportStatus, Intake, Light


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the light looks at."""

    starting: bool
    intake: Intake
    destinations: Sequence[Destination]
    findings: Sequence[FindingStatus]
    moving: bool
    imports: Sequence[ImportStatus] = ()
    identify: bool = False


def _has(facts: Facts, severity: str) -> bool:
    return any(f.severity == severity for f in facts.findings)


def _warned(facts: Facts) -> bool:
    return any(f.severity == "warning" and f.code != "DESTINATION_DOWN" for f in facts.findings)


def _down(facts: Facts) -> bool:
    return any(d.state == "down" for d in facts.destinations)


_TABLE: Final[tuple[tuple[Callable[[Facts], bool], Light], ...]] = (
    (
        lambda f: f.identify,
        Light(
            code="I1", color="white and blue", pattern="alternating", text="This one: somebody wants to find this box."
        ),
    ),
    (
        lambda f: f.starting,
        Light(code="W1", color="white", pattern="slow pulse", text="Starting. Do not unplug."),
    ),
    (
        lambda f: not f.intake.open,
        Light(
            code="R2",
            color="red",
            pattern="2 Hz",
            text="Not accepting images: keep them on the modality and call IT now.",
        ),
    ),
    (
        lambda f: _has(f, "error"),
        Light(code="R1", color="red", pattern="steady", text="Fault, still accepting images: call IT."),
    ),
    (
        lambda f: any(i.media and not i.over for i in f.imports),
        Light(code="B2", color="blue", pattern="1 Hz", text="Reading a medium: leave it in."),
    ),
    (
        lambda f: any(i.media for i in f.imports),
        Light(code="B3", color="blue", pattern="steady", text="The medium was read: it is safe to remove."),
    ),
    (
        _warned,
        Light(code="Y2", color="yellow", pattern="0.5 Hz", text="Attention soon: see the findings."),
    ),
    (
        _down,
        Light(
            code="Y1",
            color="yellow",
            pattern="steady",
            text="A destination is unreachable; images are stored safely. Go on scanning.",
        ),
    ),
    (
        lambda f: f.moving,
        Light(code="G2", color="green", pattern="brief dips", text="Ready; transferring."),
    ),
    (
        lambda _: True,
        Light(code="G1", color="green", pattern="steady", text="Ready; everything delivered or on its way."),
    ),
)


def light(facts: Facts) -> Light:
    """Choose the light: the first row of the table that holds."""
    return next(shown for holds, shown in _TABLE if holds(facts))
