"""The files of one watch that are being taken, many at once; a few that take long hold up none of the others.

A batch ends when all its files are taken or left; or, after `LONG` seconds, when at most `MOST_SLOW` are still being
taken. These go on beside the batches and passes that follow, and are not begun again there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from edge.intake.tree import Entry

LONG: Final = 10.0
MOST_SLOW: Final = 4
_SMALL: Final = 128 << 10
_SMALL_AT_ONCE: Final = 64
_LARGE_AT_ONCE: Final = 4
"""Files taken at once in a batch, up to so many bytes and above: each costs its beginning in memory."""


class Taking:
    """What is being taken."""

    def __init__(self, take: Callable[[Entry], Awaitable[None]]) -> None:
        self._take = take
        self._tasks: dict[asyncio.Task[None], str] = {}

    def paths(self) -> set[str]:
        """Give the paths of files that are being taken."""
        return set(self._tasks.values())

    async def batch(self, entries: Sequence[Entry]) -> None:
        """Take files. Raises what the taking of one raised, be it of this batch or of one that took long."""
        small, large = asyncio.Semaphore(_SMALL_AT_ONCE), asyncio.Semaphore(_LARGE_AT_ONCE)

        async def one(entry: Entry) -> None:
            async with small if entry.size <= _SMALL else large:
                await self._take(entry)

        self.check()
        begun = {asyncio.create_task(one(entry)): entry.path for entry in entries}
        self._tasks |= begun
        if begun:
            await asyncio.wait(begun, timeout=LONG)
        self.check()
        while len(self._tasks) > MOST_SLOW:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self.check()

    def check(self) -> None:
        """Forget what has been taken. Raises what that raised."""
        for task in [task for task in self._tasks if task.done()]:
            del self._tasks[task]
            task.result()

    async def end(self) -> None:
        """Take nothing any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
