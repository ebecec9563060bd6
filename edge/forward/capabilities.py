"""What a destination takes and refuses: SOP classes in transfer syntaxes, as it answered, and when.

A refusal counts for a day, then it is asked again; sooner where the destination takes what it did not take before. It
decides what is proposed, never what becomes of an object: that is for the association at hand.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import structlog

from edge.clock import Clock, SystemClock
from edge.model import Kind
from edge.store import Capability, StoreError

_FRESH: Final = 86_400.0
"""Seconds for which a refusal counts."""
_RENEW: Final = 21_600.0
"""Seconds after which an answer that is the same again is written down again."""
_MOST: Final = 512

log = structlog.get_logger()


class Memory(Protocol):
    """Where it is kept beyond a restart, for one destination. Raises `StoreError`."""

    async def recall(self) -> Sequence[Capability]:
        """Return what was kept."""
        ...

    async def keep(self, answers: Mapping[Kind, bool]) -> None:
        """Keep what is so now."""
        ...


class Book:
    """What is known of one destination; without ``memory`` until the end of the process."""

    def __init__(self, memory: Memory | None = None, clock: Clock | None = None) -> None:
        self._memory = memory
        self._clock = SystemClock() if clock is None else clock
        self._known: dict[Kind, tuple[bool, float]] = {}
        """Whether it is taken, and since when that is known, by the monotonic clock."""
        self._loaded = memory is None

    async def load(self) -> None:
        """Read what was kept, once; while that cannot be read, nothing is known."""
        if self._loaded or self._memory is None:
            return
        try:
            kept = await self._memory.recall()
        except StoreError as e:
            log.warning("what a destination takes cannot be read", error=str(e))
            return
        now = self._clock.monotonic()
        before = {one.kind: (one.taken, now - one.age) for one in kept}
        self._known = before | self._known
        self._loaded = True

    def takes(self, kind: Kind) -> bool:
        """Whether it took ``kind`` when it was asked last."""
        return self._known.get(kind, (False, 0.0))[0]

    def refuses(self, kind: Kind) -> bool:
        """Whether it refused ``kind`` when it was asked last, lately."""
        taken, at = self._known.get(kind, (True, 0.0))
        return not taken and self._clock.monotonic() - at < _FRESH

    async def learn(self, answers: Mapping[Kind, bool]) -> None:
        """Remember what it said; what is not news is not written again before a quarter of a day has passed."""
        now = self._clock.monotonic()
        news = {
            kind: taken
            for kind, taken in answers.items()
            if kind not in self._known or self._known[kind][0] is not taken or now - self._known[kind][1] > _RENEW
        }
        if any(taken and not self.takes(kind) for kind, taken in news.items()):
            stale = now - _FRESH  # who takes something new may take more
            self._known |= {kind: (False, stale) for kind, (taken, _) in self._known.items() if not taken}
        self._known |= {kind: (taken, now) for kind, taken in news.items()}
        for kind in list(self._known)[: max(0, len(self._known) - _MOST)]:
            del self._known[kind]
        if news and self._memory is not None:
            try:
                await self._memory.keep(news)
            except StoreError as e:
                log.warning("what a destination takes cannot be written down", error=str(e))
