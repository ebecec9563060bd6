"""Secrets in files: read when they are needed, again when the file has changed, and never said."""

import os
import stat
from pathlib import Path
from typing import Final

from edge.dicomweb.errors import LoginError
from edge.phrase import say

_MOST: Final = 64 << 10


class SecretFile:
    """One file that holds a secret; for worker threads as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[tuple[int, int, int], bytes] | None = None

    def read(self) -> bytes:
        """Return what the file holds now, 1 byte to 64 KiB. Blocks. Raises `LoginError`, which names the file only."""
        try:
            with open(self._path, "rb", opener=_at_once) as file:
                state = os.fstat(file.fileno())
                if not stat.S_ISREG(state.st_mode):
                    raise LoginError(say("{path} is no regular file", path=self._path))
                mark = (state.st_ino, state.st_size, state.st_mtime_ns)
                if self._known is None or self._known[0] != mark:
                    self._known = mark, file.read(_MOST + 1)
        except OSError as e:
            raise LoginError(say("{path} cannot be read ({error})", path=self._path, error=e.strerror or e)) from None
        data = self._known[1]
        if not data or len(data) > _MOST:
            raise LoginError(
                say("{path} is empty", path=self._path)
                if not data
                else say("{path} is too long to be a secret", path=self._path)
            )
        return data

    def line(self) -> str:
        """Return its one line, without the line break. Blocks. Raises `LoginError`."""
        try:
            text = self.read().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            text = ""
        if not text or not text.isprintable():
            raise LoginError(say("{path} must hold one line of text, the secret, and nothing else", path=self._path))
        return text

    def word(self) -> str:
        """Return its one line, which stands in a header as it is. Blocks. Raises `LoginError`."""
        return as_word(self.line(), str(self._path))


def doubt(path: Path) -> str:
    """Say what is wrong with the file of a secret, as this user finds it; nothing where all is well. Blocks."""
    try:
        SecretFile(path).read()
        everyone = path.stat().st_mode & stat.S_IROTH
    except LoginError as e:
        return str(e)
    except OSError as e:
        return f"{path} cannot be read ({e.strerror or e})"
    return f"{path} can be read by everyone: let nobody but the user of the appliance (chmod 600)" if everyone else ""


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for who writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def as_word(text: str, where: str) -> str:
    """Return ``text`` if it can be a token (RFC 6750 2.1). Raises `LoginError` with ``where`` it comes from."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise LoginError(
            say("what {where} gives is no token: it must be letters, digits and signs without spaces", where=where)
        )
    return text
