"""Threads for work that may never return: they hold up neither their neighbours nor the end of the process.

The executors of the standard library wait at the end of the process for each of their threads; one that reads from a
share that hangs would make it wait until it is killed.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs blocking work in a thread."""

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Threads:
    """So many threads, which end with the process at the latest."""

    def __init__(self, count: int, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name} {number}", daemon=True).start()

    def run(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Do ``work`` in one of the threads; what it raises is raised to whoever waits."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, future))
        return future

    def end(self, _: object = None) -> None:
        """Let the threads go once they have done what they were given."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(*job)


async def aside(work: Callable[[], Any]) -> Any:
    """Do ``work`` in a thread of its own; what it raises is raised."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    threading.Thread(target=_do, args=(work, future), name="aside", daemon=True).start()
    return await future


def _do(work: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
    if future.cancelled():
        return
    try:
        result, error = work(), None
    except Exception as e:  # noqa: BLE001 - it is whoever waits that it is for
        result, error = None, e
    with contextlib.suppress(RuntimeError):  # the loop has ended
        future.get_loop().call_soon_threadsafe(_tell, future, result, error)


def _tell(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
