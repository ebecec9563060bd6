"""The patterns of routes: ``*`` any text, ``?`` one character, everything else itself.

Names are compared as they are written. Texts, which people and scanners type, are compared without regard to case,
accents and width, so that ``*torax*`` finds both TORAX and Tórax.
"""

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import translate
from typing import Final

_ACCENTS: Final = re.compile("[\u0300-\u036f]")


class Pattern:
    """One pattern; ``exact`` for names."""

    def __init__(self, text: str, *, exact: bool) -> None:
        self.text = text
        self._exact = exact
        plain = text if exact else folded(text)
        # a bracket is no pattern here: descriptions are full of them
        self._matches = re.compile(translate(plain.replace("[", "[[]"))).match

    def matches(self, text: str) -> bool:
        """Whether ``text`` is such."""
        return self._matches(text if self._exact else folded(text)) is not None


def any_matches(patterns: Iterable[Pattern], texts: Iterable[str]) -> bool:
    """Whether any of ``texts`` is such as any of ``patterns`` says."""
    told = tuple(texts)
    return any(pattern.matches(text) for pattern in patterns for text in told)


def folded(text: str) -> str:
    """Write ``text`` without what does not count: case, Latin accents, width."""
    if text.isascii():
        return text.lower()
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", bare).casefold()
