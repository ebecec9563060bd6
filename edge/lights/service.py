"""Keeps the hardware at the light that every other face shows, every second, and says where it cannot.

Whatever is wrong with the light is a finding and nothing more: it is tried again, and nobody else feels it. At the end
of the process the light is left at what is true then: no images are taken.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from edge.clock import Clock
from edge.findings import Journal
from edge.lights.driver import Driver, LightError
from edge.phrase import N_
from edge.snapshot import Light
from edge.threads import aside

_EVERY: Final = 1.0
_AGAIN: Final = 5.0
"""Seconds between two attempts while it cannot be shown."""
_PATIENCE: Final = 5.0
"""Seconds after which a light that does not answer is given up for now."""
_SILENT: Final = N_("The light does not answer: see the log of the kernel.")
CODE: Final = "LIGHT_UNUSABLE"
_COMPONENT: Final = "lights"


class LightService:
    """Drives ``driver`` with what ``look`` says; ``last`` gives the light that is left behind."""

    def __init__(
        self,
        look: Callable[[], Light],
        last: Callable[[], Light],
        driver: Driver,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._look = look
        self._last = last
        self._driver = driver
        self._journal = journal
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._code = ""
        self._due = float("-inf")
        self._works = True

    async def run(self) -> None:
        """Show the light until cancelled."""
        try:
            while True:
                pause = await self.turn()
                await asyncio.sleep(min(pause, _EVERY))
        except asyncio.CancelledError:
            self.leave()
            raise

    async def turn(self) -> float:
        """Look once, and show it; the seconds after which to look again."""
        light, now = self._look(), self._clock.monotonic()
        if now < self._due and (light.code == self._code or not self._works):
            return self._due - now
        try:
            async with asyncio.timeout(_PATIENCE):
                pause: float = await aside(lambda: self._show(light))
        except LightError as e:
            return self._fail(str(e))
        except TimeoutError:
            return self._fail(_SILENT)
        self._code, self._due = light.code, now + pause
        if not self._works:
            self._works = True
            self._journal.clear(CODE, _COMPONENT)
        return pause

    def leave(self) -> None:
        """Leave the light at what is true once this process is gone; where that fails, the unit says it again."""
        if self._one_at_a_time.acquire(timeout=_EVERY):
            try:
                self._driver.turn(self._last())
            except LightError:
                pass
            finally:
                self._one_at_a_time.release()

    def _show(self, light: Light) -> float:
        if not self._one_at_a_time.acquire(timeout=_PATIENCE):
            raise LightError(_SILENT)
        try:
            return self._driver.turn(light)
        finally:
            self._one_at_a_time.release()

    def _fail(self, why: str) -> float:
        self._works, self._due = False, self._clock.monotonic() + _AGAIN
        self._journal.state(CODE, _COMPONENT, why)
        return _AGAIN
