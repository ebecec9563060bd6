"""One object while it is written: streamed, hashed on the way, sealed, synced.

Fragments gather on the event loop; hashing, writing and syncing go on in a thread, at most one job a part at a time, so
that a slow card holds up its own object and nothing else. A part never raises while it is written: the first error is
kept in ``error`` and the rest is thrown away, so that the peer can be drained and answered.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Final

from edge.spool.ledger import Reservation
from edge.spool.sync import Syncer

CHUNK: Final = 256 << 10
"""Bytes handed to a thread at once; up to three times as many are held for one object."""
_SYNC_EVERY: Final = 16 << 20
"""Bytes between two fdatasyncs, so that the last sync is short and dirty memory is bounded."""
FIRST: Final = 16 << 10
"""Bytes of the dataset's beginning kept in memory for the header."""


class FolderError(OSError):
    """The folder of parts could not be synced: that is nobody's object alone."""


class Part:
    """A file in ``incoming/``. The object is the stream after a head of ``head`` bytes, which `seal` writes."""

    def __init__(
        self, fd: int, number: int, head: int, syncer: Syncer, directory: int, most: int, room: Reservation
    ) -> None:
        self.id = number
        self.room = room
        self.length = 0
        self.first = bytearray()
        self.error: OSError | None = None
        self.too_long = False
        self.no_room = False
        self._fd = fd
        self._offset = head
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._written = 0
        self._unsynced = 0
        self._job: asyncio.Future[None] | None = None
        self._closing = False
        self._syncer = syncer
        self._directory = directory
        self._most = most

    @property
    def digest(self) -> bytes:
        """SHA-256 of the dataset, once sealed."""
        return self._hash.digest()

    @property
    def failed(self) -> bool:
        """Whether the object cannot be kept."""
        return self.error is not None or self.too_long or self.no_room

    @property
    def pressure(self) -> bool:
        """Whether the disk is behind by more than a chunk, so that `relieve` is due."""
        return self._job is not None and len(self._pending) >= CHUNK

    def write(self, fragment: memoryview, /) -> None:
        """Append one fragment of the dataset."""
        if self.failed:
            return
        size = len(fragment)
        if self.length + size > self._most:
            self.too_long = True
            return
        if self.length + size > self.room.granted and not self._more_room(self.length + size):
            return
        if self.length < FIRST:
            self.first += fragment[: FIRST - self.length]
        self._pending += fragment
        self.length += size
        if self._job is None and len(self._pending) >= CHUNK:
            self._hand_over()

    async def relieve(self) -> None:
        """Wait until the disk has caught up."""
        while self.pressure and self._job is not None:
            await asyncio.wait((self._job,))

    async def catch_up(self) -> None:
        """Wait until no thread works on the object. Raises the OSError that its writing met."""
        while self._job is not None:
            await asyncio.wait((self._job,))
        if self.error is not None:
            raise self.error

    def read(self, offset: int, count: int) -> bytes:
        """Read back from the dataset, after `catch_up`. Raises OSError."""
        written = b""
        if offset < self._written:
            written = os.pread(self._fd, min(count, self._written - offset), self._offset + offset)
            offset, count = offset + len(written), count - len(written)
        at = offset - self._written
        return written + self._pending[at : at + count] if count and at >= 0 else written

    async def seal(self, make_head: Callable[[bytes], bytes]) -> None:
        """Write the rest and the head that ``make_head`` gives for the digest; sync file and directory side by side.

        Raises OSError; the object must then be discarded.
        """
        await self.catch_up()
        rest, self._pending = self._pending, bytearray()
        listed = self._syncer.directory(self._directory)
        job = self._submit(lambda: self._finish(rest, make_head))
        # shielded: whoever gives up waiting stops neither the thread nor the round that others share
        await asyncio.shield(job)
        try:
            await asyncio.shield(listed)
        except OSError as e:
            raise FolderError(e.errno, e.strerror) from e

    def close(self) -> None:
        """Close the descriptor, now or when the thread that uses it is done; the file stays."""
        self._closing = True
        if self._job is None and self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _more_room(self, length: int) -> bool:
        try:
            self.no_room = not self.room.extend(length)
        except OSError as e:
            self.error = e
        return not self.failed

    def _hand_over(self) -> None:
        chunk, self._pending = self._pending, bytearray()
        self._submit(lambda: self._append(chunk))

    def _submit(self, work: Callable[[], None]) -> "asyncio.Future[None]":
        job = self._syncer.submit(work)
        self._job = job
        job.add_done_callback(self._done)
        return job

    def _done(self, job: "asyncio.Future[None]") -> None:
        error = job.exception()
        if isinstance(error, OSError) and self.error is None:
            self.error = error
        self._job = None
        if self._closing:
            self.close()
        elif not self.failed and len(self._pending) >= CHUNK:
            self._hand_over()

    # in a thread

    def _append(self, chunk: bytearray) -> None:
        self._hash.update(chunk)
        _write_all(self._fd, chunk, self._offset + self._written)
        self._written += len(chunk)
        self.room.written = self._written
        self._unsynced += len(chunk)
        if self._unsynced >= _SYNC_EVERY:
            self._unsynced = 0
            os.fdatasync(self._fd)

    def _finish(self, rest: bytearray, make_head: Callable[[bytes], bytes]) -> None:
        self._hash.update(rest)
        head = make_head(self._hash.digest())
        if self._written:
            _write_all(self._fd, rest, self._offset + self._written)
            _write_all(self._fd, head, 0)
        else:
            _write_all(self._fd, head + rest, 0)
        os.fsync(self._fd)


def _write_all(fd: int, data: bytes | bytearray, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        at += written
        view = view[written:]
