"""Reading a published object without holding up the event loop and without holding it in memory.

What the page cache has is read at once (RWF_NOWAIT); only what must come from the card goes through a thread.
"""

import os
from pathlib import Path
from typing import Final, Self

from edge.spool.sync import Syncer

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", None)


class Reader:
    """The dataset of one published file, front to back."""

    def __init__(self, path: Path, offset: int, syncer: Syncer) -> None:
        self._path = path
        self._at = offset
        self._syncer = syncer
        self._fd = -1

    def __enter__(self) -> Self:
        """Open the file. Raises OSError."""
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._fd)

    async def read(self, count: int) -> bytes | bytearray:
        """Return exactly the next ``count`` bytes. Raises EOFError where the file ends before, OSError."""
        data = self._cached(count)
        missing, at = count - len(data), self._at + len(data)
        if missing:
            data += await self._syncer.run(lambda: self._whole(missing, at))
        self._at += count
        return data

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
            data = os.pread(self._fd, count, at)
            if not data:
                raise EOFError(f"{self._path.name} is shorter than its seal says")
            parts.append(data)
            count -= len(data)
            at += len(data)
        return b"".join(parts)
