"""Findings about proofs that are owed for too long, and by whom nobody asks for any."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from edge.config import Config, Destination, DimseDestination, FolderDestination
from edge.findings import Journal
from edge.status import overdue
from edge.status.overdue import ProofWatch
from edge.store import Choice, StoreError, Verdict
from tests.stored import Stored, instance, leg

DAY: Final = 86_400.0


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        yield opened


class Watched:
    """A watch over a store, and what it has found."""

    def __init__(self, box: Stored, *destinations: Destination) -> None:
        self.box, self.journal = box, Journal(box.clock)
        self.configure(*destinations)

    def configure(self, *destinations: Destination) -> None:
        """As after a restart with these."""
        config = Config(destination=destinations)
        self.watch = ProofWatch(config, self.box.store.reading, self.box.store.oldest_proof, self.journal)

    async def texts(self, seconds: float = 0.0) -> dict[str, str]:
        """What it says after so long, by component."""
        self.box.clock.pass_time(seconds)
        await self.box.store.tick(seconds)
        await self.watch.look()
        assert {finding.code for finding in self.journal.open()} <= {"PROOF_OVERDUE"}
        return {finding.component: finding.text for finding in self.journal.open()}


def pacs(name: str = "pacs", verify: str = "commitment") -> Destination:
    made = DimseDestination(name=name, host="127.0.0.1", ae_title="PACS")
    match verify:
        case "commitment":
            return DimseDestination(name=name, host=made.host, ae_title=made.ae_title, verify="commitment")
        case "query":
            return DimseDestination(name=name, host=made.host, ae_title=made.ae_title, verify="query")
        case _:
            return made


async def test_a_proof_that_is_owed_for_a_day_is_a_finding_and_says_for_how_long(box: Stored) -> None:
    watched = Watched(box, pacs())
    await box.accept(instance(1))
    assert await watched.texts(DAY - 1) == {}
    late = "pacs accepted images more than {} ago and has not proven them yet."
    assert await watched.texts(1.0) == {"destination.pacs": late.format("a day")}
    assert await watched.texts(DAY - 1) == {"destination.pacs": late.format("a day")}
    assert await watched.texts(1.0) == {"destination.pacs": late.format("2 days")}
    assert [finding.count for finding in watched.journal.open()] == [1]


async def test_the_oldest_counts_and_the_finding_closes_with_its_proof(box: Stored) -> None:
    watched = Watched(box, pacs())
    await box.accept(instance(1))
    await watched.texts(DAY / 2)
    await box.accept(instance(2))
    assert await watched.texts(DAY / 2) != {}
    await box.store.prove("pacs", [Verdict(1, found=True)])
    assert await watched.texts() == {}
    assert await watched.texts(DAY / 2) != {}
    await box.store.prove("pacs", [Verdict(2, found=True)])
    assert await watched.texts(DAY) == {}


async def test_no_jump_of_the_wall_clock_and_no_restart_makes_a_proof_overdue_or_not(box: Stored) -> None:
    watched = Watched(box, pacs())
    await box.accept(instance(1))
    box.clock.wall += 100 * DAY
    assert await watched.texts(DAY / 2) == {}
    await box.restart()
    watched.configure(pacs())
    box.clock.wall = 0.0
    assert await watched.texts(DAY / 2 - 1) == {}
    assert await watched.texts(1.0) != {}


@pytest.mark.parametrize("left", [(), (pacs("other"),), (pacs(verify="none"),)])
async def test_a_destination_that_is_not_asked_any_more_and_owes_proof_is_a_finding_at_once(
    left: tuple[Destination, ...], box: Stored
) -> None:
    watched = Watched(box, *left)
    await box.accept(instance(1))
    texts = await watched.texts()
    assert texts.keys() == {"destination.pacs"}
    assert "pacs owes proof of images, and the configuration does not ask it for any" in texts["destination.pacs"]
    watched.configure(pacs(verify="query"))
    assert await watched.texts() == {}, "it is asked again"
    watched.configure(*left)
    assert await watched.texts() != {}
    await box.store.decide("cancel", Choice(destination="pacs"), who="test")
    assert await watched.texts() == {}


async def test_who_needs_no_proof_or_has_accepted_nothing_is_never_late(box: Stored, tmp_path: Path) -> None:
    folder = FolderDestination(name="archive", path=tmp_path / "archive")
    watched = Watched(box, pacs(verify="none"), pacs("idle"), folder)
    await box.accept(instance(1), to=[leg(proof=False), leg("archive", proof=False)])
    await box.receive(instance(2))
    assert await watched.texts(10 * DAY) == {}


async def test_each_destination_is_looked_at_for_itself(box: Stored) -> None:
    watched = Watched(box, pacs(), pacs("cloud", "query"))
    await box.accept(instance(1), to=[leg(), leg("cloud")])
    assert (await watched.texts(DAY)).keys() == {"destination.pacs"}


async def test_an_error_of_the_store_is_noted_and_ends_nothing(box: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    class LookedTwiceError(Exception):
        """Ends the watch."""

    looks = 0

    async def oldest(_destination: str) -> float | None:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise LookedTwiceError
        raise StoreError("the disk is gone")

    monkeypatch.setattr(overdue, "_EVERY", 0.0)
    journal = Journal(box.clock)
    with pytest.raises(LookedTwiceError):
        await ProofWatch(Config(destination=(pacs(),)), box.store.reading, oldest, journal).run()
    assert [(finding.code, finding.component) for finding in journal.open()] == [("STORAGE_ERROR", "store")]
