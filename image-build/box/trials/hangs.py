"""What hangs is started again by itself: the service by systemd, the machine by its watchdog or its kernel."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from box.qemu import Machine
from box.toolbox import Toolbox
from box.trials.brought import good, ordered
from box.trials.stand import BOOT, Image, Stand, owes, until
from scripts.rigs.report import say

HELP: Final = "hangs: a service that is stopped, a machine whose programs get no time, a kernel that panics"

_OBJECTS: Final = 5
_SERVICE: Final = 240.0
"""Seconds after which a hung service serves again: 30 of the watchdog, 30 to end, and a start under emulation."""
_WATCHDOG: Final = 100.0
"""Seconds after which a hung machine is reset: 60 of the watchdog, which QEMU's has, and what the bench takes."""
_PANIC: Final = 60.0
"""Seconds after which a kernel that panics starts anew: 10, and the same."""
# also what the kernel keeps for ordinary programs beside those of real time
_STARVE: Final = (
    "sysctl -qw kernel.sched_rt_runtime_us=-1;"
    " mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug;"
    " for one in /sys/kernel/debug/sched/fair_server/cpu*/runtime; do echo 0 > $one; done;"
    " for cpu in 0 1; do setsid taskset -c $cpu chrt -f 99 sh -c 'sleep 2; while :; do :; done' & done; sleep 1"
)


@contextmanager
def _queued(stand: Stand, problems: list[str]) -> Iterator[Machine]:
    """A box that was sent images while there is no PACS."""
    stand.provision()
    with stand.running() as box:
        stand.serving()
        sent = stand.send(number=_OBJECTS)
        if sent != _OBJECTS:
            problems.append(f"{sent} of {_OBJECTS} images were answered 0000")
        yield box


def _restarted(box: Machine, pid: str) -> bool:
    return ordered(box, "systemctl show -P MainPID edge").strip() not in {"0", pid}


def _delivers(stand: Stand, box: Machine, problems: list[str]) -> None:
    problems.extend(owes(stand, box))
    with stand.receiver() as pacs:
        until(lambda: not stand.missing(pacs), BOOT, "images that were answered 0000 do not arrive")


def service(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """The process of the service is stopped: it is started again within a minute, its queue is as it was."""
    stand = Stand(image, toolbox, folder)
    problems: list[str] = []
    with _queued(stand, problems) as box:
        pid = ordered(box, "systemctl show -P MainPID edge").strip()
        ordered(box, f"kill -STOP {pid}")
        began = time.monotonic()
        until(lambda: _restarted(box, pid), _SERVICE, "a service that hangs is not started again")
        stand.serving()
        say(f"hangs: a service that hung serves again after {time.monotonic() - began:.0f} s")
        result = ordered(box, "journalctl -b -u edge --no-pager | grep -i watchdog | head -3")
        if "atchdog" not in result:
            problems.append("it was not the watchdog that started the service again")
        _delivers(stand, box, problems)
    return problems


def machine(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """No program gets time any more, so the watchdog resets the machine; later its kernel panics, and starts anew."""
    stand = Stand(image, toolbox, folder)
    problems: list[str] = []
    with _queued(stand, problems) as box:
        until(lambda: good(box), BOOT, "the slot is not marked good")
        at = box.said
        ordered(box, _STARVE)
        began = time.monotonic()
        at = box.expect("dicom-edge: starting slot A", _WATCHDOG, after=at)
        say(f"hangs: a machine that hung is reset, and starts slot A after {time.monotonic() - began:.0f} s")
        box.login(BOOT, after=at)
        stand.serving()
        _delivers(stand, box, problems)
        at = box.said
        box.type("echo c > /proc/sysrq-trigger")
        began = time.monotonic()
        at = box.expect("Kernel panic", _PANIC, after=at)
        at = box.expect("dicom-edge: starting slot A", _PANIC, after=at)
        say(f"hangs: a kernel that panicked starts slot A after {time.monotonic() - began:.0f} s")
        box.expect("Linux version", BOOT, after=at)
    return problems


TRIALS: Final = (service, machine)
