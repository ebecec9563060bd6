"""One study: what is not through, why, what may be done about it and what comes of it; the receipt; its size."""

import html
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from edge.preview import NoPicture, Picture, Reason
from edge.snapshot import Problem, Snapshot
from edge.states import DeliveryState
from edge.store import Choice, StudyFilter, record, stuck
from edge.store.counting import Counted
from edge.web.pages import study
from edge.web.studies_acts import Act, UnknownActError, act, for_all, offered
from tests.snapshots import destination, snapshot
from tests.stored import Stored, instance, leg
from tests.studying import QUIET, Studied, verify
from tests.test_web_studies import ENGLISH, said
from tests.web import log_in, post, token_in

S = DeliveryState
SCRIPT = "<script>alert('x')</script>"


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path / "store") as opened:
        yield opened


@asynccontextmanager
async def inside(
    tmp_path: Path, stored: Stored, shown: Snapshot | None = None, previews: object | None = None
) -> AsyncIterator[tuple[Studied, httpx.AsyncClient]]:
    async with Studied(tmp_path, stored, shown, previews=previews) as served:
        browser = served.client()
        await log_in(browser)
        yield served, browser


async def do(browser: httpx.AsyncClient, what: Act, study: int = 1, **fields: str) -> httpx.Response:
    return await post(browser, f"/studies/{study}/act", f"/studies/{study}", what=str(what), **fields)


async def steps(stored: Stored, number: int) -> list[tuple[str, str, str]]:
    """Event, who and why, of what people decided about an instance."""
    asked = "SELECT event, code, detail FROM trail WHERE instance = ? AND code = 'dashboard' ORDER BY seq"
    return await stored.rows(asked, number)


async def refused(stored: Stored, *numbers: int, words: str = "PACS said: no room in the archive") -> None:
    await stored.receive(*(instance(n, instance_number=str(n)) for n in numbers))
    await stored.settle(S.HELD, code="A700")
    await stored.run("UPDATE delivery SET detail = ? WHERE state = 'held'", words)


# what is shown


async def test_a_study_says_why_what_is_not_through_is_not(tmp_path: Path, stored: Stored) -> None:
    await refused(stored, 1, 2)
    await stored.receive(instance(3, instance_number="3", series_number="7"))
    problem = Problem(code="REFUSED_CONNECTION", text="it refuses the connection on port 104.")
    down = msgspec.structs.replace(destination("pacs", problem="X"), problem=problem)
    async with inside(tmp_path, stored, snapshot(destinations=[down])) as (_, browser):
        page = said(await browser.get("/studies/1"))
    assert "pacs: Held: a person decides 2 PACS said: no room in the archive 2 images · A700" in page
    assert "pacs: Waiting to be sent 1 it refuses the connection on port 104. 1 image" in page
    assert page.index("Held: a person decides") < page.index("Waiting to be sent")
    assert "Series 7, image 3" in page


async def test_everything_through_is_said_too(tmp_path: Path, stored: Stored) -> None:
    await stored.accept(instance(1))
    async with inside(tmp_path, stored) as (_, browser):
        assert "pacs: Accepted, waiting for the proof 1" in said(await browser.get("/studies/1"))
        await verify(stored, [1])
        assert "Everything is through." in said(await browser.get("/studies/1"))


async def test_a_study_that_goes_nowhere_says_so(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1), to=[])
    async with inside(tmp_path, stored) as (_, browser):
        page = said(await browser.get("/studies/1"))
    assert "1 image goes nowhere: no destination is configured for it." in page
    assert "Everything is through" not in page


async def test_what_another_rendering_made_needless_is_not_there(stored: Stored) -> None:
    await stored.receive(instance(1, uid="1.9"), instance(2, uid="1.9", syntax="1.2.840.10008.1.2.4.50"))
    await stored.settle(S.HELD, 1, code="CONTEXT_REJECTED")
    assert len(await stuck.groups(stored.store.reading, 1)) == 2
    await stored.settle(S.ACCEPTED)
    await stored.run("UPDATE delivery SET needs_proof = 0")
    assert await stuck.groups(stored.store.reading, 1) == []


@pytest.mark.parametrize("path", ["/studies/7", "/studies/99999999999999999999999", "/studies/7/receipt"])
async def test_a_study_that_is_not_here_is_no_page(tmp_path: Path, stored: Stored, path: str) -> None:
    async with inside(tmp_path, stored) as (_, browser):
        assert (await browser.get(path)).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/studies/1/images",
        "/studies/1/images?state=verified&destination=pacs",
        "/studies/1/images?state=x",
        "/studies/1/picture/256",
        "/studies/1/picture/3",
        "/studies/x",
        "/studies/-1",
    ],
)
async def test_what_there_is_not_is_no_page(tmp_path: Path, stored: Stored, path: str) -> None:
    await stored.receive(instance(1))
    async with inside(tmp_path, stored) as (_, browser):
        assert (await browser.get(path)).status_code == 404


async def test_a_study_that_goes_while_somebody_looks_says_so(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1))
    async with inside(tmp_path, stored) as (served, browser):
        for about in ("7", "x", "", "9" * 30):
            parts = await served.site.screens.whole(study.PAGE, ENGLISH, inside=True, about=about)
            assert "not kept on the box any more" in parts["study-answer"]
        assert (await browser.get("/studies/1")).status_code == 200
        served.shown = None
        served.clock.pass_time(1)
        assert (await browser.get("/studies/1")).status_code == 503


# what is done


async def test_a_held_image_is_released_with_a_reason(tmp_path: Path, stored: Stored) -> None:
    await refused(stored, 1, 2)
    async with inside(tmp_path, stored) as (_, browser):
        page = (await browser.get("/studies/1")).text
        link = next(html.unescape(one) for one in re.findall(r'href="([^"]*verb=release[^"]*delivery=1[^"]*)"', page))
        asked = await browser.get(link)
        assert "pacs · Held: a person decides · 1 image" in said(asked)
        what = html.unescape(re.findall(r'name="what" value="([^"]*)"', asked.text)[0])
        empty = await post(browser, "/studies/1/act", link, what=what, reason="  ")
        assert empty.status_code == 400
        assert "Say why: it goes on the record." in empty.text
        assert (await stored.state(1))[0] == S.HELD
        done = await post(browser, "/studies/1/act", link, what=what, reason="The archive has room again")
        assert done.headers["location"] == "/studies/1"
        after = await browser.get("/studies/1")
        again = await browser.get("/studies/1")
    assert await stored.states() == {1: "queued", 2: "held"}
    assert await steps(stored, 1) == [("released", "dashboard", "The archive has room again")]
    assert "pacs: 1 image is released and will be sent." in said(after)
    assert 'role="status" tabindex="-1" autofocus' in after.text
    assert "is released" not in said(again)


async def test_stat_by_a_click_goes_before_all_others(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(*(instance(n, study=f"1.{n}") for n in (1, 2, 3)), to=[leg(), leg("cloud")])
    async with inside(tmp_path, stored) as (_, browser):
        page = (await browser.get("/studies/3")).text
        values = [html.unescape(one) for one in re.findall(r'name="what" value="([^"]*)"', page)]
        whole = [value for value in values if value == "verb=stat&state=queued"]
        assert len(whole) == 1
        await post(browser, "/studies/3/act", "/studies/3", what=whole[0])
        after = await browser.get("/studies/3")
    assert page.count('class="stat"') == 0
    assert after.text.count('class="stat"') == 4  # two destinations, and their images
    assert "2 images go before all others. Each image counts once for each destination." in said(after)
    parcels = await stored.store.claim("pacs", 1)
    assert [parcel.instance for parcel in parcels] == [3]
    assert await steps(stored, 3) == [("hurried", "dashboard", ""), ("hurried", "dashboard", "")]


async def test_what_waits_for_its_time_is_sent_now_and_nothing_held_with_it(tmp_path: Path, stored: Stored) -> None:
    await refused(stored, 1)
    await stored.receive(instance(2))
    await stored.run("UPDATE delivery SET not_before = 1e9 WHERE instance = 2")
    async with inside(tmp_path, stored) as (_, browser):
        await do(browser, Act(verb="retry", destination="pacs", state=S.QUEUED))
        assert "pacs: 1 image is sent as soon as possible." in said(await browser.get("/studies/1"))
    assert await stored.states() == {1: "held", 2: "queued"}
    assert [parcel.instance for parcel in await stored.store.claim("pacs", 9)] == [2]


async def test_images_are_given_up_with_a_reason_and_sent_again_after_all(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1), instance(2), to=[leg(), leg("cloud")])
    await stored.settle(S.ACCEPTED, destination="cloud")
    async with inside(tmp_path, stored) as (_, browser):
        cancel = Act(verb="cancel", destination="pacs", state=S.QUEUED)
        assert "pacs · Waiting to be sent · 2 images" in said(await browser.get(f"/studies/1/decide?{cancel}"))
        await do(browser, cancel, reason="wrong\r\n patient\x1b[2J")
        assert "pacs: 2 images are given up." in said(await browser.get("/studies/1"))
        assert await stored.states() == {1: "cancelled", 2: "cancelled"}
        assert await steps(stored, 2) == [("cancelled", "dashboard", "wrong patient?[2J")]
        page = said(await browser.get("/studies/1"))
        assert "Safe to delete: no Given up, or not taken by the destination: 2 of 2 for pacs." in page
        assert "pacs: Given up 2 Given up by a person: wrong patient?[2J 2 images" in page
        await do(browser, Act(verb="resend", destination="pacs", state=S.CANCELLED, delivery=1))
    assert await stored.states() == {1: "queued", 2: "cancelled"}
    assert set((await stored.states("cloud")).values()) == {"accepted"}


async def test_images_are_held_back_without_a_reason(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1))
    async with inside(tmp_path, stored) as (_, browser):
        await do(browser, Act(verb="hold", destination="pacs", state=S.QUEUED), reason="")
    assert await stored.state(1) == (S.HELD, "HELD")


async def test_a_decision_concerns_no_other_study(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1, study="1.1"), instance(2, study="1.2"))
    async with inside(tmp_path, stored) as (_, browser):
        await do(browser, Act(verb="cancel", state=S.QUEUED), study=2, reason="x")
        await do(browser, Act(verb="cancel", state=S.QUEUED, delivery=1), study=2, reason="x")
        assert "Nothing was changed" in said(await browser.get("/studies/2"))
    assert await stored.states() == {1: "queued", 2: "cancelled"}


async def test_a_study_named_like_another_ones_accession_takes_nothing_along(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1, study="1.1", accession="1.2"), instance(2, study="1.2"))
    async with inside(tmp_path, stored) as (_, browser):
        await do(browser, Act(verb="hold", state=S.QUEUED), study=2)
    assert await stored.states() == {1: "queued", 2: "held"}


@pytest.mark.parametrize(
    "what",
    [
        "",
        "verb=delete",
        "verb=pause&destination=pacs",
        "verb=resend",
        "verb=resend&state=verified",
        "verb=release&state=queued",
        "verb=cancel&state=x",
        "verb=cancel&delivery=x",
        "verb=cancel&who=me",
        "verb=cancel&delivery=99999999999999999999",
        "verb=cancel&delivery=-1",
        "a&" * 99,
    ],
)
async def test_what_cannot_be_done_is_refused(tmp_path: Path, stored: Stored, what: str) -> None:
    await stored.accept(instance(1))
    async with inside(tmp_path, stored) as (_, browser):
        assert (await post(browser, "/studies/1/act", "/studies/1", what=what, reason="x")).status_code == 400
        assert (await browser.get(f"/studies/1/decide?{what}")).status_code == 400
    assert await stored.states() == {1: "accepted"}


async def test_nothing_is_done_by_a_link_or_without_a_token(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1))
    what = str(Act(verb="retry", destination="pacs", state=S.QUEUED))
    async with inside(tmp_path, stored) as (served, browser):
        assert (await browser.get("/studies/1/act", params={"what": what})).status_code == 405
        assert (await browser.post("/studies/1/act", data={"what": what})).status_code == 403
        token = token_in((await browser.get("/studies/1")).text)
        stranger = await served.client().post("/studies/1/act", data={"what": what, "token": token})
    assert stranger.status_code == 403
    assert await steps(stored, 1) == []


def test_what_is_offered_is_read_as_it_was_written() -> None:
    for state in S:
        for one in (*offered(state, "p & q=1", 7), *offered(state, "ñ")):
            assert act(str(one)) == one
    assert for_all([S.HELD]) == ()
    with pytest.raises(UnknownActError):
        act("verb=retry&state=held")


# the size of it


async def many(stored: Stored, count: int) -> None:
    def work(raw: Any) -> None:
        for number in range(1, count + 1):
            record.record(raw, [(instance(number, instance_number=str(number)), [leg()])])

    await stored.store._committer.commit(work)


async def test_ten_thousand_images_make_no_large_page(tmp_path: Path, stored: Stored) -> None:
    await many(stored, 10_000)
    await stored.run("UPDATE delivery SET state = 'held', code = 'A' || id, detail = 'said ' || id WHERE id % 2")
    async with inside(tmp_path, stored) as (_, browser):
        for path in ("/studies", "/studies/1", "/studies/1/receipt", "/api/studies/1"):
            page = await browser.get(path)
            assert page.status_code == 200
            assert len(page.content) < 100_000, path
        page = await browser.get("/studies/1")
        assert "Show all 5000" in said(page)
        assert "and 4995 more reasons" in said(page)
        seen, path = [], "/studies/1/images?destination=pacs&state=queued"
        for _ in range(3):
            listed = await browser.get(path)
            seen += re.findall(r'id="image-(\d+)"', listed.text)
            more = re.search(r'href="([^"]*after=\d+[^"]*)"', listed.text)
            assert more is not None
            path = html.unescape(more[1])
        whole = await browser.get("/api/studies/1/receipt")
    assert seen == [str(2 * n) for n in range(1, 301)]
    assert len(whole.json()) == 10_000


async def test_the_first_pages_are_quick_with_a_hundred_thousand_images(tmp_path: Path, stored: Stored) -> None:
    """At the first look after a start, when nothing is counted yet, and whenever somebody looks again."""
    columns = "study, sop_instance_uid, sop_class_uid, transfer_syntax_uid, length, offset, series_uid, modality"
    more = "series_number, series_description, instance_number, door, calling, called, address, received_at"
    await stored.run(
        """INSERT INTO study (id, uid, patient_id, patient_name, accession, date, description)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
        SELECT i, '1.' || i, 'P' || i, 'Name^' || i, 'A' || i, '20270115', 'CT' FROM n"""
    )
    await stored.run(
        f"""INSERT INTO instance (id, {columns}, {more}, clock_trusted, owed, unrouted, digest)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
        SELECT i, 1 + i / 201, '1.2.' || i, '1', '1', 100, 10, '1.5', 'CT', '1', '', i, 'dimse', 'CT1', 'EDGE',
        '10.0.0.7', {stored.clock.now()}, 1, 1, 0, randomblob(32) FROM n"""
    )
    await stored.run(
        """INSERT INTO delivery (instance, destination, state, priority, needs_proof, bytes, changed_at)
        SELECT id, 'pacs', 'queued', 1, 1, 100, received_at FROM instance"""
    )
    async with inside(tmp_path, stored) as (served, browser):

        async def timed(served: Studied, path: str, *, anew: bool) -> float:
            if anew:
                stored.store._counted = Counted()
            served.clock.pass_time(20)
            began = time.perf_counter()
            page = await browser.get(path)
            took = time.perf_counter() - began
            assert page.status_code == 200
            assert len(page.content) < 100_000
            return took

        (latest,) = await stored.store.studies(StudyFilter(), 1)
        answered = await post(browser, "/studies/search", "/studies", words="name P4")
        for path in ("/studies", "/studies?show=all", f"/studies/{latest.id}", answered.headers["location"]):
            for looks in ("first", "again"):
                assert min([await timed(served, path, anew=looks == "first") for _ in range(3)]) < 0.1, (path, looks)


# receipt and programs


async def test_the_receipt_is_what_edge_trace_prints(tmp_path: Path, stored: Stored) -> None:
    await stored.accept(instance(1), instance(2))
    await verify(stored, [1])
    await stored.store.decide("cancel", Choice(study=1), who="command line", reason="not needed")
    async with inside(tmp_path, stored) as (_, browser):
        page, whole = await browser.get("/studies/1/receipt"), await browser.get("/api/studies/1/receipt")
    traced = [msgspec.to_builtins(row) for row in await stored.store.reading.trace("1.2.3")]
    assert whole.json() == traced
    assert len(traced) == 2
    assert whole.headers["content-disposition"] == 'attachment; filename="receipt-1.json"'
    words = said(page)
    for row in traced:
        assert row["sha256"] in words
        assert row["sop_instance_uid"] in words
    assert "from CT1 10.0.0.7" in words
    assert "pacs: verified – it named it when it was queried query" in words  # noqa: RUF001
    assert "given up pacs command line not needed" in words


async def test_a_receipt_leads_on_to_the_rest(tmp_path: Path, stored: Stored) -> None:
    await many(stored, 60)
    async with inside(tmp_path, stored) as (_, browser):
        first = await browser.get("/studies/1/receipt")
        assert "This is a part of the images: the JSON has them all." in said(first)
        more = re.search(r'href="(/studies/1/receipt\?after=\d+)"', first.text)
        assert more is not None
        second = await browser.get(more[1])
    pattern = r'id="piece-(\d+)"'
    assert re.findall(pattern, first.text) + re.findall(pattern, second.text) == [str(n) for n in range(1, 61)]


async def test_programs_read_a_study_with_its_answer_and_its_reasons(tmp_path: Path, stored: Stored) -> None:
    await refused(stored, 1, 2)
    async with inside(tmp_path, stored) as (_, browser):
        told = json.loads((await browser.get("/api/studies/1")).text)
    assert told["study"]["received"] == 2
    assert told["study"]["safe"]["code"] == "HELD"
    (group,) = told["open"]
    assert (group["destination"], group["state"], group["count"], group["different"]) == ("pacs", "held", 2, 1)
    (reason,) = group["reasons"]
    assert (reason["count"], reason["code"], reason["detail"]) == (2, "A700", "PACS said: no room in the archive")


@pytest.mark.parametrize("before", ["x", "-1", "9" * 30])
async def test_a_page_that_there_cannot_be_is_a_bad_request(tmp_path: Path, stored: Stored, before: str) -> None:
    await stored.receive(instance(1))
    async with inside(tmp_path, stored) as (_, browser):
        assert (await browser.get(f"/api/studies?before={before}")).status_code == 400
        assert (await browser.get(f"/studies?show=all&before={before}")).status_code == 200


async def test_what_a_peer_said_is_text(tmp_path: Path, stored: Stored) -> None:
    await refused(stored, 1, words=SCRIPT)
    await stored.run("UPDATE instance SET instance_number = ?, sop_instance_uid = ?", SCRIPT, SCRIPT)
    async with inside(tmp_path, stored) as (_, browser):
        for path in ("/studies/1", "/studies/1/images?destination=pacs&state=held", "/studies/1/receipt"):
            page = await browser.get(path)
            assert "alert(" in page.text
            assert "<script>alert" not in page.text


# pictures


class FakePreviews:
    def __init__(self, answer: Picture | NoPicture) -> None:
        self.answer = answer
        self.asked: list[tuple[int, int]] = []

    async def of_object(self, number: int, side: int = 256, client: str = "") -> Picture | NoPicture:
        assert client
        self.asked.append((number, side))
        return self.answer


async def test_a_study_has_a_picture_of_its_middle_image_that_nobody_keeps(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(*(instance(n, instance_number=str(n)) for n in (1, 2, 3)))
    previews = FakePreviews(Picture(b"RIFF....WEBP", 256, 200))
    async with inside(tmp_path, stored, previews=previews) as (_, browser):
        assert 'data-picture="/studies/1/picture/256"' in (await browser.get("/studies")).text
        picture = await browser.get("/studies/1/picture/256")
        assert (await browser.get("/studies/1/picture/300")).status_code == 404
    assert (picture.content, picture.headers["content-type"]) == (b"RIFF....WEBP", "image/webp")
    assert picture.headers["cache-control"] == "no-store"
    assert previews.asked == [(2, 256)]


@pytest.mark.parametrize(("reason", "word"), [(Reason.REPORT, "Report"), (Reason.DAMAGED, "No preview")])
async def test_where_there_is_no_picture_one_says_so(tmp_path: Path, stored: Stored, reason: Reason, word: str) -> None:
    await stored.receive(instance(1))
    async with inside(tmp_path, stored, previews=FakePreviews(NoPicture(reason))) as (_, browser):
        picture = await browser.get("/studies/1/picture/256")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert f">{word}<" in picture.text


async def test_the_answer_of_a_study_follows_it(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1))
    async with inside(tmp_path, stored) as (_, browser):
        assert "Safe to delete: not yet" in said(await browser.get("/studies/1"))
        await stored.settle(S.ACCEPTED)
        await verify(stored, [1])
        stored.clock.pass_time(QUIET)
        assert "Safe to delete: compare first" in said(await browser.get("/studies/1"))
