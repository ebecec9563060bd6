"""What a light is to the eye: colours as red, green and blue, patterns as times on and off."""

from typing import Final

import msgspec

from edge.snapshot import Light

CHANNELS: Final = ("red", "green", "blue")

COLORS: Final[dict[str, frozenset[str]]] = {
    "red": frozenset({"red"}),
    "green": frozenset({"green"}),
    "blue": frozenset({"blue"}),
    "yellow": frozenset({"red", "green"}),
    "white": frozenset(CHANNELS),
}

PATTERNS: Final[dict[str, tuple[int, int]]] = {
    "steady": (1000, 0),
    "slow pulse": (1500, 1500),
    "slow blink": (1000, 1000),
    "brief dips": (1800, 200),
    "0.5 Hz": (1000, 1000),
    "1 Hz": (500, 500),
    "2 Hz": (250, 250),
    "alternating": (500, 500),
}
"""Milliseconds on and off. Of ``alternating``: in its first colour, and in its second."""


class Phase(msgspec.Struct, frozen=True):
    """So many milliseconds with these channels on."""

    milliseconds: int
    on: frozenset[str]


def phases(light: Light, there: frozenset[str] = frozenset(CHANNELS)) -> tuple[Phase, ...]:
    """Return the phases that ``light`` goes through again and again, on the channels that are ``there``.

    A colour of which there is nothing is shown with all there is: a dark light would say that there is no power.
    """
    first, _, second = light.color.partition(" and ")
    on, off = PATTERNS[light.pattern]
    shown = (Phase(on, _on(first, there)), Phase(off, _on(second, there) if second else frozenset()))
    return tuple(phase for phase in shown if phase.milliseconds)


def pulses(light: Light) -> bool:
    """Whether it grows and fades rather than blinks, where that can be had."""
    return light.pattern == "slow pulse"


def _on(color: str, there: frozenset[str]) -> frozenset[str]:
    return COLORS[color] & there or there
