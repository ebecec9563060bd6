"""One file, from its first look to its fate: recognised, taken through the door, or left alone with a reason.

Whoever has files (a watch, an import) calls `Taker.take`; where objects go is behind `Receiver`. Nothing here removes
or moves a file: a fate of TAKEN or ALREADY says that its owner may. Whatever a file may hold, it is its own fate only:
what is raised is a failure of the receiver, `StoreError` or `ReceiverError`.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from edge.dicom.whole import Archive, Directory, Foreign, Unfinished, Unusable, Whole, recognise
from edge.intake import seal as seals
from edge.intake.archives import ArchiveTaker
from edge.intake.fate import Fate, Result, contained, unreadable
from edge.intake.receiver import NoRoomNowError, Receiver, RefusedObjectError, TooLargeNowError
from edge.intake.tree import MOST_NUMBER, ChangedError, Entry, OpenFile, Readable, bounded, open_file
from edge.model import Origin, Source
from edge.phrase import N_
from edge.threads import Run

_CHUNK: Final = 1 << 20
_LONGEST: Final = 255
"""Characters of a word in a seal that are believed."""
_NESTED: Final = N_("an archive in an archive is not opened: unpack it")


class Taker:
    """Takes files of one place."""

    def __init__(
        self,
        receiver: Receiver,
        run: Run,
        source: Source,
        folder: Path,
        room: Callable[[int], bool],
        *,
        spool: bool = False,
    ) -> None:
        """``source`` is that of every object, without its file; ``folder`` and ``room`` are for unpacking archives.

        Where the place is the ``spool`` of another box, objects are checked against their seals and keep who sent them
        there. Elsewhere a seal counts for nothing: anybody can write one, or change what it stands before.
        """
        self._receiver = receiver
        self._run = run
        self._source = source
        self._spool = spool
        self._archives = ArchiveTaker(receiver, run, folder, room, self._object)

    async def take(self, root: Path, entry: Entry, origin: Origin, *, believe: bool = True) -> Result:
        """Take one file below ``root``, or say why not. Raises `StoreError`, `ReceiverError`.

        Unless ``believe``, one that may have been cut between two elements is not whole.
        """
        return await contained(self._take(root, entry, _storable(origin), believe=believe))

    async def _take(self, root: Path, entry: Entry, origin: Origin, *, believe: bool) -> Result:
        if entry.odd:
            return Result(Fate.REFUSED, entry.odd)
        try:
            file, found, busy = await self._run(partial(_examine, root, entry))
        except FileNotFoundError:
            return Result(Fate.UNFINISHED, N_("it is gone"))
        except ChangedError:
            return Result(Fate.UNFINISHED, N_("it is still changing"))
        except OSError as e:
            return unreadable(e)
        try:
            if busy:
                return Result(Fate.UNFINISHED, busy)
            if isinstance(found, Archive):
                return await self._archives.take(file, origin)
            if isinstance(found, Whole) and found.doubt and not believe:
                return Result(Fate.UNFINISHED, found.doubt)
            return await self._object(found, file, origin)
        finally:
            await self._run(file.close)

    async def _object(self, found: object, file: Readable, origin: Origin) -> Result:
        match found:
            case Whole():
                return await self._whole(found, file, origin)
            case Directory():
                return Result(Fate.NOT_DICOM, "")
            case Unfinished(why=why):
                return Result(Fate.UNFINISHED, why)
            case Unusable(why=why):
                return Result(Fate.REFUSED, why)
            case Foreign(why=why):
                return Result(Fate.NOT_DICOM, why)
            case _:
                return Result(Fate.REFUSED, _NESTED)

    async def _whole(self, whole: Whole, file: Readable, origin: Origin) -> Result:
        try:
            source = await self._run(partial(self._source_of, whole, file, origin))
            new = await self._receiver.receive(whole, file, source)
        except ChangedError:
            return Result(Fate.UNFINISHED, N_("it is still changing"))
        except RefusedObjectError as e:
            return Result(Fate.REFUSED, str(e))
        except NoRoomNowError as e:
            return Result(Fate.NO_ROOM, str(e))
        except TooLargeNowError as e:
            return Result(Fate.TOO_LARGE, str(e))
        except OSError as e:
            return unreadable(e)
        return Result(Fate.TAKEN if new else Fate.ALREADY)

    def _source_of(self, whole: Whole, file: Readable, origin: Origin) -> Source:
        """Say who brought it: an object out of the spool of another box keeps who sent it there."""
        own = msgspec.structs.replace(self._source, file=origin)
        if not self._spool:
            return own
        try:
            seal = seals.decode(whole.private)
        except seals.BadSealError:
            return own
        if seal.length != whole.length or seal.digest != digest_of(whole, file):
            raise RefusedObjectError(N_("it is not what its seal says: the file was damaged"))
        sent = seal.source
        return Source(
            door=sent.door[:_LONGEST],
            calling=sent.calling[:_LONGEST],
            called=sent.called[:_LONGEST],
            address=sent.address[:_LONGEST],
            file=origin,
        )


def _storable(origin: Origin) -> Origin:
    """Bring what a file system says into the numbers that a row holds: NFS and XFS know larger ones."""
    return msgspec.structs.replace(
        origin,
        inode=min(origin.inode, MOST_NUMBER),
        mtime_ns=bounded(origin.mtime_ns),
        ctime_ns=bounded(origin.ctime_ns),
    )


def _examine(root: Path, entry: Entry) -> tuple[OpenFile, object, str]:
    file = open_file(root, entry)
    try:
        busy = file.busy()
        if busy:
            return file, None, busy
        file.load()
        found = recognise(file.read, file.size)
        file.check()
    except BaseException:
        file.close()
        raise
    return file, found, ""


def digest_of(whole: Whole, file: Readable) -> bytes:
    """SHA-256 of the dataset. Raises OSError."""
    digest, at, end = hashlib.sha256(), whole.offset, whole.offset + whole.length
    while at < end and (chunk := file.read(at, min(_CHUNK, end - at))):
        digest.update(chunk)
        at += len(chunk)
    return digest.digest()
