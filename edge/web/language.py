"""The language of one request: chosen by the reader, else by the browser, else by the configuration.

Catalogues are ``edge/locale/<code>/LC_MESSAGES/edge.mo``. A sentence that a catalogue lacks is shown in English: an
untranslated warning is better than none.
"""

import gettext
from pathlib import Path
from typing import Final

from markupsafe import Markup, escape

from edge.translator import DOMAIN, FOLDER, Translator

_OWN_NAMES: Final = {"en": "English", "es": "Español"}
_MOST_RANGES: Final = 20
"""Languages looked at in what a browser sends."""


class Language:
    """Says every text of the pages in one language."""

    def __init__(self, code: str, catalogue: gettext.NullTranslations) -> None:
        self.code = code
        """As in BCP 47, such as ``es``."""
        self.name = _OWN_NAMES.get(code, code)
        """What it calls itself."""
        self._catalogue = catalogue
        self._translator = Translator(catalogue)

    def gettext(self, text: str, /, **values: object) -> str:
        """Translate a whole sentence and fill in ``%(name)s``; values that are markup make the whole safe markup."""
        return _filled(self._catalogue.gettext(text), values)

    def ngettext(self, one: str, many: str, n: int, /, **values: object) -> str:
        """Translate the sentence for ``n``, which it may name as ``%(n)s``."""
        return _filled(self._catalogue.ngettext(one, many, n), {"n": n, **values})

    def say(self, text: str) -> str:
        """Translate a sentence that another room wrote, such as that of a light or a finding."""
        return self._translator.translate(text)


def _filled(text: str, values: dict[str, object]) -> str:
    if not values:
        return text
    if any(isinstance(value, Markup) for value in values.values()):
        return escape(text) % values
    return text % values


class Languages:
    """Those that there is a catalogue for, and English."""

    def __init__(self, default: str, folder: Path = FOLDER) -> None:
        """``default`` is spoken to whoever asks for none."""
        found = sorted(path.parent.parent.name for path in folder.glob(f"*/LC_MESSAGES/{DOMAIN}.mo"))
        self._all = {"en": Language("en", gettext.NullTranslations())}
        for code in found:
            self._all[code] = Language(code, gettext.translation(DOMAIN, folder, [code]))
        self._default = self._all.get(default, self._all["en"])

    @property
    def all(self) -> tuple[Language, ...]:
        """Every language, English first."""
        return tuple(self._all.values())

    def choose(self, wanted: str, accepted: str) -> Language:
        """Choose by what the reader ``wanted``, else by the header Accept-Language (RFC 9110 12.5.4)."""
        if wanted in self._all:
            return self._all[wanted]
        for code in _ranges(accepted):
            if code in self._all:
                return self._all[code]
        return self._default


def _ranges(header: str) -> list[str]:
    """Primary languages, the most wanted first."""
    found: list[tuple[float, str]] = []
    for item in header.split(",")[:_MOST_RANGES]:
        tag, _, weight = item.strip().partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if 0 < quality <= 1:
            found.append((-quality, tag.partition("-")[0].strip().lower()))
    return [code for _, code in sorted(found, key=lambda pair: pair[0])]
