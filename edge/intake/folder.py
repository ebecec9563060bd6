"""A watched folder: its finished files go through the door, and only then are moved, deleted or remembered.

One loop looks through the folder; what the file system tells of changes (watchdog) only makes it look sooner, for
network shares tell nothing and events get lost. Whatever is not taken stays where it is, and is a finding after a time.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import structlog

from edge.board import Board
from edge.clock import Clock
from edge.config import Watch
from edge.findings import Journal
from edge.intake import clearing, tree
from edge.intake.answers import Answers
from edge.intake.fate import Fate, Result
from edge.intake.news import News
from edge.intake.release import DONE, Release
from edge.intake.settling import Settling
from edge.intake.sweep import Sweep
from edge.intake.taker import Taker
from edge.intake.taking import Taking
from edge.intake.tree import Entry
from edge.phrase import N_, say, say_n
from edge.store import Store, StoreError
from edge.threads import Run

T = TypeVar("T")

_BATCH: Final = 512
_SOONEST: Final = 0.2
_SHARE: Final = 4
"""The loop rests so many times as long as it looked, at least `_SOONEST` seconds."""
_NO_ROOM_PAUSE: Final = 5.0
_SLOW_PAUSE: Final = 2.0
"""Seconds between looks, at least, while something goes on being taken."""
_TEMPORARY: Final = (".part", ".partial", ".filepart", ".crdownload", ".tmp", ".temp")

log = structlog.get_logger()


class FolderWatch:
    """Serves one ``[[watch]]``."""

    def __init__(
        self,
        watch: Watch,
        taker: Taker,
        store: Store,
        run: Run,
        *,
        board: Board,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self.name = watch.title
        self._watch = watch
        self._taker = taker
        self._store = store
        self._run = run
        self._gauge = board.watch(self.name)
        self._journal = journal
        self._clock = clock
        self._place = f"watch {self.name}"
        self._settling = Settling(watch.settle, watch.patience)
        self._release = Release(watch, run)
        self._taking = Taking(self._take)
        self._no_room = False
        self._ripe_in: float | None = None
        """Seconds from the end of the last pass to when something may be finished."""
        self._looked = 0.0
        """Seconds that the last pass spent on looking, not on taking."""
        self._hint = asyncio.Event()
        self._answers = Answers(watch.path, f"watch.{self.name}", journal, clock)
        self._sweep = Sweep(watch.path, self._place, store, run, clock)

    async def run(self) -> None:
        """Watch until cancelled."""
        news = News(self._watch.path, DONE, self._hint)
        asking = asyncio.ensure_future(self._answers.run())
        try:
            while True:
                self._hint.clear()
                if await self._look():
                    if await self._run(news.begin):
                        self._hint.set()  # what came between the look and the first news
                else:
                    news.end()
                await self._rest()
        finally:
            asking.cancel()
            news.end(over=True)
            await self._taking.end()

    async def _look(self) -> bool:
        """Go through the folder once; whether it is there."""
        component = f"watch.{self.name}"
        try:
            await self._pass()
        except OSError as e:
            self._journal.state(
                "WATCH_MISSING", component, say("{path}: {error}", path=self._watch.path, error=e.strerror or e)
            )
            return False
        except StoreError as e:
            log.warning("watch waits for the store", watch=self.name, error=str(e))
            return True
        self._journal.clear("WATCH_MISSING", component)
        self._tell(component)
        return True

    async def _pass(self) -> None:
        """Look at every file, take those that are ripe. Raises OSError where the folder cannot be read."""
        self._settling.begin(self._clock.monotonic())
        self._release.begin()
        self._no_room, self._ripe_in, self._looked = False, None, 0.0
        self._taking.check()
        await self._sweep.begin()
        entries = tree.walk(self._watch.path, DONE)
        try:
            while batch := await self._timed(self._listed(entries)):
                self._sweep.see(batch)
                await self._batch(batch)
                if self._no_room:
                    return
        finally:
            closing = asyncio.ensure_future(self._run(partial(_close, entries)))
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # else nobody waits for a share that may hang
                await closing
        self._ripe_in = self._settling.end(self._clock.monotonic(), self._watch.rescan)
        if self._taking.paths():
            self._ripe_in = max(self._ripe_in or 0.0, _SLOW_PAUSE)
        await self._sweep.end()

    async def _listed(self, entries: Iterator[Entry]) -> list[Entry]:
        """Give the next entries; none at the end."""
        with self._answers.expected():
            return list(await self._run(lambda: list(islice(entries, _BATCH))))

    async def _batch(self, found: Sequence[Entry]) -> None:
        busy = self._taking.paths()
        entries = [
            entry
            for entry in found
            # where one is being taken, it may just be on its way
            if not (clearing.hidden(entry) and (busy or await self._release.put_back(entry)))
        ]
        files = [entry for entry in entries if not entry.odd]
        known = await self._timed(self._store.taken([entry.origin(self._place) for entry in files]))
        before = {entry.path for entry, was in zip(files, known, strict=True) if was}
        now = self._clock.monotonic()
        ripe = [entry for entry in entries if entry.path not in before and self._settling.ripe(entry, now)]
        await self._taking.batch([entry for entry in ripe if entry.path not in busy])
        for entry in files:
            if entry.path in before and entry.path not in busy:
                await self._release.release(entry)

    async def _take(self, entry: Entry) -> None:
        if self._no_room:
            return
        begun = self._clock.monotonic()
        if clearing.hidden(entry):
            result = Result(Fate.UNFINISHED, N_("it was on its way out of here, and another file has its name"))
        elif _temporary(entry.path) and not entry.odd:
            result = Result(Fate.UNFINISHED, N_("its name is that of a file that is still written"))
        else:
            rested = self._settling.left_for(entry, begun)
            result = await self._taker.take(
                self._watch.path, entry, entry.origin(self._place), believe=rested >= self._watch.patience
            )
        taken = result.counts().get(Fate.TAKEN, 0)
        self._gauge.taken += taken
        if result.fate in (Fate.TAKEN, Fate.ALREADY):
            self._settling.gone(entry)
            await self._release.release(entry)
        elif result.fate is Fate.NO_ROOM:
            self._no_room = True
        else:
            now = self._clock.monotonic()
            # what of an archive was taken is not looked at once more
            self._settling.leave(entry, result.fate, result.why, now, 0.0 if taken else now - begun)

    def _tell(self, component: str) -> None:
        """Show what waits and what was left."""
        settling = self._settling
        self._gauge.waiting = settling.waiting()
        self._gauge.left = settling.told
        if settling.told:
            self._journal.state("WATCH_LEFT", component, _describe(self.name, settling.told, settling.named))
        else:
            self._journal.clear("WATCH_LEFT", component)
        if self._release.stuck:
            self._journal.state("WATCH_STUCK", component, self._release.stuck)
        else:
            self._journal.clear("WATCH_STUCK", component)

    async def _timed(self, work: Awaitable[T]) -> T:
        """Wait for ``work``, and count it as looking."""
        begun = self._clock.monotonic()
        done = await work
        self._looked += self._clock.monotonic() - begun
        return done

    async def _rest(self) -> None:
        """Wait until something may be ripe, the file system tells of a change, or it is time to look anyway."""
        if self._no_room:
            await asyncio.sleep(_NO_ROOM_PAUSE)
            return
        least = max(_SOONEST, _SHARE * self._looked)
        await asyncio.sleep(least)
        rest = self._watch.rescan - least
        if self._ripe_in is not None:
            rest = min(rest, self._ripe_in - least)
        if rest > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._hint.wait()


def _close(entries: Generator[Entry]) -> None:
    """End a walk, which holds folders open; one that still hangs in a thread ends when that does."""
    with contextlib.suppress(ValueError):
        entries.close()


def _temporary(path: str) -> bool:
    """Whether a name in it is one that programs give to files, or folders, which they rename once they are whole."""
    return any(name.startswith((".", "~")) or name.lower().endswith(_TEMPORARY) for name in path.split("/"))


def _describe(name: str, told: int, named: Sequence[tuple[str, str]]) -> str:
    """Say how many files were left, and why the first few were."""
    few = "; ".join(say("{path}: {why}", path=path, why=why) for path, why in named)
    if told > len(named):
        more = told - len(named)
        return say("{told} files in {name}: {few}; and {more} more", told=told, name=name, few=few, more=more)
    return say_n("1 file in {name}: {few}", "{n} files in {name}: {few}", told, name=name, few=few)
