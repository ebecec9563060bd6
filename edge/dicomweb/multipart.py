"""A multipart/related body of Part 10 files (PS3.18 8.6.1.2, RFC 2387), streamed, of a length known in advance.

No file is held in memory. What a part raises while it is read passes through, and so ends the request unfinished: a
server never gets a whole request with something in it that is not what was received.
"""

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

import msgspec

CHUNK: Final = 64 << 10
"""Bytes given at once, as far as there are."""

Read = Callable[[int], Awaitable[bytes | bytearray]]
"""Gives exactly so many bytes."""


class Part(msgspec.Struct, frozen=True):
    """One file: what stands before the dataset, and the dataset, opened when its turn comes."""

    head: bytes
    length: int
    """Bytes of the dataset."""
    open: Callable[[], AbstractContextManager[Read]]


class Multipart:
    """``parts`` as the body of a request; may be streamed again for another try."""

    def __init__(self, parts: Sequence[Part]) -> None:
        boundary = secrets.token_hex(16)
        self._parts = parts
        self.begun = False
        """Whether anything of it was sent, on any try."""
        self.given = 0
        """Bytes of it that were asked for on the last try."""
        self._between = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._end = f"\r\n--{boundary}--\r\n".encode()
        self.content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        # the line break before a boundary belongs to it, and the first needs none
        self.length = sum(len(self._between) + len(p.head) + p.length for p in parts) - 2 + len(self._end)

    async def stream(self) -> AsyncGenerator[bytes]:
        """Give the body, small parts together, large ones in pieces of `CHUNK` bytes."""
        self.begun, self.given = True, 0
        waiting = bytearray()
        for part in self._parts:
            waiting += self._between if waiting or part is not self._parts[0] else self._between[2:]
            waiting += part.head
            left = part.length
            with part.open() as read:
                while left:
                    piece = await read(min(left, CHUNK))
                    left -= len(piece)
                    waiting += piece
                    if len(waiting) >= CHUNK:
                        self.given += len(waiting)
                        yield bytes(waiting)
                        waiting.clear()
        self.given += len(waiting) + len(self._end)
        yield bytes(waiting) + self._end
