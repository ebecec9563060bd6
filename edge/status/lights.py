"""The table from what is so to the light: colour, pattern, code and sentence, never colour alone. Worst wins.

A worse light shows at once, a better one only after its cause has been gone for a while, so that nothing flickers.
Not a medical alarm system. Patterns follow the habits of IEC 60073.
"""

from typing import Final

import msgspec

from edge.clock import Clock
from edge.snapshot import Light


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the light looks at."""

    identify: bool = False
    """Somebody wants to find this box."""
    starting: bool = False
    closed: bool = False
    """No images are taken, other than at a start."""
    fault: bool = False
    """A finding of severity error is open."""
    medium_in: bool = False
    """A medium is being read."""
    medium_out: bool = False
    """A medium was read a moment ago."""
    attention: bool = False
    """A finding of severity warning is open, other than that a destination is down."""
    down: bool = False
    """A destination cannot be reached."""
    moving: bool = False
    """Something comes in or goes out."""


class Row(msgspec.Struct, frozen=True):
    """One line of the table."""

    fact: str
    """The field of `Facts` that must be true; empty: it always holds."""
    light: Light
    lingers: float
    """Seconds for which it is shown after its cause is gone."""


_LINGERS: Final = 5.0
_BUSY: Final = 2.0
"""Seconds for which ready and transferring are shown at the least."""


def _row(fact: str, code: str, color: str, pattern: str, text: str, lingers: float = 0.0) -> Row:
    return Row(fact, Light(code=code, color=color, pattern=pattern, text=text), lingers)


TABLE: Final = (
    _row("identify", "I1", "white and blue", "alternating", "This one: somebody wants to find this box."),
    _row("starting", "W1", "white", "slow pulse", "Starting. Do not unplug."),
    _row("closed", "R2", "red", "2 Hz", "Not accepting images: keep them on the modality and call IT now.", _LINGERS),
    _row("fault", "R1", "red", "steady", "Fault, still accepting images: call IT.", _LINGERS),
    _row("medium_in", "B2", "blue", "1 Hz", "Reading a medium: leave it in."),
    _row("medium_out", "B3", "blue", "steady", "The medium was read: it is safe to remove."),
    _row("attention", "Y2", "yellow", "0.5 Hz", "Attention soon: see the findings.", _LINGERS),
    _row(
        "down",
        "Y1",
        "yellow",
        "steady",
        "A destination is unreachable; images are stored safely. Go on scanning.",
        _LINGERS,
    ),
    _row("moving", "G2", "green", "brief dips", "Ready; transferring.", _BUSY),
    _row("", "G1", "green", "steady", "Ready; everything delivered or on its way."),
)
"""The worst first."""

LIGHTS: Final = {row.light.code: row.light for row in TABLE}
"""By code."""


def light(facts: Facts) -> Light:
    """Choose the light of this moment alone: the first row of the table that holds."""
    return next(row.light for row in TABLE if _holds(row, facts))


class Steady:
    """Chooses the light so that it does not flicker: a row holds on for as long as it lingers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, float] = {}
        self._shown: Light | None = None
        self._since = 0.0

    def choose(self, facts: Facts) -> Light:
        """Return what is to be shown now; to be asked at least once a second."""
        now = self._clock.monotonic()
        self._held |= {row.light.code: now for row in TABLE if _holds(row, facts)}
        chosen = next(row.light for row in TABLE if _holds(row, facts) or self._lingers(row, now))
        begins = self._shown is not None and (self._shown.code, chosen.code) == ("G1", "G2")
        if self._shown is not None and begins and now - self._since < _BUSY:
            chosen = self._shown
        if chosen != self._shown:
            self._shown, self._since = chosen, now
        return chosen

    def _lingers(self, row: Row, now: float) -> bool:
        at = self._held.get(row.light.code)
        return at is not None and now - at < row.lingers


def _holds(row: Row, facts: Facts) -> bool:
    return not row.fact or bool(getattr(facts, row.fact))
