"""Syncing to stable storage, off the event loop, in a pool of its own.

Files are synced as they come. A directory is synced in rounds: whoever comes while a round runs is served by the
next one, together with all others; when idle a round starts at once, so nobody waits for company.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_THREADS: Final = 8
_WORKERS: Final = 4


class Syncer:
    """The pool, and the rounds of one directory (``incoming/``)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sync")
        self._work = ThreadPoolExecutor(_WORKERS, thread_name_prefix="spool")
        self._rounds: dict[int, _Rounds] = {}

    async def file(self, fd: int) -> None:
        """Fsync an open file. Raises OSError; the descriptor must then not be synced again."""
        await asyncio.get_running_loop().run_in_executor(self._pool, os.fsync, fd)

    async def data(self, fd: int) -> None:
        """Fdatasync an open file. Raises OSError."""
        await asyncio.get_running_loop().run_in_executor(self._pool, os.fdatasync, fd)

    def directory(self, fd: int) -> "asyncio.Future[None]":
        """Start or join the round of directory ``fd`` that begins now or next. The future raises OSError."""
        if fd not in self._rounds:
            self._rounds[fd] = _Rounds(lambda: os.fsync(fd), self._pool)
        return self._rounds[fd].join()

    async def run(self, work: Callable[[], T]) -> T:
        """Run other blocking file work, in threads that no sync holds up."""
        return await asyncio.get_running_loop().run_in_executor(self._work, work)

    def close(self) -> None:
        """Wait for what is being synced and end the threads."""
        self._pool.shutdown(wait=True)
        self._work.shutdown(wait=True)


class _Rounds:
    """One round runs, one gathers."""

    def __init__(self, sync: Callable[[], None], pool: ThreadPoolExecutor) -> None:
        self._sync = sync
        self._pool = pool
        self._gathering: asyncio.Future[None] | None = None
        self._running = False

    def join(self) -> asyncio.Future[None]:
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
        done = asyncio.get_running_loop().run_in_executor(self._pool, self._sync)
        done.add_done_callback(lambda f: self._finish(current, f))

    def _finish(self, current: asyncio.Future[None], done: asyncio.Future[None]) -> None:
        self._running = False
        error = None if done.cancelled() else done.exception()
        if not current.done():
            if error is None:
                current.set_result(None)
            else:
                current.set_exception(error)
        self._start()
