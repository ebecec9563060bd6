"""When a file is finished: nothing about it has changed for a while. Pure, by an injected clock.

Bounded: so many files are waited for at once; others wait until these have gone. Files that were looked at and left are
remembered apart, so that they are not looked at again until they change, or a while has passed.
"""

from dataclasses import dataclass
from typing import Final

from edge.intake.taker import Fate
from edge.intake.tree import Entry

MOST_WAITED_FOR: Final = 10_000
MOST_LEFT: Final = 100_000
_OFTEN: Final = 60.0
_SELDOM: Final = 3600.0
"""Seconds after which, at the latest, a file is looked at again though nothing of it has changed: one that is not whole
may have been locked, or its file system may be slow to tell; room for one that is too large comes without its doing.
"""


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    since: float


@dataclass(slots=True)
class Left:
    """A file that was looked at and left."""

    entry: Entry
    fate: Fate
    why: str
    since: float
    """Monotonic: when it was first left."""
    again: float
    """Monotonic: when it is looked at again."""
    pause: float


class Settling:
    """What one watch knows of its files from pass to pass."""

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._waiting: dict[str, _Waiting] = {}
        self._left: dict[str, Left] = {}
        self._seen: set[str] = set()

    def ripe(self, entry: Entry, now: float) -> bool:
        """Whether a file that is seen at ``now`` is finished and should be looked at."""
        left = self._left.get(entry.path)
        if left is not None and left.entry == entry:
            self._seen.add(entry.path)
            return now >= left.again
        self._left.pop(entry.path, None)  # it changed, and settles anew
        waiting = self._waiting.get(entry.path)
        if waiting is None and len(self._waiting) >= MOST_WAITED_FOR:
            return False
        self._seen.add(entry.path)
        if waiting is None or waiting.entry != entry:
            self._waiting[entry.path] = _Waiting(entry, now)
            return False
        return now - waiting.since >= self._settle

    def leave(self, entry: Entry, fate: Fate, why: str, now: float) -> None:
        """Remember that a file was looked at and left."""
        self._waiting.pop(entry.path, None)
        old = self._left.get(entry.path)
        if old is None and len(self._left) >= MOST_LEFT:
            return
        same = old is not None and old.entry == entry
        most = _OFTEN if fate in (Fate.UNFINISHED, Fate.TOO_LARGE) else _SELDOM
        pause = min(most, 2 * old.pause if old is not None and same else self._settle)
        if fate is Fate.NOT_DICOM:
            pause = _SELDOM
        since = old.since if old is not None and same else now
        self._left[entry.path] = Left(entry, fate, why, since, now + pause, pause)

    def left_for(self, entry: Entry, now: float) -> float:
        """Return the seconds since a file was first left as it is now; 0 where it was not."""
        left = self._left.get(entry.path)
        return now - left.since if left is not None and left.entry == entry else 0.0

    def gone(self, entry: Entry) -> None:
        """Forget a file that was taken."""
        self._waiting.pop(entry.path, None)
        self._left.pop(entry.path, None)

    def begin(self) -> None:
        """Begin a pass over the folder."""
        self._seen.clear()

    def end(self, now: float) -> float | None:
        """End a pass: forget what was not seen. Seconds until something will be ripe; None while nothing waits."""
        for known in (self._waiting, self._left):
            for path in [path for path in known if path not in self._seen]:
                del known[path]
        due = [waiting.since + self._settle for waiting in self._waiting.values()]
        due += [left.again for left in self._left.values()]
        return max(0.0, min(due) - now) if due else None

    def waiting(self) -> int:
        """How many files are waited for."""
        return len(self._waiting)

    def left(self, now: float, patience: float) -> list[Left]:
        """Files that were left for longer than ``patience`` seconds."""
        return [left for left in self._left.values() if now - left.since >= patience]
