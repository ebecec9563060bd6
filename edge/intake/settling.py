"""When a file is finished: nothing about it has changed for a while. Pure, by an injected clock.

Bounded: so many files are waited for at once; others wait until these have gone. Files that were looked at and left are
remembered apart, so that they are not looked at again until they change, or a while has passed. There may be a hundred
thousand of them, so neither a name nor a size is kept: a file is a hash of all that is known of it, and files that were
left alike share what is known of that. Two files with the same hash cost nothing but a look that comes late.
"""

import math
from dataclasses import dataclass
from typing import Final, TypeVar

from edge.intake.fate import Fate
from edge.intake.tree import Entry

T = TypeVar("T")

MOST_WAITED_FOR: Final = 10_000
MOST_LEFT: Final = 100_000
NAMED: Final = 3
"""Files that are named of those that were left."""
_OFTEN: Final = 60.0
_SELDOM: Final = 3600.0
"""Seconds after which, at the latest, a file is looked at again though nothing of it has changed: one that is not whole
may have been locked, or its file system may be slow to tell; room for one that is too large comes without its doing.
"""
_REST: Final = 20
"""A file that took long to look at rests at least so many times as long."""
_ALIKE: Final = 4
"""Times are counted in so many parts of a second, so that many files share one."""
_CANDIDATES: Final = 64


@dataclass(slots=True)
class _Left:
    """What files have in common that were looked at and left, some in the same moment."""

    fate: Fate
    why: str
    since: float
    """Monotonic: when they were first left."""
    again: float
    """Monotonic: when they are looked at again."""
    pause: float


class Settling:
    """What one watch knows of its files from pass to pass.

    Of what was seen in this pass and of what was not yet there are two tables, and at the end of a complete one what is
    still in the latter is gone.
    """

    def __init__(self, settle: float, patience: float) -> None:
        """A file is finished after ``settle`` seconds; it is told after ``patience`` that one was left."""
        self._settle = settle
        self._patience = patience
        self._waiting: dict[int, tuple[int, float]] = {}
        """By path: what the file was, and since when it is so."""
        self._waiting_unseen: dict[int, tuple[int, float]] = {}
        self._left: dict[int, _Left] = {}
        """By what the file is."""
        self._left_unseen: dict[int, _Left] = {}
        self._alike: dict[tuple[Fate, str, float, float, float], _Left] = {}
        """What this pass left, to be shared."""
        self._begun = 0.0
        self._candidates: list[tuple[int, str]] = []
        self.told = 0
        """How many files were left for longer than the patience, with a reason, as of the last complete pass."""
        self.named: list[tuple[str, str]] = []
        """The first few of them, with their reasons."""

    def begin(self, now: float) -> None:
        """Begin a pass over the folder."""
        self._begun = now
        self._alike.clear()
        self._candidates.clear()
        # unless the last pass was complete, what it did not see may still be there
        self._waiting_unseen.update(self._waiting)
        self._left_unseen.update(self._left)
        self._waiting, self._left = {}, {}

    def ripe(self, entry: Entry, now: float) -> bool:
        """Whether a file that is seen at ``now`` is finished and should be looked at."""
        what, path = _hash(entry), hash(entry.path)
        left = self._left_unseen.pop(what, None) or self._left.get(what)
        if left is not None:
            self._left[what] = left
            self._note(what, entry, left)
            return now >= left.again
        known = self._waiting_unseen.pop(path, None) or self._waiting.get(path)
        if known is None and len(self._waiting) + len(self._waiting_unseen) >= MOST_WAITED_FOR:
            return False
        if known is None or known[0] != what:
            self._waiting[path] = (what, now)
            return False
        self._waiting[path] = known
        return now - known[1] >= self._settle

    def leave(self, entry: Entry, fate: Fate, why: str, now: float, took: float = 0.0) -> None:
        """Remember that a file was looked at, for ``took`` seconds, and left."""
        what = _hash(entry)
        _forget(self._waiting, self._waiting_unseen, hash(entry.path))
        old = _forget(self._left, self._left_unseen, what)
        if old is None and len(self._left) + len(self._left_unseen) >= MOST_LEFT:
            return
        now = math.ceil(now * _ALIKE) / _ALIKE
        most = _OFTEN if fate in (Fate.UNFINISHED, Fate.TOO_LARGE) else _SELDOM
        pause = min(most, 2 * old.pause if old is not None else self._settle)
        if fate is Fate.NOT_DICOM:
            pause = _SELDOM
        since = old.since if old is not None else now
        again = now + max(pause, int(_REST * took))
        left = self._alike.setdefault((fate, why, since, again, pause), _Left(fate, why, since, again, pause))
        self._left[what] = left
        self._note(what, entry, left)

    def left_for(self, entry: Entry, now: float) -> float:
        """Return the seconds since a file was first left as it is now; 0 where it was not."""
        what = _hash(entry)
        left = self._left.get(what) or self._left_unseen.get(what)
        return max(0.0, now - left.since) if left is not None else 0.0

    def gone(self, entry: Entry) -> None:
        """Forget a file that was taken."""
        _forget(self._waiting, self._waiting_unseen, hash(entry.path))
        _forget(self._left, self._left_unseen, _hash(entry))

    def end(self, now: float, rescan: float = 0.0) -> float | None:
        """End a pass that was complete: forget what was not seen. Seconds until something is ripe; None if nothing is.

        What it found too large is not looked at again for ``rescan`` seconds.
        """
        self._waiting_unseen, self._left_unseen = {}, {}
        for left in self._alike.values():
            if left.fate is Fate.TOO_LARGE:
                left.again = max(left.again, now + rescan)
        self.told = sum(1 for left in self._left.values() if self._overdue(left))
        known = [(path, self._left[what].why) for what, path in self._candidates if what in self._left]
        self.named = list(dict.fromkeys(known))[:NAMED]
        due = [since + self._settle for _, since in self._waiting.values()]
        due += [left.again for left in self._left.values()]
        return max(0.0, min(due) - now) if due else None

    def waiting(self) -> int:
        """How many files are waited for."""
        return len(self._waiting) + len(self._waiting_unseen)

    def _overdue(self, left: _Left) -> bool:
        # a DICOMDIR is left without a word
        return bool(left.why) and self._begun - left.since >= self._patience

    def _note(self, what: int, entry: Entry, left: _Left) -> None:
        if len(self._candidates) < _CANDIDATES and self._overdue(left):
            self._candidates.append((what, entry.path))


def _forget(known: dict[int, T], unseen: dict[int, T], key: int) -> T | None:
    return known.pop(key, None) or unseen.pop(key, None)


def _hash(entry: Entry) -> int:
    return hash((entry.path, entry.inode, entry.size, entry.mtime_ns, entry.ctime_ns, entry.odd))
