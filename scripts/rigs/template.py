"""A scenario's storage, made once, and runs of the appliance on copies of it under strace."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scripts.rigs.ledger import Ledger
from scripts.rigs.scenarios import Scenario
from scripts.rigs.site import STORAGE, Site
from scripts.rigs.tracing import Point, Traced, points, recording
from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver, Received

THROUGH: Final = 20.0
"""Seconds for a scenario's work, where nothing is done to it."""


class Template:
    """A scenario's storage below ``place``. Making it raises `NotHereError`, TimeoutError, PeerFailedError."""

    def __init__(self, scenario: Scenario, place: Path) -> None:
        self.scenario = scenario
        self._place = place
        with RawReceiver(reserve=True) as pacs:
            site = Site(place / "template", pacs)
            scenario.prepare(site)
            self._ledger = site.ledger
            self._received: Sequence[Received] = list(pacs.received)
        self._storage = site.edge.storage

    def record(self) -> list[Point]:
        """Run it once to its end; the calls it makes. Raises TimeoutError, PeerFailedError where it fails."""
        scenario, place = self.scenario, self._place / "record"
        log = self._place / "record.log"
        with RawReceiver(reserve=True) as pacs:
            site = self.site(place, pacs, recording(log))
            try:
                self.work(site)
                wait_for(lambda: scenario.done(site), THROUGH, scenario.what)
            finally:
                site.edge.kill()
        found = points(log, site.edge.storage, after=scenario.after)
        shutil.rmtree(place)
        return found

    def site(self, place: Path, pacs: RawReceiver, wrapper: Sequence[str]) -> Site:
        """Give an appliance on a copy of the storage, to be run under ``wrapper``, and a PACS that has what it had."""
        place.mkdir()
        if self._storage.exists():
            shutil.copytree(self._storage, place / STORAGE, symlinks=True, ignore=_special)
        ledger = Ledger()
        ledger.adopt(self._ledger)
        pacs.received.extend(self._received)
        return Site(
            place,
            pacs,
            store=self.scenario.store,
            ledger=ledger,
            kind=Traced,
            wrapper=wrapper,
            watched=self.scenario.watched,
        )

    def work(self, site: Site) -> None:
        """Start the appliance and give it its work."""
        if not self.scenario.pacs:
            site.pacs.stop()
        site.edge.start()
        self.scenario.drive(site)


def _special(folder: str, entries: list[str]) -> list[str]:
    """What is no plain file: the socket of the command line."""
    return [name for name in entries if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]
