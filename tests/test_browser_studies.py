"""Studies in a real browser, as technicians have them before them: phone, desk and wall; keyboard alone."""

import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from PIL import Image

from edge.preview import NoPicture, Picture, Reason
from edge.snapshot import Problem
from edge.states import DeliveryState
from tests.browser import DESK, PHONE, WALL, Screen, chromium
from tests.snapshots import destination, snapshot
from tests.stored import Stored, instance, leg
from tests.studying import QUIET, Studied, commit, verify
from tests.web import PASSWORD

Scheme = Literal["light", "dark"]
S = DeliveryState
BOTH = [leg(), leg("cloud", proof=False)]
ATTACK = "<img src=x onerror='document.title=666'><script>document.title=666</script>"


OVERLAID = """[...document.querySelectorAll('.study')].flatMap(study => {
    const boxes = [...study.children].map(child => [child.className, child.getBoundingClientRect()]);
    return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([_, b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        .map(([other]) => `${one} over ${other}`));
})"""


class FakePreviews:
    """Grey pictures, and none for every third object."""

    async def of_object(self, number: int, side: int = 256, client: str = "") -> Picture | NoPicture:
        del client
        if number % 3 == 0:
            return NoPicture(Reason.REPORT)
        return Picture(_webp(side), side, side)


def _webp(side: int) -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).save(out, "WEBP")
    return out.getvalue()


async def afternoon(stored: Stored) -> None:
    """Studies in every state that people meet."""
    clock = stored.clock

    async def study(number: int, name: str, **more: str) -> list[int]:
        numbers = list(range(number * 100, number * 100 + 4))
        header: dict[str, Any] = {
            "patient_name": name,
            "patient_id": f"P-{number}",
            "accession": f"A{number}",
            "study_date": "20270115",
        }
        images = [
            instance(n, study=f"1.{number}", series_number="2", instance_number=str(n % 100 + 1), **(header | more))
            for n in numbers
        ]
        await stored.receive(*images, to=BOTH)
        return numbers

    yes = await study(1, "Yamada^Tarou=山田^太郎=やまだ^たろう", study_description="CT Abdomen", modality="CT")
    await stored.settle(S.ACCEPTED)
    await stored.settle(S.ACCEPTED, destination="cloud")
    await verify(stored, yes)
    compare = await study(2, "قباني^لنزار", study_description="Chest", modality="CR")
    await stored.settle(S.ACCEPTED)
    await stored.settle(S.ACCEPTED, destination="cloud")
    await verify(stored, compare)
    clock.pass_time(QUIET)
    await commit(stored, yes)
    held = await study(3, "García^María José", study_description="MR rodilla izquierda", modality="MR")
    await stored.settle(S.HELD, code="A900")
    await stored.run(
        "UPDATE delivery SET detail = 'PACS answered: Data Set does not match SOP Class' WHERE state = 'held'"
    )
    await stored.settle(S.ACCEPTED, destination="cloud")
    del held
    clock.pass_time(QUIET)
    await study(4, "", patient_id="")
    await study(5, "Иванов^Иван", study_description="US Thyroid", modality="US")
    clock.pass_time(QUIET)
    await stored.receive(instance(599, study="1.5", patient_name="Иванов^Иван", modality="US"), to=BOTH)


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Studied]:
    down = msgspec.structs.replace(
        destination("pacs", problem="REFUSED_CONNECTION", queued=9),
        problem=Problem(code="REFUSED_CONNECTION", text="pacs.example.org refuses the connection on port 104."),
    )
    async with Stored(tmp_path / "store") as stored:
        await afternoon(stored)
        async with Studied(tmp_path, stored, snapshot(destinations=[down, "cloud"]), previews=FakePreviews()) as served:
            yield served


async def enter(screen: Screen, path: str) -> None:
    await screen.open(f"/login?next={path}")
    await screen.page.fill("#password", PASSWORD)
    await screen.page.press("#password", "Enter")
    await screen.page.wait_for_url(f"**{path}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK, WALL], ids=["phone", "desk", "wall"])
async def test_studies_are_right_in_every_size(tmp_path: Path, size: tuple[int, int], scheme: Scheme) -> None:
    async with (
        opened(tmp_path) as served,
        chromium() as browser,
        browser.screen(served.url, size, scheme=scheme) as screen,
    ):
        await enter(screen, "/studies")
        text = await screen.text()
        for said in (
            "山田 太郎",
            "Yamada, Tarou",
            "قباني، لنزار",
            "García, María José",
            "Иванов, Иван",
            "No name",
            "Safe to delete: yes",
            "Safe to delete: compare first",
            "Safe to delete: not yet",
            "Safe to delete: no",
            "Reopened: an image came late",
        ):
            assert said in text
        assert await screen.violations() == []
        assert not await screen.overflows()
        assert await screen.page.evaluate(OVERLAID) == []
        await screen.look(f"studies-{size[0]}-{scheme}")
        number = await served.id_of("1.3")
        await screen.open(f"/studies/{number}")
        assert "Data Set does not match SOP Class" in await screen.text()
        await screen.page.click("summary >> nth=0")
        assert await screen.violations() == []
        assert not await screen.overflows()
        await screen.look(f"study-{size[0]}-{scheme}")
        assert screen.complaints == []


@asynccontextmanager
async def shown(
    tmp_path: Path, path: str, size: tuple[int, int] = DESK, *, scripts: bool = True
) -> AsyncIterator[tuple[Studied, Screen]]:
    """The afternoon, and a screen on one of its pages."""
    async with (
        opened(tmp_path) as served,
        chromium() as browser,
        browser.screen(served.url, size, scripts=scripts) as screen,
    ):
        uid = re.search(r"1\.\d", path)
        await enter(screen, path.replace(uid[0], str(await served.id_of(uid[0]))) if uid else path)
        yield served, screen


async def focused(screen: Screen) -> str:
    return str(await screen.page.evaluate("document.activeElement.textContent.trim()"))


async def tab_to(screen: Screen, text: str) -> None:
    """Go on with the key alone until what has the focus begins with `text`."""
    for _ in range(60):
        if (await focused(screen)).startswith(text):
            return
        await screen.page.keyboard.press("Tab")
    raise AssertionError(f"{text!r} cannot be reached")


async def test_a_held_image_is_released_by_keyboard_alone(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies/1.3") as (served, screen):
        await tab_to(screen, "The images one by one")
        await screen.page.keyboard.press("Enter")
        await tab_to(screen, "Release…")
        await screen.page.keyboard.press("Tab")
        await tab_to(screen, "Release…")
        await screen.page.keyboard.press("Enter")
        await screen.page.wait_for_selector("#reason:focus")
        assert await screen.violations() == []
        await screen.look("study-release")
        await screen.page.keyboard.type("The archive was repaired")
        await screen.page.keyboard.press("Enter")
        await screen.page.wait_for_selector("#done:focus")
        assert await focused(screen) == "pacs: 1 image is released and will be sent."
        assert await screen.violations() == []
        await screen.look("study-released")
        asked = "SELECT count(*) FROM trail WHERE event = 'released' AND code = 'dashboard' AND detail LIKE 'The arch%'"
        assert await served.stored.rows(asked) == [(1,)]


async def test_stat_is_one_click_and_is_shown(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies/1.5", PHONE) as (served, screen):
        await screen.page.click("text=Before all others (STAT) >> nth=1")
        await screen.page.wait_for_selector("#done")
        assert "5 images go before all others." in await screen.page.inner_text("#done")
        assert "STAT" in await screen.page.inner_text(".group h3 >> nth=0")
        asked = "SELECT count(*) FROM delivery WHERE priority = 0 AND destination = 'cloud'"
        assert await served.stored.rows(asked) == [(5,)]
        await screen.look("study-stat")


async def test_images_are_given_up_after_a_question(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies/1.5", PHONE) as (served, screen):
        await screen.page.click("text=Give up… >> nth=1")
        await screen.page.wait_for_selector("text=Give images up?")
        assert "cloud · Waiting to be sent · 5 images" in await screen.text()
        assert await screen.violations() == []
        assert not await screen.overflows()
        await screen.look("study-give-up")
        await screen.page.click("button.grave")  # the browser wants a reason
        assert "decide" in screen.page.url
        await screen.page.click("text=Change nothing")
        await screen.page.wait_for_selector("text=Not through")
        assert set((await served.stored.states("cloud")).values()) == {"accepted", "queued"}
        await screen.page.click("text=Give up… >> nth=1")
        await screen.page.fill("#reason", "Sent to the wrong place")
        await screen.page.click("button.grave")
        await screen.page.wait_for_selector("#done")
        assert "cloud: 5 images are given up." in await screen.page.inner_text("#done")


async def test_a_late_image_reopens_a_study_before_the_reader_who_keeps_place_and_focus(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies", PHONE) as (served, screen):
        number = await served.id_of("1.2")
        link = f"#open-{number}"
        await screen.page.focus(link)
        await screen.page.evaluate(f"document.querySelector('{link}').scrollIntoView({{block: 'center'}})")
        before = await screen.page.evaluate(f"document.querySelector('{link}').getBoundingClientRect().top")
        picture = f"document.querySelector('#study-{number} img')"
        await screen.page.evaluate(f"{picture}.title = 'the same'")
        await served.stored.receive(instance(900, study="1.9", patient_name="New^One"), to=BOTH)
        await served.stored.receive(instance(199, study="1.1"), to=BOTH)
        served.clock.pass_time(1)
        await screen.page.wait_for_selector("text=New, One")
        await screen.page.wait_for_selector(".arrival.reopened >> nth=1")
        after = await screen.page.evaluate(f"document.querySelector('{link}').getBoundingClientRect().top")
        assert abs(after - before) < 2
        assert await screen.page.evaluate("document.activeElement.id") == link[1:]
        said = await screen.page.inner_text("#said")
        assert said.startswith("6 studies today.")
        assert await screen.page.evaluate(f"{picture}.title") == "the same"


async def test_what_is_opened_stays_open_while_the_study_goes_on(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies/1.5") as (served, screen):
        await screen.page.click("summary >> nth=1")
        assert await screen.page.locator("details[open]").count() == 1
        await served.stored.settle(S.ACCEPTED, destination="cloud")
        served.clock.pass_time(1)
        await screen.page.wait_for_selector("#f-study-open h3:has-text('cloud')", state="detached")
        assert await screen.page.locator("details[open]").count() == 1
        assert "Not delivered yet: 5 of 5 for pacs." in await screen.page.inner_text("#said")


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
async def test_the_receipt_can_be_read_and_printed(tmp_path: Path, size: tuple[int, int]) -> None:
    async with shown(tmp_path, "/studies/1.1/receipt", size) as (_, screen):
        text = await screen.text()
        assert "sha256" in text
        assert "it named it when it was queried" in text
        assert await screen.violations() == []
        assert not await screen.overflows()
        await screen.look(f"receipt-{size[0]}")
        assert await screen.page.is_visible("#print")
        await screen.page.emulate_media(media="print")
        assert not await screen.page.is_visible("#print")
        assert not await screen.page.is_visible("nav.tabs")
        await screen.look(f"receipt-{size[0]}-print")


async def test_a_search_by_keyboard_finds_and_shows_no_patient_in_the_address(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies") as (_, screen):
        await screen.page.focus("#words")
        await screen.page.keyboard.type("garcia")
        await screen.page.keyboard.press("Enter")
        await screen.page.wait_for_selector("text=1 study found.")
        assert "garcia" not in screen.page.url.lower()
        assert await screen.page.input_value("#words") == "garcia"
        assert await screen.violations() == []
        await screen.look("studies-search")


async def test_a_script_in_a_name_does_not_run_in_a_list_that_follows(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies") as (served, screen):
        header: dict[str, Any] = dict.fromkeys(("patient_name", "patient_id", "study_description"), ATTACK)
        await served.stored.receive(instance(900, study="1.9", **header), to=BOTH)
        served.clock.pass_time(1)
        await screen.page.wait_for_selector("text=onerror")
        await screen.open(f"/studies/{await served.id_of('1.9')}")
        assert "onerror" in await screen.page.inner_text("h1")
        assert await screen.page.locator("main img:not(.portrait)").count() == 0
        assert "666" not in (await screen.page.title()).replace(ATTACK, "").replace("title=666", "")


async def test_it_works_without_scripts_too(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies/1.5", scripts=False) as (_, screen):
        await screen.page.click("text=Send now >> nth=1")
        await screen.page.wait_for_selector("#done")
        assert "5 images are sent as soon as possible." in await screen.page.inner_text("#done")


async def test_what_can_be_pressed_is_large_enough_for_a_finger(tmp_path: Path) -> None:
    async with shown(tmp_path, "/studies", PHONE) as (served, screen):
        for path in ("/studies", f"/studies/{await served.id_of('1.3')}"):
            await screen.open(path)
            small = await screen.page.evaluate(
                """[...document.querySelectorAll('main a, main button, main summary, main input:not([type=hidden])')]
                .map(one => [one.textContent.trim(), one.getBoundingClientRect()])
                .filter(([_, box]) => box.height && (box.height < 44 || box.width < 24))
                .map(([text, box]) => `${text} ${box.height}`)"""
            )
            assert small == []


async def test_on_a_phone_the_answers_come_before_the_fields_that_few_need(tmp_path: Path) -> None:
    async with (
        opened(tmp_path) as served,
        chromium() as browser,
        browser.screen(served.url, PHONE) as phone,
        browser.screen(served.url, DESK) as desk,
    ):
        await enter(desk, "/studies")
        assert await desk.page.is_visible("#modality")
        assert not await desk.page.is_visible("#further")
        await enter(phone, "/studies")
        assert not await phone.page.is_visible("#modality")
        _, top, _, _ = await phone.box(".verdict")
        assert top < PHONE[1] - 64
        await phone.page.click("#further")
        await phone.page.fill("#modality", "MR")
        assert await phone.page.get_attribute("#further", "aria-expanded") == "true"
        await phone.page.press("#modality", "Enter")
        await phone.page.wait_for_url("**/studies?show=*")
        # what was asked for stays in sight
        assert await phone.page.input_value("#modality") == "MR"
        assert await phone.page.is_visible("#modality")
        assert await phone.violations() == []
        # a page below another says in the navigation where it is
        await phone.page.click(".study h3 a")
        await phone.page.wait_for_selector(".answer")
        assert await phone.page.inner_text(".tabs [aria-current]") == "Studies"
