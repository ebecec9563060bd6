"""Whether the machine has had enough voltage: a Raspberry Pi on a weak supply damages its card. Others do not tell.

It is read in ``/sys``: the alarm of ``rpi_volt``, else the firmware's word. A dip lasts a moment, so one that was seen
is told for a day. Reading may take milliseconds: not for the event loop.
"""

from pathlib import Path
from typing import Final

from edge.clock import Clock

REMEMBERED: Final = 86_400.0
"""Seconds for which under-voltage is told after it was last seen."""
_NOW: Final = 0x1
_BEFORE: Final = 0x10000
"""Bits of the firmware's word: under-voltage now, and since the system started."""
_MOST_BYTES: Final = 32


class Power:
    """The supply of this machine, below ``sys``."""

    def __init__(self, clock: Clock, sys: Path = Path("/sys")) -> None:
        self._clock = clock
        self._alarm = next((p for p in _alarms(sys)), None)
        self._firmware = sys / "devices/platform/soc/soc:firmware/get_throttled"
        self.known = self._alarm is not None or self._firmware.exists()
        """Whether this machine can tell."""
        self._told = False
        self._before = False
        self._low_at: float | None = None

    def good(self) -> bool | None:
        """Whether there was no under-voltage lately; None where it cannot be told."""
        if not self.known:
            return None
        low = self._alarmed() if self._alarm is not None else self._throttled()
        now = self._clock.monotonic()
        self._told = self._told or low is not None
        if low:
            self._low_at = now
        if not self._told:
            return None
        return self._low_at is None or now - self._low_at >= REMEMBERED

    def _alarmed(self) -> bool | None:
        text = _read(self._alarm) if self._alarm is not None else ""
        return text == "1" if text in {"0", "1"} else None

    def _throttled(self) -> bool | None:
        try:
            word = int(_read(self._firmware), 16)
        except ValueError:
            return None
        before = bool(word & _BEFORE)
        news, self._before = before and not self._before, before
        return bool(word & _NOW) or news


def _alarms(sys: Path) -> list[Path]:
    found = sorted((sys / "class/hwmon").glob("*/in0_lcrit_alarm"))
    return [path for path in found if _read(path.parent / "name") == "rpi_volt"]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
