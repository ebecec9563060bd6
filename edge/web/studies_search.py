"""Which studies a page shows: those of today, all of them, or what somebody searched for.

What is searched for names patients, so it stays here and addresses have a random word for it: browsers, proxies and
logs keep addresses. A search is forgotten after many others, and at a restart.
"""

import re
import secrets
import time
from collections import OrderedDict
from typing import Final

import msgspec

from edge.store import StudyFilter

TODAY: Final = "today"
ALL: Final = "all"
_MOST: Final = 256
"""Searches that are remembered."""
_GOOD_FOR: Final = 10.0
"""Seconds after which it is searched anew while somebody looks at what was found."""
_LONGEST: Final = 64
"""Characters of one field."""
_DATE: Final = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")
_LOOK: Final = re.compile(r"([A-Za-z0-9_-]{1,32})(?:\.(\d{1,18}))?")


class DateError(ValueError):
    """What was entered is no date."""


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What was searched for."""

    words: str = ""
    """Of the name, or how the patient's id or the accession number begins."""
    modality: str = ""
    first: str = ""
    """YYYYMMDD, as the last."""
    last: str = ""

    @property
    def first_day(self) -> str:
        """As a date field of a form has it."""
        return day(self.first)

    @property
    def last_day(self) -> str:
        """As a date field of a form has it."""
        return day(self.last)


class Look(msgspec.Struct, frozen=True):
    """One page of studies."""

    show: str = TODAY
    """`TODAY`, `ALL`, or the word for a search."""
    before: int | None = None
    """Where the page before it ended."""

    def __str__(self) -> str:
        """Write it so that `look` reads it."""
        return self.show if self.before is None else f"{self.show}.{self.before}"


class Found(msgspec.Struct, frozen=True):
    """What a search had found at a time, which is monotonic; ``more``: whether there was more."""

    at: float
    ids: tuple[int, ...]
    more: bool


class Searches:
    """Remembers what was searched for."""

    def __init__(self) -> None:
        self._searches: OrderedDict[str, Search] = OrderedDict()
        self._found: OrderedDict[Look, Found] = OrderedDict()

    def add(self, search: Search) -> str:
        """Remember ``search``; the word for it."""
        while len(self._searches) >= _MOST:
            self._searches.popitem(last=False)
        word = secrets.token_urlsafe(12)
        self._searches[word] = search
        return word

    def find(self, word: str) -> Search | None:
        """Return what ``word`` stands for."""
        search = self._searches.get(word)
        if search is not None:
            self._searches.move_to_end(word)
        return search

    def found(self, look: Look, now: float) -> Found | None:
        """Return what is known to be on a page of a search, where it was searched a moment ago."""
        found = self._found.get(look)
        return found if found is not None and 0 <= now - found.at < _GOOD_FOR else None

    def put(self, look: Look, found: Found) -> None:
        """Remember what was found."""
        while len(self._found) >= _MOST:
            self._found.popitem(last=False)
        self._found[look] = found


def look(text: str) -> Look:
    """Read what `Look` writes; today's studies where it is anything else."""
    match = _LOOK.fullmatch(text)
    if match is None:
        return Look()
    return Look(match[1], None if match[2] is None else int(match[2]))


def search(words: str, modality: str, first: str, last: str) -> Search:
    """Read the fields of a form. Raises `DateError`."""
    return Search(
        words=" ".join(words[:_LONGEST].split()),
        modality=modality[:_LONGEST].strip().upper(),
        first=_date(first),
        last=_date(last),
    )


def which(shown: Look, searched: Search | None, now: float) -> StudyFilter:
    """Say it to the store; ``now`` is wall time."""
    if searched is not None:
        return StudyFilter(
            words=searched.words,
            modality=searched.modality,
            first_date=searched.first,
            last_date=searched.last,
            before=shown.before,
        )
    return StudyFilter(since=midnight(now) if shown.show == TODAY else None, before=shown.before)


def midnight(now: float) -> float:
    """Return when the day of ``now`` began, by the clock of the box."""
    local = time.localtime(now)
    return time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1))


def day(date: str) -> str:
    """Write YYYYMMDD as YYYY-MM-DD, and what is none as it is."""
    match = _DATE.fullmatch(date)
    return date if match is None else "-".join(match.groups())


def _date(text: str) -> str:
    text = text.strip()
    match = _DATE.fullmatch(text)
    if text and match is None:
        raise DateError(text)
    return "" if match is None else "".join(match.groups())
