"""Studies as people look at them, and the answer they come for: safe to delete from the scanner?"""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from edge.model import Instance, Reference
from edge.safety import DestinationView, StudyView, safe_to_delete
from edge.states import DeliveryState
from edge.store import Choice, StudyFilter, Verdict, read_studies, record, schema, studies
from tests.stored import CT, JPEG, Request, Stored, instance, leg, references

S: Final = DeliveryState
STUDY: Final = "1.2.3"
QUIET: Final = 300.0


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        yield opened


async def view(box: Stored, uid: str = STUDY) -> StudyView:
    study = await box.store.study(uid, quiet=QUIET)
    assert study is not None
    return study


async def code(box: Stored) -> str:
    """The answer to the question, and its reason."""
    safety = safe_to_delete(await view(box))
    return f"{safety.answer} {safety.code}"


async def commit(box: Stored, *numbers: int, uid: str = "1.7") -> None:
    """Have the modality ask for these, and answer it."""
    await box.store.promise("CT1", "EDGE", "10.0.0.7", Request(uid, references(*numbers)))
    for _ in range(3):
        box.clock.pass_time(30.0)
        await box.store.decide_promises("stored", 60.0, 1e9)


# the view


async def test_a_study_counts_what_was_received_and_where_it_stands(box: Stored) -> None:
    await box.receive(*(instance(n) for n in range(1, 9)), to=[leg(), leg("archive", proof=False)])
    await box.settle(S.ACCEPTED, destination="archive")
    parcels = await box.store.claim("pacs", 9)
    for number, state in enumerate([*S, "queued"], 1):
        assert parcels[number - 1].instance == number
        more = ", session = NULL" if state != "sending" else ""
        await box.run(f"UPDATE delivery SET state = '{state}'{more} WHERE instance = {number} AND destination = 'pacs'")
    study = await view(box)
    assert (study.uid, study.received, study.lost, study.quarantined, study.unrouted) == (STUDY, 8, 0, 0, 0)
    assert (study.first_received, study.last_received) == (1_800_000_001.0, 1_800_000_008.0)
    assert (study.latest, study.modalities, study.clock_trusted) == (8, ("CT",), True)
    assert study.destinations == (
        DestinationView(destination="archive", received=8, accepted=8),
        DestinationView(
            destination="pacs",
            received=8,
            queued=3,
            accepted=1,
            unproven=1,
            verified=1,
            held=1,
            cancelled=1,
            declined=1,
        ),
    )
    assert [d.safe for d in study.destinations] == [True, False]


async def test_a_study_that_is_not_here_is_none(box: Stored) -> None:
    assert await box.store.study("1.9") is None
    await box.receive(instance(1, study=""))
    assert await box.store.study("") is None
    assert [study.uid for study in await box.store.studies(StudyFilter())] == [""]


async def test_a_quiet_study_is_complete_and_a_late_image_reopens_it(box: Stored) -> None:
    await box.receive(instance(1))
    box.clock.pass_time(QUIET - 1)
    await box.receive(instance(2))
    assert not (await view(box)).complete
    box.clock.pass_time(QUIET - 1)
    study = await view(box)
    assert (study.complete, study.reopened) == (False, False)
    box.clock.pass_time(1.0)
    assert (await view(box)).complete
    await box.receive(instance(3))
    study = await view(box)
    assert (study.complete, study.reopened) == (False, True)
    box.clock.pass_time(QUIET)
    study = await view(box)
    assert (study.complete, study.reopened) == (True, True)


async def test_quiet_is_measured_by_uptime_over_ticks_and_restarts_and_not_by_the_wall(box: Stored) -> None:
    await box.receive(instance(1))
    box.clock.pass_time(200.0)
    await box.store.tick(200.0)
    box.clock.wall = 0.0
    assert not (await view(box)).complete
    await box.restart()
    box.clock.pass_time(99.0)
    assert not (await view(box)).complete
    box.clock.pass_time(1.0)
    assert (await view(box)).complete


async def test_the_same_bytes_again_reopen_nothing(box: Stored) -> None:
    await box.receive(instance(1))
    box.clock.pass_time(QUIET)
    await box.receive(instance(2, uid="1.2.3.1", content=1))
    study = await view(box)
    assert (study.complete, study.reopened, study.received) == (True, False, 1)


async def test_what_the_version_before_received_is_no_old_news(box: Stored) -> None:
    """It puts nothing down but the row, so the uptime on record at that time counts."""
    await box.receive(instance(1))
    box.clock.pass_time(1000.0)
    await box.store.tick(1000.0)
    await box.store._commit(lambda raw: record.record(raw, [(instance(2), [leg()])]))
    assert not (await view(box)).complete
    box.clock.pass_time(QUIET)
    assert (await view(box)).complete


async def test_a_uid_counts_once_however_many_contents_it_has(box: Stored) -> None:
    await box.receive(instance(1, uid="1.9"), instance(2, uid="1.9"), instance(3, uid="1.9", syntax=JPEG))
    assert (await view(box)).received == 1


async def test_what_was_lost_and_came_again_counts_as_it_came_again(box: Stored) -> None:
    await box.receive(instance(1, content=5), instance(2), to=[leg(proof=False)])
    await box.store.lose([1])
    assert (await view(box)).lost == 1
    assert await code(box) == "no LOST"
    await box.receive(instance(3, uid="1.2.3.1", content=5), to=[leg(proof=False)])
    study = await view(box)
    assert (study.lost, study.received) == (0, 2)
    assert [d.received for d in study.destinations] == [2]


async def test_what_was_lost_after_every_destination_had_it_is_no_loss(box: Stored) -> None:
    await box.accept(instance(1), to=[leg(proof=False)])
    await box.store.lose([1])
    assert (await view(box)).lost == 0


async def test_a_damaged_file_counts_until_every_destination_has_it(box: Stored) -> None:
    await box.receive(instance(1), to=[leg(proof=False)])
    await box.store.quarantine(1, "its digest differs")
    study = await view(box)
    assert (study.lost, study.quarantined) == (0, 1)
    assert await code(box) == "no LOST"


@pytest.mark.parametrize("refused_first", [True, False])
async def test_a_delivery_that_another_rendering_made_needless_is_left_out(*, refused_first: bool, box: Stored) -> None:
    await box.receive(instance(1, uid="1.2.3.1"), instance(2, uid="1.2.3.1", syntax=JPEG), to=[leg(proof=False)])
    if refused_first:
        await box.settle(S.HELD, 1, code="CONTEXT_REJECTED")
        assert await code(box) == "no HELD"
    await box.settle(S.ACCEPTED)
    (destination,) = (await view(box)).destinations
    assert (destination.received, destination.accepted, destination.safe) == (1, 1, True)


# the set that the scanner named


async def test_only_a_request_that_names_all_that_is_here_names_the_set(box: Stored) -> None:
    await box.accept(*(instance(n) for n in (1, 2, 3)), to=[leg(proof=False)])
    assert not (await view(box)).named
    await commit(box, 2, 3, uid="1.1")
    assert not (await view(box)).named, "it names less"
    await commit(box, 1, 2, 3, 4, uid="1.2")
    assert not (await view(box)).named, "it names what is not here"
    await commit(box, 3, 1, 2, uid="1.3")
    assert (await view(box)).named
    await box.receive(instance(5), to=[leg(proof=False)])
    assert not (await view(box)).named, "something came that it does not name"


async def test_a_request_may_name_other_studies_too(box: Stored) -> None:
    await box.receive(instance(1), instance(2, study="1.9"))
    await commit(box, 1, 2)
    assert (await view(box)).named
    assert (await view(box, "1.9")).named


async def test_a_request_that_is_not_answered_yet_names_nothing(box: Stored) -> None:
    await box.receive(instance(1))
    await box.store.promise("CT1", "EDGE", "10.0.0.7", Request("1.7", (Reference(CT, "1.2.3.1"),)))
    assert not (await view(box)).named


# the answer


async def test_the_answer_goes_from_no_to_yes_as_the_study_goes_its_way(box: Stored) -> None:
    await box.receive(instance(1), instance(2))
    assert await code(box) == "no WAITING"
    await box.settle(S.ACCEPTED)
    assert await code(box) == "no UNPROVEN"
    await box.store.prove("pacs", [Verdict(n, found=True) for n in (1, 2)])
    assert await code(box) == "no RECEIVING"
    box.clock.pass_time(QUIET)
    assert await code(box) == "received RECEIVED"
    await commit(box, 1, 2)
    assert await code(box) == "yes NAMED"
    await box.receive(instance(3))
    assert await code(box) == "no WAITING"


async def test_nothing_is_safe_to_delete_before_every_file_that_lies_here_is_on_record(box: Stored) -> None:
    await box.accept(instance(1))
    await box.store.prove("pacs", [Verdict(1, found=True)])
    box.clock.pass_time(QUIET)
    await commit(box, 1)
    box.store.on_record = lambda: False
    assert await code(box) == "no RECEIVING"
    box.store.on_record = lambda: True
    assert await code(box) == "yes NAMED"


async def test_an_instance_that_goes_nowhere_is_not_safe(box: Stored) -> None:
    await box.accept(instance(1))
    await box.receive(instance(2), to=[])
    await box.store.prove("pacs", [Verdict(1, found=True)])
    assert await code(box) == "no NO_DESTINATION"


@pytest.mark.parametrize(("verb", "expected"), [("hold", "no HELD"), ("cancel", "no REFUSED")])
async def test_what_a_person_put_aside_or_gave_up_is_not_safe(verb: str, expected: str, box: Stored) -> None:
    await box.receive(instance(1), to=[leg(), leg("cloud")])
    await box.store.decide(verb, Choice(destination="cloud"), who="test")
    assert await code(box) == expected


def pacs(received: int, name: str = "pacs", **more: int) -> DestinationView:
    return DestinationView(destination=name, received=received, **more)


def made(*destinations: DestinationView, **more: Any) -> StudyView:
    """A study of 212 images, complete but as ``more`` says."""
    values: dict[str, Any] = dict.fromkeys(
        ("uid", "patient_id", "patient_name", "accession", "date", "description"), ""
    )
    values |= dict.fromkeys(("id", "latest", "lost", "quarantined", "unrouted"), 0) | {"received": 212}
    values |= dict.fromkeys(("first_received", "last_received"), 0.0) | {"modalities": ("CT",)}
    values |= {"clock_trusted": True, "complete": True, "reopened": False, "named": False}
    return StudyView(**(values | {"destinations": destinations} | more))


ALL: Final = pacs(212, verified=212)


@pytest.mark.parametrize(
    ("study", "answer", "text"),
    [
        (made(ALL, named=True), "yes NAMED", "All 212 images that the scanner named are verified by pacs."),
        (
            made(ALL),
            "received RECEIVED",
            "All 212 received are safe: compare the number with the scanner. They are verified by pacs.",
        ),
        (
            made(pacs(212, "archive", accepted=212), ALL, pacs(212, "tele", accepted=1, verified=211), named=True),
            "yes NAMED",
            "All 212 images that the scanner named are verified by pacs and accepted by archive and tele.",
        ),
        (made(ALL, complete=False), "no RECEIVING", "Images are still coming: 212 so far, all verified by pacs."),
        (
            made(ALL, complete=False, named=True),
            "no RECEIVING",
            "Images are still coming: 212 so far, all verified by pacs.",
        ),
        (
            made(pacs(212, accepted=212, unproven=4)),
            "no UNPROVEN",
            "Accepted but not verified yet: 4 of 212 for pacs.",
        ),
        (
            made(pacs(212, accepted=210, unproven=4, queued=2), named=True),
            "no WAITING",
            "Not delivered yet: 2 of 212 for pacs.",
        ),
        (
            made(ALL, unrouted=1),
            "no NO_DESTINATION",
            "Kept here and sent nowhere: 1 of 212.",
        ),
        (made(), "no NO_DESTINATION", "Kept here and sent nowhere: 212 of 212."),
        (
            made(pacs(212, verified=209, cancelled=1, declined=2), pacs(212, "cloud", queued=212)),
            "no REFUSED",
            "Given up, or not taken by the destination: 3 of 212 for pacs.",
        ),
        (
            made(pacs(212, verified=209, declined=3), pacs(212, "cloud", queued=210, held=2), unrouted=5),
            "no HELD",
            "Put aside until a person decides: 2 of 212 for cloud.",
        ),
        (
            made(pacs(212, held=212), lost=1, quarantined=1, named=True),
            "no LOST",
            "Lost or damaged on this box before they were delivered: 2 of 212.",
        ),
    ],
)
def test_each_answer_has_its_most_important_reason_in_words(study: StudyView, answer: str, text: str) -> None:
    safety = safe_to_delete(study)
    assert (f"{safety.answer} {safety.code}", safety.text) == (answer, text)
    assert safety.advice
    assert safety.advice.startswith("Keep the study") == (safety.answer == "no")


def test_a_state_that_nobody_counts_is_never_taken_for_safe() -> None:
    with pytest.raises(AssertionError, match="not counted"):
        safe_to_delete(made(pacs(212, verified=211), named=True))


# search


async def several(box: Stored) -> None:
    people = [
        ("Doe^Jane", "P1", "A1", "20260101"),
        ("Doe^John", "P2", "A2", "20260102"),
        ("Ro_e^100%", "P12", "B1", ""),
    ]
    for number, (name, patient, accession, date) in enumerate(people, 1):
        one: Instance = instance(
            number, study=f"1.{number}", patient_name=name, patient_id=patient, accession=accession, study_date=date
        )
        await box.receive(one)
    await box.receive(instance(4, study="1.1", modality="SR"))


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (StudyFilter(), ["1.1", "1.3", "1.2"]),
        (StudyFilter(patient_name="doe"), ["1.1", "1.2"]),
        (StudyFilter(patient_name="jane DOE"), ["1.1"]),
        (StudyFilter(patient_name="Doe^Jo"), ["1.2"]),
        (StudyFilter(patient_name="%"), ["1.3"]),
        (StudyFilter(patient_name="o_e"), ["1.3"]),
        (StudyFilter(patient_id="P1"), ["1.1", "1.3"]),
        (StudyFilter(accession="A"), ["1.1", "1.2"]),
        (StudyFilter(accession="1"), []),
        (StudyFilter(modality="SR"), ["1.1"]),
        (StudyFilter(modality="CT", accession="A"), ["1.1", "1.2"]),
        (StudyFilter(first_date="20260102"), ["1.2"]),
        (StudyFilter(first_date="20260101", last_date="20260101"), ["1.1"]),
        (StudyFilter(before=3), ["1.2"]),
        (StudyFilter(uid="1.3"), ["1.3"]),
        (StudyFilter(patient_name="' OR 1 --"), []),
    ],
)
async def test_studies_are_found_by_what_people_know_of_them_the_latest_first(
    which: StudyFilter, found: list[str], box: Stored
) -> None:
    await several(box)
    assert [study.uid for study in await box.store.studies(which)] == found
    assert [study.uid for study in await read_studies(box.store.reading, which, 9)] == found


async def test_pages_follow_each_other_without_a_gap(box: Stored) -> None:
    await box.receive(*(instance(n, study=f"1.{n}") for n in range(1, 8)))
    seen, before = list[str](), None
    while page := await box.store.studies(StudyFilter(before=before), most=3):
        assert len(page) <= 3
        seen += [study.uid for study in page]
        before = page[-1].latest
    assert seen == [f"1.{n}" for n in range(7, 0, -1)]


def test_a_page_reads_no_more_than_its_own_studies() -> None:
    raw = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(raw)
    raw.execute("BEGIN")
    for number in range(1, 10_001):
        one = instance(number, study=f"1.{number // 20}", patient_name=f"N{number // 20}")
        record.record(raw, [(one, [leg(proof=False)])])
    raw.execute("COMMIT")
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    raw.set_progress_handler(count, 1000)
    assert len(studies.page(raw, StudyFilter(), QUIET, 0.0, 10)) == 10
    newest, steps = steps, 0
    assert newest < 50
    assert [s.patient_name for s in studies.page(raw, StudyFilter(patient_name="N7"), QUIET, 0.0, 1)] == ["N79"]
    assert steps < 50
    raw.close()
