"""Whether the box takes objects at this moment, and why not.

Anything that must stop intake closes it here with a reason and opens it again when it is over; several reasons may
stand at once. Room is promised by the ledger when an object begins and as it grows.
"""

from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.findings import Journal
from edge.spool import Ledger, Reservation

_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the free space."""
_MARGIN: Final = 32
"""Full once, intake opens again when there is this part of the reserve above it: no flapping."""
_SHORT: Final = 4
"""Room is short when less than this part of the reserve is left above it."""
DEFAULT_RESERVE: Final = 2 << 30


class Admission:
    """The gate in front of every door."""

    def __init__(self, board: Board, journal: Journal, clock: Clock, ledger: Ledger) -> None:
        self._board = board
        self._journal = journal
        self._clock = clock
        self._ledger = ledger
        self._reasons: dict[str, str] = {"starting": "starting"}
        self._looked_at = float("-inf")

    def close(self, component: str, why: str) -> None:
        """Stop taking objects because of ``component``; ``why`` is a sentence for a technician."""
        self._reasons[component] = why
        self._journal.note("INTAKE_CLOSED", component, why)
        self._show()

    def open(self, component: str) -> None:
        """Take back what `close` said for ``component``."""
        if self._reasons.pop(component, None) is not None:
            self._journal.clear("INTAKE_CLOSED", component)
        self._show()

    def refusal(self) -> str | None:
        """Say why an object that begins now is not taken; None where it is."""
        now = self._clock.monotonic()
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            try:
                self._judge(self._ledger.room())
            except OSError as e:
                self._no_answer(e)
        return next(iter(self._reasons.values()), None)

    def begin(self) -> Reservation | None:
        """Promise room to an object that begins; None where it is not taken."""
        if self.refusal() is not None:
            return None
        try:
            reservation = self._ledger.begin()
        except OSError as e:
            self._no_answer(e)
            return None
        if reservation is None:
            self._full()
        return reservation

    def short(self) -> bool:
        """Whether room is short, so that what has been delivered should make way. Raises OSError."""
        return self._ledger.room() < self._ledger.reserve // _SHORT

    def _judge(self, room: int) -> None:
        if room <= 0:
            self._full()
        elif "storage" in self._reasons and room >= self._ledger.reserve // _MARGIN:
            self.open("storage")

    def _full(self) -> None:
        self.close("storage", "the disk is full up to its reserve.")

    def _no_answer(self, error: OSError) -> None:
        self.close("storage", f"the disk cannot be asked for its room: {error.strerror or error}.")

    def _show(self) -> None:
        self._board.intake_open = not self._reasons
        self._board.intake_closed_because = next(iter(self._reasons.values()), "")
