"""The calling side: one association to a peer, kept while there is work, and what is asked and told over it.

C-ECHO, C-STORE and C-FIND as SCU; N-ACTION; N-EVENT-REPORT as SCP of storage commitment. A peer may report to us on our
own association too (PS3.4 J.3.3), also before it answers: who expects that names a `Taker`.

Every wait has a total deadline; after a timeout in the middle of a message the association is aborted and never used
again. Failures are exceptions here and become outcomes where somebody knows what they mean.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from io import BytesIO
from typing import Any, Final

import msgspec

from edge.dicom import command as dimse
from edge.dicom import commitment, find, status
from edge.dicom.association import AbortedError, Association, LimitError, Limits, Message
from edge.dicom.command import CommandField
from edge.dicom.fsm import Evt, Machine
from edge.dicom.negotiation import Context, accepted
from edge.dicom.pdu import (
    AssociateReject,
    AssociateRequest,
    InvalidPDU,
    PDUType,
    ProposedContext,
    Role,
    UserInformation,
    decode_accept,
    decode_reject,
    encode_request,
)
from edge.dicom.uids import STORAGE_COMMITMENT, VERIFICATION
from edge.dicom.wire import ConnectionLostError, DeadlineError, Wire
from edge.model import Kind
from edge.phrase import N_, say

MOST_CONTEXTS: Final = 128
"""Odd ids from 1 to 255 (PS3.8 9.3.2.2)."""
_PENDING: Final = (status.PENDING, status.PENDING_WARNING)
_NAMES: Final = {VERIFICATION: "verification", STORAGE_COMMITMENT: "storage commitment"}
MOST_REPORTS: Final = 1000
"""N-EVENT-REPORTs that are taken on one association of ours."""

Taker = Callable[[Message, bytes], Awaitable[int]]
"""Takes an N-EVENT-REPORT with its dataset, empty where none came, and gives the status to answer with.

What it raises passes through whoever waits then, after an abort.
"""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call and as whom."""

    host: str
    port: int
    called: str
    calling: str
    max_pdu: int = 256 * 1024
    connect: float = 10.0
    """Seconds for name, TCP and association together."""
    response: float = 60.0
    """Seconds for one answer."""
    tls: ssl.SSLContext | None = None
    """What to encrypt with, and whom to believe; None: nothing is encrypted."""


class RejectedError(Exception):
    """The peer rejected the association (PS3.8 Table 9-21)."""

    def __init__(self, reject: AssociateReject) -> None:
        super().__init__(
            say(
                "rejected: result {result}, source {source}, reason {reason}",
                result=reject.result,
                source=reject.source,
                reason=reject.reason,
            )
        )
        self.reject = reject


class NoConnectionError(DeadlineError):
    """There was no connection in time."""


class NoContextError(Exception):
    """The peer took no presentation context for this SOP class and transfer syntax."""


class Requestor:
    """One association as requestor; one task uses it."""

    def __init__(self, association: Association, roles: tuple[Role, ...] = ()) -> None:
        self.roles = roles
        """What the peer answered to the roles that were asked for; peers that follow older rules answer nothing."""
        self._association = association
        self._reports = 0
        self._asking = False
        self._message_id = 0
        self._by_kind: dict[Kind, int] = {
            Kind(c.abstract_syntax, c.transfer_syntax): c.id for c in association.contexts.values()
        }

    @property
    def usable(self) -> bool:
        """Whether another message can be sent."""
        return self._association.established and not self._asking

    @property
    def peer_max_pdu(self) -> int:
        """Bytes of a PDU that the peer takes at the most; 0 means any number."""
        return self._association.peer_max_pdu

    def takes(self, kind: Kind) -> bool:
        """Whether a presentation context for ``kind`` was accepted."""
        return kind in self._by_kind

    def syntax_of(self, abstract_syntax: str) -> str:
        """Give the transfer syntax accepted for ``abstract_syntax``. Raises `NoContextError`."""
        return self._context(abstract_syntax).transfer_syntax

    async def echo(self) -> int | None:
        """C-ECHO: the status; None where the answer has none. Raises `NoContextError` and what `Association` raises."""
        context = self._context(VERIFICATION)
        self._association.send_command(context.id, dimse.echo_request(self._next_id()))
        return (await self._response()).command.status

    async def store(
        self,
        kind: Kind,
        sop_instance_uid: str,
        length: int,
        read: Callable[[int], Awaitable[bytes | bytearray]],
    ) -> dimse.Command:
        """C-STORE one dataset of ``length`` bytes, streamed from ``read``, in the transfer syntax of ``kind``.

        Returns the response, whose status may be None. Raises `NoContextError` before anything is sent, and what
        `Association` raises: then whether the peer has the object is unknown.
        """
        context_id = self._by_kind.get(kind)
        if context_id is None:
            raise NoContextError(
                say("{kind} in {syntax} was refused", kind=kind.sop_class_uid, syntax=kind.transfer_syntax_uid)
            )
        request = dimse.store_request(self._next_id(), kind.sop_class_uid, sop_instance_uid)
        await self._send(context_id, request, length, read)
        return (await self._response()).command

    async def action(
        self,
        abstract_syntax: str,
        sop_instance_uid: str,
        action_type: int,
        dataset: bytes,
        taker: Taker | None = None,
    ) -> dimse.Command:
        """N-ACTION with its dataset in `syntax_of` the abstract syntax (PS3.7 10.1.4): the response.

        ``taker`` gets the reports that come before it. Raises `NoContextError` before anything is sent, and what
        `Association` raises: then what the peer makes of the request is unknown.
        """
        context = self._context(abstract_syntax)
        request = dimse.action_request(self._next_id(), abstract_syntax, sop_instance_uid, action_type)
        return await self._ask(context, request, dataset, taker)

    async def report(
        self, abstract_syntax: str, sop_instance_uid: str, event_type: int, dataset: bytes
    ) -> dimse.Command:
        """N-EVENT-REPORT with its dataset in `syntax_of` the abstract syntax (PS3.7 10.1.1): the response.

        Raises `NoContextError` before anything is sent, and what `Association` raises: then whether the peer took the
        report is unknown.
        """
        context = self._context(abstract_syntax)
        request = dimse.event_report_request(self._next_id(), abstract_syntax, sop_instance_uid, event_type)
        return await self._ask(context, request, dataset, None)

    async def find(self, abstract_syntax: str, identifier: bytes) -> AsyncGenerator[bytes, None]:
        """C-FIND (PS3.7 9.1.2): the identifier of each pending answer as it comes, empty where one has none.

        How many are taken is up to whoever iterates: to stop early aborts the association. Raises `FindError` for a
        final status other than 0000, after which the association stands; `NoContextError` before anything is sent; and
        what `Association` raises.
        """
        context = self._context(abstract_syntax)
        self._asking = True
        try:
            request = dimse.find_request(self._next_id(), abstract_syntax)
            await self._send(context.id, request, len(identifier), _from(identifier))
            while (answer := await self._response()).command.status in _PENDING:
                yield await self._held(answer, find.MOST_BYTES)
            said = answer.command
            if said.status is None:
                raise await self._association.violated(N_("the last answer has no status"))
            self._asking = False
        finally:
            if self._asking:
                await self._association.abort()
        if said.status != status.SUCCESS:
            raise find.FindError(said.status, said.error_comment)

    async def listen(self, seconds: float, taker: Taker) -> bool:
        """Wait between two messages until a report comes and ``taker`` took it; whether one came within ``seconds``.

        The association stands when none did. Raises `ReleasedError` where the peer is done with it, and what else
        `Association` raises.
        """
        if not await self._association.wait(seconds):
            return False
        message = await self._association.receive_command(self._association.limits.response)
        if not _is_report(message):
            raise await self._association.violated(N_("it sent something unasked that is no report"))
        await self._take(message, await self._held(message, commitment.MOST_BYTES), taker)
        return True

    def _context(self, abstract_syntax: str) -> Context:
        for context in self._association.contexts.values():
            if context.abstract_syntax == abstract_syntax:
                return context
        raise NoContextError(say("{service} was refused", service=_NAMES.get(abstract_syntax, abstract_syntax)))

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    async def _ask(self, context: Context, request: bytes, dataset: bytes, taker: Taker | None) -> dimse.Command:
        await self._send(context.id, request, len(dataset), _from(dataset))
        answer = await self._response(taker)
        await self._held(answer, commitment.MOST_BYTES)  # a reply that nobody asked for may follow
        return answer.command

    async def _send(
        self, context_id: int, request: bytes, length: int, read: Callable[[int], Awaitable[bytes | bytearray]]
    ) -> None:
        try:
            await self._association.send_message(context_id, request, length, read)
        except DeadlineError:
            await self._association.abort()
            raise

    async def _response(self, taker: Taker | None = None) -> Message:
        """Wait for the answer to what was asked last, as long as for one message; the taker's time does not count."""
        left, loop = self._association.limits.response, asyncio.get_running_loop()
        while True:
            begun = loop.time()
            message = await self._association.receive_command(left)
            if taker is None or not _is_report(message):
                break
            report = await self._held(message, commitment.MOST_BYTES)
            left = max(0.0, left - (loop.time() - begun))
            await self._take(message, report, taker)
        if not message.command.field & dimse.RESPONSE or message.command.message_id != self._message_id:
            raise await self._association.violated(N_("the answer is to another question"))
        return message

    async def _take(self, message: Message, report: bytes, taker: Taker) -> None:
        """Have a report taken and answer at once: the peer may wait for that before it answers us."""
        self._reports += 1
        if self._reports > MOST_REPORTS:
            raise await self._association.violated(N_("it reports without end"))
        try:
            code = await taker(message, report)
        except BaseException:
            await self._association.abort()
            raise
        self._association.send_command(message.context.id, dimse.response(message.command, code))
        await self._association.flush()

    async def _held(self, message: Message, most: int) -> bytes:
        try:
            return await self._association.receive_whole(message, most)
        except LimitError as e:
            raise InvalidPDU(str(e)) from e

    def slice(self, most: int) -> None:
        """Send no more than ``most`` bytes of a dataset, an even number, before more is read."""
        self._association.most_piece = most

    async def release(self) -> None:
        """Release in order; never raises for the peer's faults."""
        await self._association.release()

    async def abort(self) -> None:
        """Abort at once."""
        await self._association.abort()


def _is_report(message: Message) -> bool:
    return message.command.field == CommandField.N_EVENT_REPORT_RQ


def _from(data: bytes) -> Callable[[int], Awaitable[bytes]]:
    source = BytesIO(data)

    async def read(count: int) -> bytes:
        return source.read(count)

    return read


def _tls(address: Address) -> dict[str, Any]:
    """What asyncio wants to hear of TLS, and must not hear without."""
    if address.tls is None:
        return {}
    return {
        "ssl": address.tls,
        "server_hostname": address.host,
        "ssl_handshake_timeout": address.connect + 1,  # the deadline around it is the one that counts
        "ssl_shutdown_timeout": 2.0,
    }


async def connect(
    address: Address,
    proposals: Iterable[tuple[str, tuple[str, ...]]],
    roles: Iterable[Role] = (),
) -> Requestor:
    """Open an association proposing (abstract syntax, transfer syntaxes) pairs, at most `MOST_CONTEXTS`.

    ``roles`` are asked for (PS3.7 D.3.3.4); without any we are SCU.

    Raises OSError (connecting; `socket.gaierror` for the name, `ssl.SSLError` for TLS), `RejectedError`,
    `DeadlineError`, `ConnectionLostError` (caused by an `ssl.SSLError` where the peer refused our certificate),
    `AbortedError`, `InvalidPDU`.
    """
    contexts = tuple(ProposedContext(2 * i + 1, abstract, transfer) for i, (abstract, transfer) in enumerate(proposals))
    request = AssociateRequest(
        called=address.called,
        calling=address.calling,
        contexts=contexts,
        user=UserInformation(max_pdu=address.max_pdu, roles=tuple(roles)),
    )
    machine = Machine(requestor=True)
    machine.fire(Evt.EVT1)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.timeout(address.connect):
            _, wire = await loop.create_connection(Wire, address.host, address.port, **_tls(address))
    except TimeoutError as e:
        raise NoConnectionError(say("no connection within {seconds} s", seconds=f"{address.connect:g}")) from e
    machine.fire(Evt.EVT2)
    # an answer is awaited as long as one to a message: many PACSs serve one association at a time
    limits = Limits(idle=address.response, response=address.response)
    association = Association(wire, machine, limits)
    try:
        wire.deadline(max(address.connect - (loop.time() - begun), address.response))
        wire.write(encode_request(request))
        _, kind, length = await association.receive_pdu()
        body = await association.body(length)
        if kind == PDUType.ASSOCIATE_RJ:
            raise RejectedError(decode_reject(body))
        accept = decode_accept(body)
    except InvalidPDU:
        await association.abort()
        raise
    except (RejectedError, DeadlineError, ConnectionLostError, AbortedError, asyncio.CancelledError):
        wire.cut()
        raise
    association.peer_max_pdu = accept.user.max_pdu
    association.contexts = accepted(request, accept.contexts)
    proposed = {context.id: context.transfer_syntaxes for context in contexts}
    association.contexts = {i: c for i, c in association.contexts.items() if c.transfer_syntax in proposed[i]}
    return Requestor(association, accept.user.roles)
