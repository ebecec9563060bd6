"""Quantities and times as people read them, in their language."""

import time
from datetime import datetime
from typing import Final

from edge.web.language import Language

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_THOUSAND: Final = 1000
_FIVE_DIGITS: Final = 10_000


def count(number: int) -> str:
    """Write a number with its thousands apart, by a space as in every language (ISO 80000-1 7.3.1)."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if number >= _FIVE_DIGITS else str(number)


def size(number: float) -> str:
    """Write bytes in thousands, as disks and cards are sold."""
    for unit in _UNITS[:-1]:
        if number < _THOUSAND:
            return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"  # noqa: PLR2004
        number /= _THOUSAND
    return f"{number:.1f} {_UNITS[-1]}"


def rate(bytes_per_second: float) -> str:
    """Write a rate."""
    return f"{size(bytes_per_second)}/s"


def span(seconds: float, language: Language) -> str:
    """Write a duration in its largest sensible unit, rounded: nobody plans by seconds."""
    if seconds < _MINUTE:
        return language.ngettext("%(n)s second", "%(n)s seconds", max(1, int(seconds)))
    if seconds < 2 * _HOUR:
        return language.ngettext("%(n)s min", "%(n)s min", round(seconds / _MINUTE))
    if seconds < 2 * _DAY:
        return language.ngettext("%(n)s hour", "%(n)s hours", round(seconds / _HOUR))
    return language.ngettext("%(n)s day", "%(n)s days", round(seconds / _DAY))


def moment(stamp: str, now: float) -> str:
    """Write an RFC 3339 ``stamp`` by the clock of the box: the time today, else the day before it."""
    at = datetime.fromisoformat(stamp).timestamp()
    local, today = time.localtime(at), time.localtime(now)
    if (local.tm_year, local.tm_yday) == (today.tm_year, today.tm_yday):
        return time.strftime("%H:%M", local)
    return time.strftime("%Y-%m-%d %H:%M", local)
