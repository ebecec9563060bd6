"""The Debian package: one for each architecture, for Debian 12 and 13 alike, made on any Linux with dpkg-deb.

/opt/dicom-edge is one venv for two Pythons. What both take alike, pure Python and what keeps to the stable ABI, lies in
``lib/common``, which a .pth in the site-packages of each names; only the rest lies there twice. Nothing of the target
is run, and nothing needs root. The same checkout gives the same bytes.

What is in firmware-config goes where its folder says, so that nobody keeps a list: units of ``systemd/``, rules of
``udev/``, whatever may be executed to /usr/lib/edge, and all else to the examples.

``image-build/package`` ends with 0, or with 1 and a sentence. A package that is there was written whole.
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from box import place, wheels
from box.toolbox import BuildError, run

NAME: Final = "dicom-edge"
PREFIX: Final = Path("opt/dicom-edge")
"""The venv, below the root of the machine."""

_IMAGE_ONLY: Final = ("boot", "image", "rauc")
"""Folders of firmware-config of which a Debian of one's own takes no more than the programs."""
_UNITS: Final = (".service", ".path", ".timer", ".target", ".socket", ".mount", ".slice")
_DOC: Final = Path("usr/share/doc/dicom-edge")
_HELPERS: Final = Path("usr/lib/edge")
_MAINTAINER: Final = "dicom-edge <maintainers@dicom-edge.invalid>"
_SCRIPTS: Final = ("preinst", "postinst", "prerm", "postrm")
_FOLDER, _PROGRAM, _PLAIN = 0o755, 0o755, 0o644

_CONTROL: Final = """\
Package: dicom-edge
Version: {version}
Architecture: {arch}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: {depends}
Recommends: chrony | time-daemon
Suggests: mosquitto, samba
Section: net
Priority: optional
Description: DICOM store-and-forward appliance
 Receives medical images from modalities or watched folders, says yes only
 after they are safe on the disk, and delivers them to a PACS or a cloud
 over networks that fail. It never gives up, deletes only on proof, and
 shows the truth in the room, by lights and a dashboard, and by MQTT.
"""
# chrony: proofs and certificates want a clock that is right, and it keeps one through long times without a network
_DEPENDS: Final = (
    "python3 (>= 3.11~)",
    "python3 (<< 3.14~)",
    "libc6 (>= 2.36)",  # as the wheels
    "libgcc-s1",
    "libstdc++6",
    "debconf (>= 0.5) | debconf-2.0",
    "init-system-helpers (>= 1.60)",
    "mount",  # import-stick
    "procps",  # kill, of the unit
    "systemd (>= 252)",
)
_PYVENV: Final = "home = /usr/bin\ninclude-system-site-packages = false\n"
_COMMAND: Final = """\
#!/opt/dicom-edge/bin/python3 -I
import sys

from edge.cli import main

sys.exit(main())
"""
_COPYRIGHT: Final = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: dicom-edge
Comment: The licences of the libraries in /opt/dicom-edge/lib lie beside each,
 in the folder that ends in .dist-info.

Files: *
Copyright: the authors of dicom-edge
License: Apache-2.0
 On Debian systems the whole text is in /usr/share/common-licenses/Apache-2.0.
"""


def build(arch: str, out: Path, *, version: str | None = None, level: int = 9) -> Path:
    """Make the package for ``arch`` (amd64, arm64) in the folder ``out``; its path.

    ``version`` stands in for that of the checkout, in the program too: for tests of an upgrade. A lower
    ``level`` (1 to 22) packs sooner and larger. Raises `BuildError`.
    """
    version = version or own_version()
    when = epoch()
    target = out / f"{NAME}_{debian_version(version)}_{arch}.deb"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as made:
        root, draft = Path(made, "root"), Path(made, target.name)
        root.mkdir()
        _venv(root / PREFIX, arch, version)
        units = _firmware(root)
        _documents(root, version, when)
        (root / "usr/bin").mkdir(exist_ok=True)
        (root / "usr/bin/edge").symlink_to("/opt/dicom-edge/bin/edge")
        _settle(root)
        _control(root, arch, version, units)
        for path in (root, *_walk(root)):
            os.utime(path, (when, when), follow_symlinks=False)
        # xz would be a fifth smaller, and take twenty times as long to pack and several times as long to unpack
        packing = ["--root-owner-group", "--uniform-compression", "-Zzstd", f"-z{level}"]
        argv = ["dpkg-deb", *packing, "--build", root, draft]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(when)}
        try:
            run([str(word) for word in argv], log=Path(made, "log"), what="Packing", env=environment)
        except FileNotFoundError as e:
            raise BuildError("dpkg-deb is not installed. On Debian it is part of dpkg; build there.") from e
        beside = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(draft, beside)
        beside.replace(target)
    return target


def own_version() -> str:
    """The version of the checkout. Raises `BuildError`."""
    found = re.search(r'^__version__ = "(.+)"$', (place.ROOT / "edge" / "__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError("edge/__init__.py names no __version__.")
    return found[1]


def debian_version(version: str) -> str:
    """The version as Debian sorts it: 1.0rc1 and 1.0.dev3 come before 1.0. Raises `BuildError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)*)(?:[._-]?(a|b|rc|dev)(\d*))?(\+[a-z0-9.]+)?", version)
    if found is None:
        raise BuildError(f"{version} is not a version such as 1.2.3 or 1.3.0rc1.")
    base, kind, number, local = found.groups("")
    return f"{base}~{kind}{number}{local}" if kind else f"{base}{local}"


def epoch() -> int:
    """The time that every file gets: SOURCE_DATE_EPOCH, else that of the last commit. Raises `BuildError`."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        git = ["git", "-c", f"safe.directory={place.ROOT}", "-C", str(place.ROOT), "log", "-1", "--format=%ct"]
        try:
            given = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as e:
            raise BuildError("This is no git checkout: set SOURCE_DATE_EPOCH to seconds since 1970.") from e
    if not given.isdecimal():
        raise BuildError(f"SOURCE_DATE_EPOCH is {given!r}, and not a number of seconds since 1970.")
    return int(given)


def _venv(venv: Path, arch: str, version: str) -> None:
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(_PYVENV)
    (venv / "bin" / "python3").symlink_to("/usr/bin/python3")
    (venv / "bin" / "python").symlink_to("python3")
    (venv / "bin" / "edge").write_text(_COMMAND)
    (venv / "bin" / "edge").chmod(_PROGRAM)
    common = venv / "lib" / "common"
    chosen = {python: wheels.fetch(arch, python) for python in wheels.PYTHONS}
    shared = set.intersection(*({one.name for one in files} for files in chosen.values()))
    for python, files in chosen.items():
        site = venv / "lib" / f"python{python}" / "site-packages"
        site.mkdir(parents=True)
        (site / "common.pth").write_text("../../common\n")
        for wheel in files:
            if wheel.name not in shared:
                wheels.lay_out(wheel, site)
            elif python == wheels.PYTHONS[0]:
                wheels.lay_out(wheel, common)
    _edge(common, version)


def _edge(common: Path, version: str) -> None:
    """The program itself, with what importlib.metadata asks for: made here, as a build backend is one more download."""
    shutil.copytree(place.ROOT / "edge", common / "edge", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    head = common / "edge" / "__init__.py"
    head.write_text(head.read_text().replace(f'"{own_version()}"', f'"{version}"'))
    info = common / f"dicom_edge-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\nLicense: Apache-2.0\n")
    (info / "INSTALLER").write_text("dpkg\n")


def _firmware(root: Path) -> list[str]:
    """Lay out firmware-config; the units."""
    units = []
    for path in _walk(place.FIRMWARE):
        folder, *rest = path.relative_to(place.FIRMWARE).parts
        if not path.is_file() or folder in {"debian", "image"}:
            continue
        if folder == "systemd" and len(rest) == 1 and path.suffix in _UNITS:
            units.append(path.name)
            _copy(path, root / "usr/lib/systemd/system")
        elif folder == "systemd" and path.name in {"sysusers.conf", "tmpfiles.conf"}:
            _copy(path, root / f"usr/lib/{path.stem}.d", f"{NAME}.conf")
        elif folder == "udev" and path.suffix == ".rules":
            _copy(path, root / "usr/lib/udev/rules.d")
        elif os.access(path, os.X_OK):
            _copy(path, root / _HELPERS)
        elif folder not in _IMAGE_ONLY:
            _copy(path, root / _DOC / "examples" / Path(folder, *rest[:-1]))
    _copy(place.FIRMWARE / "debian" / "edge.toml", root / "usr/share/dicom-edge")
    return sorted(units)


def _documents(root: Path, version: str, when: int) -> None:
    docs = root / _DOC
    for page in sorted((place.ROOT / "docs").glob("*.md")):
        _copy(page, docs / "docs")
    (docs / "copyright").write_text(_COPYRIGHT)
    date = format_datetime(datetime.fromtimestamp(when, UTC))
    entry = f"  * What changed is in {_DOC.name}'s own CHANGELOG.md, in this folder.\n\n -- {_MAINTAINER}  {date}\n"
    changelog = f"{NAME} ({debian_version(version)}) unstable; urgency=medium\n\n{entry}"
    # without name and time, which would differ
    (docs / "changelog.gz").write_bytes(gzip.compress(changelog.encode(), 9, mtime=0))
    _copy(place.ROOT / "CHANGELOG.md", docs)


def _control(root: Path, arch: str, version: str, units: Sequence[str]) -> None:
    files = [path for path in _walk(root) if path.is_file() and not path.is_symlink()]
    size = sum(-(-path.lstat().st_size // 1024) for path in files) + sum(1 for path in _walk(root) if path.is_dir())
    folder = root / "DEBIAN"
    folder.mkdir()
    sums = [f"{_md5(path)}  {path.relative_to(root)}\n" for path in files]
    (folder / "md5sums").write_text("".join(sums))
    control = _CONTROL.format(
        arch=arch,
        depends=", ".join(_DEPENDS),
        maintainer=_MAINTAINER,
        size=size,
        version=debian_version(version),
    )
    (folder / "control").write_text(control)
    tokens = {
        "@NAMED@": " and ".join(wheels.PYTHONS),
        "@PYTHONS@": " | ".join(wheels.PYTHONS),
        "@UNITS@": " ".join(unit for unit in units if "@" not in unit),
    }
    for name in (*_SCRIPTS, "templates", "triggers"):
        text = (place.FIRMWARE / "debian" / name).read_text()
        for token, meant in tokens.items():
            text = text.replace(token, meant)
        (folder / name).write_text(text)
        (folder / name).chmod(_PROGRAM if name in _SCRIPTS else _PLAIN)
    for path in (folder, folder / "control", folder / "md5sums"):
        path.chmod(_FOLDER if path.is_dir() else _PLAIN)


def _copy(path: Path, folder: Path, name: str | None = None) -> None:
    """Copy a file into a folder that is made. Raises `BuildError` where another has its name there."""
    target = folder / (name or path.name)
    if target.exists():
        raise BuildError(f"{path} and another file both go to /{target.name} of one folder. Rename one.")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    target.chmod(_PROGRAM if os.access(path, os.X_OK) else _PLAIN)


def _settle(root: Path) -> None:
    """Give everything the mode that it is to have, whatever umask the builder has."""
    root.chmod(_FOLDER)
    for path in _walk(root):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(_FOLDER if runs else _PLAIN)


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below, in the order of names."""
    return iter(sorted(folder.rglob("*")))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the packages that were asked for; 0, or 1 where one could not be made."""
    parser = argparse.ArgumentParser(prog="image-build/package", description="Makes the Debian packages.")
    parser.add_argument("--arch", action="append", choices=sorted(wheels.MACHINES), help="instead of all; repeatable")
    parser.add_argument("--out", type=Path, default=place.OUT, metavar="FOLDER", help="where to (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        for arch in options.arch or sorted(wheels.MACHINES):
            sys.stdout.write(f"{build(arch, options.out)}\n")
    except (BuildError, OSError) as e:
        sys.stderr.write(f"image-build/package: {e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
