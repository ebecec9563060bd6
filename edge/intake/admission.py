"""Whether the box takes objects at this moment, and why not.

Anything that must stop intake closes it here with a reason and opens it again when it is over; several reasons may
stand at once. Room is promised by the ledger when an object begins and as it grows.
"""

from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.findings import Journal
from edge.phrase import N_, say
from edge.spool import Ledger, Reservation
from edge.spool.ballast import LENGTH

_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the free space."""
DEFAULT_RESERVE: Final = 2 << 30
"""Bytes."""
_LARGEST_MARGIN: Final = 16 << 20


def margin(total: int) -> int:
    """Bytes above the reserve, on a disk of ``total`` bytes, at which intake opens again; at half of it, it closes."""
    return min(_LARGEST_MARGIN, total // 16)


def reserve(configured: int | None, total: int) -> int:
    """Bytes that objects never take on a disk of ``total`` bytes.

    Never fewer than the ballast gives back: a full disk that threw it overboard would seem to have room.
    """
    wanted = min(DEFAULT_RESERVE, total // 10) if configured is None else configured
    return max(wanted, LENGTH)


class Admission:
    """The gate in front of every door."""

    def __init__(self, board: Board, journal: Journal, clock: Clock, ledger: Ledger) -> None:
        self._board = board
        self._journal = journal
        self._clock = clock
        self._ledger = ledger
        self._reasons: dict[str, str] = {"starting": N_("starting")}
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
                self._look()
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

    def _look(self) -> None:
        if self._ledger.full():
            self._full()
        elif "storage" in self._reasons and self._ledger.ample():
            self.open("storage")

    def _full(self) -> None:
        self.close("storage", N_("the disk is full up to its reserve."))

    def _no_answer(self, error: OSError) -> None:
        self.close("storage", say("the disk cannot be asked for its room: {error}.", error=error.strerror or error))

    def _show(self) -> None:
        self._board.intake_open = not self._reasons
        self._board.intake_closed_because = next(iter(self._reasons.values()), "")
