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
from collections.abc import Callable, Iterable
from typing import Final

BUFFER: Final = 512 * 1024
"""Bytes of receive buffer a connection."""
_ROOM: Final = 64 * 1024
"""With less than this free at the end of the buffer, what is left in it moves to the front."""
WRITE_HIGH_WATER: Final = 512 * 1024
"""Bytes queued for sending at which `drain` waits."""

_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)


class ConnectionLostError(Exception):
    """The peer closed or reset the connection."""


class DeadlineError(Exception):
    """The peer was not fast enough; the connection may be in the middle of a message and must not be used again."""


class Wire(asyncio.BufferedProtocol):
    """One TCP (or TLS) connection. One reader and one writer at a time."""

    def __init__(self, made: "Callable[[Wire], None] | None" = None) -> None:
        self.busy = False
        """Whether its user is in the middle of a message."""
        self._made = made
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
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
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._socket = transport.get_extra_info("socket")
        self._option(socket.TCP_NODELAY)
        if self._made is not None:
            self._made(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Give asyncio the free tail of the buffer."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and BUFFER - self._end < _ROOM:
            # views are void once their reader waits, so what is left may move to the front
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Count what asyncio read into the buffer."""
        self._end += nbytes
        if self._end - self._start == BUFFER:
            self._pause_reading()
        self._wake(self._reader)

    def eof_received(self) -> bool:
        """The peer will send no more."""
        self._eof = True
        self._wake(self._reader)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, with the reason, or None after a clean close."""
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

    def deadline(self, seconds: float | None) -> None:
        """Let every wait from now on fail with `DeadlineError` after ``seconds`` in all; None: wait for ever."""
        if seconds is None or self._closed.done():
            self._deadline = None
            return
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._arm()

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
                waiter.set_exception(DeadlineError("no answer in time"))

    def _check_deadline(self) -> None:
        if self._deadline is not None and self._loop.time() >= self._deadline:
            raise DeadlineError("no answer in time")

    # reading

    @property
    def available(self) -> int:
        """Bytes that can be taken without waiting."""
        return self._end - self._start

    async def fill(self, count: int) -> None:
        """Wait until ``count`` bytes (at most the buffer's size) can be taken.

        Raises `ConnectionLostError` where the peer closes first, `DeadlineError` when time is up. Views taken
        before are void afterwards.
        """
        while self._end - self._start < count:
            if self._eof:
                raise ConnectionLostError(str(self._lost or "the peer closed the connection"))
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
        self._sendable().writelines(parts)

    async def drain(self) -> None:
        """Wait until the peer took enough of what is queued. Raises as `fill` does."""
        while self._paused_writing:
            if self._closed.done():
                raise ConnectionLostError(str(self._lost or "the connection is closed"))
            self._check_deadline()
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def _sendable(self) -> asyncio.Transport:
        if self._transport is None or self._closed.done():
            raise ConnectionLostError(str(self._lost or "the connection is closed"))
        return self._transport

    # the end

    @property
    def lost(self) -> bool:
        """Whether the peer closed its side or the connection is gone."""
        return self._eof

    @property
    def address(self) -> str:
        """The peer's IP address."""
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if peer else ""

    async def close(self, grace: float = 2.0) -> None:
        """Send what is queued, close, and wait at most ``grace`` seconds for it; then cut."""
        if self._transport is None:
            return
        if self._paused_reading:
            self._resume_reading()
        self._transport.close()
        if not self._closed.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._closed), grace)
        self.cut()

    def cut(self) -> None:
        """Close at once, throwing away what is queued."""
        if self._transport is not None:
            self._transport.abort()

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
