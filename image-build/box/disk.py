"""The image of the storage card: partitions, and what is on each before the first start.

The same inputs give the same bytes: times, ids and seeds are fixed. No device of the host is used and no root needed.
"""

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Final

import msgspec

from box import place
from box.rootfs import Arch, Root
from box.toolbox import BuildError, Toolbox

_MIB: Final = 1024 * 1024
SLOT: Final = 1280 * _MIB
"""Room of a slot, in bytes."""
_FIRMWARE: Final = 128 * _MIB
_DATA: Final = 256 * _MIB
"""As it is shipped; it grows at the first start."""
_ROOM: Final = 48 * _MIB
"""Left in the file system of a slot beside what is in it; nothing is ever written there."""

SLOT_A: Final = 0x0A
"""Number of the partition of slot A; boot.cmd knows its id."""
_SPACE: Final = uuid.UUID("5ed6e0a0-0000-4000-8000-000000000000")


def part_uuid(number: int) -> str:
    """PARTUUID of what is always the same partition; boot.cmd knows that of the slots."""
    return str(uuid.UUID(int=_SPACE.int + number))


BOOT_SCRIPT: Final = place.FIRMWARE / "boot" / "boot.cmd"
OVERLAYS: Final = place.FIRMWARE / "boot" / "overlays"


def boot_script(text: Path, made: Path) -> list[str | Path]:
    """The command that makes of a boot script what U-Boot takes."""
    return ["mkimage", "-A", "arm64", "-O", "linux", "-T", "script", "-C", "none", "-d", text, made]


_FIRMWARE_FILES: Final = ("bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat")
_TREES: Final = ("bcm2711-rpi-*", "bcm2837-rpi-*")
_TYPES: Final = {"linux": "0fc63daf-8483-4772-8e79-3d69d8477de4", "basic": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"}


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """An image, and the parts of it that are needed by themselves."""

    image: Path
    root: Path
    """The file system of a slot, for updates."""
    kernel: Path
    initrd: Path


class Assembly:
    """Puts one image together in a folder of its own."""

    def __init__(self, arch: Arch, root: Root, *, toolbox: Toolbox, work: Path, epoch: int) -> None:
        self._arch = arch
        self._root = root
        self._tools = toolbox
        self._work = work
        self._epoch = epoch

    def make(self, image: Path) -> Disk:
        """Raises `BuildError`."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        kernel, initrd = self._from_root("boot/vmlinuz"), self._from_root("boot/initrd.img")
        root = self._root_file_system()
        self._firmware()
        self._boot_environment()
        # some is root's: that a version is good can be written down on a disk that is full
        self._ext4("data.ext4", _DATA, label="data", number=0xD1, spare=1)
        self._partitions(image)
        return Disk(image=image, root=root, kernel=kernel, initrd=initrd)

    def _from_root(self, name: str) -> Path:
        found = self._work / Path(name).name
        with found.open("wb") as out:
            done = subprocess.run(["tar", "-xOf", self._root.tar, f"./{name}"], stdout=out, check=False)
        if done.returncode:
            raise BuildError(f"{self._root.tar} has no {name}: delete it and build again.")
        return found

    def _do(self, *argv: str | Path, what: str) -> None:
        settings = {"SOURCE_DATE_EPOCH": str(self._epoch), "E2FSPROGS_FAKE_TIME": str(self._epoch), "TZ": "UTC"}
        told = ["env", *(f"{name}={value}" for name, value in settings.items())]
        self._tools.run([*told, *argv], log=self._work / "assembly.log", what=what, binds=[self._work])

    def _root_file_system(self) -> Path:
        made = self._work / "rootfs.ext4"
        # a tar counts whole blocks a file as the file system does, and folders less: half a tenth more, and room
        size = min(SLOT, self._root.tar.stat().st_size * 21 // 20 + _ROOM) // _MIB * _MIB
        self._ext4(made.name, size, label="rootfs", number=0xE0, source=self._root.tar, options="^has_journal")
        return made

    def _ext4(
        self,
        name: str,
        size: int,
        *,
        label: str,
        number: int,
        source: Path | None = None,
        options: str = "",
        spare: int = 0,
    ) -> None:
        # U-Boot reads the slot: no feature that it need not know
        features = ",".join(filter(None, ("^metadata_csum_seed", "^orphan_file", options)))
        filled: list[str | Path] = ["-d", source] if source else []
        seed = f"hash_seed={part_uuid(number + 1)},root_owner=0:0"
        self._do(
            # the type is said, since a small file system would be given many inodes, and keep that as it grows
            *("mke2fs", "-q", "-t", "ext4", "-T", "default", "-b", "4096", "-m", str(spare)),
            *("-L", label, "-U", part_uuid(number)),
            *("-O", features, "-E", seed, *filled, self._work / name, f"{size // 1024}k"),
            what=f"Making the file system {label}",
        )

    def _firmware(self) -> None:
        folder = self._work / "firmware"
        folder.mkdir()
        if self._arch == "arm64":
            self._raspberry(folder)
        self._do(*boot_script(BOOT_SCRIPT, folder / "boot.scr"), what="Making boot.scr")
        for path in folder.rglob("*"):
            os.utime(path, (self._epoch, self._epoch))
        made = self._work / "firmware.vfat"
        made.write_bytes(b"")
        os.truncate(made, _FIRMWARE)
        self._do("mkfs.vfat", "-F", "32", "-n", "FIRMWARE", "-i", "5ED6E0A0", "--invariant", made, what="FIRMWARE")
        tops = sorted(folder.iterdir())
        self._do("mcopy", "-s", "-m", "-Q", "-i", made, *tops, "::/", what="Filling FIRMWARE")

    def _raspberry(self, folder: Path) -> None:
        source = self._tools.raspi_firmware
        for name in _FIRMWARE_FILES:
            shutil.copy(source / name, folder)
        shutil.copy(self._tools.uboot("rpi_arm64"), folder / "u-boot.bin")
        shutil.copy(place.FIRMWARE / "boot" / "config.txt", folder)
        wanted = [f"./usr/lib/linux-image-*/broadcom/{tree}.dtb" for tree in _TREES]
        unpack = ["tar", "-x", "-C", str(folder), "--strip-components=5", "--wildcards", "-f", str(self._root.tar)]
        subprocess.run([*unpack, *wanted], stderr=subprocess.DEVNULL, check=False)
        if not list(folder.glob("bcm2711-rpi-4-b.dtb")):
            raise BuildError("The kernel brings no device tree for the Raspberry Pi 4: is it Debian's for arm64?")
        self._overlays(folder)

    def _overlays(self, folder: Path) -> None:
        """Compile what may be wired to the pins; each is tried on every board's tree, as its firmware applies it."""
        made = folder / "overlays"
        made.mkdir()
        tried = self._work / "tried.dtb"
        for source in sorted(OVERLAYS.glob("*.dts")):
            overlay = made / f"{source.stem}.dtbo"
            self._do("dtc", "-q", "-@", "-I", "dts", "-O", "dtb", "-o", overlay, source, what=f"Compiling {source}")
            for tree in sorted(folder.glob("*.dtb")):
                self._do("fdtoverlay", "-i", tree, "-o", tried, overlay, what=f"{source.name} on {tree.name}")
        tried.unlink()

    def _boot_environment(self) -> None:
        made = self._work / "bootenv.bin"
        made.write_bytes(b"")
        os.truncate(made, 8 * _MIB)
        tool = place.FIRMWARE / "rauc" / "bootenv"
        done = subprocess.run(
            [sys.executable, tool, "--device", made, "init"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BuildError(f"The boot environment could not be made: {done.stderr}")

    def _partitions(self, image: Path) -> None:
        slot_b = self._work / "empty.bin"
        slot_b.write_bytes(b"")
        parts = {
            "FIRMWARE": ("firmware.vfat", _FIRMWARE, _TYPES["basic"], 0xF1),
            "BOOTENV": ("bootenv.bin", 8 * _MIB, _TYPES["linux"], 0xF2),
            "rootfs_a": ("rootfs.ext4", SLOT, _TYPES["linux"], SLOT_A),
            "rootfs_b": ("empty.bin", SLOT, _TYPES["linux"], 0x0B),
            "data": ("data.ext4", _DATA, part_uuid(0xD0), 0xDA),
        }
        # the Raspberry Pi 3 reads the old table alone, and needs no more of it than where its firmware is
        hybrid = 'partition-type = "0xc"\n    bootable = true\n' if self._arch == "arm64" else ""
        text = [f'image {image.name} {{\n  hdimage {{\n    partition-table-type = "{"hybrid" if hybrid else "gpt"}"\n']
        text.append(f'    disk-uuid = "{part_uuid(0xFF)}"\n  }}\n')
        for name, (file, size, kind, number) in parts.items():
            old = hybrid if name == "FIRMWARE" else ""
            text.append(
                f'  partition {name} {{\n    image = "{file}"\n    size = {size}\n    partition-type-uuid = "{kind}"\n'
                f'    partition-uuid = "{part_uuid(number)}"\n    align = 4M\n    {old}  }}\n'
            )
        text.append("}\n")
        (self._work / "genimage.cfg").write_text("".join(text))
        (self._work / "none").mkdir()
        made = self._work / "made"
        self._do(
            *("genimage", "--config", self._work / "genimage.cfg", "--inputpath", self._work, "--outputpath", made),
            *("--rootpath", self._work / "none", "--tmppath", self._work / "scratch"),
            what="Putting the partitions together",
        )
        image.unlink(missing_ok=True)
        shutil.move(made / image.name, image)
