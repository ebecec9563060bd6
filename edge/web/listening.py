"""Connections in, a bounded number of them: the rest of the box needs its descriptors more than the dashboard does.

Where there is no room, the connection gives way that has waited longest without a whole request: an idle one, or one in
its TLS handshake. Where all are being answered, the new one is turned away.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from edge.web.connection import Connection, http_config
from edge.web.redirect import to_https

MOST: Final = 128
"""Connections at once, from the first byte of TCP on."""
HANDSHAKE: Final = 10.0
"""Seconds for TLS."""
_PAUSE: Final = 0.2
"""Seconds, after a connection could not be taken."""
_GRACE: Final = 0.5
"""Seconds for answers that are under way at the end."""
_TLS: Final = b"\x16"
"""How a TLS handshake begins (RFC 8446 5.1)."""


class Listener:
    """Serves ``app`` on sockets; with a ``context`` by TLS, and whoever speaks plainly is shown the way."""

    def __init__(self, app: ASGIApp, hosts: Callable[[ASGIApp], ASGIApp]) -> None:
        """``hosts`` guards an app from being asked under foreign names."""
        self._config = http_config(app)
        self._plain = http_config(hosts(to_https))
        self._state = ServerState()
        self._open: dict[Connection, None] = {}
        self._greeted: dict[asyncio.Task[None], None] = {}

    async def serve(self, sockets: Sequence[socket.socket], context: Callable[[], ssl.SSLContext | None]) -> None:
        """Serve until cancelled. Closes ``sockets``."""
        try:
            async with asyncio.TaskGroup() as group:
                for one in sockets:
                    group.create_task(self._accept(one, context))
        finally:
            for one in sockets:
                one.close()
            await self._end()

    async def _accept(self, listening: socket.socket, context: Callable[[], ssl.SSLContext | None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:  # no descriptor is free, or the peer is gone already
                await asyncio.sleep(_PAUSE)
                continue
            if not self._make_room():
                accepted.close()
                continue
            task = loop.create_task(self._greet(accepted, context()))
            self._greeted[task] = None
            task.add_done_callback(self._greeted.pop)

    def _make_room(self) -> bool:
        """Whether one more may come; perhaps another had to go."""
        if len(self._open) + len(self._greeted) < MOST:
            return True
        for task in self._greeted:
            task.cancel()
            return True
        for connection in self._open:
            if not connection.serving:
                del self._open[connection]
                connection.drop()
                return True
        return False

    async def _greet(self, accepted: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        handed = False
        try:
            async with asyncio.timeout(HANDSHAKE):
                config = self._config
                if context is not None and await _first_byte(accepted) != _TLS:
                    context, config = None, self._plain
                connection = Connection(config, self._state, self._forget)
                handed = True
                await loop.connect_accepted_socket(lambda: connection, accepted, ssl=context)
            self._open[connection] = None
        except (OSError, TimeoutError):  # ssl.SSLError is one
            pass
        finally:
            if not handed:
                accepted.close()

    def _forget(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    async def _end(self) -> None:
        for task in list(self._greeted):
            task.cancel()
        for connection in list(self._open):
            connection.shutdown()
        tasks = list(self._state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE)
        for task in tasks:
            task.cancel()
        for connection in list(self._open):
            connection.drop()


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _first_byte(accepted: socket.socket) -> bytes:
    """Look at what comes first, and leave it there. Raises OSError."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(accepted, lambda: _settle(readable))
    try:
        await readable
    finally:
        loop.remove_reader(accepted)
    with contextlib.suppress(BlockingIOError):
        return accepted.recv(1, socket.MSG_PEEK)
    return b""
