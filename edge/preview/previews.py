"""Previews for whoever shows them: what was made before at once, the rest one after another by the worker.

The newest request goes first, as it is the page that somebody looks at now. The queue is bounded, and so is each
client's part of it: the oldest give way, and are told so. Nothing here reads a file or an image.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge.clock import Clock
from edge.preview.answer import SIDES, SMALL, Answer, NoPicture, Reason
from edge.preview.cache import Cache, Key
from edge.preview.worker import Worker

MOST_KEPT: Final = 16 << 20
"""Bytes of pictures kept in memory."""
MOST_WAITING: Final = 128
MOST_EACH: Final = 32
"""Requests that wait: of all, and of one client."""
_IDLE: Final = 60.0
"""Seconds without a request after which the worker ends."""
_LONGEST: Final = 60.0
"""Seconds that a request waits for its turn."""


class _Job:
    """A picture that somebody waits for."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.waiting: set[asyncio.Future[Answer]] = set()

    def answer(self, answer: Answer) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(answer)


class Previews:
    """Makes them, while `run` does; ``path`` tells where an object's file lies."""

    def __init__(
        self,
        path: Callable[[int], Path],
        clock: Clock,
        worker: Worker | None = None,
        *,
        idle: float = _IDLE,
        longest: float = _LONGEST,
    ) -> None:
        self._path = path
        self._worker = worker or Worker(clock)
        self._idle = idle
        self._longest = longest
        self._cache = Cache(MOST_KEPT, clock)
        self._jobs: dict[Key, _Job] = {}
        """Those that wait, the newest last."""
        self._doing: tuple[Key, _Job] | None = None
        self._arrived = asyncio.Event()
        self._closed = False

    async def of_object(self, number: int, side: int = SMALL, client: str = "") -> Answer:
        """Return a picture of object ``number``, its longer side at most ``side`` pixels (one of `SIDES`), or a reason.

        ``client`` is whoever asks, such as a session: its older requests give way to its newer ones.
        """
        if side not in SIDES:
            raise ValueError(f"A preview is {' or '.join(map(str, SIDES))} pixels long, not {side}.")
        key = (number, side)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        if self._closed:
            return NoPicture(Reason.UNAVAILABLE)
        job = self._job(key, client)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job.waiting.add(future)
        try:
            async with asyncio.timeout(self._longest):
                return await future
        except TimeoutError:
            return NoPicture(Reason.BUSY)
        finally:
            job.waiting.discard(future)
            if not job.waiting and self._jobs.get(key) is job:
                del self._jobs[key]  # nobody looks any more

    async def run(self) -> None:
        """Make what is asked for, until `close`."""
        try:
            while not self._closed:
                await self._wait()
                if self._jobs:
                    await self._do(*self._jobs.popitem())
        finally:
            await self._worker.close()

    async def close(self) -> None:
        """Take no more: whoever waits is told so, and the worker ends."""
        self._closed = True
        self._arrived.set()
        while self._jobs:
            self._jobs.popitem()[1].answer(NoPicture(Reason.UNAVAILABLE))
        if self._doing is not None:
            self._doing[1].answer(NoPicture(Reason.UNAVAILABLE))
        await self._worker.close()

    def _job(self, key: Key, client: str) -> _Job:
        """Return the job that makes ``key``, which is the newest now."""
        if self._doing is not None and self._doing[0] == key:
            return self._doing[1]
        job = self._jobs.pop(key, None)
        if job is None:
            job = _Job(client)
            self._make_room(client)
        self._jobs[key] = job
        self._arrived.set()
        return job

    def _make_room(self, client: str) -> None:
        own = [key for key, job in self._jobs.items() if job.client == client]
        oldest = own[0] if len(own) >= MOST_EACH else next(iter(self._jobs), None)
        if oldest is not None and (len(own) >= MOST_EACH or len(self._jobs) >= MOST_WAITING):
            self._jobs.pop(oldest).answer(NoPicture(Reason.BUSY))

    async def _wait(self) -> None:
        """Wait for a request; let the worker go when none comes."""
        self._arrived.clear()
        if self._jobs or self._closed:
            return
        try:
            async with asyncio.timeout(self._idle):
                await self._arrived.wait()
        except TimeoutError:
            await self._worker.close()
            await self._arrived.wait()

    async def _do(self, key: Key, job: _Job) -> None:
        number, side = key
        self._doing = (key, job)
        answer: Answer = NoPicture(Reason.UNAVAILABLE)
        try:
            answer = await self._worker.ask(self._path(number), side)
            self._cache.put(key, answer)
        finally:
            self._doing = None
            job.answer(answer)
