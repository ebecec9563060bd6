"""The bytes of a dataset for one pass over it, forward only: as they lie in a file, or inflated on the way (PS3.5 A.5).

Memory is flat: what was passed is thrown away. Errors of ``read`` pass through, nothing else is raised.
"""

import zlib
from collections.abc import Callable
from typing import Final, Protocol

MOST_INFLATED: Final = 16 << 30
"""Bytes of a deflated dataset: a thousand times as many come out as go in, where somebody means harm."""

Read = Callable[[int, int], bytes]

CHUNK: Final = 64 << 10
_PROBE: Final = 1024
"""Bytes read after a long value: mostly another long one follows, such as the next fragment of pixel data."""
_KEPT: Final = 256
"""Bytes kept of what was inflated: a header, or a UID, may have begun in them."""
_TRAILER: Final = 8
"""Bytes that may follow a deflated dataset: a byte of padding, or the checksum and length that gzip appends."""


class Bytes(Protocol):
    """A dataset to walk over, forward only."""

    def peek(self, position: int, count: int, /) -> bytes:
        """Give ``count`` bytes at ``position``, fewer at the end."""

    def over(self, position: int, /) -> bool:
        """Whether the dataset ends at ``position`` exactly."""


class Plain:
    """A dataset as it lies in the file."""

    def __init__(self, read: Read, offset: int, size: int) -> None:
        self._read = read
        self._offset = offset
        self._length = size - offset
        self._base = 0
        self._buffer = b""

    def peek(self, position: int, count: int, /) -> bytes:
        """Give ``count`` bytes at ``position``, fewer at the end."""
        at = position - self._base
        if at < 0 or at + count > len(self._buffer):
            if position >= self._length:
                return b""
            ask = CHUNK if not position or at < len(self._buffer) else _PROBE
            self._buffer = self._read(self._offset + position, min(ask, self._length - position))
            self._base, at = position, 0
        return self._buffer[at : at + count]

    def over(self, position: int, /) -> bool:
        """Whether the dataset ends at ``position`` exactly."""
        return position == self._length


class Inflated:
    """A deflated dataset (PS3.5 A.5): what was passed is thrown away."""

    def __init__(self, read: Read, offset: int, size: int) -> None:
        self._read = read
        self._at = offset
        self._size = size
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._base = 0
        self._buffer = b""
        self._out = 0
        self.broken = False
        self.bomb = False
        """Whether more came out than is ever looked at."""

    def peek(self, position: int, count: int, /) -> bytes:
        """Give ``count`` bytes at ``position``, fewer at the end."""
        while self._base + len(self._buffer) < position + count and self._more():
            if self._base + len(self._buffer) <= position:
                self._base += len(self._buffer)
                self._buffer = b""
        at = position - self._base
        return self._buffer[at : at + count] if at >= 0 else b""

    def over(self, position: int, /) -> bool:
        """Whether the stream, all of it read but for a short trailer, comes to its end at ``position``."""
        while self._more():
            pass
        rest = self._inflater.unused_data + self._read(self._at, _TRAILER + 1) if self._at <= self._size else b""
        return self._inflater.eof and position == self._base + len(self._buffer) and len(rest) <= _TRAILER

    def _more(self) -> bool:
        if self._inflater.eof or self.broken:
            return False
        data = self._inflater.unconsumed_tail or self._read(self._at, min(CHUNK, self._size - self._at))
        if not self._inflater.unconsumed_tail:
            self._at += len(data)
        try:
            out = self._inflater.decompress(data, CHUNK)
        except zlib.error:
            self.broken = True
            return False
        self._out += len(out)
        self.bomb = self._out > MOST_INFLATED
        self.broken = self.bomb or not (out or data)
        keep = self._buffer[-_KEPT:] if len(self._buffer) > CHUNK else self._buffer
        self._base += len(self._buffer) - len(keep)
        self._buffer = keep + out
        return not self.broken
