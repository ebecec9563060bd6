"""sd_notify (systemd.service, NOTIFY_SOCKET): ready, stopping, and the watchdog's heartbeat. Silent elsewhere."""

import asyncio
import os
import socket
from typing import Final

_MICRO: Final = 1_000_000
_START_BEAT: Final = 10.0
"""Seconds between two requests for more time to start, at most."""
_MORE: Final = 60
"""Seconds asked for each time."""


class Notifier:
    """Tells systemd how the process is."""

    def __init__(self, environment: "os._Environ[str] | dict[str, str]" = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watchdog = environment.get("WATCHDOG_USEC", "")
        self._interval = int(watchdog) / _MICRO / 3 if watchdog.isdecimal() else 0.0
        self._ready = not self._address

    def tell(self, text: str) -> None:
        """Send ``text``, for instance ``READY=1``; a socket that is gone is nobody's trouble."""
        if not self._address:
            return
        self._ready = self._ready or text.startswith("READY=1")
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
                s.connect(address)
                s.sendall(text.encode())
        except OSError:
            return

    async def heartbeat(self) -> None:
        """Pat the watchdog from the event loop, so that a loop that hangs is noticed.

        Until it is ready also ask for time to start: to end a long repair of the database would only have it begin
        anew, for ever.
        """
        while self._interval or not self._ready:
            if not self._ready:
                self.tell(f"EXTEND_TIMEOUT_USEC={_MORE * _MICRO}")
            if self._interval:
                self.tell("WATCHDOG=1")
            await asyncio.sleep(min(self._interval or _START_BEAT, _START_BEAT))
