"""A folder that looks like /sys/class/leds, and who reads off it what the light shows.

A plain file cannot do what the kernel does, blink; so what is read is what the kernel was told.
"""

import contextlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from tests.peers.ports import wait_for

NAMES: Final = {"red": "edge:red", "green": "edge:green", "blue": "edge:blue"}
CONFIG: Final = '[lights]\ndriver = "leds"\n' + "".join(f'{c} = "{name}"\n' for c, name in NAMES.items())
ON, OFF = "on", "off"
TOLD: Final[Mapping[str, tuple[str, str, str]]] = {
    "I1": ("500/500", "500/500", ON),
    "W1": ("fades 1500/1500", "fades 1500/1500", "fades 1500/1500"),
    "R2": ("250/250", OFF, OFF),
    "R1": (ON, OFF, OFF),
    "B2": (OFF, OFF, "500/500"),
    "B3": (OFF, OFF, ON),
    "Y2": ("1000/1000", "1000/1000", OFF),
    "Y1": (ON, ON, OFF),
    "G2": (OFF, "1800/200", OFF),
    "G1": (OFF, ON, OFF),
}
"""What red, green and blue are told for each light, by hand."""


class Panel:
    """Three LEDs below ``folder``; while it is entered, every light that was shown is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        for name in NAMES.values():
            self.plug(name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        return {"EDGE_LEDS": str(self.folder)}

    def plug(self, name: str, triggers: str = "[none]", most: int = 255) -> Path:
        led = self.folder / name
        led.mkdir(parents=True)
        (led / "max_brightness").write_text(f"{most}\n")
        (led / "brightness").write_text("0\n")
        (led / "trigger").write_text(f"{triggers} timer pattern heartbeat\n")
        return led

    def told(self) -> tuple[str, ...]:
        """What each LED was told."""
        return tuple(_told(self.folder / name) for name in NAMES.values())

    def code(self) -> str:
        """The light that the LEDs show; empty where it is none."""
        with contextlib.suppress(OSError, ValueError):
            now = self.told()
            return next((code for code, told in TOLD.items() if told == now), "")
        return ""

    def wait(self, code: str, seconds: float = 15.0) -> None:
        """Wait until the light is this one, and written down; while the panel is entered."""
        try:
            wait_for(lambda: self.seen[-1:] == [code], seconds, code)
        except TimeoutError as late:
            raise TimeoutError(f"{late}: {self.told()}, after {self.seen}") from None

    def _watch(self) -> None:
        while not self._over.is_set():
            code = self.code()
            if code and self.seen[-1:] != [code]:
                self.seen.append(code)
            time.sleep(0.005)


def _told(led: Path) -> str:
    words = (led / "trigger").read_text().split()
    (trigger,) = [word.strip("[]") for word in words if len(words) == 1 or word.startswith("[")]
    if trigger == "timer":
        return f"{(led / 'delay_on').read_text()}/{(led / 'delay_off').read_text()}"
    if trigger == "pattern":
        low, on, high, off = (led / "pattern").read_text().split()
        return f"fades {on}/{off}" if (low, high) == ("0", (led / "max_brightness").read_text().strip()) else "?"
    return ON if int((led / "brightness").read_text()) else OFF
