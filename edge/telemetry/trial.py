"""Whether a configuration on trial does well: intake open, the broker reached, and what was up still up."""

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from edge.clock import Clock
from edge.snapshot import Snapshot

LENGTH: Final = 300.0
"""Seconds of the trial; and for which a destination may be down in it."""
_FIRST: Final = 20.0
"""Seconds for which intake may still be starting."""


class Trial:
    """One trial, from the start of the program; `judge` is asked every few seconds."""

    def __init__(
        self,
        were_up: Collection[str],
        clock: Clock,
        answers: Callable[[str], Awaitable[bool]],
    ) -> None:
        """``answers`` asks a destination whether it is there."""
        self._were_up = set(were_up)
        self._clock = clock
        self._answers = answers
        self._began = clock.monotonic()
        self._down_since: dict[str, float] = {}
        self._closed_since: float | None = None
        self.reached = False
        """Whether the broker was, since the start."""

    async def judge(self, snapshot: Snapshot) -> str | None:
        """Return '' where it has passed, a reason where it has failed, None while it goes on."""
        now = self._clock.monotonic()
        if snapshot.intake.open:
            self._closed_since = None
        elif self._closed_since is None:
            self._closed_since = now
        if self._closed_since is not None and now - self._closed_since >= _FIRST:
            return "INTAKE_CLOSED"
        await self._look(snapshot, now)
        if any(now - since >= LENGTH for since in self._down_since.values()):
            return "DESTINATION_DOWN"
        if now - self._began < LENGTH or self._down_since or self._closed_since is not None:
            return None
        return "" if self.reached else "BROKER_LOST"

    async def _look(self, snapshot: Snapshot, now: float) -> None:
        for destination in snapshot.destinations:
            name = destination.name
            if name not in self._were_up or destination.state == "paused":
                continue
            if destination.state == "up" and await self._answers(name):
                self._down_since.pop(name, None)
            else:
                self._down_since.setdefault(name, now)
