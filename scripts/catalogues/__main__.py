"""Brings the catalogues of ``edge/locale`` up to what the code says, and compiles them; ``--check`` only compares.

New texts are added without a translation, and named; those that nobody says any more are dropped. Nothing is guessed.
Ends with 1 where a text has no translation, or, with ``--check``, where a file is not as it would be written.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from edge.translator import DOMAIN, FOLDER
from scripts.catalogues.extract import Said, collect
from scripts.catalogues.page import PAGE, page

LANGUAGES: Final = ("es",)
_PLURALS: Final = "nplurals=2; plural=(n != 1);"
"""Of every language so far."""


class Catalogue(Catalog):
    """A catalogue whose head says nothing of when and with what it was written: the same texts make the same file."""

    @property
    def num_plurals(self) -> int:
        """Forms of a plural."""
        return 2

    @property  # type: ignore[misc]  # nobody writes it
    def mime_headers(self) -> list[tuple[str, str]]:
        """Give the head."""
        return [
            ("Language", str(self.locale)),
            ("Plural-Forms", _PLURALS),
            ("MIME-Version", "1.0"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Transfer-Encoding", "8bit"),
        ]


def path_of(language: str, folder: Path = FOLDER) -> Path:
    """Return the catalogue that people edit; the compiled one lies beside it."""
    return folder / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def read(path: Path, language: str) -> Catalog:
    """Read a catalogue; one that is not there is empty."""
    if not path.exists():
        return Catalog(language, DOMAIN)
    with path.open("rb") as file:
        return read_po(file, language, DOMAIN)


def updated(old: Catalog, said: Sequence[Said], language: str) -> Catalog:
    """Return the catalogue of what is ``said``, with the translations of the ``old`` one."""
    new = Catalogue(language, DOMAIN, charset="utf-8", fuzzy=False)
    new.header_comment = f"# dicom-edge in {language}. Kept by scripts/catalogue."
    files: dict[tuple[str, str], set[str]] = {}
    for one in said:
        files.setdefault((one.text, one.many), set()).add(one.file)
    plural = {text for text, many in files if many}
    for (text, many), where in files.items():
        if text in plural and not many:
            continue
        known = old.get(text)
        string = known.string if known is not None and not known.fuzzy else ""
        if isinstance(string, (tuple, list)) != bool(many):
            string = ("", "") if many else ""
        elif isinstance(string, (tuple, list)):
            string = tuple(string[: new.num_plurals])
        new.add((text, many) if many else text, string, locations=[(file, 0) for file in sorted(where)])
    return new


def written(catalogue: Catalog) -> tuple[bytes, bytes]:
    """Return the two files of ``catalogue``: for people, and compiled."""
    po, mo = io.BytesIO(), io.BytesIO()
    write_po(po, catalogue, width=120, include_lineno=False)
    write_mo(mo, catalogue)
    return po.getvalue(), mo.getvalue()


def untranslated(catalogue: Catalog) -> list[str]:
    """Return the texts without a translation."""
    found = []
    for message in catalogue:
        strings = message.string if isinstance(message.string, (tuple, list)) else (message.string,)
        if message.id and not all(strings):
            found.append(message.id if isinstance(message.id, str) else message.id[0])
    return found


def main(arguments: Sequence[str], folder: Path = FOLDER, document: Path = PAGE) -> int:
    """Do it; the exit code."""
    said, code = collect(), 0
    for language in LANGUAGES:
        path = path_of(language, folder)
        catalogue = updated(read(path, language), said, language)
        contents = dict(zip((path, path.with_suffix(".mo")), written(catalogue), strict=True))
        missing = untranslated(catalogue)
        if not missing:
            contents[document] = page(catalogue).encode()
        for target, content in contents.items():
            if target.exists() and target.read_bytes() == content:
                continue
            if "--check" in arguments:
                print(f"{target} is not what the code says: run scripts/catalogue", file=sys.stderr)
                code = 1
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        for text in missing:
            print(f"{language}: not translated: {text}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
