"""The seam between dispatcher and transports. One contract suite runs over every transport: test_transport.py."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from edge.forward.outcome import Outcome, Unreachable
from edge.model import Need
from edge.store import Parcel


class Session(Protocol):
    """A way to a destination that is kept while there is work."""

    @property
    def usable(self) -> bool:
        """Whether another batch can be sent."""
        ...

    def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Send a batch; yield each parcel with its outcome as soon as it is known, in any order.

        Never raises for the destination's faults. Parcels that it does not yield were not tried: after an
        `Unreachable`, or where they need another session than this one, which is then no longer `usable`. One that
        goes through ``parcels`` as it sends them lets what is more urgent overtake the rest; it may get none at all.
        Sending the same parcel again is allowed and makes no second object at a sane destination. When cancelled it
        leaves the session closed.
        """
        ...

    async def close(self) -> None:
        """Say goodbye within a few seconds. Never raises."""
        ...


class Transport(Protocol):
    """How one destination is reached. Knows neither store nor queue."""

    async def open(self, needs: Sequence[Need]) -> Session | Unreachable:
        """Open a session for at least the first of ``needs``, and as many more as it can carry."""
        ...
