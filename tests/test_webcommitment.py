"""Storage commitment by DICOMweb as its user: what is proven by a result, and that nothing else proves anything.

The verifier, its store and the HTTP between are real; the server does as it is told, and time is the test's. At the end
the installed command.
"""

import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from edge.config import Auth, DicomwebDestination, Timeouts
from edge.dicomweb.answer import UnreadableError
from edge.dicomweb.commitment import Request as Body
from edge.dicomweb.commitment import Result
from edge.dicomweb.commitment import result as read_result
from edge.forward import webcommitment
from edge.forward.query import Seen
from edge.forward.verifier import PATIENCE, Verifier
from edge.forward.web import Web
from edge.forward.webcommitment import FIRST, LONGEST, WebCommitment
from edge.model import Failure, Reference
from edge.states import DeliveryState
from edge.store import Store, StoreError
from edge.store.requests import AGAIN, AT_ONCE, LATEST
from edge.store.verdicts import TWIN_UNPROVEN
from tests.appliance import Edge
from tests.peers.dicomweb import HangUpError, Instance, Reply, WebPacs
from tests.peers.objects import mr
from tests.peers.ports import wait_for
from tests.peers.sender import RawSender
from tests.peers.webcommitment import AT, CommittingWeb, Say, Wanted, failing, result, saying, working
from tests.stored import CT, MR, Report, Stored, failures, instance, references
from tests.test_docs import quoted, read, rows
from tests.test_verifier import DAY, HOUR, Bench

ONE, TWO, THREE = (f"1.2.3.{number}" for number in (1, 2, 3))
QUERY: Final = "commitment-or-query"


@pytest.fixture
def pacs() -> Iterator[CommittingWeb]:
    with CommittingWeb() as server:
        for number in range(1, 10):
            keep(server, f"1.2.3.{number}")
        yield server


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        yield opened


def keep(pacs: CommittingWeb, uid: str) -> None:
    pacs.stored[uid] = Instance(CT, uid, "1.2.3", "1.2.3.4", b"", b"")


class WebBench(Bench):
    """A verifier between a store and a server."""

    def __init__(self, box: Stored, pacs: CommittingWeb, verify: str = "commitment", auth: Auth | None = None) -> None:
        self.pacs = pacs
        self._destination = DicomwebDestination(
            name="pacs", url=pacs.url, auth=auth or Auth(), timeouts=Timeouts(connect=2.0, response=2.0)
        )
        self._numbers = (f"2.25.{number}" for number in count(1))
        super().__init__(box, verify)

    def on(self, store: Store) -> Verifier:
        web = Web(self._destination, None, self.clock)
        return Verifier(
            "pacs",
            store,
            self.gate,
            commitment=WebCommitment("pacs", web, store, journal=self.journal, clock=self.clock, random=lambda: 1.0),
            query=self.query if "query" in self._verify else None,
            new_uid=lambda: next(self._numbers),
            gauge=self.gauge,
            journal=self.journal,
            clock=self.clock,
            random=lambda: 1.0,
        )

    @property
    def asked(self) -> int:
        return len(self.pacs.wanted)

    @property
    def checked(self) -> int:
        return len(self.pacs.checked)

    def said(self, code: str) -> str:
        (finding,) = [each for each in self.journal.open() if each.code == code]
        return finding.text

    async def ask(self, *numbers: int) -> None:
        """Have ``numbers`` accepted, and asked about."""
        await self.box.accept(*(instance(number) for number in numbers))
        await self.until(lambda: self.asked > 0, 10)

    async def restart(self) -> None:
        await self.box.restart(monotonic=self.clock.seconds)
        self.verifier = self.on(self.box.store)


# complete


async def test_a_study_is_asked_about_in_one_request_as_the_standard_has_it(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    await bench.ask(1, 2)
    assert pacs.wanted == [Wanted("2.25.1", {ONE: CT, TWO: CT})]
    assert [(each.method, each.path) for each in pacs.requests] == [("POST", f"{AT}2.25.1")]
    assert await box.states() == {1: "verified", 2: "verified"}
    assert (await box.trail(1))[-2:] == [("proof-asked", "2.25.1"), ("verified", "2.25.1")]
    await bench.quiet(2 * DAY, HOUR)
    assert bench.codes() == set()


async def test_a_result_that_comes_later_is_fetched(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = working
    pacs.to_checks.extend([working, working])
    await bench.ask(1, 2)
    assert await box.states() == {1: "accepted", 2: "accepted"}
    waits = [await bench.until(lambda n=n: bench.checked == n, 60) for n in (1, 2, 3)]  # type: ignore[misc]
    assert waits == [FIRST, 2 * FIRST, 4 * FIRST]
    assert pacs.checked == ["2.25.1"] * 3
    assert await box.states() == {1: "verified", 2: "verified"}
    await bench.quiet(DAY, HOUR)
    assert len(pacs.checked) == 3


@pytest.mark.parametrize(("said", "seconds"), [("90", 90), ("86400", 3600), ("1", 5), ("soon", 5)])
async def test_it_waits_as_long_as_the_server_says_and_an_hour_at_most(
    box: Stored, pacs: CommittingWeb, said: str, seconds: float
) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = saying(202, Retry_After=said)
    pacs.to_checks.append(saying(202, Retry_After=said))
    await bench.ask(1)
    pacs.to_request = pacs.truth
    assert seconds <= await bench.until(lambda: bench.checked == 1, 4000) <= seconds + 1
    if seconds < 1000:
        assert seconds <= await bench.until(lambda: bench.checked == 2, 4000) <= max(seconds, 10) + 1
        assert await box.states() == {1: "verified"}


@pytest.mark.parametrize("say", [saying(200), saying(201), saying(204), saying(202, b"{}", "application/dicom+json")])
async def test_who_takes_a_request_and_gives_no_result_is_checked_with(
    box: Stored, pacs: CommittingWeb, say: Say
) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = say
    pacs.to_checks.append(say)
    await bench.ask(1)
    await bench.until(lambda: bench.checked == 2, 30)
    assert (bench.asked, await box.states()) == (1, {1: "verified"})


async def test_a_result_that_is_given_with_another_status_than_200_is_none(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = pacs.to_check = lambda wanted: Reply(202, result(wanted).body)
    await bench.ask(1)
    await bench.until(lambda: bench.checked == 3, 60)
    assert await box.states() == {1: "accepted"}


# in part


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (0x0110, ("accepted", 60)),
        (0x0213, ("accepted", 60)),
        (None, ("accepted", 60)),
        (0xA123, ("accepted", 60)),
        (0x0131, ("accepted", 1)),
        (0x0112, ("queued", 0)),
        (0x0119, ("held", 0)),
        (0x0122, ("held", 0)),
    ],
)
@pytest.mark.parametrize("later", ["", "later"])
async def test_what_failed_goes_as_its_reason_says_and_the_rest_is_proven(
    box: Stored, pacs: CommittingWeb, reason: int | None, state: tuple[str, int], later: str
) -> None:
    bench = WebBench(box, pacs)
    pacs.to_requests.append(working if later else failing(reason, TWO))
    pacs.to_checks.append(failing(reason, TWO))
    pacs.to_request = working
    await bench.box.accept(instance(1), instance(2))
    bench.clock.pass_time(0.1)
    await bench.until(lambda: bench.checked == 1 if later else bench.asked > 0, 20)
    expected, again = state
    assert await box.states() == {1: "verified", 2: expected}
    if expected == "held":
        assert (await box.state(2))[1] == f"{reason:04X}"
    if again and bench.asked == 1:
        assert again - 1 <= await bench.until_asked(2, 70) <= again + 1
    if again:
        assert pacs.wanted[1] == Wanted("2.25.2", {TWO: CT})
    else:
        await bench.quiet(DAY, HOUR)


async def test_what_stands_in_both_lists_has_failed(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = lambda wanted: result(wanted, failed={ONE: 0x0122}, committed=wanted.classes)
    await bench.ask(1, 2)
    assert await box.states() == {1: "held", 2: "verified"}


async def test_what_is_listed_under_another_class_is_held(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = lambda wanted: result(wanted, committed={ONE: MR, TWO: ""})
    await bench.ask(1, 2)
    assert (await box.state(1), (await box.states())[2]) == (("held", "0119"), "verified")


async def test_what_no_list_names_is_not_proven_and_asked_about_again(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_requests.extend(
        [lambda wanted: result(wanted, committed={ONE: CT}), saying(200, b"{}", "application/json")]
    )
    await bench.ask(1, 2)
    assert await box.states() == {1: "verified", 2: "accepted"}
    assert HOUR - 10 <= await bench.until_asked(2, HOUR + 20, 10.0) <= HOUR + 10
    assert await box.states() == {1: "verified", 2: "accepted"}
    await bench.until_asked(3, 7 * HOUR, 10.0)
    assert await box.states() == {1: "verified", 2: "verified"}


async def test_a_uid_that_was_not_asked_for_is_not_proven(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_requests.append(lambda wanted: result(wanted, committed=dict.fromkeys((ONE, TWO, "1.2.3.77"), CT)))
    pacs.to_request = pacs.to_check = working
    await box.accept(instance(1), instance(2, study="1.9"))
    await bench.until(lambda: bench.asked == 2, 10)
    (first,) = pacs.wanted[0].classes
    assert await box.states() == {1: "accepted", 2: "accepted"} | {int(first[-1]): "verified"}


async def test_of_two_contents_of_a_uid_neither_is_proven_by_it(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = working
    await bench.ask(1)
    await box.receive(instance(2, uid=ONE, content=77))
    await box.run(
        "INSERT INTO trail (instance, destination, at, clock_trusted, event, code, detail)"
        " VALUES (2, 'pacs', 0, 1, 'attempted', '', '')"
    )
    await bench.until(lambda: bench.checked == 1, 10)
    assert await box.state(1) == ("held", TWIN_UNPROVEN)


# late, and never


async def test_a_result_that_is_hours_late_counts(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = pacs.to_check = working
    await bench.ask(1)
    begun = bench.clock.seconds
    while bench.clock.seconds < begun + 5 * HOUR:
        bench.clock.pass_time(30.0)
        await bench.drain()
    assert (bench.asked, await box.states()) == (2, {1: "accepted"})
    assert 30 <= pacs.checked.count("2.25.1") <= 45
    pacs.to_check = None
    assert await bench.until(lambda: pacs.checked[-1] == "2.25.1", LONGEST + 20, 10.0) <= LONGEST
    await bench.until(lambda: bench.clock.seconds > begun + 6 * HOUR, 2 * HOUR, 30.0)
    assert (bench.asked, await box.states()) == (2, {1: "verified"})
    await bench.quiet(2 * DAY, HOUR)


async def test_who_never_has_a_result_is_asked_anew_ever_more_rarely(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = pacs.to_check = working
    await bench.ask(1)
    for number, wait in enumerate((HOUR, 6 * HOUR, DAY), 2):
        assert wait - 60 <= await bench.until_asked(number, wait + 120, 60.0) <= wait + 60
    assert await box.states() == {1: "accepted"}
    assert [each.uid for each in pacs.wanted] == ["2.25.1", "2.25.2", "2.25.3", "2.25.4"]
    checks = len(pacs.checked)
    await bench.until(lambda: bench.clock.seconds > 1000.0 + 3 * DAY, 3 * DAY, 600.0)
    assert len(pacs.checked) - checks < 4 * 24 * 6 * 2, "and not in haste"


async def test_where_a_query_is_configured_it_is_made_after_ten_minutes(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs, QUERY)
    bench.query.has = {1}
    pacs.to_request = pacs.to_check = working
    await bench.ask(1)
    assert PATIENCE - 1 <= await bench.until(lambda: bench.looked > 0, 700) <= PATIENCE + 1
    assert await box.state(1) == ("verified", "query")
    checks = len(pacs.checked)
    await bench.until(lambda: bench.clock.seconds > 1000.0 + 2 * HOUR, 3 * HOUR, 60.0)
    assert len(pacs.checked) == checks, "nothing waits for the result"


async def test_what_was_sent_again_since_is_not_proven_by_an_older_request(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = pacs.to_check = working
    await bench.ask(1)
    assert await box.store.waits("2.25.1")
    await box.store.report_arrived(Report("2.25.1", (), failures(0x0112, 1)))
    await box.settle(DeliveryState.ACCEPTED)
    assert not await box.store.waits("2.25.1")
    pacs.to_check = None
    await bench.until(lambda: bench.asked == 2, 10)
    assert (pacs.checked, await box.states()) == ([], {1: "accepted"})
    await bench.until(lambda: bench.checked == 1, 20)
    assert (pacs.checked, await box.states()) == (["2.25.2"], {1: "verified"})


# across restarts


async def test_a_result_is_fetched_after_a_restart_and_nothing_is_asked_twice(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = pacs.to_check = working
    await bench.ask(1, 2)
    await bench.restart()
    await bench.until(lambda: bench.checked == 2, 60)
    await bench.restart()
    pacs.to_check = None
    await bench.until(lambda: bench.checked == 3, 60)
    assert (bench.asked, await box.states()) == (1, {1: "verified", 2: "verified"})


async def test_a_request_that_was_on_record_and_never_left_is_made_anew(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    await box.accept(instance(1))
    await box.ask("2.25.99", after=1e9)  # and the power went
    await bench.restart()
    await bench.until(lambda: bench.asked == 1, 20)
    assert pacs.checked == ["2.25.99"]
    assert await box.states() == {1: "verified"}


async def test_after_a_restart_only_the_last_requests_for_an_instance_are_followed(
    box: Stored, pacs: CommittingWeb
) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = saying(503)
    await box.accept(instance(1))
    await bench.until(lambda: bench.asked == 8, 400)
    await bench.restart()
    pacs.to_check, pacs.to_request = saying(404), working
    await bench.until(lambda: bench.checked == 3, 60)
    assert pacs.checked == ["2.25.6", "2.25.7", "2.25.8"]
    await bench.until(lambda: bench.asked == 9, 60)


async def test_a_result_that_could_not_be_recorded_is_fetched_again(
    box: Stored, pacs: CommittingWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> None:
        raise StoreError("the disk is full")

    bench = WebBench(box, pacs)
    await box.accept(instance(1))
    await bench.drain()
    bench.clock.pass_time(6.0)
    with monkeypatch.context() as broken:
        broken.setattr(box.store, "report_arrived", refuse)
        with pytest.raises(StoreError):
            await bench.verifier.turn()
        bench.clock.pass_time(FIRST)
        with pytest.raises(StoreError):
            await bench.verifier.turn()
    assert await box.states() == {1: "accepted"}
    await bench.until(lambda: bench.checked == 2, 30)
    assert (bench.asked, await box.states()) == (1, {1: "verified"})


# what proves nothing


def page(_: Wanted) -> Reply:
    return Reply(200, b"<html>Log in</html>", "text/html")


def hang_up(_: Wanted) -> Reply:
    raise HangUpError


def cut(wanted: Wanted) -> Reply:
    reply = result(wanted)
    return Reply(200, reply.body, cut=len(reply.body) - 5)


def short(wanted: Wanted) -> Reply:
    return Reply(200, result(wanted).body[:-5])


def of_another(wanted: Wanted) -> Reply:
    return result(wanted, transaction="2.25.4711")


NOTHING: Final[dict[str, Say]] = {
    "a web page": page,
    "a page that calls itself JSON": lambda _: Reply(200, b"<html>"),
    "a list of studies": lambda _: Reply(200, b"[{}, {}]"),
    "text": saying(200, b"OK"),
    "a body that is cut": cut,
    "a body that is short": short,
    "a lost connection": hang_up,
    "the result of another request": of_another,
    "a login that is refused": saying(401),
    "a right that is missing": saying(403),
    "too many requests": saying(429, Retry_After="7"),
    "a server in maintenance": saying(503, Retry_After="7"),
    "a server in trouble": saying(500),
    "a gateway without a server": saying(502),
    "a bad request": saying(400),
    "a redirect without end": saying(307, location=f"{AT}2.25.1"),
}


@pytest.mark.parametrize("what", NOTHING)
async def test_a_check_that_fails_proves_nothing_and_is_made_again(box: Stored, pacs: CommittingWeb, what: str) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = working
    pacs.to_check = NOTHING[what]
    await bench.ask(1, 2)
    await bench.until(lambda: bench.checked >= 3, 200)
    assert (bench.asked, await box.states()) == (1, {1: "accepted", 2: "accepted"})
    pacs.to_check = None
    before = bench.checked
    await bench.until(lambda: bench.checked > before, 900)
    assert (bench.asked, await box.states()) == (1, {1: "verified", 2: "verified"})


@pytest.mark.parametrize("what", NOTHING)
async def test_a_request_that_fails_proves_nothing_and_is_made_again(
    box: Stored, pacs: CommittingWeb, what: str
) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = NOTHING[what]
    pacs.to_check = saying(404)
    await bench.ask(1, 2)
    await bench.until(lambda: bench.asked >= 4, 200)
    assert await box.states() == {1: "accepted", 2: "accepted"}
    pacs.to_request = None
    before = bench.asked
    await bench.until(lambda: bench.asked > before, 200)
    assert await box.states() == {1: "verified", 2: "verified"}
    assert pacs.wanted[-1].uid != "2.25.1", "each has a UID of its own"


async def test_what_is_wrong_with_a_result_is_told(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request, pacs.to_check = working, of_another
    await bench.ask(1)
    await bench.until(lambda: bench.checked == 1, 10)
    assert bench.said("REPORT_UNUSABLE") == (
        "pacs gave no result of a commitment request that it was asked for: its result is of another request."
    )


async def test_a_result_that_names_its_own_request_is_taken(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = lambda wanted: result(wanted, transaction=wanted.uid)
    await bench.ask(1)
    assert await box.states() == {1: "verified"}


async def test_a_server_in_maintenance_is_left_alone_as_long_as_it_says(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_requests.append(saying(503, Retry_After="400"))
    await bench.ask(1)
    assert 399 <= await bench.until(lambda: bench.asked == 2, 500) <= 401
    pacs.to_request, pacs.to_checks = working, type(pacs.to_checks)([saying(503, Retry_After="400")])
    await box.accept(instance(2, study="1.9"))
    await bench.until(lambda: bench.checked == 1, 60)
    assert 399 <= await bench.until(lambda: bench.checked == 2, 500) <= 401


async def test_a_login_that_ends_midway_is_renewed_and_goes_nowhere_else(
    box: Stored, pacs: CommittingWeb, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    valid = ["Bearer first"]
    pacs.authorized = lambda header: header in valid
    with WebPacs() as elsewhere:
        bench = WebBench(box, pacs, auth=Auth(type="bearer", token_file=token))
        pacs.to_request = working
        pacs.to_checks.append(saying(307, location=f"{elsewhere.url}/commitment-requests/2.25.1"))
        await bench.ask(1)
        await bench.until(lambda: bench.checked == 1, 10)
        assert await box.states() == {1: "accepted"}
        valid[:] = ["Bearer second"]
        for _ in range(30):
            bench.clock.pass_time(10.0)
            await bench.drain()
        assert await box.states() == {1: "accepted"}
        assert bench.checked == 1, "no check was let in"
        token.write_text("second")
        await bench.until(lambda: bench.checked == 2, 700)
        assert (bench.asked, await box.states()) == (1, {1: "verified"})
        assert elsewhere.requests == []


async def test_a_request_is_not_sent_to_another_host(box: Stored, pacs: CommittingWeb, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2")
    with CommittingWeb() as elsewhere:
        bench = WebBench(box, pacs, auth=Auth(type="basic", username="edge", password_file=password))
        for status in (301, 302, 303, 307, 308):
            pacs.to_requests.append(saying(status, location=f"{elsewhere.url}/commitment-requests/2.25.1"))
        await box.accept(instance(1))
        await bench.until(lambda: bench.asked == 5, 100)
        assert (elsewhere.requests, await box.states()) == ([], {1: "accepted"})
        await bench.until(lambda: bench.asked == 6, 100)
        assert await box.states() == {1: "verified"}


async def test_a_check_that_always_fails_holds_up_no_other(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = working
    pacs.to_check = lambda wanted: cut(wanted) if wanted.uid == "2.25.1" else pacs.truth(wanted)
    await bench.ask(1)
    for number in range(2, 7):
        await box.accept(instance(number, study=f"1.{number}"))
    await bench.until(lambda: bench.asked == 6, 30)
    await bench.until(lambda: {"2.25.2", "2.25.3", "2.25.4", "2.25.5", "2.25.6"} <= set(pacs.checked), 200)
    assert await box.states() == {1: "accepted"} | dict.fromkeys(range(2, 7), "verified")


async def test_nothing_is_checked_for_while_it_is_paused(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = working
    await bench.ask(1)
    bench.gauge.paused = True
    await bench.quiet(DAY, 600.0)
    assert bench.checked == 0
    bench.gauge.paused = False
    await bench.until(lambda: bench.checked == 1, 10)
    assert await box.states() == {1: "verified"}


# an answer that was lost


@pytest.mark.parametrize("say", [hang_up, cut, saying(504), saying(502)])
@pytest.mark.parametrize("check", [None, working])
async def test_a_request_whose_answer_was_lost_is_looked_for(
    box: Stored, pacs: CommittingWeb, say: Say, check: Say | None
) -> None:
    bench = WebBench(box, pacs)
    pacs.to_requests.append(say)
    pacs.to_checks.extend([check] if check else [])
    await bench.ask(1)
    assert pacs.checked == ["2.25.1"]
    await bench.until(lambda: bench.checked == (2 if check else 1), 10)
    assert (bench.asked, await box.states()) == (1, {1: "verified"})


# a server that knows the request no more, or never will


@pytest.mark.parametrize("status", [404, 410])
async def test_a_request_that_is_forgotten_is_made_anew(box: Stored, pacs: CommittingWeb, status: int) -> None:
    bench = WebBench(box, pacs)
    pacs.to_requests.append(working)
    pacs.to_checks.append(saying(status))
    await bench.ask(1, 2)
    await bench.until(lambda: bench.asked == 2, 10)
    assert pacs.wanted[1] == Wanted("2.25.2", {ONE: CT, TWO: CT})
    assert await box.states() == {1: "verified", 2: "verified"}
    await bench.quiet(DAY, HOUR)


async def test_of_two_requests_one_may_be_forgotten(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = pacs.to_check = working
    await bench.ask(1)
    await bench.until_asked(2, HOUR + 20, 10.0)
    pacs.to_check = lambda wanted: Reply(404) if wanted.uid == "2.25.1" else working(wanted)
    await bench.until(lambda: bench.clock.seconds > 1000.0 + 3 * HOUR, 3 * HOUR, 30.0)
    assert bench.asked == 2, "the other is waited for"
    pacs.to_check = None
    await bench.until(lambda: pacs.checked[-1] == "2.25.2", 700, 10.0)
    await bench.until(lambda: bench.clock.seconds > 1000.0 + 4 * HOUR, 3 * HOUR, 30.0)
    assert await box.states() == {1: "verified"}


async def test_who_forgets_every_request_is_asked_ever_more_rarely(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request, pacs.to_check = working, saying(404)
    await bench.ask(1)
    waits = [await bench.until_asked(number, 2 * DAY, 5.0) for number in range(2, 8)]
    assert all(wait <= 10 for wait in waits[:3])
    assert [round(wait, -2) for wait in waits[3:]] == [600.0, HOUR, 6 * HOUR]
    assert await box.states() == {1: "accepted"}


async def test_who_forgets_every_request_is_queried_where_that_is_configured(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs, QUERY)
    bench.query.has = {1}
    pacs.to_request, pacs.to_check = working, saying(404)
    await bench.ask(1)
    await bench.until(lambda: bench.looked > 0, 2 * HOUR, 5.0)
    assert (bench.asked, await box.state(1)) == (4, ("verified", "query"))


async def test_a_transaction_uid_that_is_in_use_is_replaced(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_requests.append(saying(409))
    await bench.ask(1)
    await bench.until(lambda: bench.asked == 2, 5)
    assert [each.uid for each in pacs.wanted] == ["2.25.1", "2.25.2"]
    assert await box.states() == {1: "verified"}
    assert ("not-committed", "0131") in await box.trail(1)


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_commitment_is_a_finding_and_tried_every_hour(
    box: Stored, pacs: CommittingWeb, status: int
) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = saying(status)
    await bench.ask(1)
    assert bench.text("COMMITMENT_UNSUPPORTED") == f"pacs: it answered {status} to a request for storage commitment."
    assert await bench.until_asked(2, HOUR + 20, 10.0) >= HOUR - 10
    pacs.to_request = None
    await bench.until_asked(3, HOUR + 20, 10.0)
    assert (bench.codes(), await box.states()) == (set(), {1: "verified"})
    assert pacs.checked == []


async def test_a_server_without_commitment_is_queried_where_that_is_configured(
    box: Stored, pacs: CommittingWeb
) -> None:
    bench = WebBench(box, pacs, QUERY)
    bench.query.has = {1}
    pacs.to_request = saying(501)
    await bench.ask(1)
    await bench.until(lambda: bench.looked == 1, 10)
    assert (bench.asked, await box.state(1)) == (1, ("verified", "query"))
    assert isinstance(await bench.query.look([]), Seen)


async def test_a_server_that_refuses_is_let_rest_and_that_is_told(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = saying(400)
    await bench.ask(1)
    assert bench.text("PROOF_DECLINED") == "pacs: it answered 400 to a request for storage commitment."
    waits = [await bench.until_asked(number, 400) for number in range(2, 6)]
    assert waits == [1, 2, 4, 8]


async def test_a_server_that_is_gone_is_asked_when_it_is_back(box: Stored, pacs: CommittingWeb) -> None:
    bench = WebBench(box, pacs)
    pacs.to_request = working
    await bench.ask(1)
    pacs.stop()
    for _ in range(60):
        bench.clock.pass_time(30.0)
        await bench.drain()
    pacs.start()
    await bench.until(lambda: bench.checked == 1, 700, 5.0)
    assert (bench.asked, await box.states()) == (1, {1: "verified"})


# the payloads


def test_a_body_has_the_length_that_it_says() -> None:
    body = Body(references(1, 2))
    assert body.content_type == "application/dicom+json"
    assert body.length == len(body._data)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, Result((), ())),
        ({"00081199": {"vr": "SQ"}, "00081198": None}, Result((), ())),
        ({"00081199": {"Value": [None, {}, {"00081155": {"Value": [None, 5, ""]}}]}}, Result((), ())),
        ({"00081199": {"Value": [{"00081155": {"Value": ["1.2 \x00"]}}]}}, Result((Reference("", "1.2"),), ())),
        ({"00081199": {"Value": [{"00081155": {"Value": ["1" * 65]}}, {"00081155": {"Value": ["1\n2"]}}]}},
         Result((), ())),
        ({"00081198": {"Value": [{"00081155": {"Value": ["1.2"]}, "00081197": {"Value": ["274"]}}]}},
         Result((), (Failure(Reference("", "1.2"), 0x0112),))),
        ({"00081198": {"Value": [{"00081155": {"Value": ["1.2"]}, "00081197": {"Value": [0]}}]}},
         Result((), (Failure(Reference("", "1.2"), 0x0110),))),
        ({"00081198": {"Value": [{"00081155": {"Value": ["1.2"]}, "00081197": {"Value": [1 << 20]}}]}},
         Result((), (Failure(Reference("", "1.2"), 0x0110),))),
        ([{"00081199": {"Value": [{"00081155": {"Value": ["1.2"]}}]}}], Result((Reference("", "1.2"),), ())),
    ],
)  # fmt: skip
def test_a_result_is_read_as_servers_write_it(body: object, found: Result) -> None:
    assert read_result("application/dicom+json", json.dumps(body).encode(), "2.25.1") == found


def test_no_bytes_do_more_than_prove_nothing() -> None:
    whole = result(Wanted("2.25.1", {ONE: CT, TWO: CT}), failed={TWO: 0x0112}, transaction="2.25.1").body
    chance = random.Random(20261122)
    changes: list[Callable[[bytearray], None]] = [
        lambda data: data.__setitem__(chance.randrange(len(data)), chance.randrange(256)),
        lambda data: data.__delitem__(slice(chance.randrange(len(data)), None)),
        lambda data: data.insert(chance.randrange(len(data)), chance.randrange(256)),
    ]
    read = 0
    for _ in range(3000):
        data = bytearray(whole)
        chance.choice(changes)(data)
        try:
            found = read_result("application/dicom+json", bytes(data), "2.25.1")
        except UnreadableError:
            continue
        read += 1
        assert len(found.committed) <= 1
    assert read > 100
    for broken in (b"[" * 100_000, b"\xff\xfe", b"null", b"3", b'{"00081199": 3}', b"[]", b"[null]"):
        with pytest.raises(UnreadableError):
            read_result("application/dicom+json", broken, "2.25.1")
    many = {"00081199": {"Value": [{"00081155": {"Value": [f"1.{n}"]}} for n in range(20_001)]}}
    with pytest.raises(UnreadableError, match="more than 20000"):
        read_result("", json.dumps(many).encode(), "2.25.1")


# docs/conformance.md


def test_the_conformance_statement_says_what_each_answer_leads_to() -> None:
    page = read("docs/conformance.md")

    def said(what: str) -> list[set[int]]:
        found = rows(page, f"{what} answered", "leads to")
        return [{int(text) for text in quoted(cell) if text.isdigit()} for cell, _ in found]

    working = set(webcommitment._WORKING)
    trouble = set(webcommitment._DESTINATION)
    assert said("Request") == [{200}, {200} | working, {409}, set(webcommitment._NO_SERVICE), trouble, set()]
    assert said("Result Check") == [{200}, {200} | working, set(webcommitment._FORGOTTEN), trouble, set()]
    assert {502, 504} == webcommitment._GATEWAY
    assert (FIRST, LONGEST, LATEST) == (5.0, 600.0, 3)
    assert (AT_ONCE, AGAIN) == (3, (600.0, HOUR, 6 * HOUR, DAY))
    paces = [min(FIRST * 2.0**times, LONGEST) for times in range(webcommitment.PATIENT)]
    assert 0.9 * DAY < sum(paces) < 1.1 * DAY


# the installed command


@pytest.mark.rig
def test_what_a_server_commits_to_after_a_crash_is_verified_and_only_then_deleted(tmp_path: Path) -> None:
    made = mr(3)
    uids = [each.sop_instance_uid for each in made]
    with CommittingWeb() as server:
        server.to_request = server.to_check = working
        destination = f"""[[destination]]
name = "cloud"
type = "dicomweb"
url = "{server.url}"
verify = "commitment"
"""
        with Edge(tmp_path / "edge", destination, store='keep_delivered = "0s"') as edge:
            with RawSender(edge.port, timeout=20) as sender:
                sender.associate([(made[0].sop_class_uid, [made[0].transfer_syntax_uid])])
                assert [sender.store(each) for each in made] == [0] * 3
            wait_for(lambda: server.checked, 40, "a check for the result")
            edge.kill()
            before = len(server.checked)
            edge.start()
            wait_for(lambda: len(server.checked) > before, 40, "a check after the crash")
            assert edge.tally("cloud") == {"accepted": 3}
            assert all("deleted" not in _events(edge, uid) for uid in uids)
            server.to_check = failing(0x0122, uids[2])
            edge.wait_settled("cloud", {"verified": 2, "held": 1})
            (asked,) = server.wanted
            assert sorted(asked.classes) == sorted(uids)
            assert ["verified" in _events(edge, uid) for uid in uids] == [True, True, False]
            wait_for(lambda: all("deleted" in _events(edge, uid) for uid in uids[:2]), 30, "what is proven is deleted")
            assert "deleted" not in _events(edge, uids[2])


def _events(edge: Edge, uid: str) -> list[str]:
    return [step["event"] for step in edge.json("trace", uid)[0]["trail"]]
