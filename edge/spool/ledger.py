"""The ledger of free space: who begins an object is promised room for it, and nobody is promised the same room twice.

A C-STORE does not say how long it will be, so room is promised in steps while the object streams. What is promised and
not written yet is not free, though the file system says so. Objects begin and end on the event loop; `Ledger.room` may
be asked from any thread.
"""

from collections.abc import Callable
from threading import Lock
from typing import Final

import msgspec

_STEP: Final = 1 << 20
_FIRST_STEP: Final = 256 << 10
"""Bytes promised at once: to an object that begins, and to one that grows."""
_SHORT: Final = 4
"""Room is short when less than this part of the reserve is left above it."""
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
    """Promises room above ``reserve``, the bytes that objects never take. ``margin`` is what keeps it from flapping.

    Its questions raise OSError where the file system does not answer.
    """

    def __init__(self, free: Callable[[], Free], reserve: int, margin: int = 0) -> None:
        self.reserve = reserve
        self.margin = margin
        self._free = free
        self._open: set[Reservation] = set()
        self._lock = Lock()
        """Guards the set, which the loop changes while a thread asks for room."""

    def begin(self) -> Reservation | None:
        """Begin an object; None where there is no room for one."""
        reservation = Reservation(self)
        return reservation if not self.full() and self.grant(reservation, _FIRST_STEP) else None

    def room(self) -> int:
        """Bytes that can still be promised; negative where others have taken of the reserve."""
        return self._above(self._free())

    def full(self) -> bool:
        """Whether nothing more should be begun."""
        free = self._free()
        return self._above(free) <= self.margin // 2 or free.inodes <= _INODES

    def ample(self) -> bool:
        """Whether, full once, objects can be begun again."""
        free = self._free()
        return self._above(free) > self.margin and free.inodes > 2 * _INODES

    def short(self) -> bool:
        """Whether what has been delivered should make way."""
        free = self._free()
        return self._above(free) < max(self.reserve // _SHORT, 2 * self.margin) or free.inodes < 4 * _INODES

    def grant(self, reservation: Reservation, length: int) -> bool:
        """Promise room up to ``length`` bytes, or a step more where that is to be had."""
        room, more = self.room(), length - reservation.granted
        if room < more:
            return False
        reservation.granted += max(more, min(_STEP, room)) if reservation.granted else more
        with self._lock:
            self._open.add(reservation)
        return True

    def forget(self, reservation: Reservation) -> None:
        """End a reservation."""
        with self._lock:
            self._open.discard(reservation)

    def _above(self, free: Free) -> int:
        """Bytes above the reserve that nobody was promised."""
        with self._lock:
            promised = tuple(self._open)
        return free.bytes - self.reserve - sum(max(0, r.granted - r.written) for r in promised)
