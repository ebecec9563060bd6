"""Room for bytes that are made, sent and thrown away: files without a name, gone with the process.

What is short lies in memory, so that a disk that is full, or can only be read, is no reason to keep what would make
room. What is long goes to the disk, and leaves it the room that others count on.
"""

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

from edge.phrase import say

_IN_MEMORY: Final = 4 << 20
"""Bytes of what lies in memory at the most."""


class NoRoomError(Exception):
    """There is no room for it now."""


class Scratch:
    """Makes such files in ``folder``, leaving ``keep`` bytes of its disk free."""

    def __init__(self, folder: Path, keep: int = 0) -> None:
        self._folder = folder
        self._keep = keep

    def file(self, most: int) -> int:
        """Open a file that will get ``most`` bytes at the most; its descriptor. Raises `NoRoomError`, OSError."""
        if most <= _IN_MEMORY:
            return os.memfd_create("edge-scratch", os.MFD_CLOEXEC)
        at = os.statvfs(self._folder)
        if at.f_bavail * at.f_frsize < self._keep + most:
            raise NoRoomError(say("it needs {most} MiB of the disk for a moment, which are not free", most=most >> 20))
        try:
            return os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as e:
            if e.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                raise
        fd, name = tempfile.mkstemp(prefix="scratch-", dir=self._folder)
        Path(name).unlink()
        return fd
