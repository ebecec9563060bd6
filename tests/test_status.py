"""Two things of one name: the statuses of DICOM responses, and, from the line below, the status of the appliance."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from pynetdicom import status as reference

from edge import __version__
from edge.board import Board, ImportGauge, ModalityGauge
from edge.config import Config, Device, DimseDestination
from edge.dicom import status
from edge.dicom.status import StatusClass, classify, meaning
from edge.findings import Journal
from edge.model import Header, Instance, Kind, Source
from edge.routing import Leg
from edge.snapshot import Snapshot
from edge.states import DeliveryState
from edge.status.collect import Collector, stopped
from edge.status.lamp import Lamp
from edge.status.lights import TABLE, Facts, light
from edge.status.observer import Observer
from edge.status.room import Room
from edge.store import Choice, Reading, Settlement, Store, Tally
from tests.fakes import ManualClock, evidence_of

WARNINGS = {0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}


def test_every_code_has_a_class_and_a_sentence() -> None:
    for code in range(0x10000):
        assert isinstance(classify(code), StatusClass)
        assert re.fullmatch(rf"[A-Z][^.]+ \(status {code:04X}\)\.", meaning(code)), meaning(code)


def test_every_class_is_given() -> None:
    assert {classify(code) for code in range(0x10000)} == set(StatusClass)


def test_categories_are_pynetdicoms() -> None:
    """Of the tables for storage, and of PS3.7 annex C."""
    for code, (category, _) in reference.STORAGE_SERVICE_CLASS_STATUS.items():
        given = classify(code)
        expected = {
            "Success": given is StatusClass.SUCCESS,
            "Warning": given is StatusClass.WARNING,
            "Cancel": given is StatusClass.CANCELLED,
        }.get(category, given not in {StatusClass.SUCCESS, StatusClass.WARNING, StatusClass.UNKNOWN})
        assert expected, f"{code:04X}"


@pytest.mark.parametrize(
    ("codes", "given"),
    [
        ([0x0000], StatusClass.SUCCESS),
        (WARNINGS, StatusClass.WARNING),
        (range(0xA700, 0xA800), StatusClass.OUT_OF_RESOURCES),
        (range(0xA900, 0xAA00), StatusClass.MISMATCH),
        (range(0xC000, 0xD000), StatusClass.CANNOT_UNDERSTAND),
        ([0xFE00], StatusClass.CANCELLED),
        ([0xFF00, 0xFF01], StatusClass.PENDING),
        ([0xA000, 0xA6FF, 0xA801, 0xAFFF, 0x0125, 0x02FF], StatusClass.FAILURE),
        ([0x0002, 0x0300, 0x9FFF, 0xD000, 0xFDFF, 0xFE01, 0xFF02, 0xFFFF], StatusClass.UNKNOWN),
    ],
)
def test_ranges(codes: Iterable[int], given: StatusClass) -> None:
    assert {classify(code) for code in codes} == {given}


def test_nothing_else_means_stored() -> None:
    stored = {StatusClass.SUCCESS, StatusClass.WARNING}
    assert {code for code in range(0x10000) if classify(code) in stored} == WARNINGS | {0}
    assert {code for code in range(0x10000) if meaning(code).startswith("Stored")} == WARNINGS | {0}


@pytest.mark.parametrize("member", StatusClass)
def test_a_named_failure_has_its_constant(member: StatusClass) -> None:
    code = getattr(status, member.name, None)
    if code is not None:
        assert classify(code) is member


@pytest.mark.parametrize(
    ("code", "constant"),
    [
        (0x0107, status.ATTRIBUTE_LIST_ERROR),
        (0x0110, status.PROCESSING_FAILURE),
        (0x0111, status.DUPLICATE_SOP_INSTANCE),
        (0x0112, status.NO_SUCH_SOP_INSTANCE),
        (0x0115, status.INVALID_ARGUMENT_VALUE),
        (0x0116, status.ATTRIBUTE_VALUE_OUT_OF_RANGE),
        (0x0117, status.INVALID_SOP_INSTANCE),
        (0x0118, status.NO_SUCH_SOP_CLASS),
        (0x0119, status.CLASS_INSTANCE_CONFLICT),
        (0x0120, status.MISSING_ATTRIBUTE),
        (0x0121, status.MISSING_ATTRIBUTE_VALUE),
        (0x0122, status.SOP_CLASS_NOT_SUPPORTED),
        (0x0123, status.NO_SUCH_ACTION),
        (0x0124, status.NOT_AUTHORIZED),
        (0x0210, status.DUPLICATE_INVOCATION),
        (0x0211, status.UNRECOGNIZED_OPERATION),
        (0x0212, status.MISTYPED_ARGUMENT),
        (0x0213, status.RESOURCE_LIMITATION),
        (0xA700, status.OUT_OF_RESOURCES),
        (0xA900, status.DATASET_MISMATCH),
        (0xC000, status.CANNOT_UNDERSTAND),
    ],
)
def test_constants(code: int, constant: int) -> None:
    assert constant == code
    assert code in reference.STORAGE_SERVICE_CLASS_STATUS


def test_sentences() -> None:
    assert meaning(0xA700) == "The receiver has no room or is short of resources (status A700)."
    assert meaning(0xA7FF) == "The receiver has no room or is short of resources (status A7FF)."
    assert meaning(0x0122) == "The receiver does not take this SOP class (status 0122)."
    assert meaning(0xD123) == ("The DICOM standard does not know this status; ask who runs the receiver (status D123).")


# ----------------------------------------------------------------------------------------------------------------
# the status of the appliance: light, snapshot, findings that are observed


CONTRACT: Final[dict[str, Any]] = {
    "schema": int,
    "taken_at": str,
    "device": {"id": str, "name": str, "site": str, "version": str},
    "light": {"code": str, "color": str, "pattern": str, "text": str},
    "intake": {"open": bool, "associations": int, "instances": int, "bytes": int, "refused": int, "last_at": str},
    "queue": {"instances": int, "bytes": int, "oldest_seconds": int},
    "destinations": [
        {
            "name": str,
            "state": str,
            **dict.fromkeys(("queued", "sending", "accepted", "verified", "held", "cancelled", "declined"), int),
            "rate_bytes_per_second": int,
            "drain_seconds": int,
            "rate_limit_bytes_per_second": int,
            "hours": str,
            "hours_open": bool,
            "paused": bool,
            "last_success_at": str,
            "problem": {"code": str, "text": str},
        }
    ],
    "storage": {"free_bytes": int, "reserve_bytes": int, "autonomy_seconds": int},
    "watches": [{"name": str, "taken": int, "waiting": int, "left": int}],
    "imports": [
        {
            "name": str,
            "media": bool,
            "over": bool,
            **dict.fromkeys(("files", "files_done", "bytes", "bytes_done", "refused"), int),
        }
    ],
    "modalities": [
        {
            **dict.fromkeys(("name", "ae_title", "address", "last_heard_at", "last_object_at"), str),
            "refused": int,
            "refused_because": str,
        }
    ],
    "clock": {"trusted": bool},
    "findings": [
        {"code": str, "severity": str, "component": str, "since": str, "count": int, "text": str, "advice": str}
    ],
}
"""The keys that scripts rely on, with their types; adding one is free, so the snapshot may have more."""

TO_PACS: Final = Config(
    device=Device(name="CT room", site="Posta"),
    destination=(DimseDestination(name="pacs", host="127.0.0.1", ae_title="PACS"),),
)
NOWHERE: Final = Config()


class Box:
    """What status reads, with a store that is real."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.board = Board(clock)
        self.board.intake_open, self.board.intake_closed_because = True, ""
        self.board.destination("pacs")  # as its lane does
        self.journal = Journal(clock)
        self.lamp = Lamp(self.board, self.journal, clock)
        self.free = 5000
        self.room = Room(store.reading, self.board, self.journal, clock, lambda: self.free, 1000)

    def collector(self, config: Config = TO_PACS) -> Collector:
        return Collector(
            config,
            "d1",
            self.store.reading,
            self.board,
            self.journal,
            self.clock,
            lambda: self.free,
            1000,
            light=self.lamp.look,
            autonomy=self.room.seconds,
        )

    async def arrive(self, numbers: range, *destinations: str) -> None:
        legs = [Leg(name, 1, needs_proof=False) for name in destinations]
        await self.store.record([(self.instance(number), legs) for number in numbers])

    def instance(self, number: int) -> Instance:
        return Instance(
            id=number,
            kind=Kind("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"),
            sop_instance_uid=f"1.2.{number}",
            digest=number.to_bytes(32, "big"),
            length=100,
            offset=0,
            source=Source(door="dimse"),
            received_at=self.clock.wall,
            clock_trusted=True,
            header=Header(study_uid="1.2"),
        )

    async def settle(self, count: int, state: DeliveryState, detail: str = "") -> None:
        parcels = await self.store.claim("pacs", count)
        await self.store.settle(
            [
                Settlement(
                    delivery=p.delivery,
                    instance=p.instance,
                    destination="pacs",
                    state=state,
                    code="X",
                    detail=detail,
                    evidence=evidence_of(state),
                )
                for p in parcels
            ]
        )


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    clock = ManualClock()
    store = await Store.open(tmp_path, clock, 1, lambda number: tmp_path / f"{number}.dcm")
    committing = asyncio.create_task(store.run())
    yield Box(store, clock)
    store.finish()
    await committing
    await store.close()


# the light


@pytest.mark.parametrize(
    ("seen", "code", "color", "pattern"),
    [
        (Facts(), "G1", "green", "steady"),
        (Facts(moving=True), "G2", "green", "brief dips"),
        (Facts(down=True), "Y1", "yellow", "steady"),
        (Facts(attention=True), "Y2", "yellow", "0.5 Hz"),
        (Facts(medium_out=True), "B3", "blue", "steady"),
        (Facts(medium_in=True), "B2", "blue", "1 Hz"),
        (Facts(fault=True), "R1", "red", "steady"),
        (Facts(closed=True), "R2", "red", "2 Hz"),
        (Facts(starting=True), "W1", "white", "slow pulse"),
        (Facts(identify=True), "I1", "white and blue", "alternating"),
    ],
)
def test_each_row_of_the_light_table_shows(seen: Facts, code: str, color: str, pattern: str) -> None:
    shown = light(seen)
    assert (shown.code, shown.color, shown.pattern) == (code, color, pattern)


@pytest.mark.parametrize("causes", list(product([False, True], repeat=6)))
def test_of_several_causes_the_worst_shows(causes: tuple[bool, ...]) -> None:
    starting, closed, fault, attention, down, moving = causes
    seen = Facts(starting=starting, closed=closed, fault=fault, attention=attention, down=down, moving=moving)
    worst_first = zip(causes, ("W1", "R2", "R1", "Y2", "Y1", "G2"), strict=True)
    assert light(seen).code == next((code for cause, code in worst_first if cause), "G1")


async def test_a_medium_is_shown_above_everything_but_red_until_somebody_has_had_time_to_pull_it(box: Box) -> None:
    collector = box.collector()
    box.board.imports[1] = ImportGauge("folder", media=False)
    box.journal.note("DELIVERIES_HELD", "destination.pacs", "x")
    assert (await collector.snapshot()).light.code == "Y2"
    box.board.imports[2] = stick = ImportGauge("stick", media=True)
    assert (await collector.snapshot()).light.code == "B2"
    stick.over_at = box.clock.monotonic()
    box.clock.pass_time(119)
    assert (await collector.snapshot()).light.code == "B3"
    box.clock.pass_time(2)
    assert (await collector.snapshot()).light.code == "Y2"
    assert [one.name for one in (await collector.snapshot()).imports] == ["folder"]


def test_no_light_is_told_by_colour_alone() -> None:
    lights = [row.light for row in TABLE]
    assert len({one.code for one in lights}) == len(lights) == 10
    assert len({(one.color, one.pattern) for one in lights}) == len(lights)
    assert all(one.text.endswith(".") for one in lights)


# the snapshot


def misshapen(given: Any, wanted: Any, path: str = "") -> list[str]:
    """Where ``given`` lacks a key of the contract, or has it with another type."""
    if isinstance(wanted, Mapping):
        missing = [f"{path}.{key}" for key in wanted if key not in given]
        return missing + [
            w for key in wanted if key in given for w in misshapen(given[key], wanted[key], f"{path}.{key}")
        ]
    if isinstance(wanted, list):
        return [wrong for each in given for wrong in misshapen(each, wanted[0], f"{path}[]")]
    return [] if type(given) is wanted else [f"{path}: {given!r}"]


async def test_the_snapshot_has_every_key_of_the_contract(box: Box) -> None:
    await box.arrive(range(1, 4), "pacs")
    gauge = box.board.destination("pacs")
    gauge.problem_code, gauge.problem_text, gauge.last_success_at = "TIMEOUT", "it is silent.", box.clock.wall
    gauge.rate.add(1000)
    box.board.received(100)
    box.journal.note("DESTINATION_DOWN", "destination.pacs", "it is silent.")
    box.board.watch("us").taken = 3
    box.board.imports[1] = ImportGauge("stick", media=True, files=2)
    box.board.modalities["CT1"] = ModalityGauge("CT1", "CT1", "10.0.0.1", 1.0, box.clock.wall, box.clock.wall)
    (pacs,) = TO_PACS.destination
    pacs = msgspec.structs.replace(pacs, hours=(0, 60), rate_limit=1000)
    collector = box.collector(msgspec.structs.replace(TO_PACS, destination=(pacs,)))
    box.clock.seconds += 1
    given = msgspec.to_builtins(await collector.snapshot())
    assert misshapen(given, CONTRACT) == [".destinations[].drain_seconds: None"], "it is down"
    gauge.problem_code = ""
    assert (await collector.snapshot()).destinations[0].drain_seconds is not None
    gauge.problem_code = "TIMEOUT"
    assert set(given) == set(CONTRACT)
    assert given["schema"] == 1
    assert given["taken_at"] == "2027-01-15T08:00:00.000Z"
    assert given["device"] == {"id": "d1", "name": "CT room", "site": "Posta", "version": __version__}
    assert msgspec.convert(given, Snapshot) == await collector.snapshot()


async def test_what_is_not_known_is_null(box: Box) -> None:
    given = msgspec.to_builtins(await box.collector().snapshot())
    assert given["intake"]["last_at"] is None
    assert given["storage"]["autonomy_seconds"] is None
    pacs = given["destinations"][0]
    assert [pacs[key] for key in ("drain_seconds", "last_success_at", "problem")] == [None] * 3


async def test_the_numbers_of_an_outage_are_those_of_the_store(box: Box) -> None:
    await box.arrive(range(1, 9), "pacs")
    await box.settle(2, DeliveryState.ACCEPTED)
    await box.settle(1, DeliveryState.HELD)
    await box.settle(1, DeliveryState.DECLINED)
    await box.store.decide("cancel", Choice(uid="8"), who="test", reason="test")
    await box.store.claim("pacs", 1)
    gauge = box.board.destination("pacs")
    gauge.problem_code, gauge.problem_text = "REFUSED_CONNECTION", "nothing listens there."
    gauge.rate.add(500)
    box.clock.wall += 3120.7
    given = await box.collector().snapshot()
    (pacs,) = given.destinations
    assert [pacs.queued, pacs.sending, pacs.accepted, pacs.verified] == [2, 1, 2, 0]
    assert [pacs.held, pacs.cancelled, pacs.declined] == [1, 1, 1]
    assert (pacs.state, pacs.problem and pacs.problem.code) == ("down", "REFUSED_CONNECTION")
    assert (pacs.rate_bytes_per_second, pacs.drain_seconds) == (50, None), "nobody can tell when it comes back"
    gauge.problem_code = gauge.problem_text = ""
    (pacs,) = (await box.collector().snapshot()).destinations
    assert (pacs.state, pacs.drain_seconds) == ("up", 6), "what is held does not drain"
    assert (given.queue.instances, given.queue.bytes, given.queue.oldest_seconds) == (4, 400, 3120)
    assert given.light.code == "Y1"


async def test_when_the_outage_is_over_nothing_waits(box: Box) -> None:
    await box.arrive(range(1, 6), "pacs")
    await box.settle(5, DeliveryState.ACCEPTED)
    given = await box.collector().snapshot()
    assert (given.queue.instances, given.queue.bytes, given.queue.oldest_seconds) == (0, 0, 0)
    assert (given.destinations[0].state, given.light.code) == ("up", "G1")


async def test_a_clock_that_jumps_back_makes_no_negative_age(box: Box) -> None:
    await box.arrive(range(1, 2), "pacs")
    box.clock.wall -= 86_400
    box.clock.believed = False
    given = await box.collector().snapshot()
    assert (given.queue.oldest_seconds, given.clock.trusted) == (0, False)


async def test_what_was_answered_and_has_no_row_yet_is_owed_where_there_is_a_destination(box: Box) -> None:
    box.board.unindexed, box.board.unindexed_bytes = 3, 300
    given = await box.collector().snapshot()
    assert (given.queue.instances, given.queue.bytes) == (3, 300)
    assert (await box.collector(NOWHERE).snapshot()).queue.instances == 0


async def test_what_gets_its_row_while_the_snapshot_is_taken_is_never_overlooked(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Reading.tallies
    box.board.unindexed, box.board.unindexed_bytes = 1, 100

    async def tallies(self: Reading) -> dict[tuple[str, str], Tally]:
        read = await real(self)
        await box.arrive(range(1, 2), "pacs")
        box.board.unindexed = box.board.unindexed_bytes = 0
        return read

    monkeypatch.setattr(Reading, "tallies", tallies)
    assert (await box.collector().snapshot()).queue.instances >= 1


async def test_a_destination_that_left_the_configuration_is_shown_while_it_is_owed_something(box: Box) -> None:
    await box.arrive(range(1, 3), "pacs", "old")
    given = await box.collector().snapshot()
    assert [(d.name, d.state, d.queued) for d in given.destinations] == [("pacs", "up", 2), ("old", "paused", 2)]
    await box.store.decide("cancel", Choice(destination="old"), who="test", reason="gone")
    given = await box.collector().snapshot()
    assert [d.name for d in given.destinations] == ["pacs"]
    assert given.light.code == "G1"


async def test_the_light_follows_intake_and_findings(box: Box) -> None:
    collector = box.collector()
    box.board.associations = 1
    seen = [(await collector.snapshot()).light.code]
    box.journal.note("QUARANTINED", "receive", "odd")
    seen.append((await collector.snapshot()).light.code)
    box.journal.note("LOST", "storage", "object 1")
    seen.append((await collector.snapshot()).light.code)
    box.board.intake_open, box.board.intake_closed_because = False, "the disk is full"
    seen.append((await collector.snapshot()).light.code)
    box.board.intake_closed_because = "starting"
    seen.append((await collector.snapshot()).light.code)
    assert seen == ["G2", "Y2", "R1", "R2", "W1"]


async def test_an_appliance_that_does_not_run_is_told_from_its_store_alone(box: Box) -> None:
    await box.arrive(range(1, 4), "pacs")
    given = await stopped(TO_PACS, box.store.reading, box.clock, 5000, 1000)
    assert set(msgspec.to_builtins(given)) == set(CONTRACT)
    assert (given.light.code, given.intake.open, given.queue.instances) == ("R2", False, 3)
    assert [(d.name, d.state, d.queued) for d in given.destinations] == [("pacs", "down", 3)]
    assert [one.code for one in given.findings] == ["NOT_RUNNING"]


# findings that are observed


async def test_held_deliveries_are_a_finding_until_a_person_has_dealt_with_all_of_them(box: Box) -> None:
    await box.arrive(range(1, 4), "pacs")
    observer = Observer(TO_PACS, box.store.reading, box.journal, lambda: None)
    await observer.observe()
    assert box.journal.open() == ()
    await box.settle(2, DeliveryState.HELD, "no such class")
    for _ in range(3):
        await observer.observe()
    (found,) = box.journal.open()
    assert (found.code, found.component, found.count) == ("DELIVERIES_HELD", "destination.pacs", 1)
    assert found.text == "2 objects are held for pacs: no such class"
    await box.store.decide("release", Choice(uid="1"), who="test")
    await observer.observe()
    assert "1 object is held" in box.journal.open()[0].text
    await box.store.decide("cancel", Choice(uid="2"), who="test", reason="test")
    await observer.observe()
    assert box.journal.open() == ()


async def test_what_no_route_takes_is_a_finding_where_there_are_destinations(box: Box) -> None:
    await box.arrive(range(1, 3))
    for config, found in ((NOWHERE, []), (TO_PACS, ["UNROUTED"])):
        await Observer(config, box.store.reading, box.journal, lambda: None).observe()
        assert [one.code for one in box.journal.open()] == found
    assert box.journal.open()[0].text == "2 objects match no route: stored here, and going nowhere."
    await box.store.route([(number, (Leg("pacs", 1, needs_proof=False),)) for number in (1, 2)])
    await Observer(TO_PACS, box.store.reading, box.journal, lambda: None).observe()
    assert box.journal.open() == ()


async def test_what_waits_for_a_removed_destination_is_a_finding(box: Box) -> None:
    await box.arrive(range(1, 3), "old")
    observer = Observer(TO_PACS, box.store.reading, box.journal, lambda: None)
    await observer.observe()
    (found,) = box.journal.open()
    assert (found.code, found.component) == ("DESTINATION_REMOVED", "destination.old")
    assert found.text.startswith("2 objects still wait for old")
    await box.store.decide("cancel", Choice(), who="test", reason="test")
    await observer.observe()
    assert box.journal.open() == ()


async def test_a_lost_object_is_a_finding_until_it_came_again_or_was_given_up(box: Box) -> None:
    observer = Observer(TO_PACS, box.store.reading, box.journal, lambda: None)

    async def codes() -> list[str]:
        await observer.observe()
        return [one.code for one in box.journal.open()]

    async def lose(number: int) -> None:
        await box.store.lose([number])
        box.journal.note("LOST", "storage", f"object {number}")

    await box.arrive(range(1, 4), "pacs")
    for number in (1, 2):
        await lose(number)
    assert await codes() == ["LOST"]
    again = msgspec.structs.replace(box.instance(1), id=9)
    await box.store.record([(again, [Leg("pacs", 1, needs_proof=False)])])
    assert await codes() == ["LOST"]
    await box.store.decide("cancel", Choice(uid="1.2.2"), who="test", reason="test")
    assert await codes() == []
    assert await box.store.stored_after(0, 9) == [3, 9]


async def test_a_lost_object_that_every_destination_has_is_a_finding_until_the_next_start(box: Box) -> None:
    await box.arrive(range(1, 2), "pacs")
    await box.settle(1, DeliveryState.ACCEPTED)
    observer = Observer(TO_PACS, box.store.reading, box.journal, lambda: None)
    await observer.observe()
    await box.store.lose([1])
    box.journal.note("LOST", "storage", "object 1")
    await observer.observe()
    assert [one.code for one in box.journal.open()] == ["LOST"]
    await Observer(TO_PACS, box.store.reading, box.journal, lambda: None).observe()
    assert box.journal.open() == ()
