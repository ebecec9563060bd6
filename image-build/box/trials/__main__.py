"""`image-build/test --full`: every trial of the box, for hours; each can be asked for by its name."""

import importlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from box import keys, package, place
from box.build import build as build_all
from box.build import console, prepare
from box.qemu import MachineError
from box.rootfs import Arch
from box.toolbox import BuildError, Toolbox, toolbox
from box.trials.stand import Image
from scripts.rigs.report import say

_MODULES: Final = ("starts", "cuts", "updates", "hangs", "sticks", "at_rest", "boards")
_ARM: Final = frozenset({"updates", "sticks.update", "boards"})
"""Only with the real boot script, which is that of the boards."""
_AMD: Final = frozenset({"at_rest.tpm"})
"""Only where Debian's kernel has a driver for the TPM of QEMU."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    image: Image
    toolbox: Toolbox
    folder: Path
    rounds: int
    dice: random.Random


Trial = Callable[..., list[str]]


def trials(names: tuple[str, ...], arch: Arch) -> Iterator[tuple[str, Trial]]:
    """The trials of ``names`` (MODULE or MODULE.TRIAL), all where it is empty. Raises `click.UsageError`."""
    known = dict(_all(arch))
    if not names:
        yield from known.items()
    for name in names:
        found = {key: trial for key, trial in known.items() if name in {key, key.partition(".")[0]}}
        if not found:
            raise click.UsageError(f"There is no trial {name} for {arch}. There are: {', '.join(known)}")
        yield from found.items()


def _all(arch: Arch) -> Iterator[tuple[str, Trial]]:
    for name in _MODULES:
        module = importlib.import_module(f"box.trials.{name}")
        for trial in module.TRIALS:
            whole = f"{name}.{trial.__name__}"
            if not {name, whole} & (_AMD if arch == "arm64" else _ARM):
                yield whole, trial


@click.command()
@click.option("--full", is_flag=True, help="Every trial, for hours.")
@click.option("--only", multiple=True, metavar="NAME", help="This one (MODULE or MODULE.TRIAL), and others so named.")
@click.option("--arch", type=click.Choice(["arm64", "amd64"]), default="arm64", show_default=True, help="Which image.")
@click.option("--rounds", default=20, show_default=True, help="Power cuts of each kind.")
@click.option("--seed", type=int, help="Repeat the choices of an earlier run.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=place.OUT, help="Folder of the build.")
@click.option("--keep", is_flag=True, help="Try what was built before instead of building it first.")
def main(
    only: tuple[str, ...], arch: Arch, rounds: int, seed: int | None, out: Path, *, full: bool, keep: bool
) -> None:
    """Harm a box in QEMU on purpose, and look whether it kept its word."""
    if not full and not only:
        raise click.UsageError("Say --full, or --only NAME.")
    wanted = list(trials(only, arch))
    chosen = seed if seed is not None else random.SystemRandom().randrange(1 << 32)
    try:
        prepare(arch, out)
        image = _image(arch, out, keep=keep)
        choice = Choice(
            image=image, toolbox=toolbox(), folder=out / "trials", rounds=rounds, dice=random.Random(chosen)
        )
        failed = [name for name, trial in wanted if not _passed(name, trial, choice)]
    except BuildError as e:
        console.print(f"error: {e}", style="red", markup=False)
        raise SystemExit(1) from None
    verdict = f"FAILED: {', '.join(failed)}" if failed else f"{len(wanted)} trials, nothing lost"
    say(f"Verdict: {verdict}; seed {chosen}")
    raise SystemExit(1 if failed else 0)


def _image(arch: Arch, out: Path, *, keep: bool) -> Image:
    version = package.own_version()
    made = out / f"dicom-edge-{version}-{arch}.img"
    if not (keep and made.exists()):
        build_all(arch, version=version, signing=keys.trial(place.cache() / "trial-key"), out=out)
    return Image(arch=arch, image=made, work=out / f"work-{arch}", bundle=made.with_suffix(".raucb"))


def _passed(name: str, trial: Trial, choice: Choice) -> bool:
    began = time.monotonic()
    folder = choice.folder / name
    more = {"rounds": choice.rounds, "dice": choice.dice} if name.startswith("cuts.") else {}
    try:
        problems = trial(choice.image, choice.toolbox, folder, **more)
    except MachineError as e:
        problems = [str(e)]
    say(f"{time.monotonic() - began:6.0f} s  {name}: {'ok' if not problems else 'FAILED'}")
    for problem in problems:
        say(f"          {problem}")
    if not problems:
        shutil.rmtree(folder, ignore_errors=True)
    return not problems


if __name__ == "__main__":
    main()
