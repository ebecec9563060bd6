"""Connections that are listened to while a request is sent: its answer may come before it is whole (RFC 9112 9.5).

A server that refuses a large request need not wait for its end, and closes the connection then or takes nothing more.
Whoever only writes never hears why. Once an answer has begun nothing more is written, and what came is read as the
answer, even where the connection has ended. What a reset overtakes is lost all the same. HTTP/2 has frames for this and
is left alone.
"""

import asyncio
import contextlib
import errno
import select
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpcore

_MOST_AHEAD: Final = 256 << 10
"""Bytes that are kept before they are asked for; the rest waits in the system's buffers."""
_MOST_TURNS: Final = 100
"""Of the event loop, in which all that has come is read."""
_INTERIM: Final = b"HTTP/1.1 1"
"""How an answer begins that only announces another (RFC 9110 15.2)."""
_GOODBYE: Final = 1.0
"""Seconds in which a connection that is cut is gone from the event loop."""
_HAPPY_EYEBALLS: Final = 0.25
"""Seconds after which the next address is tried as well (RFC 8305)."""


class Network(httpcore.AsyncNetworkBackend):
    """Makes connections; what they speak is known once they stand."""

    def __init__(self) -> None:
        self.two = False
        """Whether the last of them speaks HTTP/2."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's
        local_address: str | None = None,  # noqa: ARG002 - the library's
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - the library's
    ) -> httpcore.AsyncNetworkStream:
        """Connect. Raises ConnectTimeout, or ConnectError from what the system said."""
        self.two = False
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, line = await loop.create_connection(_Line, host, port, happy_eyeballs_delay=_HAPPY_EYEBALLS)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        except OSError as e:
            # of several addresses it says all that it heard in one text
            refused = e.errno is None and f"[Errno {errno.ECONNREFUSED}]" in str(e)
            raise httpcore.ConnectError from (ConnectionRefusedError() if refused else e)
        return _Stream(line, self)

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


class _Line(asyncio.Protocol):
    """What comes over one connection, kept until it is read; ``changed`` after all that somebody may wait for."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.came = bytearray()
        self.ended = False
        self.closed = False
        self.why: Exception | None = None
        self.writable = True
        self._changed = asyncio.Event()

    @property
    def answered(self) -> bool:
        """Whether an answer has begun, or can come no more."""
        while self.came.startswith(_INTERIM) and b"\r\n\r\n" in self.came:
            del self.came[: self.came.index(b"\r\n\r\n") + 4]
        begun = self.came and not _INTERIM.startswith(self.came[: len(_INTERIM)])
        return self.ended or bool(begun) or len(self.came) > _MOST_AHEAD

    async def until(self, true: Callable[[], bool], seconds: float | None, late: type[Exception]) -> None:
        """Wait until ``true``. Raises ``late`` after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise late from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or go on in TLS."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.came += data
        if len(self.came) > _MOST_AHEAD:
            self.transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more comes or goes."""
        self.ended, self.closed, self.why = True, True, exc
        self._changed.set()

    def pause_writing(self) -> None:
        """The other side takes less than was written."""
        self.writable = False

    def resume_writing(self) -> None:
        """It has taken it."""
        self.writable = True
        self._changed.set()


class _Stream(httpcore.AsyncNetworkStream):
    """One connection, as the library wants it."""

    def __init__(self, line: _Line, network: Network) -> None:
        self._line = line
        self._network = network
        self._two = network.two

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the library's
        """Return what came; empty at the end. Raises ReadTimeout, ReadError, SSLError."""
        line = self._line
        await line.until(lambda: bool(line.came) or line.ended, timeout, httpcore.ReadTimeout)
        if not line.came and line.why is not None:
            raise line.why if isinstance(line.why, ssl.SSLError) else httpcore.ReadError
        data = bytes(line.came[:max_bytes])
        del line.came[:max_bytes]
        if len(line.came) <= _MOST_AHEAD:
            line.transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the library's
        """Send ``buffer``. Raises WriteTimeout, and WriteError, upon which it reads, where an answer has begun."""
        line = self._line
        if not buffer:  # the end of a request, which has all gone
            return
        if not self._two:
            await self._listen()
        if line.transport.is_closing() or (line.answered and not self._two):
            raise httpcore.WriteError
        line.transport.write(buffer)
        await line.until(
            lambda: line.writable or line.ended or (line.answered and not self._two), timeout, httpcore.WriteTimeout
        )
        if not line.writable:
            raise httpcore.WriteError

    async def _listen(self) -> None:
        """Let come what is there already: to write to who has gone throws it away."""
        for _ in range(_MOST_TURNS):
            if self._line.answered or not self.get_extra_info("is_readable"):
                return
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Close it at once."""
        line = self._line
        line.transport.abort()
        with contextlib.suppress(TimeoutError):
            await line.until(lambda: line.closed, _GOODBYE, TimeoutError)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's
    ) -> httpcore.AsyncNetworkStream:
        """Go on in TLS, in which the protocol is agreed on. Raises ConnectTimeout, or ConnectError from why not."""
        line = self._line
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                secured = await loop.start_tls(line.transport, line, ssl_context, server_hostname=server_hostname)
        except TimeoutError:
            await self.aclose()
            raise httpcore.ConnectTimeout from None
        except OSError as e:
            await self.aclose()
            raise httpcore.ConnectError from e
        if secured is None:
            raise httpcore.ConnectError
        line.transport = secured
        agreed = secured.get_extra_info("ssl_object")
        self._network.two = agreed is not None and agreed.selected_alpn_protocol() == "h2"
        return _Stream(line, self._network)

    def get_extra_info(self, info: str) -> Any:
        """Give what the connection knows of itself."""
        transport = self._line.transport
        if info == "is_readable":
            return bool(self._line.came) or self._line.ended or _readable(transport.get_extra_info("socket"))
        return transport.get_extra_info(info)


def _readable(sock: socket.socket | None) -> bool:
    """Whether something has come that is not read yet, were it the end."""
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
