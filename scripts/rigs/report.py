"""What a rig says while it runs and at its end, and the seed by which it can be repeated."""

import argparse
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_MOST_SHOWN: Final = 20
_SEEDS: Final = 1 << 32


def say(text: str) -> None:
    """Print a line at once."""
    print(text, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """Read a number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1")
    return number


def folder(text: str) -> Path:
    """Read the name of a folder that exists, for argparse."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path.resolve()


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed."""
    parser.add_argument("--seed", type=int, metavar="N", help="repeat the choices of an earlier run")


def dice(options: argparse.Namespace) -> tuple[int, random.Random]:
    """Give the seed asked for, or a new one, and what it makes."""
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(_SEEDS)
    return seed, random.Random(seed)


def conclude(rig: str, seed: int, did: Iterable[str], problems: Iterable[str]) -> int:
    """Print what was done, the verdict and the seed. Returns the exit code."""
    found = list(problems)
    for line in did:
        say(line)
    for problem in found[:_MOST_SHOWN]:
        say(f"  {problem}")
    if len(found) > _MOST_SHOWN:
        say(f"  … and {len(found) - _MOST_SHOWN} more")
    say(f"Verdict: {f'FAILED, {len(found)} problems' if found else 'nothing lost, nothing partial'}")
    say(f"Seed {seed}; the same choices again: scripts/rig {rig} --seed {seed}")
    return 1 if found else 0
