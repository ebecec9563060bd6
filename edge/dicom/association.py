"""One association, from either side: PS3.8's state machine driven over a wire, messages in and out.

Datasets are streamed both ways and never held. Whoever receives one gives a `Sink`; whoever sends one gives bytes
piece by piece. Every wait has a deadline set by the caller's `Limits`.

Fails with `ReleasedError` (the peer asked for release and was answered), `AbortedError`, `ConnectionLostError`,
`DeadlineError` or `InvalidPDU` (the peer was told with an A-ABORT). After any of them the association is over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from struct import Struct
from typing import Final, Protocol

import msgspec

from edge.dicom import command as dimse
from edge.dicom.fsm import Action, Evt, Machine, Sta, UnexpectedEvent
from edge.dicom.negotiation import Context
from edge.dicom.pdu import (
    COMMAND,
    HEADER,
    HEADER_LENGTH,
    LAST,
    PDV_HEADER,
    PDV_HEADER_LENGTH,
    RELEASE_RP,
    RELEASE_RQ,
    Abort,
    AbortReason,
    InvalidPDU,
    PDUType,
    decode_abort,
    encode_abort,
)
from edge.dicom.wire import ConnectionLostError, DeadlineError, Wire
from edge.phrase import N_, say

_EVENTS: Final = {
    PDUType.ASSOCIATE_RQ: Evt.EVT6,
    PDUType.ASSOCIATE_AC: Evt.EVT3,
    PDUType.ASSOCIATE_RJ: Evt.EVT4,
    PDUType.P_DATA_TF: Evt.EVT10,
    PDUType.RELEASE_RQ: Evt.EVT12,
    PDUType.RELEASE_RP: Evt.EVT13,
    PDUType.ABORT: Evt.EVT16,
}
_OTHERS: Final = {ord("H"): "HTTP", ord("G"): "HTTP", ord("P"): "HTTP", 0x15: "TLS", 0x16: "TLS"}
"""What is not DICOM and begins with this byte, in place of a PDU type."""
_P_DATA: Final = Struct(">BxLLBB")
"""P-DATA-TF with one fragment: PDU type, PDU length, item length, context id, message control header."""
_CHUNK: Final = 1 << 20
"""Bytes of a dataset queued for sending at once."""
_TURN: Final = 256
"""Headers taken without a wait before others have their turn: a buffer holds a hundred thousand empty PDUs."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a peer may take, in seconds, and how much it may send of what must be held."""

    handshake: float = 10.0
    """For the TLS handshake, all of it."""
    request: float = 10.0
    """From connecting to a whole A-ASSOCIATE-RQ (the ARTIM timer of PS3.8)."""
    idle: float = 1800.0
    """Between two messages."""
    response: float = 60.0
    """For one answer, and for one command set once begun."""
    artim: float = 2.0
    """For closing the connection after the last word."""
    least_rate: float = 1024.0
    """Bytes a second of a dataset, at least, over every `pace`."""
    pace: float = 30.0
    """Seconds over which `least_rate` is asked."""
    control: int = 128 * 1024
    """Bytes of an A-ASSOCIATE or of a command set, at most."""


class ReleasedError(Exception):
    """The peer released the association, and was answered."""


class AbortedError(Exception):
    """The peer aborted the association."""

    def __init__(self, abort: Abort) -> None:
        super().__init__(
            say(
                "the peer aborted the association (source {source}, reason {reason})",
                source=abort.source,
                reason=abort.reason,
            )
        )
        self.abort = abort


class LimitError(Exception):
    """The peer sent more than it may, and was cut off."""


class Sink(Protocol):
    """Where a received dataset goes."""

    @property
    def pressure(self) -> bool:
        """Whether `relieve` must be awaited before more is written."""
        ...

    def write(self, fragment: memoryview, /) -> None:
        """Take one fragment. Must not keep the view. Must not raise for the storage's troubles."""

    async def relieve(self) -> None:
        """Make room. Raises `LimitError` where no more is taken."""


class Discard:
    """A sink for what nobody wants."""

    pressure = False

    def write(self, fragment: memoryview, /) -> None:
        """Forget the fragment."""

    async def relieve(self) -> None:
        """Nothing to do."""


class Gather:
    """A sink that keeps at most ``most`` bytes, and has the peer cut off that sends more."""

    def __init__(self, most: int) -> None:
        self.pressure = False
        self._data = bytearray()
        self._most = most

    def value(self) -> bytes:
        """Give what came."""
        return bytes(self._data)

    def write(self, fragment: memoryview, /) -> None:
        """Keep the fragment, unless it is too much."""
        if len(self._data) + len(fragment) > self._most:
            self.pressure = True
        else:
            self._data += fragment

    async def relieve(self) -> None:
        """Nothing makes room here. Raises `LimitError`."""
        raise LimitError(say("a dataset that must be held is longer than {most} KiB", most=self._most >> 10))


class Message(msgspec.Struct, frozen=True):
    """A command set and the presentation context it came on. Its dataset, if any, is still on the wire."""

    context: Context
    command: dimse.Command


class Association:
    """An association that is being made or made. One task reads it; sends may come between."""

    def __init__(self, wire: Wire, machine: Machine, limits: Limits) -> None:
        self.wire = wire
        self.machine = machine
        self.limits = limits
        self.contexts: dict[int, Context] = {}
        self.peer_max_pdu = 0
        self.most_piece = _CHUNK
        """Bytes of a dataset that are sent at once, at the most; even."""
        self._idle_since: float | None = None
        self._progress_at = 0.0
        self._pdu_left = 0
        self._taken = 0

    @property
    def established(self) -> bool:
        """Whether messages can be exchanged."""
        return self.machine.state is Sta.STA6 and not self.wire.lost

    # PDUs in

    async def receive_pdu(self) -> tuple[Action, int, int]:
        """Wait for the next PDU's header: the action PS3.8 asks for, PDU type, and bytes of body still on the wire.

        Acts on what ends the association, and then raises.
        """
        self._taken += 1
        if self._taken % _TURN == 0:
            await self._breathe()
        await self._fill(HEADER_LENGTH)
        kind, length = HEADER.unpack(self.wire.take(HEADER_LENGTH))
        try:
            action = self.machine.fire(_EVENTS.get(kind, Evt.EVT19))
        except UnexpectedEvent:
            action = self.machine.fire(Evt.EVT19)
        if action in (Action.AA_8, Action.AA_1):
            known = kind in _EVENTS
            reason = AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU
            await self.last_word(encode_abort(Abort(2, reason)))
            if kind in _OTHERS:
                text = say("PDU type {kind} has no place here: it looks like {other}", kind=kind, other=_OTHERS[kind])
            else:
                text = say("PDU type {kind} has no place here", kind=kind)
            raise InvalidPDU(text, reason)
        if action is Action.AA_3:
            abort = decode_abort(await self.body(length))
            await self.wire.close(0)
            raise AbortedError(abort)
        return action, kind, length

    async def body(self, length: int) -> bytes:
        """Take the whole body of a PDU that is no P-DATA-TF."""
        if length > self.limits.control:
            raise await self.violated(say("a control PDU declares {length} bytes", length=length))
        await self._fill(length)
        return bytes(self.wire.take(length))

    async def violated(self, text: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> InvalidPDU:
        """Abort as the service provider (AA-8) and return the error to raise."""
        self._over(Evt.EVT19)
        await self.last_word(encode_abort(Abort(2, reason)))
        return InvalidPDU(text, reason)

    # messages in

    async def wait(self, seconds: float) -> bool:
        """Wait until the peer sends anything; whether it did within ``seconds``. Only between two messages.

        Raises `ConnectionLostError`. When nothing came the association stands as before.
        """
        self.wire.deadline(seconds)
        try:
            await self.wire.fill(1)
        except ConnectionLostError:
            self._over(Evt.EVT17)
            raise
        except DeadlineError:
            return False
        return True

    async def receive_command(self, seconds: float | None = None) -> Message:
        """Wait for the next command set, for ``seconds`` or as long as an association may be idle.

        Raises `ReleasedError` when the peer is done.
        """
        patience = self.limits.idle if seconds is None else seconds
        self.wire.deadline(patience)
        self._idle_since = asyncio.get_running_loop().time()
        try:
            length, context_id, control = await self._fragment()
        except DeadlineError as e:
            raise DeadlineError(say("it said nothing for {patience} s", patience=f"{patience:g}")) from e
        finally:
            self._idle_since = None
        self._progress_at = self.wire.deadline(self.limits.response)
        parts = bytearray()
        while True:
            if not control & COMMAND:
                raise await self.violated(
                    N_("a dataset came where a command was due"), AbortReason.UNEXPECTED_PARAMETER
                )
            if len(parts) + length > self.limits.control:
                raise await self.violated(N_("a command set is too long"))
            await self._fill(length)
            parts += self.wire.take(length)
            if control & LAST:
                break
            length, context_id, control = await self._fragment()
        context = self.contexts.get(context_id)
        if context is None:
            raise await self.violated(say("presentation context {id} was not accepted", id=context_id))
        try:
            return Message(context, dimse.decode(parts))
        except dimse.InvalidCommand as e:
            raise await self.violated(str(e)) from e

    async def receive_dataset(self, message: Message, sink: Sink) -> None:
        """Stream the dataset of ``message`` into ``sink``, at `Limits.least_rate` or faster."""
        try:
            await self._stream(message, sink)
        except DeadlineError as e:
            rate = self.limits.least_rate / 1024
            raise DeadlineError(say("the dataset comes slower than {rate} KiB/s", rate=f"{rate:g}")) from e

    async def receive_whole(self, message: Message, most: int) -> bytes:
        """Take the dataset of ``message`` into memory; empty where none follows.

        One longer than ``most`` bytes ends the association with `LimitError`.
        """
        gather = Gather(most)
        if message.command.has_dataset:
            await self.receive_dataset(message, gather)
        return gather.value()

    async def _stream(self, message: Message, sink: Sink) -> None:
        wire, pace = self.wire, self.limits.pace
        least = int(self.limits.least_rate * pace)
        wire.widen()
        self._progress_at = wire.deadline(pace)
        received = 0
        while True:
            length, context_id, control = await self._fragment()
            if control & COMMAND or context_id != message.context.id:
                raise await self.violated(
                    N_("a dataset is mixed with another message"), AbortReason.UNEXPECTED_PARAMETER
                )
            while length:
                if not wire.available:
                    await self._fill(1)
                view = wire.take(min(length, wire.available))
                sink.write(view)
                length -= len(view)
                received += len(view)
                if received >= least:
                    # that much in time: the same again for what comes next
                    received = 0
                    self._progress_at = wire.deadline(pace)
                if sink.pressure:  # after every piece: a fragment may be as long as its sender likes
                    await self._relieve(sink)
                    received = 0
                    self._progress_at = wire.deadline(pace)
            if control & LAST:
                return

    async def _relieve(self, sink: Sink) -> None:
        try:
            await sink.relieve()
        except LimitError:
            await self.abort()
            raise

    async def _fragment(self) -> tuple[int, int, int]:
        """Wait for the next presentation data value: length of its fragment, context id, message control header."""
        while self._pdu_left == 0:
            action, _, length = await self.receive_pdu()
            if action in (Action.DT_2, Action.AR_6):
                self._pdu_left = length
            elif action is Action.AR_2:
                await self.body(length)
                self.machine.fire(Evt.EVT14)
                await self.last_word(RELEASE_RP)
                raise ReleasedError
            else:
                await self.body(length)
                raise await self.violated(N_("a PDU came that ends no association and carries no data"))
        if self._pdu_left < PDV_HEADER_LENGTH:
            raise await self.violated(N_("a P-DATA-TF holds no whole presentation data value"))
        self._taken += 1
        if self._taken % _TURN == 0:
            await self._breathe()
        await self._fill(PDV_HEADER_LENGTH)
        length, context_id, control = PDV_HEADER.unpack(self.wire.take(PDV_HEADER_LENGTH))
        self._pdu_left -= length + 4
        if length < 2 or self._pdu_left < 0:
            raise await self.violated(N_("a presentation data value is longer than its PDU"))
        return length - 2, context_id, control

    @property
    def idle(self) -> float | None:
        """Since when it waits for the peer's next message (the loop's time); None where it does not."""
        return self._idle_since if self.established and self.wire.waiting else None

    @property
    def stalled(self) -> float | None:
        """Since when the peer owes more of the message that it began (the loop's time); None where it owes nothing."""
        return self._progress_at if self._idle_since is None and (self.wire.waiting or self.wire.blocked) else None

    async def _breathe(self) -> None:
        try:
            await self.wire.breathe()
        except DeadlineError:
            await self.abort()
            raise

    async def _fill(self, count: int) -> None:
        try:
            await self.wire.fill(count)
        except ConnectionLostError:
            self._over(Evt.EVT17)
            raise
        except DeadlineError:
            await self.abort()
            raise

    # messages out

    def send_command(self, context_id: int, command: bytes) -> None:
        """Queue a command set without dataset. Raises `ConnectionLostError`."""
        self.machine.fire(Evt.EVT9)
        self.wire.writelines(self._fragments(context_id, memoryview(command), COMMAND, last=True))

    async def flush(self) -> None:
        """Wait until the peer took enough of what was sent; one that reads nothing in `Limits.response` is cut off."""
        self._progress_at = self.wire.deadline(self.limits.response)
        try:
            await self.wire.drain()
        except ConnectionLostError:
            self._over(Evt.EVT17)
            raise
        except DeadlineError as e:
            await self.abort()
            raise DeadlineError(N_("it does not read what it is answered")) from e

    async def send_message(
        self,
        context_id: int,
        command: bytes,
        length: int,
        read: Callable[[int], Awaitable[bytes | bytearray]],
    ) -> None:
        """Send a command set and its dataset of ``length`` bytes, which ``read`` gives piece by piece.

        ``read(n)`` returns ``n`` bytes, or raises: then the association must be aborted. An odd length is padded with
        a NUL (PS3.8 annex E). Waits as long as the peer takes bytes; `DeadlineError` when it stops for too long.
        """
        self.machine.fire(Evt.EVT9)
        parts = self._fragments(context_id, memoryview(command), COMMAND, last=True)
        left = length
        while True:
            piece = min(left, self._piece())
            data = await read(piece) if piece else b""
            left -= piece
            if not left and length & 1:
                data += b"\0"
            parts += self._fragments(context_id, memoryview(data), 0, last=not left)
            self.wire.deadline(self.limits.response)
            self.wire.writelines(parts)
            if not left:
                return
            parts = []
            try:
                await self.wire.drain()
            except ConnectionLostError:
                self._over(Evt.EVT17)
                raise

    def _room(self) -> int:
        """Bytes of one fragment: the peer's maximum less the item's header, even; 0 and absurd ones are ours."""
        most = self.peer_max_pdu - PDV_HEADER_LENGTH
        room = max(2, most & ~1) if 0 < self.peer_max_pdu < _CHUNK else 256 * 1024
        return min(room, self.most_piece)

    def _piece(self) -> int:
        """Bytes read at once: whole fragments, about `most_piece`."""
        room = self._room()
        return self.most_piece // room * room

    def _fragments(self, context_id: int, data: memoryview, kind: int, *, last: bool) -> list[bytes | memoryview]:
        room, size = self._room(), len(data)
        parts: list[bytes | memoryview] = []
        for at in range(0, size, room) or (0,):
            piece = data[at : at + room]
            control = kind | (LAST if last and at + room >= size else 0)
            length = len(piece)
            parts += (_P_DATA.pack(PDUType.P_DATA_TF, length + 6, length + 2, context_id, control), piece)
        return parts

    # the end

    async def release(self) -> None:
        """Release in order, as either side may (PS3.8 7.2); a peer that does not answer is cut off."""
        if self.machine.state is not Sta.STA6:
            await self.abort()
            return
        self.machine.fire(Evt.EVT11)
        try:
            self.wire.write(RELEASE_RQ)
            self.wire.deadline(self.limits.artim)
            while True:
                action, _, length = await self.receive_pdu()
                await self._discard(length)
                if action is Action.AR_3:
                    break
                if action is Action.AR_8:
                    await self._collide()
                    break
        except (ConnectionLostError, DeadlineError, AbortedError, InvalidPDU):
            pass  # over in any case
        await self.wire.close(self.limits.artim)

    async def _collide(self) -> None:
        """Both sides asked for release at once (AR-8 to AR-10)."""
        if self.machine.state is Sta.STA9:
            self.machine.fire(Evt.EVT14)
            self.wire.write(RELEASE_RP)
            _, _, length = await self.receive_pdu()
            await self._discard(length)
        else:
            _, _, length = await self.receive_pdu()
            await self._discard(length)
            self.machine.fire(Evt.EVT14)
            self.wire.write(RELEASE_RP)

    async def _discard(self, length: int) -> None:
        while length:
            length -= len(await self.wire.some(length))

    async def abort(self) -> None:
        """Abort as the service user and close at once."""
        self._over(Evt.EVT15)
        await self.last_word(encode_abort(Abort(0, 0)), linger=False)

    def _over(self, event: Evt) -> None:
        """Tell the machine of the end; an end that the state does not know is the end all the same."""
        try:
            self.machine.fire(event)
        except UnexpectedEvent:
            self.machine.state = Sta.STA1

    async def last_word(self, data: bytes, *, linger: bool = True) -> None:
        """Send ``data``, give the peer the ARTIM time to close, then close (Sta13)."""
        try:
            self.wire.write(data)
            if linger:
                self.wire.deadline(self.limits.artim)
                while True:
                    await self.wire.some(1 << 16)
        except (ConnectionLostError, DeadlineError):
            pass
        await self.wire.close(self.limits.artim if linger else 0.2)
