"""Connections: who is shown how, what a test of a way tells, and what keeps tests few and short."""

import asyncio
import html
import re
import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from edge.board import Board
from edge.config import ClientTls, FolderDestination, Mqtt
from edge.dicom.pdu import AssociateRequest, ProposedContext, UserInformation
from edge.doctor import Result, Step
from edge.findings import Journal
from edge.intake.admission import Admission
from edge.intake.policy import ReceivePolicy
from edge.status.collect import modality_status
from edge.store import Choice, Reading
from edge.web import trials
from edge.web.connections_senders import entry, senders, strangers
from edge.web.connections_trials import course, news
from edge.web.page import Glance
from edge.web.trials import Trial, Trials
from tests.connecting import CT, EXPLICIT, Answers, afternoon, cloud, configured, pacs, sender, served
from tests.fakes import ManualClock
from tests.peers.dcmtk import Storescp
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.snapshots import finding, snapshot
from tests.test_web_words import ENGLISH, glance
from tests.web import Acted, Served, log_in, post, token_in

REJECTING = ("--refuse",)


async def page(browser: httpx.AsyncClient) -> str:
    """The page as a person reads it: without tags, on one line."""
    answer = await browser.get("/connections")
    assert answer.status_code == 200
    return readable(answer.text)


def readable(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


async def ended(box: Served, target: str) -> Trial:
    """The test of ``target``, once it is over."""

    def over() -> Trial | None:
        trial = box.box.trials.of(target)
        return None if trial is None or trial.ended is None else trial

    trial = await asyncio.to_thread(wait_for, over, 20, "the test ends")
    assert trial is not None
    return trial


async def try_out(box: Served, browser: httpx.AsyncClient, target: str) -> Trial:
    answer = await post(browser, "/connections/test", "/connections", target=target)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/connections?at={target}#{target}")
    return await ended(box, target)


@asynccontextmanager
async def inside(box: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with box:
        browser = box.client()
        await log_in(browser)
        yield browser


# who may see it


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/connections", 303),
        ("GET", "/connections/takes?destination=pacs", 303),
        ("GET", "/api/connections", 401),
        ("POST", "/connections/test", 403),
        ("POST", "/connections/send", 403),
        ("POST", "/connections/pause", 403),
        ("POST", "/connections/resume", 403),
    ],
)
async def test_nothing_of_it_is_open_without_a_login(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with served(tmp_path, pacs(1)) as box:
        browser = box.client()
        # a token that this visitor was given, so that nothing but the login is in the way
        form = {"token": token_in((await browser.get("/login")).text), "target": "destination.pacs"}
        data = form if method == "POST" else None
        answer = await browser.request(method, path, data=data, headers={"Origin": box.url})
        assert answer.status_code == status
        assert "XA9" not in answer.text
        assert box.box.trials.all == {}
    assert box.fake_control.acted == []


@pytest.mark.parametrize("path", ["/api/status", "/metrics", "/healthz", "/"])
async def test_who_sends_is_told_to_nobody_without_a_login(tmp_path: Path, path: str) -> None:
    shown = afternoon()
    numbered = [msgspec.structs.replace(one, address=f"10.9.8.{n}") for n, one in enumerate(shown.modalities)]
    async with served(tmp_path, pacs(1), shown=msgspec.structs.replace(shown, modalities=numbered)) as box:
        answer = await box.client().get(path)
    assert answer.status_code == 200
    for secret in ("10.9.8.", "XA9", "US2", "CT1", "by another name"):
        assert secret not in answer.text


async def test_the_status_without_a_login_has_no_modalities(tmp_path: Path) -> None:
    async with served(tmp_path, pacs(1)) as box:
        open_to_all = (await box.client().get("/api/status")).json()
        browser = box.client()
        await log_in(browser)
        whole = (await browser.get("/api/status")).json()
    assert open_to_all["modalities"] == []
    assert [one["ae_title"] for one in whole["modalities"]] == ["CT1", "US2", "MR1", "CT1", "XA9"]


async def test_metrics_have_no_label_that_a_stranger_chooses(tmp_path: Path) -> None:
    callers = [sender(f"T{n}", f"10.0.{n}.1", refused=1, refused_because="it says so") for n in range(64)]
    shown = msgspec.structs.replace(afternoon(), modalities=callers)
    async with served(tmp_path, pacs(1), shown=shown) as box:
        many = (await box.client().get("/metrics")).text
        box.shown = msgspec.structs.replace(shown, modalities=[])
        box.clock.pass_time(1)
        none = (await box.client().get("/metrics")).text
    assert many == none
    labels = {name for inner in re.findall(r"\{(.*)\}", many) for name in re.findall(r'(\w+)="', inner)}
    assert labels == {"id", "version", "code", "severity", "destination", "state"}


# who sends


async def test_modalities_say_how_they_are_and_what_to_do(tmp_path: Path) -> None:
    async with inside(served(tmp_path, pacs(1))) as browser:
        told = await page(browser)
    assert re.search(r"CT 1 Heard AE title CT1 Address 192\.168\.10\.20 Last heard \S+ Last image \S+ US 2", told)
    assert "US 2 Never heard of AE title US2 Switch it on" in told
    assert "Refused 3 times since the start. Last reason: it calls this box by another name." in told
    assert "At the sender, write as the called AE title: EDGE, EDGE2." in told


def seen(glanced: Glance) -> Glance:
    """The glance, at a box with modalities."""
    box = Served(Path("/nowhere"), password="").box
    return msgspec.structs.replace(glanced, box=msgspec.structs.replace(box, config=configured(box.config)))


def look(*callers: Any, **more: Any) -> Glance:
    return seen(glance(msgspec.structs.replace(snapshot(**more), modalities=list(callers))))


def test_a_modality_that_went_silent_is_said_to_be() -> None:
    heard = sender("MR1", name="MR", last_heard_at="2026-11-20T12:00:00Z")
    (told,) = senders(look(heard, findings=[finding("MODALITY_SILENT", "modality.MR")]))
    assert (told.word, told.image) == ("Silent for long", "")


def test_a_stranger_is_made_known_by_what_the_page_says() -> None:
    (told,), more = strangers(
        look(sender('X"9 A', "10.0.0.7", refused=1, refused_because="it is not among the modalities"))
    )
    assert more == 0
    assert tomllib.loads(told.entry) == {"modality": [{"name": 'X"9 A', "ae_title": 'X"9 A', "address": "10.0.0.7"}]}


@pytest.mark.parametrize("title", ["", "A\\B", "ÑU", "  "])
def test_a_title_that_cannot_be_configured_gets_no_entry(title: str) -> None:
    for refused in (0, 1):
        (told,), _ = strangers(look(sender(title, "10.0.0.7", refused=refused)))
        assert told.entry == ""
        assert "have it corrected at the sender" in told.advice


def test_a_stranger_that_was_let_in_is_told_to_be_unknown() -> None:
    (told,), _ = strangers(look(sender("XA9", "10.0.0.7", last_heard_at="2026-11-22T12:00:00Z")))
    assert (told.word, told.refused) == ("Let in, though unknown", "")
    assert "takes images from anyone" in told.advice
    assert told.entry


def test_strangers_are_a_bounded_number_the_last_first() -> None:
    found, more = strangers(look(*(sender(f"T{n}", "10.0.0.7") for n in range(64))))
    assert [found[0].title, len(found), more] == ["T63", 16, 48]


class Full:
    """Takes nothing."""

    def refusal(self) -> str:
        return "full"


def test_reasons_of_the_listener_have_advice_of_their_own() -> None:
    board = Board(ManualClock())
    config = seen(glance(snapshot())).box.config
    policy = ReceivePolicy(config, cast("Admission", Full()), board, Journal(board.clock))
    for calling, called, address in (
        ("CT1", "WRONG", "192.168.10.20"),
        ("XA9", "EDGE", "10.0.0.1"),
        ("CT1", "EDGE", "10.0.0.1"),
        ("US2", "EDGE", "10.0.0.2"),
    ):
        contexts = (ProposedContext(1, CT, (EXPLICIT,)),)
        asked = AssociateRequest(called=called, calling=calling, contexts=contexts, user=UserInformation())
        assert policy.admit(asked, address) is not None
    shown = look(*map(modality_status, (*board.modalities.values(), *board.strangers.values())))
    known = {one.name: one for one in senders(shown)}
    assert "write as the called AE title: EDGE, EDGE2" in known["CT 1"].advice
    assert "Keep the images on the modality" in known["US 2"].advice
    assert known["MR"].word == "Never heard of"
    moved, unknown = strangers(shown)[0]
    assert "CT 1 has this AE title and is to call from 192.168.10.20" in moved.advice
    assert (moved.entry, unknown.entry) == ("", entry(sender("XA9", "10.0.0.1")))
    assert "IT makes it known" in unknown.advice


# where images go


async def test_a_destination_tells_what_is_wrong_what_to_do_and_whom_to_call(tmp_path: Path) -> None:
    secure = pacs(11112, tls=ClientTls(), verify="commitment", host="pacs.example.org")
    async with inside(served(tmp_path, secure, cloud("http://cloud.example.org/web"))) as browser:
        told = await page(browser)
    assert "PACS at pacs.example.org port 11112, with TLS" in told
    assert "pacs.example.org refuses the connection on port 104. What to do Start the program" in told
    assert "Whom to call who runs the destination (code REFUSED_CONNECTION)" in told
    assert "It proves by storage commitment what it has stored." in told
    assert "Background images wait for the hours 20:00-06:00." in told
    assert "At most 1.0 MB/s, as configured." in told
    assert "Pace 1.0 MB/s, about 2 min left" in told
    assert "http://cloud.example.org/web" in told
    assert told.count("What it takes") == 1


async def test_a_destination_that_is_paused_and_down_can_be_resumed(tmp_path: Path) -> None:
    shown = afternoon()
    both = [msgspec.structs.replace(one, paused=one.name == "pacs") for one in shown.destinations]
    with Storescp(tmp_path / "received", nodelay=True) as peer:
        box = served(tmp_path, pacs(peer.port), shown=msgspec.structs.replace(shown, destinations=both))
        async with inside(box) as browser:
            before = await page(browser)
            await try_out(box, browser, "destination.pacs")
            after = await page(browser)
    assert "pacs Unreachable Paused" in before
    assert "Resume pacs" in before
    assert "Pause pacs" not in before
    assert "resume it, and images go there again" in after


async def test_what_a_test_found_is_news_for_a_while_only(tmp_path: Path) -> None:
    with Storescp(tmp_path / "received", nodelay=True) as peer:
        box = served(tmp_path, pacs(peer.port))
        async with inside(box) as browser:
            await try_out(box, browser, "destination.pacs")
            at_once = await page(browser)
            box.clock.pass_time(121)
            later = await page(browser)
    assert "It answers again." in at_once
    assert "It answers again." not in later
    assert "Test of pacs: All is well." in later


async def test_a_destination_that_is_not_configured_any_more_can_neither_be_tested_nor_sent_to(tmp_path: Path) -> None:
    async with inside(served(tmp_path, pacs(1))) as browser:
        told = await page(browser)
        assert "It is not in the configuration any more" in told
        for act in ("test", "send", "pause", "resume"):
            answer = await post(browser, f"/connections/{act}", "/connections", target="destination.cloud")
            assert answer.status_code == 404


@pytest.mark.parametrize("target", ["", "pacs", "destination.", "broker", "box.", "destination.pacs/../x"])
async def test_only_what_is_configured_can_be_tested(tmp_path: Path, target: str) -> None:
    box = served(tmp_path, pacs(1))
    async with inside(box) as browser:
        answer = await post(browser, "/connections/test", "/connections", target=target)
    assert answer.status_code == 404
    assert box.box.trials.all == {}


@pytest.mark.parametrize(("act", "verb"), [("pause", "pause"), ("resume", "resume"), ("send", "retry")])
async def test_what_is_decided_is_decided_by_the_dashboard_and_said(tmp_path: Path, act: str, verb: str) -> None:
    box = served(tmp_path, pacs(1))
    async with inside(box) as browser:
        answer = await post(browser, f"/connections/{act}", "/connections", target="destination.pacs")
        assert answer.headers["location"] == "/connections?at=destination.pacs#destination.pacs"
        told, again = await page(browser), await page(browser)
    assert box.fake_control.acted == [Acted(verb, Choice(destination="pacs"), "dashboard", "")]
    said = {
        "pause": "The destination is paused",
        "resume": "The destination goes on",
        "send": "1 image for pacs is tried",
    }
    assert said[act] in told
    assert said[act] not in again


async def test_no_change_is_made_by_looking_or_without_the_token(tmp_path: Path) -> None:
    box = served(tmp_path, pacs(1))
    async with inside(box) as browser:
        for act in ("test", "send", "pause", "resume"):
            assert (await browser.get(f"/connections/{act}")).status_code == 405
            forged = await browser.post(
                f"/connections/{act}", data={"token": "x", "target": "destination.pacs"}, headers={"Origin": box.url}
            )
            assert forged.status_code == 403
    assert box.fake_control.acted == []
    assert box.box.trials.all == {}


# tests


async def test_a_pacs_that_answers_passes_every_step(tmp_path: Path) -> None:
    with Storescp(tmp_path / "received", nodelay=True) as peer:
        box = served(tmp_path, pacs(peer.port))
        async with inside(box) as browser:
            trial = await try_out(box, browser, "destination.pacs")
            told = await page(browser)
            answer = (await browser.get("/api/connections")).json()
    assert {step.name: step.result for step in trial.steps}["echo"] is Result.OK
    assert (trial.state, trial.failed) == ("done", None)
    assert "Test of pacs: All is well." in told
    assert "C-ECHO it answers 0000" in told
    shown = answer["tests"]["destination.pacs"]
    assert (shown["state"], shown["steps"][-1]["name"]) == ("done", trial.steps[-1].name)
    assert [one["name"] for one in answer["destinations"]] == ["pacs", "cloud"]
    assert len(answer["modalities"]) == 5


async def test_a_pacs_that_is_down_fails_at_the_connection_with_advice(tmp_path: Path) -> None:
    box = served(tmp_path, pacs(free_port()))
    async with inside(box) as browser:
        trial = await try_out(box, browser, "destination.pacs")
        told = await page(browser)
    assert trial.failed is not None
    assert (trial.failed.name, trial.failed.code) == ("connection", "REFUSED_CONNECTION")
    assert "It failed at this step: connection." in told
    assert f"{trial.failed.text}" in told
    assert "Not tried because of that: association, C-ECHO, images." in told


async def test_a_pacs_that_does_not_know_us_has_advice_that_names_both_titles(tmp_path: Path) -> None:
    with Storescp(tmp_path / "received", nodelay=True, extra=REJECTING) as peer:
        box = served(tmp_path, pacs(peer.port))
        async with inside(box) as browser:
            trial = await try_out(box, browser, "destination.pacs")
            told = await page(browser)
    assert trial.failed is not None
    assert (trial.failed.name, trial.failed.code) == ("association", "ASSOCIATION_REJECTED")
    assert trial.failed.advice in told
    assert "It failed at this step: association." in told


async def test_the_box_and_the_broker_are_tested_as_well(tmp_path: Path) -> None:
    box = served(tmp_path, mqtt=Mqtt(url=f"mqtt://{LOOPBACK}:{free_port()}"))
    async with inside(box) as browser:
        own, broker = [await try_out(box, browser, target) for target in ("box", "broker")]
        told = await page(browser)
    results = {step.name: step.result for step in own.steps}
    assert results["storage"] is Result.OK
    assert results["modalities"] is Result.OK
    assert broker.failed is not None
    assert broker.failed.name == "connection"
    assert "Test of the broker: It failed at this step: connection." in told


async def test_a_folder_is_tested(tmp_path: Path) -> None:
    box = served(tmp_path, FolderDestination(name="pacs", path=tmp_path / "gone"))
    async with inside(box) as browser:
        trial = await try_out(box, browser, "destination.pacs")
    assert trial.failed is not None
    assert trial.failed.code == "FOLDER_MISSING"


# few and short


class Slow:
    """Steps that come when they are let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.closed = False

    async def steps(self) -> AsyncGenerator[Step]:
        try:
            yield Step(name="link", result=Result.OK, text="a cable is in")
            await self.go.wait()
            yield Step(name="name", result=Result.WARNING, text="it is slow", code="NO_ADDRESS")
        finally:
            self.closed = True


def begin(known: Trials, target: str, slow: Slow, tasks: list[asyncio.Task[None]]) -> str:
    return known.start(target, slow.steps, ManualClock(), lambda work, _: tasks.append(asyncio.ensure_future(work)))


async def test_a_target_has_one_test_at_a_time_and_all_have_few() -> None:
    known, slow = Trials(), Slow()
    tasks: list[asyncio.Task[None]] = []
    assert [begin(known, str(n), slow, tasks) for n in (0, 0, 1, 2, 3)] == [
        "started",
        "running",
        "started",
        "started",
        "full",
    ]
    slow.go.set()
    await asyncio.gather(*tasks)
    assert known.running == 0
    assert begin(known, "3", slow, tasks) == "started"
    await asyncio.gather(*tasks)
    trial = known.of("3")
    assert trial is not None
    assert (trial.state, len(trial.steps)) == ("done", 2)


async def test_steps_are_seen_while_the_test_goes_on() -> None:
    known, slow = Trials(), Slow()
    tasks: list[asyncio.Task[None]] = []
    begin(known, "box", slow, tasks)
    await asyncio.to_thread(wait_for, lambda: known.of("box") and known.all["box"].steps, 5, "a step")
    trial = known.all["box"]
    shown = course(trial, ENGLISH, 0.0)
    assert shown is not None
    assert (shown.running, [step.title for step in shown.steps]) == (True, ["network link"])
    assert news("pacs", trial, ENGLISH) == "pacs is being tested."
    slow.go.set()
    await asyncio.gather(*tasks)
    over = known.of("box")
    assert over is not None
    assert news("pacs", over, ENGLISH) == "Test of pacs: Nothing failed, but look at 1 step."


async def test_a_test_at_which_nobody_looks_ends_and_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "PATIENCE", 0.05)
    known, slow = Trials(), Slow()
    tasks: list[asyncio.Task[None]] = []
    begin(known, "box", slow, tasks)
    await asyncio.gather(*tasks)
    trial = known.of("box")
    assert trial is not None
    assert (trial.state, slow.closed) == ("left", True)
    assert "nobody looked" in news("pacs", trial, ENGLISH)
    known.look()


async def test_a_test_goes_on_while_somebody_looks_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "PATIENCE", 0.2)
    monkeypatch.setattr(trials, "LONGEST", 0.8)
    known, slow = Trials(), Slow()
    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    begin(known, "box", slow, tasks)
    while not tasks[0].done():
        known.look()
        await asyncio.sleep(0.01)
    trial = known.of("box")
    assert trial is not None
    assert (trial.state, slow.closed) == ("late", True)
    assert loop.time() - began >= 0.7


async def test_who_has_the_page_before_them_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = served(tmp_path, pacs(1))
    looked: list[bool] = []
    async with inside(box) as browser:
        monkeypatch.setattr(box.box.trials, "look", lambda: looked.append(True))
        await page(browser)
        assert looked
        looked.clear()
        async with browser.stream("GET", "/events?page=connections") as stream:
            async for line in stream.aiter_lines():
                if line == "event: fragment":
                    break
        assert looked


async def test_a_dashboard_that_stops_ends_its_tests(tmp_path: Path) -> None:
    box, slow = served(tmp_path, pacs(1)), Slow()
    tasks: list[asyncio.Task[None]] = []
    async with box:
        begin(box.box.trials, "destination.pacs", slow, tasks)
        await asyncio.to_thread(wait_for, lambda: box.box.trials.all["destination.pacs"].steps, 5, "a step")
    async with asyncio.timeout(5):
        await tasks[0]
    assert slow.closed
    assert box.box.trials.running == 0


async def test_a_fault_of_ours_ends_the_test_and_is_said() -> None:
    async def broken() -> AsyncGenerator[Step]:
        yield Step(name="link", result=Result.OK, text="a cable is in")
        raise ZeroDivisionError

    known = Trials()
    tasks: list[asyncio.Task[None]] = []
    known.start("box", broken, ManualClock(), lambda work, _: tasks.append(asyncio.ensure_future(work)))
    with pytest.raises(ZeroDivisionError):
        await tasks[0]
    trial = known.of("box")
    assert trial is not None
    assert (trial.state, known.running) == ("broken", 0)
    assert "send its log to IT" in news("pacs", trial, ENGLISH)


async def test_one_who_asks_again_or_too_much_is_told_so(tmp_path: Path) -> None:
    box = served(tmp_path, pacs(1))
    slow = Slow()
    async with inside(box) as browser:
        tasks: list[asyncio.Task[None]] = []
        begin(box.box.trials, "destination.pacs", slow, tasks)
        await post(browser, "/connections/test", "/connections", target="destination.pacs")
        assert "It is being tested already." in await page(browser)
        for n in range(2):
            begin(box.box.trials, f"other {n}", slow, tasks)
        await post(browser, "/connections/test", "/connections", target="box")
        assert "Other tests are still going on" in await page(browser)
        slow.go.set()
        await asyncio.gather(*tasks)


async def test_a_page_without_scripts_loads_itself_often_while_a_test_runs(tmp_path: Path) -> None:
    box, slow = served(tmp_path, pacs(1)), Slow()
    async with inside(box) as browser:
        before = (await browser.get("/connections")).text
        tasks: list[asyncio.Task[None]] = []
        begin(box.box.trials, "destination.pacs", slow, tasks)
        meanwhile = (await browser.get("/connections")).text
        slow.go.set()
        await asyncio.gather(*tasks)
    refresh = '<meta http-equiv="refresh" content="{}">'
    assert refresh.format(15) in before
    assert refresh.format(2) in meanwhile


async def test_a_page_without_scripts_comes_back_to_what_was_clicked(tmp_path: Path) -> None:
    async with inside(served(tmp_path, pacs(1))) as browser:
        first = (await browser.get("/connections?at=destination.pacs")).text
        then = (await browser.get("/connections?at=destination.pacs&turn=1")).text
        other = (await browser.get("/connections?at=https://elsewhere.example.org")).text
    # only the query makes it another address, which a browser loads
    assert 'content="15; url=/connections?at=destination.pacs&amp;turn=1#destination.pacs"' in first
    assert 'content="15; url=/connections?at=destination.pacs&amp;turn=2#destination.pacs"' in then
    assert 'http-equiv="refresh" content="15"' in other


# what it takes


async def test_what_a_pacs_takes_is_listed_by_kind(tmp_path: Path) -> None:
    box = served(tmp_path, pacs(1), cloud("http://cloud.example.org/web"), reading=cast("Reading", Answers()))
    async with inside(box) as browser:
        told = readable((await browser.get("/connections/takes?destination=pacs")).text)
        missing = [(await browser.get(f"/connections/takes?destination={name}")).status_code for name in ("cloud", "x")]
    assert re.search(
        r"CT Image Storage Explicit VR Little Endian JPEG Baseline \(Process 1\) \S+ Ultrasound Image Storage JPEG",
        told,
    ), told
    assert missing == [404, 404]


async def test_a_script_in_a_title_or_a_reason_stays_text(tmp_path: Path) -> None:
    attack = "<script>alert(1)"
    shown = msgspec.structs.replace(afternoon(), modalities=[sender(attack, attack, refused=1, refused_because=attack)])
    async with inside(served(tmp_path, pacs(1), shown=shown)) as browser:
        raw = (await browser.get("/connections")).text
    assert attack not in raw
    assert html.unescape(raw).count(attack) >= 4
