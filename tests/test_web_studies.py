# ruff: noqa: RUF001 - names in the scripts of the world
"""The list of studies: what is shown of whom, what is found, and what is said of deleting from the scanner."""

import asyncio
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.data import get_charset_files

from edge.safety import DestinationView, StudyView, safe_to_delete
from edge.states import DeliveryState
from edge.store import Choice, Reading, StudyFilter, read_studies
from edge.store.counting import Counted, count
from edge.web.language import Languages
from edge.web.studies_name import plain, writings
from edge.web.studies_safety import answer
from edge.web.studies_search import DateError, Look, Search, look, midnight, search
from tests.appliance import Edge, dimse
from tests.peers.part10 import part10
from tests.peers.ports import free_port
from tests.peers.sender import RawSender
from tests.stored import Stored, instance, leg
from tests.studying import QUIET, Studied, commit, verify
from tests.web import Served, log_in, post

S = DeliveryState
SCRIPT = "<script>alert('x')</script>"
ENGLISH = Languages("en").choose("en", "")
SPANISH = Languages("en").choose("es", "")


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path / "store") as opened:
        yield opened


@asynccontextmanager
async def inside(tmp_path: Path, stored: Stored) -> AsyncIterator[tuple[Studied, httpx.AsyncClient]]:
    """The pages, and a browser that is logged in."""
    async with Studied(tmp_path, stored) as served:
        browser = served.client()
        await log_in(browser)
        yield served, browser


def said(page: httpx.Response) -> str:
    """What stands on a page, as one line of words."""
    assert page.status_code == 200, page.text
    main = page.text.partition("<main")[2].partition("</main>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split())


async def found(browser: httpx.AsyncClient, **fields: str) -> list[str]:
    """The patients that a search finds, in order."""
    answered = await post(browser, "/studies/search", "/studies", **fields)
    assert answered.status_code == 303
    page = await browser.get(answered.headers["location"])
    return re.findall(r'class="name name-letters">([^<]*)<', page.text)


# who sees it


@pytest.mark.parametrize("path", ["/studies", "/studies/1", "/studies/1/receipt", "/studies/1/picture/256"])
async def test_nobody_sees_a_study_without_a_login(tmp_path: Path, stored: Stored, path: str) -> None:
    await stored.receive(instance(1, patient_name="SECRET^ANA"))
    async with Studied(tmp_path, stored) as served:
        page = await served.client().get(path)
        listened = await served.client().get("/events?page=studies")
        asked = await served.client().get("/api/studies/1")
    assert page.status_code == 303
    assert page.headers["location"].startswith("/login")
    assert listened.status_code == 403
    assert asked.status_code == 401
    assert "SECRET" not in page.text + listened.text + asked.text


@pytest.mark.parametrize("path", ["/studies/search", "/studies/1/act"])
async def test_nobody_sends_a_form_without_a_login(tmp_path: Path, stored: Stored, path: str) -> None:
    await stored.receive(instance(1))
    async with Studied(tmp_path, stored) as served:
        answered = await post(served.client(), path, "/login", words="x", what="verb=hold&state=queued")
    assert answered.status_code == 403
    assert await stored.states() == {1: "queued"}


async def test_no_browser_keeps_a_page_with_patients(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1))
    async with inside(tmp_path, stored) as (_, browser):
        for path in ("/studies", "/studies/1", "/studies/1/receipt", "/api/studies/1", "/api/studies/1/receipt"):
            page = await browser.get(path)
            assert page.status_code == 200
            assert page.headers["cache-control"] == "no-store"


async def test_what_was_searched_for_is_in_no_address(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1, patient_name="Garcia^Ana", patient_id="P1"))
    async with inside(tmp_path, stored) as (_, browser):
        answered = await post(browser, "/studies/search", "/studies", words="garcia P1")
        page = await browser.get(answered.headers["location"])
    addresses = re.findall(r'(?:href|action|src|data-about|data-picture)="([^"]*)"', page.text)
    assert "Garcia, Ana" in page.text
    assert addresses
    assert not [one for one in [*addresses, answered.headers["location"]] if re.search("(?i)garcia|ana|P1", one)]


async def test_a_script_in_a_name_is_text(tmp_path: Path, stored: Stored) -> None:
    header: dict[str, Any] = dict.fromkeys(
        ("patient_name", "patient_id", "accession", "study_description", "study_date"), SCRIPT
    )
    await stored.receive(instance(1, **header, modality=SCRIPT))
    async with inside(tmp_path, stored) as (_, browser):
        answered = await post(browser, "/studies/search", "/studies", words=SCRIPT[:40])
        for path in ("/studies", "/studies/1", "/studies/1/receipt", answered.headers["location"]):
            page = await browser.get(path)
            assert "alert(" in page.text
            assert "<script>alert" not in page.text


# what is shown


async def test_todays_studies_are_shown_by_patient(tmp_path: Path, stored: Stored) -> None:
    ana: dict[str, Any] = {"patient_name": "Garcia^Ana", "patient_id": "P1"}
    await stored.receive(instance(1, study="1.1", **ana), instance(2, study="1.2", **ana))
    await stored.receive(instance(3, study="1.3", patient_name="Diaz^Luz", patient_id="P2"))
    async with inside(tmp_path, stored) as (_, browser):
        page = await browser.get("/studies")
    assert "3 studies today." in said(page)
    assert "everything received is safe" not in said(page)
    assert re.findall(r'class="name name-letters">([^<]*)<', page.text) == ["Diaz, Luz", "Garcia, Ana"]
    assert page.text.count('class="study"') == 3


async def test_what_came_yesterday_is_on_another_page(tmp_path: Path, stored: Stored) -> None:
    await stored.run("UPDATE uptime SET seconds = 0")
    await stored.receive(instance(1, study="1.1", patient_name="Old"), instance(2, study="1.2", patient_name="New"))
    await stored.run("UPDATE instance SET received_at = ? WHERE id = 1", midnight(stored.clock.now()) - 1)
    async with inside(tmp_path, stored) as (_, browser):
        today, all_days = said(await browser.get("/studies")), said(await browser.get("/studies?show=all"))
        await stored.run("UPDATE instance SET received_at = 0")
        nothing = said(await browser.get("/studies"))
    assert "New" in today
    assert "Old" not in today
    assert "Old" in all_days
    assert "Nothing was received today." in nothing


async def test_a_late_image_of_an_old_study_brings_it_back_and_says_so(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1, patient_name="Late"))
    await stored.run("UPDATE instance SET received_at = received_at - 200000")
    async with inside(tmp_path, stored) as (_, browser):
        assert "Late" not in said(await browser.get("/studies"))
        stored.clock.pass_time(QUIET)
        assert "Complete: nothing new since" in said(await browser.get("/studies/1"))
        await stored.receive(instance(2))
        back = said(await browser.get("/studies"))
        assert "Late" in back
        assert "2 images received. Reopened: an image came late, at" in back
        stored.clock.pass_time(QUIET)
        assert "Complete again: images came late, the last at" in said(await browser.get("/studies"))


async def test_pages_lead_backward_without_a_gap(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(*(instance(n, study=f"1.{n}", patient_name=f"N{n}") for n in range(1, 46)))
    async with inside(tmp_path, stored) as (_, browser):
        seen, path = [], "/studies"
        while path:
            page = await browser.get(path)
            seen += re.findall(r'class="name name-letters">N(\d+)<', page.text)
            older = re.search(r'id="older" href="([^"]*before=[^"]*)"', page.text)
            path = html.unescape(older[1]) if older else ""
    assert seen == [str(n) for n in range(45, 0, -1)]


async def test_it_is_safe_to_delete_when_the_scanner_named_the_set(tmp_path: Path, stored: Stored) -> None:
    await stored.receive(instance(1), instance(2))
    async with inside(tmp_path, stored) as (_, browser):
        assert "Safe to delete: not yet Not delivered yet: 2 of 2 for pacs." in said(await browser.get("/studies"))
        await stored.settle(S.ACCEPTED)
        assert "Accepted but not verified yet: 2 of 2 for pacs." in said(await browser.get("/studies"))
        await verify(stored, [1, 2])
        assert "Images are still coming: 2 so far" in said(await browser.get("/studies"))
        stored.clock.pass_time(QUIET)
        compare = said(await browser.get("/studies"))
        assert "Safe to delete: compare first All 2 received are safe: compare the number with the scanner." in compare
        await commit(stored, [1, 2])
        yes = said(await browser.get("/studies"))
        assert "Safe to delete: yes All 2 images that the scanner named are verified by pacs." in yes
        assert "For 1 of them everything received is safe." in yes
        await stored.receive(instance(3))
        assert "Safe to delete: not yet Not delivered yet: 1 of 3 for pacs." in said(await browser.get("/studies"))


# search


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"words": "garcía"}, ["García, Ana"]),
        ({"words": "GARCIA ana"}, ["García, Ana"]),
        ({"words": "иванов"}, ["Иванов, Иван"]),
        ({"words": "P-2"}, ["Иванов, Иван"]),
        ({"words": "ACC1"}, ["García, Ana"]),
        ({"words": "ana P-2"}, []),
        ({"words": "%"}, []),
        ({"modality": "mr"}, ["Иванов, Иван"]),
        ({"from": "2027-01-02"}, ["Иванов, Иван"]),
        ({"to": "20270101"}, ["García, Ana"]),
        ({"from": "2027-01-01", "to": "2027-01-02", "modality": "CT"}, ["García, Ana"]),
        ({"words": "' OR 1=1 --"}, []),
    ],
)
async def test_a_search_finds_by_what_people_know(
    tmp_path: Path, stored: Stored, fields: dict[str, str], names: list[str]
) -> None:
    first: dict[str, Any] = {
        "patient_name": "García^Ana",
        "patient_id": "P-1",
        "accession": "ACC1",
        "study_date": "20270101",
    }
    second: dict[str, Any] = {
        "patient_name": "Иванов^Иван",
        "patient_id": "P-2",
        "accession": "ACC2",
        "study_date": "20270102",
    }
    await stored.receive(instance(1, study="1.1", **first), instance(2, study="1.2", **second, modality="MR"))
    async with inside(tmp_path, stored) as (_, browser):
        assert await found(browser, **fields) == names


async def test_a_search_for_nothing_shows_all_days_and_a_wrong_date_is_said(tmp_path: Path, stored: Stored) -> None:
    async with inside(tmp_path, stored) as (_, browser):
        nothing = await post(browser, "/studies/search", "/studies", words="  ")
        wrong = await post(browser, "/studies/search", "/studies", words="x", **{"from": "yesterday"})
        forgotten = await browser.get("/studies?show=abcdefgh")
    assert nothing.headers["location"] == "/studies?show=all"
    assert wrong.status_code == 400
    assert "That is no date" in wrong.text
    assert forgotten.headers["location"] == "/studies"


async def test_a_search_needs_the_token_of_its_form(tmp_path: Path, stored: Stored) -> None:
    async with inside(tmp_path, stored) as (_, browser):
        assert (await browser.post("/studies/search", data={"words": "x", "token": "y"})).status_code == 403


def test_a_look_is_read_as_it_was_written_and_anything_else_is_today() -> None:
    for one in (Look(), Look("all"), Look("a-_B9", 7)):
        assert look(str(one)) == one
    for text in ("", "..", "all.x", "a" * 99, "today.-1", "é"):
        assert look(text) == Look()


def test_a_date_is_read_in_both_ways_and_nothing_else_is_one() -> None:
    assert search("", "", "2027-01-02", "20270103") == Search(first="20270102", last="20270103")
    for wrong in ("2027", "1.1.2027", "2027-1-2x"):
        with pytest.raises(DateError):
            search("", "", wrong, "")


# names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "山田 太郎 (Yamada, Tarou)"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "山田 太郎 (ﾔﾏﾀﾞ ﾀﾛｳ)"),
        ("=山田^太郎", "山田 太郎"),
        ("Hong^Gildong=洪^吉洞=홍^길동", "洪 吉洞 (Hong, Gildong)"),
        ("قباني^لنزار", "قباني، لنزار"),
        ("Люкceмбypг", "Люкceмбypг"),
        ("García^María José", "García, María José"),
        ("Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Adams, Rev. John Robert Quincy, B.A. M.Div."),
        ("^Ana", "Ana"),
        ("", ""),
        ("^^^^", ""),
        ("==", ""),
        ("a\u202eb\x1b^\u2066c", "ab, c"),
    ],
)
def test_a_name_is_written_with_the_separators_of_its_script(name: str, shown: str) -> None:
    assert plain(name) == shown


def test_a_name_without_end_is_cut() -> None:
    assert sum(len(one.text) for one in writings("x" * 100_000)) <= 200


CHARSETS = {
    "chrArab": ["قباني، لنزار"],
    "chrFren": ["Buc, Jérôme"],
    "chrGerm": ["Äneas, Rüdiger"],
    "chrGreek": ["Διονυσιος"],
    "chrH31": ["山田 太郎", "Yamada, Tarou"],
    "chrH32": ["山田 太郎", "ﾔﾏﾀﾞ ﾀﾛｳ"],
    "chrHbrw": ["שרון, דבורה"],
    "chrI2": ["洪 吉洞", "Hong, Gildong"],
    "chrRuss": ["Люкceмбypг"],
    "chrX1": ["王 小東", "Wang, XiaoDong"],
    "chrX2": ["王 小东", "Wang, XiaoDong"],
}


async def test_names_in_every_script_come_through_the_appliance_to_the_page(tmp_path: Path) -> None:
    paths = {name: Path(get_charset_files(f"{name}.dcm")[0]) for name in CHARSETS}
    with Edge(tmp_path / "edge", dimse("pacs", free_port())) as edge:
        objects = [part10(path) for path in paths.values()]
        with RawSender(edge.port) as modality:
            modality.associate(sorted({(one.sop_class_uid, (one.transfer_syntax_uid,)) for one in objects}))
            for one in objects:
                assert modality.store(one) == 0x0000
        await asyncio.to_thread(edge.wait_settled, "pacs", {"queued": len(objects)})
    reading = await Reading.open(edge.storage)
    try:
        async with Served(tmp_path, reading=reading) as served:
            served.studies = await read_studies(reading, StudyFilter(), 50)
            browser = served.client()
            await log_in(browser)
            page = await browser.get("/studies?show=all")
    finally:
        await reading.close()
    shown = re.findall(r'<h2 id="[^"]*">(.*?)</h2>', page.text)
    names = [html.unescape(name) for one in shown for name in re.findall(r'dir="auto" class="name[^>]*>([^<]*)<', one)]
    assert sorted(names) == sorted(name for expected in CHARSETS.values() for name in expected)


# the answer in the reader's language


def _study(**more: Any) -> StudyView:
    values: dict[str, Any] = dict.fromkeys(
        ("uid", "patient_id", "patient_name", "accession", "date", "description"), ""
    )
    values |= dict.fromkeys(("id", "latest", "lost", "quarantined", "unrouted"), 0)
    values |= {"received": 3, "first_received": 0.0, "last_received": 0.0, "modalities": ("CT",)}
    values |= {"clock_trusted": True, "complete": True, "reopened": False, "named": False}
    return StudyView(**(values | more))


def _at(name: str, received: int = 3, **more: int) -> DestinationView:
    return DestinationView(destination=name, received=received, **more)


@pytest.mark.parametrize(
    "study",
    [
        _study(destinations=(_at("pacs", verified=3),), named=True),
        _study(destinations=(_at("pacs", 1, verified=1),), named=True, received=1),
        _study(destinations=(_at("a", verified=3), _at("b", accepted=3), _at("c", accepted=3), _at("d", accepted=3))),
        _study(destinations=(_at("a", accepted=3),)),
        _study(destinations=(_at("a", verified=3), _at("b", verified=3)), complete=False),
        _study(destinations=(_at("a", accepted=3, unproven=1),)),
        _study(destinations=(_at("a", queued=1, accepted=2), _at("b", queued=3))),
        _study(destinations=(_at("a", held=1, verified=2),)),
        _study(destinations=(_at("a", cancelled=1, declined=2),)),
        _study(destinations=(), unrouted=2),
        _study(destinations=()),
        _study(destinations=(_at("a", held=3),), lost=1, quarantined=1),
    ],
)
def test_in_english_the_answer_is_that_of_every_other_face(study: StudyView) -> None:
    safety, shown = safe_to_delete(study), answer(study, ENGLISH)
    assert (shown.text, shown.advice) == (safety.text, safety.advice)
    assert {"yes": {"yes"}, "received": {"compare"}, "no": {"wait", "no"}}[safety.answer] >= {shown.tone}


def test_the_answer_is_in_the_language_of_the_reader() -> None:
    shown = answer(_study(destinations=(_at("a", queued=1, accepted=2), _at("b", queued=3))), SPANISH)
    assert shown.tone == "wait"
    assert shown.word == "Se puede borrar: todavía no"
    assert shown.text == "Todavía no entregadas: 1 de 3 para a, 3 de 3 para b."
    assert shown.advice.startswith("No borre el estudio del equipo.")


# counts that are remembered


async def test_what_is_remembered_is_what_would_be_counted_anew(stored: Stored) -> None:
    counted = Counted()

    async def agree() -> None:
        def work(raw: Any) -> None:
            counted.learn(raw)
            for study, latest in raw.execute("SELECT id, latest FROM study").fetchall():
                assert counted.count(raw, study, latest) == count(raw, study, latest)

        await stored.store.reading.run(work)

    await stored.receive(instance(1), instance(2), instance(3, study="1.9"), to=[leg(), leg("cloud", proof=False)])
    await agree()
    await stored.settle(S.ACCEPTED)
    await agree()
    await stored.settle(S.HELD, destination="cloud")
    await agree()
    await verify(stored, [1])
    await agree()
    for verb in ("release", "hold", "cancel", "resend"):
        await stored.store.decide(verb, Choice(destination="cloud", study=1), who="test")
        await agree()
    await stored.store.lose([2])
    await agree()
    await stored.store.quarantine(1, "damaged")
    await agree()
    await stored.receive(instance(4, uid="1.2.3.2", content=2))
    await agree()
    await stored.receive(instance(5, study="1.9"), to=[])
    await commit(stored, [3, 5])
    await agree()


async def test_counting_is_not_repeated_while_nothing_happens(stored: Stored) -> None:
    await stored.receive(*(instance(n) for n in range(1, 400)))
    await stored.store.studies(StudyFilter())
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    await stored.store.reading.run(lambda raw: raw.set_progress_handler(step, 100))
    await stored.store.studies(StudyFilter())
    assert steps < 20
    await stored.receive(instance(400))
    (study,) = await stored.store.studies(StudyFilter())
    assert study.received == 400
    assert steps > 20
