"""The dashboard in a real browser: the page Now and the login, as people have them before them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import pytest_asyncio

from edge.clock import iso
from edge.config import Device
from edge.snapshot import ImportStatus, Intake, Problem, Queue, Snapshot, Storage, WatchStatus
from edge.status.lights import LIGHTS
from tests.browser import DESK, PHONE, WALL, Chromium, chromium
from tests.fakes import ManualClock
from tests.snapshots import destination, finding, snapshot
from tests.web import PASSWORD, Served

Scheme = Literal["light", "dark"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Chromium]:
    async with chromium() as started:
        yield started


def outage() -> Snapshot:
    """An afternoon on which the PACS does not answer."""
    clock = ManualClock()
    replace = msgspec.structs.replace
    down = replace(
        destination("pacs", problem="REFUSED_CONNECTION", queued=41),
        verified=1799,
        last_success_at=iso(clock.now() - 3200),
        problem=Problem(code="REFUSED_CONNECTION", text="pacs.example.org refuses the connection on port 104."),
    )
    going = replace(
        destination("cloud"),
        sending=2,
        verified=1838,
        rate_bytes_per_second=1_000_000,
        drain_seconds=95,
        last_success_at=iso(clock.now()),
    )
    told = [
        replace(
            finding("DESTINATION_DOWN", "destination.pacs", since=iso(clock.now() - 3120)),
            text="pacs.example.org refuses the connection on port 104.",
            advice="Images are stored safely and go on as soon as it takes them. If it stays, tell IT.",
        ),
        replace(
            finding("ACCEPTS_ANYONE", "config.modality", "info", since=iso(clock.now() - 9000)),
            text="No [[modality]] is configured, so images are taken from any sender.",
            advice="List the modalities in the configuration to refuse everyone else.",
        ),
    ]
    medium = ImportStatus(
        name="MEDIUM", media=True, over=False, files=212, files_done=90, bytes=100, bytes_done=42, refused=0
    )
    return replace(
        snapshot(destinations=[down, going], findings=told),
        light=LIGHTS["Y1"],
        intake=Intake(
            open=True, associations=1, instances=1840, bytes=967_000_000, refused=0, last_at=iso(clock.now())
        ),
        queue=Queue(instances=41, bytes=21_000_000, oldest_seconds=3120),
        storage=Storage(free_bytes=54_000_000_000, reserve_bytes=2_000_000_000, autonomy_seconds=9 * 86_400),
        imports=[medium],
        watches=[WatchStatus(name="ultrasound", taken=36, waiting=0, left=0)],
    )


def lit(code: str) -> Snapshot:
    """The outage under another light."""
    return msgspec.structs.replace(outage(), light=LIGHTS[code])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("size", "path"), [(PHONE, "/"), (DESK, "/"), (WALL, "/?wall=1")], ids=["phone", "desk", "wall"]
)
async def test_now_is_right_for_everybody_in_every_size(
    tmp_path: Path, browser: Chromium, size: tuple[int, int], path: str, scheme: Scheme
) -> None:
    async with Served(tmp_path, outage()) as served, browser.screen(served.url, size, scheme=scheme) as screen:
        await screen.open(path)
        assert await screen.page.inner_text("h1") == LIGHTS["Y1"].text
        text = await screen.text()
        assert "pacs unreachable since" in text
        assert "41 images waiting" in text
        assert "9 days" in text
        assert "Medium" in text
        assert "refuses" not in text
        assert await screen.violations() == []
        assert not await screen.overflows()
        await screen.look(f"now-{size[0]}-{scheme}", whole=size is not WALL)


async def test_the_light_is_read_from_three_metres(tmp_path: Path, browser: Chromium) -> None:
    async with Served(tmp_path, outage()) as served, browser.screen(served.url, WALL) as screen:
        await screen.open("/?wall=1")
        size = await screen.page.evaluate("parseFloat(getComputedStyle(document.querySelector('h1')).fontSize)")
        assert size >= 72
        _, _, width, height = await screen.box(".band")
        assert width * height > 0.4 * WALL[0] * WALL[1]
        _, top, _, height = await screen.box(".place", -1)
        assert top + height < WALL[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_light_can_be_read(tmp_path: Path, browser: Chromium, scheme: Scheme) -> None:
    async with Served(tmp_path) as served, browser.screen(served.url, PHONE, scheme=scheme) as screen:
        for code in LIGHTS:
            served.shown = lit(code)
            served.clock.pass_time(1)
            await screen.open()
            assert await screen.page.inner_text("h1") == LIGHTS[code].text
            assert code in await screen.page.inner_text(".signal")
            assert await screen.violations("color-contrast") == []


async def test_a_page_follows_the_box_and_says_when_it_hears_nothing(tmp_path: Path, browser: Chromium) -> None:
    async with Served(tmp_path, outage()) as served, browser.screen(served.url) as screen:
        await screen.open()
        served.shown = snapshot(destinations=["pacs"])
        served.clock.pass_time(1)
        await screen.page.wait_for_selector("h1:text-is('Ready.')")
        assert await screen.page.inner_text("#said", timeout=1000) == "Ready."
        assert await screen.page.inner_text("#stale") == ""
        served.shown = None  # the box answers, and knows nothing
        await screen.page.evaluate("window.before = performance.now(); performance.now = () => window.before + 60000")
        await screen.page.wait_for_selector("#stale:not(:empty)")
        assert "No connection to the box since" in await screen.page.inner_text("#stale")
        assert await screen.page.locator("html.is-stale").count() == 1
        await screen.look("stale")
        served.shown = snapshot(destinations=["pacs"])
        for _ in range(6):
            served.clock.pass_time(1)
            await asyncio.sleep(0)
        await screen.page.wait_for_selector("#stale:empty", state="attached")


async def test_what_has_the_focus_keeps_it_while_the_page_follows(tmp_path: Path, browser: Chromium) -> None:
    async with Served(tmp_path, outage()) as served, browser.screen(served.url) as screen:
        await screen.open()
        await screen.page.evaluate(
            "document.querySelector('#places-title').tabIndex = -1; document.querySelector('#places-title').focus()"
        )
        served.shown = snapshot(destinations=["other"])
        served.clock.pass_time(1)
        await screen.page.wait_for_selector("text=other")
        # the element is another; nobody is thrown back to the top by that
        assert await screen.page.evaluate("document.querySelector('#places-title') !== null")


async def test_it_works_without_scripts(tmp_path: Path, browser: Chromium) -> None:
    async with Served(tmp_path, outage()) as served, browser.screen(served.url, PHONE, scripts=False) as screen:
        await screen.open()
        assert LIGHTS["Y1"].text in await screen.text()
        await screen.page.click("text=Log in")
        await screen.page.fill("#password", PASSWORD)
        await screen.page.press("#password", "Enter")
        await screen.page.wait_for_selector("text=Log out")
        assert "refuses the connection on port 104" in await screen.text()


async def test_the_login_by_keyboard_alone(tmp_path: Path, browser: Chromium) -> None:
    async with Served(tmp_path, outage()) as served, browser.screen(served.url) as screen:
        await screen.open()
        keyboard = screen.page.keyboard
        await keyboard.press("Tab")
        assert await screen.page.evaluate("document.activeElement.className") == "skip"
        for _ in range(10):
            await keyboard.press("Tab")
            if await screen.page.evaluate("document.activeElement.getAttribute('href')") == "/login":
                break
        await keyboard.press("Enter")
        await screen.page.wait_for_selector("#password:focus")
        assert await screen.violations() == []
        await keyboard.type("this is not it")
        await keyboard.press("Enter")
        await screen.page.wait_for_selector("[role=alert]:not(:empty)")
        assert "That is not the password." in await screen.text()
        assert await screen.violations() == []
        assert [one for one in screen.complaints if "403" not in one] == []
        screen.complaints.clear()
        await keyboard.type(PASSWORD)
        await keyboard.press("Enter")
        await screen.page.wait_for_selector("text=Log out")
        assert "refuses the connection on port 104" in await screen.text()
        assert await screen.violations() == []
        await screen.page.click("text=Log out")
        await screen.page.wait_for_selector("text=Log in")


async def test_the_first_password_is_set_on_a_phone(tmp_path: Path, browser: Chromium) -> None:
    async with Served(tmp_path, outage(), password="") as served, browser.screen(served.url, PHONE) as screen:
        await screen.open("/login")
        await screen.page.wait_for_url("**/setup")
        assert await screen.violations() == []
        assert not await screen.overflows()
        await screen.look("setup")
        await screen.page.fill("#code", (await asyncio.to_thread(served.secrets.code)).lower())
        await screen.page.fill("#password", PASSWORD)
        await screen.page.fill("#again", PASSWORD)
        await screen.page.click("text=Set the password")
        await screen.page.wait_for_selector("text=Log out")


async def test_a_script_in_a_name_does_not_run(tmp_path: Path, browser: Chromium) -> None:
    attack = "<img src=x onerror='document.title=666'><script>document.title=666</script>"
    shown = msgspec.structs.replace(
        outage(), findings=[msgspec.structs.replace(finding("LOST", "storage", "error"), text=attack, advice=attack)]
    )
    async with (
        Served(tmp_path, shown, device=Device(name=attack[:60], site=attack)) as served,
        browser.screen(served.url) as screen,
    ):
        await screen.open("/login")
        await screen.page.fill("#password", PASSWORD)
        await screen.page.press("#password", "Enter")
        await screen.page.wait_for_selector("text=Log out")
        served.shown = msgspec.structs.replace(shown, findings=[*shown.findings, *shown.findings])
        served.clock.pass_time(1)
        await screen.page.wait_for_selector(".finding:nth-child(2)")
        assert "666" not in (await screen.page.title()).replace(attack[:60], "")
        assert await screen.page.locator("main img").count() == 0


async def test_targets_are_large_enough_for_a_finger(tmp_path: Path, browser: Chromium) -> None:
    async with Served(tmp_path, outage()) as served, browser.screen(served.url, PHONE) as screen:
        for path in ("/", "/login"):
            await screen.open(path)
            small = await screen.page.evaluate(
                """[...document.querySelectorAll('a, button, input:not([type=hidden]):not([hidden])')]
                .filter(one => !one.classList.contains('skip'))
                .map(one => [one.textContent.trim(), one.getBoundingClientRect()])
                .filter(([_, box]) => box.height < 44 || box.width < 24)
                .map(([text, box]) => `${text} ${box.height}`)"""
            )
            assert small == []


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_theme_that_was_chosen_outweighs_that_of_the_system(
    tmp_path: Path, browser: Chromium, theme: Scheme
) -> None:
    async with (
        Served(tmp_path) as served,
        browser.screen(served.url, scheme="light" if theme == "dark" else "dark") as screen,
    ):
        await screen.open()
        await screen.page.click(f"text={theme.capitalize()} >> nth=-1")
        await screen.page.wait_for_selector(f"html[data-theme={theme}]")
        ground = await screen.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (ground == "rgb(13, 21, 26)") is (theme == "dark")
        assert await screen.violations() == []
