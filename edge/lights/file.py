"""The light as a small JSON file, replaced whole whenever it changes: for tests, and for signs on a wall.

It is not synced: after a power cut the next start writes it again.
"""

import contextlib
from typing import Final

import msgspec

from edge.clock import Clock, iso
from edge.config import Lights
from edge.lights.driver import LightError
from edge.phrase import say
from edge.snapshot import Light

_LOOK: Final = 5.0
"""Seconds between two looks at whether the file is still there."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    code: str
    color: str
    pattern: str
    text: str
    since: str
    """When this light began, RFC 3339."""


class FileDriver:
    """Keeps the file at ``lights.path`` true."""

    def __init__(self, lights: Lights, clock: Clock) -> None:
        if lights.path is None:
            raise ValueError("the driver file needs lights.path")
        self._path = lights.path
        self._clock = clock
        self._shown: Shown | None = None

    def turn(self, light: Light) -> float:
        """Write the file where the light changed or the file is gone. Raises `LightError`."""
        if self._shown is None or self._shown.code != light.code or not self._there():
            self._write(light)
        return _LOOK

    def _there(self) -> bool:
        try:
            return self._path.exists()
        except OSError:  # its folder may not be entered any more
            return False

    def _write(self, light: Light) -> None:
        shown = self._shown
        if shown is None or shown.code != light.code:
            since = iso(self._clock.now())
            shown = Shown(code=light.code, color=light.color, pattern=light.pattern, text=light.text, since=since)
        temporary = self._path.with_name(f".{self._path.name}.new")
        self._shown = None
        try:
            temporary.write_bytes(msgspec.json.encode(shown) + b"\n")
            temporary.replace(self._path)
        except OSError as e:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise LightError(
                say(
                    "The file {path} cannot be written ({error}): make its folder, and let the service write there.",
                    path=self._path,
                    error=e.strerror or e,
                )
            ) from e
        self._shown = shown
