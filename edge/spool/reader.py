"""Reading a published object without holding up the event loop and without holding it in memory.

What the page cache has is read at once (RWF_NOWAIT); only what must come from the card goes through a thread. The bytes
are hashed on the way, beside what is done with them, and the last piece is given only where all are what was received.
"""

import asyncio
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Final, Self

from edge.phrase import say
from edge.spool.sync import Syncer

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", None)


_SMALL: Final = 64 << 10
"""Bytes hashed on the event loop: it takes less time than waking a thread."""


class ChangedError(EOFError):
    """The file is not what was received."""


class Reader:
    """The dataset of one published file, front to back: ``length`` bytes whose SHA-256 is ``digest``."""

    def __init__(self, path: Path, offset: int, length: int, digest: bytes, syncer: Syncer) -> None:
        self._path = path
        self._at = offset
        self._left = length
        self._digest = digest
        self._hash = hashlib.sha256()
        self._hashing: asyncio.Future[None] | None = None
        self._syncer = syncer
        self._fd = -1

    def __enter__(self) -> Self:
        """Open the file. Raises OSError."""
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._fd)

    @property
    def opened(self) -> bool:
        """Whether it was opened, so that some of it may have been given."""
        return self._fd >= 0

    async def read(self, count: int) -> bytes | bytearray:
        """Return exactly the next ``count`` bytes.

        Raises EOFError where the file ends before, `ChangedError` instead of giving the last of other bytes, OSError
        with the file's name.
        """
        data = self._cached(count)
        missing, at = count - len(data), self._at + len(data)
        if missing:
            data += await self._syncer.run(lambda: self._whole(missing, at))
        self._at += count
        await self._check(data)
        return data

    async def _check(self, data: bytes | bytearray) -> None:
        if self._hashing is not None:
            await self._hashing
        self._left -= len(data)
        self._hashing = None
        if len(data) <= _SMALL:
            self._hash.update(data)
        else:
            self._hashing = asyncio.ensure_future(self._syncer.run(partial(self._hash.update, data)))
        if self._left <= 0:
            if self._hashing is not None:
                await self._hashing
            if self._hash.digest() != self._digest:
                raise ChangedError(say("{file} is not what was received: its digest differs", file=self._path.name))

    def _cached(self, count: int) -> bytearray:
        buffer = bytearray(count)
        got = 0
        if _NOWAIT is not None:
            try:
                got = os.preadv(self._fd, [buffer], self._at, _NOWAIT)
            except OSError:  # not cached, or the file system cannot tell
                got = 0
        if got < count:
            del buffer[got:]
        return buffer

    def _whole(self, count: int, at: int) -> bytes:
        parts = []
        while count:
            try:
                data = os.pread(self._fd, count, at)
            except OSError as e:  # named, so that nobody takes it for a failure of the network
                raise OSError(e.errno, e.strerror, str(self._path)) from e
            if not data:
                raise EOFError(say("{file} is shorter than its seal says", file=self._path.name))
            parts.append(data)
            count -= len(data)
            at += len(data)
        return b"".join(parts)
