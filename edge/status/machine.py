"""The machine the box runs on, as the kernel tells it: read below one root, without root's rights, and in one look.

What a machine does not tell is None or empty, never a guess. Nothing here raises: a file that is missing, cannot be
read or holds nonsense is one that does not tell. A look takes milliseconds: not for the event loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from edge.clock import kernel_synchronised
from edge.status.medium import Medium, media
from edge.status.plain import read, whole

ROOT: Final = Path("/")
_KIB: Final = 1024
_MILLI: Final = 1000
_HOTTEST: Final = 200.0
"""Degrees beyond which, or as many below zero, a sensor is broken."""
_MOST_SENSORS: Final = 16
_ZONES: Final = "zoneinfo/"
_KEEPERS: Final = (
    ("run/systemd/timesync/synchronized", "systemd-timesyncd"),
    ("run/chrony/chronyd.pid", "chrony"),
    ("run/chronyd.pid", "chrony"),
    ("run/ntpd.pid", "ntpd"),
    ("run/openntpd.pid", "openntpd"),
)
"""Files that there are while somebody keeps the clock right."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes. ``available``: what programs could still have. ``own``: what this process holds."""

    total: int
    available: int
    own: int | None


class Temperature(msgspec.Struct, frozen=True):
    """One sensor, in degrees Celsius."""

    name: str
    celsius: float


class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """What the firmware of a Raspberry Pi holds the processor back for: now, and since the system started."""

    low_voltage: bool
    was_low_voltage: bool
    slowed: bool
    """By heat or by the supply."""
    was_slowed: bool


class Timekeeping(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps the wall clock."""

    zone: str
    """As in the time zone database; empty: not told."""
    synchronised: bool
    """Whether the kernel says that somebody who knows the time disciplines its clock."""
    keeper: str
    """The program that does; empty where none is known."""
    battery: str
    """The clock that runs on without power; empty where there is none."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One look."""

    model: str
    """Of the board; empty: not told."""
    system: str
    """Such as ``Debian GNU/Linux 13 (trixie)``."""
    kernel: str
    uptime: float | None
    """Seconds since the machine started."""
    load: float | None
    """Programs that wanted a processor, over the last minute."""
    memory: Memory | None
    temperatures: tuple[Temperature, ...]
    """The hottest first."""
    throttling: Throttling | None
    media: tuple[Medium, ...]
    """The one that holds the storage first."""
    time: Timekeeping


def look(
    root: Path = ROOT, *, storage: Path | None = None, synchronised: Callable[[], bool] = kernel_synchronised
) -> Machine:
    """Look at the machine below ``root``; ``storage`` is the folder whose medium matters."""
    return Machine(
        model=read(root / "proc/device-tree/model") or read(root / "sys/class/dmi/id/product_name"),
        system=_system(root),
        kernel=read(root / "proc/sys/kernel/osrelease"),
        uptime=_first_number(root / "proc/uptime"),
        load=_first_number(root / "proc/loadavg"),
        memory=_memory(root),
        temperatures=_temperatures(root / "sys"),
        throttling=_throttling(root / "sys/devices/platform/soc/soc:firmware/get_throttled"),
        media=media(root, storage),
        time=_time(root, synchronised),
    )


def _system(root: Path) -> str:
    text = read(root / "etc/os-release") or read(root / "usr/lib/os-release")
    found = (line.partition("=")[2] for line in text.splitlines() if line.startswith("PRETTY_NAME="))
    return next(found, "").strip("\"'")[:100]


def _first_number(path: Path) -> float | None:
    try:
        return float(read(path).split()[0])
    except (IndexError, ValueError):
        return None


def _memory(root: Path) -> Memory | None:
    told = _kilobytes(root / "proc/meminfo")
    if "MemTotal" not in told or "MemAvailable" not in told:
        return None
    own = _kilobytes(root / "proc/self/status").get("VmRSS")
    return Memory(total=told["MemTotal"], available=told["MemAvailable"], own=own)


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines such as ``MemTotal:  948304 kB``, in bytes."""
    found = {}
    for line in read(path).splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdecimal() and words[1] == "kB":  # noqa: PLR2004 - a number and its unit
            found[name] = int(words[0]) * _KIB
    return found


def _temperatures(sys: Path) -> tuple[Temperature, ...]:
    """Thermal zones, and the sensors beside them that are none of a zone."""
    found: dict[str, float] = {}
    for zone in sorted((sys / "class/thermal").glob("thermal_zone*")):
        _note(found, read(zone / "type") or zone.name, whole(zone / "temp"))
    for chip in sorted((sys / "class/hwmon").glob("hwmon*")):
        name = read(chip / "name") or chip.name
        for sensor in sorted(chip.glob("temp*_input")):
            label = read(sensor.with_name(sensor.name.replace("_input", "_label")))
            _note(found, f"{name} {label}".strip(), whole(sensor))
    hottest = sorted((Temperature(name, degrees) for name, degrees in found.items()), key=lambda one: -one.celsius)
    return tuple(hottest[:_MOST_SENSORS])


def _note(found: dict[str, float], name: str, thousandths: int | None) -> None:
    if thousandths is None or abs(thousandths) > _HOTTEST * _MILLI:
        return
    # a zone's own sensor is listed under hwmon as well, with dashes in its name as underscores
    key = name.replace("_", "-")[:60]
    found[key] = max(found.get(key, -_HOTTEST), thousandths / _MILLI)


def _throttling(path: Path) -> Throttling | None:
    try:
        word = int(read(path), 16)
    except ValueError:
        return None
    # bits of the firmware's word: under-voltage, frequency capped, throttled, soft temperature limit; 16 on: before
    return Throttling(
        low_voltage=bool(word & 0x1),
        was_low_voltage=bool(word & 0x10000),
        slowed=bool(word & 0xE),
        was_slowed=bool(word & 0xE0000),
    )


def _time(root: Path, synchronised: Callable[[], bool]) -> Timekeeping:
    keeper = next((name for path, name in _KEEPERS if (root / path).exists()), "")
    battery = next((name for rtc in sorted((root / "sys/class/rtc").glob("rtc*")) if (name := read(rtc / "name"))), "")
    return Timekeeping(zone=_zone(root), synchronised=synchronised(), keeper=keeper, battery=battery.split(" ")[0][:60])


def _zone(root: Path) -> str:
    try:
        target = str((root / "etc/localtime").readlink())
    except OSError:
        return read(root / "etc/timezone")
    return target.partition(_ZONES)[2]
