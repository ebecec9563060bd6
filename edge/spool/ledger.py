"""The ledger of free space: who begins an object is promised room for it, and nobody is promised the same room twice.

A C-STORE does not say how long it will be, so room is promised in steps while the object streams. What is promised and
not written yet is not free, though the file system says so.
"""

from collections.abc import Callable
from typing import Final

import msgspec

_STEP: Final = 1 << 20
_FIRST_STEP: Final = 256 << 10
"""Bytes promised at once: to an object that begins, and to one that grows."""
_INODES: Final = 64
"""Files that must remain possible, for the database and what else the box writes."""


class Free(msgspec.Struct, frozen=True):
    """What the file system has left for us."""

    bytes: int
    inodes: int


class Reservation:
    """Room for one object. ``written`` is kept by whoever writes it."""

    def __init__(self, ledger: "Ledger") -> None:
        self.granted = 0
        self.written = 0
        self._ledger = ledger

    def extend(self, length: int) -> bool:
        """Ask for room for ``length`` bytes in all; False where there is none."""
        return length <= self.granted or self._ledger.grant(self, length)

    def release(self) -> None:
        """Give back what was not used; what was written is seen by the file system itself."""
        self._ledger.forget(self)


class Ledger:
    """Promises room above ``reserve``, the bytes that objects never take."""

    def __init__(self, free: Callable[[], Free], reserve: int) -> None:
        self.reserve = reserve
        self._free = free
        self._open: set[Reservation] = set()

    def begin(self) -> Reservation | None:
        """Begin an object; None where there is no room for one. Raises OSError."""
        reservation = Reservation(self)
        return reservation if self._free().inodes > _INODES and self.grant(reservation, _FIRST_STEP) else None

    def room(self) -> int:
        """Bytes that can still be promised; negative where others have taken of the reserve. Raises OSError."""
        promised = sum(max(0, r.granted - r.written) for r in self._open)
        return self._free().bytes - promised - self.reserve

    def grant(self, reservation: Reservation, length: int) -> bool:
        """Promise room up to ``length`` bytes, or a step more where that is to be had. Raises OSError."""
        room, more = self.room(), length - reservation.granted
        if room < more:
            return False
        reservation.granted += max(more, min(_STEP, room)) if reservation.granted else more
        self._open.add(reservation)
        return True

    def forget(self, reservation: Reservation) -> None:
        """End a reservation."""
        self._open.discard(reservation)
