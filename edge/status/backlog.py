"""A finding about images that have waited for a destination for longer than a day: looked for every minute.

A destination that is down is nobody's trouble in the room for a while. After a day somebody must act, and who that is
depends on why they wait.
"""

import asyncio
from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.findings import Journal
from edge.phrase import N_, say, say_n
from edge.states import DeliveryState
from edge.store import Reading, StoreError, Tally
from edge.store.outlook import oldest_waiting

_EVERY: Final = 60.0
LATE: Final = 86_400.0
_CODE: Final = "BACKLOG_OLD"
_NONE: Final = Tally()


class BacklogWatch:
    """Watches the queues of the destinations that the board has."""

    def __init__(self, reading: Reading, board: Board, journal: Journal, clock: Clock) -> None:
        self._reading = reading
        self._board = board
        self._journal = journal
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as e:
                self._journal.note("STORAGE_ERROR", "store", str(e))
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Look once; by a wall clock that cannot be trusted nothing is old. Raises `StoreError`."""
        if not self._clock.trusted():
            return
        tallies = await self._reading.tallies()
        for name in list(self._board.destinations):
            waiting = sum(
                tallies.get((name, state), _NONE).instances for state in (DeliveryState.QUEUED, DeliveryState.SENDING)
            )
            oldest = await oldest_waiting(self._reading, name) if waiting else None
            age = 0.0 if oldest is None else self._clock.now() - oldest
            if age > LATE:
                self._journal.state(_CODE, f"destination.{name}", self._told(name, waiting, age))
            else:
                self._journal.clear(_CODE, f"destination.{name}")

    def _told(self, name: str, waiting: int, age: float) -> str:
        gauge = self._board.destinations[name]
        hours = int(age // 3600)
        if gauge.paused:
            why = say("somebody paused it: edge resume {name}", name=name)
        elif gauge.problem_code:
            why = say("it cannot be reached ({code})", code=gauge.problem_code)
        else:
            why = N_("it answers, but takes them slowly or not at all")
        return say_n(
            "1 object waits for {name}, for {hours} hours: {why}.",
            "{n} objects wait for {name}, the oldest for {hours} hours: {why}.",
            waiting,
            name=name,
            hours=hours,
            why=why,
        )
