"""Versions as they are written, and which of two is the older one.

The numbers count first, each as a number. Of the same numbers one with letters after them (``1.2.3rc1``,
``1.2.3-beta``, ``1.2.3.dev4``) came before the one without, except where they are ``post`` or stand after a ``+``: that
came after it. Among such before, and among such after, the letters count by the alphabet, then the number behind them.
"""

import re
from typing import Final

END: Final = r"$(?!\n)"
PATTERN: Final = r"^[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}([-.+]?[a-z][a-z0-9]{0,15})?" + END
_PARTS: Final = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)([-.+]?)([a-z]*)([0-9]*)(.*)")


def is_version(text: str) -> bool:
    """Whether ``text`` is written like 1.2.3, perhaps with letters after it."""
    return re.search(PATTERN, text) is not None


def is_older(version: str, than: str) -> bool:
    """Whether ``version`` is the older one. Raises ValueError where one of them is no version."""
    return _rank(version) < _rank(than)


def _rank(version: str) -> tuple[int, int, int, int, str, int, str]:
    parts = _PARTS.fullmatch(version) if is_version(version) else None
    if parts is None:
        raise ValueError(f"{version!r} is no version")
    first, second, third, mark, word, number, rest = parts.groups()
    place = 0
    if word:
        place = 1 if mark == "+" or word == "post" else -1
    return int(first), int(second), int(third), place, word, int(number or 0), rest
