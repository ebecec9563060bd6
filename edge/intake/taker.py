"""One file, from its first look to its fate: recognised, taken through the door, or left alone with a reason.

Whoever has files (a watch, an import) calls `Taker.take`; where objects go is behind `Receiver`. Nothing here removes
or moves a file: a fate of TAKEN or ALREADY says that its owner may. Whatever a file may hold, it is its own fate only:
what is raised is a failure of the receiver, `StoreError` or `ReceiverError`.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog

from edge.dicom.whole import Archive as ZipFile
from edge.dicom.whole import Directory, Foreign, Unfinished, Unusable, Whole, recognise
from edge.intake import seal as seals
from edge.intake.tree import MOST_NUMBER, ChangedError, Entry, OpenFile, Readable, bounded, open_file
from edge.intake.unpack import Archive, ArchiveError, NoRoomToUnpackError, UnfinishedArchiveError
from edge.model import Origin, Source
from edge.store import StoreError

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs blocking work in a thread."""

_CHUNK: Final = 1 << 20
_MOST_REASONS: Final = 20
"""Members of one archive that are named."""
_LONGEST: Final = 255
"""Characters of a word in a seal that are believed."""
_NESTED: Final = "an archive in an archive is not opened: unpack it"

log = structlog.get_logger()


class Fate(StrEnum):
    """What became of one file."""

    TAKEN = "taken"
    ALREADY = "already there"
    NOT_DICOM = "not DICOM"
    """Another kind of file: it is nobody's loss if it stays where it is."""
    UNFINISHED = "not whole"
    """DICOM that is cut, or still written: not now, perhaps later."""
    REFUSED = "refused"
    """It cannot be taken as it is."""
    NO_ROOM = "no room"
    """Not now: the box takes nothing."""
    TOO_LARGE = "too large"
    """Not now: there is no room for this one, but there may be for others."""


_LEFT: Final = (Fate.TOO_LARGE, Fate.REFUSED, Fate.UNFINISHED)
"""An object should have been taken and was not; what is tried again soonest comes first."""


@dataclass(slots=True)
class Result:
    """The fate of one file; of an archive, with those of its members."""

    fate: Fate
    why: str = ""
    objects: dict[Fate, int] = field(default_factory=dict)
    """How many objects of each fate, where they are not just this one."""
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """Members that were not taken, and why; the first few."""

    def counts(self) -> dict[Fate, int]:
        """How many objects of each fate."""
        return self.objects or {self.fate: 1}


class RefusedObjectError(Exception):
    """The receiver does not take this object."""


class NoRoomNowError(Exception):
    """The receiver takes nothing at the moment."""


class TooLargeNowError(Exception):
    """The receiver has no room for this object at the moment; for others it may."""


class ReceiverError(Exception):
    """The receiver itself failed: no other file would fare better."""


class Receiver(Protocol):
    """Where objects go. Everything may raise what stands for its failure, which passes through."""

    async def known(self, origins: Sequence[Origin]) -> list[bool]:
        """Say for each whether it was taken before, as it is."""

    async def receive(self, whole: Whole, file: Readable, source: Source) -> bool:
        """Take an object; False where the same was there already. When it returns, it is safe and on record.

        Raises `RefusedObjectError`, `NoRoomNowError`, `TooLargeNowError`, `ChangedError`, OSError.
        """

    async def remember(self, origin: Origin) -> None:
        """Remember an archive all of whose members were taken."""


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
        self._folder = folder
        self._room = room
        self._spool = spool

    async def take(self, root: Path, entry: Entry, origin: Origin, *, believe: bool = True) -> Result:
        """Take one file below ``root``, or say why not. Raises `StoreError`, `ReceiverError`.

        Unless ``believe``, one that may have been cut between two elements is not whole.
        """
        return await _contained(self._take(root, entry, _storable(origin), believe=believe))

    async def _take(self, root: Path, entry: Entry, origin: Origin, *, believe: bool) -> Result:
        if entry.odd:
            return Result(Fate.REFUSED, entry.odd)
        try:
            file, found, busy = await self._run(partial(_examine, root, entry))
        except FileNotFoundError:
            return Result(Fate.UNFINISHED, "it is gone")
        except ChangedError:
            return Result(Fate.UNFINISHED, "it is still changing")
        except OSError as e:
            return _unreadable(e)
        try:
            if busy:
                return Result(Fate.UNFINISHED, busy)
            if isinstance(found, ZipFile):
                return await self._archive(file, origin)
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
            return Result(Fate.UNFINISHED, "it is still changing")
        except RefusedObjectError as e:
            return Result(Fate.REFUSED, str(e))
        except NoRoomNowError as e:
            return Result(Fate.NO_ROOM, str(e))
        except TooLargeNowError as e:
            return Result(Fate.TOO_LARGE, str(e))
        except OSError as e:
            return _unreadable(e)
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
            raise RefusedObjectError("it is not what its seal says: the file was damaged")
        sent = seal.source
        return Source(
            door=sent.door[:_LONGEST],
            calling=sent.calling[:_LONGEST],
            called=sent.called[:_LONGEST],
            address=sent.address[:_LONGEST],
            file=origin,
        )

    async def _archive(self, file: Readable, origin: Origin) -> Result:
        try:
            archive = await self._run(partial(Archive, file, self._folder, self._room))
        except UnfinishedArchiveError as e:
            return Result(Fate.UNFINISHED, str(e))
        except ArchiveError as e:
            return Result(Fate.REFUSED, str(e))
        except OSError as e:
            return _unreadable(e)
        result = Result(Fate.ALREADY)
        worst: dict[Fate, str] = {}
        try:
            for info in archive.members:
                member = msgspec.structs.replace(origin, path=f"{origin.path}!{_name(info.filename)}")
                one = await _contained(self._member(archive, info, member))
                result.objects[one.fate] = result.objects.get(one.fate, 0) + 1
                if one.fate is Fate.NO_ROOM:
                    worst[one.fate] = one.why
                    break
                if one.fate in _LEFT:
                    worst.setdefault(one.fate, f"{info.filename} in it: {one.why}")
                    if len(result.reasons) < _MOST_REASONS:
                        result.reasons.append((info.filename, one.why))
        finally:
            await self._run(archive.close)
        return await self._sum_up(result, worst, file, origin)

    async def _member(self, archive: Archive, info: Any, origin: Origin) -> Result:
        if (await self._receiver.known([origin]))[0]:
            return Result(Fate.ALREADY)
        try:
            member = await self._run(partial(archive.unpack, info))
        except NoRoomToUnpackError as e:
            return Result(Fate.TOO_LARGE, str(e))
        except ArchiveError as e:
            return Result(Fate.REFUSED, str(e))
        except OSError as e:
            return _unreadable(e)
        try:
            found = await self._run(lambda: recognise(member.read, member.size))
            return await self._object(found, member, origin)
        finally:
            await self._run(member.close)

    async def _sum_up(self, result: Result, worst: dict[Fate, str], file: Readable, origin: Origin) -> Result:
        """Give the archive the worst fate of its members; remember it once nothing in it is left to take."""
        for fate in (Fate.NO_ROOM, *_LEFT):
            if fate in worst:
                # a member that is cut will not grow: the archive is whole
                result.fate = Fate.REFUSED if fate is Fate.UNFINISHED else fate
                result.why = worst[fate]
                return result
        if result.objects.get(Fate.TAKEN):
            result.fate = Fate.TAKEN
        elif not result.objects.get(Fate.ALREADY):
            result.fate, result.why = Fate.NOT_DICOM, "an archive without DICOM objects"
            return result
        try:
            await self._run(file.check)
        except ChangedError:
            return Result(Fate.UNFINISHED, "it is still changing")
        await self._receiver.remember(origin)
        return result


async def _contained(taking: Awaitable[Result]) -> Result:
    """Wait for what becomes of one file. Whatever it makes go wrong here is its own fate, and the next one's turn."""
    try:
        return await taking
    except (StoreError, ReceiverError):
        raise
    except Exception as e:
        # without the name, which may be a patient's
        log.exception("a file cannot be dealt with")
        return Result(Fate.REFUSED, f"it cannot be dealt with: {type(e).__name__}")


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


def _unreadable(error: OSError) -> Result:
    return Result(Fate.REFUSED, f"it cannot be read: {error.strerror or error}")


def _name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
