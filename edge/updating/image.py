"""Whether this system is an image of two slots, and which of them runs: as the boot script said it to the kernel."""

import re
from pathlib import Path
from typing import Final

CMDLINE: Final = Path("/proc/cmdline")
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_SLOT: Final = re.compile(r"(?:^|\s)rauc\.slot=([AB])(?=\s|$)")
_OTHER: Final = {"A": "B", "B": "A"}


def booted(cmdline: Path = CMDLINE) -> str:
    """Return the slot that runs; empty where this is no image."""
    found = _SLOT.findall(_read(cmdline))
    return str(found[-1]) if found else ""


def other(slot: str) -> str:
    """Return the slot that does not run; empty for none."""
    return _OTHER.get(slot, "")


def boot_id(path: Path = BOOT) -> str:
    """Return what tells this start of the machine from any other; empty where it cannot be read."""
    return _read(path).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
