"""The bytes of a dataset, forward only and hashed on the way, as they lie in a file or inflated (PS3.5 A.5).

Memory is flat. Whoever reads it to the end knows whether it was what was received.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from edge.dicom.source import Read
from edge.phrase import N_, say

CHUNK: Final = 256 << 10
_TRAILER: Final = 8
"""Bytes that may follow a deflated dataset: a byte of padding, or the checksum and length that gzip appends."""


class CutError(Exception):
    """The bytes end where more of the dataset should come."""


class File:
    """``length`` bytes of a file from ``offset`` on, in pieces. ``pause`` is called for each, and may raise."""

    def __init__(self, read: Read, offset: int, length: int, pause: Callable[[], None] = lambda: None) -> None:
        self._read = read
        self._at = offset
        self._end = offset + length
        self._pause = pause
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        """Give what is left. Raises EOFError where the file is shorter."""
        while self._at < self._end:
            self._pause()
            data = self._read(self._at, min(CHUNK, self._end - self._at))
            if not data:
                raise EOFError(N_("the file is shorter than it should be"))
            self._at += len(data)
            self._hash.update(data)
            yield data

    def digest(self) -> bytes:
        """Read what is left, and return the SHA-256 of all. Raises EOFError."""
        for _ in self:
            pass
        return self._hash.digest()


def inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Inflate ``pieces``. Raises `CutError` where they are no deflated dataset to their end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = 0
    for piece in pieces:
        data, rest = piece, rest + len(piece) if inflater.eof else 0
        while not inflater.eof:
            try:
                out = inflater.decompress(data, CHUNK)
            except zlib.error as e:
                raise CutError(say("it cannot be inflated: {error}", error=e)) from e
            data = inflater.unconsumed_tail
            if out:
                yield out
            if not data and len(out) < CHUNK:
                break
    if not inflater.eof or len(inflater.unused_data) + rest > _TRAILER:
        raise CutError(N_("it cannot be inflated to its end"))


class Stream:
    """Pieces as one stream of bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.position = 0
        """Bytes given so far."""
        self._pieces = pieces
        self._buffer = b""
        self._at = 0

    def over(self) -> bool:
        """Whether nothing is left."""
        while self._at >= len(self._buffer):
            piece = next(self._pieces, None)
            if piece is None:
                return True
            self._buffer, self._at = piece, 0
        return False

    def take(self, count: int) -> bytes:
        """Give exactly ``count`` bytes, which are held whole. Raises `CutError`."""
        at = self._at
        if at + count <= len(self._buffer):
            self._at = at + count
            self.position += count
            return self._buffer[at : at + count]
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[bytes]:
        """Give exactly ``count`` bytes, as they come; all but the last of a multiple of 8. Raises `CutError`."""
        left, held = count, b""
        while left:
            if self.over():
                raise CutError(N_("it ends in the middle of an element"))
            some = self._buffer[self._at : self._at + left]
            self._at += len(some)
            self.position += len(some)
            left -= len(some)
            held += some
            whole = len(held) & ~7 if left else len(held)
            if whole:
                yield held[:whole]
                held = held[whole:]
