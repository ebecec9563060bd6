"""Sticks by USB: images on one are delivered, a bundle on one is an update, and nothing is written to either."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from box.qemu import Machine, MachineError
from box.toolbox import Toolbox
from box.trials.brought import INSTALL, Box
from box.trials.stand import BOOT, Image, Stand, status, until
from box.trials.starts import healthy
from box.trials.variants import NEWER
from scripts.rigs.report import say
from tests.peers.objects import DicomObject, tiny

HELP: Final = "sticks: images on a stick, and an update on one"

_ROOM: Final = 1024**3
"""Bytes of a stick; only what is written takes room."""
_FIRST: Final = 1024**2
"""Where its only partition starts."""
_PORT: Final = ("-device", "qemu-xhci,id=usb")
_READ: Final = 300.0
"""Seconds within which a stick is read, under emulation."""


class Stick:
    """A stick with a FAT partition, as they are sold, and ``files`` in a folder of it or at its top."""

    def __init__(self, path: Path, files: Sequence[Path], toolbox: Toolbox, *, folder: str = "") -> None:
        self.path = path
        self._tools = toolbox
        path.write_bytes(b"")
        os.truncate(path, _ROOM)
        self._do("sh", "-c", f"echo 2048,,c | sfdisk --quiet {path}")
        room = f"{(_ROOM - _FIRST) // 1024}"
        self._do("mkfs.vfat", "-F", "32", "-n", "STICK", f"--offset={_FIRST // 512}", path, room)
        at = f"{path}@@{_FIRST}"
        if folder:
            self._do("mmd", "-i", at, f"::/{folder}")
        self._do("mcopy", "-i", at, *files, f"::/{folder}", binds=[one.parent for one in files])
        self._made = self._digest()

    def put_in(self, machine: Machine) -> None:
        """Put it into the box."""
        file = {"driver": "file", "filename": str(self.path)}
        _told(machine, "blockdev-add", **{"node-name": "stick", "driver": "raw", "file": file})
        _told(machine, "device_add", driver="usb-storage", bus="usb.0", drive="stick", removable=True, id="stick")

    def pull_out(self, machine: Machine) -> None:
        """Take it out, whatever the box does with it."""
        _told(machine, "device_del", id="stick")

    @property
    def untouched(self) -> bool:
        """Whether it holds what it did when it was made."""
        return self._digest() == self._made

    def _do(self, *argv: str | Path, binds: Sequence[Path] = ()) -> None:
        what = f"Making a stick with {argv[0]}"
        self._tools.run(argv, log=self.path.with_suffix(".log"), what=what, binds=[self.path.parent, *binds])

    def _digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def images(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """A stick with images that is put in is read and delivered, and the light says when it may be taken out."""
    stand = Stand(image, toolbox, folder)
    stand.provision()
    problems: list[str] = []
    objects = list(tiny(20))
    stick = Stick(folder / "stick.img", _written(objects, folder), toolbox, folder="DICOM")
    with stand.receiver() as pacs, stand.running(extra=_PORT) as machine:
        stand.serving()
        stick.put_in(machine)
        until(lambda: _light(machine) == "B3", _READ, "the light does not say that the stick may be taken out")
        stick.pull_out(machine)
        stand.acknowledged |= {one.sop_instance_uid: one.wire_digest for one in objects}
        until(lambda: not stand.missing(pacs), _READ, "the images of the stick do not arrive")
        say(f"sticks: the {len(objects)} images of a stick arrived")
        problems.extend(healthy(machine))
    if not stick.untouched:
        problems.append("something was written to the stick")
    return problems


def update(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """A bundle on a stick that stays in the box is taken once; what is queued is kept, images beside it are taken."""
    box = Box(image, toolbox, folder)
    objects = list(tiny(5))
    stick = Stick(folder / "stick.img", [box.variants.newer(), *_written(objects, folder)], toolbox)
    with box.running(extra=_PORT) as machine:
        box.mark(machine)
        stick.put_in(machine)
        box.starts(machine, "B", INSTALL)
        box.login(machine)
        found = box.ends(machine, "done", BOOT)
        box.check((found["running"], found["booted"]) == (NEWER, "B"), f"after the update: {found}")
        box.stand.acknowledged |= {one.sop_instance_uid: one.wire_digest for one in objects}
        box.delivers()
        say("sticks: the update of a stick was taken, and the images beside it arrived")
        box.problems.extend(healthy(machine))
    box.check(stick.untouched, "something was written to the stick")
    return box.problems


TRIALS: Final = (images, update)


def _written(objects: Sequence[DicomObject], folder: Path) -> list[Path]:
    return [one.write(folder / f"IM{number:06}") for number, one in enumerate(objects)]


def _light(machine: Machine) -> str:
    code: str = status(machine)["light"]["code"]
    return code


def _told(machine: Machine, execute: str, **arguments: object) -> None:
    if machine.monitor(execute, **arguments) != {}:
        raise MachineError(f"QEMU does not do {execute}; is there no such device?")
