"""One snapshot for everybody who looks: taken at most once a second, however many ask."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from edge.clock import Clock
from edge.snapshot import Snapshot
from edge.store import StoreError
from edge.web.public import public_snapshot

AGE: Final = 0.95
"""Seconds for which a snapshot is good."""
_PATIENCE: Final = 5.0
"""Seconds that taking one may last."""
_BLIND: Final = "The box does not know how it is: its database does not answer."


class Glimpse:
    """Takes snapshots."""

    def __init__(self, take: Callable[[], Awaitable[Snapshot]], clock: Clock) -> None:
        self._take = take
        self._clock = clock
        self.paces: dict[str, float] = {}
        """Bytes a second at which each destination was last seen to take images."""
        self._at = float("-inf")
        self._whole: Snapshot | None = None
        self._public: Snapshot | None = None
        self._lock = asyncio.Lock()

    async def now(self, *, inside: bool) -> Snapshot:
        """Return a snapshot of this second, whole only for who is ``inside``. Raises `StoreError`."""
        async with self._lock:
            if self._clock.monotonic() - self._at >= AGE:
                self._whole = self._public = None
                try:
                    self._whole = await self._look()
                    self._public = public_snapshot(self._whole)
                    self._learn(self._whole)
                finally:
                    # who waited meanwhile need not wait as long to hear the same
                    self._at = self._clock.monotonic()
            found = self._whole if inside else self._public
        if found is None:
            raise StoreError(_BLIND)
        return found

    async def _look(self) -> Snapshot:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._take()
        except TimeoutError:
            raise StoreError(_BLIND) from None

    def _learn(self, snapshot: Snapshot) -> None:
        for destination in snapshot.destinations:
            # a burst that is over drags its mean along for seconds: only what is in full flow counts
            if destination.sending and destination.rate_bytes_per_second:
                before = self.paces.get(destination.name, float(destination.rate_bytes_per_second))
                self.paces[destination.name] = 0.8 * before + 0.2 * destination.rate_bytes_per_second
