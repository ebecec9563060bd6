"""An import: files, folders, media, archives and spools of other boxes, read here and handed over to the appliance.

What is there already is not handed over again, so an import that was stopped is simply begun again. Nothing is written
where files are read. A medium that fails or is pulled out ends the reading of its place and nothing else: `Tally` says
so.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from edge.intake.fate import Fate, Result
from edge.intake.handover import Progress
from edge.intake.places import Place, entries, lacking, resolve
from edge.intake.remote import RemoteReceiver
from edge.intake.taker import Taker
from edge.intake.tally import Tally
from edge.intake.tree import Entry, plain
from edge.model import Source
from edge.threads import Run

_BATCH: Final = 256
_TELL_EVERY: Final = 1.0
_NO_ROOM_PAUSE: Final = 5.0


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
        tally: Tally,
    ) -> None:
        """``folder`` and ``room`` are for unpacking archives; ``source`` is who brings it all.

        ``teller`` is a connection of its own, on which the appliance hears how far it is. ``tally`` is what everything
        is counted in, as it comes.
        """
        self.tally = tally
        self._paths = paths
        self._receivers = receivers
        self._teller = teller
        self._run = run
        self._source = source
        self._media = media
        self._folder = folder
        self._room = room
        self._later: list[_Later] = []

    async def run(self) -> None:
        """Import everything that can be read. Raises `HandoverError`."""
        places = [place for path in self._paths if (place := await self._run(partial(self._resolve, path)))]
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

    def bytes_done(self) -> int:
        """Bytes of files that are done, and of those that are on their way."""
        return min(self.tally.bytes, self.tally.bytes_done + sum(receiver.sent for receiver in self._receivers))

    def _resolve(self, path: Path) -> Place | None:
        try:
            return resolve(path)
        except OSError as e:
            self.tally.break_off(path, e)
            return None

    def _count(self, place: Place) -> None:
        with contextlib.suppress(OSError):  # it is read once more, and then said
            for entry in entries(place):
                self.tally.files += 1
                self.tally.bytes += entry.size

    async def _import(self, place: Place) -> None:
        queue: asyncio.Queue[Entry | None] = asyncio.Queue(4 * len(self._receivers))
        found = entries(place)
        broken = len(self.tally.broken)

        async def feed() -> None:
            while batch := await self._run(partial(self._batch, place, found)):
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
        if not place.only and len(self.tally.broken) == broken:
            await self._run(partial(self._compare, place.root))

    def _batch(self, place: Place, found: Iterator[Entry]) -> list[Entry]:
        """Give the next files; none at the end, or behind what cannot be read."""
        batch: list[Entry] = []
        try:
            batch.extend(islice(found, _BATCH))  # what came before an error stays in it
        except OSError as e:
            self.tally.break_off(place.root, e)
        return batch

    async def _work(self, receiver: RemoteReceiver, place: Place, queue: "asyncio.Queue[Entry | None]") -> None:
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

    def _compare(self, root: Path) -> None:
        """Look whether everything is there that the medium's own directory names."""
        try:
            for path, why in lacking(root):
                self.tally.lack(path, why)
        except OSError as e:
            self.tally.break_off(root, e)

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
