"""What the running system is told at each start, since its own file system cannot be written.

Everything is made anew below /run from what is kept. One thing that fails does not keep the others from being done.
"""

import re
from pathlib import Path
from typing import Final

from edge.fsync import replace_synced
from edge.provision.places import Places
from edge.provision.standing import line
from edge.provision.system import System

_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_ZONES: Final = Path("/usr/share/zoneinfo")
_MACHINE_KEY: Final = "systemd.machine_id="


def apply(places: Places, system: System) -> tuple[str, ...]:
    """Tell the running system; what failed, one line each."""
    failed: list[str] = []
    steps = (
        ("the network", _network),
        ("the time servers", _sources),
        ("the host name", _hostname),
        ("the time zone", _timezone),
        ("the id for systemd", _machine_id),
    )
    for what, step in steps:
        try:
            step(places, system)
        except OSError as e:
            failed.append(f"{what} could not be set ({e.strerror or e})")
    return tuple(failed)


def _network(places: Places, system: System) -> None:  # noqa: ARG001 - a step
    _copied(places.network, places.at("/run/systemd/network"))


def _sources(places: Places, system: System) -> None:  # noqa: ARG001 - a step
    _copied(places.sources, places.at("/run/chrony-edge"))


def _copied(path: Path, folder: Path) -> None:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.exists():
        (folder / path.name).write_bytes(path.read_bytes())
    else:
        (folder / path.name).unlink(missing_ok=True)


def _hostname(places: Places, system: System) -> None:
    if name := line(places.hostname):
        system.set_hostname(name)


def _timezone(places: Places, system: System) -> None:  # noqa: ARG001 - a step
    link = places.at("/run/edge-system/localtime")
    link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    zone = line(places.timezone)
    there = places.at(_ZONES / zone).is_file() if zone else False
    fresh = link.with_name("localtime.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(_ZONES / (zone if there else "UTC"))
    fresh.replace(link)


def _machine_id(places: Places, system: System) -> None:
    """Have the boot environment keep the id that systemd gave the box first."""
    kept = line(places.machine_id)
    if not _MACHINE_ID.fullmatch(kept):
        kept = line(places.at("/etc/machine-id"))
        if not _MACHINE_ID.fullmatch(kept):
            return
        places.kept.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_synced(places.machine_id, f"{kept}\n".encode())
    tool = places.at("/usr/lib/edge/bootenv")
    if tool.exists() and _MACHINE_KEY not in line(places.at("/proc/cmdline")):
        system.run(str(tool), "set", f"MACHINE_ID={kept}")
