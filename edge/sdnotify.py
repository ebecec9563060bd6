"""sd_notify (systemd.exec, NOTIFY_SOCKET): ready, stopping, and the watchdog's heartbeat. Silent elsewhere."""

import asyncio
import os
import socket

_MICRO = 1_000_000


class Notifier:
    """Tells systemd how the process is."""

    def __init__(self, environment: "os._Environ[str] | dict[str, str]" = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watchdog = environment.get("WATCHDOG_USEC", "")
        self._interval = int(watchdog) / _MICRO / 3 if watchdog.isdecimal() else 0.0

    def tell(self, text: str) -> None:
        """Send ``text``, for instance ``READY=1``; a socket that is gone is nobody's trouble."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
                s.connect(address)
                s.sendall(text.encode())
        except OSError:
            return

    async def heartbeat(self) -> None:
        """Pat the watchdog from the event loop, so that a loop that hangs is noticed."""
        while self._interval:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._interval)
