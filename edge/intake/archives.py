"""One archive: its members taken one by one, each as a file would be, and the archive only with all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final
from zipfile import ZipInfo

import msgspec

from edge.dicom import part10
from edge.dicom.whole import hopeless, recognise
from edge.intake.fate import LEFT, Fate, Result, contained, unreadable
from edge.intake.receiver import TOO_LONG, Receiver
from edge.intake.tree import FIRST, ChangedError, Readable
from edge.intake.unpack import Archive, ArchiveError, NoRoomToUnpackError, UnfinishedArchiveError
from edge.model import Origin
from edge.phrase import N_, say
from edge.threads import Run

_AROUND: Final = part10.MOST_META + len(part10.PREAMBLE)
"""Bytes of a file that are not the object's, at the most."""
_MOST_REASONS: Final = 20
"""Members of one archive that are named."""


class ArchiveTaker:
    """Takes archives of one place."""

    def __init__(
        self,
        receiver: Receiver,
        run: Run,
        folder: Path,
        room: Callable[[int], bool],
        take: Callable[[object, Readable, Origin], Awaitable[Result]],
    ) -> None:
        """``folder`` and ``room`` are for unpacking; ``take`` takes what was recognised in a member."""
        self._receiver = receiver
        self._run = run
        self._folder = folder
        self._room = room
        self._take = take
        self._long = asyncio.Semaphore(1)
        """Long members are unpacked one at a time: what is to be unpacked for minutes leaves threads to others."""

    async def take(self, file: Readable, origin: Origin) -> Result:
        """Take all that is in an archive and was not taken before. Raises `StoreError`, `ReceiverError`."""
        try:
            archive = await self._run(partial(Archive, file, self._folder, self._room))
        except UnfinishedArchiveError as e:
            return Result(Fate.UNFINISHED, str(e))
        except ArchiveError as e:
            return Result(Fate.REFUSED, str(e))
        except OSError as e:
            return unreadable(e)
        result = Result(Fate.ALREADY)
        worst: dict[Fate, str] = {}
        try:
            for info in archive.members:
                member = msgspec.structs.replace(origin, path=f"{origin.path}!{_name(info.filename)}")
                one = await contained(self._member(archive, info, member))
                result.objects[one.fate] = result.objects.get(one.fate, 0) + 1
                if one.fate is Fate.NO_ROOM:
                    worst[one.fate] = one.why
                    break
                if one.fate in LEFT:
                    worst.setdefault(one.fate, say("{file} in it: {why}", file=info.filename, why=one.why))
                    if len(result.reasons) < _MOST_REASONS:
                        result.reasons.append((info.filename, one.why))
        finally:
            await self._run(archive.close)
        return await self._sum_up(result, worst, file, origin)

    async def _member(self, archive: Archive, info: ZipInfo, origin: Origin) -> Result:
        if (await self._receiver.known([origin]))[0]:
            return Result(Fate.ALREADY)
        try:
            if info.file_size <= FIRST:
                member = await self._run(partial(archive.unpack, info))
            elif (result := await self._at_a_glance(archive, info, origin)) is not None:
                return result
            else:
                async with self._long:
                    member = await self._run(partial(archive.unpack, info))
        except NoRoomToUnpackError as e:
            return Result(Fate.TOO_LARGE, str(e))
        except ArchiveError as e:
            return Result(Fate.REFUSED, str(e))
        except OSError as e:
            return unreadable(e)
        try:
            found = await self._run(lambda: recognise(member.read, member.size))
            return await self._take(found, member, origin)
        finally:
            await self._run(member.close)

    async def _at_a_glance(self, archive: Archive, info: ZipInfo, origin: Origin) -> Result | None:
        """Give the fate of a long member whose beginning tells that it need not be unpacked. Raises `ArchiveError`."""
        head = await self._run(partial(archive.begin, info))
        if (found := hopeless(head.first, info.file_size)) is not None:
            return await self._take(found, head, origin)
        most = self._receiver.most
        if most is not None and info.file_size > most + _AROUND:
            return Result(Fate.REFUSED, TOO_LONG)
        return None

    async def _sum_up(self, result: Result, worst: dict[Fate, str], file: Readable, origin: Origin) -> Result:
        """Give the archive the worst fate of its members; remember it once nothing in it is left to take."""
        for fate in (Fate.NO_ROOM, *LEFT):
            if fate in worst:
                # a member that is cut will not grow: the archive is whole
                result.fate = Fate.REFUSED if fate is Fate.UNFINISHED else fate
                result.why = worst[fate]
                return result
        if result.objects.get(Fate.TAKEN):
            result.fate = Fate.TAKEN
        elif not result.objects.get(Fate.ALREADY):
            result.fate, result.why = Fate.NOT_DICOM, N_("an archive without DICOM objects")
            return result
        try:
            await self._run(file.check)
        except ChangedError:
            return Result(Fate.UNFINISHED, N_("it is still changing"))
        await self._receiver.remember(origin)
        return result


def _name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
