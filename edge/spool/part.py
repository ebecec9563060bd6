"""One object while it is written: streamed, hashed on the way, sealed, synced.

A part never raises while it is written: the first error is kept in ``error`` and the rest is thrown away, so that
the peer can be drained and answered.
"""

import hashlib
import os
from typing import Final

from edge.spool.sync import Syncer

_SYNC_EVERY: Final = 16 << 20
"""Bytes between two fdatasyncs, so that the last sync is short and dirty memory is bounded."""
FIRST: Final = 16 << 10
"""Bytes of the dataset's beginning kept in memory for the header."""


class Part:
    """A file in ``incoming/``. The object is the stream after ``head``."""

    def __init__(self, fd: int, number: int, head: bytes, syncer: Syncer, directory: int, most: int) -> None:
        self.id = number
        self.length = 0
        self.first = bytearray()
        self.error: OSError | None = None
        self.too_long = False
        self.pressure = False
        self._fd = fd
        self._offset = len(head)
        self._hash = hashlib.sha256()
        self._unsynced = 0
        self._syncer = syncer
        self._directory = directory
        self._most = most
        self._write(head)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the dataset so far."""
        return self._hash.digest()

    @property
    def failed(self) -> bool:
        """Whether the object cannot be kept."""
        return self.error is not None or self.too_long

    def write(self, fragment: memoryview, /) -> None:
        """Append one fragment of the dataset."""
        if self.failed:
            return
        size = len(fragment)
        if self.length + size > self._most:
            self.too_long = True
            return
        if self.length < FIRST:
            self.first += fragment[: FIRST - self.length]
        self._hash.update(fragment)
        self._write(fragment)
        self.length += size
        self._unsynced += size
        self.pressure = self._unsynced >= _SYNC_EVERY

    async def relieve(self) -> None:
        """Sync what was written so far."""
        self._unsynced = 0
        self.pressure = False
        if self.failed:
            return
        try:
            await self._syncer.data(self._fd)
        except OSError as e:
            self.error = e

    def read(self, offset: int, count: int) -> bytes:
        """Read back from the dataset. Raises OSError."""
        return os.pread(self._fd, count, self._offset + offset)

    async def seal(self, head: bytes) -> None:
        """Write ``head`` over the file's beginning, then sync file and directory side by side. Raises OSError."""
        if self.error is not None:
            raise self.error
        os.pwrite(self._fd, head, 0)
        listed = self._syncer.directory(self._directory)
        try:
            await self._syncer.file(self._fd)
        finally:
            await listed

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _write(self, data: bytes | memoryview) -> None:
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as e:
            self.error = e
