"""What a judge says of a node, and what all judges are told of the watch."""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

Word = Literal["ok", "FAILED", "unclear"]
_MOST: Final = 3
"""Problems named in a verdict."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``unclear`` is no failure: it could not be seen in this time, or not from here."""

    word: Word
    detail: str = ""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """How it was listened: until ``ended`` (seconds, as messages have them), for ``seconds``.

    ``now`` is the wall time at the end, in seconds since 1970. ``flags`` tells that retain flags are the sender's own
    (MQTT 5); without, only what stood there when we came has one.
    """

    ended: float
    seconds: float
    now: float
    flags: bool = True


def verdict(problems: Iterable[str], unclear: Iterable[str] = ()) -> Verdict:
    """Fail with ``problems``; without any, doubt with ``unclear``."""
    if found := list(problems):
        return Verdict(word="FAILED", detail=_some(found))
    if doubts := list(unclear):
        return Verdict(word="unclear", detail=_some(doubts))
    return Verdict(word="ok")


def _some(found: list[str]) -> str:
    more = len(found) - _MOST
    return "; ".join(found[:_MOST]) + (f"; and {more} more" if more > 0 else "")
