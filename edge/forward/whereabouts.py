"""Which addresses the hosts of destinations have, asked now and then: so that who calls is known for a destination.

A name that cannot be resolved keeps the addresses that it had. Nobody waits for this: until a name was resolved, its
host is at no address.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

_EVERY: Final = 600.0
"""Seconds between two rounds."""

Resolve = Callable[[str], Awaitable[frozenset[str]]]


async def resolve(host: str) -> frozenset[str]:
    """Return the addresses of ``host``. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return frozenset(str(address[0]) for *_, address in found)


class Whereabouts:
    """The addresses of ``hosts``."""

    def __init__(self, hosts: Iterable[str], resolve: Resolve = resolve) -> None:
        self._known: dict[str, frozenset[str]] = dict.fromkeys(hosts, frozenset())
        self._resolve = resolve

    def of(self, host: str) -> frozenset[str]:
        """Return the addresses that ``host`` had last."""
        return self._known.get(host, frozenset())

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.ask()
            await asyncio.sleep(_EVERY)

    async def ask(self) -> None:
        """Ask once for each."""
        for host in self._known:
            try:
                self._known[host] = await self._resolve(host)
            except (OSError, UnicodeError):  # of a name that is none
                continue
