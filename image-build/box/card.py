"""A card with the image on it, as whoever flashed it has it in hand: a file that a machine boots from."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from box import place
from box.toolbox import BuildError, Toolbox

_SECTOR: Final = 512
_CHUNK: Final = 4 * 1024 * 1024


class Card:
    """A card at ``path``."""

    def __init__(self, path: Path, toolbox: Toolbox) -> None:
        self.path = path
        self._tools = toolbox

    @classmethod
    def flash(cls, image: Path, path: Path, toolbox: Toolbox, *, size: int = 6 * 1024**3) -> "Card":
        """``image`` on a card of ``size`` bytes. Holes stay holes. Raises `BuildError`."""
        done = subprocess.run(
            ["cp", "--sparse=always", "--reflink=auto", image, path], capture_output=True, check=False
        )
        if done.returncode:
            raise BuildError(f"{image} could not be copied to {path}: {done.stderr.decode().strip()}")
        os.truncate(path, max(size, path.stat().st_size))
        return cls(path, toolbox)

    def put(self, files: Sequence[Path]) -> None:
        """Put files on FIRMWARE, as a PC does. Raises `BuildError`."""
        self._mtools("mcopy", "-s", "-o", *files, "::/", what="Putting files on FIRMWARE")

    def read(self, name: str) -> str | None:
        """A text on FIRMWARE, what is no text replaced; None where there is none."""
        argv = self._tools.command(["mtype", "-i", self._firmware(), f"::/{name}"], binds=[self.path.parent])
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
        return done.stdout if done.returncode == 0 else None

    def part(self, name: str) -> tuple[int, int]:
        """Where a partition starts, and how long it is, in bytes."""
        argv = self._tools.command(["sfdisk", "--json", self.path], binds=[self.path.parent])
        table = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)["partitiontable"]
        for one in table["partitions"]:
            if one.get("name") == name:
                return one["start"] * _SECTOR, one["size"] * _SECTOR
        raise BuildError(f"{self.path} has no partition {name}.")

    def copy(self, name: str, path: Path) -> None:
        """Copy a partition to a file of its own. Holes stay holes."""
        start, size = self.part(name)
        with self.path.open("rb") as disk, path.open("wb") as out:
            out.truncate(size)
            at = start
            # past the last data there is nothing to find
            with contextlib.suppress(OSError):
                while (at := os.lseek(disk.fileno(), at, os.SEEK_DATA)) < start + size:
                    end = min(os.lseek(disk.fileno(), at, os.SEEK_HOLE), start + size)
                    while at < end:
                        at += os.pwrite(out.fileno(), os.pread(disk.fileno(), min(_CHUNK, end - at), at), at - start)

    def environment(self) -> dict[str, str]:
        """What BOOTENV says to the boot script, as its own tool reads it."""
        return self._bootenv("get")

    def change(self, values: Mapping[str, str]) -> None:
        """Write into BOOTENV, as its own tool does."""
        self._bootenv("set", *(f"{name}={value}" for name, value in values.items()))

    def _bootenv(self, *verb: str) -> dict[str, str]:
        start, size = self.part("BOOTENV")
        copy = self.path.with_suffix(".bootenv")
        with self.path.open("rb") as disk, copy.open("wb") as out:
            disk.seek(start)
            out.write(disk.read(size))
        tool = place.FIRMWARE / "rauc" / "bootenv"
        argv = [sys.executable, str(tool), "--device", str(copy), *verb]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"BOOTENV of {self.path}: {done.stderr.strip()}")
        if verb[0] == "set":
            with self.path.open("r+b") as disk, copy.open("rb") as changed:
                disk.seek(start)
                shutil.copyfileobj(changed, disk, _CHUNK)
        copy.unlink()
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def _firmware(self) -> str:
        start, _ = self.part("FIRMWARE")
        return f"{self.path}@@{start}"

    def _mtools(self, program: str, *arguments: str | Path, what: str) -> None:
        binds = [self.path.parent, *(Path(one).parent for one in arguments if isinstance(one, Path))]
        log = self.path.with_suffix(".log")
        self._tools.run([program, "-i", self._firmware(), *arguments], log=log, what=what, binds=binds)
