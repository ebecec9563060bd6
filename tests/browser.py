"""A real browser: Debian's Chromium, driven by Playwright, in the sizes and looks that people have.

One browser serves a module of tests, which share its event loop; every screen has cookies and storage of its own.

Every page that a test opens is listened to: what its console complains of, and every answer from elsewhere than the
box, fails the test. `look` keeps pictures where EDGE_SCREENSHOTS names a folder.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from tests.peers.ports import require

PHONE: Final = (390, 844)
WALL: Final = (1920, 1080)
DESK: Final = (1280, 900)
_AXE: Final[dict[str, Any]] = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}


class Screen:
    """One page of one browser. `complaints` is what was wrong with it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._url = url
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)

    async def open(self, path: str = "/") -> None:
        """Load a page of the box, scripts and all."""
        await self.page.goto(self._url + path)

    async def text(self) -> str:
        """What a person reads."""
        return await self.page.inner_text("body")

    async def box(self, selector: str, at: int = 0) -> tuple[float, float, float, float]:
        """Left, top, width and height of what matches, in pixels; asked at once, as pages renew themselves."""
        script = (
            "([selector, at]) => { const r = [...document.querySelectorAll(selector)].at(at).getBoundingClientRect();"
            " return [r.x, r.y, r.width, r.height]; }"
        )
        left, top, width, height = await self.page.evaluate(script, [selector, at])
        return left, top, width, height

    async def violations(self, *rules: str) -> list[str]:
        """What axe finds against WCAG 2.2 A and AA, and against good practice; or against some rules only."""
        found = await Axe().run(self.page, options={"runOnly": list(rules)} if rules else _AXE)
        return [
            f"{one['id']} ({one['impact']}): {[node['target'] for node in one['nodes']]}"
            for one in found.response["violations"]
        ]

    async def look(self, name: str, *, whole: bool = True) -> None:
        """Keep a picture, where pictures are wanted."""
        folder = os.environ.get("EDGE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - once a test
            await self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=whole)

    async def overflows(self) -> bool:
        """Whether the page is wider than its window."""
        return bool(
            await self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        )

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._url, "blob:", "data:")):
            self.complaints.append(f"asked {request.url}")


class Chromium:
    """The browser; every screen is a browser context of its own: other cookies, other storage."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @asynccontextmanager
    async def screen(
        self,
        url: str,
        size: tuple[int, int] = DESK,
        *,
        scheme: Literal["light", "dark"] = "light",
        language: str = "en-GB",
        scripts: bool = True,
        insecure: bool = False,
    ) -> AsyncIterator[Screen]:
        """Open a window of `size` pixels on the dashboard at `url`; in the end nothing may have been wrong with it."""
        context = await self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            locale=language,
            reduced_motion="reduce",
            java_script_enabled=scripts,
            ignore_https_errors=insecure,
        )
        try:
            context.set_default_timeout(15_000)
            screen = Screen(await context.new_page(), url)
            yield screen
            assert screen.complaints == []
        finally:
            await context.close()


@asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """Start the browser; skipped, or failed, where it is not installed."""
    path = require("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield Chromium(browser)
        finally:
            await browser.close()
