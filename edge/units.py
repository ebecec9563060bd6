"""Quantities as people write them in the configuration: "90s", "2GiB", "8Mbit/s", "20:00-06:00".

Pure functions from text to plain numbers. Each raises ValueError with a sentence that says what was given and
what would have been right. A number without a unit is always an error: nobody can tell what was meant.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

SECONDS: Final[Mapping[str, Decimal]] = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}

BYTES: Final[Mapping[str, Decimal]] = {
    "B": Decimal(1),
    "kB": Decimal(10**3),
    "KB": Decimal(10**3),
    "MB": Decimal(10**6),
    "GB": Decimal(10**9),
    "TB": Decimal(10**12),
    "KiB": Decimal(2**10),
    "MiB": Decimal(2**20),
    "GiB": Decimal(2**30),
    "TiB": Decimal(2**40),
}

BYTES_PER_SECOND: Final[Mapping[str, Decimal]] = {
    "bit/s": Decimal(1) / 8,
    "kbit/s": Decimal(10**3) / 8,
    "Mbit/s": Decimal(10**6) / 8,
    "Gbit/s": Decimal(10**9) / 8,
} | {f"{unit}/s": factor for unit, factor in BYTES.items()}

# twelve digits are more than any quantity here needs, and keep the arithmetic exact
_QUANTITY: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z/]*)")
_HOURS: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


def duration(text: str) -> float:
    """Seconds in ``text``: a number and one of ms, s, m, h, d."""
    return float(_quantity(text, SECONDS, "a duration", '"90s", "10m", "72h" or "5d"'))


def size(text: str) -> int:
    """Bytes in ``text``: a number and B, a decimal unit (kB, MB …) or a binary one (KiB, MiB …)."""
    return int(_quantity(text, BYTES, "a size", '"256KiB", "16MB" or "2GiB"'))


def rate(text: str) -> int:
    """Bytes per second in ``text``, rounded down: bits (bit/s, kbit/s, Mbit/s, Gbit/s) or a size and /s."""
    found = int(_quantity(text, BYTES_PER_SECOND, "a rate", '"8Mbit/s", "500kbit/s" or "1MiB/s"'))
    if not found:
        raise ValueError(f'{_shown(text)} is less than a byte a second; write for example "500kbit/s"')
    return found


def hours(text: str) -> tuple[int, int]:
    """Return the minutes of the day at which ``text`` begins and ends; it may reach over midnight."""
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError(f'{_shown(text)} is not a span of hours; write for example "20:00-06:00"')
    hour, minute, last_hour, last_minute = map(int, match.groups())
    begin, end = hour * 60 + minute, last_hour * 60 + last_minute
    if begin == end:
        raise ValueError(f'{_shown(text)} begins when it ends; write for example "20:00-06:00"')
    return begin, end


def _quantity(text: str, units: Mapping[str, Decimal], what: str, examples: str) -> Decimal:
    match = _QUANTITY.fullmatch(text)
    if match is None or (match[2] and match[2] not in units):
        raise ValueError(f"{_shown(text)} is not {what}; write for example {examples}")
    if not match[2]:
        raise ValueError(f"{_shown(text)} has no unit; write for example {examples}")
    return Decimal(match[1]) * units[match[2]]


def _shown(text: str) -> str:
    return f'"{text}"' if len(text) <= 40 else f'"{text[:39]}…"'
