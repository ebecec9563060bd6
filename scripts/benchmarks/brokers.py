"""The brokers of `scripts/bench broker`: mosquitto, nobody, and three made by hand, each on a port of the loopback.

Those made by hand live in threads of the benchmark and have one connection after another. They speak MQTT 5 as far as
the appliance needs to believe in them, and end with their context.
"""

import base64
import contextlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.clock import SystemClock, iso
from edge.messages import Command, DesiredConfig, Topics, encode
from tests.peers.mosquitto import Mosquitto, Subscriber, remaining_length
from tests.peers.ports import LOOPBACK, free_port

_SIGNER: Final = "monitor-1"
_KEY: Final = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
_FORGED: Final = base64.b64encode(bytes(64)).decode()
_QUOTA: Final = 0x97
"""Reason code: quota exceeded (MQTT 5, 2.4)."""
_LONG: Final = 430
"""Numbers in a forged command, which is then nearly as long as one may be: 2 KiB."""
_HUGE: Final = 250 * 1024
"""Bytes in a forged configuration: nearly the longest message that is taken."""
_BUFFER: Final = 65_536
_BYTES, _MESSAGES = 32.0 * 1024.0, 10.0
"""Of the flood in a second: all that the appliance reads. More would only queue up, before our own answers too."""
_CONNACK: Final = b"\x20\x03\x00\x00\x00"
_NODE: Final = re.compile(rb"dicom-edge-(\w+)")
_PUBLISH, _SUBSCRIBE, _PINGREQ, _QOS = 3, 8, 12, 0x06


class Variant(StrEnum):
    """What stands at the address of the broker."""

    NONE = "none"
    """No broker is configured."""
    AGAIN = "none, again"
    """The same once more: by how much two equal things differ here."""
    HEALTHY = "healthy"
    ABSENT = "absent"
    BLACK_HOLE = "black hole"
    FULL = "full"
    HOSTILE = "hostile"


@dataclass(frozen=True)
class Standing:
    """A broker while it stands. ``ready``: whether all that it does to the appliance goes on now."""

    config: str
    """Lines of the appliance's configuration."""
    ready: Callable[[], bool] = lambda: True


@contextmanager
def standing(variant: Variant, folder: Path) -> Iterator[Standing]:
    """Have such a broker while the context lasts. Raises PeerFailedError, TimeoutError, OSError."""
    match variant:
        case Variant.NONE | Variant.AGAIN:
            yield Standing("")
        case Variant.HEALTHY:
            with Mosquitto(folder / "broker") as broker, Subscriber(broker.port, "dicom-edge/#") as monitor:
                yield _at(broker.port, lambda: any(heard.topic.endswith("/metrics") for heard in list(monitor.heard)))
        case Variant.ABSENT:
            yield _at(free_port())
        case Variant.BLACK_HOLE:
            with socket.create_server((LOOPBACK, 0)) as server:  # the kernel takes connections, and nobody else does
                yield _at(server.getsockname()[1])
        case Variant.FULL | Variant.HOSTILE:
            with _HandMade(_full if variant is Variant.FULL else _hostile) as made:
                yield _at(made.port, made.busy.is_set)


def _at(port: int, ready: Callable[[], bool] = lambda: True) -> Standing:
    signer = f'[[mqtt.signer]]\nname = "{_SIGNER}"\npublic_key = "{_KEY}"\n'
    url = f'[mqtt]\nurl = "mqtt://{LOOPBACK}:{port}"\nprotocol = "5"\nacknowledged = false\n'
    return Standing(url + signer, ready)


class _Line:
    """One connection of the appliance, as the broker has it; for two threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._file = sock.makefile("rb")
        self._lock = threading.Lock()

    def packet(self) -> tuple[int, bytes]:
        """Take the next packet: first byte and body. Raises EOFError, OSError."""
        kind, size, place, more = self._exactly(1)[0], 0, 0, True
        while more:
            byte = self._exactly(1)[0]
            size |= (byte & 0x7F) << (7 * place)
            place, more = place + 1, bool(byte & 0x80)
        return kind, self._exactly(size)

    def say(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""
        with self._lock:
            self._socket.sendall(data)

    def welcome(self) -> str:
        """Take CONNECT and answer it; who connects."""
        _, body = self.packet()
        self.say(_CONNACK)
        found = _NODE.search(body)
        return found[1].decode() if found else ""

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError
        return data


class _HandMade:
    """`script` has each connection, with its number, and the event that tells `busy`."""

    def __init__(self, script: Callable[[_Line, int, threading.Event], None]) -> None:
        self.busy = threading.Event()
        self._script = script
        self._server = socket.create_server((LOOPBACK, 0))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.port: int = self._server.getsockname()[1]
        self._line: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._server, self._line):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        number = 0
        with contextlib.suppress(OSError):  # of accept: the context is left
            while True:
                self._line, _ = self._server.accept()
                with self._line as line, contextlib.suppress(OSError, EOFError):  # the appliance left
                    self._script(_Line(line), number, self.busy)
                self.busy.clear()
                number += 1


def _full(line: _Line, _number: int, busy: threading.Event) -> None:
    """Take nothing that is published but that the box is there: who is refused that goes away."""
    line.welcome()
    _converse(line, _QUOTA, busy.set)


def _hostile(line: _Line, number: int, busy: threading.Event) -> None:
    """Do what ends the connection, then what does not."""
    if number == 0:
        line.packet()
        line.say(b"SSH-2.0-OpenSSH\r\n")
        return
    node = line.welcome()
    if number == 1:
        line.say(b"\x30" + remaining_length(200_000_000) + bytes(_BUFFER))
        return
    noise = _noise(Topics(node))

    def flood() -> None:
        busy.set()
        with contextlib.suppress(OSError):
            for message in itertools.cycle(noise):
                line.say(message)
                time.sleep(max(len(message) / _BYTES, 1 / _MESSAGES))

    _converse(line, 0, lambda: threading.Thread(target=flood, daemon=True).start())


def _converse(line: _Line, code: int, settled: Callable[[], None]) -> None:
    """Answer as a broker does, every message with ``code``; say ``settled`` once all that is retained has come."""
    waiting = True
    while True:
        kind, body = line.packet()
        what = kind >> 4
        if what == _PUBLISH and kind & _QOS:
            at = 2 + int.from_bytes(body[:2])
            refused = b"/up/state" not in body[2:at]
            line.say(b"\x40\x03" + body[at : at + 2] + bytes([code if refused else 0]))
        elif what == _PUBLISH and waiting:  # metrics, the first that is not retained
            waiting = False
            settled()
        elif what == _SUBSCRIBE:
            line.say(b"\x90\x06" + body[:2] + b"\x00\x01\x01\x01")
        elif what == _PINGREQ:
            line.say(b"\xd0\x00")


def _noise(topics: Topics) -> list[bytes]:
    """Make messages that cost who takes them as much as they can, and some that are none."""
    expires = iso(SystemClock().now() + 3600)
    forged = [
        Command(id="c1", type="retry", args=arguments, issued_by=_SIGNER, expires_at=expires, signature=_FORGED)
        for arguments in ({}, {"destination": [0.1] * _LONG})
    ]
    short, long = (_publish(topics.down_command("c1"), encode(command), qos=1) for command in forged)
    document = DesiredConfig(revision=9, document="#" * _HUGE, issued_by=_SIGNER, signature=_FORGED)
    malformed = _publish(topics.down_command("c1"), b"[" * 9000)
    odd = b"\x30\x05\x00\x01\xff\x00x" + b"\x30\x04\x00\x00\x00x" + b"\x40\x02\x7f\xff"
    configuration = _publish(topics.down_config, encode(document))
    return [*([long] * 4 + [short, malformed, odd]) * 10, configuration]


def _publish(topic: str, payload: bytes, *, qos: int = 0) -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2) + name + (b"\x00\x01" if qos else b"") + b"\x00" + payload
    return bytes([0x30 | qos << 1]) + remaining_length(len(body)) + body
