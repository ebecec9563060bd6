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
from edge.intake.news import News
from edge.intake.settling import Left, Settling
from edge.intake.sweep import Sweep
from edge.intake.taker import Fate, Result, Run, Taker
from edge.intake.tree import ChangedError, Entry
from edge.store import Store, StoreError

T = TypeVar("T")

DONE: Final = "done"
"""The folder, in the watched one, into which files are moved; it is not watched."""

_SMALL: Final = 128 << 10
_SMALL_AT_ONCE: Final = 64
_LARGE_AT_ONCE: Final = 4
"""Files taken at once, up to so many bytes and above: each costs its beginning in memory."""
_BATCH: Final = 512
_SOONEST: Final = 0.2
_SHARE: Final = 4
"""The loop rests so many times as long as it looked, at least `_SOONEST` seconds."""
_NO_ROOM_PAUSE: Final = 5.0
_NAMED: Final = 3
"""Files named in a finding."""
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
        self._settling = Settling(watch.settle)
        self._stuck = ""
        """Why a file that was taken could be neither moved nor deleted, in this pass."""
        self._no_room = False
        self._ripe_in: float | None = None
        """Seconds from the end of the last pass to when something may be finished."""
        self._looked = 0.0
        """Seconds that the last pass spent on looking, not on taking."""
        self._hint = asyncio.Event()
        self._answers = Answers(watch.path, f"watch.{self.name}", journal, clock)
        self._large: set[str] = set()
        """Files for which there was no room, in this pass."""
        self._sweep = Sweep(watch.path, self._place, store, run, clock)

    async def run(self) -> None:
        """Watch until cancelled."""
        news = News(self._watch.path, DONE, self._hint)
        asking = asyncio.ensure_future(self._answers.run())
        try:
            while True:
                self._hint.clear()
                if await self._look():
                    await self._run(news.begin)
                else:
                    news.end()
                await self._rest()
        finally:
            asking.cancel()
            news.end(over=True)

    async def _look(self) -> bool:
        """Go through the folder once; whether it is there."""
        component = f"watch.{self.name}"
        try:
            await self._pass()
        except OSError as e:
            self._journal.state("WATCH_MISSING", component, f"{self._watch.path}: {e.strerror or e}")
            return False
        except StoreError as e:
            log.warning("watch waits for the store", watch=self.name, error=str(e))
            return True
        self._journal.clear("WATCH_MISSING", component)
        self._tell(component)
        return True

    async def _pass(self) -> None:
        """Look at every file, take those that are ripe. Raises OSError where the folder cannot be read."""
        self._settling.begin()
        self._large.clear()
        self._no_room, self._ripe_in, self._stuck, self._looked = False, None, "", 0.0
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
        now = self._clock.monotonic()
        for left in self._settling.left(now, 0.0):
            if left.entry.path in self._large:
                left.again = max(left.again, now + self._watch.rescan)
        self._ripe_in = self._settling.end(now)
        await self._sweep.end()

    async def _listed(self, entries: Iterator[Entry]) -> list[Entry]:
        """Give the next entries; none at the end."""
        with self._answers.expected():
            return list(await self._run(lambda: list(islice(entries, _BATCH))))

    async def _batch(self, found: Sequence[Entry]) -> None:
        entries = [entry for entry in found if not (clearing.hidden(entry) and await self._put_back(entry))]
        files = [entry for entry in entries if not entry.odd]
        known = await self._timed(self._store.taken([entry.origin(self._place) for entry in files]))
        before = {entry.path for entry, was in zip(files, known, strict=True) if was}
        now = self._clock.monotonic()
        ripe = [entry for entry in entries if entry.path not in before and self._settling.ripe(entry, now)]
        small, large = asyncio.Semaphore(_SMALL_AT_ONCE), asyncio.Semaphore(_LARGE_AT_ONCE)

        async def one(entry: Entry) -> None:
            async with small if entry.size <= _SMALL else large:
                if not self._no_room:
                    await self._take(entry)

        try:
            async with asyncio.TaskGroup() as group:
                for entry in ripe:
                    group.create_task(one(entry))
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from e
        for entry in files:
            if entry.path in before:
                await self._release(entry)

    async def _take(self, entry: Entry) -> None:
        if clearing.hidden(entry):
            result = Result(Fate.UNFINISHED, "it was on its way out of here, and another file has its name")
        elif _temporary(entry.path) and not entry.odd:
            result = Result(Fate.UNFINISHED, "its name is that of a file that is still written")
        else:
            rested = self._settling.left_for(entry, self._clock.monotonic())
            result = await self._taker.take(
                self._watch.path, entry, entry.origin(self._place), believe=rested >= self._watch.patience
            )
        taken = result.counts().get(Fate.TAKEN, 0)
        self._gauge.taken += taken
        if result.fate in (Fate.TAKEN, Fate.ALREADY):
            self._settling.gone(entry)
            await self._release(entry)
        elif result.fate is Fate.NO_ROOM:
            self._no_room = True
        else:
            if result.fate is Fate.TOO_LARGE:
                self._large.add(entry.path)
            self._settling.leave(entry, result.fate, result.why, self._clock.monotonic())

    async def _release(self, entry: Entry) -> None:
        """Do with a taken file what the configuration says."""
        if self._watch.after == "keep":
            return
        act = partial(clearing.move, into=DONE) if self._watch.after == "move" else clearing.delete
        try:
            await self._run(partial(act, self._watch.path, entry))
        except ChangedError:
            pass  # another file has come in its place, and is looked at in its turn
        except OSError as e:
            self._stuck = f"{entry.path} in {self.name}: {e.strerror or e}"

    async def _put_back(self, entry: Entry) -> bool:
        """Give its name to a file that a kill left on its way: it is read again, and was taken or is taken then."""
        try:
            return bool(await self._run(partial(clearing.put_back, self._watch.path, entry)))
        except FileNotFoundError:
            return True  # somebody did
        except OSError as e:
            self._stuck = f"{entry.path} in {self.name}: {e.strerror or e}"
            return False

    def _tell(self, component: str) -> None:
        """Show what waits and what was left."""
        now = self._clock.monotonic()
        # a DICOMDIR is left without a word
        named = [one for one in self._settling.left(now, self._watch.patience) if one.why]
        self._gauge.waiting = self._settling.waiting()
        self._gauge.left = len(named)
        if named:
            self._journal.state("WATCH_LEFT", component, _describe(self.name, named))
        else:
            self._journal.clear("WATCH_LEFT", component)
        if self._stuck:
            self._journal.state("WATCH_STUCK", component, self._stuck)
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


def _describe(name: str, left: Sequence[Left]) -> str:
    """Say how many files were left, and why the first few were."""
    few = "; ".join(f"{one.entry.path}: {one.why}" for one in left[:_NAMED])
    more = f"; and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    files = "1 file" if len(left) == 1 else f"{len(left)} files"
    return f"{files} in {name}: {few}{more}"
