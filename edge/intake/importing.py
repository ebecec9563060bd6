"""An import: files, folders, media, archives and spools of other boxes, read here and handed over to the appliance.

What is there already is not handed over again, so an import that was stopped is simply begun again. Nothing is written
where files are read.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from edge.dicom.dicomdir import DirectoryError, referenced
from edge.intake import tree
from edge.intake.handover import Progress, RemoteReceiver
from edge.intake.taker import Fate, Result, Run, Taker
from edge.intake.tree import Entry
from edge.model import Source

MOST_REASONS: Final = 1000
"""Files that are named with the reason why they were not taken."""
_DICOMDIR: Final = "DICOMDIR"
_BATCH: Final = 256
_TELL_EVERY: Final = 1.0
_NO_ROOM_PAUSE: Final = 5.0


class Refusal(msgspec.Struct, frozen=True):
    """A file that was not taken."""

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
        return self.objects[Fate.REFUSED] + self.objects[Fate.UNFINISHED] + self.missing

    def note(self, path: str, size: int, result: Result) -> None:
        """Count the file ``path`` of ``size`` bytes."""
        self.files_done += 1
        self.bytes_done += size
        self.objects.update(result.counts())
        for name, why in result.reasons:
            self.refuse(f"{path}!{name}", why)
        if not result.reasons and result.fate in (Fate.REFUSED, Fate.UNFINISHED):
            self.refuse(path, result.why)

    def refuse(self, path: str, why: str) -> None:
        """Note why something was not taken."""
        if len(self.refused) < MOST_REASONS:
            self.refused.append(Refusal(path, why))


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

    async def run(self) -> Tally:
        """Import everything. Raises OSError where a path cannot be read at all, `HandoverError`."""
        places = [await self._run(partial(_resolve, path)) for path in self._paths]
        for root, only in places:
            await self._run(partial(self._count, root, only))
        telling = asyncio.ensure_future(self._tell())
        try:
            for root, only in places:
                await self._import(root, only)
        finally:
            telling.cancel()
            await asyncio.wait((telling,))
        await self._teller.tell(self._progress(over=True))
        return self.tally

    def bytes_done(self) -> int:
        """Bytes of files that are done, and of those that are on their way."""
        return min(self.tally.bytes, self.tally.bytes_done + sum(receiver.sent for receiver in self._receivers))

    def _count(self, root: Path, only: str) -> None:
        for entry in _entries(root, only):
            self.tally.files += 1
            self.tally.bytes += entry.size

    async def _import(self, root: Path, only: str) -> None:
        queue: asyncio.Queue[Entry | None] = asyncio.Queue(4 * len(self._receivers))
        entries = _entries(root, only)

        async def feed() -> None:
            while batch := await self._run(lambda: list(islice(entries, _BATCH))):
                for entry in batch:
                    await queue.put(entry)
            for _ in self._receivers:
                await queue.put(None)

        async def work(receiver: RemoteReceiver) -> None:
            taker = Taker(receiver, self._run, self._source, self._folder, self._room)
            while (entry := await queue.get()) is not None:
                result = await self._take(taker, root, entry)
                receiver.sent = 0
                self.tally.note(str(root / entry.path), entry.size, result)

        try:
            async with asyncio.TaskGroup() as group:
                for receiver in self._receivers:
                    group.create_task(work(receiver))
                group.create_task(feed())
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from None
        if not only:
            await self._run(partial(self._check_directory, root))

    async def _take(self, taker: Taker, root: Path, entry: Entry) -> Result:
        """Take one file; where the box takes nothing, wait until it does."""
        while True:
            result = await taker.take(root, entry, entry.origin(f"import {root}"))
            self.tally.waits = result.why if result.fate is Fate.NO_ROOM else ""
            if result.fate is not Fate.NO_ROOM:
                return result
            await asyncio.sleep(_NO_ROOM_PAUSE)

    def _check_directory(self, root: Path) -> None:
        """Look whether everything is there that the medium's own directory names."""
        for directory in [path for path in root.iterdir() if path.name.upper() == _DICOMDIR and path.is_file()]:
            try:
                named = referenced(directory)
            except DirectoryError as e:
                self._missing(directory, str(e))
                continue
            for name in named:
                # a CD's names may be shown in lower case
                if not (root / name).exists() and not (root / str(name).lower()).exists():
                    self._missing(root / name, "the DICOMDIR names it, but it is not there")

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


def _resolve(path: Path) -> tuple[Path, str]:
    """Say what to walk, and the one file of it that is meant, if it is one. Raises OSError."""
    path = path.resolve(strict=True)
    if path.is_dir():
        spool = path / "spool"
        return (spool, "") if (spool / "ready").is_dir() else (path, "")
    return (path.parent, "") if path.name.upper() == _DICOMDIR else (path.parent, path.name)


def _entries(root: Path, only: str) -> Iterator[Entry]:
    return iter([tree.look(root / only)]) if only else tree.walk(root)
