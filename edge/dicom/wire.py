"""A connection as a pull-model byte stream: bounded memory, views instead of copies, total deadlines.

`Wire` owns one fixed receive buffer. Who reads waits for bytes and takes them as views of that buffer; when nobody
reads, the buffer fills, the socket is paused and TCP slows the peer. TCP_NODELAY is set once and, on Linux,
TCP_QUICKACK before every wait for more: with a peer that leaves Nagle's algorithm on, a delayed ACK costs 40 ms an
image.

Every wait is under one total deadline, so a peer that drips a byte at a time gains nothing.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Final

from edge.phrase import N_

BUFFER: Final = 512 * 1024
"""Bytes of receive buffer of a connection that moves data."""
_SMALL: Final = 16 * 1024
"""Bytes of receive buffer of a connection of which nothing is known yet."""
_SHUTDOWN: Final = 2.0
"""Seconds for the last words of TLS."""
WRITE_HIGH_WATER: Final = 512 * 1024
"""Bytes queued for sending at which `drain` waits."""

_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)


class ConnectionLostError(Exception):
    """The peer closed or reset the connection."""


class DeadlineError(Exception):
    """The peer was not fast enough; the connection may be in the middle of a message and must not be used again."""


class Wire(asyncio.BufferedProtocol):
    """One TCP (or TLS) connection. One reader and one writer at a time.

    It begins with a small buffer, so that many who only knock cost little; `widen` makes it as large as a dataset
    wants.
    """

    def __init__(self, made: "Callable[[Wire], None] | None" = None) -> None:
        self.busy = False
        """Whether its user is in the middle of a message."""
        self.address = ""
        """The peer's IP address."""
        self._made = made
        self._loop = asyncio.get_running_loop()
        self._size = _SMALL
        self._view = memoryview(bytearray(_SMALL))
        self._start = 0
        self._end = 0
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._securing = False
        self._paused_reading = False
        self._paused_writing = False
        self._eof = False
        self._lost: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket up for request and response."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self._raw = self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._socket = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        # an IPv4 peer of a listener for both is the same peer
        self.address = str(peer[0]).removeprefix("::ffff:") if peer else ""
        self._option(socket.TCP_NODELAY)
        if self._made is not None:
            self._made(self)

    async def secure(self, context: ssl.SSLContext, seconds: float) -> None:
        """Make it TLS, as the server, before a byte is read; ``seconds`` for the whole handshake.

        Raises `DeadlineError`, `ConnectionLostError`, or ssl.SSLError where the two cannot agree or a certificate is
        refused. After any of them the connection is closed.
        """
        raw = self._raw
        if raw is None or raw.is_closing():
            raise ConnectionLostError(N_("the peer closed the connection"))
        begun = self._loop.time()
        self._securing = True
        try:
            secured = await self._loop.start_tls(
                raw,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=_SHUTDOWN,
            )
        except BaseException as e:
            self._gone(e if isinstance(e, Exception) else None)
            if isinstance(e, ConnectionError):
                if self._loop.time() - begun >= seconds:
                    raise DeadlineError(N_("no TLS handshake in time")) from e
                raise ConnectionLostError(N_("the peer closed the connection during the TLS handshake")) from e
            raise
        if secured is None:  # asyncio's way of saying that the connection went during the handshake
            self._gone(None)
            raise ConnectionLostError(N_("the peer closed the connection during the TLS handshake"))
        self._transport = secured
        secured.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._securing = False
        if self.available == self._size:
            self._pause_reading()

    def _gone(self, why: Exception | None) -> None:
        """Act as `connection_lost` does: asyncio does not call it for a handshake that fails."""
        if self._raw is not None:
            self._raw.abort()
        if not self._closed.done():
            self.connection_lost(why)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Give asyncio the free tail of the buffer."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._securing and self._end == self._size:
            # what came with the handshake's last words is passed on before there is anything to pause
            self.widen(self._size + BUFFER)
        elif self._start and self._size - self._end < self._size // 8:
            # views are void once their reader waits, so what is left may move to the front
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Count what asyncio read into the buffer."""
        self._end += nbytes
        if self._end - self._start == self._size and not self._securing:
            self._pause_reading()
        self._wake(self._reader)

    def eof_received(self) -> bool:
        """The peer will send no more."""
        self._eof = True
        self._wake(self._reader)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, with the reason, or None after a clean close."""
        if self._closed.done():
            return
        self._eof = True
        self._lost = exc
        if self._timer is not None:
            self._timer.cancel()
        self._wake(self._reader)
        self._wake(self._writer)
        self._wake(self._closed)

    def pause_writing(self) -> None:
        """Too much is queued for sending."""
        self._paused_writing = True

    def resume_writing(self) -> None:
        """The peer took enough of it."""
        self._paused_writing = False
        self._wake(self._writer)

    # deadlines

    def deadline(self, seconds: float | None) -> float:
        """Let every wait from now on fail with `DeadlineError` after ``seconds`` in all; None: wait for ever.

        Returns the loop's time now.
        """
        now = self._loop.time()
        if seconds is None or self._closed.done():
            self._deadline = None
            return now
        self._deadline = now + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._arm()
        return now

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline or 0, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._deadline is None or self._lost is not None:
            return
        if self._loop.time() < self._deadline:
            self._arm()
            return
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_exception(DeadlineError(N_("no answer in time")))

    def _check_deadline(self) -> None:
        if self._deadline is not None and self._loop.time() >= self._deadline:
            raise DeadlineError(N_("no answer in time"))

    # reading

    @property
    def available(self) -> int:
        """Bytes that can be taken without waiting."""
        return self._end - self._start

    @property
    def waiting(self) -> bool:
        """Whether its reader waits for bytes that have not come."""
        return self._reader is not None and not self._reader.done()

    @property
    def blocked(self) -> bool:
        """Whether its writer waits for the peer to take what is queued."""
        return self._writer is not None and not self._writer.done()

    def widen(self, size: int = BUFFER) -> None:
        """Make the buffer hold ``size`` bytes, if it does not yet. Views taken before are void afterwards."""
        if size <= self._size:
            return
        wider = memoryview(bytearray(size))
        left = self._end - self._start
        wider[:left] = self._view[self._start : self._end]
        self._view, self._size, self._start, self._end = wider, size, 0, left
        if self._paused_reading:
            self._resume_reading()

    async def fill(self, count: int) -> None:
        """Wait until ``count`` bytes (at most `BUFFER`) can be taken.

        Raises `ConnectionLostError` where the peer closes first, `DeadlineError` when time is up. Views taken
        before are void afterwards.
        """
        if count > self._size:
            self.widen(min(count, BUFFER))
        while self._end - self._start < count:
            if self._eof:
                raise ConnectionLostError(str(self._lost or "the peer closed the connection")) from self._lost
            self._check_deadline()
            # more is due: a peer with Nagle's algorithm may hold it back until what it sent is acknowledged
            self._quickack()
            self._reader = self._loop.create_future()
            if self._paused_reading:
                self._resume_reading()
            try:
                await self._reader
            finally:
                self._reader = None

    async def breathe(self) -> None:
        """Let others run, where what is there could be worked through without a wait. Raises `DeadlineError`."""
        await asyncio.sleep(0)
        self._check_deadline()

    async def some(self, most: int) -> memoryview:
        """Wait for at least one byte and take at most ``most``. The view is valid until the next wait."""
        if self._start == self._end:
            await self.fill(1)
        return self.take(min(most, self._end - self._start))

    def take(self, count: int) -> memoryview:
        """Take ``count`` bytes that are there. The view is valid until the next wait."""
        start = self._start
        self._start = start + count
        return self._view[start : start + count]

    # writing

    def write(self, data: bytes) -> None:
        """Queue ``data`` for sending."""
        self._sendable().write(data)

    def writelines(self, parts: Iterable[bytes | memoryview]) -> None:
        """Queue ``parts`` for sending, as one piece."""
        transport = self._sendable()
        if transport.get_extra_info("sslcontext") is None:
            transport.writelines(parts)
        else:
            transport.write(b"".join(parts))  # or each part is a TLS record of its own

    async def drain(self) -> None:
        """Wait until the peer took enough of what is queued. Raises as `fill` does."""
        while self._paused_writing:
            if self._closed.done():
                raise ConnectionLostError(str(self._lost or "the connection is closed")) from self._lost
            self._check_deadline()
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def _sendable(self) -> asyncio.Transport:
        if self._transport is None or self._closed.done():
            raise ConnectionLostError(str(self._lost or "the connection is closed")) from self._lost
        return self._transport

    # the end

    @property
    def lost(self) -> bool:
        """Whether the peer closed its side or the connection is gone."""
        return self._eof

    async def close(self, grace: float = 2.0) -> None:
        """Send what is queued, close, and wait at most ``grace`` seconds for it; then cut."""
        if self._transport is None:
            return
        self._start = self._end = 0  # whatever was left: TLS reads on until the peer's last word
        if self._paused_reading:
            self._resume_reading()
        if not self._transport.is_closing():
            self._transport.close()
        if not self._closed.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._closed), grace)
        self.cut()

    def cut(self) -> None:
        """Close at once, throwing away what is queued."""
        if self._raw is not None:
            self._raw.abort()

    # the socket

    def _quickack(self) -> None:
        if _QUICKACK is not None:
            self._option(_QUICKACK)

    def _option(self, name: int) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the peer may be gone already, and reading will tell
                self._socket.setsockopt(socket.IPPROTO_TCP, name, 1)

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._paused_reading and not self._transport.is_closing():
            self._transport.pause_reading()
            self._paused_reading = True

    def _resume_reading(self) -> None:
        self._paused_reading = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @staticmethod
    def _wake(waiter: "asyncio.Future[None] | None") -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
