"""Names of patients as people write them (PS3.5 6.2.1): each writing by itself, with the separators of its script.

A name has up to three writings, in letters, in characters and by sound, each of five parts. What stands first is what
the patient's papers say: characters where there are any. Nothing here escapes anything: templates do.
"""

import unicodedata
from typing import Final

import msgspec

_PARTS: Final = 5
"""Family, given, middle, prefix, suffix."""
_FIRST_IDEOGRAPH: Final = "\N{CJK RADICAL REPEAT}"
_MOST: Final = 200
"""Characters of a name that are shown."""


class Writing(msgspec.Struct, frozen=True):
    """One writing of a name."""

    text: str
    kind: str
    """``letters``, ``characters`` or ``sound``."""


def writings(name: str) -> tuple[Writing, ...]:
    """Return the writings of a PN value, the one to read first first; none where it names nobody."""
    letters, characters, sound = [_written(group) for group in (*name[:_MOST].split("=", 2), "", "")[:3]]
    found = [Writing(characters, "characters"), Writing(letters, "letters"), Writing(sound, "sound")]
    shown = [one for one in found if one.text]
    if len(shown) > 1 and shown[0].kind == "characters":
        # how it sounds says nothing more to who reads the letters
        shown = shown[:2]
    return tuple(shown)


def plain(name: str) -> str:
    """Return a name in one line, for a title; empty where it names nobody."""
    return " ".join(one.text if at == 0 else f"({one.text})" for at, one in enumerate(writings(name)))


def _written(group: str) -> str:
    parts = [" ".join(_visible(part).split()) for part in group.replace("=", " ").split("^")]
    family, given, middle, prefix, suffix = (*parts, *[""] * _PARTS)[:_PARTS]
    rest = " ".join(filter(None, (prefix, given, middle)))
    if _has_characters(family + rest):
        return " ".join(filter(None, (family, given, middle, prefix, suffix)))
    comma = "\N{ARABIC COMMA} " if _is_arabic(family) else ", "
    return comma.join(filter(None, (family, rest, suffix)))


def _visible(text: str) -> str:
    """Leave out what would control whatever shows it: control characters, and those that turn its direction."""
    return "".join(" " if unicodedata.category(c) in {"Cc", "Zl", "Zp"} else c for c in text if not _turns(c))


def _turns(character: str) -> bool:
    return "\N{LEFT-TO-RIGHT EMBEDDING}" <= character <= "\N{RIGHT-TO-LEFT OVERRIDE}" or (
        "\N{LEFT-TO-RIGHT ISOLATE}" <= character <= "\N{POP DIRECTIONAL ISOLATE}"
    )


def _has_characters(text: str) -> bool:
    """Whether it is written in characters of East Asia, where a family name is followed by a space."""
    return any(c >= _FIRST_IDEOGRAPH and unicodedata.category(c) == "Lo" for c in text)


def _is_arabic(text: str) -> bool:
    return any(unicodedata.bidirectional(c) == "AL" for c in text)
