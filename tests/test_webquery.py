"""Proof by QIDO-RS against a server that does as it is told, and the probe of `edge echo`."""

import json
from collections.abc import Callable, Iterator, Sequence

import pytest

from edge.clock import SystemClock
from edge.config import DicomwebDestination, Timeouts
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.probe import probe
from edge.forward.query import Seen
from edge.forward.web import Web
from edge.forward.webquery import WebQuery
from edge.store import Provable
from tests.peers.dicomweb import ROOT, Instance, Reply, Request, WebPacs, hang_up, saying


@pytest.fixture
def pacs() -> Iterator[WebPacs]:
    with WebPacs() as server:
        yield server


def destination(pacs: WebPacs) -> DicomwebDestination:
    return DicomwebDestination(name="cloud", url=pacs.url, timeouts=Timeouts(connect=2.0, response=2.0))


@pytest.fixture
async def query(pacs: WebPacs) -> WebQuery:
    return WebQuery(Web(destination(pacs), None, SystemClock()))


def item(number: int, series: str = "1.2.1", study: str = "1.2") -> Provable:
    return Provable(
        instance=number,
        delivery=number,
        sop_class_uid="1.2.840",
        sop_instance_uid=f"1.9.{number}",
        study_uid=study,
        series_uid=series,
        tries=0,
        unheard=0,
        missing=0,
    )


def keep(pacs: WebPacs, items: Sequence[Provable]) -> None:
    for i in items:
        pacs.stored[i.sop_instance_uid] = Instance(
            i.sop_class_uid, i.sop_instance_uid, i.study_uid, i.series_uid, b"", b""
        )


def found(seen: object) -> dict[int, bool]:
    assert isinstance(seen, Seen)
    return {verdict.instance: verdict.found for verdict in seen.verdicts}


async def test_each_series_is_asked_for_and_uids_are_compared(pacs: WebPacs, query: WebQuery) -> None:
    items = [item(1), item(2), item(3, "1.2.2")]
    keep(pacs, [items[0], items[2], item(4)])
    assert found(await query.look(items)) == {1: True, 2: False, 3: True}
    assert {each.path for each in pacs.asked} == {
        f"{ROOT}/studies/1.2/series/1.2.1/instances",
        f"{ROOT}/studies/1.2/series/1.2.2/instances",
    }


@pytest.mark.parametrize("page", [None, 7])
async def test_pages_are_read_until_all_is_found_or_there_are_no_more(
    pacs: WebPacs, query: WebQuery, page: int | None
) -> None:
    items = [item(number) for number in range(450)]
    keep(pacs, items[:-1])
    pacs.page = page
    seen = found(await query.look(items[400:]))
    assert [number for number, there in seen.items() if not there] == [449]
    asked = len(pacs.asked)
    assert found(await query.look(items[:5])) == dict.fromkeys(range(5), True)
    assert len(pacs.asked) == asked + 1


async def test_a_server_without_pages_is_asked_twice_at_the_most(pacs: WebPacs, query: WebQuery) -> None:
    keep(pacs, [item(1)])
    rows = json.dumps([{"00080018": {"vr": "UI", "Value": ["1.9.1"]}}]).encode()
    pacs.queries = lambda _: Reply(200, rows)
    assert found(await query.look([item(1), item(2)])) == {1: True, 2: False}
    assert len(pacs.asked) == 2


async def test_what_was_named_is_there_although_no_page_follows(pacs: WebPacs, query: WebQuery) -> None:
    keep(pacs, [item(1)])
    truth = pacs._find
    pacs.queries = lambda request: Reply(404) if int(request.query.get("offset", 0)) else truth(request)
    assert found(await query.look([item(1), item(2)])) == {1: True, 2: False}


async def test_a_query_without_end_is_declined(pacs: WebPacs, query: WebQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.forward.webquery.MOST_ANSWERS", 20)

    def more(request: Request) -> Reply:
        first = int(request.query["offset"])
        rows = [{"00080018": {"Value": [f"1.7.{number}"]}} for number in range(first, first + 5)]
        return Reply(200, json.dumps(rows).encode())

    pacs.queries = more
    assert isinstance(await query.look([item(1)]), Declined)
    assert len(pacs.asked) == 4


async def test_what_names_no_series_cannot_be_looked_for(pacs: WebPacs, query: WebQuery) -> None:
    keep(pacs, [item(1)])
    seen = await query.look([item(1), item(2, series=""), item(3, study="../../admin")])
    assert isinstance(seen, Seen)
    assert [(v.instance, v.found, v.askable) for v in seen.verdicts] == [
        (2, False, False),
        (3, False, False),
        (1, True, True),
    ]
    assert isinstance(await query.look([item(2, series="")]), Seen)
    assert len(pacs.asked) == 1


async def test_no_such_series_is_told_from_no_such_service(pacs: WebPacs, query: WebQuery) -> None:
    pacs.queries = lambda request: Reply(404) if "series" in request.path else Reply(204)
    assert found(await query.look([item(1)])) == {1: False}
    pacs.queries = saying(404)
    assert isinstance(await query.look([item(1)]), Unsupported)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (saying(501), Unsupported),
        (saying(405), Unsupported),
        (saying(400), Declined),
        (saying(406), Declined),
        (saying(413), Declined),
        (saying(401), Unreachable),
        (saying(403), Unreachable),
        (saying(429, Retry_After="5"), Unreachable),
        (saying(503), Unreachable),
        (saying(500), Unreachable),
        (saying(200, b"<html>", "text/html"), Unreachable),
        (saying(200, b"[{", "application/dicom+json"), Unreachable),
        (saying(200, b"{}", "application/dicom+json"), Unreachable),
        (hang_up, Unreachable),
    ],
)
async def test_a_query_that_fails_says_nothing_of_what_was_looked_for(
    pacs: WebPacs, query: WebQuery, script: Callable[[Request], Reply], kind: type
) -> None:
    keep(pacs, [item(1)])
    pacs.queries = script
    assert isinstance(await query.look([item(1)]), kind)


async def test_of_a_series_that_fails_the_others_are_told(pacs: WebPacs, query: WebQuery) -> None:
    keep(pacs, [item(1), item(2, "1.2.2")])
    truth = pacs._find
    pacs.queries = lambda request: Reply(400) if "1.2.1" in request.path else truth(request)
    seen = await query.look([item(1), item(2, "1.2.2")])
    assert found(seen) == {2: True}
    assert isinstance(seen, Seen)
    assert [left.instance for left in seen.left] == [1]
    assert seen.why == "it answered 400 to a query"


async def test_a_probe_asks_for_one_study(pacs: WebPacs) -> None:
    said = await probe(destination(pacs), trusted=True)
    assert said.problem == ""
    (asked,) = pacs.asked
    assert (asked.path, asked.query) == (f"{ROOT}/studies", {"limit": "1"})
    keep(pacs, [item(1)])
    assert (await probe(destination(pacs), trusted=True)).code == ""


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (saying(404), "NO_SERVICE"),
        (saying(401), "LOGIN_REFUSED"),
        (saying(200, b"<html>", "text/html"), "NOT_DICOMWEB"),
    ],
)
async def test_a_probe_says_what_is_wrong(pacs: WebPacs, script: Callable[[Request], Reply], code: str) -> None:
    pacs.queries = script
    said = await probe(destination(pacs), trusted=True)
    assert said.code == code
    assert said.problem
    pacs.stop()
    assert (await probe(destination(pacs), trusted=True)).code == "REFUSED_CONNECTION"
    nowhere = DicomwebDestination(name="cloud", url="http://no-such-host.invalid/x")
    assert (await probe(nowhere, trusted=True)).code == "NO_ADDRESS"
