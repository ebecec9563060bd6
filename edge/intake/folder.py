"""A watched folder: its finished files go through the door, and only then are moved, deleted or remembered.

One loop looks through the folder; what the file system tells of changes (watchdog) only makes it look sooner, for
network shares tell nothing and events get lost. Whatever is not taken stays where it is, and is a finding after a time.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import structlog
from watchdog.events import FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from edge.board import Board
from edge.clock import Clock
from edge.config import Watch
from edge.findings import Journal
from edge.intake import tree
from edge.intake.settling import Left, Settling
from edge.intake.taker import Fate, Result, Run, Taker
from edge.intake.tree import ChangedError, Entry
from edge.model import Origin
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
_SWEEP_EVERY: Final = 3600.0
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
        self._swept_at = float("-inf")

    async def run(self) -> None:
        """Watch until cancelled."""
        observer: BaseObserver | None = None
        try:
            while True:
                self._hint.clear()
                there = await self._look()
                if there and observer is None:
                    observer = await self._run(partial(_observe, self._watch.path, self._told()))
                elif not there and observer is not None:
                    await self._run(observer.stop)
                    observer = None
                await self._rest()
        finally:
            if observer is not None:
                observer.stop()

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
        self._no_room, self._ripe_in, self._stuck, self._looked = False, None, "", 0.0
        entries = tree.walk(self._watch.path, DONE if self._watch.after == "move" else "")
        try:
            while batch := await self._timed(self._run(lambda: list(islice(entries, _BATCH)))):
                await self._batch(batch)
                if self._no_room:
                    return
        finally:
            await self._run(entries.close)  # it holds folders open
        self._ripe_in = self._settling.end(self._clock.monotonic())
        await self._sweep()

    async def _batch(self, entries: Sequence[Entry]) -> None:
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
        if _temporary(entry.path) and not entry.odd:
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
            self._settling.leave(entry, result.fate, result.why, self._clock.monotonic())

    async def _release(self, entry: Entry) -> None:
        """Do with a taken file what the configuration says."""
        if self._watch.after == "keep":
            return
        act = partial(tree.move, into=DONE) if self._watch.after == "move" else tree.delete
        try:
            await self._run(partial(act, self._watch.path, entry))
        except ChangedError:
            pass  # another file has come in its place, and is looked at in its turn
        except OSError as e:
            self._stuck = f"{entry.path} in {self.name}: {e.strerror or e}"

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

    def _told(self) -> "_Told":
        return _Told(asyncio.get_running_loop(), self._hint)

    async def _sweep(self) -> None:
        """Forget files that were taken and are not there any more, so that the table does not grow for ever."""
        now = self._clock.monotonic()
        if now - self._swept_at < _SWEEP_EVERY:
            return
        root = self._watch.path
        if self._watch.after == "keep" and not await self._run(lambda: any(root.iterdir())):
            return  # most likely a share that is not mounted: its files will be back
        last = ""
        while rows := await self._store.taken_after(self._place, last, _BATCH):
            last = rows[-1].path
            gone = await self._run(partial(_gone, root, rows))
            if gone:
                await self._store.forget_taken(gone)
        self._swept_at = now


class _Told(FileSystemEventHandler):
    """Hears of changes in a thread of watchdog's, and wakes the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hint: asyncio.Event) -> None:
        self._loop = loop
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Wake the loop, unless it is awake; our own reading is no news."""
        if isinstance(event, FileOpenedEvent) or event.event_type == "closed_no_write" or self._hint.is_set():
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._hint.set)


def _observe(path: Path, handler: _Told) -> BaseObserver | None:
    """Start to hear of changes; None where the system cannot tell: then the folder is looked through now and then."""
    observer = Observer()
    try:
        observer.schedule(handler, str(path), recursive=True)
        observer.start()
    except OSError as e:  # too many watches
        log.warning("no news of changes in a watched folder", error=e.strerror or str(e))
        return None
    return observer


def _gone(root: Path, rows: Sequence[Origin]) -> list[Origin]:
    def there(path: str) -> bool:
        return tree.exists(root, path) or tree.exists(root, path.partition("!")[0])

    return [row for row in rows if not there(row.path)]


def _temporary(path: str) -> bool:
    """Whether the name is one that programs give to files which they rename once they are whole."""
    name = path.rpartition("/")[2]
    return name.startswith((".", "~")) or name.lower().endswith(_TEMPORARY)


def _describe(name: str, left: Sequence[Left]) -> str:
    """Say how many files were left, and why the first few were."""
    few = "; ".join(f"{one.entry.path}: {one.why}" for one in left[:_NAMED])
    more = f"; and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    files = "1 file" if len(left) == 1 else f"{len(left)} files"
    return f"{files} in {name}: {few}{more}"
