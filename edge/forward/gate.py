"""The throttle of one destination: shut after a failure, opened again by time, a success or a person.

A destination that cannot be reached is asked again and again, ever more rarely down to every five minutes; its
instances lose nothing by it.
"""

import asyncio
from collections.abc import Callable

from edge.board import DestinationGauge
from edge.clock import Clock
from edge.findings import Journal
from edge.forward.backoff import backoff
from edge.forward.outcome import Unreachable
from edge.phrase import say


class Gate:
    """When ``name`` may be tried."""

    def __init__(
        self, name: str, gauge: DestinationGauge, journal: Journal, clock: Clock, random: Callable[[], float]
    ) -> None:
        self._name = name
        self._gauge = gauge
        self._journal = journal
        self._clock = clock
        self._random = random
        self._failures = 0
        self._open_at = 0.0
        self._opened = asyncio.Event()

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    def fail(self, why: Unreachable) -> None:
        """Shut after a failure; while it is shut, what was on its way fails for the same reason and counts no more."""
        now = self._clock.monotonic()
        if now >= self._open_at:
            self._failures += 1
            self._open_at = now + backoff(self._failures, self._random)
        self._open_at = max(self._open_at, now + (why.after or 0.0))
        self._opened.clear()
        gauge = self._gauge
        if not gauge.problem_code:
            gauge.problem_since = self._clock.now()
        gauge.problem_code, gauge.problem_text = why.code, why.detail
        self._journal.note(
            "DESTINATION_DOWN", f"destination.{self._name}", say("{name}: {detail}", name=self._name, detail=why.detail)
        )

    def succeed(self) -> None:
        """Open after a success."""
        self._gauge.last_success_at = self._clock.now()
        if self._failures or self._gauge.problem_code:
            self._gauge.problem_code = self._gauge.problem_text = ""
            self._gauge.problem_since = None
            self._journal.clear("DESTINATION_DOWN", f"destination.{self._name}")
            self.hasten()

    def hasten(self) -> None:
        """Open at once: a person wants it tried now."""
        self._failures = 0
        self._open_at = 0.0
        self._opened.set()

    async def wait(self) -> None:
        """Wait until the destination may be tried."""
        while (left := self._open_at - self._clock.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._opened.wait()
            except TimeoutError:
                continue
