"""The calling side: one association to a peer, kept while there is work; C-ECHO and C-STORE over it.

Every wait has a total deadline; after a timeout in the middle of a message the association is aborted and never used
again. Failures are exceptions here and become outcomes where somebody knows what they mean.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from edge.dicom import command as dimse
from edge.dicom.association import AbortedError, Association, Limits
from edge.dicom.fsm import Evt, Machine
from edge.dicom.negotiation import accepted
from edge.dicom.pdu import (
    AssociateReject,
    AssociateRequest,
    InvalidPDU,
    PDUType,
    ProposedContext,
    UserInformation,
    decode_accept,
    decode_reject,
    encode_request,
)
from edge.dicom.wire import ConnectionLostError, DeadlineError, Wire
from edge.model import Kind

MOST_CONTEXTS: Final = 128
"""Odd ids from 1 to 255 (PS3.8 9.3.2.2)."""


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
        super().__init__(f"rejected: result {reject.result}, source {reject.source}, reason {reject.reason}")
        self.reject = reject


class NoContextError(Exception):
    """The peer took no presentation context for this SOP class and transfer syntax."""


class Requestor:
    """One association as requestor."""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._message_id = 0
        self._by_kind: dict[Kind, int] = {
            Kind(c.abstract_syntax, c.transfer_syntax): c.id for c in association.contexts.values()
        }

    @property
    def usable(self) -> bool:
        """Whether another message can be sent."""
        return self._association.established

    def takes(self, kind: Kind) -> bool:
        """Whether a presentation context for ``kind`` was accepted."""
        return kind in self._by_kind

    async def echo(self) -> int:
        """C-ECHO: the status. Raises `NoContextError` and what `Association` raises."""
        for context in self._association.contexts.values():
            if context.abstract_syntax == "1.2.840.10008.1.1":
                break
        else:
            raise NoContextError("verification was refused")
        self._message_id = self._message_id % 0xFFFF + 1
        self._association.send_command(context.id, dimse.echo_request(self._message_id))
        answered = await self._response()
        return 0 if answered.status is None else answered.status

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
            raise NoContextError(f"{kind.sop_class_uid} in {kind.transfer_syntax_uid} was refused")
        self._message_id = self._message_id % 0xFFFF + 1
        request = dimse.store_request(self._message_id, kind.sop_class_uid, sop_instance_uid)
        try:
            await self._association.send_message(context_id, request, length, read)
        except DeadlineError:
            await self._association.abort()
            raise
        return await self._response()

    async def _response(self) -> dimse.Command:
        response = (await self._association.receive_command()).command
        if not response.field & dimse.RESPONSE or response.message_id != self._message_id:
            raise await self._association.violated("the answer is to another question")
        return response

    async def release(self) -> None:
        """Release in order; never raises for the peer's faults."""
        await self._association.release()

    async def abort(self) -> None:
        """Abort at once."""
        await self._association.abort()


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


async def connect(address: Address, proposals: Iterable[tuple[str, tuple[str, ...]]]) -> Requestor:
    """Open an association proposing (abstract syntax, transfer syntaxes) pairs, at most `MOST_CONTEXTS`.

    Raises OSError (connecting; `socket.gaierror` for the name, `ssl.SSLError` for TLS), `RejectedError`,
    `DeadlineError`, `ConnectionLostError` (caused by an `ssl.SSLError` where the peer refused our certificate),
    `AbortedError`, `InvalidPDU`.
    """
    contexts = tuple(ProposedContext(2 * i + 1, abstract, transfer) for i, (abstract, transfer) in enumerate(proposals))
    request = AssociateRequest(
        called=address.called,
        calling=address.calling,
        contexts=contexts,
        user=UserInformation(max_pdu=address.max_pdu),
    )
    machine = Machine(requestor=True)
    machine.fire(Evt.EVT1)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.timeout(address.connect):
            _, wire = await loop.create_connection(Wire, address.host, address.port, **_tls(address))
    except TimeoutError as e:
        raise DeadlineError(f"no connection within {address.connect:g} s") from e
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
    return Requestor(association)
