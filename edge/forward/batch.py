"""What a session is given to send: claimed parcels, as long as they may go and nothing more urgent waits.

A transport that goes through them one by one, each when its turn has come, is stopped between two; one that takes
several in one request takes what it got. What was not given out goes back to the queue.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from edge.store import Parcel


class Batch(Sequence[Parcel]):
    """Parcels in the order in which they are to go."""

    def __init__(self, parcels: Sequence[Parcel], waits: Callable[[Parcel], bool]) -> None:
        """``waits`` tells, when the turn of a parcel comes, whether it should not go now."""
        self.stopped = False
        """Whether it ended before the last of them."""
        self._parcels = parcels
        self._waits = waits

    def __iter__(self) -> Iterator[Parcel]:
        """Give each parcel, up to the first that waits."""
        for parcel in self._parcels:
            if self._waits(parcel):
                self.stopped = True
                return
            yield parcel

    def __len__(self) -> int:
        """Count what was claimed."""
        return len(self._parcels)

    @overload
    def __getitem__(self, index: int) -> Parcel: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Parcel]: ...
    def __getitem__(self, index: int | slice) -> Parcel | Sequence[Parcel]:
        """Give what was claimed, whether or not it may go."""
        return self._parcels[index]
