"""The part of the card that any computer shows: what was put there, the answer to it, and the wiping.

It is mounted read-only and made writable only while something is written. Names are found as people's editors leave
them: ``provision.toml.txt`` is the file that was meant. Raises OSError where the card does not do as it should.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge.fsync import replace_synced, sync_path
from edge.provision.system import System

SOURCE: Final = "provision.toml"
RESULT: Final = "provision-result.txt"
MOST: Final = 1 << 20
"""Bytes of a file that is taken."""


def lying(folder: Path, name: str) -> Path | None:
    """Return the file that is meant by ``name``; None where there is none."""
    for path in (folder / name, folder / f"{name}.txt"):
        if path.is_file():
            return path
    return None


class Card:
    """The folder in which somebody puts the file."""

    def __init__(self, folder: Path, system: System) -> None:
        self.folder = folder
        self._system = system

    @property
    def source(self) -> Path | None:
        """The file, where somebody has put one there."""
        return lying(self.folder, SOURCE)

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """Have it writable for a while. Raises OSError."""
        mounted = os.path.ismount(self.folder) and bool(os.statvfs(self.folder).f_flag & os.ST_RDONLY)
        if not mounted:
            yield
            return
        self._system.remount(self.folder, writable=True)
        try:
            yield
        finally:
            self._system.sync()
            self._system.remount(self.folder, writable=False)

    def answer(self, text: str) -> None:
        """Write the answer, unless it is there already, or there is no card. Raises OSError."""
        if not self.folder.is_dir():
            return
        # Windows reads it too
        data = text.replace("\n", "\r\n").encode("utf-8-sig")
        path = self.folder / RESULT
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return
        with self.writable():
            replace_synced(path, data)

    def wipe(self, names: tuple[str, ...]) -> None:
        """Overwrite and remove files, the last after all others are gone for good. Raises OSError."""
        with self.writable():
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    _wipe(self.folder / name)
                sync_path(self.folder)


def _wipe(path: Path) -> None:
    with path.open("r+b") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.write(bytes(length))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
