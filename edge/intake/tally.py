"""What an import came to, so far: counts, and the reasons of what was not taken."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from edge.intake.fate import Fate, Result
from edge.intake.tree import plain
from edge.phrase import say

MOST_REASONS: Final = 1000
"""Files that are named with the reason why they were not taken."""
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
    broken: list[Refusal] = field(default_factory=list)
    """What could not be read to its end: what is behind that was not even seen."""
    waits: str = ""
    """Why the box takes nothing at the moment."""

    def failures(self) -> int:
        """How many objects were not taken although they should have been."""
        return self.missing + len(self.broken) + sum(self.objects[fate] for fate in _FAILED)

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

    def lack(self, path: Path, why: str) -> None:
        """Note a file that should be there and is not."""
        self.missing += 1
        self.refuse(str(path), why)

    def break_off(self, path: Path, error: OSError) -> None:
        """Note that ``path`` could not be read to its end."""
        why = say("it could not be read to its end: {error}", error=error.strerror or error)
        self.broken.append(Refusal(plain(str(path)), why))
