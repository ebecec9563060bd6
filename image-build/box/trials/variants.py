"""Other versions of the root of a slot, made from a copy of the real one: newer, or broken."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from box.bundle import bundle
from box.keys import Signing
from box.rootfs import Arch
from box.toolbox import BuildError, Toolbox

NEWER: Final = "0.1.1"
BROKEN: Final = "0.1.2"
MUTE: Final = "0.1.3"
_PROGRAM: Final = "/opt/dicom-edge/lib/common/edge"
_HEAD: Final = f"{_PROGRAM}/__init__.py"
_ENDS: Final = b'import sys\n\nsys.exit("this version is made to fail")\n'


class Variants:
    """Makes them in ``folder`` from ``root``, a slot's ext4."""

    def __init__(self, arch: Arch, root: Path, signing: Signing, *, toolbox: Toolbox, folder: Path) -> None:
        self._arch = arch
        self._root = root
        self._signing = signing
        self._tools = toolbox
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def newer(self) -> Path:
        """Bundle of `NEWER`: the same program that calls itself newer. Raises `BuildError`."""
        return self._bundle(NEWER, {})

    def broken(self) -> Path:
        """Bundle of `BROKEN`: its service ends at once, all else of it runs. Raises `BuildError`."""
        return self._bundle(BROKEN, {f"{_PROGRAM}/cli/run.py": _ENDS})

    def mute(self) -> Path:
        """Bundle of `MUTE`: no command of it runs, that which judges it neither. Raises `BuildError`."""
        return self._bundle(MUTE, {f"{_PROGRAM}/__main__.py": _ENDS, f"{_PROGRAM}/cli/__init__.py": _ENDS})

    def foreign(self, signing: Signing) -> Path:
        """Bundle of `NEWER` that another has signed; little is in it. Raises `BuildError`."""
        nothing = self._folder / "foreign.ext4"
        # zeros would be packed to less than RAUC takes
        nothing.write_bytes(os.urandom(1 << 20))
        work, out = self._folder / "foreign", self._folder / "foreign.raucb"
        return bundle(self._arch, NEWER, nothing, signing=signing, toolbox=self._tools, work=work, out=out, level=1)

    def changed(self, name: str, files: Mapping[str, bytes]) -> Path:
        """A copy of the root with other ``files`` in it, by their paths. Raises `BuildError`."""
        root = self._folder / f"{name}.ext4"
        done = subprocess.run(["cp", "--sparse=always", "--reflink=auto", self._root, root], check=False)
        if done.returncode:
            raise BuildError(f"{self._root} could not be copied to {root}")
        orders = []
        for number, (path, content) in enumerate(files.items()):
            own = self._folder / f"{name}.{number}"
            own.write_bytes(content)
            own.chmod(0o644)
            compiled = f"{Path(path).parent}/__pycache__/{Path(path).stem}.cpython-313.pyc"
            # what was compiled before would be run instead: nobody looks whether it is of this file
            orders += [f"rm {compiled}", f"rm {path}", f"write {own} {path}"]
        self._debugfs(root, orders)
        return root

    def content(self, path: str) -> bytes:
        """A file of the root. Raises `BuildError`."""
        argv = self._tools.command(["debugfs", "-R", f"cat {path}", self._root], binds=[self._root.parent])
        done = subprocess.run(argv, capture_output=True, check=False)
        if not done.stdout:
            raise BuildError(f"{self._root} has no {path}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def _bundle(self, version: str, files: Mapping[str, bytes]) -> Path:
        out = self._folder / f"dicom-edge-{version}-arm64.raucb"
        head = b'"""dicom-edge."""\n\n__version__ = "%s"\n' % version.encode()
        root = self.changed(version, {_HEAD: head, **files})
        work = self._folder / version
        return bundle(
            self._arch, version, root, signing=self._signing, toolbox=self._tools, work=work, out=out, level=1
        )

    def _debugfs(self, root: Path, orders: Sequence[str]) -> None:
        told = self._folder / "orders"
        told.write_text("".join(f"{one}\n" for one in orders))
        log = root.with_suffix(".log")
        argv: list[str | Path] = ["debugfs", "-w", "-f", told, root]
        self._tools.run(argv, log=log, what="Changing a copy of the root", binds=[self._folder])
        # debugfs ends with 0 whatever happens
        wrong = [line for line in log.read_text(errors="replace").splitlines() if "error" in line.lower()]
        if wrong:
            raise BuildError(f"A copy of the root could not be changed: {wrong[0]}")
