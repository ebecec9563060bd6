"""The libraries of the package: wheels as requirements-box.lock names them, fetched and unpacked for another machine.

Nothing of the target is run. What a lock's hashes do not know is refused by pip when it is fetched, and by us when it
comes from the cache. The cache holds one folder for each set of wheels, named by a digest of all that chose it, which
is there whole or not at all; it may be deleted.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
from packaging.markers import Marker
from packaging.requirements import Requirement

from box import place
from box.toolbox import BuildError, run

LOCK: Final = place.ROOT / "requirements-box.lock"
"""What the appliance needs, with the extras that a box has. Made anew with::

    uv pip compile pyproject.toml --extra gpio --extra codecs --universal --generate-hashes --no-header \
        --no-annotate --python-version 3.11 --no-emit-index-url -c requirements.lock -o requirements-box.lock
"""
PYTHONS: Final = ("3.11", "3.13")
"""Those of Debian 12 and of Debian 13."""
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's architectures, and what wheels call them."""

_GLIBC: Final = 36
"""Debian 12 has glibc 2.36."""
_PLAIN: Final = 0o644


class Pin(msgspec.Struct, frozen=True):
    """One line of a lock: ``name==version``, where it is meant, and the SHA-256 of its files."""

    requirement: str
    hashes: frozenset[str]
    marker: Marker | None = None

    def meant(self, arch: str, python: str) -> bool:
        """Whether a machine of this architecture and Python needs it."""
        environment = {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": MACHINES[arch],
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{python}.0",
            "python_version": python,
            "sys_platform": "linux",
        }
        return self.marker is None or self.marker.evaluate(environment)


def pins(lock: str) -> tuple[Pin, ...]:
    """Read a lock. Raises `BuildError` on a line that does not name one version and its hashes."""
    found = []
    for line in lock.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        text, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        requirement = Requirement(text)
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)) or not hashes:
            raise BuildError(f"{LOCK.name}: {text} does not name one version with its hashes. Make the lock anew.")
        found.append(
            Pin(f"{requirement.name}{requirement.specifier}", frozenset(map(str.strip, hashes)), requirement.marker)
        )
    return tuple(found)


def fetch(arch: str, python: str, lock: Path = LOCK) -> tuple[Path, ...]:
    """The wheels for an architecture and a Python, from the cache or from the package index that pip is set up for.

    Raises `BuildError` where one cannot be had, or is not the one that was locked.
    """
    wanted = [pin for pin in pins(lock.read_text()) if pin.meant(arch, python)]
    lines = [f"{pin.requirement} {' '.join(f'--hash=sha256:{one}' for one in sorted(pin.hashes))}" for pin in wanted]
    options = ["--implementation", "cp", "--python-version", python, *_platforms(MACHINES[arch])]
    chosen_by = hashlib.sha256("\n".join([*lines, *options]).encode()).hexdigest()
    folder = place.cache() / "wheels" / f"{arch}-{python}-{chosen_by[:16]}"
    if not folder.is_dir():
        _download(lines, options, folder)
    known = frozenset[str]().union(*(pin.hashes for pin in wanted))
    wheels = tuple(sorted(folder.glob("*.whl")))
    for wheel in wheels:
        if digest(wheel) not in known:
            raise BuildError(f"{wheel} is not the file that {lock.name} names. Delete {folder} and build again.")
    if len(wheels) != len(wanted):
        raise BuildError(f"{folder} has {len(wheels)} wheels of {len(wanted)}. Delete it and build again.")
    return wheels


def digest(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lay_out(wheel: Path, into: Path) -> None:
    """Unpack a wheel as an installer would, without its scripts, headers and manual pages.

    Raises `BuildError` where it would leave the folder, or write over what another wheel brought.
    """
    with zipfile.ZipFile(wheel) as archive:
        for member in sorted(archive.infolist(), key=lambda one: one.filename):
            path = _place(member.filename)
            if member.is_dir() or path is None:
                continue
            if path.is_absolute() or ".." in path.parts or path.suffix == ".pth":
                raise BuildError(f"{wheel.name} has {member.filename}, which cannot be installed as it is.")
            target = into / path
            if target.exists():
                raise BuildError(f"{wheel.name} has {member.filename}, and so has another wheel.")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
            target.chmod(_PLAIN)


def _place(name: str) -> PurePosixPath | None:
    """Where a member of a wheel goes, below site-packages; None for what is not needed (PEP 427)."""
    path = PurePosixPath(name)
    if not path.parts[0].endswith(".data"):
        return path
    return PurePosixPath(*path.parts[2:]) if path.parts[1:2] in {("purelib",), ("platlib",)} else None


def _platforms(machine: str) -> list[str]:
    # pip takes each as it is: none stands for those before it
    names = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, 4, -1)] + [f"manylinux2014_{machine}"]
    return [word for name in names for word in ("--platform", name)]


def _pip() -> list[str]:
    """A pip: that of the environment, or where uv made it without one, uv's."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if (uv := shutil.which("uv")) is not None:
        return [uv, "tool", "run", "--quiet", "--python", sys.executable, "pip"]
    raise BuildError("There is no pip: .venv was made by uv, which is not on PATH any more. Delete .venv, try again.")


def _download(lines: Sequence[str], options: Sequence[str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="draft-", dir=folder.parent) as made:
        draft, listed = Path(made, "wheels"), Path(made, "requirements.txt")
        draft.mkdir()
        listed.write_text("\n".join(lines) + "\n")
        argv = [*_pip(), "--quiet", "--disable-pip-version-check", "download", "--no-deps", "--require-hashes"]
        argv += ["--only-binary=:all:", *options, "--dest", str(draft), "--requirement", str(listed)]
        run(argv, log=folder.with_suffix(f"{folder.suffix}.log"), what="Fetching the wheels", env=dict(os.environ))
        if not folder.is_dir():  # as it may be, of a build beside this one
            draft.rename(folder)
