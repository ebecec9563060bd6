"""What is remembered of files in a watched folder is forgotten when they are gone, so that the table does not grow.

Gone is what a complete walk did not see, and what is not there by its name either. A folder may also be empty because
its share is not mounted: nothing is forgotten while nothing at all is seen, or when the folder turns up in another file
system. Neither holds for ever: after `MOST_HOURS` of running, what is not seen is gone. What a watch took that is in no
configuration any more is forgotten by `edge/store/taken.py`.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from edge.clock import Clock
from edge.intake import tree
from edge.intake.tree import Entry
from edge.model import Origin
from edge.store import Store, taken
from edge.threads import Run

EVERY: Final = 3600.0
"""Seconds between two sweeps."""
MOST_HOURS: Final = 30 * 24
_BATCH: Final = 512
_DAY: Final = 86400.0
"""Seconds after which the mark is written anew: a watch whose mark is old is in no configuration any more."""


class _Mark(NamedTuple):
    """What is kept over restarts, in a row of its own."""

    device: int
    """The file system in which the folder was last seen."""
    strange: int = 0
    """Hours to wait, since that was another one."""
    empty: int = 0
    """Hours in which nothing was seen."""


class Sweep:
    """The memory of one watch, cleared."""

    def __init__(self, root: Path, place: str, store: Store, run: Run, clock: Clock) -> None:
        self._root = root
        self._place = place
        self._store = store
        self._run = run
        self._clock = clock
        self._mark: _Mark | None = None
        self._written = float("-inf")
        self._next = float("-inf")
        self._counted = clock.monotonic()
        self._seen = array("q")
        """Hashes of paths, in order once the walk is over: two that are alike cost a row that stays."""
        self._closed: list[str] = []
        """Folders that could not be looked into."""

    async def begin(self) -> None:
        """Begin a walk. Raises OSError, `StoreError`."""
        self._clear()
        mark = self._mark or await self._read()
        if mark is not None:
            await self._write(mark)  # also where the folder cannot be looked at: the watch is configured
        device = tree.signed(await self._run(partial(tree.device, self._root)))
        if mark is None or mark.device != device:
            new = _Mark(device)
            if mark is not None and await self._rows(""):
                new = _Mark(device, mark.strange or MOST_HOURS, mark.empty)
            await self._write(new)

    def see(self, entries: Sequence[Entry]) -> None:
        """Note what the walk saw."""
        if self._clock.monotonic() < self._next:
            return
        for entry in entries:
            path = tree.plain(entry.path)
            self._seen.append(hash(path))
            if entry.closed:
                self._closed.append(f"{path}/")

    async def end(self) -> None:
        """End a walk that was complete: forget, where it is time. Raises OSError, `StoreError`."""
        try:
            await self._end()
        finally:
            self._clear()

    async def _end(self) -> None:
        now = self._clock.monotonic()
        mark = self._mark
        if now < self._next or mark is None:
            return
        if not await self._rows(""):
            self._next = now + EVERY
            return
        if tree.signed(await self._run(partial(tree.device, self._root))) != mark.device:
            return  # it was mounted, or unmounted, meanwhile
        if now - self._counted >= EVERY:
            self._counted = now
            mark = mark._replace(strange=max(0, mark.strange - 1), empty=0 if self._seen else mark.empty + 1)
            await self._write(mark)
        if mark.strange:
            self._next = now + EVERY
            return
        if not self._seen and mark.empty < MOST_HOURS:
            return  # until something is seen
        self._next = now + EVERY
        self._seen = array("q", await self._run(partial(sorted, self._seen)))
        last = ""
        while rows := await self._rows(last):
            last = rows[-1].path
            if gone := await self._run(partial(self._gone, rows)):
                await self._store.forget_taken(gone)

    async def _rows(self, last: str) -> list[Origin]:
        return await self._store.taken_after(self._place, last, _BATCH if last else 1)

    def _gone(self, rows: Sequence[Origin]) -> list[Origin]:
        return [row for row in rows if not any(map(self._there, _names(row.path)))]

    def _there(self, path: str) -> bool:
        return self._was_seen(hash(path)) or path.startswith(tuple(self._closed)) or not tree.gone(self._root, path)

    def _was_seen(self, path: int) -> bool:
        at = bisect_left(self._seen, path)
        return at < len(self._seen) and self._seen[at] == path

    def _clear(self) -> None:
        self._seen = array("q")
        self._closed.clear()

    async def _read(self) -> _Mark | None:
        for row in await self._store.taken_after(self._marks, "", 1):
            return _Mark(row.mtime_ns, row.inode, row.size)
        return None

    async def _write(self, mark: _Mark) -> None:
        now = self._clock.monotonic()
        if mark == self._mark and now - self._written < _DAY:
            return
        row = Origin(place=self._marks, path="/", inode=mark.strange, size=mark.empty, mtime_ns=mark.device, ctime_ns=0)
        await self._store.remember(row)
        self._mark, self._written = mark, now

    @property
    def _marks(self) -> str:
        return taken.mark(self._place)


def _names(path: str) -> list[str]:
    """Give what may be the file's own name: a member of an archive follows it after an exclamation mark."""
    parts = path.split("!")
    names = ["!".join(parts[:count]) for count in range(1, len(parts) + 1)]
    # a member's name may lead anywhere
    return [name for name in names if name and ".." not in name.split("/")]
