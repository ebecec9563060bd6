"""The one owner of tasks: starts services, restarts what crashes within a bound, ends everything in order.

A service is a coroutine function that runs until it is told to stop; one that raises is started again after a growing
pause, with a finding. A vital one that keeps crashing ends the process, so that the service manager starts afresh; any
other is left alone for a minute, and then tried again: images are taken and kept without it. One-shot tasks (an
association, a further worker) are owned here too, so that none is ever lost or left behind.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from edge.clock import Clock
from edge.findings import Journal

MOST_RESTARTS: Final = 5
WINDOW: Final = 60.0
"""More restarts than `MOST_RESTARTS` within so many seconds end the process."""
_FIRST_PAUSE: Final = 0.2

log = structlog.get_logger()


class CrashLoopError(Exception):
    """A service cannot be kept running."""


class Supervisor:
    """Owns every task of the process."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._services: dict[asyncio.Task[None], str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None
        self._stopping = False

    def service(self, name: str, run: Callable[[], Awaitable[None]], *, vital: bool = False) -> "asyncio.Task[None]":
        """Run ``run`` until it returns, restarting it when it raises. Without a ``vital`` one nothing is safe."""
        task = asyncio.get_running_loop().create_task(self._keep(name, run, vital=vital), name=name)
        self._services[task] = name
        task.add_done_callback(self._services.pop)
        return task

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a one-shot task; an error in it is logged and noted, and harms nobody else."""
        task = asyncio.get_running_loop().create_task(self._once(name, coroutine), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: coroutine.close())  # one that was cancelled before its first step
        return task

    async def failure(self) -> None:
        """Wait for ever, or raise `CrashLoopError` when a service cannot be kept running."""
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
        await self._failed

    async def finish(self, tasks: Sequence["asyncio.Task[None]"], seconds: float) -> None:
        """Give services that were told to stop ``seconds`` to return, then cancel them and wait for their end."""
        self._stopping = True
        pending = [task for task in tasks if not task.done()]
        if pending:
            await asyncio.wait(pending, timeout=seconds)
        self.cancel([task for task in pending if not task.done()])
        if pending:
            await asyncio.wait(pending, timeout=2.0)

    def cancel(self, tasks: Sequence["asyncio.Task[None]"]) -> None:
        """Cut services that have nothing to finish."""
        for task in tasks:
            task.cancel()

    async def settle(self, seconds: float) -> None:
        """Give services and tasks ``seconds`` to return, then cancel what is left and wait for its end."""
        self._stopping = True
        running = {*self._services, *self._tasks}
        if running:
            await asyncio.wait(running, timeout=seconds)
        left = {*self._services, *self._tasks}
        for task in left:
            log.warning("cut at shutdown", task=task.get_name())
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=2.0)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]], *, vital: bool) -> None:
        crashes: deque[float] = deque(maxlen=MOST_RESTARTS + 1)
        while True:
            try:
                await run()
            except Exception as e:
                crashes.append(self._clock.monotonic())
                log.exception("service crashed", service=name)
                self._journal.note("SERVICE_RESTARTED", f"service.{name}", f"{name}: {type(e).__name__}")
                often = len(crashes) > MOST_RESTARTS and crashes[-1] - crashes[0] < WINDOW
                if often and vital:
                    self._give_up(name)
                    return
                if self._stopping:
                    return
                await asyncio.sleep(WINDOW if often else _FIRST_PAUSE * 2 ** (len(crashes) - 1))
            else:
                return

    async def _once(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as e:
            log.exception("task failed", task=name)
            self._journal.note("SERVICE_RESTARTED", "task", f"{name}: {type(e).__name__}")

    def _give_up(self, name: str) -> None:
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
        if not self._failed.done():
            self._failed.set_exception(CrashLoopError(f"The service {name} crashed {MOST_RESTARTS + 1} times."))
            self._failed.exception()  # seen here, in case nobody waits for it
