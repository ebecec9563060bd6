"""A receiver that forgets: what it takes is what the sender can give.

    python -m scripts.benchmarks.null --port N --max-pdu BYTES

One process an association, so that several senders do not wait for one another.
"""

import argparse
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, Final

from tests.peers import wire
from tests.peers.ports import LOOPBACK

_BUFFER: Final = 1 << 20
_P_DATA: Final = struct.Struct(">BxIIBB")
"""The headers of a P-DATA-TF with one fragment: type, length; length, context, control."""


class _Stream:
    """Reads through one large buffer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def peek(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Decode what comes next, and leave it there. Raises EOFError."""
        if self._end - self._start < layout.size:
            self._fill(layout.size)
        return layout.unpack_from(self._buffer, self._start)

    def read(self, length: int) -> bytes:
        """Return so many bytes, fewer than the buffer has. Raises EOFError."""
        if self._end - self._start < length:
            self._fill(length)
        self._start += length
        return bytes(self._view[self._start - length : self._start])

    def skip(self, length: int) -> None:
        """Forget so many bytes. Raises EOFError."""
        self._start += length
        while (beyond := self._start - self._end) > 0:
            self._start = self._end = 0
            self._receive()
            self._start = beyond

    def _fill(self, length: int) -> None:
        rest = self._end - self._start
        self._view[:rest] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, rest
        while self._end < length:
            self._receive()

    def _receive(self) -> None:
        size = self._connection.recv_into(self._view[self._end :])
        if not size:
            raise EOFError
        self._end += size


def _serve(connection: socket.socket, max_pdu: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # noqa: FBT003 - positional only
    stream = _Stream(connection)
    control = wire.Control.COMMAND | wire.Control.LAST
    command, last = int(wire.Control.COMMAND), int(wire.Control.LAST)
    request = wire.Command({})
    while True:
        kind, length = stream.peek(wire.HEADER)
        match kind:
            case wire.Type.P_DATA:
                _, _, size, context, sort = stream.peek(_P_DATA)
                if sort & command:
                    request = wire.Command.decode(stream.read(wire.HEADER.size + length)[_P_DATA.size :])
                    continue
                stream.skip(_P_DATA.size + size - 2)
                if sort & last:
                    answer = wire.response(request, 0).encode()
                    connection.sendall(wire.p_data(wire.Pdv(context, control, answer)))
            case wire.Type.ASSOCIATE_RQ:
                request_body = stream.read(wire.HEADER.size + length)[wire.HEADER.size :]
                connection.sendall(_accept(request_body, max_pdu))
            case wire.Type.RELEASE_RQ:
                connection.sendall(wire.RELEASE_RP)
                return
            case _:
                return


def _accept(body: bytes, max_pdu: int) -> bytes:
    request = wire.AssociateRQ.decode(body)
    return wire.AssociateAC(
        called=request.called,
        calling=request.calling,
        contexts=tuple(wire.Answered(context.id, 0, context.syntaxes[0]) for context in request.contexts),
        user=wire.User(max_pdu=max_pdu),
    ).encode()


def main() -> int:
    """Run the command, until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-pdu", type=int, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    with socket.create_server((LOOPBACK, options.port)) as listener:
        while True:
            connection, _ = listener.accept()
            if os.fork():
                connection.close()
                continue
            listener.close()
            with suppress(EOFError, OSError):
                _serve(connection, options.max_pdu)
            os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
