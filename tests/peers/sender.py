"""A modality that sends exactly the bytes it is given, well or badly, and says exactly what came back."""

import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol, Self

from tests.peers import wire
from tests.peers.line import Line, PeerClosedError
from tests.peers.ports import LOOPBACK

_UNLIMITED: Final = 1 << 18
"""The length of our PDUs to a peer that names no limit."""


class Storable(Protocol):
    """What can be stored: an object in memory or one in a file."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def transfer_syntax_uid(self) -> str: ...
    @property
    def length(self) -> int: ...
    def fragments(self, size: int) -> Iterator[bytes]: ...


class Accepted(NamedTuple):
    sop_class_uid: str
    transfer_syntax_uid: str


class Message(NamedTuple):
    context: int
    command: wire.Command
    dataset: bytes


class Rejected(ConnectionError):
    """A-ASSOCIATE-RJ."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"the association was rejected: result {result}, source {source}, reason {reason}")
        self.result, self.source, self.reason = result, source, reason


class Aborted(ConnectionError):
    """A-ABORT came where an answer was expected."""

    def __init__(self, source: int, reason: int) -> None:
        super().__init__(f"the association was aborted: source {source}, reason {reason}")
        self.source, self.reason = source, reason


class Released(ConnectionError):
    """A-RELEASE-RQ came where an answer was expected; it has been answered."""


class NoStatusError(ConnectionError):
    """A response without a status."""


class NotAcceptedError(LookupError):
    """No accepted presentation context for the object."""


class RawSender:
    """One association with `host:port`, connected inside its context and released at the end of it.

    `pdu_size`: length of the P-DATA-TF we send; None is what the peer announced. `max_pdu`: what we announce.
    `timeout`: seconds for each operation as a whole, an object sent and answered being one. `source`: our own address.
    After `send_bytes` or an exception the connection is closed without a release.
    """

    def __init__(
        self,
        port: int,
        host: str = LOOPBACK,
        calling: str = "RAW",
        called: str = "EDGE",
        *,
        nodelay: bool = True,
        pdu_size: int | None = None,
        max_pdu: int = 16384,
        timeout: float = 30.0,
        source: str = "",
    ) -> None:
        self.address = (host, port)
        self.source = source
        self.calling, self.called = calling, called
        self.nodelay, self.pdu_size, self.max_pdu, self.timeout = nodelay, pdu_size, max_pdu, timeout
        self.accepted: dict[int, Accepted] = {}
        self.answer: wire.AssociateAC | None = None
        self._line: Line | None = None
        self._established = False
        self._message_id = 0

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None and self._established:
                self.release()
        finally:
            self.close()

    def connect(self) -> None:
        source = (self.source, 0) if self.source else None
        sock = socket.create_connection(self.address, self.timeout, source_address=source)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.nodelay)
        self._line = Line(sock)

    def close(self) -> None:
        """Drop the connection without a word."""
        line, self._line, self._established = self._line, None, False
        if line is not None:
            line.close()

    @property
    def established(self) -> bool:
        return self._established

    # Association

    def associate(
        self,
        contexts: Iterable[tuple[str, Sequence[str]]],
        *,
        roles: Sequence[wire.Role] = (),
        others: Sequence[tuple[int, bytes]] = (),
    ) -> dict[int, Accepted]:
        """Propose (SOP class, transfer syntaxes) as contexts 1, 3, 5...; the accepted ones by their ids.

        Refused ones are in `answer`. Raises Rejected, Aborted, PeerClosedError, TimeoutError.
        """
        proposed = tuple(
            wire.Proposed(2 * index + 1, abstract, tuple(syntaxes))
            for index, (abstract, syntaxes) in enumerate(contexts)
        )
        user = wire.User(max_pdu=self.max_pdu, roles=tuple(roles), others=tuple(others))
        line = self._begin()
        request = wire.AssociateRQ(called=self.called, calling=self.calling, contexts=proposed, user=user)
        line.send(request.encode())
        reply = self._read(line, wire.Type.ASSOCIATE_AC)
        self.answer = wire.AssociateAC.decode(reply.body)
        abstract_of = {context.id: context.abstract for context in proposed}
        self.accepted = {
            context.id: Accepted(abstract_of[context.id], context.syntax)
            for context in self.answer.contexts
            if context.result == 0
        }
        self._established = True
        return self.accepted

    def release(self) -> None:
        """A-RELEASE, confirmed by the peer, and the connection closed."""
        line = self._begin()
        line.send(wire.RELEASE_RQ)
        self._read(line, wire.Type.RELEASE_RP)
        self.close()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """A-ABORT, and the connection closed by whoever does it first within two seconds."""
        line = self._begin()
        self._established = False
        line.send(wire.Abort(source, reason).encode())
        line.drain(min(2.0, self.timeout))
        self.close()

    # Messages

    def store(
        self,
        obj: Storable,
        pdu: int | None = None,
        context: int | None = None,
        *,
        pad: bool = True,
        priority: int = 0,
    ) -> int:
        """C-STORE the object's dataset verbatim; the status of the answer.

        `pdu`: length of the P-DATA-TF for this object. `pad`: one NUL after a dataset of odd length. Raises
        NotAcceptedError, Aborted, Released, NoStatusError, PeerClosedError, TimeoutError.
        """
        chosen = self._context_for(obj) if context is None else context
        command = wire.c_store_rq(self.next_id(), obj.sop_class_uid, obj.sop_instance_uid, priority=priority)
        line = self._begin()
        self._send_command(line, chosen, command)
        self._send_dataset(line, chosen, obj, self._fragment(pdu), pad=pad)
        return self._status(line)

    def echo(self) -> int:
        """C-ECHO in the accepted Verification context; the status."""
        context = next((key for key, value in self.accepted.items() if value[0] == wire.VERIFICATION), None)
        if context is None:
            raise NotAcceptedError("no accepted presentation context for Verification")
        line = self._begin()
        self._send_command(line, context, wire.c_echo_rq(self.next_id()))
        return self._status(line)

    def next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def send_message(self, context: int, command: wire.Command, dataset: bytes = b"") -> None:
        """Any command, with a dataset where the command says that one follows."""
        line = self._begin()
        self._send_command(line, context, command)
        if command.has_dataset:
            size = self._fragment(None)
            for start in range(0, max(len(dataset), 1), size):
                last = wire.Control.LAST if start + size >= len(dataset) else 0
                line.send(wire.p_data(wire.Pdv(context, last, dataset[start : start + size])))

    def read_message(self) -> Message:
        """The next message, its dataset in memory."""
        return self._message(self._begin())

    # For hostile tests

    def send_bytes(self, data: bytes) -> None:
        """Anything. What the peer makes of it is the test's business: no release follows."""
        self._established = False
        self._begin().send(data)

    def read_pdu(self) -> wire.Pdu:
        """The next PDU, whatever it is. Raises PeerClosedError, TimeoutError, wire.MalformedError."""
        return self._begin().pdu()

    def wait_closed(self) -> None:
        """Until the peer has closed; what it still sends is forgotten. TimeoutError if it does not."""
        line = self._begin()
        try:
            while True:
                line.take(1 << 16)
        except (PeerClosedError, ConnectionResetError):
            pass

    # Within

    def _begin(self) -> Line:
        if self._line is None:
            raise PeerClosedError("there is no connection")
        self._line.limit(self.timeout)
        return self._line

    def _fragment(self, pdu: int | None) -> int:
        announced = self.answer.user.max_pdu if self.answer is not None else 0
        whole = pdu or self.pdu_size or announced or _UNLIMITED
        return max(whole - 6, 2) & ~1

    def _context_for(self, obj: Storable) -> int:
        wanted = Accepted(obj.sop_class_uid, obj.transfer_syntax_uid)
        for key, value in self.accepted.items():
            if value == wanted:
                return key
        raise NotAcceptedError(f"no accepted presentation context for {wanted}")

    def _send_command(self, line: Line, context: int, command: wire.Command) -> None:
        control = wire.Control.COMMAND | wire.Control.LAST
        line.send(wire.p_data(wire.Pdv(context, control, command.encode())))

    def _send_dataset(self, line: Line, context: int, obj: Storable, size: int, *, pad: bool) -> None:
        left = obj.length
        for fragment in obj.fragments(size):
            left -= len(fragment)
            data = fragment + b"\0" if pad and len(fragment) % 2 else fragment
            control = 0 if left else wire.Control.LAST
            line.send(wire.p_data_header(context, control, len(data)) + data)
        if obj.length == 0:
            line.send(wire.p_data_header(context, wire.Control.LAST, 0))

    def _status(self, line: Line) -> int:
        status = self._message(line).command.status
        if status is None:
            raise NoStatusError("the response has no status")
        return status

    def _message(self, line: Line) -> Message:
        command, dataset = bytearray(), bytearray()
        parsed: wire.Command | None = None
        while True:
            for value in wire.decode_p_data(self._read(line, wire.Type.P_DATA).body):
                last = value.control & wire.Control.LAST
                if value.control & wire.Control.COMMAND:
                    command += value.data
                    parsed = wire.Command.decode(bytes(command)) if last else None
                else:
                    dataset += value.data
                if parsed is not None and last and (dataset or not parsed.has_dataset):
                    return Message(value.context, parsed, bytes(dataset))

    def _read(self, line: Line, expected: wire.Type) -> wire.Pdu:
        pdu = line.pdu()
        if pdu.type == expected:
            return pdu
        self._established = False
        if pdu.type == wire.Type.ASSOCIATE_RJ:
            raise Rejected(*wire.AssociateRJ.decode(pdu.body))
        if pdu.type == wire.Type.ABORT:
            raise Aborted(*wire.Abort.decode(pdu.body))
        if pdu.type == wire.Type.RELEASE_RQ:
            line.send(wire.RELEASE_RP)
            raise Released("the peer released the association")
        raise wire.MalformedError(f"PDU type {pdu.type:02x}H where {expected.name} belongs")
