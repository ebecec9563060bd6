"""What is on all screens: fragments of pages, rendered once a second for all who see the same, sent when they change.

Nothing is taken or rendered while nobody looks. A stream keeps no backlog: it has the number of what it sent last, and
sends what is on the screens when its reader is ready. A beat follows every round in which the box knew how it is, so a
page that hears none knows that what it shows is old.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import structlog

from edge.web.box import Box
from edge.web.glimpse import Glimpse
from edge.web.language import Language
from edge.web.page import Fragment, Glance, Page
from edge.web.render import Renderer

MOST: Final = 32
"""Streams at once."""
EVERY: Final = 1.0
"""Seconds between two rounds."""
_PATIENCE: Final = 5.0
"""Seconds that a fragment may take."""
BEAT: Final = 5.0
"""Seconds between two beats, at most."""

log = structlog.get_logger()


class Shown(msgspec.Struct, frozen=True):
    """A fragment as it is now; ``number`` grows with each change."""

    number: int
    html: str


_Key = tuple[str, str, bool, str]
"""Fragment, language, inside, about."""


class Stream:
    """One screen that looks at ``page``; ``alive`` tells whether it still may."""

    def __init__(
        self, page: Page, language: Language, alive: Callable[[], bool], *, inside: bool, about: str = ""
    ) -> None:
        self.page = page
        self.language = language
        self.inside = inside
        self.about = about
        self.alive = alive
        self.round = asyncio.Event()
        self.sent: dict[str, int] = {}
        self.over = False
        """Whether it has given way to another."""

    def key(self, fragment: Fragment) -> _Key:
        """What is rendered for it, and for all who see the same."""
        return (fragment.name, self.language.code, self.inside, self.about)


class Screens:
    """Renders fragments while somebody looks."""

    def __init__(self, box: Box, renderer: Renderer, glimpse: Glimpse) -> None:
        self._box = box
        self._renderer = renderer
        self._glimpse = glimpse
        self._streams: dict[Stream, None] = {}
        """The oldest first."""
        self._shown: dict[_Key, Shown] = {}
        self._number = 0
        self._failed: set[_Key] = set()
        """What could not be rendered in the last round."""
        self._watched = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether there are as many streams as may be."""
        return len(self._streams) >= MOST

    def make_room(self, *, inside: bool) -> bool:
        """Whether one more may look: for who is logged in, the oldest of those who are not gives way."""
        if not self.full:
            return True
        oldest = next((one for one in self._streams if not one.inside), None) if inside else None
        if oldest is None:
            return False
        del self._streams[oldest]
        oldest.over = True
        oldest.round.set()
        return True

    async def whole(self, page: Page, language: Language, *, inside: bool, about: str = "") -> dict[str, str]:
        """Render every fragment of ``page`` for its first sight, by name, each in its element. Raises `StoreError`."""
        seen = Stream(page, language, lambda: True, inside=inside, about=about)
        return {one.name: _holder(one.name, await self._render(one, seen)) for one in page.fragments}

    async def follow(self, stream: Stream) -> AsyncIterator[bytes]:
        """Give what ``stream`` is sent, as server-sent events, until its reader is gone or may not look any more."""
        self._streams[stream] = None
        self._watched.set()
        clock = self._box.clock
        beaten = clock.monotonic()
        try:
            # the time until a browser connects again, and a first byte by which it knows that it is connected
            yield b"retry: 2000\n\n"
            while True:
                await stream.round.wait()
                stream.round.clear()
                if stream.over:
                    return
                if not stream.alive():
                    yield _event("gone", "")
                    return
                changed = self._changed(stream)
                for event in changed:
                    yield event
                if self._knows(stream) and (changed or clock.monotonic() - beaten >= BEAT):
                    beaten = clock.monotonic()
                    yield _event("beat", "")
        finally:
            self._streams.pop(stream, None)

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            await self._watched.wait()
            while self._streams:
                await self._round()
                await asyncio.sleep(EVERY)
            self._watched.clear()
            self._shown.clear()

    async def _round(self) -> None:
        wanted = {stream.key(one): (one, stream) for stream in self._streams for one in stream.page.fragments}
        failed = set()
        for key, (fragment, stream) in wanted.items():
            try:
                async with asyncio.timeout(_PATIENCE):
                    self._put(key, await self._render(fragment, stream))
            except Exception:
                # the fault of one page stops no other; who looks at it hears no beat
                failed.add(key)
                if key in self._failed:
                    continue
                log.exception("a screen cannot be kept current", fragment=fragment.name)
        self._failed = failed
        for key in self._shown.keys() - wanted.keys():
            del self._shown[key]
        for stream in self._streams:
            stream.round.set()

    def _put(self, key: _Key, html: str) -> None:
        before = self._shown.get(key)
        if before is None or before.html != html:
            self._number += 1
            self._shown[key] = Shown(self._number, html)

    def _knows(self, stream: Stream) -> bool:
        """Whether everything on it was found out in the last round."""
        return not any(stream.key(one) in self._failed for one in stream.page.fragments)

    def _changed(self, stream: Stream) -> list[bytes]:
        found = []
        for fragment in stream.page.fragments:
            shown = self._shown.get(stream.key(fragment))
            if shown is not None and stream.sent.get(fragment.name) != shown.number:
                stream.sent[fragment.name] = shown.number
                found.append(_event("fragment", _json(fragment.name, shown.html)))
        return found

    async def _render(self, fragment: Fragment, stream: Stream) -> str:
        glance = Glance(
            snapshot=await self._glimpse.now(inside=stream.inside),
            box=self._box,
            language=stream.language,
            inside=stream.inside,
            about=stream.about,
            now=self._box.clock.now(),
            paces=self._glimpse.paces,
        )
        values = {"snapshot": glance.snapshot, "inside": stream.inside, **await fragment.view(glance)}
        return self._renderer.render(fragment.template, stream.language, glance.now, values)


def _holder(name: str, html: str) -> str:
    return f'<div id="f-{name}" class="fragment">{html}</div>'


def _json(name: str, html: str) -> str:
    return msgspec.json.encode({"id": f"f-{name}", "html": html}).decode()


def _event(name: str, data: str) -> bytes:
    """One server-sent event; ``data`` has no line end, as JSON has none."""
    return f"event: {name}\ndata: {data}\n\n".encode()
