"""Pages and programs of the dashboard: what is shown to whom, and what an attack on a page achieves."""

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from starlette.responses import PlainTextResponse, Response

from edge.config import Dashboard, Device
from edge.findings import CODES
from edge.snapshot import ImportStatus, Problem, Snapshot
from edge.store import Choice, StoreError
from edge.web import app as application
from edge.web import glimpse as glimpses
from edge.web import screens
from edge.web.guards import POLICY
from edge.web.page import Endpoint, Page, get, post
from edge.web.pages import now
from edge.web.public import general, public_snapshot
from edge.web.visit import Visit
from tests.fakes import ManualClock
from tests.snapshots import destination, finding, snapshot
from tests.web import Acted, Served, log_in, token_in

SCRIPT = "<script>alert('x')</script>"
PATIENT = "GARCIA^ANA"


def telling() -> Snapshot:
    """A snapshot in which a patient's name stands wherever a peer, a file or a medium has a say."""
    down = destination("pacs", problem="REFUSED", queued=41)
    said = msgspec.structs.replace(down, problem=Problem(code="REFUSED", text=f"it said {PATIENT}"))
    medium = ImportStatus(
        name=PATIENT, media=True, over=False, files=10, files_done=4, bytes=0, bytes_done=0, refused=0
    )
    found = finding("IMPORT_INCOMPLETE", f"import.{PATIENT}")
    return msgspec.structs.replace(
        snapshot(destinations=[said], findings=[msgspec.structs.replace(found, text=PATIENT, advice=PATIENT)]),
        imports=[medium],
    )


# what everybody sees


async def test_the_first_page_shows_light_counts_and_destinations_to_everybody(tmp_path: Path) -> None:
    async with Served(tmp_path, telling()) as served:
        page = await served.client().get("/")
    assert page.status_code == 200
    assert "Ready." in page.text
    assert "G1" in page.text
    assert "pacs" in page.text
    assert re.search(r"Waiting</dt><dd class=\"number\">41<", page.text)


@pytest.mark.parametrize("path", ["/", "/api/status", "/metrics", "/healthz"])
async def test_nothing_that_a_peer_said_is_shown_without_a_login(tmp_path: Path, path: str) -> None:
    async with Served(tmp_path, telling()) as served:
        answer = await served.client().get(path)
    assert answer.status_code == 200
    assert PATIENT not in html.unescape(answer.text)


@pytest.mark.parametrize("path", ["/", "/api/status"])
async def test_everything_is_shown_after_a_login(tmp_path: Path, path: str) -> None:
    async with Served(tmp_path, telling()) as served:
        browser = served.client()
        await log_in(browser)
        answer = await browser.get(path)
    assert html.unescape(answer.text).count(PATIENT) >= 3


def test_a_public_snapshot_has_no_word_of_a_peer() -> None:
    told = public_snapshot(telling())
    assert PATIENT not in msgspec.json.encode(told).decode()
    assert told.destinations[0].queued == 41


@pytest.mark.parametrize("code", CODES)
def test_every_finding_can_be_said_without_its_detail(code: str) -> None:
    said = general(code)
    assert "{" not in said
    assert len(said) > 15
    assert said.endswith(".")


async def test_the_status_is_the_snapshot(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        answer = await served.client().get("/api/status")
    assert answer.headers["content-type"] == "application/json"
    assert msgspec.json.decode(answer.content, type=Snapshot) == public_snapshot(snapshot(destinations=["pacs"]))


@pytest.mark.parametrize(("is_open", "status"), [(True, 200), (False, 503)])
async def test_health_says_whether_images_are_accepted(tmp_path: Path, is_open: bool, status: int) -> None:  # noqa: FBT001
    async with Served(tmp_path, snapshot(intake_open=is_open)) as served:
        answer = await served.client().get("/healthz")
    assert answer.status_code == status
    assert answer.json() == {"serving": is_open, "light": "G1"}


async def test_a_database_that_does_not_answer_is_no_health_and_a_clear_page(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        served.shown = None
        browser = served.client()
        health, page, numbers = [await browser.get(path) for path in ("/healthz", "/", "/metrics")]
    assert (health.status_code, health.json()) == (503, {"serving": False, "light": None})
    assert (page.status_code, numbers.status_code) == (503, 503)
    assert "The box does not know this now" in page.text


async def test_metrics_are_numbers_of_the_snapshot(tmp_path: Path) -> None:
    shown = snapshot(destinations=[destination("pacs", queued=5)], findings=[finding("LOST", "storage", "error")])
    async with Served(tmp_path, shown) as served:
        lines = (await served.client().get("/metrics")).text.splitlines()
    assert "edge_received_instances_total 40.0" in lines
    assert "edge_queue_instances 3.0" in lines
    assert 'edge_deliveries{destination="pacs",state="queued"} 5.0' in lines
    assert 'edge_destination_up{destination="pacs"} 1.0' in lines
    assert 'edge_findings{severity="error"} 1.0' in lines
    assert 'edge_light_info{code="G1"} 1.0' in lines


async def test_metrics_have_no_more_destinations_than_a_bound(tmp_path: Path) -> None:
    shown = snapshot(destinations=[f"d{number}" for number in range(200)])
    async with Served(tmp_path, shown) as served:
        text = (await served.client().get("/metrics")).text
    assert text.count("edge_destination_up{") == 64


async def test_a_second_of_questions_takes_one_snapshot(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        for path in ("/", "/api/status", "/metrics", "/healthz", "/"):
            await browser.get(path)
        assert served.taken == 1
        served.clock.pass_time(1)
        await browser.get("/")
        assert served.taken == 2


async def test_a_page_of_the_appliance_sets_no_cookie_before_there_is_a_form(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        assert "set-cookie" not in (await served.client().get("/")).headers


# what is behind the login


async def test_studies_are_behind_the_login(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        assert (await browser.get("/api/studies")).status_code == 401
        await log_in(browser)
        answer = await browser.get("/api/studies?name=garcia&before=7")
        assert (await browser.get("/api/studies?before=x")).status_code == 400
    assert answer.json() == {"studies": []}
    assert (served.asked[0].patient_name, served.asked[0].before) == ("garcia", 7)


async def _look(visit: Visit) -> Response:
    return PlainTextResponse(f"secret of {visit.query('name')}")


async def _decide(visit: Visit) -> Response:
    await visit.act("hold", Choice(destination=visit.form["destination"]), reason="because")
    return visit.redirect("/")


async def _break(visit: Visit) -> Response:
    raise RuntimeError(f"{visit.address} is a secret of the inside")


CLOSED = Page(
    name="closed",
    endpoints=(get("/closed", _look), post("/closed", _decide), get("/broken", _break, login=False)),
)


@pytest.fixture
def _closed_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "PAGES", (*application.PAGES, CLOSED))


@pytest.mark.usefixtures("_closed_page")
async def test_a_page_is_closed_unless_it_says_otherwise_and_the_login_leads_back_to_it(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        sent_away = await browser.get("/closed?name=ana")
        assert (sent_away.status_code, sent_away.headers["location"]) == (303, "/login?next=/closed%3Fname%3Dana")
        form = await browser.get(sent_away.headers["location"])
        target = re.search(r'name="next" value="([^"]*)"', form.text)
        assert target is not None
        back = await log_in(browser, target=html.unescape(target[1]))
        assert back.headers["location"] == "/closed?name=ana"
        assert (await browser.get(back.headers["location"])).text == "secret of ana"


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", "//[", "/\t/evil.example", ""],
)
async def test_a_login_leads_to_no_other_site(tmp_path: Path, target: str) -> None:
    async with Served(tmp_path) as served:
        answer = await log_in(served.client(), target=target)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.usefixtures("_closed_page")
async def test_a_change_names_the_dashboard(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        await log_in(browser)
        token = token_in((await browser.get("/")).text)
        answer = await browser.post("/closed", data={"token": token, "destination": "pacs"})
    assert answer.status_code == 303
    assert served.fake_control.acted == [Acted("hold", Choice(destination="pacs"), "dashboard", "because")]


@pytest.mark.usefixtures("_closed_page")
async def test_a_change_without_the_token_of_the_session_is_none(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser, other = served.client(), served.client()
        await log_in(browser)
        await log_in(other)
        others = token_in((await other.get("/")).text)
        for fields in ({}, {"token": ""}, {"token": "x"}, {"token": others}):
            answer = await browser.post("/closed", data={"destination": "pacs", **fields})
            assert answer.status_code == 403
            assert "Nothing was changed" in answer.text
        stranger = await served.client().post("/closed", data={"destination": "pacs", "token": others})
        assert stranger.status_code == 403
    assert served.fake_control.acted == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: "-".join(headers.values()),
)
@pytest.mark.usefixtures("_closed_page")
async def test_a_forged_origin_changes_nothing_even_with_the_token(tmp_path: Path, headers: dict[str, str]) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        await log_in(browser)
        token = token_in((await browser.get("/")).text)
        answer = await browser.post("/closed", data={"token": token, "destination": "pacs"}, headers=headers)
    assert answer.status_code == 403
    assert served.fake_control.acted == []


@pytest.mark.usefixtures("_closed_page")
async def test_what_fails_inside_is_said_without_its_inside(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        answer = await served.client().get("/broken")
    assert answer.status_code == 500
    assert "This went wrong inside the box" in answer.text
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_get_changes_nothing_and_other_methods_are_refused(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        await log_in(browser)
        assert (await browser.get("/logout")).status_code == 405
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
            assert (await browser.request(method, "/")).status_code == 405
        assert len(served.site.sessions) == 1


# attacks


async def test_a_script_in_a_name_stays_text(tmp_path: Path) -> None:
    device = Device(name=SCRIPT[:60], site=SCRIPT)
    shown = snapshot(
        destinations=[
            msgspec.structs.replace(destination(SCRIPT), problem=Problem(code="X", text=SCRIPT), state="down")
        ],
        findings=[msgspec.structs.replace(finding("LOST", SCRIPT, "error"), text=SCRIPT, advice=SCRIPT)],
    )
    async with Served(tmp_path, shown, device=device) as served:
        browser = served.client()
        await log_in(browser)
        page = (await browser.get(f"/?x={SCRIPT}")).text
        pages = [page, (await browser.get(f"/login?next=/{SCRIPT}")).text, (await browser.get(f"/{SCRIPT}")).text]
    for text in pages:
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text


@pytest.mark.parametrize("path", ["/", "/login", "/nowhere", "/static/base.css", "/healthz", "/api/studies"])
async def test_every_answer_has_the_headers_that_browsers_are_to_obey(tmp_path: Path, path: str) -> None:
    async with Served(tmp_path) as served:
        answer = await served.client().get(path)
    headers = answer.headers
    assert headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")
    assert "server" not in headers


async def test_no_page_has_anything_inline(tmp_path: Path) -> None:
    async with Served(tmp_path, telling()) as served:
        browser = served.client()
        pages = [(await browser.get(path)).text for path in ("/", "/?wall=1", "/login", "/nowhere")]
    for page in pages:
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
        assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "10.99.99.99",
        "",
        "[::1",
        "a b",
        "localhost/evil",
        "localhost?evil",
        "evil@localhost",
        "localhost:99999",
        "localhost:a",
    ],
)
async def test_a_foreign_host_is_refused(tmp_path: Path, host: str) -> None:
    async with Served(tmp_path) as served:
        answer = await served.client().get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "CT room" not in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:99", "localhost.", "127.0.0.1:8080", "edge.clinic.example.org", "[::1]:8080"]
)
async def test_a_name_of_the_box_is_taken(tmp_path: Path, host: str) -> None:
    dashboard = Dashboard(port=0, hosts=("edge.clinic.example.org",))
    async with Served(tmp_path, dashboard=dashboard) as served:
        answer = await served.client().get("/", headers={"Host": host})
    assert answer.status_code == 200


async def test_two_hosts_are_none(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        status = await reader.readline()
        writer.close()
    assert status.split()[1] in {b"400", b"421"}


async def test_an_oversized_form_is_turned_away(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        said = await browser.post("/login", data={"password": "x" * 17_000})

        async def dripped() -> AsyncIterator[bytes]:  # its length is not said before
            for _ in range(40):
                yield b"a=" + b"x" * 1000 + b"&"

        unsaid = await browser.post(
            "/login", content=dripped(), headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
    for answer in (said, unsaid):
        assert answer.status_code == 413
        assert "Nothing was changed" in answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"a=1", "text/plain", 415),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 200, "application/x-www-form-urlencoded", 400),
        (b"", "application/x-www-form-urlencoded", 403),
    ],
)
async def test_what_is_no_form_is_turned_away(tmp_path: Path, content: bytes, kind: str, status: int) -> None:
    async with Served(tmp_path) as served:
        answer = await served.client().post("/login", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status


async def test_a_long_address_and_long_headers_are_refused(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        assert (await served.client().get("/?" + "x" * 3000)).status_code == 414
        assert (await served.client().get("/", headers={"X": "y" * 20_000})).status_code == 431


# languages, looks, files


@pytest.mark.parametrize(
    ("headers", "language"),
    [({}, "en"), ({"Accept-Language": "fr;q=0.9, en-GB;q=0.8"}, "en"), ({"Accept-Language": ";;,q=,-"}, "en")],
)
async def test_a_page_names_its_language(tmp_path: Path, headers: dict[str, str], language: str) -> None:
    async with Served(tmp_path) as served:
        page = await served.client().get("/", headers=headers)
    assert f'<html lang="{language}"' in page.text


async def test_a_theme_is_kept(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        assert 'data-theme="auto"' in (await browser.get("/?theme=pink")).text
        assert 'data-theme="dark"' in (await browser.get("/?theme=dark")).text
        assert 'data-theme="dark"' in (await browser.get("/")).text


async def test_the_wall_is_the_same_page_in_large(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        page = (await served.client().get("/?wall=1")).text
    assert 'class="wall"' in page
    assert "theme=dark&amp;" in page or "wall=1&amp;theme=dark" in page


async def test_static_files_are_kept_for_ever_under_their_digest_only(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        page = (await browser.get("/")).text
        found = re.findall(r'(?:src|href)="(/static/[^"#]+)', page)
        assert len(set(found)) >= 5
        for path in found:
            answer = await browser.get(path)
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            other = await browser.get(path.partition("?")[0] + "?000000000000")
            assert other.headers["cache-control"] == "no-cache"
        for path in ("/static/..%2fapp.py", "/static/nothing.js", "/static/", "/static/../app.py"):
            assert (await browser.get(path)).status_code == 404


async def test_the_first_page_with_all_that_belongs_to_it_is_small(tmp_path: Path) -> None:
    shown = snapshot(
        destinations=[destination(f"destination-{n}", problem="REFUSED", queued=n) for n in range(8)],
        findings=[finding(code, "storage") for code in list(CODES)[:20]],
    )
    async with Served(tmp_path, shown) as served:
        browser = served.client()
        page = await browser.get("/")
        parts = set(re.findall(r'(?:src|href)="(/static/[^"#]+)', page.text))
        total = len(page.content) + sum([len((await browser.get(path)).content) for path in parts])
    assert total < 100_000


# what stays current


async def read_events(stream: httpx.Response, most: int) -> list[tuple[str, str]]:
    """The first events of a stream: name and data."""
    found, name = [], ""
    async for line in stream.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data:"):
            found.append((name, line.removeprefix("data:").strip()))
            if len(found) == most:
                break
    return found


async def test_a_stream_brings_what_is_on_the_page_and_then_what_changes(tmp_path: Path) -> None:
    async with (
        Served(tmp_path) as served,
        served.client().stream("GET", "/events?page=now") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        first = await read_events(stream, len(now.PAGE.fragments) + 1)
        assert [name for name, _ in first] == ["fragment"] * len(now.PAGE.fragments) + ["beat"]
        assert {json.loads(data)["id"] for name, data in first if name == "fragment"} == {
            f"f-{fragment.name}" for fragment in now.PAGE.fragments
        }


async def test_a_stream_sends_only_the_fragment_that_changed(tmp_path: Path) -> None:
    async with Served(tmp_path) as served, served.client().stream("GET", "/events") as stream:
        lines = stream.aiter_lines()

        async def event() -> tuple[str, str]:
            name = ""
            async for line in lines:
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data:"):
                    return name, line.removeprefix("data:").strip()
            raise AssertionError("the stream ended")

        while (await event())[0] != "beat":
            pass
        served.shown = snapshot(destinations=[destination("pacs", queued=41)])
        served.clock.pass_time(1)
        name, data = await event()
        assert name == "fragment"
        changed = json.loads(data)
        assert changed["id"] == "f-now-places"
        assert ">41<" in changed["html"]
        assert (await event())[0] == "beat"


async def test_a_stream_of_a_box_that_does_not_know_how_it_is_has_no_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "EVERY", 0.01)
    async with Served(tmp_path) as served, served.client().stream("GET", "/events") as stream:
        lines = stream.aiter_lines()
        async for line in lines:
            if line == "event: beat":
                break
        served.shown = None
        before = served.taken
        async with asyncio.timeout(10):
            while served.taken < before + 5:
                served.clock.pass_time(2 * screens.BEAT)
                await asyncio.sleep(0.01)
        served.shown = snapshot(destinations=["other"])
        served.clock.pass_time(1)
        event = ""
        async for line in lines:
            if line.startswith("event: "):
                event = line
                break
        assert event == "event: fragment"


# every address there is

OPEN_TO_ALL = {
    ("GET", "/"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/setup"),
    ("POST", "/setup"),
    ("GET", "/events"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/api/status"),
    ("GET", "/static/{name}"),
    ("GET", "/favicon.ico"),
}
EVERY = [endpoint for page in application.PAGES for endpoint in page.endpoints]


def filled(path: str) -> str:
    """A pattern with something in each place."""
    return re.sub(r"\{\w+:int\}", "1", path).replace("{name}", "base.css")


def test_no_address_is_open_to_all_but_those_that_are_meant() -> None:
    assert {(one.method, one.path) for one in EVERY if not one.login} == OPEN_TO_ALL


@pytest.mark.parametrize("endpoint", [one for one in EVERY if one.login], ids=lambda one: f"{one.method} {one.path}")
async def test_who_is_not_logged_in_is_sent_away_from_each_of_the_others(tmp_path: Path, endpoint: Endpoint) -> None:
    async with Served(tmp_path) as served:
        answer = await served.client().request(endpoint.method, filled(endpoint.path))
    assert answer.status_code in ({303, 401} if endpoint.method == "GET" else {403})
    assert answer.headers.get("location", "/login").startswith("/login")
    assert (served.asked, served.fake_control.acted) == ([], [])


@pytest.mark.parametrize("endpoint", [one for one in EVERY if one.method == "POST"], ids=lambda one: one.path)
async def test_nothing_is_changed_at_any_address_without_the_token_from_elsewhere_or_by_a_link(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    path = filled(endpoint.path)
    async with Served(tmp_path) as served:
        browser = served.client()
        await log_in(browser)
        token = token_in((await browser.get("/")).text)
        bare = await browser.post(path, data={"token": "x", "destination": "pacs", "what": "verb=stat"})
        forged = await browser.post(path, data={"token": token}, headers={"Origin": "https://evil.example"})
        plain = await browser.post(path, content=token, headers={"Content-Type": "text/plain"})
        by_link = await browser.get(path)
        still_in = await browser.get("/api/studies")
    assert [bare.status_code, forged.status_code, plain.status_code] == [403, 403, 415]
    assert "Nothing was changed" in bare.text
    assert by_link.status_code in {200, 303, 405}
    assert still_in.status_code == 200
    assert served.fake_control.acted == []


async def test_a_database_that_hangs_is_waited_for_once_and_not_by_each_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(glimpses, "_PATIENCE", 0.05)
    clock, taken = ManualClock(), 0

    async def hang() -> Snapshot:
        nonlocal taken
        taken += 1
        await asyncio.Event().wait()
        raise AssertionError

    glimpse = glimpses.Glimpse(hang, clock)
    found = await asyncio.gather(*(glimpse.now(inside=False) for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in found} == {StoreError}
    assert taken == 1
    clock.pass_time(1)
    with pytest.raises(StoreError):
        await glimpse.now(inside=True)
    assert taken == 2
