"""A TCP connection read in exact amounts, with a deadline for the whole of what is being done."""

import socket
import time
from typing import Final

from tests.peers import wire

_BUFFER: Final = 1 << 18
_LARGEST_READ: Final = 1 << 20


class PeerClosedError(ConnectionError):
    """The peer closed the connection where more was expected."""


class Line:
    """Owns the socket. After the deadline everything raises TimeoutError; dripping does not help."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(_BUFFER)
        self._start = self._end = 0
        self._deadline: float | None = None

    def limit(self, seconds: float | None) -> None:
        """All that follows, until the next call, must be over within this time."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        if seconds is None:
            self._sock.settimeout(None)

    def send(self, data: bytes | bytearray) -> None:
        self._arm()
        self._sock.sendall(data)

    def take(self, most: int) -> memoryview:
        """At least one and at most `most` bytes, valid until the next call; PeerClosedError at the end."""
        if self._start == self._end:
            self._arm()
            self._start, self._end = 0, self._sock.recv_into(self._buffer)
            if self._end == 0:
                raise PeerClosedError("the peer closed the connection")
        end = min(self._start + most, self._end)
        view = memoryview(self._buffer)[self._start : end]
        self._start = end
        return view

    def read(self, length: int) -> bytes:
        """Exactly this many bytes, which must be few: what is large is taken piece by piece."""
        if length > _LARGEST_READ:
            raise wire.MalformedError(f"{length} bytes where a few belong")
        data = bytearray()
        while len(data) < length:
            data += self.take(length - len(data))
        return bytes(data)

    def header(self) -> tuple[int, int]:
        """The type of the next PDU and the length of its body."""
        kind, length = wire.HEADER.unpack(self.read(wire.HEADER.size))
        return kind, length

    def pdu(self) -> wire.Pdu:
        kind, length = self.header()
        return wire.Pdu(kind, self.read(length))

    def drain(self, seconds: float) -> None:
        """Read and forget until the peer closes or the time is over: closing with unread bytes resets the
        connection, and takes what was sent last with it.
        """
        self.limit(seconds)
        try:
            while True:
                self.take(_BUFFER)
        except OSError:
            pass

    def close(self) -> None:
        self._sock.close()

    def _arm(self) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the deadline has passed")
            self._sock.settimeout(left)
