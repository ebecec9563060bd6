"""The one door: every object, however it comes, is streamed, sealed, synced and handed to the index here.

The order is the promise: bytes, seal, sync of file and directory side by side, and only then does `finish` return,
so that its caller may say yes. What fails before that leaves nothing behind.
"""

import asyncio
import contextlib
import errno
from typing import Final

import msgspec

from edge.board import Board
from edge.clock import Clock
from edge.dicom import part10, status
from edge.dicom.association import LimitError
from edge.dicom.header import read_header
from edge.findings import Journal
from edge.intake import seal as seals
from edge.intake.admission import Admission
from edge.intake.guard import DiskGuard
from edge.intake.index import Index
from edge.intake.oddity import odd_uids
from edge.model import Header, Instance, Kind, Source
from edge.phrase import N_, say
from edge.routing import Leg, Routing
from edge.spool import Identity, Part, Spool
from edge.store import Recorded

TOO_LARGE: Final = N_("there is no room on the disk for an object of this size")
_LONGEST_ANSWER: Final = 20.0
"""Seconds after which a sender is told to try again rather than left without an answer."""


class RefusedError(Exception):
    """An object was not taken; the text says why, for the peer and for people."""


class NoRoomError(RefusedError):
    """There is no room, or intake is closed: the sender should try again later (A700)."""


class TooLongError(RefusedError, LimitError):
    """It is longer than any object may be; who sends it over the network is cut off."""


class MismatchError(RefusedError):
    """What the dataset says of itself is not what the command said (A900)."""


class _NotYetError(Exception):
    """What is asked for is still being written."""


def _not_yet(_offset: int, _count: int) -> bytes:
    raise _NotYetError


class Incoming:
    """One object on its way in: a sink for its dataset."""

    def __init__(self, part: Part, head: part10.Head, kind: Kind, sop_instance_uid: str, source: Source) -> None:
        self.part = part
        self.head = head
        self.kind = kind
        self.sop_instance_uid = sop_instance_uid
        self.source = source
        self.write = part.write
        self.recorded: asyncio.Future[Recorded | None] | None = None
        """What came of it in the index, once `Door.finish` has returned."""

    @property
    def pressure(self) -> bool:
        """Whether `relieve` is due."""
        return self.part.pressure

    async def relieve(self) -> None:
        """Wait for the disk. Raises `TooLongError`."""
        if self.part.too_long:
            raise TooLongError(N_("the object is longer than receive.max_object"))
        await self.part.relieve()


class Door:
    """Takes objects into the spool."""

    def __init__(
        self,
        spool: Spool,
        identity: Identity,
        index: Index,
        admission: Admission,
        guard: DiskGuard,
        routing: Routing,
        *,
        board: Board,
        journal: Journal,
        clock: Clock,
        title: str,
        most: int,
        destinations: int,
    ) -> None:
        self._spool = spool
        self._identity = identity
        self._index = index
        self._admission = admission
        self._guard = guard
        self._routing = routing
        self._board = board
        self._journal = journal
        self._clock = clock
        self._title = title
        self._most = most
        self._destinations = destinations

    def begin(self, kind: Kind, sop_instance_uid: str, source: Source) -> Incoming:
        """Begin an object. Raises `NoRoomError`."""
        room = self._admission.begin()
        if room is None:
            self._board.refused += 1
            raise NoRoomError(self._admission.refusal() or N_("the disk is full up to its reserve"))
        seal_room = seals.room(self._destinations, source)
        head = part10.begin(kind.sop_class_uid, sop_instance_uid, kind.transfer_syntax_uid, seal_room)
        try:
            part = self._spool.create(self._identity.next_id(), len(head.data), self._most, room)
        except OSError as e:
            room.release()
            raise self._trouble(e) from e
        return Incoming(part, head, kind, sop_instance_uid, source)

    def discard(self, incoming: Incoming) -> None:
        """Forget an object that did not come to its end. A part that cannot be unlinked goes at the next start."""
        part = incoming.part
        part.room.release()
        part.discard(lambda: self._spool.discard(part.id))

    async def finish(self, incoming: Incoming) -> Instance:
        """Seal and sync what was written, and hand it to the index. When this returns, it is safe.

        Raises `NoRoomError`, `MismatchError` or `RefusedError`; then nothing is kept but, for a mismatch, the
        file in quarantine/.
        """
        part = incoming.part
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(_LONGEST_ANSWER):
                instance, legs = await self._seal(incoming)
        except TimeoutError as e:
            self.discard(incoming)
            raise NoRoomError(N_("the disk is too slow")) from e
        except OSError as e:
            self.discard(incoming)
            raise self._trouble(e) from e
        except MismatchError as e:
            await self._set_aside(incoming, str(e))
            raise
        except (RefusedError, asyncio.CancelledError):
            self.discard(incoming)
            raise
        part.close()
        part.room.release()
        # from here on the object is the index's: whatever is answered, it is kept
        incoming.recorded = self._index.take(instance, legs)
        if self._index.behind:
            try:
                async with asyncio.timeout(_LONGEST_ANSWER - (self._clock.monotonic() - begun)):
                    await self._index.caught_up()
            except TimeoutError as e:
                raise NoRoomError(N_("the store is too slow")) from e
        self._board.received(part.length)
        return instance

    async def _seal(self, incoming: Incoming) -> tuple[Instance, tuple[Leg, ...]]:
        part, kind, source = incoming.part, incoming.kind, incoming.source
        if part.too_long:
            raise RefusedError(say("the object is longer than {most} bytes", most=self._most))
        if part.no_room:
            self._board.refused += 1
            raise NoRoomError(TOO_LARGE)
        header = await self._header(incoming)
        self._check(incoming, header)
        legs = self._routing.legs(seals.routable(header, kind.sop_class_uid), source)
        seal = seals.Seal(
            id=part.id,
            length=part.length,
            digest=b"",
            source=source,
            received_at=self._clock.now(),
            clock_trusted=self._clock.trusted(),
            legs=legs,
        )

        def make_head(digest: bytes) -> bytes:
            return part10.sealed(
                incoming.head,
                source=self._title,
                sending=source.calling,
                receiving=source.called,
                private=seals.encode(msgspec.structs.replace(seal, digest=digest)),
            )

        await part.seal(make_head)
        seal = msgspec.structs.replace(seal, digest=part.digest)
        offset = len(incoming.head.data)
        return seals.instance(seal, kind, incoming.sop_instance_uid, offset, header), legs

    async def _header(self, incoming: Incoming) -> Header:
        """Read the header, beside the thread that writes where the dataset's first bytes are enough. Raises OSError."""
        part, syntax = incoming.part, incoming.kind.transfer_syntax_uid
        if part.busy:
            with contextlib.suppress(_NotYetError):
                return read_header(_not_yet, part.length, syntax, bytes(part.first))
            await part.catch_up()
        return read_header(part.read, part.length, syntax, bytes(part.first))

    def _check(self, incoming: Incoming, header: Header) -> None:
        """Refuse a dataset that is another object than the command said; note every other oddity."""
        if header.sop_instance_uid and header.sop_instance_uid != incoming.sop_instance_uid:
            raise MismatchError(N_("the dataset's SOP Instance UID (0008,0018) is not the command's"))
        if header.sop_class_uid and header.sop_class_uid != incoming.kind.sop_class_uid:
            raise MismatchError(N_("the dataset's SOP Class UID (0008,0016) is not the command's"))
        if header.problem:
            self._journal.note("ODD_OBJECT", "receive", header.problem)
        if odd := odd_uids(header, incoming.sop_instance_uid):
            self._journal.note("NONCONFORMING_UID", "receive", say("{odd}.", odd=odd))

    async def _set_aside(self, incoming: Incoming, why: str) -> None:
        """Keep what was refused, unsealed, with the reason beside it, for whoever looks into it."""
        note = {
            "why": why,
            "answered": f"{status.DATASET_MISMATCH:04X}",
            "received_at": self._clock.now(),
            "source": incoming.source,
            "sop_class_uid": incoming.kind.sop_class_uid,
            "sop_instance_uid": incoming.sop_instance_uid,
        }
        try:
            await incoming.part.seal(lambda _digest: incoming.head.data)
            incoming.part.close()
            incoming.part.room.release()
            await self._spool.put_aside(incoming.part.id, msgspec.json.encode(note))
        except OSError:
            self.discard(incoming)
        self._journal.note("QUARANTINED", "receive", why)

    def _trouble(self, error: OSError) -> NoRoomError:
        """Turn an error of the disk into an answer and, where it is not about room, a finding."""
        self._board.refused += 1
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            if self._admission.refusal() is None:
                # it says that there is room and gives none (a quota, say): what it does decides
                self._guard.failed(error)
            return NoRoomError(N_("the disk is full"))
        self._guard.failed(error)
        return NoRoomError(say("the disk reports: {error}", error=error.strerror or error))
