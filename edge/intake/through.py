"""Objects through the door, out of files or out of another process: in when they are in the store, not before."""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

from edge.dicom.whole import Whole
from edge.findings import Journal
from edge.intake.door import TOO_LARGE, Door, Incoming, NoRoomError, RefusedError, TooLongError
from edge.intake.receiver import TOO_LONG, NoRoomNowError, RefusedObjectError, TooLargeNowError
from edge.intake.tree import ChangedError, Readable
from edge.model import Origin, Source
from edge.phrase import N_, say
from edge.store import Fate, Store
from edge.threads import Run

_CHUNK: Final = 1 << 20


class DoorReceiver:
    """The receiver of this process."""

    def __init__(self, door: Door, store: Store, run: Run, journal: Journal, *, most: int | None = None) -> None:
        """``most`` is how long an object may be, in bytes; the door says so too, but only after reading so many."""
        self._door = door
        self._store = store
        self._run = run
        self._journal = journal
        self.most = most

    async def known(self, origins: Sequence[Origin]) -> list[bool]:
        """Say for each whether it was taken before, as it is. Raises `StoreError`."""
        return await self._store.taken(origins)

    async def has(self, whole: Whole, digest: bytes, origin: Origin | None) -> bool:
        """Say whether these very bytes are here, or were delivered from this very file. Raises `StoreError`."""
        return await self._store.has(whole.sop_instance_uid, whole.kind.transfer_syntax_uid, digest, origin)

    async def remember(self, origin: Origin) -> None:
        """Remember an archive all of whose members were taken. Raises `StoreError`."""
        await self._store.remember(origin)

    async def receive(self, whole: Whole, file: Readable, source: Source) -> bool:
        """Take an object out of a file; see `receiver.Receiver`."""
        return await self.stream(whole, self._chunks(whole, file), source)

    async def stream(self, whole: Whole, chunks: AsyncIterator[bytes], source: Source) -> bool:
        """Take an object whose dataset comes in ``chunks``; see `receiver.Receiver`. What ``chunks`` raises passes."""
        if self.most is not None and whole.length > self.most:
            raise RefusedObjectError(TOO_LONG)
        incoming = self._begin(whole, source)
        try:
            await _fill(incoming, chunks)
        except TooLongError as e:
            self._door.discard(incoming)
            raise RefusedObjectError(TOO_LONG) from e
        except BaseException:
            self._door.discard(incoming)
            raise
        try:
            await self._door.finish(incoming)
        except NoRoomError as e:
            raise (TooLargeNowError if incoming.part.no_room else NoRoomNowError)(str(e)) from e
        except RefusedError as e:
            raise RefusedObjectError(str(e)) from e
        if whole.oddity:
            self._journal.note("ODD_OBJECT", "files", whole.oddity)
        recorded = await incoming.recorded if incoming.recorded is not None else None
        if recorded is None:
            raise NoRoomNowError(N_("the spool lost the object; it is tried again"))
        return recorded.fate is not Fate.DUPLICATE

    def _begin(self, whole: Whole, source: Source) -> Incoming:
        """Begin an object, with room for all of it: that the door is closed is another matter than that it is large."""
        try:
            incoming = self._door.begin(whole.kind, whole.sop_instance_uid, source)
        except NoRoomError as e:
            raise NoRoomNowError(str(e)) from e
        try:
            fits = incoming.part.room.extend(whole.length)
        except OSError as e:
            self._door.discard(incoming)
            raise NoRoomNowError(say("the disk cannot be asked for its room: {error}", error=e.strerror or e)) from e
        if not fits:
            self._door.discard(incoming)
            raise TooLargeNowError(TOO_LARGE)
        return incoming

    async def _chunks(self, whole: Whole, file: Readable) -> AsyncIterator[bytes]:
        at, end = whole.offset, whole.offset + whole.length
        while at < end:
            chunk = file.first[at:end] or await self._run(partial(file.read, at, min(_CHUNK, end - at)))
            if not chunk:
                raise ChangedError
            yield chunk
            at += len(chunk)
        if end > len(file.first):  # else it was looked at after its last byte
            await self._run(file.check)


async def _fill(incoming: Incoming, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        incoming.write(memoryview(chunk))
        if incoming.pressure:
            await incoming.relieve()
