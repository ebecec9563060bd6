"""A box that updates are brought to, by a stick or from a server, and what is asked of it."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from box import keys, place
from box.boot import HOST
from box.qemu import Machine, MachineError
from box.toolbox import Toolbox
from box.trials.shelf import Shelf
from box.trials.stand import BOOT, Image, Stand, owes, until
from box.trials.variants import Variants

INSTALL: Final = 1800.0
"""Seconds that fetching, installing and a quiet minute may take together, under emulation."""
_STATE: Final = "/var/lib/edge-update"
_OBJECTS: Final = 5


class Box:
    """A provisioned box that updates can be brought to, with a shelf that has them."""

    def __init__(self, image: Image, toolbox: Toolbox, folder: Path) -> None:
        self.stand = Stand(image, toolbox, folder)
        signing = keys.trial(place.cache() / "trial-key")
        root = image.work / "rootfs.ext4"
        self.variants = Variants(image.arch, root, signing, toolbox=toolbox, folder=folder / "shelf")
        self.shelf = Shelf(folder / "shelf", HOST)
        self.problems: list[str] = []
        self._mark = 0

    @contextmanager
    def running(self, **more: Any) -> Iterator[Machine]:
        """Start it with its shelf; images were sent to it while there is no PACS."""
        self.stand.provision(more=f'\n[update]\nurl = "{self.shelf.url}"\n')
        with self.shelf, self.stand.running(**more) as machine:
            self.stand.serving()
            sent = self.stand.send(number=_OBJECTS)
            self.check(sent == _OBJECTS, f"{sent} of {_OBJECTS} images were answered 0000")
            until(lambda: good(machine), BOOT, "the first version is not marked good")
            self.trust(machine)
            yield machine

    def trust(self, machine: Machine) -> None:
        """Have root's side believe the shelf, until the next start: no clinic's server is on this bench."""
        text = base64.b64encode(self.shelf.certificate.read_bytes()).decode()
        ordered(machine, f"echo {text} | base64 -d > {_STATE}/shelf.pem")
        # of systemd itself, which hands it to what it starts: reading all units anew takes it longer, under emulation,
        # than the watchdog waits
        ordered(machine, f"systemctl set-environment SSL_CERT_FILE={_STATE}/shelf.pem")

    def bring(self, machine: Machine, bundle: Path) -> None:
        """Ask for a bundle from a file, as a person with a stick does."""
        at = f"/var/lib/edge/{bundle.name}"
        get = f"curl -sS --cacert {_STATE}/shelf.pem -o {at} {self.shelf.url}{bundle.name}"
        ordered(machine, f"{get} && chmod 644 {at}", seconds=600)
        self.mark(machine)
        ordered(machine, f"runuser -u edge -- edge update {at}", seconds=600)
        ordered(machine, f"rm {at}")

    def ask(self, machine: Machine, version: str) -> None:
        """Ask for a version from the server of the configuration."""
        self.mark(machine)
        ordered(machine, f"runuser -u edge -- edge update --version {version}", seconds=120)

    def mark(self, machine: Machine) -> None:
        """Count only starts from now on."""
        self._mark = machine.said

    def starts(self, machine: Machine, slot: str, seconds: float) -> None:
        """Wait until the boot script starts ``slot``. Raises `MachineError`."""
        self._mark = machine.expect(f"dicom-edge: starting slot {slot}", seconds, after=self._mark)

    def login(self, machine: Machine) -> None:
        """Wait for a shell of the start that was waited for last."""
        machine.login(BOOT, after=self._mark)

    def restart(self, machine: Machine) -> None:
        """Start it anew, as a person does."""
        self.mark(machine)
        ordered(machine, "systemctl reboot")

    def ends(self, machine: Machine, phase: str, seconds: float) -> dict[str, Any]:
        """Wait until the update is in ``phase``; what `edge update --json` says. Raises `MachineError`."""
        line = f'sleep 2; grep -q \'^{{"v":1,"phase":"{phase}"\' {_STATE}/state.json'
        try:
            until(lambda: machine.run(line)[0] == 0, seconds, "")
        except MachineError:
            _, journal = machine.run("journalctl -b -u edge-update -u edge-good -u rauc --no-pager | tail -40")
            raise MachineError(f"the update does not come to {phase}, it is {told(machine)}\n{journal}") from None
        return told(machine)

    def owes(self, machine: Machine) -> None:
        """See that every image is still in the queue."""
        self.problems.extend(owes(self.stand, machine))

    def delivers(self) -> None:
        """Let the PACS be there; see that every image comes. Raises `MachineError`."""
        with self.stand.receiver() as pacs:
            until(lambda: not self.stand.missing(pacs), BOOT, "images that were answered 0000 do not arrive")

    def check(self, right: bool, problem: str) -> None:  # noqa: FBT001
        """Note a problem unless it is right."""
        if not right:
            self.problems.append(problem)


def good(machine: Machine) -> bool:
    """Whether the running slot was marked good since its start."""
    said = ordered(machine, "sleep 2; /usr/lib/edge/bootenv get; cat /proc/cmdline")
    slot = said.partition("rauc.slot=")[2][:1]
    return f"BOOT_{slot}_LEFT=3" in said.splitlines()


def told(machine: Machine) -> dict[str, Any]:
    """`edge update --json` inside."""
    found: dict[str, Any] = json.loads(ordered(machine, "runuser -u edge -- edge update --json", seconds=120))
    return found


def ordered(machine: Machine, line: str, *, seconds: float = 60) -> str:
    """Run a command that is to go well. Raises `MachineError`."""
    code, text = machine.run(line, seconds=seconds)
    if code:
        raise MachineError(f"{line} ended with {code}: {text}")
    return text


def variables(machine: Machine) -> Mapping[str, str]:
    """What BOOTENV says inside. Raises `MachineError`."""
    said = ordered(machine, "/usr/lib/edge/bootenv get")
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
