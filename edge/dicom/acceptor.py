"""The listening side: connections in, associations negotiated, each message handed to the service that app named.

Knows no queue and no configuration: who is let in, which abstract syntaxes are offered and what a service does are
given. A peer that breaks the rules loses its own association and nothing else; `report` hears of it.
"""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from edge.dicom import command as dimse
from edge.dicom import status, uids
from edge.dicom.association import (
    AbortedError,
    Association,
    Discard,
    LimitError,
    Limits,
    Message,
    ReleasedError,
)
from edge.dicom.command import CommandField
from edge.dicom.fsm import Evt, Machine
from edge.dicom.negotiation import accepted, answer, roles
from edge.dicom.pdu import (
    APPLICATION_CONTEXT,
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    InvalidPDU,
    PDUType,
    UserInformation,
    decode_request,
    encode_abort,
    encode_accept,
    encode_reject,
)
from edge.dicom.wire import ConnectionLostError, DeadlineError, Wire
from edge.phrase import N_, say

LOCAL_LIMIT: Final = AssociateReject(2, 3, 2)
"""Rejected transient, presentation provider, local limit exceeded (PS3.8 Table 9-21)."""
CALLED_UNKNOWN: Final = AssociateReject(1, 1, 7)
CALLING_UNKNOWN: Final = AssociateReject(1, 1, 3)
CONTEXT_UNKNOWN: Final = AssociateReject(1, 1, 2)
"""Rejected permanent, service user, application context name not supported."""
VERSION_UNKNOWN: Final = AssociateReject(1, 2, 2)
"""Rejected permanent, service provider (ACSE), protocol version not supported."""
_AT_WORK: Final = 1.0
"""Seconds between two messages up to which an association is at work, not idle."""
_STALLED: Final = 5.0
"""Seconds for which a message that was begun may rest before it gives way where there is no room."""
_MOMENT: Final = 0.2
"""The same for who has more associations than others."""


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

    def knows(self, transfer_syntax: str, abstract_syntax: str) -> bool:
        """Whether ``transfer_syntax`` is taken in a presentation context for ``abstract_syntax``."""
        ...

    def privileged(self, request: AssociateRequest, address: str) -> bool:
        """Whether the peer may use the places that are kept in reserve. Asked of those whom `admit` let in."""
        ...

    def report(self, peer: Peer, text: str) -> None:
        """Hear that a peer was refused or broke the rules."""
        ...

    def limit(self, peer: Peer, text: str) -> None:
        """Hear that a peer met a limit."""
        ...

    def count(self, associations: int) -> None:
        """Hear how many associations are open."""
        ...


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How much is taken on at once."""

    associations: int = 32
    per_address: int = 8
    reserved: int = 4
    """Associations beyond both, for whom `Policy.privileged` names."""
    max_pdu: int = 256 * 1024
    waiting: int = 128
    """Connections without an association, from the TCP handshake on; those that are being closed too."""
    waiting_per_address: int = 16


@dataclass(eq=False, slots=True)
class _Connection:
    wire: Wire
    peer: Peer
    association: Association | None = None
    open: bool = False
    """Whether it counts as an association."""
    reserved: bool = False
    """Whether its association has a place of the reserve."""
    making_room: bool = False
    was_idle: bool = False
    """Whether it makes room from between two messages, so that it can be released in order."""


class Acceptor:
    """Listens on any number of ports until closed.

    One address can neither take all associations nor all connections: it has a share of each, and beyond it only its
    own make room. Of associations the one that is idle longest gives way before anyone is refused, then one whose
    message rests; of connections that wait, the oldest of the address that has most. A few places are kept in reserve
    for reports that must come in whoever else is there.
    """

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
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._closing = False

    async def listen(self, address: str, port: int, tls: Callable[[], ssl.SSLContext | None] | None = None) -> int:
        """Start listening and return the port, which the system chose where ``port`` is 0. Raises OSError.

        With ``tls`` every connection begins with a handshake in the context that it gives; while it gives None,
        connections are closed at once.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Wire(lambda wire: self._connected(wire, tls)), address, port, backlog=128
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self, grace: float) -> None:
        """Stop listening; let what is being received finish within ``grace`` seconds; cut the rest."""
        self._closing = True
        for server in self._servers:
            server.close()
        for task, connection in self._connections.items():
            if not connection.wire.busy:
                task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace)
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=2.0)
        self._servers.clear()

    def _connected(self, wire: Wire, tls: Callable[[], ssl.SSLContext | None] | None) -> None:
        if self._closing:
            wire.cut()
            return
        self._make_way(wire.address)
        connection = _Connection(wire, Peer("", "", wire.address))
        task = self._spawn(self._serve(connection, tls), f"association {wire.address}")
        self._connections[task] = connection
        task.add_done_callback(self._ended)

    def _make_way(self, address: str) -> None:
        """Keep those that wait within their bounds: the oldest of a crowd goes, be it the newcomer's own."""
        waiting = {task: c for task, c in self._connections.items() if not c.open}
        crowds = Counter(c.wire.address for c in waiting.values())
        if crowds[address] >= self._capacity.waiting_per_address:
            crowd = address
        elif len(waiting) >= self._capacity.waiting:
            crowd = crowds.most_common(1)[0][0]
        else:
            return
        task, oldest = next((task, c) for task, c in waiting.items() if c.wire.address == crowd)
        del self._connections[task]
        task.cancel()
        if oldest.association is not None:
            with contextlib.suppress(ConnectionLostError):
                oldest.wire.write(encode_abort(Abort(2, 0)))
        oldest.wire.cut()
        self._policy.limit(
            oldest.peer, say("{who} had too many connections without an association.", who=describe(oldest.peer))
        )

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task, None)
        if connection is not None:
            connection.wire.cut()  # also where the task was cancelled before it ever ran

    async def _serve(self, connection: _Connection, tls: Callable[[], ssl.SSLContext | None] | None) -> None:
        wire = connection.wire
        try:
            if tls is not None:
                context = tls()
                if context is None:
                    return  # whoever lacks the certificate has said so
                await wire.secure(context, self._limits.handshake)
            await self._associate(connection)
        except ReleasedError:
            pass
        except InvalidPDU as e:
            self._policy.report(
                connection.peer, say("{who} broke the protocol: {error}.", who=describe(connection.peer), error=e)
            )
        except DeadlineError as e:
            self._policy.limit(
                connection.peer, say("{who} was too slow: {error}.", who=describe(connection.peer), error=e)
            )
        except LimitError as e:
            self._policy.limit(
                connection.peer, say("{who} was cut off: {error}.", who=describe(connection.peer), error=e)
            )
        except ssl.SSLError as e:
            why = getattr(e, "verify_message", "") or (e.reason or str(e)).replace("_", " ").lower()
            self._policy.report(
                connection.peer, say("{who} and we cannot agree on TLS: {why}.", who=describe(connection.peer), why=why)
            )
        except (AbortedError, ConnectionLostError):
            pass  # what was not answered the sender sends again

    async def _associate(self, connection: _Connection) -> None:
        wire = connection.wire
        association = connection.association = Association(wire, Machine(requestor=False), self._limits)
        association.machine.fire(Evt.EVT5)
        wire.deadline(self._limits.request)
        request = await self._request(association)
        connection.peer = Peer(request.calling, request.called, wire.address)
        if not await self._negotiate(connection, association, request):
            return
        try:
            await self._messages(association, connection.peer)
        except asyncio.CancelledError:
            if not connection.making_room:
                raise
            self._uncancel()
            if connection.was_idle:
                await association.release()
            else:
                await association.abort()
        finally:
            self._count(connection, is_open=False)

    @staticmethod
    def _uncancel() -> None:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()

    async def _request(self, association: Association) -> AssociateRequest:
        _, kind, length = await association.receive_pdu()
        body = await association.body(length)
        if kind != PDUType.ASSOCIATE_RQ:
            raise await association.violated(N_("the first PDU is no association request"))
        try:
            return decode_request(body)
        except InvalidPDU as e:
            raise await association.violated(str(e), e.reason) from e

    async def _negotiate(self, connection: _Connection, association: Association, request: AssociateRequest) -> bool:
        peer = connection.peer
        reject = self._unsupported(request, peer) or self._policy.admit(request, peer.address)
        if reject is None and (self._closing or not self._find_place(connection, request)):
            reject = LOCAL_LIMIT
            self._policy.limit(peer, say("{who} was refused: too many associations.", who=describe(peer)))
        if reject is not None:
            association.machine.fire(Evt.EVT8)
            await association.last_word(encode_reject(reject))
            return False
        self._count(connection, is_open=True)
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

    def _unsupported(self, request: AssociateRequest, peer: Peer) -> AssociateReject | None:
        if not request.known_version:
            self._policy.report(
                peer, say("{who} was refused: it speaks no version of DICOM that we know.", who=describe(peer))
            )
            return VERSION_UNKNOWN
        # one that is missing does no harm
        if request.application_context not in ("", APPLICATION_CONTEXT):
            self._policy.report(
                peer, say("{who} was refused: its application context is not DICOM's.", who=describe(peer))
            )
            return CONTEXT_UNKNOWN
        return None

    def _find_place(self, newcomer: _Connection, request: AssociateRequest) -> bool:
        """Tell whether there is a place, in the reserve for who may use it, else among all."""
        if self._policy.privileged(request, newcomer.wire.address):
            reserve = [c for c in self._connections.values() if c.open and c.reserved]
            if len(reserve) < self._capacity.reserved or self._end_one(reserve, _AT_WORK, _STALLED):
                newcomer.reserved = True
                return True
        return self._make_room(newcomer)

    def _make_room(self, newcomer: _Connection) -> bool:
        """Have an association end that is idle or stalled, where there are too many. Tell whether there is room now."""
        address = newcomer.wire.address
        standing = [c for c in self._connections.values() if c.open and not c.reserved]
        shares = Counter(c.wire.address for c in standing)
        if shares[address] >= self._capacity.per_address:
            own = [c for c in standing if c.wire.address == address]
            return self._end_one(own, _AT_WORK, _STALLED)
        if len(standing) < self._capacity.associations:
            return True
        # who has more than the newcomer would have gives way even in a short pause
        greedy = [c for c in standing if shares[c.wire.address] > shares[address] + 1]
        return self._end_one(standing, _AT_WORK, _STALLED) or self._end_one(greedy, 0.0, _MOMENT)

    def _end_one(self, among: Sequence[_Connection], idle: float, stalled: float) -> bool:
        """End the one that is idle longest, for ``idle`` seconds or more; else the one whose message rests longest."""
        now = asyncio.get_running_loop().time()
        found = _longest(among, lambda a: a.idle, now - idle) or _longest(among, lambda a: a.stalled, now - stalled)
        if found is None:
            return False
        since, connection = found
        connection.making_room = True
        connection.was_idle = connection.association is not None and connection.association.idle is not None
        self._count(connection, is_open=False)
        next(task for task, c in self._connections.items() if c is connection).cancel()
        peer = connection.peer
        self._policy.limit(
            peer,
            say(
                "{who} sent nothing for {seconds} s and made room for others.",
                who=describe(peer),
                seconds=f"{now - since:.0f}",
            ),
        )
        return True

    def _offers(self, request: AssociateRequest, uid: str) -> bool:
        if uid == uids.VERIFICATION or self._policy.offers(uid):
            return True
        return uid in request.user.storage_related and uids.accepts_as_storage(uid, private=True)

    async def _messages(self, association: Association, peer: Peer) -> None:
        while not self._closing:
            association.wire.busy = False
            message = await association.receive_command()
            association.wire.busy = True
            service = self._services.get(message.command.field)
            if service is not None:
                await service(association, message, peer)
            elif not message.command.field & dimse.RESPONSE:
                await unrecognized(association, message, peer)
            await association.flush()
        await association.abort()

    def _count(self, connection: _Connection, *, is_open: bool) -> None:
        if connection.open is not is_open:
            connection.open = is_open
            self._policy.count(sum(c.open for c in self._connections.values()))


def _longest(
    among: Sequence[_Connection], since: Callable[[Association], float | None], latest: float
) -> tuple[float, _Connection] | None:
    """The one for which ``since`` is earliest and not after ``latest``."""
    times = [(at, c) for c in among if c.association is not None and (at := since(c.association)) is not None]
    found = min(times, key=lambda pair: pair[0], default=None)
    return found if found is not None and found[0] <= latest else None


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
    if not peer.calling:
        return say("A sender at {address}", address=peer.address)
    return say("{calling} at {address}", calling=peer.calling, address=peer.address)
