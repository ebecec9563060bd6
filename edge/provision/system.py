"""What is asked of the system that only root on the box itself may do: a seam, so that all else runs in a test."""

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final, Protocol

_LONGEST: Final = 20.0
"""Seconds of another program."""


class System(Protocol):
    """The system."""

    def hostname(self) -> str:
        """Return its name now."""

    def set_hostname(self, name: str) -> None:
        """Name it until it stops. Raises OSError."""

    def give(self, path: Path) -> None:
        """Have the appliance own ``path``. Raises OSError."""

    def let_read(self, path: Path) -> None:
        """Have root own ``path``, and the group of the appliance. Raises OSError."""

    def remount(self, folder: Path, *, writable: bool) -> None:
        """Mount what is mounted at ``folder`` again. Raises OSError."""

    def sync(self) -> None:
        """Have everything that was written on every disk."""

    def run(self, *words: str) -> None:
        """Run another program. Raises OSError where it cannot be run or fails, with what it said."""


class Machine:
    """The system that this program runs on, for root."""

    def __init__(self, user: str = "edge") -> None:
        self._user = user

    def hostname(self) -> str:
        """Return its name now."""
        return socket.gethostname()

    def set_hostname(self, name: str) -> None:
        """Name it until it stops. Raises OSError."""
        if name != socket.gethostname():
            socket.sethostname(name)

    def give(self, path: Path) -> None:
        """Have the appliance own ``path``. Raises OSError."""
        uid, gid = self._ids()
        os.chown(path, uid, gid, follow_symlinks=False)

    def let_read(self, path: Path) -> None:
        """Have root own ``path``, and the group of the appliance. Raises OSError."""
        os.chown(path, 0, self._ids()[1], follow_symlinks=False)

    def remount(self, folder: Path, *, writable: bool) -> None:
        """Mount what is mounted at ``folder`` again. Raises OSError."""
        self.run("mount", "-o", f"remount,{'rw' if writable else 'ro'}", str(folder))

    def sync(self) -> None:
        """Have everything that was written on every disk."""
        os.sync()

    def run(self, *words: str) -> None:
        """Run another program. Raises OSError where it cannot be run or fails, with what it said."""
        tool = shutil.which(words[0]) or words[0]
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                [tool, *words[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=_LONGEST, check=False
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"{words[0]} does not end") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
            raise OSError(f"{words[0]}: {said}")

    def _ids(self) -> tuple[int, int]:
        try:
            found = pwd.getpwnam(self._user)
        except KeyError:
            raise OSError(f"there is no user {self._user}: install the package, or make it") from None
        return found.pw_uid, found.pw_gid


class Folder:
    """A box in a folder: files only, nothing of this system is touched."""

    def hostname(self) -> str:
        """Return what no box is called."""
        return "localhost"

    def set_hostname(self, name: str) -> None:
        """Do nothing."""

    def give(self, path: Path) -> None:
        """Do nothing."""

    def let_read(self, path: Path) -> None:
        """Do nothing."""

    def remount(self, folder: Path, *, writable: bool) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing: each file is synced by itself."""

    def run(self, *words: str) -> None:
        """Do nothing."""
