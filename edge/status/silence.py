"""A finding about modalities of which nothing was heard for as long as the configuration says: a cable, a new address.

What was heard before this start is learnt from the store, a little at a time. Time for which the box itself was off
counts, but not before it has listened for an hour. A modality that never sent anything is measured from the start.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from edge.board import Board, ModalityGauge
from edge.clock import Clock
from edge.config import Config
from edge.findings import Journal
from edge.intake.callers import Callers
from edge.phrase import say, say_n
from edge.store import Reading, StoreError
from edge.store.outlook import Heard, heard, latest_id

_EVERY: Final = 10.0
_REST: Final = 0.1
"""Seconds between two parts of the store: others want to read too."""
_LISTENED: Final = 3600.0
_CODE: Final = "MODALITY_SILENT"


class SilenceWatch:
    """Watches the modalities of the configuration."""

    def __init__(self, config: Config, reading: Reading, board: Board, journal: Journal, clock: Clock) -> None:
        self._callers = Callers(config, board)
        self._after = {m.name: m.silent_after for m in config.modality if m.silent_after is not None}
        self._reading = reading
        self._board = board
        self._journal = journal
        self._clock = clock
        self._began = clock.monotonic()
        self._known = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                if not self._known:
                    await self.remember()
                self.look()
            except StoreError:
                pass  # said by the store's keeper
            await asyncio.sleep(_EVERY)

    async def remember(self) -> None:
        """Learn when each modality was heard before this start. Raises `StoreError`."""
        upto = await latest_id(self._reading) if self._clock.trusted() else 0
        while upto and (missing := self._missing()):
            found, upto = await heard(self._reading, [gauge.ae_title for gauge in missing], upto)
            self._note(found)
            await asyncio.sleep(_REST)
        self._known = self._clock.trusted()

    def look(self) -> None:
        """Judge by the monotonic clock. Until what was before is known, nobody is silent."""
        now = self._clock.monotonic()
        for name, after in self._after.items():
            gauge = self._board.modalities[name]
            since = self._began if gauge.heard is None else gauge.heard
            silent = now - since >= after and now - self._began >= min(after, _LISTENED)
            if self._known and silent:
                self._journal.state(_CODE, f"modality.{name}", _told(name, now - since, gauge))
            elif not silent:
                self._journal.clear(_CODE, f"modality.{name}")

    def _missing(self) -> list[ModalityGauge]:
        return [gauge for gauge in self._board.modalities.values() if gauge.object_at is None]

    def _note(self, found: Sequence[Heard]) -> None:
        ahead = self._clock.monotonic() - self._clock.now()
        for one in sorted(found, key=lambda one: one.at):
            gauge = self._callers.modality(one.calling, one.address)
            if gauge is None:
                continue
            # what was heard since this start stays
            gauge.object_at = max(gauge.object_at or 0.0, one.at)
            if gauge.heard is None or gauge.heard < one.at + ahead <= self._began:
                gauge.heard, gauge.heard_at, gauge.address = one.at + ahead, one.at, one.address


def _told(name: str, seconds: float, gauge: ModalityGauge) -> str:
    days, hours = divmod(int(seconds // 3600), 24)
    long = say_n("a day", "{n} days", days) if days else say_n("an hour", "{n} hours", max(1, hours))
    if gauge.heard_at is not None:
        return say("{name} is silent: for more than {long} nothing was heard of it.", name=name, long=long)
    return say("{name} is silent: for more than {long} it was never heard of.", name=name, long=long)
