"""One object while it is written: streamed, hashed on the way, sealed, synced.

Fragments gather on the event loop; hashing, writing and syncing go on in a thread, at most one a part at a time, so
that a slow card holds up its own object and nothing else. What is left to do when the last byte has come is appended to
the work of the thread that is at it already: each way back to the loop and to another thread costs as much as a write.
A part never raises while it is written: the first error is kept in ``error`` and the rest is thrown away, so that the
peer can be drained and answered.
"""

import asyncio
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Final

from edge.spool.ledger import Reservation
from edge.spool.sync import Syncer

CHUNK: Final = 256 << 10
"""Bytes handed to a thread at once; up to three times as many are held for one object."""
_SMALL: Final = 64 << 10
"""Bytes hashed on the event loop, where that is all there is: it takes less time than waking a thread."""
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
        self._works: deque[Callable[[], None]] = deque()
        self._working = False
        self._failure: Exception | None = None
        self._lock = Lock()
        """Guards the three before it, which the loop and the thread share."""
        self._closing = False
        self._discarded = False
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
        """Whether the disk is behind by more than a chunk, or there is too much, so that `relieve` is due."""
        return self.too_long or (self.busy and len(self._pending) >= CHUNK)

    @property
    def busy(self) -> bool:
        """Whether a thread works on the object, so that only `first` can be read."""
        return self._job is not None

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
        while self._job is not None and len(self._pending) >= CHUNK:
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
        if self.error is not None:
            raise self.error
        rest, self._pending = self._pending, bytearray()
        listed = self._syncer.directory(self._directory)
        if len(rest) == self.length <= _SMALL:
            self._hash.update(rest)
            whole = make_head(self._hash.digest()) + rest
            job = self._submit(lambda: self._end(whole))
        else:
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
            if self._discarded:
                self._syncer.submit(lambda: os.close(fd))
            else:
                os.close(fd)

    def discard(self, unlink: Callable[[], None]) -> None:
        """Close it and have ``unlink`` delete the file, in threads: to let go of gigabytes takes a disk a while."""
        self._discarded = True
        self._pending = bytearray()
        self._syncer.submit(partial(_attempt, unlink))
        self.close()

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
        with self._lock:
            self._works.append(work)
            if self._working and self._job is not None:
                return self._job
            self._working = True
        job = self._job = self._syncer.submit(self._work)
        job.add_done_callback(self._done)
        return job

    def _done(self, job: "asyncio.Future[None]") -> None:
        error = job.exception()
        if isinstance(error, OSError) and self.error is None:
            self.error = error
        if self._job is not job:
            return  # another was begun while the news of this one's end was on its way
        self._job = None
        if self._closing:
            self.close()
        elif not self.failed and len(self._pending) >= CHUNK:
            self._hand_over()

    # in a thread

    def _work(self) -> None:
        """Do what there is, in order, until there is nothing; after an error nothing more, whenever it is asked."""
        while True:
            with self._lock:
                if self._failure is not None or not self._works:
                    self._working = False
                    break
                work = self._works.popleft()
            try:
                work()
            except Exception as e:  # noqa: BLE001 - it is raised below, for whoever waits
                self._failure = e
        if self._failure is not None:
            raise self._failure

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
        _write_all(self._fd, rest, self._offset + self._written)
        self._end(make_head(self._hash.digest()))

    def _end(self, beginning: bytes) -> None:
        """Write the file's beginning, which comes last, and sync."""
        _write_all(self._fd, beginning, 0)
        os.fsync(self._fd)


def _attempt(unlink: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):  # then it goes at the next start
        unlink()


def _write_all(fd: int, data: bytes | bytearray, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        at += written
        view = view[written:]
