"""The seam to the hardware: one method, and what stands behind it by the configuration."""

import os
from pathlib import Path
from typing import Final, Protocol

from edge.clock import Clock
from edge.config import Lights
from edge.snapshot import Light

NEVER: Final = float("inf")
_LEDS: Final = "/sys/class/leds"


class LightError(Exception):
    """The light cannot be shown. The text is a sentence that says why and what to do."""


class Driver(Protocol):
    """Shows a light. Called from one thread at a time, any; may take milliseconds."""

    def turn(self, light: Light) -> float:
        """Show ``light``, or go on showing it; the seconds after which it wants to be called again at the latest.

        Calling it again with the same light does no harm. Raises `LightError`; then the next call tries anew.
        """
        ...


class NoDriver:
    """No light at all."""

    def turn(self, light: Light) -> float:  # noqa: ARG002 - the seam's name
        """Do nothing."""
        return NEVER


def driver_of(lights: Lights, clock: Clock) -> Driver:
    """Make the driver that the configuration names. Touches no hardware yet.

    EDGE_LEDS in the environment names another folder of LEDs than the kernel's.
    """
    # each is imported where it is meant: `edge light` shall be quick
    match lights.driver:
        case "leds":
            from edge.lights.leds import LedDriver  # noqa: PLC0415

            return LedDriver(lights, clock, Path(os.environ.get("EDGE_LEDS") or _LEDS))
        case "gpio":
            from edge.lights.gpio import GpioDriver, open_lines  # noqa: PLC0415

            return GpioDriver(lights, clock, open_lines)
        case "file":
            from edge.lights.file import FileDriver  # noqa: PLC0415

            return FileDriver(lights, clock)
        case "none":
            return NoDriver()
