"""Boards: as much of a Raspberry Pi as QEMU has. No network there, so its serial console is asked."""

import os
from pathlib import Path
from typing import Final

from box.disk import BOOT_SCRIPT, boot_script
from box.qemu import Hardware, Machine
from box.toolbox import Toolbox
from box.trials.brought import good, ordered
from box.trials.stand import BOOT, Image, Stand, status, until
from box.trials.starts import healthy

HELP: Final = "boards: the Raspberry Pi 3 of QEMU"

_BOOT: Final = 1500.0
"""Seconds: this machine of QEMU is slow."""
_CARD: Final = 8 * 1024**3
"""Bytes; QEMU takes powers of two only."""
_CONSOLES: Final = "console=ttyS1,115200"
_MORE: Final = (
    # the login of docs/hardware.md for the desk
    " systemd.set_credential=agetty.autologin:root systemd.set_credential=login.noauth:yes"
    # that of QEMU does not count, but resets as soon as it is started
    " systemd.watchdog_sec=0"
)


def raspberry_pi(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """From the SD card by the board's U-Boot and device tree to the service, which is asked how it is."""
    stand = Stand(image, toolbox, folder)
    os.truncate(stand.card.path, _CARD)
    stand.provision()
    _open_console(stand)
    hardware = Hardware(arch=image.arch, disk=stand.card.path, board=image.work / "firmware")
    with Machine(hardware, toolbox, folder) as machine:
        machine.login(_BOOT)
        until(lambda: machine.run("systemctl is-active edge")[0] == 0, BOOT, "the service is not active")
        until(lambda: good(machine), BOOT, "the slot is not marked good")
        problems = healthy(machine)
        if not status(machine)["intake"]["open"]:
            problems.append("the service takes no images")
        if not ordered(machine, "ss -Hltn sport = :11112"):
            problems.append("nobody listens on the port for DICOM")
        board = ordered(machine, "tr -d '\\0' < /proc/device-tree/model")
        if "Raspberry Pi 3" not in board:
            problems.append(f"it is no Raspberry Pi 3 but {board!r}")
    return problems


def _open_console(stand: Stand) -> None:
    """Put a boot script on the card by which root is at the serial console. Raises `BuildError`."""
    text, made = stand.folder / "boot.cmd", stand.folder / "boot.scr"
    text.write_text(BOOT_SCRIPT.read_text().replace(_CONSOLES, _CONSOLES + _MORE))
    log = stand.folder / "boot.log"
    stand.toolbox.run(boot_script(text, made), log=log, what="Making a boot script", binds=[stand.folder])
    stand.card.put([made])


TRIALS: Final = (raspberry_pi,)
