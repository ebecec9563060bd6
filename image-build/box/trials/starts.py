"""Starts: a new box, one without a network, one that does not know the time, one whose disk is full."""

import re
from pathlib import Path
from typing import Final

from box.qemu import Machine, MachineError
from box.toolbox import Toolbox
from box.trials.stand import BOOT, Image, Stand, status, until

HELP: Final = "starts: new, offline, at 1970, with a full disk"


def new(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """A card with a provision.toml: read-only root, no failed unit, an image delivered, the light green."""
    stand = Stand(image, toolbox, folder)
    stand.provision()
    problems: list[str] = []
    with stand.receiver() as pacs, stand.running() as machine:
        stand.serving()
        if stand.send(number=5) != 5:  # noqa: PLR2004
            problems.append("not every image was answered 0000")
        until(lambda: not stand.missing(pacs), BOOT, "the images do not arrive")
        problems.extend(healthy(machine))
        until(lambda: status(machine)["light"]["code"] == "G1", BOOT, "the light does not turn G1")
        if open_ports := _opened(machine):
            problems.append(f"something else than the service listens: {open_ports}")
    answer = stand.card.read("provision-result.txt") or ""
    if "bench-box" not in answer or "bench-box-1" in answer:
        problems.append(f"the answer on the card is not what it should be: {answer!r}")
    if stand.card.read("provision.toml") is not None:
        problems.append("provision.toml still lies on the card")
    return problems


def offline(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """Nothing answers, ever: images are taken, and delivered once there is a PACS."""
    stand = Stand(image, toolbox, folder)
    stand.provision()
    problems: list[str] = []
    with stand.running(network=False) as machine:
        stand.serving()
        stand.send(number=5)
        problems.extend(healthy(machine))
        if (queued := status(machine)["queue"]["instances"]) != len(stand.acknowledged):
            problems.append(f"{len(stand.acknowledged)} were acknowledged and {queued} are queued")
    with stand.receiver() as pacs, stand.running():
        until(lambda: not stand.missing(pacs), BOOT, "what was taken offline does not arrive")
    return problems


def nineteen_seventy(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """The clock of the machine says 1970: images are taken, delivered, and nothing is deleted for its age."""
    stand = Stand(image, toolbox, folder)
    stand.provision()
    problems: list[str] = []
    with stand.receiver() as pacs, stand.running(clock="1970-01-01T00:00:00") as machine:
        stand.serving()
        stand.send(number=5)
        until(lambda: not stand.missing(pacs), BOOT, "the images do not arrive")
        if status(machine)["clock"]["trusted"]:
            problems.append("a clock that nobody set is trusted")
        problems.extend(healthy(machine))
    return problems


def full(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """The data partition is full: images are refused, the version is not taken back, and room opens the door again."""
    stand = Stand(image, toolbox, folder)
    stand.provision()
    problems: list[str] = []
    with stand.receiver() as pacs, stand.running() as machine:
        stand.serving()
        stand.send(number=3)
        until(lambda: not stand.missing(pacs), BOOT, "the images do not arrive")
        machine.run("dd if=/dev/zero of=/data/filler bs=1M; sync", seconds=BOOT)
        until(lambda: not status(machine)["intake"]["open"], BOOT, "intake stays open on a full disk")
        if stand.send(number=1):
            problems.append("an image was answered 0000 on a full disk")
    with stand.receiver() as pacs, stand.running() as machine:
        # it waits for its disk, and says so; that is no reason to take a version back
        asked = "systemctl show -p StatusText edge"
        until(lambda: "not receiving" in _said(machine, asked), BOOT, "the service does not wait")
        if stand.send(number=1):
            problems.append("an image was answered 0000 while the service waits for its disk")
        machine.run("rm /data/filler; sync", seconds=BOOT)
        stand.serving()
        until(lambda: bool(status(machine)["intake"]["open"]), BOOT, "intake stays closed where there is room again")
        stand.send(number=2)
        until(lambda: not stand.missing(pacs), BOOT, "the images do not arrive")
        problems.extend(healthy(machine))
    if stand.card.environment()["BOOT_A_LEFT"] == "0":
        problems.append("a full disk cost the slot its tries")
    return problems


def healthy(machine: Machine) -> list[str]:
    """What is wrong with a box that runs: failed units, a root that can be written, a firewall that is open."""
    problems = [
        f"a unit failed: {line}" for line in _said(machine, "systemctl --failed --no-legend --plain").splitlines()
    ]
    code, text = machine.run("touch /etc/it /usr/it")
    if not code:
        problems.append(f"the root can be written: {text}")
    if "policy drop" not in _said(machine, "nft list chain inet edge input"):
        problems.append("the firewall is not there")
    return problems


def _opened(machine: Machine) -> list[str]:
    """Ports that something else than the service listens at, not counting those of the box alone."""
    lines = _said(machine, "ss -Hltnp").splitlines()
    return [line for line in lines if not re.search(r' 127\.|\[::1\]|"edge"', line)]


def _said(machine: Machine, line: str) -> str:
    code, text = machine.run(line, seconds=120)
    if code:
        raise MachineError(f"{line} ended with {code}: {text}")
    return text


TRIALS: Final = (new, offline, nineteen_seventy, full)
