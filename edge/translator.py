"""Says an English text of the core in another language, by finding again the template that it was made of.

The core speaks English and knows nothing of languages (`edge.phrase`), so a text may come from anywhere: memory, the
database, a socket, another process. A text whose template is not found stays as it is: an untranslated warning is
better than none. What a peer or a file had a part in is only ever a value, which is neither translated nor formatted,
except in the places `NESTED`, where sentences stand. Texts are matched without backtracking: no peer can make it slow.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from gettext import NullTranslations

DOMAIN: Final = "edge"
FOLDER: Final = Path(__file__).parent / "locale"
NESTED: Final = frozenset(
    {
        "accepted",
        "counts",
        "detail",
        "error",
        "few",
        "has",
        "hint",
        "long",
        "meaning",
        "odd",
        "places",
        "refused",
        "step",
        "taken",
        "title",
        "verified",
        "what",
        "where",
        "who",
        "why",
        "wrong",
    }
)
"""Names of places in which a sentence, a part of one or a list of them may stand, which is translated by itself."""
_NAMES: Final = frozenset({"accepted", "title", "verified"})
"""Those of them in which mostly a name stands, which may be a word of the catalogue by chance."""
_DEEPEST: Final = 5
"""Sentences in sentences."""
_LONGEST: Final = 2000
"""Characters of a text that is looked at."""
_MOST: Final = 50
"""Parts of a row."""
_WEAK: Final = 4
"""Letters below which too little is explained to be sure."""
_COLONS: Final = ((("", ": ", ""), "{title}: {detail}"), (("", ": ", "."), "{title}: {detail}."))
"""What has no word of its own is in no catalogue."""
_SEPARATORS: Final = ("; ", ", ")


class _Form(msgspec.Struct, frozen=True):
    """A template: the words between its places, one more than those, and what it is in the language."""

    words: tuple[str, ...]
    names: tuple[str, ...]
    said: str
    letters: int
    """Letters of its own."""

    def match(self, text: str) -> dict[str, str] | None:
        """Return what stands in the places of ``text``; None where it was not made of this template."""
        if not (text.startswith(self.words[0]) and text.endswith(self.words[-1])):
            return None
        values: dict[str, str] = {}
        at, last = len(self.words[0]), len(self.names) - 1
        for i, (name, word) in enumerate(zip(self.names, self.words[1:], strict=True)):
            end = len(text) - len(word) if i == last else text.find(word, at)
            if end <= at or values.setdefault(name, text[at:end]) != text[at:end]:
                return None
            at = end + len(word)
        return values


def parts(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take a template apart: the words between its places, and their names. Raises ValueError where it is none."""
    words: list[str] = [""]
    names: list[str] = []
    for word, name, spec, conversion in Formatter().parse(template):
        words[-1] += word
        if name is not None:
            if not name.isidentifier() or spec or conversion:
                raise ValueError(f"{template!r} has a place that is not just a name")
            names.append(name)
            words.append("")
    return tuple(words), tuple(names)


class _Said(msgspec.Struct, frozen=True):
    """What a text is in the language, and how many of its letters that explains."""

    text: str
    letters: int


class Translator:
    """Says texts in one language."""

    def __init__(self, catalogue: "NullTranslations | None" = None) -> None:
        """``catalogue`` is that of the language; without one everything stays as it is."""
        # the standard library offers no way to list a catalogue
        entries: dict[object, str] = getattr(catalogue, "_catalog", {})
        self._whole: dict[str, str] = {}
        self._forms: list[_Form] = []
        for text, said in entries.items():
            if isinstance(text, str) and text and said:
                self._add(text, said)
        # last: a template that explains as much counts first
        self._forms += [_Form(words, ("title", "detail"), said, 0) for words, said in _COLONS]
        self._known = functools.lru_cache(maxsize=1024)(self._translate)

    def _add(self, text: str, said: str) -> None:
        try:
            words, names = parts(text)
        except ValueError:  # braces of another kind
            names = words = ()
        if names and "%(" not in text:
            self._forms.append(_Form(words, names, said, _letters("".join(words))))
        self._whole[text] = said

    def translate(self, text: str) -> str:
        """Say ``text``, which may be a template too, where it is known; else return it as it is."""
        return self._known(text) if self._whole and len(text) <= _LONGEST else text

    def _translate(self, text: str) -> str:
        return _Reading(self._whole, self._forms).of(text, 0).text


class _Reading:
    """One text that is read; what stands in it more than once is read once, however it is taken apart."""

    def __init__(self, whole: dict[str, str], forms: Sequence[_Form]) -> None:
        self._whole = whole
        self._forms = forms
        self._read: dict[str, _Said] = {}

    def of(self, text: str, depth: int) -> _Said:
        """Read ``text``: of all that it may have been made of, as what explains most of it."""
        if text in self._whole:
            return _Said(self._whole[text], _letters(text))
        best = self._read.get(text, _Said(text, 0))
        if text in self._read or depth > _DEEPEST:
            return best
        for form in self._forms:
            values = form.match(text)
            if values is not None and (found := self._filled(form, values, depth)).letters > best.letters:
                best = found
        self._read[text] = best
        return best

    def _filled(self, form: _Form, values: dict[str, str], depth: int) -> _Said:
        """Say what was made of ``form``; it explains nothing where it is too weak to be sure that it was."""
        said, letters = dict(values), form.letters
        for name in NESTED.intersection(values):
            if name in _NAMES and " " not in values[name]:
                continue
            part = self._part(values[name], depth + 1)
            said[name] = part.text
            letters += part.letters
        # "CT1 at 192.168.10.20": known by the place in which it stands, and by what looks like an address
        bare = depth and NESTED.isdisjoint(values) and " " not in values[form.names[-1]]
        if letters < _WEAK and not bare:
            letters = 0
        return _Said(form.said.format(**said), letters)

    def _part(self, text: str, depth: int) -> _Said:
        """Say what stands in a place: a sentence, or several in a row."""
        best = self.of(text, depth)
        for separator in _SEPARATORS:
            row = text.split(separator)
            if 1 < len(row) <= _MOST:
                read = [self.of(one, depth + 1) for one in row]
                letters = sum(one.letters for one in read)
                if letters > best.letters:
                    best = _Said(separator.join(one.text for one in read), letters)
        return best


def _letters(text: str) -> int:
    return sum(c.isalpha() for c in text)


@functools.cache
def translator(language: str) -> Translator:
    """Return the translator into ``language``, such as ``es``; one that changes nothing where there is none."""
    import gettext  # noqa: PLC0415 - only for who speaks another language

    return Translator(gettext.translation(DOMAIN, FOLDER, [language], fallback=True))
