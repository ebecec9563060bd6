"""Objects too big for how long the line holds: known by being broken off again and again while smaller ones pass.

DICOM cannot resume inside an object, and neither can STOW-RS, so each try begins at its first byte. Such an object is a
finding, goes on being tried, and only when nothing else waits. What is known is kept in memory: after a start it shows
anew. A destination that itself breaks off at one large object looks the same from here.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgspec

from edge.findings import Journal
from edge.phrase import say_n
from edge.store import Parcel

BREAKS: Final = 3
"""Times that an object is broken off before it is too big."""
_MOST: Final = 256
"""Objects that are watched; the one longest without news gives way."""

Owed = Callable[[str, Collection[int]], Awaitable[Collection[int]]]
"""Tells which of these instances a destination is still to get."""


class _Broken(msgspec.Struct):
    """An object that was broken off; ``passed``: whether a smaller one went through since."""

    length: int
    times: int = 0
    passed: bool = False

    @property
    def too_big(self) -> bool:
        return self.passed and self.times >= BREAKS


class Oversize:
    """What one destination did not get whole so far."""

    def __init__(self, name: str, journal: Journal) -> None:
        self._name = name
        self._journal = journal
        self._broken: dict[int, _Broken] = {}

    @property
    def any(self) -> bool:
        """Whether anything is too big."""
        return any(each.too_big for each in self._broken.values())

    def has(self, parcel: Parcel) -> bool:
        """Whether ``parcel`` is too big."""
        found = self._broken.get(parcel.instance)
        return found is not None and found.too_big

    def broken(self, parcel: Parcel) -> bool:
        """Whether ``parcel`` was broken off, and neither it nor one as large went through since."""
        return parcel.instance in self._broken

    def broke(self, parcel: Parcel) -> None:
        """Count that ``parcel`` was broken off in its middle."""
        found = self._broken.pop(parcel.instance, None) or _Broken(parcel.length)
        found.times += 1
        self._broken[parcel.instance] = found
        if len(self._broken) > _MOST:
            del self._broken[next(iter(self._broken))]
        self._tell()

    def passed(self, parcel: Parcel) -> None:
        """Note that ``parcel`` went through: what is no larger was broken off by chance, and begins anew."""
        if not self._broken:
            return
        self._broken.pop(parcel.instance, None)
        for instance, each in list(self._broken.items()):
            if each.length <= parcel.length:
                del self._broken[instance]
            else:
                each.passed = True
        self._tell()

    def over(self, parcel: Parcel) -> None:
        """Forget ``parcel``: it is not to be sent any more."""
        if self._broken.pop(parcel.instance, None) is not None:
            self._tell()

    async def look(self, owed: Owed) -> None:
        """Forget what a person gave up meanwhile, and what was deleted. Raises what ``owed`` does."""
        if self._broken:
            left = await owed(self._name, tuple(self._broken))
            for instance in [instance for instance in self._broken if instance not in left]:
                del self._broken[instance]
            self._tell()

    def _tell(self) -> None:
        component = f"destination.{self._name}"
        large = [each for each in self._broken.values() if each.too_big]
        if not large:
            self._journal.clear("OBJECT_TOO_BIG_FOR_LINK", component)
            return
        worst = max(large, key=lambda each: each.length)
        text = say_n(
            "{name}: the line broke off {times} times in the middle of an object of {size}, while smaller ones pass.",
            "{name}: the line broke off {times} times in the middle of each of {n} objects, the largest of {size}, "
            "while smaller ones pass.",
            len(large),
            name=self._name,
            times=worst.times,
            size=_size(worst.length),
        )
        self._journal.state("OBJECT_TOO_BIG_FOR_LINK", component, text)


def _size(length: int) -> str:
    """Tell bytes as people do."""
    return f"{length / 1e6:.0f} MB" if length >= 10**7 else f"{length / 1e3:.0f} kB"
