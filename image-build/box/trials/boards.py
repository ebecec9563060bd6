"""Boards: as much of a Raspberry Pi as QEMU has. No network there, so its serial console is asked."""

import os
import shutil
from pathlib import Path
from typing import Final

from box.disk import BOOT_SCRIPT, boot_script
from box.qemu import Hardware, Machine
from box.toolbox import Toolbox
from box.trials.brought import good, ordered
from box.trials.stand import BOOT, Image, Stand, status, until
from box.trials.starts import healthy
from scripts.rigs.report import say

HELP: Final = "boards: the Raspberry Pi 3 of QEMU, with a light and a real-time clock on its pins"

_BOOT: Final = 1500.0
"""Seconds: this machine of QEMU is slow."""
_CARD: Final = 8 * 1024**3
"""Bytes; QEMU takes powers of two only."""
_CONSOLES: Final = "console=ttyS1,115200"
_TREE: Final = "bcm2837-rpi-3-b.dtb"
_LIGHT: Final = """
[lights]
driver = "leds"
red = "edge:red"
green = "edge:green"
blue = "edge:blue"
"""
_CLOCK: Final = ("-device", "ds1338,bus=i2c-bus.1,address=0x68", "-rtc", "base=2027-05-05T12:00:00")
"""What QEMU has that its driver takes for a DS3231; nobody else could know its date."""
_MORE: Final = (
    # the login of docs/hardware.md for the desk
    " systemd.set_credential=agetty.autologin:root systemd.set_credential=login.noauth:yes"
    # that of QEMU does not count, but resets as soon as it is started
    " systemd.watchdog_sec=0"
    # the console itself may be found late: QEMU reads cards slowly
    " systemd.default_device_timeout_sec=900"
)


def raspberry_pi(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """From the SD card by the board's U-Boot and device tree to the service, its light, and the time of its clock."""
    stand = Stand(image, toolbox, folder)
    os.truncate(stand.card.path, _CARD)
    stand.provision(more=_LIGHT)
    _open_console(stand)
    board = _wired(stand, image.work / "firmware")
    hardware = Hardware(arch=image.arch, disk=stand.card.path, board=board, extra=_CLOCK)
    with Machine(hardware, toolbox, folder) as machine:
        machine.login(_BOOT)
        until(lambda: machine.run("systemctl is-active edge")[0] == 0, BOOT, "the service is not active")
        until(lambda: good(machine), BOOT, "the slot is not marked good")
        problems = healthy(machine)
        if not status(machine)["intake"]["open"]:
            problems.append("the service takes no images")
        if not ordered(machine, "ss -Hltn sport = :11112"):
            problems.append("nobody listens on the port for DICOM")
        model = ordered(machine, "tr -d '\\0' < /proc/device-tree/model")
        if "Raspberry Pi 3" not in model:
            problems.append(f"it is no Raspberry Pi 3 but {model!r}")
        date = ordered(machine, "date +%F")
        if not date.startswith("2027-05"):
            problems.append(f"it has not the time of its clock, but {date}")
        problems.extend(_light(machine))
    return problems


def _wired(stand: Stand, firmware: Path) -> Path:
    """A folder with U-Boot and the device tree with overlays, as the board's own firmware would make it."""
    board = stand.folder / "board"
    board.mkdir()
    shutil.copy(firmware / "u-boot.bin", board)
    overlays = [firmware / "overlays" / f"{name}.dtbo" for name in ("edge-light", "rtc-ds3231")]
    argv: list[str | Path] = ["fdtoverlay", "-i", firmware / _TREE, "-o", board / _TREE, *overlays]
    log = stand.folder / "tree.log"
    stand.toolbox.run(argv, log=log, what="Wiring the board", binds=[stand.folder, firmware])
    return board


def _light(machine: Machine) -> list[str]:
    """What is wrong with the LEDs; white is what they are before anybody sets them."""
    told = status(machine)
    unusable = [one["text"] for one in told["findings"] if one["code"] == "LIGHT_UNUSABLE"]
    blue, green, red = ordered(machine, "cat /sys/class/leds/edge:*/brightness").split()
    triggers = ordered(machine, r"grep -o '\[.*\]' /sys/class/leds/edge:*/trigger").split()
    code = told["light"]["code"]
    say(f"boards: the light is {code}; blue {blue}, green {green}, red {red}, {' '.join(triggers)}")
    if code == "G1" and (blue, green, red) != ("0", "1", "0"):
        unusable.append(f"the light is G1, and blue, green, red are {blue}, {green}, {red}")
    return unusable


def _open_console(stand: Stand) -> None:
    """Put a boot script on the card by which root is at the serial console. Raises `BuildError`."""
    text, made = stand.folder / "boot.cmd", stand.folder / "boot.scr"
    text.write_text(BOOT_SCRIPT.read_text().replace(_CONSOLES, _CONSOLES + _MORE))
    log = stand.folder / "boot.log"
    stand.toolbox.run(boot_script(text, made), log=log, what="Making a boot script", binds=[stand.folder])
    stand.card.put([made])


TRIALS: Final = (raspberry_pi,)
