"""The light of a running appliance, from memory alone: gauges and open findings.

It asks neither the disk nor the database, so it costs nothing and is true while both are slow or gone. Whoever shows a
light, on LEDs, a page, the command line or a broker, takes it from here.
"""

from typing import Final

import msgspec

from edge.board import Board
from edge.clock import Clock
from edge.findings import Journal, Severity
from edge.snapshot import Light
from edge.status.lights import Facts, Steady

SHOWN_AFTER: Final = 120.0
"""Seconds that an import is shown after its end: somebody waits to pull the medium out."""
STARTING: Final = "starting"
"""Why intake is closed at a start that goes well."""


class Lamp:
    """Tells which light is to be shown."""

    def __init__(self, board: Board, journal: Journal, clock: Clock) -> None:
        self._board = board
        self._journal = journal
        self._clock = clock
        self._steady = Steady(clock)
        self._instances = 0

    def look(self) -> Light:
        """Return the light of now, steadied."""
        facts = self.facts()
        # what came and went between two looks was a transfer too
        came, self._instances = self._board.instances != self._instances, self._board.instances
        return self._steady.choose(msgspec.structs.replace(facts, moving=facts.moving or came))

    def facts(self) -> Facts:
        """Gather what the light looks at."""
        board, now = self._board, self._clock.monotonic()
        findings = self._journal.open()
        media = [one for one in board.imports.values() if one.media]
        starting = not board.intake_open and board.intake_closed_because == STARTING
        return Facts(
            identify=now < board.identify_until,
            starting=starting,
            closed=not board.intake_open and not starting,
            fault=any(one.severity is Severity.ERROR for one in findings),
            medium_in=any(one.over_at is None for one in media),
            medium_out=any(one.over_at is not None and now - one.over_at <= SHOWN_AFTER for one in media),
            attention=any(one.severity is Severity.WARNING and one.code != "DESTINATION_DOWN" for one in findings),
            down=any(gauge.problem_code for gauge in board.destinations.values()),
            moving=board.associations > 0 or any(gauge.sending for gauge in board.destinations.values()),
        )
