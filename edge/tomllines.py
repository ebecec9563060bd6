"""On which line of a TOML text each key stands: what `tomllib` knows and does not tell.

For a text that `tomllib` has taken. For any other the map holds what was understood up to the first surprise:
lines are a courtesy in messages, nothing is decided by them.
"""

import contextlib
import re
import tomllib
from bisect import bisect_right
from typing import Final

Path = tuple[str | int, ...]
"""Keys from the root, with the index (from 0) after the key of a list: ``("destination", 0, "host")``."""

_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*+")
_SPACE: Final = re.compile(r"[ \t]*+")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_DEEPEST: Final = 64
"""Keys in a row that are followed: each costs a path as long as all before it."""
_PLAIN: Final = re.compile(r"[^,\]}\n#]+")


class _LostError(Exception):
    """The text is not what the scanner expects."""


def scan(text: str) -> dict[Path, int]:
    """Lines, from 1, by path. RecursionError for nesting about as deep as `tomllib` itself refuses."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    with contextlib.suppress(_LostError):
        scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._tables: dict[Path, int] = {}
        """How many elements each array of tables has so far."""

    def document(self) -> None:
        here: Path = ()
        while not self._ended():
            line = self._line()
            if self._takes("[["):
                here = self._header(self._key(), line, element=True)
                self._expect("]]")
            elif self._takes("["):
                here = self._header(self._key(), line, element=False)
                self._expect("]")
            else:
                self._pair(here)

    def _header(self, keys: list[str], line: int, *, element: bool) -> Path:
        path: Path = ()
        for key in keys[:-1]:
            path = self._latest((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, keys[-1])
        if element:
            self.lines.setdefault(path, line)
            count = self._tables[path] = self._tables.get(path, 0) + 1
            path = (*path, count - 1)
        self.lines[path] = line
        return path

    def _latest(self, path: Path) -> Path:
        # [destination.tls] means the destination that was opened last
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _pair(self, here: Path) -> None:
        line = self._line()
        for key in self._key():
            here = (*here, key)
            self.lines.setdefault(here, line)
        self._expect("=")
        self._value(here)

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        if self._takes("["):
            self._array(path)
        elif self._takes("{"):
            self._inline_table(path)
        elif self._match(_STRING) is None and self._match(_PLAIN) is None:
            raise _LostError

    def _array(self, path: Path) -> None:
        index = 0
        while not self._closes("]"):
            self.lines[*path, index] = self._line()
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            self._takes(",")

    def _inline_table(self, path: Path) -> None:
        while not self._closes("}"):
            self._pair(path)
            self._skip(_BLANK)
            self._takes(",")

    def _key(self) -> list[str]:
        keys: list[str] = []
        while not keys or self._takes("."):
            if len(keys) == _DEEPEST:
                raise _LostError
            self._skip(_SPACE)
            if bare := self._match(_BARE_KEY):
                keys.append(bare)
            elif quoted := self._match(_STRING):
                keys.append(_unquoted(quoted))
            else:
                raise _LostError
            self._skip(_SPACE)
        return keys

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)

    def _ended(self) -> bool:
        self._skip(_BLANK)
        return self._at >= len(self._text)

    def _closes(self, sign: str) -> bool:
        if self._ended():
            raise _LostError
        return self._takes(sign)

    def _expect(self, sign: str) -> None:
        if not self._takes(sign):
            raise _LostError

    def _takes(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        if found:
            self._at += len(sign)
        return found

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._match(pattern)

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found.group()


def _unquoted(text: str) -> str:
    try:
        value = tomllib.loads(f"key = {text}")["key"]
    except ValueError:
        raise _LostError from None
    return str(value)
