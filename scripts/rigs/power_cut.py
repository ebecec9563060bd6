"""`scripts/rig power-cut`: the power goes at random instants, under four modalities, again and again.

The appliance lives on an ext4 of its own. A cut is SIGSTOP, the shutdown ioctl without a flush (nothing that was not
synced reaches the image any more), then SIGKILL. After each cut the journal is replayed, and the files are read before
anything else may touch them; then the appliance starts on what is left. The PACS is up in some rounds only, so that
forwarding and deletion are cut too; at the end of each image's life it comes up and all that was promised must arrive.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.rigs import oracle, preflight
from scripts.rigs.report import add_seed, conclude, dice, folder, positive, say
from scripts.rigs.site import Senders, Site
from scripts.rigs.volume import CommandFailedError, Volume, Workshop
from tests.peers.program import PeerFailedError
from tests.peers.raw import RawReceiver

HELP: Final = "cut the power at random instants while four modalities send"
_MEGABYTES: Final = 512
_SENDERS: Final = 4
_MOST: Final = 200
"""Objects of each sender in a round: ten rounds fit the image."""
_LONGEST: Final = 1.0
"""Seconds of sending after which the power goes at the latest."""
_ARRIVAL: Final = 120.0
_PACS_UP: Final = 0.4
_DELETING: Final = 0.5
_TORN: Final = 0.25
_PAGE: Final = 4096
_KEEP_NOTHING: Final = 'keep_delivered = "0s"'
_KEEP: Final = 'keep_delivered = "72h"'


@dataclass
class _Tally:
    """What was done and what was found."""

    cuts: int = 0
    torn: int = 0
    images: int = 0
    promised: int = 0
    delivered: int = 0
    deleted: int = 0
    starts: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the rig's own arguments."""
    parser.add_argument("--rounds", type=positive, default=200, metavar="N", help="power cuts; 200")
    parser.add_argument("--image-rounds", type=positive, default=10, metavar="N", help="cuts of one image; 10")
    parser.add_argument("--image-dir", type=folder, metavar="FOLDER", help="where images go; the temporary folder")
    parser.add_argument("--torn", action="store_true", help="sometimes garble the end of the database's log too")
    parser.add_argument("--check", action="store_true", help="run e2fsck after each cut")
    add_seed(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; 0 where nothing was lost. Raises `MissingError`."""
    preflight.loop_devices()
    seed, chance = dice(options)
    tally = _Tally()
    say(f"{options.rounds} power cuts, seed {seed}")
    with Workshop(options.image_dir) as workshop:
        left = options.rounds
        while left and not tally.problems:
            rounds = min(left, options.image_rounds)
            left -= rounds
            tally.images += 1
            with _storage(workshop / f"image{tally.images}") as (site, volume):
                _Life(site, volume, chance, tally, options).live(rounds)
    return conclude("power-cut", seed, _summary(tally), [*tally.problems, *oracle.late(tally.starts)])


@contextmanager
def _storage(folder: Path) -> Iterator[tuple[Site, Volume]]:
    """Give an appliance whose storage is an image of its own."""
    folder.mkdir()
    with ExitStack() as stack:
        pacs = stack.enter_context(RawReceiver(reserve=True))
        site = Site(folder, pacs)
        volume = stack.enter_context(Volume(folder / "disk.img", site.edge.storage, _MEGABYTES))
        stack.callback(site.edge.kill)
        yield site, volume


class _Life:
    """All rounds of one image."""

    def __init__(
        self, site: Site, volume: Volume, chance: random.Random, tally: _Tally, options: argparse.Namespace
    ) -> None:
        self.site, self.volume, self.chance, self.tally = site, volume, chance, tally
        self.torn, self.check = bool(options.torn), bool(options.check)
        self.pacs_up = True

    def live(self, rounds: int) -> None:
        """Cut ``rounds`` times, then let everything arrive."""
        try:
            self._start()
            for _ in range(rounds):
                self._round()
                if self.tally.problems:
                    break
            else:
                self._arrive()
        except (TimeoutError, PeerFailedError, CommandFailedError) as e:
            self.tally.problems.append(str(e))
        tally, ledger = self.tally, self.site.ledger
        tally.promised += len(ledger.promised)
        tally.delivered += len(ledger.promised & oracle.delivered(self.site.pacs))
        tally.answers += ledger.answers

    def _round(self) -> None:
        site, tally = self.site, self.tally
        begun = time.monotonic()
        senders = Senders(site, self.chance, _SENDERS, _MOST)
        before = len(site.ledger.promised)
        senders.start()
        time.sleep(self.chance.uniform(0.02, _LONGEST))
        # nothing is answered once the power is gone; a sync that the cut interrupts may claim to have succeeded
        site.edge.freeze()
        self.volume.cut()
        site.edge.kill()
        senders.stop()
        tally.cuts += 1
        promised = len(site.ledger.promised) - before
        self.volume.unmount()
        if self.check:
            self.volume.mount()  # which replays the journal
            self.volume.unmount()
            self.volume.check()
        self.volume.mount()
        if self.torn and self.chance.random() < _TORN:
            tally.torn += _tear(site.edge.storage / "db" / "edge.sqlite-wal", self.chance)
        files = oracle.look(site.edge.storage)
        tally.problems += oracle.kept(site.ledger, site.pacs, files)
        self._switch_pacs(up=self.chance.random() < _PACS_UP)
        site.configure(_KEEP_NOTHING if self.chance.random() < _DELETING else _KEEP)
        taken = self._start()
        tally.problems += oracle.wait_matching(site.edge.storage)
        say(
            f"  cut {tally.cuts}: {promised} promised, {len(files.ready)} files and {len(files.waiting)} parts left, "
            f"ready in {taken:.2f} s, PACS {'up' if self.pacs_up else 'down'}, {time.monotonic() - begun:.1f} s in all"
        )

    def _arrive(self) -> None:
        """Bring the PACS up and leave the appliance alone."""
        self._switch_pacs(up=True)
        tally, site = self.tally, self.site
        tally.problems += oracle.wait_delivered(site.ledger, site.pacs, _ARRIVAL)
        tally.problems += oracle.wait_matching(site.edge.storage)
        tally.deleted += oracle.states(site.edge.storage).get("expired", 0)
        site.edge.stop()
        tally.problems += oracle.kept(site.ledger, site.pacs, oracle.look(site.edge.storage))

    def _start(self) -> float:
        taken = self.site.start()
        self.tally.starts.append(taken)
        return taken

    def _switch_pacs(self, *, up: bool) -> None:
        if up != self.pacs_up:
            (self.site.pacs.start if up else self.site.pacs.stop)()
            self.pacs_up = up


def _tear(log: Path, chance: random.Random) -> bool:
    """Garble the last page of the database's log, as a sector that was being written may be; whether there was one."""
    if not log.exists() or log.stat().st_size < _PAGE:
        return False
    with log.open("r+b") as file:
        at = log.stat().st_size - chance.randrange(1, _PAGE)
        file.seek(at)
        if chance.random() < 0.5:  # noqa: PLR2004 - one or the other
            file.truncate()
        else:
            file.write(chance.randbytes(log.stat().st_size - at))
    return True


def _summary(tally: _Tally) -> list[str]:
    starts = sorted(tally.starts)
    lines = [
        f"{tally.cuts} power cuts on {tally.images} images, {tally.torn} with a torn log.",
        f"{tally.promised} objects answered 0000, {tally.delivered} delivered, {tally.deleted} then deleted here.",
        "Answers: " + ", ".join(f"{how} {count}" for how, count in sorted(tally.answers.items())),
    ]
    if starts:
        middle = starts[len(starts) // 2]
        lines.append(f"Start until an object was answered: {middle:.2f} s in the middle, {starts[-1]:.2f} s at most.")
    if tally.images and not tally.deleted:
        lines.append("Nothing was deleted: keep_delivered is not in this version.")
    return lines
