"""The listening side: connections in, associations negotiated, each message handed to the service that app named.

Knows no queue and no configuration: who is let in, which abstract syntaxes are offered and what a service does are
given. A peer that breaks the rules loses its own association and nothing else; `report` hears of it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Final, Protocol

import msgspec

from edge.dicom import command as dimse
from edge.dicom import status, uids
from edge.dicom.association import AbortedError, Association, Discard, Limits, Message, ReleasedError
from edge.dicom.command import CommandField
from edge.dicom.fsm import Evt, Machine
from edge.dicom.negotiation import accepted, answer, roles
from edge.dicom.pdu import (
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    InvalidPDU,
    PDUType,
    UserInformation,
    decode_request,
    encode_accept,
    encode_reject,
)
from edge.dicom.wire import ConnectionLostError, DeadlineError, Wire

LOCAL_LIMIT: Final = AssociateReject(2, 3, 2)
"""Rejected transient, presentation provider, local limit exceeded (PS3.8 Table 9-21)."""
CALLED_UNKNOWN: Final = AssociateReject(1, 1, 7)
CALLING_UNKNOWN: Final = AssociateReject(1, 1, 3)
TEMPORARY_CONGESTION: Final = AssociateReject(2, 3, 1)


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end."""

    calling: str
    called: str
    address: str


class Service(Protocol):
    """Serves one message: takes its dataset off the wire, does the work, sends the response."""

    def __call__(self, association: Association, message: Message, peer: Peer, /) -> Awaitable[None]:
        """Raise only what `Association` raises."""
        ...


class Policy(Protocol):
    """Who is let in and what is offered."""

    def admit(self, request: AssociateRequest, address: str) -> AssociateReject | None:
        """Return the rejection, or None to go on."""
        ...

    def offers(self, abstract_syntax: str) -> bool:
        """Whether a presentation context for ``abstract_syntax`` is accepted."""
        ...

    def knows(self, transfer_syntax: str) -> bool:
        """Whether ``transfer_syntax`` can be kept."""
        ...

    def report(self, peer: Peer, text: str) -> None:
        """Hear that a peer was refused or broke the rules."""
        ...

    def count(self, associations: int) -> None:
        """Hear how many associations are open."""
        ...


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How much is taken on at once."""

    associations: int = 32
    per_address: int = 8
    max_pdu: int = 256 * 1024


class Acceptor:
    """Listens on any number of ports until closed."""

    def __init__(
        self,
        policy: Policy,
        services: Mapping[int, Service],
        *,
        spawn: Callable[[Coroutine[object, object, None], str], asyncio.Task[None]],
        limits: Limits | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self._policy = policy
        self._services = {CommandField.C_ECHO_RQ: echo} | dict(services)
        self._spawn = spawn
        self._limits = limits or Limits()
        self._capacity = capacity or Capacity()
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], Wire] = {}
        self._open: Counter[str] = Counter()
        self._closing = False

    async def listen(self, address: str, port: int) -> int:
        """Start listening and return the port, which the system chose where ``port`` is 0. Raises OSError."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Wire(self._connected), address, port, backlog=128)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self, grace: float) -> None:
        """Stop listening; let what is being received finish within ``grace`` seconds; cut the rest."""
        self._closing = True
        for server in self._servers:
            server.close()
        for task, wire in self._connections.items():
            if not wire.busy:
                task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace)
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=2.0)
        self._servers.clear()

    def _connected(self, wire: Wire) -> None:
        if self._closing or len(self._connections) >= 4 * self._capacity.associations:
            wire.cut()
            return
        task = self._spawn(self._serve(wire), f"association {wire.address}")
        self._connections[task] = wire
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).cut()  # also where the task was cancelled before it ever ran

    async def _serve(self, wire: Wire) -> None:
        association = Association(wire, Machine(requestor=False), self._limits)
        peer = Peer("", "", wire.address)
        try:
            association.machine.fire(Evt.EVT5)
            wire.deadline(self._limits.request)
            request = await self._request(association)
            peer = Peer(request.calling, request.called, wire.address)
            if await self._negotiate(association, request, peer):
                await self._messages(association, peer)
        except ReleasedError:
            pass
        except InvalidPDU as e:
            self._policy.report(peer, f"{describe(peer)} broke the protocol: {e}.")
        except DeadlineError as e:
            self._policy.report(peer, f"{describe(peer)} was too slow: {e}.")
        except (AbortedError, ConnectionLostError):
            pass  # what was not answered the sender sends again

    async def _request(self, association: Association) -> AssociateRequest:
        _, kind, length = await association.receive_pdu()
        body = await association.body(length)
        if kind != PDUType.ASSOCIATE_RQ:
            raise await association.violated("the first PDU is no association request")
        try:
            return decode_request(body)
        except InvalidPDU as e:
            raise await association.violated(str(e), e.reason) from e

    async def _negotiate(self, association: Association, request: AssociateRequest, peer: Peer) -> bool:
        reject = self._policy.admit(request, peer.address)
        full = sum(self._open.values()) >= self._capacity.associations
        if reject is None and (full or self._open[peer.address] >= self._capacity.per_address or self._closing):
            reject = LOCAL_LIMIT
        if reject is not None:
            association.machine.fire(Evt.EVT8)
            await association.last_word(encode_reject(reject))
            return False
        answers = tuple(
            answer(c, offers=lambda uid: self._offers(request, uid), knows=self._policy.knows) for c in request.contexts
        )
        association.contexts = accepted(request, answers)
        association.peer_max_pdu = request.user.max_pdu
        identity = request.user.identity
        association.machine.fire(Evt.EVT7)
        user = UserInformation(
            max_pdu=self._capacity.max_pdu,
            async_window=(1, 1) if request.user.async_window else None,
            roles=roles(request, association.contexts),
            identity_response=identity is not None and identity.response_requested,
        )
        association.wire.write(encode_accept(AssociateAccept(contexts=answers, user=user, titles=request.titles)))
        return True

    def _offers(self, request: AssociateRequest, uid: str) -> bool:
        if uid == uids.VERIFICATION or self._policy.offers(uid):
            return True
        return uid in request.user.storage_related and uids.accepts_as_storage(uid, private=True)

    async def _messages(self, association: Association, peer: Peer) -> None:
        self._count(peer, 1)
        try:
            while not self._closing:
                association.wire.busy = False
                message = await association.receive_command()
                association.wire.busy = True
                service = self._services.get(message.command.field)
                if service is not None:
                    await service(association, message, peer)
                elif not message.command.field & dimse.RESPONSE:
                    await unrecognized(association, message, peer)
            await association.abort()
        finally:
            self._count(peer, -1)

    def _count(self, peer: Peer, change: int) -> None:
        self._open[peer.address] += change
        if not self._open[peer.address]:
            del self._open[peer.address]
        self._policy.count(sum(self._open.values()))


async def echo(association: Association, message: Message, _peer: Peer, /) -> None:
    """C-ECHO (PS3.7 9.1.5)."""
    association.send_command(message.context.id, dimse.response(message.command, status.SUCCESS))


async def unrecognized(association: Association, message: Message, _peer: Peer, /) -> None:
    """Answer what no service serves: 0211, unrecognized operation (PS3.7 annex C)."""
    if message.command.has_dataset:
        await association.receive_dataset(message, Discard())
    if message.command.field != CommandField.C_CANCEL_RQ:
        answered = dimse.response(message.command, status.UNRECOGNIZED_OPERATION)
        association.send_command(message.context.id, answered)


def describe(peer: Peer) -> str:
    """Name a peer for a person."""
    return f"{peer.calling or 'A sender'} at {peer.address}"
