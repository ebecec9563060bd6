"""How fast requests are served, all readers together: who floods the dashboard takes no time from images.

A burst is served at once; beyond it requests take turns, in the order in which they came. Where the wait would be long,
the answer is 503 at once.
"""

import asyncio
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

RATE: Final = 50.0
"""Requests a second, in the long run."""
BURST: Final = 150.0
"""Requests at once, after a rest."""
LONGEST: Final = 1.5
"""Seconds that a request may wait."""


class Pace:
    """Serves requests in turns, by the time of the event loop (virtual scheduling, as in ITU-T I.371)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._due = float("-inf")
        """When the last request was, or is, due at this rate."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it in its turn, or answer 503."""
        now = asyncio.get_running_loop().time()
        due = max(self._due + 1 / RATE, now - BURST / RATE)
        if due - now > LONGEST:
            busy = PlainTextResponse("Too many ask at once. Try again.\n", 503, headers={"Retry-After": "2"})
            await busy(scope, receive, send)
            return
        self._due = due
        if due > now:
            await asyncio.sleep(due - now)
        await self._app(scope, receive, send)
