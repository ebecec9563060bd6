"""Turns: two contents of one UID in order, a further rendering only where the earlier ones were refused."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge.model import Header, Instance, Kind, Source
from edge.routing import Leg
from edge.states import DeliveryState
from edge.store import Choice, Mended, Settlement, Store, repair
from edge.store.connection import FILE
from edge.store.turns import OTHER_RENDERING
from tests.fakes import ManualClock, evidence_of

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
JPEG: Final = "1.2.840.10008.1.2.4.50"
RLE: Final = "1.2.840.10008.1.2.5"
S: Final = DeliveryState


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path, ManualClock(), 1, lambda number: tmp_path / f"{number}.dcm")
    committing = asyncio.create_task(opened.run())
    yield opened
    opened.finish()
    await committing
    await opened.close()


def instance(number: int, syntax: str = EXPLICIT, content: int | None = None) -> Instance:
    """An instance of the one UID; ``content`` stands for its bytes."""
    return Instance(
        id=number,
        kind=Kind(CT, syntax),
        sop_instance_uid="1.9",
        digest=(number if content is None else content).to_bytes(32, "big"),
        length=100,
        offset=10,
        source=Source(door="dimse", calling="CT1", called="EDGE", address="10.0.0.7"),
        received_at=1_800_000_000.0 + number,
        clock_trusted=True,
        header=Header(study_uid="1.2.3", series_uid="1.2.4", modality="CT"),
    )


async def arrive(store: Store, *instances: Instance, to: tuple[str, ...] = ("pacs",)) -> list[bool]:
    """Record them one after another; whether each was another content."""
    legs = [Leg(name, 1, needs_proof=False) for name in to]
    return [(await store.record([(one, legs)]))[0].twin for one in instances]


async def claim(store: Store, destination: str = "pacs") -> list[int]:
    return [parcel.instance for parcel in await store.claim(destination, 9)]


async def settle(store: Store, number: int, state: DeliveryState, *, code: str = "0000", to: str = "pacs") -> None:
    one = Settlement(delivery=0, instance=number, destination=to, state=state, code=code, evidence=evidence_of(state))
    await store.settle([one])


async def send(store: Store, number: int, state: DeliveryState, *, code: str = "0000") -> None:
    """Send what may go, which must be ``number`` alone, with this outcome."""
    assert await claim(store) == [number]
    await settle(store, number, state, code=code)


async def states(store: Store, destination: str = "pacs") -> dict[int, str]:
    def work(raw: sqlite3.Connection) -> dict[int, str]:
        return dict(raw.execute("SELECT instance, state FROM delivery WHERE destination = ?", (destination,)))

    return await store.reading.run(work)


async def trail(store: Store, number: int) -> list[tuple[str, str]]:
    (row,) = await store.reading.trace(str(number))
    return [(step.event, step.code) for step in row.trail if step.destination]


async def test_another_rendering_is_no_other_content_and_ends_unsent_once_the_first_is_accepted(store: Store) -> None:
    assert await arrive(store, instance(1, JPEG), instance(2)) == [False, False]
    await send(store, 1, S.QUEUED)
    await send(store, 1, S.ACCEPTED)
    assert await claim(store) == []
    assert await states(store) == {1: "accepted", 2: "cancelled"}
    assert await trail(store, 2) == [("not-needed", OTHER_RENDERING)]
    (row,) = await store.reading.trace("2")
    assert row.deliveries[0].detail == "object 1, the same in another transfer syntax, was accepted"
    assert await store.settled(0.0, 9) == [1, 2]
    assert ("", "owed") not in {key for key, tally in (await store.reading.tallies()).items() if tally.instances}


@pytest.mark.parametrize(("state", "code"), [(S.HELD, "CONTEXT_REJECTED"), (S.HELD, "A900"), (S.DECLINED, "0122")])
async def test_another_rendering_goes_where_the_first_was_refused(
    store: Store, state: DeliveryState, code: str
) -> None:
    await arrive(store, instance(1, JPEG), instance(2))
    await send(store, 1, state, code=code)
    await send(store, 2, S.ACCEPTED)
    assert await states(store) == {1: str(state), 2: "accepted"}


@pytest.mark.parametrize("before", [True, False], ids=["given up before it came", "given up while it waits"])
async def test_another_rendering_goes_where_a_person_gave_up_the_first(store: Store, *, before: bool) -> None:
    await arrive(store, instance(1, JPEG))
    if not before:
        await arrive(store, instance(2))
    await store.decide("cancel", Choice(uid="1"), who="test", reason="x")
    if before:
        await arrive(store, instance(2))
    await send(store, 2, S.ACCEPTED)


@pytest.mark.parametrize("before", [True, False], ids=["held before it came", "held while it waits"])
async def test_what_a_person_holds_back_is_not_sent_in_another_rendering(store: Store, *, before: bool) -> None:
    await arrive(store, instance(1, JPEG))
    if not before:
        await arrive(store, instance(2))
    await store.decide("hold", Choice(uid="1"), who="test")
    if before:
        await arrive(store, instance(2))
    assert await claim(store) == []
    await store.decide("release", Choice(uid="1"), who="test")
    await send(store, 1, S.ACCEPTED)
    assert await states(store) == {1: "accepted", 2: "cancelled"}


async def test_what_was_held_back_and_is_given_up_leaves_the_turn_to_the_rendering(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2))
    await store.decide("hold", Choice(uid="1"), who="test")
    await store.decide("cancel", Choice(uid="1"), who="test", reason="x")
    await send(store, 2, S.ACCEPTED)


async def test_a_rendering_of_what_was_accepted_ends_as_it_comes_and_goes_to_nobody_who_has_it(store: Store) -> None:
    await arrive(store, instance(1, JPEG))
    await send(store, 1, S.ACCEPTED)
    await arrive(store, instance(2), to=("pacs", "cloud"))
    assert await claim(store) == []
    assert await claim(store, "cloud") == [2]
    assert await store.settled(0.0, 9) == [1]
    await settle(store, 2, S.ACCEPTED, to="cloud")
    assert await store.settled(0.0, 9) == [1, 2]


@pytest.mark.parametrize(("state", "goes"), [(S.ACCEPTED, False), (S.DECLINED, True)])
async def test_a_rendering_of_what_was_deleted_goes_only_where_that_was_refused(
    store: Store, state: DeliveryState, *, goes: bool
) -> None:
    await arrive(store, instance(1, JPEG))
    await send(store, 1, state)
    assert await store.expire([1], "test") == [1]
    assert await arrive(store, instance(2)) == [False]
    assert await claim(store) == [2] * goes


async def test_another_content_of_what_was_delivered_and_deleted_is_told(store: Store) -> None:
    await arrive(store, instance(1))
    await send(store, 1, S.ACCEPTED)
    assert await store.expire([1], "test") == [1]
    assert await arrive(store, instance(2, content=1)) == [False]
    await send(store, 2, S.ACCEPTED)
    assert await store.expire([2], "test") == [2]
    assert await arrive(store, instance(3, content=7)) == [True]
    await send(store, 3, S.ACCEPTED)


@pytest.mark.parametrize("before", [True, False], ids=["before it came", "while it waits"])
@pytest.mark.parametrize("how", ["lost", "quarantined"])
async def test_a_rendering_is_the_cure_of_what_is_gone(store: Store, how: str, *, before: bool) -> None:
    await arrive(store, instance(1, JPEG))
    if not before:
        await arrive(store, instance(2))
    await (store.lose([1]) if how == "lost" else store.quarantine(1, "test"))
    if before:
        await arrive(store, instance(2))
    assert 2 in await claim(store)


async def test_what_was_lost_and_is_found_has_its_turn_again(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2))
    await store.lose([1])
    await store.find([1])
    await send(store, 1, S.ACCEPTED)
    assert await states(store) == {1: "accepted", 2: "cancelled"}


async def test_what_is_held_back_and_then_damaged_does_not_keep_its_rendering(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2))
    await store.decide("hold", Choice(uid="1"), who="test")
    await store.quarantine(1, "test")
    assert await claim(store) == [2]


async def test_of_three_renderings_each_goes_only_where_all_before_it_were_refused(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2), instance(3, RLE), to=("pacs", "cloud"))
    await send(store, 1, S.HELD, code="CONTEXT_REJECTED")
    await send(store, 2, S.ACCEPTED)
    assert await claim(store) == []
    assert await states(store) == {1: "held", 2: "accepted", 3: "cancelled"}
    assert await claim(store, "cloud") == [1]
    await settle(store, 1, S.ACCEPTED, to="cloud")
    assert await states(store, "cloud") == {1: "accepted", 2: "cancelled", 3: "cancelled"}


async def test_another_content_of_a_rendering_is_told_and_goes_in_its_turn(store: Store) -> None:
    assert await arrive(store, instance(1, JPEG), instance(2), instance(3)) == [False, False, True]
    for number in (1, 2, 3):  # of the two contents, who knows which is the first's
        await send(store, number, S.ACCEPTED)


async def test_where_nobody_knows_which_content_it_renders_all_go_in_order(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2, JPEG), instance(3))
    for number in (1, 2, 3):
        await send(store, number, S.ACCEPTED)


async def test_what_was_refused_and_is_released_with_its_rendering_makes_that_unneeded(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2))
    for number in (1, 2):
        await send(store, number, S.HELD, code="CONTEXT_REJECTED")
    assert await store.decide("release", Choice(), who="test") == 2
    await send(store, 1, S.ACCEPTED)
    assert await states(store) == {1: "accepted", 2: "cancelled"}


async def test_a_person_may_have_a_rendering_sent_all_the_same(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2))
    await send(store, 1, S.ACCEPTED)
    await store.decide("resend", Choice(uid="2"), who="test")
    await send(store, 2, S.ACCEPTED)
    await store.decide("resend", Choice(), who="test")
    await send(store, 1, S.ACCEPTED)
    assert await states(store) == {1: "accepted", 2: "cancelled"}


async def test_renderings_that_no_route_took_wait_their_turn_once_one_does(store: Store) -> None:
    await arrive(store, instance(1, JPEG), instance(2), to=())
    await store.route([(number, [Leg("pacs", 1, needs_proof=False)]) for number in (1, 2)])
    await send(store, 1, S.ACCEPTED)
    assert await states(store) == {1: "accepted", 2: "cancelled"}


async def test_rows_that_are_written_in_another_order_wait_by_their_ids(store: Store) -> None:
    numbers = [1, 2, 3, 4]
    syntaxes = dict(zip(numbers, (JPEG, EXPLICIT, RLE, EXPLICIT), strict=True))
    random.Random(7).shuffle(numbers)
    await arrive(store, *(instance(number, syntaxes[number]) for number in numbers))
    await send(store, 1, S.HELD, code="CONTEXT_REJECTED")
    for number in (2, 3, 4):
        await send(store, number, S.ACCEPTED)


async def test_a_session_that_ends_in_the_middle_changes_no_turn(store: Store, tmp_path: Path) -> None:
    await arrive(store, instance(1, JPEG), instance(2))
    assert await claim(store) == [1]
    again = await Store.open(tmp_path, ManualClock(), 2, lambda number: tmp_path / f"{number}.dcm")
    committing = asyncio.create_task(again.run())
    await send(again, 1, S.ACCEPTED)
    assert await states(again) == {1: "accepted", 2: "cancelled"}
    again.finish()
    await committing
    await again.close()


async def test_that_a_rendering_was_not_needed_is_no_decision_to_salvage(tmp_path: Path) -> None:
    """In a database made anew the first is sent again, and where it is refused then, the rendering must go."""
    store = await Store.open(tmp_path, ManualClock(), 1, lambda number: tmp_path / f"{number}.dcm")
    committing = asyncio.create_task(store.run())
    await arrive(store, instance(1, JPEG), instance(2), instance(3, RLE))
    await store.decide("cancel", Choice(uid="3"), who="test", reason="x")
    await send(store, 1, S.ACCEPTED)
    store.finish()
    await committing
    await store.close()
    path = tmp_path / "db" / FILE
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'instance'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(bytes(4096))
    assert repair.repair(tmp_path) is Mended.ANEW
    with closing(sqlite3.connect(tmp_path / "db" / FILE)) as raw:
        assert raw.execute("SELECT instance, state FROM salvaged").fetchall() == [(3, "cancelled")]
