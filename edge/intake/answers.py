"""Whether a watched folder answers: a pass that waits for a share that hangs cannot tell, and waits as long as it does.

Its file system is asked on the side, now and then; what answers with an error answers. A folder that does not is the
finding WATCH_MISSING until it does again.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from edge.clock import Clock
from edge.findings import Journal
from edge.phrase import say
from edge.threads import aside

SILENCE: Final = 30.0
"""Seconds after which a folder that has not answered is said not to; it is asked three times as often."""


class Answers:
    """What one folder owes us."""

    def __init__(self, path: Path, component: str, journal: Journal, clock: Clock) -> None:
        self._path = path
        self._component = component
        self._journal = journal
        self._clock = clock
        self._since = float("inf")

    @contextlib.contextmanager
    def expected(self) -> Iterator[None]:
        """Expect an answer, in a pass, for as long as the body runs."""
        self._since = self._clock.monotonic()
        try:
            yield
        finally:
            self._since = float("inf")

    async def run(self) -> None:
        """Ask until cancelled."""
        told = False
        while True:
            asked = asyncio.ensure_future(_answer(self._path))
            await asyncio.wait((asked,), timeout=SILENCE)
            if not asked.done() or self._clock.monotonic() - self._since > SILENCE:
                self._journal.state(
                    "WATCH_MISSING", self._component, say("{path}: it does not answer", path=self._path)
                )
                told = True
                await asyncio.wait((asked,))
            elif told:
                # should it be missing in another way, the next pass says so
                self._journal.clear("WATCH_MISSING", self._component)
                told = False
            await asyncio.sleep(SILENCE / 3)


async def _answer(path: Path) -> None:
    """Wait until the file system of ``path`` answers."""
    # a thread of its own: those of the watch may all be waiting
    with contextlib.suppress(OSError):
        await aside(partial(os.statvfs, path))
