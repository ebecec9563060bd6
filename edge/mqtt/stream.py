"""The socket that paho is given: it follows the packets that come in, and ends the connection before one does harm.

paho buffers a packet of up to 256 MiB, keeps messages of QoS 2 without bound and takes answers to what was never asked.
Here a packet is judged by its first bytes, whatever paho thinks of it; and how much came is counted.
"""

import contextlib
import socket
import ssl
import time
from typing import Final

from edge.mqtt.problem import OverstepError
from edge.phrase import N_, say

MOST_BYTES: Final = 256 * 1024
"""Of one packet after its first bytes."""
_MOST_ANSWER: Final = 8 * 1024
"""Of one that carries no message."""
_CONNACK: Final = 2
_PUBLISH: Final = 3
_EXPECTED: Final = frozenset({_PUBLISH, 4, 9, 13, 14})
"""PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT: all else is for what we never do."""
_MOST_QOS: Final = 1
_MOST_LENGTH_BYTES: Final = 4


class Stream:
    """A connected socket, in the shape that paho asks for."""

    def __init__(self, sock: socket.socket) -> None:
        self.error: OSError | None = None
        """Why it ended, where it did not simply close."""
        self.packets = 0
        """How many came in, begun ones included."""
        self.published = 0
        """How many of them carry a message."""
        self.received = 0
        """Bytes that came in."""
        self._sock = sock
        self._kind = 0
        self._length = 0
        self._length_bytes = 0
        self._left = 0

    def recv(self, size: int) -> bytes:
        """Read what is there. Raises `OverstepError`, OSError."""
        try:
            data = self._sock.recv(size)
            self._follow(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as e:
            self.error = e
            raise
        return data

    def send(self, data: bytes | bytearray) -> int:
        """Write what there is room for. Raises OSError."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as e:
            self.error = self._last_word() or e
            raise

    def counts(self) -> tuple[int, int, int]:
        """Tell how many packets, messages and bytes came in."""
        return self.packets, self.published, self.received

    def fileno(self) -> int:
        """What to poll."""
        return self._sock.fileno()

    def pending(self) -> int:
        """Bytes that no poll tells of."""
        return self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the socket's own
        """As a socket's."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Do nothing yet: paho is done with it, and `hang_up` ends it."""

    def hang_up(self, linger: float) -> None:
        """End it, giving the broker ``linger`` s to read all that was sent: unread input would make that a reset."""
        with contextlib.suppress(OSError):
            deadline = time.monotonic() + linger
            if linger:
                socket.socket.shutdown(self._sock, socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not socket.socket.recv(self._sock, 65_536):
                    break
        self._sock.close()

    def _last_word(self) -> ssl.SSLError | None:
        """Read what TLS says of the end: who refuses our certificate does so when we already write (RFC 8446 4.4.2)."""
        try:
            self._sock.recv(1)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLError as e:
            return e
        except OSError:
            return None
        return None

    def _follow(self, data: bytes) -> None:
        self.received += len(data)
        position = 0
        while position < len(data):
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
                position += step
            else:
                self._head(data[position])
                position += 1

    def _head(self, byte: int) -> None:
        """Take one of the first bytes of a packet."""
        if not self._kind:
            self._begin(byte)
            return
        self._length |= (byte & 0x7F) << (7 * self._length_bytes)
        self._length_bytes += 1
        if self._length > (MOST_BYTES if self._kind == _PUBLISH else _MOST_ANSWER):
            raise OverstepError("TOO_LARGE", say("it sent a message of more than {most} KiB.", most=MOST_BYTES // 1024))
        if not byte & 0x80:
            self._left, self._kind, self._length, self._length_bytes = self._length, 0, 0, 0
        elif self._length_bytes == _MOST_LENGTH_BYTES:
            raise OverstepError("PROTOCOL", N_("it sent a packet without an end."))

    def _begin(self, byte: int) -> None:
        self._kind = byte >> 4
        self.packets += 1
        first = self.packets == 1
        if first != (self._kind == _CONNACK) or not (first or self._kind in _EXPECTED):
            raise OverstepError("PROTOCOL", N_("it does not speak MQTT as it should: is it a broker?"))
        self.published += self._kind == _PUBLISH
        if self._kind == _PUBLISH and (byte >> 1) & 0x03 > _MOST_QOS:
            raise OverstepError("PROTOCOL", N_("it sent a message of a QoS that was not asked for."))
