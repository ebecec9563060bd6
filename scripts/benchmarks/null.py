"""A receiver that forgets: what it takes is what the sender can give.

    python -m scripts.benchmarks.null --port N --max-pdu BYTES

One process an association, so that several senders do not wait for one another.
"""

import argparse
import os
import signal
import socket
import sys
from typing import Final

from tests.peers import wire
from tests.peers.ports import LOOPBACK

_BUFFER: Final = 1 << 20
_PDV: Final = wire.PDV_HEADER.size


class _Stream:
    """Exact reads, through one large buffer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0

    def read(self, length: int) -> bytes:
        """Return so many bytes. Raises EOFError."""
        data = b""
        while len(data) < length:
            part = self._some(length - len(data))
            data += self._buffer[part]
        return data

    def skip(self, length: int) -> None:
        """Forget so many bytes. Raises EOFError."""
        while length:
            part = self._some(length)
            length -= part.stop - part.start

    def _some(self, most: int) -> slice:
        if self._start == self._end:
            self._start, self._end = 0, self._connection.recv_into(self._buffer)
            if not self._end:
                raise EOFError
        start = self._start
        self._start = min(start + most, self._end)
        return slice(start, self._start)


def _serve(connection: socket.socket, max_pdu: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # noqa: FBT003 - positional only
    stream = _Stream(connection)
    control = wire.Control.COMMAND | wire.Control.LAST
    request = wire.Command({})
    while True:
        kind, length = wire.HEADER.unpack(stream.read(wire.HEADER.size))
        match kind:
            case wire.Type.ASSOCIATE_RQ:
                connection.sendall(_accept(stream.read(length), max_pdu))
            case wire.Type.RELEASE_RQ:
                connection.sendall(wire.RELEASE_RP)
            case wire.Type.P_DATA:
                size, context, sort = wire.PDV_HEADER.unpack(stream.read(_PDV))
                if sort & wire.Control.COMMAND:
                    request = wire.Command.decode(stream.read(size - 2))
                    continue
                stream.skip(size - 2)
                if sort & wire.Control.LAST:
                    answer = wire.response(request, 0).encode()
                    connection.sendall(wire.p_data(wire.Pdv(context, control, answer)))
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
            try:
                _serve(connection, options.max_pdu)
            except (EOFError, OSError):
                os._exit(0)
            os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
