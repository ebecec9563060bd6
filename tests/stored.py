"""A store with its committer running, and what tests of proof say in short."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from edge.model import Failure, Header, Instance, Kind, Reference, Source
from edge.routing import Leg
from edge.states import DeliveryState
from edge.store import Batch, Settlement, Store
from tests.fakes import ManualClock, evidence_of

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
MR: Final = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
JPEG: Final = "1.2.840.10008.1.2.4.50"


class Report(msgspec.Struct, frozen=True):
    """A report as it comes out of a dataset."""

    transaction_uid: str
    committed: tuple[Reference, ...] = ()
    failed: tuple[Failure, ...] = ()


class Request(msgspec.Struct, frozen=True):
    """A request of a modality as it comes out of a dataset."""

    transaction_uid: str
    references: tuple[Reference, ...]


def instance(
    number: int, *, uid: str = "", content: int | None = None, syntax: str = EXPLICIT, study: str = "1.2.3", **more: str
) -> Instance:
    """An instance as intake would hand it over; ``content`` stands for its bytes, ``more`` is of its header."""
    return Instance(
        id=number,
        kind=Kind(CT, syntax),
        sop_instance_uid=uid or f"1.2.3.{number}",
        digest=(number if content is None else content).to_bytes(32, "big"),
        length=100,
        offset=10,
        source=Source(door="dimse", calling="CT1", called="EDGE", address="10.0.0.7"),
        received_at=1_800_000_000.0 + number,
        clock_trusted=True,
        header=Header(study_uid=study, series_uid=f"{study}.4", **({"modality": "CT"} | more)),
    )


def leg(destination: str = "pacs", *, proof: bool = True) -> Leg:
    return Leg(destination, 1, needs_proof=proof)


def references(*numbers: int) -> tuple[Reference, ...]:
    return tuple(Reference(CT, f"1.2.3.{number}") for number in numbers)


def failures(reason: int, *numbers: int) -> tuple[Failure, ...]:
    return tuple(Failure(reference, reason) for reference in references(*numbers))


class Stored:
    """One store below a folder, which can be started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.clock = ManualClock()
        self._session = 0
        self.store: Store
        self._committing: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def restart(self, *, monotonic: float = 5.0, ripe_in: float = 0.0) -> None:
        """End the program and start it anew, perhaps on a machine that has just been switched on."""
        await self._close()
        self.clock.seconds = monotonic
        await self._open(ripe_in)

    async def _open(self, ripe_in: float = 0.0) -> None:
        self._session += 1
        folder = self._folder
        self.store = await Store.open(
            folder, self.clock, self._session, lambda number: folder / f"{number}.dcm", ripe_in=ripe_in
        )
        self._committing = asyncio.create_task(self.store.run())

    async def _close(self) -> None:
        self.store.finish()
        await self._committing
        await self.store.close()

    async def receive(self, *instances: Instance, to: Sequence[Leg] | None = None) -> None:
        """Record them, one transaction each."""
        for one in instances:
            await self.store.record([(one, [leg()] if to is None else to)])

    async def settle(
        self, state: DeliveryState, *numbers: int, destination: str = "pacs", code: str = "0000", attempt: bool = True
    ) -> None:
        """Send what may go now, ``numbers`` if given and all there is else, with one outcome."""
        parcels = await self.store.claim(destination, 100_000)
        assert not numbers or {p.instance for p in parcels} == set(numbers)
        await self.store.settle(
            [
                Settlement(
                    delivery=p.delivery,
                    instance=p.instance,
                    destination=destination,
                    state=state,
                    code=code,
                    attempted=attempt,
                    evidence=evidence_of(state),
                )
                for p in parcels
            ]
        )

    async def accept(self, *instances: Instance, to: Sequence[Leg] | None = None) -> None:
        """Receive them, and have them accepted by the PACS."""
        await self.receive(*instances, to=to)
        await self.settle(DeliveryState.ACCEPTED)

    async def provable(
        self, *, quiet: float = 5.0, longest: float = 60.0, most: int = 500, destination: str = "pacs"
    ) -> Batch | None:
        return await self.store.provable(destination, quiet, longest, most)

    async def due(self, *, most: int = 500) -> list[int]:
        """The instances that may be asked about without waiting for quiet."""
        batch = await self.provable(quiet=0.0, longest=0.0, most=most)
        return [item.instance for item in batch.items] if batch is not None else []

    async def ask(self, uid: str = "2.25.1", *, after: float = 600.0) -> list[int]:
        """Request commitment of what is due; the instances."""
        batch = await self.provable(quiet=0.0, longest=0.0)
        assert batch is not None
        await self.store.begin_request("pacs", uid, batch.items, self.clock.seconds + after)
        return [item.instance for item in batch.items]

    async def states(self, destination: str = "pacs") -> dict[int, str]:
        return dict(await self.rows("SELECT instance, state FROM delivery WHERE destination = ?", destination))

    async def state(self, number: int, destination: str = "pacs") -> tuple[str, str]:
        asked = "SELECT state, code FROM delivery WHERE instance = ? AND destination = ?"
        ((state, code),) = await self.rows(asked, number, destination)
        return state, code

    async def trail(self, number: int) -> list[tuple[str, str]]:
        asked = "SELECT event, code FROM trail WHERE instance = ? ORDER BY seq"
        return [(event, code) for event, code in await self.rows(asked, number)]

    async def rows(self, asked: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database itself."""
        return await self.store.reading.run(lambda raw: raw.execute(asked, values).fetchall())

    async def run(self, statement: str, *values: object) -> None:
        """Do what no verb does."""

        def work(raw: sqlite3.Connection) -> None:
            raw.execute(statement, values)

        await self.store._committer.commit(work)
