"""Connection tests as a page starts them: one at a time for each target, few in all, each with an end.

A test goes on while somebody looks, and no longer than `LONGEST`; each of its steps has a deadline of its own
besides. What came of it is kept until the next one, in memory only. It knows steps, not what they are about.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final, Literal

import msgspec

from edge.clock import Clock
from edge.doctor import Result, Step

MOST: Final = 3
"""Tests at once."""
PATIENCE: Final = 40.0
"""Seconds for which a test goes on though nobody looks: more than a page without scripts takes to load itself anew."""
LONGEST: Final = 300.0
"""Seconds after which a test ends, whatever it does."""

Started = Literal["started", "running", "full"]
"""``running``: that target is being tested already; ``full``: `MOST` others are."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One test, as far as it is."""

    began: float
    """Wall time, as is ``ended``."""
    ended: float | None = None
    steps: tuple[Step, ...] = ()
    state: Literal["running", "done", "left", "late", "broken"] = "running"
    """``left``: nobody looked any more; ``late``: it took too long; ``broken``: a fault of our own."""

    @property
    def failed(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.result is Result.FAILED), None)


class _Limit:
    """Until when a test may go on, by the event loop's clock."""

    def __init__(self, patience: asyncio.Timeout) -> None:
        self._patience = patience
        self._latest = asyncio.get_running_loop().time() + LONGEST

    @property
    def late(self) -> bool:
        return asyncio.get_running_loop().time() >= self._latest

    def renew(self) -> None:
        self._end_at(asyncio.get_running_loop().time() + PATIENCE)

    def end(self) -> None:
        self._end_at(asyncio.get_running_loop().time())

    def _end_at(self, when: float) -> None:
        if not self._patience.expired():
            self._patience.reschedule(min(when, self._latest))


class Trials:
    """The tests of one dashboard, by what is tested."""

    def __init__(self) -> None:
        self._trials: dict[str, Trial] = {}
        self._limits: dict[str, _Limit] = {}

    @property
    def all(self) -> dict[str, Trial]:
        """The latest test of each target that had one, the one begun last at the end."""
        return dict(self._trials)

    @property
    def running(self) -> int:
        """How many go on."""
        return sum(trial.ended is None for trial in self._trials.values())

    def of(self, target: str) -> Trial | None:
        """Return the latest test of ``target``."""
        return self._trials.get(target)

    def look(self) -> None:
        """Hear that somebody looks."""
        for limit in self._limits.values():
            limit.renew()

    def end(self) -> None:
        """End every test: the dashboard stops."""
        for limit in self._limits.values():
            limit.end()

    def start(
        self,
        target: str,
        steps: Callable[[], AsyncGenerator[Step]],
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> Started:
        """Begin to test ``target``, unless that or too much else is being tested. The caller bounds the targets."""
        known = self._trials.get(target)
        if known is not None and known.ended is None:
            return "running"
        if self.running >= MOST:
            return "full"
        self._trials.pop(target, None)
        self._trials[target] = Trial(began=clock.now())
        spawn(self._run(target, steps, clock), "connection test")
        return "started"

    async def _run(self, target: str, steps: Callable[[], AsyncGenerator[Step]], clock: Clock) -> None:
        state: Literal["done", "left", "late", "broken"] = "broken"
        limit = None
        try:
            async with asyncio.timeout(min(PATIENCE, LONGEST)) as patience:
                limit = self._limits[target] = _Limit(patience)
                async with aclosing(steps()) as coming:
                    async for step in coming:
                        self._change(target, steps=(*self._trials[target].steps, step))
            state = "done"
        except TimeoutError:
            state = "late" if limit is not None and limit.late else "left"
        finally:
            self._limits.pop(target, None)
            self._change(target, ended=clock.now(), state=state)

    def _change(self, target: str, **values: Any) -> None:
        self._trials[target] = msgspec.structs.replace(self._trials[target], **values)
