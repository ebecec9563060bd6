"""Whether the box takes objects at this moment, and why not.

Anything that must stop intake closes it here with a reason and opens it again when it is over; several reasons may
stand at once. Room on the disk is looked at when an object begins.
"""

from collections.abc import Callable
from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.findings import Journal

_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the free space."""
DEFAULT_RESERVE: Final = 2 << 30


class Admission:
    """The gate in front of every door."""

    def __init__(self, board: Board, journal: Journal, clock: Clock, free: Callable[[], int], reserve: int) -> None:
        self.reserve = reserve
        self._board = board
        self._journal = journal
        self._clock = clock
        self._free = free
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
                full = self._free() < self.reserve
            except OSError as e:
                self.close("storage", f"the disk cannot be asked for its room: {e.strerror or e}.")
            else:
                if full:
                    self.close("storage", "the disk is full up to its reserve.")
                else:
                    self.open("storage")
        return next(iter(self._reasons.values()), None)

    def _show(self) -> None:
        self._board.intake_open = not self._reasons
        self._board.intake_closed_because = next(iter(self._reasons.values()), "")
