"""One request for commitment, and one query, to a PACS: what is made of whatever it answers, and what waiting costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from edge.config import DimseDestination
from edge.dicom import command as dimse
from edge.dicom.association import Message
from edge.dicom.commitment import INSTANCE, ActionInformation, Report, encode_report
from edge.dicom.dataset import SYNTAXES
from edge.dicom.negotiation import Context
from edge.dicom.uids import STORAGE_COMMITMENT
from edge.findings import Journal
from edge.forward import commitment as asking
from edge.forward import query as looking
from edge.forward.commitment import Asked, Commitment
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.query import Query, Seen
from edge.forward.reach import Caller
from edge.forward.reports import Reports
from edge.store import Provable, Verdict
from tests.peers import wire
from tests.peers.committing import STUDY_ROOT, CommittingPacs, Kept
from tests.peers.line import Line
from tests.peers.ports import LOOPBACK, free_port
from tests.peers.pushmodel import PUSH_MODEL
from tests.peers.script import Way, commits, refusing, silent
from tests.stored import CT, Stored, instance, references
from tests.test_association import Script, accept
from tests.test_reporting import answer, receive

REQUEST: Final = ActionInformation("2.25.1", references(1))
BROKEN: Final[dict[str, Callable[[Line], None]]] = {
    "closes the connection": lambda _line: None,
    "aborts": lambda line: line.send(wire.Abort(2, 0).encode()),
    "releases": lambda line: line.send(wire.RELEASE_RQ),
    "sends nonsense": lambda line: line.send(b"\x63\0\0\0\0\4abcd"),
    "sends what it was not asked for": lambda line: line.send(
        wire.p_data(wire.Pdv(1, wire.Control.COMMAND | wire.Control.LAST, wire.c_echo_rq(1).encode()))
    ),
}


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        await opened.accept(instance(1), instance(2))
        batch = await opened.provable(quiet=0.0)
        assert batch is not None
        for number in range(1, 9):
            await opened.store.begin_request("pacs", f"2.25.{number}", batch.items, 1e9)
        yield opened


def caller(port: int) -> Caller:
    return Caller(DimseDestination(name="pacs", host=LOOPBACK, port=port, ae_title="PACS"))


def reports_to(box: Stored) -> Reports:
    return Reports(box.store, Journal(box.clock))


async def timed(commitment: Commitment, number: int = 1) -> tuple[object, float]:
    begun = time.monotonic()
    said = await commitment.ask(ActionInformation(f"2.25.{number}", references(1, 2)))
    return said, time.monotonic() - begun


# commitment


@pytest.mark.parametrize("how", BROKEN)
async def test_a_request_that_was_taken_is_taken_however_the_association_ends_then(how: str, box: Stored) -> None:
    def act(line: Line) -> None:
        accept(line)
        request, _ = receive(line)
        answer(line, request)
        BROKEN[how](line)

    with Script(act) as script:
        said, seconds = await timed(Commitment(caller(script.port), reports_to(box)))
    assert said == Asked()
    assert seconds < 5, "there is nothing to wait for"


async def test_an_association_that_ends_before_the_answer_says_nothing_of_the_request(box: Stored) -> None:
    def act(line: Line) -> None:
        accept(line)
        receive(line)

    with Script(act) as script:
        said, _ = await timed(Commitment(caller(script.port), reports_to(box)))
    assert isinstance(said, Unreachable)
    assert said.midway


async def test_a_report_on_its_association_ends_the_wait(box: Stored) -> None:
    with CommittingPacs(script=commits(Way.SAME)) as pacs:
        said, seconds = await timed(Commitment(caller(pacs.port), reports_to(box)))
        assert pacs.wait_sent(1) == [0]
    assert (said, await box.states()) == (Asked(), {1: "verified", 2: "verified"})
    assert seconds < 5


async def test_a_report_elsewhere_ends_the_wait(box: Stored) -> None:
    reports = reports_to(box)
    with CommittingPacs(script=silent) as pacs:
        waiting = asyncio.create_task(timed(Commitment(caller(pacs.port), reports)))
        await asyncio.to_thread(pacs.wait_requests, 1)
        assert not waiting.done()
        assert await reports.take(*_event(Report("2.25.9", references(1), ())), "somebody") != 0
        assert await reports.take(*_event(Report("2.25.1", references(1, 2), ())), "the PACS") == 0
        said, seconds = await waiting
    assert (said, await box.states()) == (Asked(), {1: "verified", 2: "verified"})
    assert seconds < 8


def _event(report: Report) -> tuple[Message, bytes]:
    """A report as it comes on an association that the PACS made."""
    request = dimse.event_report_request(1, STORAGE_COMMITMENT, INSTANCE, report.event_type)
    message = Message(Context(1, STORAGE_COMMITMENT, SYNTAXES[0]), dimse.decode(request))
    return message, encode_report(report, SYNTAXES[0])


async def test_a_pacs_that_never_reports_at_once_costs_less_with_every_request(
    box: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_LINGER", 1.6)
    monkeypatch.setattr(asking, "_SHORT", 0.1)
    with CommittingPacs(script=silent) as pacs:
        commitment = Commitment(caller(pacs.port), reports_to(box))
        seconds = [(await timed(commitment, number))[1] for number in range(1, 7)]
        assert seconds[0] >= 1.6
        assert seconds[1] < seconds[0]
        assert commitment._linger == 0.1
        pacs.script = commits(Way.SAME)
        await timed(commitment, 7)
        assert commitment._linger == 1.6, "it does report at once"


async def test_what_a_pacs_without_commitment_says_is_told_from_what_one_with_it_refuses(box: Stored) -> None:
    with CommittingPacs(script=refusing(0x0211)) as pacs:
        commitment = Commitment(caller(pacs.port), reports_to(box))
        assert await commitment.ask(REQUEST) == Unsupported("it answered 0211")
        pacs.script = refusing(0x0110)
        assert await commitment.ask(REQUEST) == Declined("0110", "it answered 0110")
        pacs.without = {PUSH_MODEL}
        assert await commitment.ask(REQUEST) == Unsupported("it takes no association for storage commitment")
    gone = await Commitment(caller(free_port()), reports_to(box)).ask(REQUEST)
    assert isinstance(gone, Unreachable)
    assert not gone.midway


# queries


def item(number: int, series: str = "1.2.3.4") -> Provable:
    return Provable(
        instance=number,
        delivery=number,
        sop_class_uid=CT,
        sop_instance_uid=f"1.2.3.{number}",
        study_uid="1.2.3",
        series_uid=series,
        tries=0,
        unheard=0,
        missing=0,
    )


def keep(pacs: CommittingPacs, *items: Provable) -> None:
    for one in items:
        pacs.kept[one.sop_instance_uid] = Kept(CT, one.sop_instance_uid, one.study_uid, one.series_uid, b"")


async def test_what_a_query_names_is_found_and_what_it_does_not_is_not() -> None:
    with CommittingPacs() as pacs:
        keep(pacs, item(1), item(3, "1.2.3.5"))
        seen = await Query(caller(pacs.port)).look([item(1), item(2), item(3, "1.2.3.5")])
    assert seen == Seen((Verdict(1, found=True), Verdict(2, found=False), Verdict(3, found=True)))


async def test_of_a_series_whose_query_fails_nothing_is_known_and_the_others_are_looked_for() -> None:
    with CommittingPacs() as pacs:
        keep(pacs, item(1), item(2, "1.2.3.5"))
        pacs.find_statuses = [0xA700]
        seen = await Query(caller(pacs.port)).look([item(1), item(2, "1.2.3.5")])
        assert seen == Seen((Verdict(2, found=True),), (item(1),), "it answered the query with A700")
        pacs.find_statuses = [0xA700, 0xC001]
        declined = await Query(caller(pacs.port)).look([item(1), item(2, "1.2.3.5")])
        assert declined == Declined("C001", "it answered the query with C001")


async def test_what_lies_beyond_the_answers_that_are_taken_is_not_taken_for_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looking, "MOST_ANSWERS", 3)
    small, large = [item(1)], [item(number, "1.2.3.5") for number in range(10, 15)]
    with CommittingPacs() as pacs:
        keep(pacs, *small, *large)
        after = [item(20, "1.2.3.6")]
        seen = await Query(caller(pacs.port)).look([*small, *large, *after])
    assert seen == Seen((Verdict(1, found=True),), (*large, *after), "it answers a query for one series without end")


async def test_a_pacs_without_queries_is_told_from_one_that_refuses_one() -> None:
    with CommittingPacs() as pacs:
        query = Query(caller(pacs.port))
        pacs.find_statuses = [0x0122]
        assert await query.look([item(1)]) == Unsupported("it answered the query with 0122")
        pacs.without = {STUDY_ROOT}
        assert await query.look([item(1)]) == Unsupported("it takes no association for queries")
    assert isinstance(await Query(caller(free_port())).look([item(1)]), Unreachable)


async def test_what_no_query_can_name_is_told_without_a_call() -> None:
    nameless = [item(1, ""), item(2, "not a uid")]
    seen = await Query(caller(free_port())).look(nameless)
    assert seen == Seen(tuple(Verdict(one.instance, found=False, askable=False) for one in nameless))
