"""What one lane has claimed: claimed in order, given back, settled.

What was sent and cannot be recorded, since the store does not serve, is kept and recorded first when it does. Claims
that nobody sends any more are given back by `Claims.rescue`, and by the next start.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from edge.board import DestinationGauge
from edge.forward.burden import Burden, smallest, split
from edge.forward.judge import Judge
from edge.model import STAT
from edge.phrase import N_
from edge.store import NotOursError, Parcel, Settlement, Store, StoreError

log = structlog.get_logger()


class Ahead(msgspec.Struct, frozen=True):
    """How much work is claimed at once, unless something more urgent comes: in time, and in instances."""

    seconds: float = 0.05
    instances: int = 16
    stat: int = 1
    """Instances of stat work, where other sessions could send them at the same time."""


class Claims:
    """Those of the lane to ``name``; ``lowest`` is the least urgent priority that may go now."""

    def __init__(
        self,
        name: str,
        store: Store,
        judge: Judge,
        burden: Burden,
        gauge: DestinationGauge,
        lowest: Callable[[], int],
        ahead: Ahead,
    ) -> None:
        self.pace = 0.0
        """Seconds that the last objects took each; 0: none was sent yet."""
        self._name = name
        self._store = store
        self._judge = judge
        self._burden = burden
        self._gauge = gauge
        self._lowest = lowest
        self._ahead = ahead
        self._unsettled: list[Settlement] = []

    @property
    def unsettled(self) -> bool:
        """Whether there are outcomes that the store could not take."""
        return bool(self._unsettled)

    async def claim(self) -> list[Parcel]:
        """Claim what goes next on one session, as much as goes out in a moment. Raises `StoreError`.

        What is to go last is claimed only where nothing else can be.
        """
        parcels = await self._claim()
        waiting: list[Parcel] = []
        others: list[Parcel] = []
        while parcels and not others:
            waiting += filter(self._burden.last, parcels)
            others = [parcel for parcel in parcels if not self._burden.last(parcel)]
            parcels = [] if others else await self._claim()
        if not others:
            others = smallest([parcel for parcel in waiting if not self._burden.crowded(parcel)])
        await self.settle([self._judge.aside(parcel) for parcel in waiting if parcel not in others])
        going, left = split(others, self._burden.weighs)
        await self.settle([self._judge.untouched(parcel) for parcel in left])
        return going

    async def _claim(self) -> list[Parcel]:
        most = 1  # until it is known how long that takes
        if self.pace > 0:
            most = max(1, min(self._ahead.instances, int(self._ahead.seconds / self.pace)))
        if self._stat_is_shared():
            most = min(most, self._ahead.stat)
        return await self._store.claim(self._name, most, self._lowest())

    async def claim_ahead(self, priority: int) -> list[Parcel]:
        """Claim what goes after a batch of ``priority``; what is more urgent is left to whoever is free first."""
        if self._stat_is_shared() or (priority == STAT and self._gauge.associations > 1):
            return []
        parcels = await self.claim()
        if parcels and (parcels[0].priority < priority or self._burden.weighs(parcels[0])):
            await self._give_back(parcels)
            return []
        return parcels

    def _stat_is_shared(self) -> bool:
        """Whether stat work waits that several sessions should send: none of it waits behind other work of one."""
        return self._gauge.associations > 1 and self._store.pressing(self._name) == STAT

    async def drop(self, ahead: Awaitable[list[Parcel]]) -> None:
        """Let what was claimed ahead be claimed by others."""
        with contextlib.suppress(StoreError):
            await self._give_back(await ahead)

    async def rescue(self) -> None:
        """Give back whatever is claimed for this lane, after it failed."""
        with contextlib.suppress(StoreError):  # then all goes back when the store is opened anew
            await self._store.give_back(self._name)

    async def settle(self, settlements: list[Settlement]) -> None:
        """Record outcomes; what the store cannot take now is kept for `settle_late`."""
        if not settlements:
            return
        try:
            await self._store.settle(settlements)
        except NotOursError:
            # the store was opened anew meanwhile and gave some back
            await self._settle_again(settlements)
        except StoreError as e:
            self._keep(settlements, e)

    async def settle_late(self) -> None:
        """Record the outcomes that the store could not take. Raises `StoreError` while it still cannot."""
        late, self._unsettled = self._unsettled, []
        await self.settle(late)
        if self._unsettled:
            raise StoreError(N_("Outcomes of what was sent cannot be recorded yet."))

    async def _settle_again(self, settlements: list[Settlement]) -> None:
        try:
            await self._store.settle_late(settlements)
        except StoreError as e:
            self._keep(settlements, e)

    def _keep(self, settlements: list[Settlement], error: StoreError) -> None:
        log.warning("outcomes wait for the store", destination=self._name, error=str(error))
        self._unsettled += settlements

    async def _give_back(self, parcels: Sequence[Parcel]) -> None:
        if parcels:
            self._store.press(self._name, parcels[0].priority)  # whoever claims now comes after it is given back
            await self.settle([self._judge.untouched(parcel) for parcel in parcels])
