"""Writing and syncing to stable storage, off the event loop, in threads of its own.

Files are synced as they come. A directory is synced in rounds: whoever comes while a round runs is served by the
next one, together with all others; when idle a round starts at once, so nobody waits for company.

The threads are plain ones around a queue: an executor's futures cost as much as the sync itself on a fast disk.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], None], "asyncio.Future[None]"]

_SYNCERS: Final = 8
_WORKERS: Final = 4


class Syncer:
    """The threads, and the rounds of each directory. For one event loop."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._news: deque[tuple[asyncio.Future[None], Exception | None]] = deque()
        self._told = False
        self._work = ThreadPoolExecutor(_WORKERS, thread_name_prefix="spool")
        self._rounds: dict[int, _Rounds] = {}

    def submit(self, work: Callable[[], None]) -> "asyncio.Future[None]":
        """Run ``work``, which writes or syncs, in one of the threads. The future raises what it raises."""
        done = asyncio.get_running_loop().create_future()
        self._busy += 1
        if self._busy > len(self._threads) < _SYNCERS:
            thread = threading.Thread(target=self._serve, args=(done.get_loop(),), name="sync", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((work, done))
        return done

    def directory(self, fd: int) -> "asyncio.Future[None]":
        """Start or join the round of directory ``fd`` that begins now or next. The future raises OSError."""
        if fd not in self._rounds:
            self._rounds[fd] = _Rounds(lambda: self.submit(lambda: os.fsync(fd)))
        return self._rounds[fd].join()

    async def run(self, work: Callable[[], T]) -> T:
        """Run other blocking file work, in threads that no sync holds up."""
        return await asyncio.get_running_loop().run_in_executor(self._work, work)

    def close(self) -> None:
        """Wait for what is being synced and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._work.shutdown(wait=True)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """One thread: a job, and its news to the loop, until told to end."""
        while (job := self._jobs.get()) is not None:
            work, done = job
            error = None
            try:
                work()
            except Exception as e:  # noqa: BLE001 - it is for whoever submitted the work
                error = e
            self._news.append((done, error))
            if not self._told:
                self._told = True
                loop.call_soon_threadsafe(self._hear)
            del job, work, done, error  # so that what they hold is not kept until the next one

    def _hear(self) -> None:
        """On the loop: what the threads have done since it was told, in one go."""
        self._told = False
        while self._news:
            future, error = self._news.popleft()
            self._busy -= 1
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


class _Rounds:
    """One round runs, one gathers."""

    def __init__(self, sync: "Callable[[], asyncio.Future[None]]") -> None:
        self._sync = sync
        self._gathering: asyncio.Future[None] | None = None
        self._running = False

    def join(self) -> "asyncio.Future[None]":
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().create_future()
        joined = self._gathering
        if not self._running:
            self._start()
        return joined

    def _start(self) -> None:
        current, self._gathering = self._gathering, None
        if current is None:
            return
        self._running = True
        self._sync().add_done_callback(lambda done: self._finish(current, done))

    def _finish(self, current: "asyncio.Future[None]", done: "asyncio.Future[None]") -> None:
        self._running = False
        error = done.exception()
        if not current.done():
            if error is None:
                current.set_result(None)
            else:
                current.set_exception(error)
                current.exception()  # seen here, in case all who joined are gone
        self._start()
