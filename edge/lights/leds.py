"""LEDs of the kernel (/sys/class/leds): three of one colour each, fewer, or one of many colours.

The kernel blinks, by its triggers ``timer`` and ``pattern`` (Documentation/leds): the light goes on saying what was
said last while the process is busy, and after its death until somebody says otherwise. Files that a trigger makes
belong to root until udev has given them to us, a moment later.
"""

import errno
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from edge.clock import Clock
from edge.config import Lights
from edge.lights.driver import LightError
from edge.lights.phases import CHANNELS, Phase, phases, pulses
from edge.phrase import say
from edge.snapshot import Light

_LOOK: Final = 5.0
"""Seconds between two looks at whether the LEDs still show it."""
_GIVEN_WITHIN: Final = 1.0
_STEP: Final = 0.02
"""Seconds within which udev gives us the files of a trigger, and between two looks."""


class _Wanted(msgspec.Struct, frozen=True):
    """What one LED is to do: be as bright as may be for ``on`` milliseconds, dark for ``off``."""

    on: int
    off: int
    pulses: bool = False

    @property
    def trigger(self) -> str:
        return "none" if not (self.on and self.off) else "pattern" if self.pulses else "timer"


class LedDriver:
    """Shows the light on LEDs of the kernel, each a folder in ``folder``."""

    def __init__(self, lights: Lights, clock: Clock, folder: Path) -> None:
        self._folder = folder
        self._clock = clock
        names = {"red": lights.red, "green": lights.green, "blue": lights.blue}
        self._names = {channel: name for channel, name in names.items() if name is not None}
        self._multicolor = lights.multicolor
        self._shown: Light | None = None
        self._began = 0.0
        self._looked_at = 0.0

    def turn(self, light: Light) -> float:
        """Have the kernel show ``light``; look now and then whether it still does. Raises `LightError`."""
        now = self._clock.monotonic()
        if self._shown is None or self._shown.code != light.code:
            self._shown, self._began = None, now
            self._show(light)
            self._shown, self._looked_at = light, now
        elif now - self._looked_at >= _LOOK:
            self._shown = None
            if not self._still(light):
                self._show(light)
            self._shown, self._looked_at = light, now
        elif self._multicolor is not None and " and " in light.color:
            return self._alternate(light)
        return _LOOK

    def _show(self, light: Light) -> None:
        if self._multicolor is None:
            for name, wanted in self._wanted(light).items():
                self._set(name, wanted)
            return
        first = phases(light)[0]
        self._mix(self._multicolor, first.on)
        self._set(self._multicolor, _one(light))

    def _wanted(self, light: Light) -> Mapping[str, _Wanted]:
        shown = phases(light, frozenset(self._names))
        return {name: _of(channel, shown, pulses=pulses(light)) for channel, name in self._names.items()}

    def _still(self, light: Light) -> bool:
        wanted = self._wanted(light) if self._multicolor is None else {self._multicolor: _one(light)}
        return all(self._is(name, one) for name, one in wanted.items())

    def _is(self, name: str, wanted: _Wanted) -> bool:
        """Whether the LED does what it is to do; one that is gone does not."""
        try:
            folder = self._folder / name
            chosen = _chosen((folder / "trigger").read_text())
            if wanted.trigger != "none":
                # a kernel without the one trigger was given the other
                return chosen in {"timer", "pattern"}
            return chosen == "none" and (int((folder / "brightness").read_text()) > 0) == bool(wanted.on)
        except (OSError, ValueError):
            return False

    def _alternate(self, light: Light) -> float:
        """Show the two colours in turn: the kernel blinks in one colour only."""
        if self._multicolor is None:
            return _LOOK
        shown = phases(light)
        spent = (self._clock.monotonic() - self._began) * 1000 % sum(phase.milliseconds for phase in shown)
        for phase in shown:
            if spent < phase.milliseconds:
                self._mix(self._multicolor, phase.on)
                return (phase.milliseconds - spent) / 1000
            spent -= phase.milliseconds
        return 0.0

    def _mix(self, name: str, on: frozenset[str]) -> None:
        """Choose the colour of an LED of many (Documentation/leds/leds-class-multicolor)."""
        folder = self._folder / name
        try:
            order = (folder / "multi_index").read_text().split()
            most = int((folder / "max_brightness").read_text())
            levels = [most if color in on or (color == "white" and on == set(CHANNELS)) else 0 for color in order]
            (folder / "multi_intensity").write_text(" ".join(map(str, levels)))
        except (OSError, ValueError) as e:
            raise self._trouble(name, e) from e

    def _set(self, name: str, wanted: _Wanted) -> None:
        try:
            self._write(self._folder / name, wanted)
        except (OSError, ValueError) as e:
            raise self._trouble(name, e) from e

    def _write(self, folder: Path, wanted: _Wanted) -> None:
        most = int((folder / "max_brightness").read_text())
        there = _known((folder / "trigger").read_text())
        trigger = wanted.trigger
        if trigger == "pattern" and there and "pattern" not in there:
            trigger = "timer"
        if trigger != "none" and there and trigger not in there:
            # steady in the right colour says more than dark
            (folder / "trigger").write_text("none")
            (folder / "brightness").write_text(str(most))
            raise LightError(
                say(
                    "The LED {name} cannot blink: the kernel has no trigger {trigger} (modprobe ledtrig-{trigger}).",
                    name=folder.name,
                    trigger=trigger,
                )
            )
        (folder / "trigger").write_text(trigger)
        if trigger == "none":
            (folder / "brightness").write_text(str(most if wanted.on else 0))
        elif trigger == "timer":
            (folder / "brightness").write_text(str(most))
            _when_given(folder / "delay_on", str(wanted.on))
            _when_given(folder / "delay_off", str(wanted.off))
        else:
            _when_given(folder / "pattern", f"0 {wanted.on} {most} {wanted.off}")

    def _trouble(self, name: str, error: Exception) -> LightError:
        if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
            return LightError(
                say(
                    "The service may not write to the LED {name}: install udev/71-edge-lights.rules, and see "
                    "ReadWritePaths in the unit.",
                    name=name,
                )
            )
        if not (self._folder / name).is_dir():
            there = ", ".join(sorted(path.name for path in self._folder.glob("*"))) or "none"
            return LightError(
                say(
                    "There is no LED {name}; this machine has: {there}. Correct [lights] in the configuration.",
                    name=name,
                    there=there,
                )
            )
        return LightError(
            say("The LED {name} cannot be set: {error}.", name=name, error=getattr(error, "strerror", None) or error)
        )


def _of(channel: str, shown: tuple[Phase, ...], *, pulses: bool) -> _Wanted:
    """What the LED of one channel does while the light goes through its phases."""
    on = sum(phase.milliseconds for phase in shown if channel in phase.on)
    return _Wanted(on, sum(phase.milliseconds for phase in shown) - on, pulses)


def _one(light: Light) -> _Wanted:
    """What an LED of many colours does, whichever they are."""
    shown = phases(light)
    on = sum(phase.milliseconds for phase in shown if phase.on)
    return _Wanted(on, sum(phase.milliseconds for phase in shown) - on, pulses(light))


def _chosen(triggers: str) -> str:
    """Return the trigger in force: the kernel names all of them, with brackets around it."""
    return triggers.partition("[")[2].partition("]")[0] or triggers.strip()


def _known(triggers: str) -> list[str]:
    """Return every trigger that the kernel has; none where it does not tell, and any may be tried."""
    return triggers.translate({ord("["): " ", ord("]"): " "}).split() if "[" in triggers else []


def _when_given(path: Path, text: str) -> None:
    """Write to a file that a trigger has just made. Raises OSError."""
    deadline = time.monotonic() + _GIVEN_WITHIN
    while True:
        try:
            path.write_text(text)
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_STEP)
        else:
            return
