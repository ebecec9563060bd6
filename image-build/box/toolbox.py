"""The programs that make and start an image, of one Debian release whatever the host has.

They are a Debian of their own in the cache, made once without root and entered with bubblewrap: the file systems that
mke2fs of Debian 13 makes are the same bit for bit each time, those of Debian 12 are not, and U-Boot, RAUC and QEMU are
to be of the release that is on the box.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from box import place

SUITE: Final = "trixie"
"""Release of Debian of the tools and of the box."""

_PACKAGES: Final = (
    "ca-certificates",
    "device-tree-compiler",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "genimage",
    "ipxe-qemu",
    "libarchive13t64",
    "mtools",
    "openssl",
    "python3",
    "qemu-system-arm",
    "qemu-system-x86",
    "rauc",
    "seabios",
    "squashfs-tools",
    "swtpm",
    "u-boot-qemu",
    "u-boot-tools",
    "xz-utils",
    "zstd",
)
_UNPACKED: Final = ("u-boot-rpi:arm64", "raspi-firmware")
"""For the Raspberry Pi: unpacked, never run."""


class BuildError(Exception):
    """A step failed: what, why, what to do next."""


def run(argv: Sequence[str], *, log: Path, what: str, env: dict[str, str] | None = None) -> None:
    """Run a program with its output in ``log``. Raises `BuildError` with its last lines."""
    with log.open("wb") as out:
        done = subprocess.run(
            argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, check=False
        )
    if done.returncode:
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-12:])
        raise BuildError(f"{what} failed ({argv[0]} ended with {done.returncode}); the end of {log}:\n  {tail}")


class Toolbox:
    """A Debian of its own at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, argv: Sequence[str | Path], *, binds: Sequence[Path] = ()) -> list[str]:
        """The command line that runs ``argv`` inside; it sees /tmp, the checkout, the cache and ``binds``."""
        seen = [place.ROOT, place.cache(), Path("/tmp"), *binds]
        shown = [part for path in seen for part in ("--bind", str(path.resolve()), str(path))]
        enter = ["bwrap", "--bind", str(self.path), "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
        closing = ["--die-with-parent", "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin"]
        return [*enter, *shown, *closing, *(str(part) for part in argv)]

    def run(self, argv: Sequence[str | Path], *, log: Path, what: str, binds: Sequence[Path] = ()) -> None:
        """Run it to its end. Raises `BuildError`."""
        run(self.command(argv, binds=binds), log=log, what=what)

    def uboot(self, board: str) -> Path:
        """U-Boot for ``board``: qemu_arm64, rpi_arm64, rpi_3."""
        return self.path / "usr/lib/u-boot" / board / "u-boot.bin"

    @property
    def raspi_firmware(self) -> Path:
        """The firmware of the Raspberry Pi."""
        return self.path / "usr/lib/raspi-firmware"


def toolbox() -> Toolbox:
    """The toolbox, made first where it is not there yet: some 40 seconds and 1 GB. Raises `BuildError`."""
    wanted = hashlib.sha256(" ".join((SUITE, *_PACKAGES, *_UNPACKED)).encode()).hexdigest()[:12]
    path = place.cache() / f"toolbox-{wanted}"
    if not path.is_dir():
        _make(path)
    return Toolbox(path)


def _make(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    tar, log = draft.with_suffix(".tar"), path.with_suffix(".log")
    # their maintainer scripts are for the machine that they are for
    unpack = (
        f'mkdir "$1/fetched" && chroot "$1" sh -c "cd /fetched && apt-get -q download {" ".join(_UNPACKED)}"'
        ' && for deb in "$1"/fetched/*.deb; do dpkg-deb -x "$deb" "$1"; done && rm -r "$1/fetched"'
    )
    argv = [
        *(
            "mmdebstrap",
            "--quiet",
            "--variant=apt",
            "--architectures=amd64,arm64",
            "--components=main,non-free-firmware",
        ),
        *("--format=tar", f"--include={','.join(_PACKAGES)}", "--aptopt=Apt::Install-Recommends false"),
        *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"),
        *(f"--customize-hook={unpack}", SUITE, str(tar)),
    ]
    try:
        run(argv, log=log, what="Making the toolbox")
        draft.mkdir()
        # files belong to whoever builds, so that nothing here needs root
        untar = ["tar", "-x", "--no-same-owner", "--exclude=./dev/*", "-C", str(draft), "-f", str(tar)]
        run(untar, log=log, what="Unpacking the toolbox")
        draft.rename(path)
    except OSError as e:
        if not path.is_dir():
            raise BuildError(f"The toolbox could not be kept in {path.parent}: {e.strerror}") from e
    finally:
        tar.unlink(missing_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
