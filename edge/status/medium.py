"""Disks and cards, and what they tell of their wear to who is not root.

An eMMC tells in tenths how much of its life is used (JEDEC JESD84-B51, 7.4.109), and how much of its reserve of blocks
is left. SD cards tell neither, and an SSD tells it only to root. What the file system counts, its errors and what was
ever written to it, is told for each.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from edge.status.plain import read, whole

Kind = Literal["card", "emmc", "nvme", "ssd", "disk"]
Spare = Literal["", "normal", "low", "used up"]

_SPARES: Final[dict[int, Spare]] = {1: "normal", 2: "low", 3: "used up"}
"""PRE_EOL_INFO: less than 80, from 80, from 90 percent of the reserved blocks are used."""
_TENTHS: Final = 11
"""DEVICE_LIFE_TIME_EST: 1 to 10 are tenths of the life; 11: more than all of it."""
_NOT_REAL: Final = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock")
_PARTS: Final = ("boot0", "boot1", "rpmb")
"""Areas of an eMMC that the kernel shows as disks of their own."""
_SECTOR: Final = 512
_KIB: Final = 1024
_WRITTEN: Final = 6
"""Field of ``stat``: sectors written since the start."""
_MOST: Final = 16


class Medium(msgspec.Struct, frozen=True, kw_only=True):
    """One disk or card."""

    device: str
    """As the kernel calls it, such as ``mmcblk0``."""
    kind: Kind
    model: str
    made: str
    """When, as it says itself, such as ``03/2021``; empty: not told."""
    bytes: int
    holds: bool
    """Whether the storage of this box is on it."""
    life_used: tuple[int, int] | None
    """Between which percentages of its life is used; above 100: more than it was made for; None: not told."""
    spare: Spare
    """What is left of its reserve of blocks; empty: not told."""
    read_only: bool
    """Whether it takes no more writes."""
    written: int | None
    """Bytes since the machine started."""
    written_ever: int | None
    """Bytes to the file systems on it since they were made; None: none of them counts."""
    errors: int | None
    """That those file systems have found; None: none of them counts."""


def media(root: Path, storage: Path | None) -> tuple[Medium, ...]:
    """Return the disks and cards below ``root``, the one with the folder ``storage`` first."""
    holding = set(_holding(root, storage)) if storage is not None else set()
    found = [
        _medium(root, folder, holds=folder.name in holding)
        for folder in sorted((root / "sys/block").glob("*"))
        if _is_medium(folder)
    ]
    return tuple(sorted(found, key=lambda one: (not one.holds, one.device))[:_MOST])


def _is_medium(folder: Path) -> bool:
    name = folder.name
    return not name.startswith(_NOT_REAL) and not name.endswith(_PARTS) and bool(whole(folder / "size"))


def _medium(root: Path, folder: Path, *, holds: bool) -> Medium:
    device = folder / "device"
    counters = [root / "sys/fs/ext4" / name for name in (folder.name, *_partitions(folder))]
    # only where a figure is told by all that tell at all is their sum worth anything
    ever = [n for path in counters if (n := whole(path / "lifetime_write_kbytes")) is not None]
    errors = [n for path in counters if (n := whole(path / "errors_count")) is not None]
    fields = read(folder / "stat").split()
    written = fields[_WRITTEN] if len(fields) > _WRITTEN else ""
    return Medium(
        device=folder.name,
        kind=_kind(folder),
        model=(read(device / "name") if folder.name.startswith("mmcblk") else read(device / "model"))[:60],
        made=read(device / "date")[:20],
        bytes=(whole(folder / "size") or 0) * _SECTOR,
        holds=holds,
        life_used=_life(read(device / "life_time")),
        spare=_SPARES.get(_hexadecimal(read(device / "pre_eol_info")), ""),
        read_only=read(folder / "ro") == "1",
        written=int(written) * _SECTOR if written.isdecimal() else None,
        written_ever=sum(ever) * _KIB if ever else None,
        errors=sum(errors) if errors else None,
    )


def _kind(folder: Path) -> Kind:
    if folder.name.startswith("mmcblk"):
        return "emmc" if read(folder / "device/type") == "MMC" else "card"
    if folder.name.startswith("nvme"):
        return "nvme"
    # only a disk behind a disk controller says honestly whether it turns
    return "ssd" if folder.name.startswith("sd") and read(folder / "queue/rotational") == "0" else "disk"


def _life(text: str) -> tuple[int, int] | None:
    """Of the two kinds of memory in it, the one that is worn more."""
    worst = max((_hexadecimal(word) for word in text.split()), default=0)
    return ((worst - 1) * 10, worst * 10) if 1 <= worst <= _TENTHS else None


def _hexadecimal(word: str) -> int:
    try:
        return int(word, 16)
    except ValueError:
        return 0


def _partitions(folder: Path) -> Iterator[str]:
    return (path.parent.name for path in sorted(folder.glob("*/partition")))


def _holding(root: Path, storage: Path) -> Iterator[str]:
    """The disks under the file system of ``storage``, whatever is between: partitions, encryption, mirrors."""
    try:
        number = storage.stat().st_dev
        todo = [(root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)]
    except OSError:
        return
    for _ in range(_MOST):
        if not todo:
            return
        folder = todo.pop()
        yield folder.parent.name if (folder / "partition").exists() else folder.name
        todo += [path.resolve() for path in sorted(folder.glob("slaves/*"))]
