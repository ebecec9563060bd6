"""System, label and password in a real browser: on a phone and a desk, light and dark, by mouse and by keyboard."""

import re
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import pytest_asyncio

from edge.store import Choice
from tests.browser import DESK, PHONE, Chromium, Screen, chromium
from tests.machines import Housed
from tests.web import PASSWORD, Acted

Scheme = Literal["light", "dark"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Chromium]:
    async with chromium() as started:
        yield started


async def entered(screen: Screen, path: str) -> None:
    """Log in, and be led to `path`."""
    await screen.open(f"/login?next={path}")
    await screen.page.fill("#password", PASSWORD)
    await screen.page.press("#password", "Enter")
    await screen.page.wait_for_selector("main h1")
    await screen.page.wait_for_url(f"**{path}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("path", ["/system", "/system/label", "/system/password"])
async def test_system_is_right_for_everybody_in_every_size(
    tmp_path: Path, browser: Chromium, path: str, size: tuple[int, int], scheme: Scheme
) -> None:
    async with Housed(tmp_path) as served, browser.screen(served.url, size, scheme=scheme) as screen:
        await entered(screen, path)
        for summary in await screen.page.query_selector_all("summary"):
            await summary.click()
        assert await screen.violations() == []
        assert not await screen.overflows()
        assert await _small_targets(screen) == []
        await screen.look(f"{path.strip('/').replace('/', '-')}-{'phone' if size == PHONE else 'desk'}-{scheme}")


async def _small_targets(screen: Screen) -> list[str]:
    found: list[str] = await screen.page.evaluate(
        """() => [...document.querySelectorAll('main a.button, main button, main summary')]
            .filter(one => one.getClientRects().length)
            .filter(one => one.getBoundingClientRect().height < 44)
            .map(one => one.textContent.trim())"""
    )
    return found


async def test_a_destination_is_paused_by_the_keyboard_after_a_second_thought(
    tmp_path: Path, browser: Chromium
) -> None:
    async with Housed(tmp_path) as housed, browser.screen(housed.url) as screen:
        await entered(screen, "/system")
        await screen.page.focus("#pause-3 summary")
        await screen.page.keyboard.press("Enter")
        assert housed.fake_control.acted == []
        await screen.page.keyboard.press("Tab")
        focused = await screen.page.evaluate("document.activeElement.textContent")
        assert focused == "Pause archive now"
        await screen.page.keyboard.press("Enter")
        await screen.page.wait_for_selector(".done")
        assert "is paused" in await screen.page.inner_text(".done")
        assert await screen.violations() == []
    assert housed.fake_control.acted == [Acted("pause", Choice(destination="archive"), "dashboard", "")]


async def test_the_logs_are_a_file_that_is_saved(tmp_path: Path, browser: Chromium) -> None:
    async with Housed(tmp_path) as housed, browser.screen(housed.url, PHONE) as screen:
        await entered(screen, "/system")
        async with screen.page.expect_download() as saving:
            await screen.page.click("text=Logs for IT")
        saved = await saving.value
        assert saved.suggested_filename.endswith(".zip")
        assert zipfile.is_zipfile(await saved.path())


async def test_a_fold_stays_open_while_the_page_keeps_itself_current(tmp_path: Path, browser: Chromium) -> None:
    async with Housed(tmp_path) as housed, browser.screen(housed.url) as screen:
        await entered(screen, "/system")
        await screen.page.click("#restart summary")
        housed.machine = msgspec.structs.replace(housed.machine, uptime=40 * 86_400.0)
        housed.clock.pass_time(2)
        await screen.page.wait_for_selector("text=40 days")
        assert await screen.page.is_visible("text=Restart now")


async def test_a_restart_takes_two_clicks_and_says_what_comes(tmp_path: Path, browser: Chromium) -> None:
    async with Housed(tmp_path) as housed, browser.screen(housed.url) as screen:
        await entered(screen, "/system")
        assert not await screen.page.is_visible("text=Restart now")
        await screen.page.click("text=Restart the program")
        await screen.page.click("text=Restart now")
        await screen.page.wait_for_selector("h1:text-is('The program restarts')")
        assert await screen.violations() == []


async def test_the_page_does_all_of_it_without_scripts(tmp_path: Path, browser: Chromium) -> None:
    async with Housed(tmp_path) as housed, browser.screen(housed.url, scripts=False) as screen:
        await entered(screen, "/system")
        await screen.page.click("text=Which one is it?")
        await screen.page.wait_for_selector(".done")
        assert housed.identified == [15.0]
        await screen.open("/system/label")
        assert not await screen.page.is_visible("#print")


@pytest.mark.parametrize(("paper", "width", "height"), [("62", 62, 100), ("a6", 105, 148)])
async def test_the_label_prints_on_one_page_and_nothing_else_with_it(
    tmp_path: Path, browser: Chromium, paper: str, width: float, height: float
) -> None:
    async with (
        Housed(tmp_path, address="0.0.0.0") as housed,
        browser.screen(housed.url.replace("0.0.0.0", "127.0.0.1"), insecure=True) as screen,
    ):
        await entered(screen, f"/system/label?paper={paper}")
        printed = await screen.page.pdf(prefer_css_page_size=True)
        (box,) = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)
        assert [float(side) * 25.4 / 72 for side in box] == pytest.approx([width, height], abs=0.5)
        await screen.page.emulate_media(media="print")
        drawn = await screen.page.evaluate(
            """() => [...document.querySelectorAll('body *')].filter(one => !one.closest('figure'))
                .filter(one => one.getClientRects().length && !one.querySelector('figure')).length"""
        )
        assert drawn == 0
