"""The appliance looks at what root's side writes down, and tells it: as a report, an event for each change, a finding.

Which changes were told stands beside the requests, so that one that was made while the program did not run is told
too, and each once. A record that cannot be read says nothing new.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edge.clock import Clock, iso
from edge.events import Event, updated
from edge.findings import Journal
from edge.fsync import replace_synced
from edge.messages import UpdateReport
from edge.phrase import say
from edge.store import StoreError
from edge.updating.reasons import sentence
from edge.updating.state import State, read_state
from edge.updating.wanted import FOLDER

LOOK: Final = 3.0
"""Seconds between two looks."""
REMEMBERED: Final = 7 * 86_400.0
"""Seconds for which a roll-back is a finding, unless another update is begun."""
_TOLD: Final = "told"
_CODE: Final = "UPDATE_ROLLED_BACK"
_PART: Final = "update"
_PLAUSIBLE: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


class UpdateWatch:
    """Watches the record at ``path`` for an appliance on ``storage``."""

    def __init__(
        self,
        storage: Path,
        path: Path,
        slot: str,
        journal: Journal,
        clock: Clock,
        *,
        tell: Callable[[Sequence[Event]], Awaitable[None]],
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        """``slot``: empty where this is no image. ``tell`` writes events. ``run`` does something in a thread."""
        self.slot = slot
        self._told = storage / FOLDER / _TOLD
        self._path = path
        self._journal = journal
        self._clock = clock
        self._tell = tell
        self._run = run
        self._state = State()
        self._seen_since: tuple[str, float] = ("", 0.0)

    def report(self) -> UpdateReport:
        """Tell how updates are, as far as it was looked at."""
        state, now = self._state, iso(self._clock.now())
        if not self.slot:
            return UpdateReport(phase="unsupported", from_="", to="", slot="", ts=now)
        return UpdateReport(
            phase=state.phase,
            from_=state.from_,
            to=state.to,
            slot=state.slot or self.slot,
            reason=state.reason,
            ts=state.since or now,
        )

    async def run(self) -> None:
        """Look until cancelled; where this is no image there is nothing to look at."""
        while self.slot:
            await self.look()
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        """Look once. A store or a disk that fails is told the next time."""
        self._state = state = await self._run(lambda: read_state(self._path))
        self._find(state)
        with contextlib.suppress(StoreError, OSError):
            told = await self._run(self._read_told)
            last = state.changes[-1].n if state.changes else 0
            if last == told:
                return
            # a record that was begun anew counts from one again
            news = [change for change in state.changes if change.n > told or last < told]
            await self._tell([updated(c.phase, before=c.from_, after=c.to, slot=c.slot, reason=c.reason) for c in news])
            await self._run(lambda: self._write_told(last))

    def _find(self, state: State) -> None:
        if state.phase != "rolled-back" or self._is_old(state):
            self._journal.clear(_CODE, _PART)
            return
        detail = say(
            "{to} was tried, and {from_} runs again: {why}.",
            to=state.to,
            from_=state.from_,
            why=sentence(state.reason),
        )
        self._journal.state(_CODE, _PART, detail)

    def _is_old(self, state: State) -> bool:
        """Whether it was long ago: by the wall clock where both times can be believed, else since it was first seen."""
        if self._seen_since[0] != state.since:
            self._seen_since = (state.since, self._clock.monotonic())
        if self._clock.monotonic() - self._seen_since[1] >= REMEMBERED:
            return True
        try:
            since = datetime.fromisoformat(state.since).timestamp()
        except ValueError:
            return False
        return since > _PLAUSIBLE and self._clock.trusted() and self._clock.now() - since >= REMEMBERED

    def _read_told(self) -> int:
        try:
            text = self._told.read_text("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return 0
        return int(text) if text.isdecimal() and len(text) < 10 else 0  # noqa: PLR2004 - a number that fits

    def _write_told(self, number: int) -> None:
        self._told.parent.mkdir(mode=0o700, exist_ok=True)
        replace_synced(self._told, b"%d\n" % number, 0o600)
