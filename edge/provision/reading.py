"""From ``provision.toml`` to a `Profile`, with every problem at once: the configuration's own reader, another table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge import tomllines

# the reader walks any struct by its types; what else that module says of itself is about the configuration
from edge.configfile import ConfigError, Problem, Reader, document_of, text_of
from edge.provision.profile import Profile


class Marks:
    """On which line each key stands, keys being dotted as a `Problem` names them."""

    def __init__(self, document: Mapping[str, Any], lines: Mapping[tomllines.Path, int]) -> None:
        self._lines = {_dotted(document, path): line for path, line in lines.items()}

    @classmethod
    def of(cls, path: Path) -> "Marks":
        """Read a file; no marks where it cannot be read."""
        try:
            text = text_of(path)
            return cls(*document_of(text))
        except ConfigError:
            return cls({}, {})

    def line(self, key: str) -> int | None:
        """Return the line of ``key``, or of the closest table around it."""
        while key:
            if key in self._lines:
                return self._lines[key]
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return None


def read_profile(path: Path) -> tuple[Profile, Marks, tuple[Problem, ...]]:
    """Read the file at ``path``: the tables of it that are good, where its keys stand, and everything that is wrong."""
    try:
        text = text_of(path)
        document, lines = document_of(text)
    except ConfigError as e:
        whole = tuple(Problem(p.line, "" if p.key == str(path) else p.key, p.text) for p in e.problems)
        return Profile(), Marks({}, {}), whole
    reader = Reader(document, lines)
    profile = reader.value(Profile, document, ())
    if reader.problems:
        profile = _good_of(document, lines)
    problems = sorted(reader.problems, key=lambda problem: problem.line or 0)
    return profile, Marks(document, lines), tuple(map(_advised, problems))


def _good_of(document: Mapping[str, Any], lines: Mapping[tomllines.Path, int]) -> Profile:
    """Return the tables that are good by themselves, so that more can be said of them."""
    good: dict[str, Any] = {}
    for field in msgspec.structs.fields(Profile):
        reader = Reader(document, lines)
        value = reader.value(field.type, document.get(field.name, {}), (field.name,))
        if field.name in document and not reader.problems:
            good[field.name] = value
    return Profile(**good)


def _advised(problem: Problem) -> Problem:
    """Where a secret stands at a wrong place: here is one for it, other than in the configuration."""
    if problem.text.startswith("a secret never stands in the configuration"):
        text = (
            'unknown key; the password stands in [dashboard] as "password", other secrets in files that [files] names'
        )
        return Problem(problem.line, problem.key, text)
    return problem


def _dotted(document: Mapping[str, Any], path: tomllines.Path) -> str:
    words = ""
    at: Any = document
    for part in path:
        if isinstance(part, str):
            words += f".{part}" if words else part
            at = at.get(part) if isinstance(at, dict) else None
        else:
            at = at[part] if isinstance(at, list) and part < len(at) else None
            name = at.get("name") if isinstance(at, dict) else None
            words += f".{name}" if isinstance(name, str) and name else f"[{part + 1}]"
    return words
