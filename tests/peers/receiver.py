"""A PACS that keeps nothing but the digest of what came, answers as it is told, and notices bad manners."""

import enum
import hashlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NoReturn, Self

from tests.peers import wire
from tests.peers.line import Line, PeerClosedError
from tests.peers.ports import LOOPBACK

_DRAIN: Final = 2.0
_JOIN: Final = 10.0
_LARGEST_COMMAND: Final = 1 << 16
_PROVIDER: Final = 2
"""A-ABORT source: the service provider."""


class Behaviour(enum.Enum):
    """What a PACS may do instead of answering a C-STORE."""

    ABORT = "abort"
    RELEASE = "release instead of answering"
    SILENT = "never answer"
    CLOSE = "drop the connection"
    EMPTY = "answer without a status"
    ABORT_MID = "abort in the middle of the dataset"


@dataclass(frozen=True)
class Received:
    """One C-STORE: the bytes of its dataset as they were on the wire."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: bytes
    """SHA-256, 32 bytes."""
    length: int
    calling: str
    at: float
    """Monotonic seconds, when the last byte had come."""
    answer: int | Behaviour = 0
    """What was answered, or done instead."""

    @property
    def accepted(self) -> bool:
        """Whether we said that we have it: success or a warning (PS3.4 B.2.3)."""
        return isinstance(self.answer, int) and (self.answer == 0 or self.answer >> 12 == 0xB)


def success(_received: Received) -> int | Behaviour:
    return 0


def first_syntax(_sop_class: str, syntaxes: tuple[str, ...]) -> str | int:
    return syntaxes[0] if syntaxes else 4


class RawReceiver:
    """A threaded storage SCP on the loopback, running inside its context; `stop` and `start` keep the port.

    `status_for(received)` is asked once for each C-STORE, as soon as its command has come: `digest` and
    `length` are empty then. It gives a status or a Behaviour. `negotiate(sop_class, syntaxes)` gives the
    transfer syntax to accept, or the result to refuse the context with (1 to 4). `reject`: result, source and
    reason of the A-ASSOCIATE-RJ to every request. `max_pdu`: what is announced, 0 for no limit.
    `delay_response`: seconds before each answer. All of these may be changed while it runs. `reserve`: while it is
    stopped nobody else gets the port, who would answer in its name.

    `received` lists the C-STOREs whose datasets came whole, `requests` the associations asked for, `endings`
    how connections ended, `problems` what the peer did against the standard.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        status_for: Callable[[Received], int | Behaviour] = success,
        negotiate: Callable[[str, tuple[str, ...]], str | int] = first_syntax,
        max_pdu: int = 65536,
        nodelay: bool = True,
        reject: tuple[int, int, int] | None = None,
        delay_response: float = 0.0,
        comment: str = "",
        reserve: bool = False,
    ) -> None:
        self.port = port
        self._reserve = reserve
        self._reservation: socket.socket | None = None
        self.comment = comment
        self.status_for, self.negotiate, self.reject = status_for, negotiate, reject
        self.max_pdu, self.nodelay, self.delay_response = max_pdu, nodelay, delay_response
        self.received: list[Received] = []
        self.requests: list[wire.AssociateRQ] = []
        self.endings: list[str] = []
        self.problems: list[str] = []
        self.echoes = 0
        self.stopping = threading.Event()
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._threads: dict[threading.Thread, socket.socket] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and let go of the port."""
        self.stop()
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    def start(self) -> None:
        if self._listener is not None:
            raise RuntimeError("the receiver is running already")
        if self._reserve and self._reservation is None:
            # bound and not listening: whoever calls is refused, and only our own listener may share the port
            self._reservation = socket.socket()
            self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reservation.bind((LOOPBACK, self.port))
            self.port = self._reservation.getsockname()[1]
        listener = socket.create_server((LOOPBACK, self.port), backlog=128, reuse_port=self._reserve)
        self.port = listener.getsockname()[1]
        self.stopping.clear()
        self._listener = listener
        thread = threading.Thread(target=self._listen, args=(listener,), name=f"receiver {self.port}")
        with self._changed:
            self._threads[thread] = listener
        thread.start()

    def stop(self) -> None:
        """Close the port and every connection at once; returns when all threads have ended."""
        self.stopping.set()
        with self._changed:
            threads = dict(self._threads)
            for sock in threads.values():
                _shut(sock)
        self._listener = None
        deadline = time.monotonic() + _JOIN
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} did not end within {_JOIN:g} s")

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._listener is not None

    @property
    def accepted(self) -> list[Received]:
        """What we said that we have."""
        return [received for received in list(self.received) if received.accepted]

    def wait(self, count: int, timeout: float = 10.0) -> list[Received]:
        """Until `count` C-STOREs have come whole; TimeoutError says how many did."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.received) >= count, timeout):
                raise TimeoutError(f"{len(self.received)} of {count} objects came within {timeout:g} s")
            return list(self.received)

    def wait_ending(self, count: int = 1, timeout: float = 10.0) -> list[str]:
        """Until `count` connections have ended; how they did."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.endings) >= count, timeout):
                raise TimeoutError(f"{len(self.endings)} of {count} connections ended within {timeout:g} s")
            return list(self.endings)

    def record(self, received: Received) -> None:
        with self._changed:
            self.received.append(received)
            self._changed.notify_all()

    def _listen(self, listener: socket.socket) -> None:
        with listener:
            while not self.stopping.is_set():
                try:
                    sock, _ = listener.accept()
                except OSError:
                    break
                thread = threading.Thread(target=self._serve, args=(sock,), name=f"receiver {self.port} peer")
                with self._changed:
                    if self.stopping.is_set():
                        sock.close()
                        break
                    self._threads[thread] = sock
                    thread.start()
            self._forget()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.nodelay)
            ending = _Conversation(self, Line(sock)).run()
            self._forget()
        with self._changed:
            self.endings.append(ending)
            self._changed.notify_all()

    def _forget(self) -> None:
        with self._changed:
            self._threads.pop(threading.current_thread(), None)


class _Over(Exception):
    pass


class _Incoming:
    """A C-STORE whose dataset is on its way."""

    def __init__(self, context: int, command: wire.Command, announced: Received) -> None:
        self.context, self.command, self.announced = context, command, announced
        self.sha = hashlib.sha256()
        self.length = 0


class _Conversation:
    """One connection, from its first byte to its last. `run` returns how it ended, in a few words."""

    def __init__(self, receiver: RawReceiver, line: Line) -> None:
        self.receiver, self.line = receiver, line
        self.request = wire.AssociateRQ(called="", calling="", contexts=())
        self.contexts: dict[int, tuple[str, str]] = {}
        self.announced_pdu = receiver.max_pdu
        self.command = bytearray()
        self.incoming: _Incoming | None = None
        self.skipping = False

    def run(self) -> str:
        try:
            self._associate()
            while True:
                self._next()
        except _Over as over:
            return str(over)
        except wire.MalformedError as wrong:
            self._problem(str(wrong))
            return self._abort_for(str(wrong))
        except PeerClosedError:
            return "closed by the peer"
        except OSError as broken:
            return "stopped" if self.receiver.stopping.is_set() else f"broken: {broken}"

    def _associate(self) -> None:
        receiver = self.receiver
        pdu = self.line.pdu()
        if pdu.type != wire.Type.ASSOCIATE_RQ:
            raise wire.MalformedError(f"PDU type {pdu.type:02x}H where an A-ASSOCIATE-RQ belongs")
        self.request = wire.AssociateRQ.decode(pdu.body)
        receiver.requests.append(self.request)
        if receiver.reject is not None:
            self.line.send(wire.AssociateRJ(*receiver.reject).encode())
            self._end("rejected")
        answered: list[wire.Answered] = []
        for context in self.request.contexts:
            if context.id % 2 == 0 or any(context.id == other.id for other in answered):
                self._problem(f"presentation context id {context.id} is even or repeated")
            choice = receiver.negotiate(context.abstract, context.syntaxes)
            if isinstance(choice, str):
                self.contexts[context.id] = (context.abstract, choice)
                answered.append(wire.Answered(context.id, 0, choice))
            else:
                answered.append(wire.Answered(context.id, choice, wire.IMPLICIT_LITTLE))
        self.line.send(
            wire.AssociateAC(
                called=self.request.called,
                calling=self.request.calling,
                contexts=tuple(answered),
                user=wire.User(max_pdu=self.announced_pdu),
            ).encode()
        )

    def _next(self) -> None:
        kind, length = self.line.header()
        if kind == wire.Type.P_DATA:
            self._p_data(length)
        elif kind == wire.Type.RELEASE_RQ:
            self.line.read(length)
            if self.incoming is not None or self.command:
                self._problem("a release in the middle of a message")
            self.line.send(wire.RELEASE_RP)
            self._end("released")
        elif kind == wire.Type.ABORT:
            raise _Over(f"aborted by the peer: {tuple(wire.Abort.decode(self.line.read(length)))}")
        else:
            raise wire.MalformedError(f"PDU type {kind:02x}H in an association")

    def _p_data(self, length: int) -> None:
        if self.announced_pdu and length > self.announced_pdu:
            self._problem(f"a P-DATA-TF of {length} bytes where {self.announced_pdu} were announced")
        left = length
        while left:
            if left < wire.PDV_HEADER.size:
                raise wire.MalformedError(f"{left} bytes left over in a P-DATA-TF")
            size, context, control = wire.PDV_HEADER.unpack(self.line.read(wire.PDV_HEADER.size))
            left -= 4 + size
            if size < 2 or left < 0:
                raise wire.MalformedError(f"a PDV of {size} bytes does not fit its P-DATA-TF")
            self._fragment(context, control, size - 2)

    def _fragment(self, context: int, control: int, length: int) -> None:
        if length % 2:
            self._problem(f"a fragment of {length} bytes, an odd number")
        if context not in self.contexts:
            raise wire.MalformedError(f"presentation context {context} was not accepted")
        last = bool(control & wire.Control.LAST)
        if control & wire.Control.COMMAND:
            self._command_fragment(context, length, last=last)
        else:
            self._dataset_fragment(context, length, last=last)

    def _command_fragment(self, context: int, length: int, *, last: bool) -> None:
        self.command += self.line.read(length)
        if len(self.command) > _LARGEST_COMMAND:
            raise wire.MalformedError(f"a command set of more than {_LARGEST_COMMAND} bytes")
        if last:
            command = wire.Command.decode(bytes(self.command))
            self.command.clear()
            self._commanded(context, command)

    def _dataset_fragment(self, context: int, length: int, *, last: bool) -> None:
        incoming = self.incoming
        if incoming is None and not self.skipping:
            raise wire.MalformedError("a dataset without a command")
        if incoming is not None and context != incoming.context:
            raise wire.MalformedError(f"a dataset in context {context}, its command in {incoming.context}")
        self._consume(incoming, length)
        if incoming is not None and incoming.announced.answer is Behaviour.ABORT_MID:
            self.line.send(wire.Abort().encode())
            self._end("aborted in the middle of a dataset")
        if last:
            self.incoming, self.skipping = None, False
            if incoming is not None:
                self._stored(incoming)

    def _consume(self, incoming: _Incoming | None, length: int) -> None:
        while length:
            piece = self.line.take(length)
            length -= len(piece)
            if incoming is not None:
                incoming.sha.update(piece)
                incoming.length += len(piece)

    def _commanded(self, context: int, command: wire.Command) -> None:
        if self.incoming is not None or self.skipping:
            raise wire.MalformedError("a command before the last fragment of the dataset")
        if command.verb == wire.Verb.C_STORE:
            sop_class, syntax = self.contexts[context]
            named = command.text(wire.Field.AFFECTED_CLASS)
            if named != sop_class:
                self._problem(f"{named} sent in a context of {sop_class}")
            if not command.has_dataset:
                raise wire.MalformedError("a C-STORE without a dataset")
            announced = Received(
                sop_class_uid=named,
                sop_instance_uid=command.text(wire.Field.AFFECTED_INSTANCE),
                transfer_syntax_uid=syntax,
                digest=b"",
                length=0,
                calling=self.request.calling,
                at=time.monotonic(),
            )
            announced = replace(announced, answer=self.receiver.status_for(announced))
            self.incoming = _Incoming(context, command, announced)
        elif command.verb == wire.Verb.C_ECHO:
            self.receiver.echoes += 1
            self._answer(context, wire.response(command, 0))
        else:
            self._problem(f"command {command.verb:04x}H, which a storage SCP does not know")
            self.skipping = command.has_dataset
            self._answer(context, wire.response(command, 0x0211))

    def _stored(self, incoming: _Incoming) -> None:
        digest = incoming.sha.digest()
        received = replace(incoming.announced, digest=digest, length=incoming.length, at=time.monotonic())
        self.receiver.record(received)
        if self.receiver.delay_response:
            self.receiver.stopping.wait(self.receiver.delay_response)
        answer = received.answer
        if answer is Behaviour.SILENT:
            return
        if answer is Behaviour.CLOSE:
            raise _Over("dropped")
        if answer is Behaviour.ABORT:
            self.line.send(wire.Abort().encode())
            self._end("aborted")
        if answer is Behaviour.RELEASE:
            self.line.send(wire.RELEASE_RQ)
            self._end("released instead of answering")
        response = wire.c_store_rsp(
            incoming.command.message_id,
            received.sop_class_uid,
            received.sop_instance_uid,
            answer if isinstance(answer, int) else None,
        )
        if self.receiver.comment:
            text = self.receiver.comment.encode()
            response = wire.Command({**response.elements, wire.Field.ERROR_COMMENT: text + b" " * (len(text) % 2)})
        self._answer(incoming.context, response)

    def _answer(self, context: int, command: wire.Command) -> None:
        control = wire.Control.COMMAND | wire.Control.LAST
        self.line.send(wire.p_data(wire.Pdv(context, control, command.encode())))

    def _abort_for(self, why: str) -> str:
        try:
            self.line.send(wire.Abort(_PROVIDER, 0).encode())
        except OSError:
            return f"aborted: {why}; the peer had gone"
        self.line.drain(_DRAIN)
        return f"aborted: {why}"

    def _end(self, how: str) -> NoReturn:
        self.line.drain(_DRAIN)
        raise _Over(how)

    def _problem(self, what: str) -> None:
        self.receiver.problems.append(f"{self.request.calling or 'a peer'}: {what}")


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
