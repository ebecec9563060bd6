"""The sender, a process of its own: one association, C-STORE after C-STORE, each answered before the next.

    python -m scripts.benchmarks.modality --port N --file F --offset O --sop-class C --uid U --count K [--nagle]

The objects are `file` over and over, with a fresh SOP Instance UID each; its pages are mapped, not copied. PDUs are as
long as the receiver allows, up to DCMTK's own limit. Each goes out in one call to the system with Nagle's algorithm
off; with it on, in two, its 12 bytes of headers first, as DCMTK and what is built on it do: small pieces then wait for
the acknowledgement of what went before, which a receiver may put off for 40 ms.

Prints ``ready``, waits for a line, sends, and prints when it began (the connection) and ended (the last answer), by
the monotonic clock, which all processes of the machine share.
"""

import argparse
import json
import mmap
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.peers import wire
from tests.peers.ports import LOOPBACK

LARGEST_PDU: Final = 131072
_PDV_OVERHEAD: Final = 6
_HEAD: Final = 4096
"""The SOP Instance UID stands within so many bytes of the dataset's start."""
_READ: Final = 1 << 16
_CONTEXT: Final = 1
_LEADING: Final = "2.25.1"

Buffers = list[bytes | memoryview]


class SendError(Exception):
    """The receiver did not take an object."""


@dataclass(frozen=True)
class Template:
    """A dataset with a hole for its SOP Instance UID."""

    sop_class: str
    before: bytes
    after: memoryview
    """What follows the UID."""
    uid_length: int

    @property
    def head(self) -> int:
        """Bytes up to the end of the UID."""
        return len(self.before) + self.uid_length

    @property
    def length(self) -> int:
        """Bytes in all."""
        return self.head + len(self.after)


def fresh_uid(length: int) -> str:
    """Make a UID of exactly `length` characters under 2.25 (PS3.5 B.2)."""
    digits = length - len(_LEADING)
    return f"{_LEADING}{secrets.randbelow(10**digits):0{digits}d}"


def read_template(path: Path, offset: int, sop_class: str, uid: str) -> Template:
    """Map the file, every page of it in memory. Raises OSError, ValueError."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
    at = mapped.find(uid.encode(), offset, offset + _HEAD)
    if at < 0:
        raise ValueError(f"no SOP Instance UID {uid} in the first {_HEAD} bytes of the dataset")
    return Template(sop_class, mapped[offset:at], memoryview(mapped)[at + len(uid) :], len(uid))


class Association:
    """The connection, from A-ASSOCIATE-RQ to A-RELEASE-RP. Raises OSError, SendError, wire.MalformedError."""

    def __init__(self, port: int, template: Template, *, nodelay: bool) -> None:
        self._template = template
        self._nodelay = nodelay
        self._buffer = b""
        self._socket = socket.create_connection((LOOPBACK, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
        context = wire.Proposed(_CONTEXT, template.sop_class, (wire.EXPLICIT_LITTLE,))
        request = wire.AssociateRQ(called="EDGE", calling="BENCH", contexts=(context,))
        self._socket.sendall(request.encode())
        answer = wire.AssociateAC.decode(self._read(wire.Type.ASSOCIATE_AC))
        if not answer.contexts or answer.contexts[0].result != 0:
            raise SendError("the presentation context was refused")
        size = min(answer.user.max_pdu or LARGEST_PDU, LARGEST_PDU) - _PDV_OVERHEAD & ~1
        self._first, self._rest = _cut(template, size)

    def store(self, command: Buffers, uid: str) -> None:
        """Send one object and wait for its answer, which must be 0000."""
        head = self._template.before + uid.encode()
        self._send(command)
        header, piece = self._first
        self._send([header, head, piece])
        for buffers in self._rest:
            self._send(buffers)
        (value,) = wire.decode_p_data(self._read(wire.Type.P_DATA))
        status = wire.Command.decode(value.data).status
        if status != 0:
            raise SendError(f"status {status}")

    def release(self) -> None:
        """End it."""
        self._send([wire.RELEASE_RQ])
        self._read(wire.Type.RELEASE_RP)
        self._socket.close()

    def _send(self, buffers: Buffers) -> None:
        if not self._nodelay and len(buffers) > 1:
            self._socket.sendall(buffers[0])
            buffers = buffers[1:]
        left = sum(map(len, buffers)) - self._socket.sendmsg(buffers)
        if left:
            self._socket.sendall(b"".join(buffers)[-left:])

    def _read(self, expected: wire.Type) -> bytes:
        """Read one PDU; its body."""
        while True:
            if len(self._buffer) >= wire.HEADER.size:
                kind, length = wire.HEADER.unpack_from(self._buffer)
                end = wire.HEADER.size + length
                if kind != expected:
                    raise SendError(f"PDU type {kind:02x}H where {expected.name} belongs")
                if len(self._buffer) >= end:
                    body, self._buffer = self._buffer[wire.HEADER.size : end], self._buffer[end:]
                    return body
            data = self._socket.recv(_READ)
            if not data:
                raise SendError("the receiver closed the connection")
            self._buffer += data


def _cut(template: Template, size: int) -> tuple[tuple[bytes, memoryview], list[Buffers]]:
    """P-DATA-TF of `size` bytes of dataset: the first, whose start is still to come, and the others, all ready."""
    if size < template.head:
        raise SendError(f"PDUs of {size} bytes are too short")
    total = template.length

    def header(begin: int) -> tuple[bytes, int]:
        end = min(begin + size, total)
        last = wire.Control.LAST if end == total else wire.Control.DATASET
        return wire.p_data_header(_CONTEXT, last, end - begin), end

    first, end = header(0)
    piece = template.after[: end - template.head]
    rest: list[Buffers] = []
    while end < total:
        begin = end
        head, end = header(begin)
        rest.append([head, template.after[begin - template.head : end - template.head]])
    return (first, piece), rest


def _commands(sop_class: str, uids: Sequence[str]) -> list[Buffers]:
    control = wire.Control.COMMAND | wire.Control.LAST
    commands: list[Buffers] = []
    for number, uid in enumerate(uids):
        data = wire.c_store_rq(number % 0xFFFF + 1, sop_class, uid).encode()
        commands.append([wire.p_data_header(_CONTEXT, control, len(data)), data])
    return commands


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--offset", type=int, required=True)
    parser.add_argument("--sop-class", required=True)
    parser.add_argument("--uid", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--nagle", action="store_true")
    options = parser.parse_args()
    template = read_template(options.file, options.offset, options.sop_class, options.uid)
    uids = [fresh_uid(template.uid_length) for _ in range(options.count)]
    commands = _commands(template.sop_class, uids)
    print("ready", flush=True)
    if not sys.stdin.readline():
        return 1
    begin = time.monotonic()
    try:
        association = Association(options.port, template, nodelay=not options.nagle)
        for command, uid in zip(commands, uids, strict=True):
            association.store(command, uid)
        end = time.monotonic()
        association.release()
    except (OSError, SendError, wire.MalformedError) as failed:
        print(f"the sender failed: {failed}", file=sys.stderr)
        return 1
    print(json.dumps({"begin": begin, "end": end}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
