"""An import: files, folders, media, archives and spools of other boxes, read here and handed over to the appliance.

What is there already is not handed over again, so an import that was stopped is simply begun again. Nothing is written
where files are read.
"""

import asyncio
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePath
from typing import Final, NamedTuple

import msgspec

from edge.dicom.dicomdir import DirectoryError, referenced
from edge.intake import tree
from edge.intake.handover import Progress, RemoteReceiver
from edge.intake.taker import Fate, Result, Run, Taker
from edge.intake.tree import Entry, plain
from edge.model import Source

MOST_REASONS: Final = 1000
"""Files that are named with the reason why they were not taken."""
_DICOMDIR: Final = "DICOMDIR"
_BATCH: Final = 256
_TELL_EVERY: Final = 1.0
_NO_ROOM_PAUSE: Final = 5.0
_FAILED: Final = (Fate.REFUSED, Fate.UNFINISHED, Fate.TOO_LARGE)
"""What an object comes to that should have been taken."""


class Refusal(msgspec.Struct, frozen=True):
    """A file that was not taken. A name that is no UTF-8 is written out byte by byte."""

    path: str
    why: str


@dataclass(slots=True)
class Tally:
    """What an import came to, so far."""

    files: int = 0
    bytes: int = 0
    files_done: int = 0
    bytes_done: int = 0
    objects: Counter[Fate] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)
    missing: int = 0
    """Files that a DICOMDIR names and that are not there."""
    waits: str = ""
    """Why the box takes nothing at the moment."""

    def failures(self) -> int:
        """How many objects were not taken although they should have been."""
        return self.missing + sum(self.objects[fate] for fate in _FAILED)

    def note(self, path: str, size: int, result: Result) -> None:
        """Count the file ``path`` of ``size`` bytes."""
        self.files_done += 1
        self.bytes_done += size
        self.objects.update(result.counts())
        for name, why in result.reasons:
            self.refuse(f"{path}!{name}", why)
        if not result.reasons and result.fate in _FAILED:
            self.refuse(path, result.why)

    def refuse(self, path: str, why: str) -> None:
        """Note why something was not taken."""
        if len(self.refused) < MOST_REASONS:
            self.refused.append(Refusal(plain(path), plain(why)))


class _Place(NamedTuple):
    """What is walked."""

    root: Path
    only: str
    """The one file of it that is meant, if it is one."""
    spool: bool
    """Whether it is the spool of another box."""


class _Later(NamedTuple):
    """A file for which there was no room beside the others."""

    taker: Taker
    root: Path
    entry: Entry
    taken: int
    """How many objects of it were taken at first."""


class Import:
    """One import of ``paths``, by as many readers at once as there are ``receivers``."""

    def __init__(
        self,
        paths: Sequence[Path],
        receivers: Sequence[RemoteReceiver],
        teller: RemoteReceiver,
        run: Run,
        source: Source,
        *,
        media: bool,
        folder: Path,
        room: Callable[[int], bool],
    ) -> None:
        """``folder`` and ``room`` are for unpacking archives; ``source`` is who brings it all.

        ``teller`` is a connection of its own, on which the appliance hears how far it is.
        """
        self.tally = Tally()
        self._paths = paths
        self._receivers = receivers
        self._teller = teller
        self._run = run
        self._source = source
        self._media = media
        self._folder = folder
        self._room = room
        self._later: list[_Later] = []

    async def run(self) -> Tally:
        """Import everything. Raises OSError where a path cannot be read at all, `HandoverError`."""
        places = [await self._run(partial(_resolve, path)) for path in self._paths]
        for place in places:
            await self._run(partial(self._count, place))
        telling = asyncio.ensure_future(self._tell())
        try:
            for place in places:
                await self._import(place)
            await self._try_again()
        finally:
            telling.cancel()
            await asyncio.wait((telling,))
        await self._teller.tell(self._progress(over=True))
        return self.tally

    def bytes_done(self) -> int:
        """Bytes of files that are done, and of those that are on their way."""
        return min(self.tally.bytes, self.tally.bytes_done + sum(receiver.sent for receiver in self._receivers))

    def _count(self, place: _Place) -> None:
        for entry in _entries(place):
            self.tally.files += 1
            self.tally.bytes += entry.size

    async def _import(self, place: _Place) -> None:
        queue: asyncio.Queue[Entry | None] = asyncio.Queue(4 * len(self._receivers))
        entries = _entries(place)

        async def feed() -> None:
            while batch := await self._run(lambda: list(islice(entries, _BATCH))):
                for entry in batch:
                    await queue.put(entry)
            for _ in self._receivers:
                await queue.put(None)

        try:
            async with asyncio.TaskGroup() as group:
                for receiver in self._receivers:
                    group.create_task(self._work(receiver, place, queue))
                group.create_task(feed())
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from None
        if not place.only:
            await self._run(partial(self._check_directory, place.root))

    async def _work(self, receiver: RemoteReceiver, place: _Place, queue: "asyncio.Queue[Entry | None]") -> None:
        taker = Taker(receiver, self._run, self._source, self._folder, self._room, spool=place.spool)
        while (entry := await queue.get()) is not None:
            result = await self._take(taker, place.root, entry)
            receiver.sent = 0
            if result.fate is Fate.TOO_LARGE:
                self._later.append(_Later(taker, place.root, entry, result.counts().get(Fate.TAKEN, 0)))
            else:
                self.tally.note(str(place.root / entry.path), entry.size, result)

    async def _try_again(self) -> None:
        """Take what there was no room for beside the others; what does not fit now either is not taken."""
        for taker, root, entry, taken in self._later:
            self.tally.note(str(root / entry.path), entry.size, await self._take(taker, root, entry, taken))

    async def _take(self, taker: Taker, root: Path, entry: Entry, taken: int = 0) -> Result:
        """Take one file, of which ``taken`` objects were before; where the box takes nothing, wait until it does."""
        while True:
            result = await taker.take(root, entry, entry.origin(f"import {plain(str(root))}"))
            self.tally.waits = result.why if result.fate is Fate.NO_ROOM else ""
            _count_once(result, taken)
            if result.fate is not Fate.NO_ROOM:
                return result
            taken = result.counts().get(Fate.TAKEN, 0)
            await asyncio.sleep(_NO_ROOM_PAUSE)

    def _check_directory(self, root: Path) -> None:
        """Look whether everything is there that the medium's own directory names."""
        try:
            directories = [path for path in root.iterdir() if path.name.upper() == _DICOMDIR and _regular(path)]
        except OSError as e:
            self._missing(root, f"it cannot be looked through for a DICOMDIR: {e.strerror or e}")
            return
        for directory in directories:
            try:
                named = referenced(directory)
            except DirectoryError as e:
                self._missing(directory, str(e))
                continue
            for name in named:
                if why := _absent(root, name):
                    self._missing(root / name, f"the DICOMDIR names it, but {why}")

    def _missing(self, path: Path, why: str) -> None:
        self.tally.missing += 1
        self.tally.refuse(str(path), why)

    async def _tell(self) -> None:
        while True:
            await self._teller.tell(self._progress(over=False))
            await asyncio.sleep(_TELL_EVERY)

    def _progress(self, *, over: bool) -> Progress:
        tally = self.tally
        return Progress(
            name=self._source.address,
            media=self._media,
            files=tally.files,
            files_done=tally.files_done,
            bytes=tally.bytes,
            bytes_done=self.bytes_done(),
            refused=tally.failures(),
            over=over,
        )


def _count_once(result: Result, taken: int) -> None:
    """Count ``taken`` objects of an archive as taken: they are there because an attempt took them that had no end."""
    again = min(taken, result.objects.get(Fate.ALREADY, 0))
    if again:
        result.objects[Fate.ALREADY] -= again
        result.objects[Fate.TAKEN] = result.objects.get(Fate.TAKEN, 0) + again


def _regular(path: Path) -> bool:
    """Whether it is a file itself, and no link to one. Raises OSError."""
    return stat.S_ISREG(path.lstat().st_mode)


def _absent(root: Path, name: PurePath) -> str:
    """Say why a file is not there; empty where it is. A CD's names may be shown in lower case."""
    why = "it is not there"
    for path in (root / name, root / str(name).lower()):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as e:
            why = f"it cannot be looked at: {e.strerror or e}"
        except ValueError:
            why = "that is no name of a file"
        else:
            return ""
    return why


def _resolve(path: Path) -> _Place:
    """Say what to walk. Raises OSError."""
    path = path.resolve(strict=True)
    if path.is_dir():
        spool = path / "spool"
        return _Place(spool, "", spool=True) if (spool / "ready").is_dir() else _Place(path, "", spool=_in_spool(path))
    return _Place(path.parent, "" if path.name.upper() == _DICOMDIR else path.name, spool=_in_spool(path))


def _in_spool(path: Path) -> bool:
    """Whether it is the ``spool`` of a box, one of its folders or a file in them."""
    return any((above / "ready").is_dir() and (above / "incoming").is_dir() for above in (path, *path.parents[:3]))


def _entries(place: _Place) -> Iterator[Entry]:
    return iter([tree.look(place.root / place.only)]) if place.only else tree.walk(place.root)
