"""Findings that nobody commits but somebody must notice: looked for in the store and on the disk, every second.

It opens and closes findings, and asks the gate of intake to look at the disk; it never touches the flow.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from edge.config import Config
from edge.findings import Journal
from edge.phrase import say, say_n
from edge.states import WAITING, DeliveryState
from edge.store import Reading, StoreError, Tally

_EVERY: Final = 1.0
_NONE: Final = Tally()


class Observer:
    """Watches what the stages cannot see from where they are."""

    def __init__(self, config: Config, reading: Reading, journal: Journal, look: Callable[[], object]) -> None:
        self._names = [d.name for d in config.destination]
        self._reading = reading
        self._journal = journal
        self._look = look
        self._over: frozenset[int] | None = None
        """What was lost before this start and nobody lacks: it keeps no finding open."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._look()
            try:
                await self.observe()
            except StoreError as e:
                self._journal.note("STORAGE_ERROR", "store", str(e))
            await asyncio.sleep(_EVERY)

    async def observe(self) -> None:
        """Look once. Raises `StoreError`."""
        tallies = await self._reading.tallies()
        await self._lost()
        await self._unrouted()
        for name in sorted({*self._names, *(name for name, _ in tallies if name)}):
            await self._held(name, tallies.get((name, DeliveryState.HELD), _NONE).instances)
            if name not in self._names:
                left = sum(tallies.get((name, state), _NONE).instances for state in WAITING)
                self._set(
                    "DESTINATION_REMOVED",
                    name,
                    say(
                        "{left} objects still wait for {name}, which the configuration does not name any more.",
                        left=left,
                        name=name,
                    )
                    * bool(left),
                )

    async def _lost(self) -> None:
        """Whoever misses a file opens the finding; it is over when that came again, or was given up."""
        if self._over is None:
            self._over = await self._reading.lost_and_over()
        if not await self._reading.lost(self._over):
            self._journal.clear("LOST", "storage")

    async def _unrouted(self) -> None:
        """What no route takes; where there is no destination at all, that is said already."""
        count = await self._reading.unrouted() if self._names else 0
        if count:
            text = say_n(
                "1 object matches no route: stored here, and going nowhere.",
                "{n} objects match no route: stored here, and going nowhere.",
                count,
            )
            self._journal.state("UNROUTED", "config.route", text)
        else:
            self._journal.clear("UNROUTED", "config.route")

    async def _held(self, name: str, count: int) -> None:
        why = await self._reading.last_held(name) if count else ""
        text = say_n(
            "1 object is held for {name}: {why}", "{n} objects are held for {name}: {why}", count, name=name, why=why
        )
        self._set("DELIVERIES_HELD", name, text * bool(count))

    def _set(self, code: str, name: str, detail: str) -> None:
        """Open the finding with ``detail``, or close it where there is none."""
        if detail:
            self._journal.state(code, f"destination.{name}", detail)
        else:
            self._journal.clear(code, f"destination.{name}")
