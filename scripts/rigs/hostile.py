"""Peers that mean harm: they hold connections, send what nothing allows, and break off what they began.

Each attack is a function that runs until it is over and may raise whatever its victim's defence makes of it.
`Besiegers` runs them side by side in threads, again and again, from many addresses of the loopback, until told to stop.
"""

import contextlib
import random
import selectors
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from scripts.rigs import streams
from tests.peers import wire
from tests.peers.objects import CT, DicomObject, tiny, uid
from tests.peers.raw import NotAcceptedError, RawSender
from tests.peers.wire import Control, Pdv

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
HOSTILE: Final = "HOSTILE"
"""The AE title of those who are let in, as a known modality is."""
_WHOLE: Final = Control.COMMAND | Control.LAST
_ATTEMPT: Final = 20.0
_STREAMED: Final = (16, 64, 256)
"""MiB of one value."""
_UIDS: Final = (streams.LONGEST_UID, streams.ABSURD_UID)
_UNREAD: Final = 128 << 20
"""Bytes of requests at most: where the answers are much shorter, nothing blocks for a long while."""
_HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)


@dataclass(frozen=True)
class Target:
    """Where the appliance listens."""

    port: int
    tls_port: int


@dataclass
class Crowd:
    """Connections held by one thread: silent, after one byte, or dripping."""

    target: Target
    count: int
    sources: list[str]
    stop: threading.Event
    dice: random.Random
    made: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Keep `count` connections at it; whoever is closed comes back a little later."""
        held: dict[socket.socket, bytes] = {}
        again: list[float] = [0.0] * self.count
        with selectors.DefaultSelector() as selector:
            while not self.stop.is_set():
                now = time.monotonic()
                due = [at for at in again if at <= now][:20]
                for at in due:
                    again.remove(at)
                    self._begin(held, again, selector)
                for key, _ in selector.select(0.1):
                    self._read(key.fileobj, held, again, selector)
                for sock, words in list(held.items()):
                    if words:
                        with contextlib.suppress(OSError):
                            sock.send(words[:1])
                            held[sock] = words[1:]
            for sock in held:
                sock.close()

    def _begin(self, held: dict[socket.socket, bytes], again: list[float], selector: selectors.BaseSelector) -> None:
        kind = self.dice.choice(["silent", "one byte", "dripping"])
        encrypted = self.dice.choice([True, False])
        port = self.target.tls_port if encrypted else self.target.port
        words = _HELLO if encrypted else request(HOSTILE)
        words = {"silent": b"", "one byte": words[:1], "dripping": words}[kind]
        try:
            sock = socket.create_connection(("127.0.0.1", port), 2, source_address=(self.dice.choice(self.sources), 0))
        except OSError:
            again.append(time.monotonic() + 1)
            return
        sock.settimeout(0)
        held[sock] = words
        selector.register(sock, selectors.EVENT_READ)
        self.made[f"{kind}, {'TLS' if encrypted else 'plain'}"] += 1

    def _read(
        self,
        sock: object,
        held: dict[socket.socket, bytes],
        again: list[float],
        selector: selectors.BaseSelector,
    ) -> None:
        if not isinstance(sock, socket.socket):
            return
        with contextlib.suppress(BlockingIOError):
            data = b""
            with contextlib.suppress(ConnectionError):
                data = sock.recv(4096)
            if not data:
                selector.unregister(sock)
                del held[sock]
                sock.close()
                again.append(time.monotonic() + 0.5 + self.dice.random())


def request(calling: str, *contexts: tuple[str, str]) -> bytes:
    """Encode an association request for CT, or for pairs of SOP class and transfer syntax."""
    proposed = tuple(
        wire.Proposed(2 * n + 1, abstract, (syntax,))
        for n, (abstract, syntax) in enumerate(contexts or [(CT, wire.EXPLICIT_LITTLE)])
    )
    return wire.AssociateRQ(called="EDGE", calling=calling, contexts=proposed).encode()


class Attacker:
    """One who attacks by messages, from one address at a time."""

    def __init__(self, target: Target, source: str, stop: threading.Event, dice: random.Random) -> None:
        self.target = target
        self.source = source
        self.stop = stop
        self.dice = dice

    def _connect(self, calling: str = HOSTILE) -> RawSender:
        return RawSender(self.target.port, calling=calling, timeout=_ATTEMPT, source=self.source)

    @contextlib.contextmanager
    def _associated(self, calling: str = HOSTILE) -> Iterator[RawSender]:
        sender = self._connect(calling)
        try:
            sender.connect()
            sender.associate([(CT, [wire.EXPLICIT_LITTLE]), (CT, [DEFLATED]), (CT, [wire.IMPLICIT_LITTLE])])
            yield sender
        finally:
            sender.close()

    def _raw(self, data: bytes, *, wait: bool = True) -> None:
        sender = self._connect()
        try:
            sender.connect()
            sender.send_bytes(data)
            if wait:
                sender.wait_closed()
        finally:
            sender.close()

    def _store(self, syntax: str, dataset: bytes, instance: str) -> None:
        obj = DicomObject(CT, instance, syntax, "", dataset)
        with self._associated() as sender:
            sender.store(obj)
            sender.release()

    # each of these is an attack

    def garbage(self) -> None:
        """PDU types that there are none of, and those out of place, with random bodies."""
        body = self.dice.randbytes(self.dice.randrange(4000))
        self._raw(wire.Pdu(self.dice.randrange(256), body).encode())

    def nonsense(self) -> None:
        """A good request, changed here and there."""
        data = bytearray(request(HOSTILE))
        for _ in range(self.dice.randrange(1, 30)):
            data[self.dice.randrange(len(data))] = self.dice.randrange(256)
        with contextlib.suppress(TimeoutError):
            self._raw(bytes(data), wait=False)

    def huge_request(self) -> None:
        """An association request of 4 GiB, of which a megabyte comes."""
        self._raw(wire.HEADER.pack(1, 0xFFFFFFFF) + bytes(1 << 20))

    def huge_data(self) -> None:
        """A P-DATA-TF of 4 GiB with a command of as much."""
        with self._associated() as sender:
            sender.send_bytes(wire.HEADER.pack(4, 0xFFFFFFFF) + wire.PDV_HEADER.pack(0xFFFFFFF0, 1, 3) + bytes(1 << 20))
            sender.wait_closed()

    def huge_value(self, megabytes: int | None = None) -> int:
        """A C-STORE with one value of 4 GiB, of which some hundred MiB come; the bytes that went."""
        with self._associated() as sender:
            return streams.one_value(sender, megabytes or self.dice.choice(_STREAMED))

    def never_reads(self) -> None:
        """Requests as fast as they go, with UIDs that are long or absurd, and no answer is read."""
        with self._associated() as sender:
            streams.unread(sender, streams.echoes(self.dice.choice(_UIDS)), _UNREAD)

    def empty_data(self) -> None:
        """A hundred thousand P-DATA-TF of nothing, as fast as they go."""
        with self._associated() as sender:
            sender.send_bytes(wire.HEADER.pack(4, 0) * 100_000)

    def many_items(self) -> None:
        """As many items as a request holds."""
        items = b"\x20\0\0\x04\x01\0\0\0" * 16_000
        self._raw(wire.Pdu(1, request(HOSTILE)[6:74] + items).encode())

    def aborted_store(self) -> None:
        """Objects that are begun, and broken off in one of three ways."""
        for _ in range(10):
            with self._associated() as sender:
                command = wire.c_store_rq(1, CT, uid()).encode()
                sender.send_bytes(wire.p_data(Pdv(1, _WHOLE, command), Pdv(1, Control.DATASET, bytes(10_000))))
                ending = self.dice.choice(["abort", "close", "release"])
                if ending == "abort":
                    sender.abort()
                elif ending == "release":
                    sender.send_bytes(wire.RELEASE_RQ)
                    sender.wait_closed()

    def slow_loris(self) -> None:
        """An object at a byte a second."""
        with self._associated() as sender:
            sender.send_bytes(wire.p_data(Pdv(1, _WHOLE, wire.c_store_rq(1, CT, uid()).encode())))
            while not self.stop.wait(1.0):
                sender.send_bytes(wire.p_data(Pdv(1, Control.DATASET, b"ab")))

    def idle(self) -> None:
        """An association that does nothing."""
        with self._associated() as sender:
            sender.timeout = 1.0
            while not self.stop.is_set():
                with contextlib.suppress(TimeoutError):
                    sender.read_pdu()
                    return

    def bomb(self) -> None:
        """A deflated object that opens to 64 MiB."""
        self._store(DEFLATED, deflated(64 << 20), uid())

    def deep(self) -> None:
        """Sequences 10 000 deep, explicit or implicit."""
        explicit = self.dice.choice([True, False])
        syntax = wire.EXPLICIT_LITTLE if explicit else wire.IMPLICIT_LITTLE
        self._store(syntax, deep_sequences(10_000, explicit=explicit), uid())

    def odd_uids(self) -> None:
        """SOP Instance UIDs that are paths, hold control bytes, or are too long."""
        odd = self.dice.choice(ODD)
        (made,) = tiny(1)
        self._store(wire.EXPLICIT_LITTLE, made.dataset, odd)

    def odd_titles(self) -> None:
        """AE titles that are paths or hold control bytes; who is unknown is refused."""
        with self._associated(self.dice.choice(ODD)[:16]) as sender:
            sender.release()

    def polyglot(self) -> None:
        """A dataset that is a program, a script, or a DICOM file of its own."""
        begin = self.dice.choice([b"MZ", b"\x7fELF", b"#!/bin/sh\nid\n", b"%PDF-1.4\n", b"PK\3\4"])
        self._store(wire.EXPLICIT_LITTLE, begin.ljust(128, b"\0") + b"DICM" + tiny(1)[0].dataset, uid())

    def other_uid(self) -> None:
        """A dataset that is another object than its command says."""
        self._store(wire.EXPLICIT_LITTLE, tiny(1)[0].dataset, uid())


ODD: Final = (
    "../../../../tmp/x",
    "/etc/passwd",
    "..",
    "1.2.3\x001.2.3",
    "1.2\n3",
    "1." + "2" * 63,
    "1" * 5000,
    "$(id)",
    "\x1b[31m1.2",
    "",
)


def deflated(length: int) -> bytes:
    """A deflated dataset whose one value has `length` bytes of nothing."""
    squeeze = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, length)
    parts = [squeeze.compress(head), *(squeeze.compress(bytes(1 << 20)) for _ in range(length >> 20)), squeeze.flush()]
    data = b"".join(parts)
    return data + b"\0" * (len(data) % 2)


def deep_sequences(levels: int, *, explicit: bool) -> bytes:
    """Sequences of undefined length in one another, never closed."""
    long = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    sequence = long if explicit else struct.pack("<HHL", 0x0008, 0x1140, 0xFFFFFFFF)
    return (sequence + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)) * levels


MESSAGES: Final[tuple[Callable[[Attacker], object], ...]] = (
    Attacker.garbage,
    Attacker.nonsense,
    Attacker.huge_request,
    Attacker.huge_data,
    Attacker.huge_value,
    Attacker.never_reads,
    Attacker.empty_data,
    Attacker.many_items,
    Attacker.aborted_store,
    Attacker.bomb,
    Attacker.deep,
    Attacker.odd_uids,
    Attacker.odd_titles,
    Attacker.polyglot,
    Attacker.other_uid,
)
"""Attacks that end; the others hold on."""
HEAVY: Final = (Attacker.huge_request, Attacker.huge_data, Attacker.never_reads, Attacker.bomb, Attacker.deep)

EXPECTED: Final = (OSError, ssl.SSLError, wire.MalformedError, NotAcceptedError, LookupError)
"""How a defence looks from outside."""


class Besiegers:
    """All of them, in threads, until `lift`."""

    def __init__(
        self,
        target: Target,
        dice: random.Random,
        *,
        crowd: int,
        holding: int,
        attackers: int,
        pause: float,
        attacks: tuple[Callable[[Attacker], object], ...] = MESSAGES,
    ) -> None:
        """``crowd`` connections without an association, ``holding`` associations that do nothing good."""
        self.made: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._target = target
        self._stop = threading.Event()
        self._pause = pause
        self._attacks = attacks
        self._threads: list[threading.Thread] = []
        sources = [f"127.0.{1 + n // 4}.{10 + n}" for n in range(12)]
        for _ in range(2 if crowd else 0):
            one = Crowd(target, crowd // 2, sources, self._stop, random.Random(dice.random()), self.made)
            self._threads.append(threading.Thread(target=one.run, name="crowd"))
        for n in range(holding):
            hold = Attacker.slow_loris if n % 3 == 0 else Attacker.idle
            self._add(Attacker(target, sources[n % len(sources)], self._stop, random.Random(dice.random())), (hold,))
        for n in range(attackers):
            self._add(Attacker(target, sources[n % len(sources)], self._stop, random.Random(dice.random())), attacks)

    def _add(self, attacker: Attacker, attacks: tuple[Callable[[Attacker], object], ...]) -> None:
        self._threads.append(threading.Thread(target=self._run, args=(attacker, attacks), name="attacker"))

    def _run(self, attacker: Attacker, attacks: tuple[Callable[[Attacker], object], ...]) -> None:
        while not self._stop.is_set():
            attack = attacker.dice.choice(attacks)
            try:
                attack(attacker)
            except EXPECTED:
                pass
            except Exception as e:  # noqa: BLE001 - a fault of the rig must not pass for a defence
                self.surprises.append(f"{attack.__name__}: {type(e).__name__}: {e}")
            self.made[attack.__name__.replace("_", " ")] += 1
            self._stop.wait(self._pause * (0.5 + attacker.dice.random()))

    def begin(self) -> None:
        """Start them all."""
        for thread in self._threads:
            thread.start()

    def lift(self) -> None:
        """Tell them to stop, and wait until every one has."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_ATTEMPT + 10)
            if thread.is_alive():
                self.surprises.append(f"{thread.name} did not end")
