"""`scripts/rig kill`: SIGKILL at every call by which the appliance changes its storage, one after another.

Each scenario is run once under strace to list its calls; then again for every one of them, on a fresh copy of the same
storage, and ended as it enters that call. What is left is read before anything else may touch it, the appliance is
started on it, and all that was ever answered 0000 must arrive.
"""

import argparse
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.rigs import oracle, preflight
from scripts.rigs.ledger import Ledger
from scripts.rigs.report import add_seed, conclude, dice, folder, positive, say
from scripts.rigs.scenarios import SCENARIOS, NotHereError, Scenario, names
from scripts.rigs.site import STORAGE, Site
from scripts.rigs.template import THROUGH, Template
from scripts.rigs.tracing import Point, dead, killed, striking
from scripts.rigs.volume import Workshop
from tests.peers.ports import wait_for
from tests.peers.program import PeerFailedError
from tests.peers.raw import RawReceiver

HELP: Final = "SIGKILL at every file-system call of a receive, a forward, a start, a deletion"
_TRIES: Final = 12
"""Runs until a point is given up: which of two threads writes first may differ from run to run."""
_ARRIVAL: Final = 60.0
_NAMED: Final = 5
"""Points that were not hit and are named."""


@dataclass
class Result:
    """What became of one scenario."""

    name: str
    recorded: list[Point] = field(default_factory=list)
    """Every call of a run to its end."""
    swept: int = 0
    missed: list[Point] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    absent: str = ""
    """Why it could not be run, where it could not."""
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """Points at which the appliance died."""
        return self.swept - len(self.missed)

    def __str__(self) -> str:
        """One line about it."""
        if self.absent:
            return f"{self.name}: not in this version: {self.absent}"
        longest = f"{max(self.starts):.2f} s" if self.starts else "none"
        return (
            f"{self.name}: {len(self.recorded)} calls, {self.swept} tried, {self.kills} kills, slowest start "
            f"{longest}, {self.seconds:.0f} s"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the rig's own arguments."""
    what = "; ".join(f"{scenario.name}: {scenario.what}" for scenario in SCENARIOS.values())
    parser.add_argument("--scenario", type=names, default=list(SCENARIOS), metavar="LIST", help=f"some of: {what}")
    parser.add_argument("--points", type=positive, metavar="K", help="only K calls of each scenario, by the seed; all")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="appliances at a time; 2")
    parser.add_argument("--folder", type=folder, metavar="FOLDER", help="where storages go; the temporary folder")
    add_seed(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; 0 where nothing was lost. Raises `MissingError`."""
    preflight.tracer()
    seed, chance = dice(options)
    say(f"killing at file-system calls, seed {seed}")
    results = []
    with Workshop(options.folder) as workshop:
        for name in options.scenario:
            most = options.points
            result = sweep(SCENARIOS[name], workshop, random.Random(chance.random()), most=most, jobs=options.jobs)
            say(f"  {result}")
            results.append(result)
    kills = sum(result.kills for result in results)
    problems = [f"{result.name}: {problem}" for result in results for problem in result.problems]
    return conclude("kill", seed, [f"{kills} kills.", *map(str, results)], problems)


def sweep(scenario: Scenario, workshop: Path, chance: random.Random, *, most: int | None, jobs: int) -> Result:
    """Kill at every point of ``scenario``, or at ``most`` of them."""
    begun = time.monotonic()
    result = Result(scenario.name)
    place = workshop / scenario.name
    place.mkdir()
    try:
        template = Template(scenario, place)
        found = template.record()
    except NotHereError as e:
        result.absent = str(e)
        return result
    except (TimeoutError, PeerFailedError) as e:
        result.problems.append(f"without any kill: {e}")
        return result
    result.recorded = found
    chosen = found if most is None or most >= len(found) else sorted(chance.sample(found, most), key=found.index)
    result.swept = len(chosen)
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(_Sweep(template, place).strike, range(len(chosen)), chosen):
            result.problems += [f"killed at {outcome.point}: {problem}" for problem in outcome.problems]
            result.starts += outcome.starts
            if not outcome.hit:
                result.missed.append(outcome.point)
    if result.missed:
        named = ", ".join(map(str, result.missed[:_NAMED])) + (", …" if len(result.missed) > _NAMED else "")
        result.problems.append(
            f"{len(result.missed)} of {result.swept} calls did not come in {_TRIES} runs each, so nothing is known of "
            f"a kill there: {named}"
        )
    result.problems += oracle.late(result.starts)
    shutil.rmtree(place, ignore_errors=True)
    result.seconds = time.monotonic() - begun
    return result


@dataclass
class _Outcome:
    """What became of one point."""

    point: Point
    hit: bool = False
    starts: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Sweep:
    """Runs of one scenario that end at a point each."""

    def __init__(self, template: Template, place: Path) -> None:
        self._template, self._place = template, place

    def strike(self, number: int, point: Point) -> _Outcome:
        """Kill at ``point`` and look."""
        outcome = _Outcome(point)
        for attempt in range(_TRIES):
            place = self._place / f"{number}.{attempt}"
            try:
                self._once(place, point, outcome)
            except (PeerFailedError, TimeoutError) as e:
                outcome.problems.append(str(e))
            shutil.rmtree(place, ignore_errors=True)
            if outcome.hit or outcome.problems:
                break
        return outcome

    def _once(self, place: Path, point: Point, outcome: _Outcome) -> None:
        log = place.with_suffix(".log")
        with RawReceiver(reserve=True) as pacs:
            site = self._template.site(place, pacs, striking(place / STORAGE, point, log))
            try:
                self._template.work(site)
                wait_for(lambda: dead(site.edge.pid) or self._template.scenario.done(site), THROUGH, "the end")
            except (PeerFailedError, TimeoutError):
                pass  # it died, or did not get anywhere: the log says
            finally:
                site.edge.kill()
            outcome.hit = killed(log)
            if outcome.hit:
                self._look(place, pacs, site.ledger, outcome)

    def _look(self, place: Path, pacs: RawReceiver, ledger: Ledger, outcome: _Outcome) -> None:
        """Read what the kill left, start on it, and let everything arrive."""
        if not pacs.running:
            pacs.start()
        site = Site(place, pacs, ledger=ledger, watched=self._template.scenario.watched)
        storage = site.edge.storage
        site.released()
        outcome.problems += oracle.kept(ledger, pacs, oracle.look(storage))
        try:
            outcome.starts.append(site.start())
            outcome.problems += oracle.wait_matching(storage)
            if site.export.exists():
                outcome.problems += oracle.wait_taken(site.export, storage)
                site.released()
            outcome.problems += oracle.wait_delivered(ledger, pacs, _ARRIVAL)
        finally:
            site.edge.kill()
        outcome.problems += oracle.kept(ledger, pacs, oracle.look(storage))
