"""Root's side reads what was asked for, in a folder that belongs to somebody else.

Whoever writes there may be hostile: no link is followed, nothing but a plain file of one name is read, not more of it
than a request can have, and what does not fit is thrown away. None of its content is ever repeated to anybody.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from edge.updating.wanted import BUNDLE, FOLDER, NAMES, Kind, Wanted, acceptable

_MOST_BYTES: Final = 4096
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotPlainError(Exception):
    """What lies there is no plain file, or no request."""


class Counter:
    """Where requests are handed over, below ``storage``."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage

    def look(self, kind: Kind) -> Wanted | None:
        """Return the request of ``kind``; None where there is none. Raises `NotPlainError`."""
        with self._opened() as folder:
            if folder is None:
                return None
            try:
                data = _plain(folder, NAMES[kind], _MOST_BYTES)
            except FileNotFoundError:
                return None
            except OSError as e:
                raise NotPlainError(e.strerror or str(e)) from e
        try:
            wanted = msgspec.json.decode(data, type=Wanted)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise NotPlainError("it is no request") from None
        if wanted.kind != kind or bool(wanted.url) != bool(wanted.version):
            raise NotPlainError("it is no request")
        if wanted.url and not acceptable(wanted.url):
            raise NotPlainError("it names a server that is not allowed")
        return wanted

    def discard(self, kind: Kind) -> None:
        """Throw away what was asked for. Raises OSError."""
        self._discard(NAMES[kind])

    def discard_bundle(self) -> None:
        """Throw away the file that was handed over. Raises OSError."""
        self._discard(BUNDLE)

    def bundle(self) -> BinaryIO:
        """Open the file that was handed over. Raises `NotPlainError` where there is none."""
        with self._opened() as folder:
            try:
                if folder is not None:
                    return os.fdopen(_open_plain(folder, BUNDLE), "rb")
            except OSError as e:
                raise NotPlainError(e.strerror or str(e)) from e
        raise NotPlainError("there is no file")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """Open the folder; None where there is none. Raises `NotPlainError`."""
        fd = self._open()
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def _open(self) -> int | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            above = os.open(self._storage, flags)
        except OSError:
            return None
        try:
            return os.open(FOLDER, flags | os.O_NOFOLLOW, dir_fd=above)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise NotPlainError(e.strerror or str(e)) from e
        finally:
            os.close(above)

    def _discard(self, name: str) -> None:
        with self._opened() as folder:
            if folder is None:
                return
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                return
            except (IsADirectoryError, PermissionError):
                # a folder, which may hold anything: out of the way is enough
                os.rename(name, f"refused-{time.time_ns()}", src_dir_fd=folder, dst_dir_fd=folder)
            with contextlib.suppress(OSError):
                os.fsync(folder)


def _open_plain(folder: int, name: str) -> int:
    """Open a plain file that has no other name. Raises OSError."""
    fd = os.open(name, _FLAGS, dir_fd=folder)
    at = os.fstat(fd)
    if not stat.S_ISREG(at.st_mode) or at.st_nlink != 1:
        os.close(fd)
        raise OSError(None, "it is no plain file")
    return fd


def _plain(folder: int, name: str, most: int) -> bytes:
    """Read a plain file. Raises OSError, also where it is longer than ``most``."""
    fd = _open_plain(folder, name)
    try:
        data = os.read(fd, most + 1)
    finally:
        os.close(fd)
    if len(data) > most:
        raise OSError(None, "it is too long")
    return data
