"""The root file system of a slot: Debian's packages, then the package of the appliance and firmware-config on top.

In two steps, since the first takes minutes under emulation and changes rarely: `base` is kept in the cache by what it
is made of. Both run without root where the host allows it (mmdebstrap chooses). No network is used in the second.
"""

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from box import place
from box.toolbox import SUITE, Toolbox, run

Arch = Literal["arm64", "amd64"]

_KERNELS: Final[Mapping[Arch, str]] = {"arm64": "linux-image-arm64", "amd64": "linux-image-amd64"}
_PACKAGES: Final = (
    "ca-certificates",
    "chrony",
    "cryptsetup-bin",
    "curl",
    "dbus",
    "dosfstools",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "less",
    "libnss-resolve",
    "libpam-systemd",
    # systemd loads them where there is a TPM
    "libtss2-esys-3.0.2-0t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
    "nftables",
    "procps",
    "python3",
    "rauc",
    "rauc-service",
    "systemd-cryptsetup",
    "systemd-repart",
    "systemd-resolved",
    "systemd-sysv",
    "tzdata",
    "udev",
    "zstd",
)
_MODULES: Final[Mapping[Arch, tuple[str, ...]]] = {
    # a card of the Raspberry Pi, a disk of QEMU
    "arm64": ("ext4", "mmc_block", "sdhci_iproc", "bcm2835", "bcm2835_wdt", "virtio_blk", "virtio_pci", "virtio_mmio"),
    "amd64": ("ext4", "virtio_blk", "virtio_pci"),
}
_USER: Final = 811
"""Numeric id of the user and group ``edge`` on the box."""
_LEFT_OUT: Final = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
)
_KEPT: Final = ("/usr/share/doc/*/copyright",)


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """What was made: the tree as a tar archive, and a line for each of its packages: name, version, architecture."""

    tar: Path
    manifest: Path


def _mmdebstrap(arch: Arch, *options: str) -> list[str]:
    left = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
    kept = [f"--dpkgopt=path-include={path}" for path in _KEPT]
    apt = "--aptopt=Apt::Install-Recommends false"
    return ["mmdebstrap", "--quiet", f"--architectures={arch}", "--format=tar", apt, *left, *kept, *options]


def base(arch: Arch, *, epoch: int, fresh: bool = False) -> Path:
    """Debian for the box, with kernel and initial file system: a tar in the cache. Raises `BuildError`.

    ``epoch``: time of every file, in seconds (SOURCE_DATE_EPOCH). ``fresh``: what is in the cache is made anew, since
    Debian mends its packages.
    """
    packages = (*_PACKAGES, _KERNELS[arch])
    modules = "\\n".join(_MODULES[arch])
    # made once, at the end, instead of at each package that has a part in it: under emulation that is minutes
    postpone = (
        'chroot "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs'
        ' && ln -s /bin/true "$1/usr/sbin/update-initramfs"'
    )
    initramfs = (
        'rm "$1/usr/sbin/update-initramfs"'
        ' && chroot "$1" dpkg-divert --quiet --local --rename --remove /usr/sbin/update-initramfs'
        " && sed -i -e s/^MODULES=.*/MODULES=list/ -e s/^COMPRESS=.*/COMPRESS=zstd/ "
        '"$1/etc/initramfs-tools/initramfs.conf"'
        f" && printf '{modules}\\n' > \"$1/etc/initramfs-tools/modules\""
        ' && chroot "$1" sh -c \'cd /boot && version=$(ls /lib/modules) && mkinitramfs -o initrd.img "$version"'
        " && mv vmlinuz-* vmlinuz && rm -f System.map-* initrd.img-*'"
        ' && rm -f "$1/vmlinuz" "$1/vmlinuz.old" "$1/initrd.img" "$1/initrd.img.old"'
    )
    options = (
        *("--variant=minbase", f"--include={','.join(packages)}"),
        *(f"--essential-hook={postpone}", f"--customize-hook={initramfs}", SUITE),
    )
    wanted = hashlib.sha256("\0".join(options).encode()).hexdigest()[:12]
    kept = place.cache() / f"base-{arch}-{wanted}.tar"
    if fresh or not kept.exists():
        draft = kept.with_suffix(".draft")
        argv = [*_mmdebstrap(arch, *options), str(draft)]
        run(argv, log=kept.with_suffix(".log"), what="Putting Debian together", env=_environment(epoch))
        draft.rename(kept)
    return kept


def slot(arch: Arch, *, base: Path, package: Path, keyring: Path, toolbox: Toolbox, out: Path, epoch: int) -> Root:
    """The root of a slot: ``base`` with the appliance in it. Raises `BuildError`."""
    tar, manifest = out / f"rootfs-{arch}.tar", out / f"dicom-edge-{arch}.manifest"
    quoted = {
        name: shlex.quote(str(path))
        for name, path in {
            "package": package,
            "keyring": keyring,
            "gpio": place.FIRMWARE / "systemd" / "edge.service.d" / "gpio.conf",
            "image": place.FIRMWARE / "image",
            "rauc": place.FIRMWARE / "rauc",
        }.items()
    }
    hooks = (
        # the same in every version: its files outlive them
        f"chroot \"$1\" systemd-sysusers --inline 'g edge {_USER}' 'u edge {_USER}:edge \"dicom-edge\" /var/lib/edge'",
        f'cp {quoted["package"]} "$1/package.deb"',
        'DICOM_EDGE_COMPILE=no chroot "$1" dpkg --install /package.deb && rm "$1/package.deb"',
        _compiled(toolbox),
        f'cp -r --no-preserve=ownership {quoted["image"]}/. "$1/"',
        # a light may be wired to its pins
        f'install -D -m 644 {quoted["gpio"]} "$1/usr/lib/systemd/system/edge.service.d/gpio.conf"',
        f'install -D -m 644 {quoted["rauc"]}/system.conf "$1/etc/rauc/system.conf"',
        f'sed -i s/dicom-edge-arm64/dicom-edge-{arch}/ "$1/etc/rauc/system.conf"',
        f'install -D -m 644 {quoted["keyring"]} "$1/etc/rauc/keyring.pem"',
        'mkdir -p "$1/boot/firmware" "$1/data" "$1/var/lib/edge" "$1/var/lib/edge-system" "$1/var/lib/edge-update"',
        # a box that waited for a network would take no images without one
        'ln -s /dev/null "$1/etc/systemd/system/systemd-networkd-wait-online.service"',
        # a unit is on where the image says so, and nowhere else
        'chroot "$1" systemctl preset-all --quiet',
        # made at the first start of each box, never in what all boxes share
        'printf "uninitialized\\n" > "$1/etc/machine-id" && ln -sf /etc/machine-id "$1/var/lib/dbus/machine-id"',
        'ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"',
        'ln -sf /run/edge-system/localtime "$1/etc/localtime"',
        # what dpkg keeps for its next run, and what differs between two runs
        'rm -rf "$1"/var/log/* "$1"/var/cache/* "$1"/var/lib/apt/lists/* "$1"/var/lib/dpkg/*-old "$1"/tmp/*',
        'rm -rf "$1"/var/lib/systemd/*',
        # what systemd would make at the first start
        'mkdir -m 700 "$1/var/cache/private" && mkdir -m 755 -p "$1/var/log/journal"',
        "chroot \"$1\" dpkg-query --show --showformat='${Package} ${Version} ${Architecture}\\n' > "
        + shlex.quote(str(manifest)),
    )
    log = out / f"rootfs-{arch}.log"
    argv = _mmdebstrap(
        arch,
        *("--variant=custom", "--skip=update,cleanup/apt,cleanup/reproducible"),
        f'--setup-hook=tar -x -C "$1" -f {shlex.quote(str(base))}',
        *(f"--customize-hook={hook}" for hook in hooks),
        SUITE,
        str(tar),
    )
    run(argv, log=log, what="Putting the appliance into its root file system", env=_environment(epoch))
    return Root(tar=tar, manifest=manifest)


def _compiled(toolbox: Toolbox) -> str:
    """Compile what the package brings, by the Python of the toolbox, which is that of the box and not emulated."""
    tools = shlex.quote(str(toolbox.path))
    python = (
        f"PYTHONHOME={tools}/usr {tools}/lib64/ld-linux-x86-64.so.2 --library-path {tools}/usr/lib/x86_64-linux-gnu"
    )
    # checked by nobody later: the root is read-only
    options = '-q --invalidation-mode unchecked-hash -s "$1" -p /'
    return f'{python} {tools}/usr/bin/python3.13 -m compileall {options} "$1/opt/dicom-edge/lib" >/dev/null'


def _environment(epoch: int) -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8"}
