"""Connections in a real browser: tests whose steps come up as they run, on a phone and at a desk, by keyboard alone."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, cast

import msgspec
import pytest
import pytest_asyncio

from edge.config import Mqtt, Timeouts
from edge.store import Reading
from tests.browser import DESK, PHONE, Chromium, Screen, chromium
from tests.connecting import Answers, afternoon, cloud, pacs, served
from tests.peers.dcmtk import Storescp
from tests.peers.ports import LOOPBACK, free_port
from tests.web import PASSWORD

Scheme = Literal["light", "dark"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Chromium]:
    async with chromium() as started:
        yield started


async def enter(screen: Screen, path: str = "/connections") -> None:
    """Log in, on the way to a page."""
    await screen.open(f"/login?next={path}")
    await screen.page.fill("#password", PASSWORD)
    await screen.page.press("#password", "Enter")
    await screen.page.wait_for_selector("text=Log out")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
async def test_connections_are_right_for_everybody_in_every_size(
    tmp_path: Path, browser: Chromium, size: tuple[int, int], scheme: Scheme
) -> None:
    with Storescp(tmp_path / "received", nodelay=True) as peer:
        there, gone = cloud(f"http://{LOOPBACK}:{free_port()}/dicom-web"), pacs(peer.port)
        broker = Mqtt(url=f"mqtt://{LOOPBACK}:{free_port()}")
        async with (
            served(tmp_path, gone, there, mqtt=broker) as box,
            browser.screen(box.url, size, scheme=scheme) as screen,
        ):
            await enter(screen)
            assert await screen.violations() == []
            assert not await screen.overflows()
            await screen.look(f"connections-{size[0]}-{scheme}")
            await screen.page.click("[id='test-destination.pacs']")
            await screen.page.click("[id='test-destination.cloud']")
            await screen.page.wait_for_selector(".course-good")
            await screen.page.wait_for_selector(".course-bad")
            await screen.page.click("summary:has-text('For IT')")
            assert await screen.violations() == []
            assert not await screen.overflows()
            await screen.look(f"connections-tested-{size[0]}-{scheme}")


async def test_the_steps_of_a_test_come_up_where_it_was_begun(tmp_path: Path, browser: Chromium) -> None:
    with Storescp(tmp_path / "received", nodelay=True) as peer:
        async with served(tmp_path, pacs(peer.port)) as box, browser.screen(box.url, PHONE) as screen:
            await enter(screen)
            await screen.page.evaluate("window.mark = 'the same page'")
            button = screen.page.locator("[id='test-destination.pacs']")
            await button.focus()
            await screen.page.keyboard.press("Enter")
            await screen.page.wait_for_selector(".course-good")
            assert await screen.page.evaluate("window.mark") == "the same page"
            assert await screen.page.evaluate("document.activeElement.id") == "test-destination.pacs"
            told = await screen.page.inner_text(".course")
            assert "All is well." in told
            assert "C-ECHO" in told
            assert "Test of pacs: All is well." in await screen.page.inner_text("#said")
            assert "Test again" in await screen.page.inner_text("[id='test-destination.pacs']")


async def test_a_step_that_is_being_tried_is_seen(tmp_path: Path, browser: Chromium) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        slow = pacs(silent.getsockname()[1], timeouts=Timeouts(connect=4.0, response=4.0))
        async with served(tmp_path, slow) as box, browser.screen(box.url, DESK, scheme="dark") as screen:
            await enter(screen)
            await screen.page.click("[id='test-destination.pacs']")
            await screen.page.wait_for_selector(".step-next")
            told = await screen.page.inner_text(".course")
            assert "takes connections" in told
            assert "The next step is being tried" in told
            assert await screen.violations() == []
            await screen.look("connections-running")
            assert await screen.page.get_attribute("[id='test-destination.pacs']", "aria-disabled") == "true"
            await screen.page.wait_for_selector(".course-bad")
            told = await screen.page.inner_text(".course")
            assert "It failed at this step: association." in told
            assert "Whom to call" in told


async def test_a_pacs_that_does_not_know_us_tells_whom_to_call(tmp_path: Path, browser: Chromium) -> None:
    with Storescp(tmp_path / "received", nodelay=True, extra=["--refuse"]) as peer:
        async with served(tmp_path, pacs(peer.port)) as box, browser.screen(box.url, PHONE) as screen:
            await enter(screen)
            await screen.page.click("[id='test-destination.pacs']")
            await screen.page.wait_for_selector(".course-bad")
            told = await screen.page.inner_text(".step-bad")
            assert "What to do" in told
            assert "ASSOCIATION_REJECTED" in told
            assert await screen.violations() == []
            await screen.look("connections-rejected")


async def test_a_test_is_done_without_scripts(tmp_path: Path, browser: Chromium) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        slow = pacs(silent.getsockname()[1])
        async with served(tmp_path, slow) as box, browser.screen(box.url, PHONE, scripts=False) as screen:
            await enter(screen)
            await screen.page.click("[id='test-destination.pacs']")
            await screen.page.wait_for_url("**/connections?at=*#destination.pacs")
            await screen.page.wait_for_selector(".course-bad")
            assert "It failed at this step: association." in await screen.page.inner_text(".course")


async def test_a_destination_is_paused_by_keyboard_alone_after_a_second_question(
    tmp_path: Path, browser: Chromium
) -> None:
    async with served(tmp_path, pacs(free_port())) as box, browser.screen(box.url) as screen:
        await enter(screen)
        keyboard = screen.page.keyboard
        await screen.page.focus("[id='send-destination.pacs']")
        await keyboard.press("Tab")
        assert await screen.page.evaluate("document.activeElement.id") == "pausing-destination.pacs"
        await keyboard.press("Enter")
        await screen.page.wait_for_selector("[id='stop-destination.pacs']")
        assert box.fake_control.acted == []
        box.shown = msgspec.structs.replace(afternoon(), modalities=[])
        box.clock.pass_time(1)
        await screen.page.wait_for_selector("text=No modality")
        # what was opened stays open, and the focus where it was, while the page follows
        await keyboard.press("Tab")
        assert await screen.page.evaluate("document.activeElement.id") == "stop-destination.pacs"
        await keyboard.press("Enter")
        await screen.page.wait_for_selector("#told:not(:empty)")
        assert "is paused" in await screen.page.inner_text("#told")
        assert [(one.verb, one.choice.destination) for one in box.fake_control.acted] == [("pause", "pacs")]


async def test_who_was_logged_out_meanwhile_is_led_to_the_login(tmp_path: Path, browser: Chromium) -> None:
    async with served(tmp_path, pacs(free_port())) as box, browser.screen(box.url) as screen:
        await enter(screen)
        box.site.sessions.end_all()
        await screen.page.click("[id='test-destination.pacs']")
        await screen.page.wait_for_selector("#password")
        assert box.box.trials.all == {}
        screen.complaints = [one for one in screen.complaints if "403" not in one]


async def test_targets_are_large_enough_for_a_finger(tmp_path: Path, browser: Chromium) -> None:
    async with served(tmp_path, pacs(free_port())) as box, browser.screen(box.url, PHONE) as screen:
        await enter(screen)
        small = await screen.page.evaluate(
            """[...document.querySelectorAll('main a, main button, main summary')]
            .map(one => [one.textContent.trim(), one.getBoundingClientRect()])
            .filter(([_, box]) => box.height && (box.height < 44 || box.width < 24))
            .map(([text, box]) => `${text} ${box.height}`)"""
        )
        assert small == []


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
async def test_what_a_pacs_takes_is_read_on_a_phone_and_at_a_desk(
    tmp_path: Path, browser: Chromium, size: tuple[int, int]
) -> None:
    box = served(tmp_path, pacs(1), reading=cast("Reading", Answers()))
    async with box, browser.screen(box.url, size) as screen:
        await enter(screen)
        await screen.page.click("text=What it takes")
        await screen.page.wait_for_selector("h1:text-is('What pacs takes')")
        assert "JPEG Baseline" in await screen.text()
        assert await screen.violations() == []
        assert not await screen.overflows()
        await screen.look(f"takes-{size[0]}")
        await screen.page.click("text=Back to Connections")
        await screen.page.wait_for_selector("[id='test-destination.pacs']")
