"""`scripts/rig disk`: disks that are full, out of inodes, failing, read-only or slow.

Each case makes its own small disk, or has strace fail calls, and says what the appliance must do then: refuse so that
the modality tries again, keep what it promised, and go on by itself when the disk is well again.
"""

import argparse
import random
import subprocess
import time
from pathlib import Path
from typing import Final

from scripts.rigs import preflight
from scripts.rigs.disk_cases import CASES, Bench
from scripts.rigs.report import add_seed, conclude, dice, folder, positive, say
from scripts.rigs.volume import CommandFailedError, Workshop
from tests.peers.program import PeerFailedError

HELP: Final = "disks that are full, failing, read-only or slow"
_BROKEN: Final = (TimeoutError, PeerFailedError, CommandFailedError, OSError, subprocess.SubprocessError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the rig's own arguments."""
    what = "; ".join(f"{name}: {case.what}" for name, case in CASES.items())
    parser.add_argument("--case", type=_names, default=list(CASES), metavar="LIST", help=f"some of: {what}")
    parser.add_argument("--points", type=positive, metavar="K", help="only K of the calls that are failed in turn; all")
    parser.add_argument("--image-dir", type=folder, metavar="FOLDER", help="where images go; the temporary folder")
    add_seed(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; 0 where everything was as it must be. Raises `MissingError`."""
    preflight.loop_devices()
    preflight.tracer()
    seed, chance = dice(options)
    did: list[str] = []
    problems: list[str] = []
    with Workshop(options.image_dir) as workshop:
        for name in options.case:
            found, told = attempt(name, workshop, random.Random(chance.random()), options.points)
            say(told)
            for problem in found:
                say(f"    {problem}")
            did.append(told)
            problems += found
    return conclude("disk", seed, did, problems)


def attempt(
    name: str, workshop: Path, chance: random.Random, most: int | None, *, quick: bool = False
) -> tuple[list[str], str]:
    """Run one case. Returns what was wrong, and a line about it."""
    begun = time.monotonic()
    place = workshop / name
    place.mkdir()
    bench = Bench(place, chance, most, quick=quick)
    try:
        CASES[name].run(bench)
    except _BROKEN as e:
        bench.problems.append(f"{e}")
    problems = [f"{name}: {problem}" for problem in bench.problems]
    if bench.open_again:
        bench.facts.append(f"open again within {max(bench.open_again):.1f} s")
    facts = "; ".join(bench.facts)
    verdict = f"{len(problems)} problems" if problems else "as it must be"
    return problems, f"  {name} ({CASES[name].what}): {verdict}. {facts}; {time.monotonic() - begun:.0f} s"


def _names(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",")]
    if unknown := [name for name in chosen if name not in CASES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: it takes some of {', '.join(CASES)}")
    return chosen
