"""The rate limit of one destination: bytes a second over all its sessions, smooth to a tenth of a second.

A bucket that fills at the rate and holds a tenth of a second's worth. Whoever sends pays before, a little at a time, in
the order in which they come: sessions share the rate by bytes, however long their objects are.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from edge.clock import Clock
from edge.dicomweb.client import Body

_SMOOTH: Final = 0.1
"""Seconds of the rate that may go at once."""
_LEAST_PIECE: Final = 1024
_MOST_PIECE: Final = 256 * 1024
_SHARE: Final = 32 * 1024
"""Bytes that one session pays for before it is another's turn."""

Read = Callable[[int], Awaitable[bytes | bytearray]]


class Limiter:
    """Lets ``rate`` bytes a second pass."""

    def __init__(self, rate: int, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.piece = max(_LEAST_PIECE, min(_MOST_PIECE, int(rate * _SMOOTH))) & ~1
        """Bytes that should be sent at once, at most; even."""
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._paid_until = clock.monotonic()
        self._turn = asyncio.Lock()

    async def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may be sent."""
        share = min(_SHARE, self.piece)
        while count > 0:
            part = min(count, share)
            async with self._turn:
                now = self._clock.monotonic()
                self._paid_until = max(self._paid_until, now - _SMOOTH) + part / self._rate
                if self._paid_until > now:
                    await self._sleep(self._paid_until - now)
            count -= part

    def paying(self, read: Read) -> Read:
        """Return ``read`` for whoever pays for what it gives."""

        async def paid(count: int) -> bytes | bytearray:
            await self.take(count)
            return await read(count)

        return paid

    async def slices(self, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Give ``pieces`` in slices, each when it is paid for."""
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                for at in range(0, len(piece), self.piece):
                    part = piece[at : at + self.piece]
                    await self.take(len(part))
                    yield part


class Paced:
    """The body of a request, its bytes paid for as they go."""

    def __init__(self, body: Body, limiter: Limiter) -> None:
        self.length = body.length
        self.content_type = body.content_type
        self._body = body
        self._limiter = limiter

    def stream(self) -> AsyncGenerator[bytes]:
        """Give it, from its beginning each time."""
        return self._limiter.slices(self._body.stream())
