"""Which of what was claimed goes now: what is heavy for the line goes alone and beside few others of its kind.

An object is heavy where the line needs seconds for it. A few of them fill the line; more of them at once all take
longer, and none may end before a line that does not hold for long is cut. What goes last goes when nothing else does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from edge.board import DestinationGauge
from edge.forward.gate import Gate
from edge.forward.oversize import Oversize
from edge.store import Parcel

LARGE: Final = 8 << 20
"""Bytes below which nothing is heavy."""
MOST: Final = 2
"""Heavy objects at once."""
_SECONDS: Final = 5.0

Judged = Callable[[Parcel], bool]


def heavy(parcel: Parcel, rate: float) -> bool:
    """Whether ``parcel`` takes long at ``rate``, bytes a second over all sessions."""
    return parcel.length >= LARGE and parcel.length > _SECONDS * rate


def split(parcels: Sequence[Parcel], weighs: Judged) -> tuple[list[Parcel], list[Parcel]]:
    """Return what goes as one piece of work, in its order, and what is left: a heavy one shares it with none."""
    end = next((at for at, parcel in enumerate(parcels) if weighs(parcel)), len(parcels)) or 1
    return list(parcels[:end]), list(parcels[end:])


def smallest(parcels: Sequence[Parcel]) -> list[Parcel]:
    """Return the one that goes where all of them should go last."""
    return [min(parcels, key=lambda parcel: parcel.length)] if parcels else []


class Burden:
    """What is heavy for one lane's line, and what goes last."""

    def __init__(self, gate: Gate, oversize: Oversize, gauge: DestinationGauge) -> None:
        self.sending = 0
        """Heavy objects that are being sent."""
        self._gate = gate
        self._oversize = oversize
        self._gauge = gauge

    def weighs(self, parcel: Parcel) -> bool:
        """Whether ``parcel`` is heavy at the rate of now."""
        return heavy(parcel, self._gauge.rate.per_second())

    def crowded(self, parcel: Parcel) -> bool:
        """Whether ``parcel`` is heavy, and enough of its kind is on its way."""
        return self.sending >= MOST and self.weighs(parcel)

    def last(self, parcel: Parcel) -> bool:
        """Whether others go before ``parcel``.

        After a failure, before all that was broken off, as they may go through; at any time, before what is too big
        for the line and what is heavy beside enough of its kind.
        """
        doubtful = self._gate.failing and self._oversize.broken(parcel)
        return doubtful or self._oversize.has(parcel) or self.crowded(parcel)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Count a heavy object as being sent for as long as the body runs."""
        self.sending += 1
        try:
            yield
        finally:
            self.sending -= 1
