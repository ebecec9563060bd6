"""The pages of studies over a real store: what a test does to the store, they show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast

import msgspec

from edge.control import Control
from edge.preview import Previews
from edge.safety import safe_to_delete
from edge.snapshot import Snapshot
from edge.store import StudyFilter, Verdict
from edge.web.server import Dashboard as Service
from tests.stored import Request, Stored, references
from tests.web import Served

QUIET = 300.0


class FakeLanes:
    """Nothing is sent by anybody but the test."""

    def has(self, name: str) -> bool:
        return bool(name)

    def hasten(self, name: str) -> None:
        del name

    def pause(self, name: str) -> None:
        del name

    def resume(self, name: str) -> None:
        del name


class Studied(Served):
    """A dashboard over `stored`, which must be open."""

    def __init__(
        self, folder: Path, stored: Stored, shown: Snapshot | None = None, *, previews: object | None = None
    ) -> None:
        control = Control(stored.store, FakeLanes())
        super().__init__(folder, shown, clock=stored.clock, reading=stored.store.reading, control=control)
        self.stored = stored
        made = cast("Previews | None", previews)
        self.box = msgspec.structs.replace(self.box, studies=stored.store.studies, previews=made)
        self.service = Service(self.box)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def id_of(self, uid: str) -> int:
        """The number of the study `uid`."""
        (study,) = await self.stored.store.studies(StudyFilter(uid=uid))
        return study.id

    async def safety(self, uid: str) -> str:
        (study,) = await self.stored.store.studies(StudyFilter(uid=uid))
        return safe_to_delete(study).code


async def commit(stored: Stored, numbers: Sequence[int], uid: str = "1.7") -> None:
    """Have the modality ask for these, and answer it."""
    await stored.store.promise("CT1", "EDGE", "10.0.0.7", Request(uid, references(*numbers)))
    for _ in range(3):
        stored.clock.pass_time(30.0)
        await stored.store.decide_promises("stored", 60.0, 1e9)


async def verify(stored: Stored, numbers: Sequence[int], destination: str = "pacs") -> None:
    """Have a query find them."""
    await stored.store.prove(destination, [Verdict(number, found=True) for number in numbers])
