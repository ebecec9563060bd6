"""Boards: as much of a Raspberry Pi as QEMU has. No network there, so the serial console is asked."""

import os
from pathlib import Path
from typing import Final

from box.qemu import Hardware, Machine
from box.toolbox import Toolbox
from box.trials.stand import Image, Stand

HELP: Final = "boards: the Raspberry Pi 3 of QEMU"

_BOOT: Final = 1500.0
"""Seconds: this machine of QEMU is slow."""
_CARD: Final = 8 * 1024**3
"""Bytes; QEMU takes powers of two only."""


def raspberry_pi(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """From the SD card by the board's U-Boot and device tree to the service that listens."""
    stand = Stand(image, toolbox, folder)
    os.truncate(stand.card.path, _CARD)
    stand.provision()
    hardware = Hardware(arch=image.arch, disk=stand.card.path, board=image.work / "firmware")
    with Machine(hardware, toolbox, folder) as machine:
        machine.expect("dicom-edge", _BOOT)
        machine.expect("Started edge.service", _BOOT)
    return [] if stand.card.environment()["BOOT_A_LEFT"] in {"2", "3"} else ["the boot script counted no try"]


TRIALS: Final = (raspberry_pi,)
