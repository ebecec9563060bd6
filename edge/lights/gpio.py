"""LEDs on GPIO lines, through libgpiod (the extra ``gpio``). This process blinks them itself.

So after its death they stay as they are, or go dark as the chip likes: where that matters, give the LEDs to the kernel
(driver ``leds``).
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from edge.clock import Clock
from edge.config import Lights
from edge.lights.driver import LightError
from edge.lights.phases import phases
from edge.phrase import N_, say
from edge.snapshot import Light

_CONSUMER: Final = "dicom-edge"


class Lines(Protocol):
    """The lines that were asked for."""

    def set(self, values: Mapping[int, bool]) -> None:
        """Switch lines, True for on. Raises OSError."""
        ...

    def close(self) -> None:
        """Give the lines back."""
        ...


Open = Callable[[str, tuple[int, ...], bool], Lines]
"""Asks a chip for lines as outputs that are off; the last says whether on is low. Raises OSError, ImportError."""


class GpioDriver:
    """Shows the light on up to three lines of one chip."""

    def __init__(self, lights: Lights, clock: Clock, open_lines: Open) -> None:
        numbers = {"red": lights.red_line, "green": lights.green_line, "blue": lights.blue_line}
        self._numbers = {channel: line for channel, line in numbers.items() if line is not None}
        self._chip = str(lights.chip)
        self._active_low = lights.active_low
        self._clock = clock
        self._open = open_lines
        self._lines: Lines | None = None
        self._code = ""
        self._began = 0.0
        self._on: frozenset[str] | None = None

    def turn(self, light: Light) -> float:
        """Switch the lines as this moment of ``light`` wants; seconds until it wants something else."""
        now = self._clock.monotonic()
        if light.code != self._code:
            self._code, self._began = light.code, now
        shown = phases(light, frozenset(self._numbers))
        spent = (now - self._began) * 1000 % sum(phase.milliseconds for phase in shown)
        for phase in shown:
            if spent < phase.milliseconds:
                self._switch(phase.on)
                return (phase.milliseconds - spent) / 1000
            spent -= phase.milliseconds
        return 0.0

    def _switch(self, on: frozenset[str]) -> None:
        if on == self._on and self._lines is not None:
            return
        try:
            if self._lines is None:
                self._lines = self._open(self._chip, tuple(self._numbers.values()), self._active_low)
            self._lines.set({line: channel in on for channel, line in self._numbers.items()})
        except ImportError as e:
            raise LightError(
                N_("The driver gpio needs the Python package gpiod: pip install dicom-edge[gpio], then restart.")
            ) from e
        except (OSError, ValueError) as e:
            self._let_go()
            why = getattr(e, "strerror", None) or str(e)
            raise LightError(
                say(
                    "The GPIO lines of {chip} cannot be switched ({why}): see that they exist, that nothing "
                    "else uses them, and that the service may open the chip.",
                    chip=self._chip,
                    why=why,
                )
            ) from e
        self._on = on

    def _let_go(self) -> None:
        lines, self._lines, self._on = self._lines, None, None
        if lines is not None:
            lines.close()


class _Request:
    """Lines of gpiod 2."""

    def __init__(self, chip: str, numbers: tuple[int, ...], active_low: bool) -> None:  # noqa: FBT001 - `Open`
        import gpiod  # noqa: PLC0415 - an extra; most boxes have none
        from gpiod.line import Direction, Value  # noqa: PLC0415

        self._values = {True: Value.ACTIVE, False: Value.INACTIVE}
        settings = gpiod.LineSettings(direction=Direction.OUTPUT, active_low=active_low, output_value=Value.INACTIVE)
        self._request = gpiod.request_lines(chip, consumer=_CONSUMER, config={numbers: settings})

    def set(self, values: Mapping[int, bool]) -> None:
        self._request.set_values({line: self._values[on] for line, on in values.items()})

    def close(self) -> None:
        self._request.release()


def open_lines(chip: str, numbers: tuple[int, ...], active_low: bool) -> Lines:  # noqa: FBT001 - `Open`
    """Ask the kernel for lines. Raises OSError, ImportError without the extra."""
    return _Request(chip, numbers, active_low)
