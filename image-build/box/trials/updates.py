"""Updates through the boot script, RAUC and two slots: taken, refused, taken back, and never at the cost of an image.

The versions have one schema: an older program on a newer database can be tried once there is a second one.
"""

import os
import subprocess
import time
import zlib
from pathlib import Path
from typing import Final

from box import keys
from box.qemu import Machine
from box.toolbox import Toolbox
from box.trials.brought import INSTALL, Box, good, ordered, told, variables
from box.trials.stand import BOOT, Image, Stand, status, until
from box.trials.variants import BROKEN, MUTE, NEWER
from scripts.rigs.report import say

HELP: Final = (
    "updates: to another version and back, a wrong signature, versions that do not start, a torn boot environment"
)

_JUDGED: Final = 900.0
"""Seconds after the start of a version on trial within which it is taken back: five minutes that count, and starts."""
_COPY: Final = 0x4000
_OFFSETS: Final = (0, 4 << 20)


def taken(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """A bundle of another signer is refused; one of ours runs on trial, is good, and is taken back by hand later."""
    box = Box(image, toolbox, folder)
    foreign = box.variants.foreign(keys.trial(folder / "stranger"))
    newer = box.variants.newer()
    with box.running() as machine:
        box.bring(machine, foreign)
        found = box.ends(machine, "failed", INSTALL)
        box.check(found["reason"] == "BAD_SIGNATURE", f"a foreign signature: {found['reason']} ({found['text']})")
        box.check(variables(machine)["BOOT_ORDER"] == "A B", "a foreign bundle changed what starts next")
        say(f"updates: a foreign bundle is refused: {found['text']}")
        began = time.monotonic()
        box.bring(machine, newer)
        box.starts(machine, "B", INSTALL)
        say(f"updates: {NEWER} is started {time.monotonic() - began:.0f} s after it was asked for")
        box.login(machine)
        found = box.ends(machine, "done", BOOT)
        say(f"updates: {NEWER} is good {time.monotonic() - began:.0f} s after it was asked for")
        box.check((found["running"], found["booted"]) == (NEWER, "B"), f"after the update: {found}")
        left = variables(machine)
        box.check((left["BOOT_ORDER"], left["BOOT_B_LEFT"]) == ("B A", "3"), f"after the update: {left}")
        box.owes(machine)
        # back to the version before, as who is at the box may do
        ordered(machine, "/usr/lib/edge/bootenv set-state B bad")
        box.restart(machine)
        box.starts(machine, "A", BOOT)
        box.login(machine)
        box.stand.serving()
        found = told(machine)
        box.check((found["running"], found["booted"]) == ("0.1.0", "A"), f"after going back: {found}")
        box.owes(machine)
        box.delivers()
    return box.problems


def taken_back(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """A version whose service ends at once, fetched over a line that breaks; then one of which nothing runs at all."""
    box = Box(image, toolbox, folder)
    broken, mute = box.variants.broken(), box.variants.mute()
    with box.running() as machine:
        box.shelf.break_at = broken.stat().st_size // 2
        box.ask(machine, BROKEN)
        _comes_back(box, machine, BROKEN, "SERVICE_DOWN")
        again = [offset for name, offset in box.shelf.asked if name == broken.name]
        box.check(len(again) == 2 and again[1] > 0, f"after the line broke it was fetched from {again}")  # noqa: PLR2004
        box.trust(machine)
        box.bring(machine, mute)
        _comes_back(box, machine, MUTE, "FELL_BACK")
        box.delivers()
    return box.problems


def _comes_back(box: Box, machine: Machine, version: str, reason: str) -> None:
    box.starts(machine, "B", INSTALL)
    began = time.monotonic()
    box.starts(machine, "A", _JUDGED + BOOT)
    say(f"updates: {version} is taken back {time.monotonic() - began:.0f} s after its start")
    box.login(machine)
    box.stand.serving()
    found = box.ends(machine, "rolled-back", BOOT)
    box.check(found["reason"] == reason, f"{version} was taken back for {found['reason']}, and not for {reason}")
    box.check(version in found["rolled_back"], f"{version} is not remembered: {found['rolled_back']}")
    codes = {one["code"] for one in status(machine)["findings"]}
    box.check("UPDATE_ROLLED_BACK" in codes, f"edge status does not tell of it: {sorted(codes)}")
    until(lambda: good(machine), BOOT, f"slot A is not good after {version}")
    box.owes(machine)


def falls_back(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """Slot B panics, then does not even load: its tries run out, and the box is back in A by itself."""
    box = Box(image, toolbox, folder)
    stand = box.stand
    stand.provision()
    panicking = box.variants.changed("panicking", {"/boot/initrd.img": os.urandom(1 << 20)})
    start, _ = stand.card.part("rootfs_b")
    _written(panicking, stand.card.path, start)
    stand.card.change({"BOOT_ORDER": "B A", "BOOT_B_LEFT": "2"})
    with stand.running(login=False) as machine:
        began, at = time.monotonic(), 0
        for left in (1, 0):
            at = machine.expect(f"dicom-edge: starting slot B, tries left after this one: {left}", BOOT, after=at)
            at = machine.expect("Kernel panic", BOOT, after=at)
        at = machine.expect("dicom-edge: slot B has no tries left", BOOT, after=at)
        at = machine.expect("dicom-edge: starting slot A", BOOT, after=at)
        say(f"updates: slot B panicked twice, and slot A is started after {time.monotonic() - began:.0f} s")
        machine.login(BOOT, after=at)
        stand.serving()
        until(lambda: good(machine), BOOT, "slot A is not marked good")
        left_a = variables(machine)["BOOT_A_LEFT"]
        box.check(left_a == "3", f"slot A has {left_a} tries")
    _put(stand, "rootfs_b", 0, bytes(1 << 20))
    stand.card.change({"BOOT_ORDER": "B A", "BOOT_B_LEFT": "2"})
    with stand.running(login=False) as machine:
        at = machine.expect("dicom-edge: slot B has no kernel that can be read", BOOT)
        machine.expect("Linux version", BOOT, after=machine.expect("dicom-edge: starting slot A", BOOT, after=at))
        say("updates: a slot B that does not load is passed over in the same start")
    return box.problems


def torn(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """Either copy of the boot environment is torn, then both: the box starts, and both are whole again afterwards."""
    stand = Stand(image, toolbox, folder)
    stand.provision()
    problems: list[str] = []
    for copies in ((0,), (1,), (0, 1)):
        for copy in copies:
            # power went when half of it was written
            _put(stand, "BOOTENV", _OFFSETS[copy] + _COPY // 64, os.urandom(_COPY // 2))
        with stand.running(login=False) as machine:
            machine.expect("Linux version", BOOT, after=machine.expect("dicom-edge: starting slot A", BOOT))
            if len(copies) == len(_OFFSETS):
                machine.login(BOOT)
                stand.serving()
                until(lambda: good(machine), BOOT, "the slot is not marked good")
        whole, says = _whole(stand), stand.card.environment()
        if whole != [True, True]:
            problems.append(f"copies {copies} were torn, and afterwards whole are {whole}")
        if says["BOOT_ORDER"] != "A B" or says["BOOT_B_LEFT"] != "3" or says["BOOT_A_LEFT"] == "0":
            problems.append(f"copies {copies} were torn, and afterwards it says {says}")
        say(f"updates: copies {copies} of the boot environment torn: the box starts, and whole are {whole}")
    return problems


TRIALS: Final = (taken, taken_back, falls_back, torn)


def _put(stand: Stand, part: str, offset: int, content: bytes) -> None:
    start, _ = stand.card.part(part)
    with stand.card.path.open("r+b") as disk:
        disk.seek(start + offset)
        disk.write(content)


def _written(file: Path, disk: Path, offset: int) -> None:
    told = [f"if={file}", f"of={disk}", "bs=4M", "oflag=seek_bytes", f"seek={offset}", "conv=notrunc,sparse"]
    subprocess.run(["dd", "status=none", *told], check=True)


def _whole(stand: Stand) -> list[bool]:
    """Whether each copy of the boot environment has its checksum."""
    start, _ = stand.card.part("BOOTENV")
    found = []
    with stand.card.path.open("rb") as disk:
        for offset in _OFFSETS:
            disk.seek(start + offset)
            block = disk.read(_COPY)
            found.append(zlib.crc32(block[4:]).to_bytes(4, "little") == block[:4])
    return found
