"""When a server wants to be asked again: Retry-After (RFC 9110 10.2.3)."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 3600.0
"""Seconds that are waited at the most, whatever it says."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait, 0 to an hour; None where it does not say, or not in a way that can be read.

    A date is compared with the server's own, where it gives that: our clock, ``now`` in seconds since 1970, may be
    wrong.
    """
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:9]), LONGEST)
    then = _timestamp(said)
    if then is None:
        return None
    there = _timestamp(headers.get("date", ""))
    return min(max(then - (now if there is None else there), 0.0), LONGEST)


def _timestamp(text: str) -> float | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
