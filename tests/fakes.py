"""The fake that stands where a real part cannot be made to do what is asked. It keeps the contract of its seam."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from edge.evidence import Evidence
from edge.forward.outcome import Accepted, Outcome, Refused, Unreachable
from edge.model import Need
from edge.mqtt import LostError
from edge.spool import Free, Ledger, Reservation
from edge.states import DeliveryState
from edge.store import Parcel

GONE = Unreachable("REFUSED_CONNECTION", "it is gone.")


class ManualClock:
    """Time that stands still until a test moves it."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds
        self.wall = 1_800_000_000.0
        self.believed = True

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> float:
        return self.wall

    def trusted(self) -> bool:
        return self.believed

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += seconds


class FakeTransport:
    """A destination in memory. `judge` decides each outcome; without it everything readable is accepted."""

    def __init__(self, judge: Callable[[Parcel], Outcome | None] | None = None) -> None:
        self.delivered: list[Parcel] = []
        self.opened = 0
        self.up = True
        self._judge = judge

    def go_down(self) -> None:
        self.up = False

    async def open(self, needs: Sequence[Need]) -> "FakeSession | Unreachable":
        del needs
        self.opened += 1
        return FakeSession(self) if self.up else GONE

    def take(self, parcel: Parcel) -> Outcome:
        judged = self._judge(parcel) if self._judge else None
        if judged is None:
            judged = _read(parcel)
        if isinstance(judged, Accepted):
            self.delivered.append(parcel)
        return judged


class FakeSession:
    def __init__(self, transport: FakeTransport) -> None:
        self._transport = transport
        self.usable = True

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        for parcel in parcels:
            outcome = self._transport.take(parcel) if self._transport.up else GONE
            if isinstance(outcome, Unreachable):
                self.usable = False
            yield parcel, outcome
            if not self.usable:
                return

    async def close(self) -> None:
        self.usable = False


def _read(parcel: Parcel) -> Outcome:
    try:
        size = parcel.path.stat().st_size
    except OSError:
        return Refused("FILE_MISSING", "the stored file cannot be opened.")
    if size != parcel.offset + parcel.length:
        return Refused("FILE_DAMAGED", "the stored file cannot be read.")
    return Accepted("0000", Evidence.STORE_SUCCESS)


def evidence_of(state: DeliveryState) -> Evidence | None:
    """What may have led to ``state``."""
    return {DeliveryState.ACCEPTED: Evidence.STORE_SUCCESS, DeliveryState.VERIFIED: Evidence.COMMITTED}.get(state)


def plenty() -> Reservation:
    """Room for one object on a disk that never fills."""
    reservation = Ledger(lambda: Free(1 << 50, 1 << 30), 0).begin()
    assert reservation is not None
    return reservation


class FakeBrokerSession:
    """A broker in memory that knows what was published over one connection; `codes` are the next PUBACKs."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, int, bool]] = []
        self.codes: list[int] = []
        self.lost = False

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        if self.lost:
            raise LostError("it is gone")
        self.published.append((topic, payload, qos, retain))
        await asyncio.sleep(0)
        return self.codes.pop(0) if self.codes else 0

    def on(self, topic: str) -> list[bytes]:
        """The payloads published on ``topic``, in order."""
        return [payload for name, payload, _, _ in self.published if name == topic]
