"""The verifier of one destination: what it asks about, by which way, when, and what it does when nobody answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from edge.board import DestinationGauge, Rate
from edge.dicom.commitment import ActionInformation
from edge.dicom.uids import valid_uid
from edge.findings import Journal
from edge.forward.commitment import Asked, Commitment
from edge.forward.gate import Gate
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.query import Query, Seen
from edge.forward.verifier import PATIENCE, QUIET, Verifier
from edge.model import Failure, Reference
from edge.store import Provable, Store, StoreError, Verdict
from edge.store.verdicts import UNQUERIABLE
from tests.stored import Report, Stored, instance, references

HOUR: Final = 3600.0
DAY: Final = 86_400.0
REJECTED: Final = Unreachable("ASSOCIATION_REJECTED", "it rejected the association.")
GONE: Final = Unreachable("REFUSED_CONNECTION", "it is gone.")
CUT: Final = Unreachable("ABORTED", "it ended the association.", midway=True)
Answer = Asked | Unsupported | Declined | Unreachable


class FakeCommitment(Commitment):
    """A destination that takes requests, and reports as ``report`` says; ``answer`` may be changed at any time."""

    def __init__(self) -> None:
        self.answer: Answer = Asked()
        self.requests: list[ActionInformation] = []

    async def ask(self, request: ActionInformation) -> Answer:
        self.requests.append(request)
        return self.answer


class FakeQuery(Query):
    """A destination that has what ``has`` says."""

    def __init__(self) -> None:
        self.has: set[int] = set()
        self.answer: Unsupported | Declined | Unreachable | None = None
        self.left: set[int] = set()
        self.looked: list[list[int]] = []

    async def look(self, items: Sequence[Provable]) -> Seen | Unsupported | Declined | Unreachable:
        self.looked.append([item.instance for item in items])
        if self.answer is not None:
            return self.answer
        left = tuple(item for item in items if item.instance in self.left)
        verdicts = tuple(
            Verdict(item.instance, item.instance in self.has, askable=valid_uid(item.study_uid))
            for item in items
            if item not in left
        )
        return Seen(verdicts, left, "it answered the query with A700" if left else "")


class Bench:
    """A verifier between a store and a destination that a test plays."""

    def __init__(self, box: Stored, verify: str) -> None:
        self.box, self.clock = box, box.clock
        self.journal = Journal(self.clock)
        self.gauge = DestinationGauge(Rate(self.clock))
        self.gate = Gate("pacs", self.gauge, self.journal, self.clock, lambda: 1.0)
        self.commitment, self.query = FakeCommitment(), FakeQuery()
        self._verify = verify
        self._uids = (f"2.25.{number}" for number in count(1))
        self.verifier = self.on(box.store)

    def on(self, store: Store) -> Verifier:
        return Verifier(
            "pacs",
            store,
            self.gate,
            commitment=self.commitment if "commitment" in self._verify else None,
            query=self.query if "query" in self._verify else None,
            new_uid=lambda: next(self._uids),
            gauge=self.gauge,
            journal=self.journal,
            clock=self.clock,
            random=lambda: 1.0,
        )

    @property
    def asked(self) -> int:
        return len(self.commitment.requests)

    @property
    def looked(self) -> int:
        return len(self.query.looked)

    def codes(self) -> set[str]:
        return {finding.code for finding in self.journal.open()}

    def text(self, code: str) -> str:
        (finding,) = [each for each in self.journal.open() if each.code == code]
        assert finding.component == "destination.pacs"
        return finding.text

    async def until(self, happened: Callable[[], bool], longest: float, step: float = 1.0) -> float:
        """Let time pass in turns until it happened; after how many seconds. It must within ``longest``."""
        begun = self.clock.seconds
        while not happened():
            assert self.clock.seconds - begun < longest, "it did not happen in time"
            self.clock.pass_time(step)
            await self.drain()
        return self.clock.seconds - begun

    async def until_asked(self, times: int, longest: float, step: float = 1.0) -> float:
        """Let time pass until commitment was asked for so often; after how many seconds."""
        return await self.until(lambda: self.asked == times, longest, step)

    async def drain(self) -> None:
        """Take turns until nothing is due; they must end."""
        for _ in range(20):
            if not await self.verifier.turn():
                return
        raise AssertionError("it asks without end")

    async def quiet(self, seconds: float, step: float = 10.0) -> None:
        """Let time pass in which nothing is asked."""
        before = (self.asked, self.looked)
        for _ in range(int(seconds / step)):
            self.clock.pass_time(step)
            await self.drain()
        assert (self.asked, self.looked) == before


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        yield opened


# when


async def test_it_asks_once_when_the_study_is_quiet_and_a_report_ends_it(box: Stored) -> None:
    bench = Bench(box, "commitment")
    await box.accept(instance(1), instance(2))
    assert await bench.until(lambda: bench.asked > 0, 10) == QUIET + 1
    (request,) = bench.commitment.requests
    assert request == ActionInformation("2.25.1", references(1, 2))
    await bench.quiet(HOUR - 10)
    await box.store.report_arrived(Report("2.25.1", references(1, 2)))
    await bench.quiet(3 * DAY, HOUR)
    assert await box.states() == {1: "verified", 2: "verified"}


async def test_commitment_alone_is_asked_for_again_after_an_hour_after_six_and_then_daily(box: Stored) -> None:
    bench = Bench(box, "commitment")
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    for number, wait in enumerate((HOUR, 6 * HOUR, DAY, DAY), 2):
        assert wait - 10 <= await bench.until_asked(number, wait + 20, 10.0) <= wait + 10
    assert len({request.transaction_uid for request in bench.commitment.requests}) == 5
    await box.store.report_arrived(Report("2.25.2", references(1)))
    assert await box.states() == {1: "verified"}, "a report on any of the requests counts"


@pytest.mark.parametrize("verify", ["commitment", "query", "commitment-or-query"])
async def test_nothing_is_asked_while_it_is_paused(verify: str, box: Stored) -> None:
    bench = Bench(box, verify)
    await box.accept(instance(1))
    bench.gauge.paused = True
    await bench.quiet(DAY, 600.0)
    bench.gauge.paused = False
    await bench.until(lambda: bench.asked + bench.looked > 0, 10)


async def test_nothing_is_asked_while_images_cannot_be_sent_until_that_has_lasted(box: Stored) -> None:
    bench = Bench(box, "commitment")
    await box.accept(instance(1), instance(2, study="1.9"))
    await bench.drain()
    bench.gate.fail(GONE)
    bench.commitment.answer = GONE
    await bench.quiet(290.0)
    # a person cancelled what could not be sent: no image will ever tell that it is back
    assert await bench.until(lambda: bench.asked == 1, 20) <= 11
    await bench.quiet(290.0)
    bench.commitment.answer = Asked()
    await bench.until(lambda: bench.asked == 3, 20)
    assert bench.gate.failing


async def test_once_images_can_be_sent_again_it_asks(box: Stored) -> None:
    bench = Bench(box, "commitment")
    await box.accept(instance(1))
    bench.gate.fail(GONE)
    await bench.quiet(60.0)
    bench.gate.succeed()
    await bench.until(lambda: bench.asked == 1, 10)


# commitment, or a query


async def test_a_query_is_made_ten_minutes_after_a_request_without_a_report(box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    bench.query.has = {1}
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    assert PATIENCE - 1 <= await bench.until(lambda: bench.looked > 0, 700) <= PATIENCE + 1
    assert await box.states() == {1: "verified"}
    assert (bench.asked, await box.state(1)) == (1, ("verified", "query"))


async def test_who_never_reports_is_queried_for_a_day_and_then_asked_once_more(box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    bench.query.has = set(range(1, 9))
    await box.accept(instance(1))
    await bench.until(lambda: bench.looked > 0, 700)
    await box.accept(instance(2, study="1.9"))
    await bench.until(lambda: bench.looked == 2, 10)
    assert bench.asked == 1
    bench.clock.pass_time(DAY)
    await box.accept(instance(3, study="1.10"))
    await bench.until(lambda: bench.asked == 2, 10)


async def test_who_reports_that_it_could_not_commit_is_asked_again_and_not_queried(box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    for number, wait in enumerate((60.0, 600.0, HOUR), 2):
        uid = bench.commitment.requests[-1].transaction_uid
        await box.store.report_arrived(Report(uid, (), (Failure(Reference(*_named(1)), 0x0110),)))
        await bench.until_asked(number, wait + 20, 10.0)
    assert bench.looked == 0
    await bench.until(lambda: bench.looked == 1, PATIENCE + 20, 10.0)


def _named(number: int) -> tuple[str, str]:
    (reference,) = references(number)
    return reference.sop_class_uid, reference.sop_instance_uid


async def test_where_there_is_no_commitment_a_query_is_made_at_once(box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    bench.commitment.answer = Unsupported("it takes no association for storage commitment")
    bench.query.has = {1, 2}
    await box.accept(instance(1))
    await bench.until(lambda: bench.looked > 0, 10)
    assert bench.text("COMMITMENT_UNSUPPORTED") == "pacs: it takes no association for storage commitment."
    await box.accept(instance(2, study="1.9"))
    await bench.until(lambda: bench.looked == 2, 10)
    assert (bench.asked, await box.states()) == (1, {1: "verified", 2: "verified"})


async def test_a_pacs_that_commits_late_and_knows_no_queries_is_asked_for_every_study(box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    bench.query.answer = Unsupported("it takes no association for queries")
    await box.accept(instance(1))
    await bench.until(lambda: bench.looked > 0, 700)
    assert "QUERY_UNSUPPORTED" in bench.codes()
    for number in range(2, 5):
        await box.accept(instance(number, study=f"1.{number}"))
        await bench.until_asked(number, 20)
    assert bench.looked == 1
    for number, request in enumerate(bench.commitment.requests, 1):
        await box.store.report_arrived(Report(request.transaction_uid, references(number)))
    assert set((await box.states()).values()) == {"verified"}


async def test_who_knows_neither_is_asked_now_and_then_and_without_haste(box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    bench.commitment.answer = Unsupported("it takes no association for storage commitment")
    bench.query.answer = Unsupported("it takes no association for queries")
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    for _ in range(48):
        bench.clock.pass_time(HOUR / 2)
        await bench.drain()
    assert 20 <= bench.asked + bench.looked <= 30
    assert bench.codes() == {"COMMITMENT_UNSUPPORTED", "QUERY_UNSUPPORTED"}
    bench.commitment.answer = Asked()
    await bench.until(lambda: "COMMITMENT_UNSUPPORTED" not in bench.codes(), 2 * HOUR, 60.0)
    await box.store.report_arrived(Report(bench.commitment.requests[-1].transaction_uid, references(1)))
    assert await box.states() == {1: "verified"}


@pytest.mark.parametrize("why", [Declined("0110", "it answered 0110"), CUT, REJECTED])
async def test_requests_that_go_on_failing_end_in_a_query(why: Answer, box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    bench.commitment.answer = why
    bench.query.has = {1}
    await box.accept(instance(1))
    await bench.until(lambda: bench.looked > 0, 2 * PATIENCE)
    assert bench.clock.seconds > 1000.0 + PATIENCE
    assert await box.states() == {1: "verified"}


async def test_who_was_out_of_reach_is_asked_for_commitment_when_it_is_back(box: Stored) -> None:
    bench = Bench(box, "commitment-or-query")
    bench.commitment.answer = GONE
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    for _ in range(100):
        bench.clock.pass_time(60.0)
        await bench.drain()
    bench.commitment.answer = Asked()
    before = bench.asked
    await bench.until(lambda: bench.asked > before, 310)
    assert bench.looked == 0
    await bench.quiet(PATIENCE - 10)


# one way only


async def test_commitment_alone_that_is_not_known_is_tried_every_hour_and_the_finding_closes(box: Stored) -> None:
    bench = Bench(box, "commitment")
    bench.commitment.answer = Unsupported("it answered 0211")
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    assert bench.codes() == {"COMMITMENT_UNSUPPORTED"}
    for number in range(2, 5):
        assert await bench.until_asked(number, HOUR + 20, 10.0) >= HOUR - 10
    bench.commitment.answer = Asked()
    await bench.until(lambda: bench.asked == 5, HOUR + 20, 10.0)
    assert bench.codes() == set()
    assert await bench.until(lambda: bench.asked == 6, HOUR + 20, 10.0) >= HOUR - 10, "nobody took the others"


async def test_a_query_alone_that_is_not_known_is_tried_every_hour_and_the_finding_closes(box: Stored) -> None:
    bench = Bench(box, "query")
    bench.query.answer = Unsupported("it answered the query with 0122")
    await box.accept(instance(1))
    await bench.until(lambda: bench.looked > 0, 10)
    assert bench.text("QUERY_UNSUPPORTED") == "pacs: it answered the query with 0122."
    assert await bench.until(lambda: bench.looked == 2, HOUR + 20, 10.0) >= HOUR - 10
    bench.query.answer, bench.query.has = None, {1}
    await bench.until(lambda: bench.looked == 3, HOUR + 20, 10.0)
    assert (bench.codes(), await box.states()) == (set(), {1: "verified"})


async def test_what_a_query_did_not_tell_of_is_looked_for_again_and_the_rest_is_proven(box: Stored) -> None:
    bench = Bench(box, "query")
    bench.query.has, bench.query.left = {1, 2}, {2}
    await box.accept(instance(1), instance(2))
    await bench.until(lambda: bench.looked > 0, 10)
    assert await box.states() == {1: "verified", 2: "accepted"}
    assert bench.text("PROOF_DECLINED") == "pacs: it answered the query with A700."
    bench.query.left = set()
    assert await bench.until(lambda: bench.looked == 2, 700) >= 599
    assert (bench.codes(), await box.states()) == (set(), {1: "verified", 2: "verified"})


async def test_what_no_query_can_name_is_held_and_stops_nothing_else(box: Stored) -> None:
    bench = Bench(box, "query")
    bench.query.has = {2}
    await box.accept(instance(1, study="not a uid"), instance(2))
    await bench.until(lambda: bench.looked == 2, 10)
    assert await box.state(1) == ("held", UNQUERIABLE)
    assert await box.states() == {1: "held", 2: "verified"}


# who cannot be reached, or says no


@pytest.mark.parametrize("why", [GONE, CUT, REJECTED, Declined("0110", "it answered 0110")])
async def test_who_fails_is_let_rest_ever_longer_and_its_tries_do_not_count(why: Answer, box: Stored) -> None:
    bench = Bench(box, "commitment")
    bench.commitment.answer = why
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    waits = [await bench.until_asked(number, 400) for number in range(2, 14)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-2:] == [300, 300]
    assert ("PROOF_DECLINED" in bench.codes()) == isinstance(why, Declined)
    bench.commitment.answer = Asked()
    await bench.until(lambda: bench.asked == 14, 400)
    assert bench.codes() == set()
    assert await bench.until(lambda: bench.asked == 15, HOUR + 20, 10.0) >= HOUR - 10, "as after the first that counts"


async def test_one_study_that_is_always_declined_keeps_no_other_from_its_proof(box: Stored) -> None:
    class Choosy(FakeCommitment):
        async def ask(self, request: ActionInformation) -> Answer:
            self.requests.append(request)
            return Declined("0110", "it answered 0110") if request.references == references(1) else Asked()

    bench = Bench(box, "commitment")
    bench.commitment = Choosy()
    bench.verifier = bench.on(box.store)
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked >= 5, 60)
    for number in range(2, 12):
        await box.accept(instance(number, study=f"1.{number}"))
    others = {references(number) for number in range(2, 12)}
    await bench.until(lambda: others <= {r.references for r in bench.commitment.requests}, 400)


# the store


async def test_an_error_of_the_store_ends_nothing(box: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.forward.verifier._POLL", 0.01)
    bench = Bench(box, "commitment")
    real, failures = box.store.provable, 3

    async def provable(destination: str, quiet: float, longest_wait: float, most: int) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("the disk is gone")
        return await real(destination, quiet, longest_wait, most)

    monkeypatch.setattr(box.store, "provable", provable)
    await box.accept(instance(1))
    serving = asyncio.create_task(bench.verifier.run())
    try:
        async with asyncio.timeout(10):
            while not bench.asked:
                bench.clock.pass_time(1.0)
                await asyncio.sleep(0.01)
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
    assert failures == 0


async def test_what_cannot_be_put_on_record_is_not_asked(box: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    bench = Bench(box, "commitment")
    await box.accept(instance(1))
    await bench.drain()
    bench.clock.pass_time(QUIET)
    with monkeypatch.context() as broken:
        broken.setattr(box.store, "begin_request", refuse)
        with pytest.raises(StoreError):
            await bench.verifier.turn()
    assert bench.asked == 0
    await bench.until(lambda: bench.asked == 1, 10)


async def test_after_a_restart_it_goes_on_where_it_was(box: Stored) -> None:
    bench = Bench(box, "commitment")
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked > 0, 10)
    await box.accept(instance(2, study="1.9"))
    await box.restart()
    bench.verifier = bench.on(box.store)
    await bench.until(lambda: bench.asked == 2, 10)
    assert bench.commitment.requests[-1].references == references(2)
    await box.store.report_arrived(Report("2.25.1", references(1)))
    assert (await box.states())[1] == "verified"
