"""The issue as a technician lives it: the real appliance, a scanner that asks for commitment, a PACS that goes away.

With EDGE_SCREENSHOTS it makes the pictures of docs/images too: see scripts/screenshots.
"""

import asyncio
import re
from pathlib import Path

import pytest

from edge.app import appliance
from edge.status.lights import LIGHTS
from edge.store.studies import QUIET
from tests.browser import DESK, PHONE, WALL, Screen, chromium
from tests.clinic import Clinic, scan
from tests.web import PASSWORD

pytestmark = pytest.mark.rig

SOON = 60_000
"""Milliseconds in which a page is to have followed what happened."""


async def see(screen: Screen, text: str) -> None:
    """Wait until the page says so by itself: it is not loaded anew."""
    await screen.page.get_by_text(text).first.wait_for(timeout=SOON)


async def words(screen: Screen) -> str:
    return re.sub(r"\s+", " ", await screen.text())


async def keep(screen: Screen, name: str) -> None:
    """Keep a picture of what is in the window, with all that is on its way there."""
    await screen.page.evaluate("Promise.all([...document.images].map(one => one.decode().catch(() => 0)))")
    await screen.look(name, whole=False)


async def begin(screen: Screen, clinic: Clinic) -> None:
    """The box is new: the code of its label sets the password."""
    await screen.open("/login")
    await screen.page.fill("#code", await asyncio.to_thread(lambda: clinic.first_code))
    await screen.page.fill("#password", PASSWORD)
    await screen.page.fill("#again", PASSWORD)
    await screen.page.press("#again", "Enter")
    await see(screen, LIGHTS["G1"].text)


async def enter(screen: Screen, path: str) -> None:
    await screen.open(f"/login?next={path}")
    await screen.page.fill("#password", PASSWORD)
    await screen.page.press("#password", "Enter")
    await screen.page.wait_for_url(f"**{path}")


async def during_the_outage(screen: Screen, phone: Screen, wall: Screen) -> None:
    """Read the sentence, and that nothing may be deleted yet."""
    for one in (screen, wall):
        await see(one, LIGHTS["Y1"].text)
        await see(one, "41 images waiting")
        assert re.search(r"pacs unreachable since \d\d:\d\d\.", await words(one))
        assert not re.search(r"min left|kB/s", await words(one))
    await keep(screen, "now")
    await keep(wall, "wall")
    await enter(phone, "/studies")
    await see(phone, "Safe to delete: yes")
    assert "Safe to delete: not yet Not delivered yet: 41 of 41 for pacs." in await words(phone)
    await keep(phone, "phone")
    await screen.page.click("text=Studies")
    await screen.page.click("text=CT Abdomen")
    await see(screen, "Safe to delete: not yet")
    await see(screen, "Waiting to be sent")
    await keep(screen, "study")


async def a_late_study(screen: Screen, clinic: Clinic) -> None:
    """What is still coming is not safe, whatever was before."""
    await asyncio.to_thread(clinic.send, scan(3, "García^Luis", 1043, "CT Tórax"))
    await screen.page.click("text=Studies")
    await see(screen, "CT Tórax")
    assert (await words(screen)).count("Safe to delete: yes") == 2
    await keep(screen, "studies")


async def test_an_outage_from_the_first_image_to_safe_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the disk of whoever runs this is no part of the story
    monkeypatch.setattr(appliance, "doubts", lambda _: [])
    morning, ours = scan(6, "Rojas^Elena", 1041, "MR rodilla izquierda", "MR"), scan(41, "Quispe^María José", 1042)
    with Clinic(tmp_path) as clinic:
        async with (
            chromium() as browser,
            browser.screen(clinic.url, DESK) as screen,
            browser.screen(clinic.url, PHONE) as phone,
            browser.screen(clinic.url, WALL) as wall,
        ):
            await begin(screen, clinic)
            await wall.open("/?wall=1")
            await asyncio.to_thread(clinic.send, morning)
            await asyncio.to_thread(clinic.scanner.ask, morning)
            await see(screen, "Last image received")
            await asyncio.to_thread(clinic.pacs.wait_requests, 1)

            with clinic.outage():
                await asyncio.to_thread(clinic.send, ours)
                asked = await asyncio.to_thread(clinic.scanner.ask, ours)
                assert asked.status == 0
                await asyncio.to_thread(clinic.wait_recorded, len(morning) + len(ours))
                clinic.pass_time(QUIET)
                await during_the_outage(screen, phone, wall)
                assert clinic.scanner.reports(asked.transaction_uid) == []

            # it drains before the reader, without a click
            await see(screen, "Everything is through.")
            await see(screen, "All 41 images that the scanner named are verified by pacs.")
            await see(screen, "Safe to delete: yes")
            await see(wall, LIGHTS["G1"].text)
            heard = await asyncio.to_thread(clinic.scanner.wait_report, asked.transaction_uid)
            assert sorted(heard.report.uids) == sorted(one.sop_instance_uid for one in ours)
            assert {one.sop_instance_uid for one in ours} <= set(clinic.pacs.kept)

            await a_late_study(screen, clinic)
            await screen.page.click("text=System")
            await see(screen, "Clock")
            await keep(screen, "system")
