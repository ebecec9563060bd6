"""The signed bundle that updates a box: the root file system of a slot, and what it is for."""

import shutil
from pathlib import Path

from box import place
from box.keys import Signing
from box.rootfs import Arch
from box.toolbox import Toolbox
from edge.store.schema import VERSION


def bundle(
    arch: Arch,
    version: str,
    root: Path,
    *,
    signing: Signing,
    toolbox: Toolbox,
    work: Path,
    out: Path,
    level: int = 15,
    schema: int = VERSION,
) -> Path:
    """``out`` as a RAUC bundle (format verity) with ``root``, signed; a lower ``level`` packs sooner and larger.

    ``schema``: version of the database of the program in it. Raises `BuildError`.
    """
    shutil.rmtree(work, ignore_errors=True)
    content = work / "content"
    content.mkdir(parents=True)
    # a link costs no second copy; where none can be made, a copy
    try:
        (content / "rootfs.ext4").hardlink_to(root)
    except OSError:
        shutil.copy(root, content / "rootfs.ext4")
    (content / "manifest.raucm").write_text(manifest(arch, version, schema))
    out.unlink(missing_ok=True)
    binds = [work, out.parent, signing.certificate.parent, signing.key.parent]
    toolbox.run(
        [
            "rauc",
            "bundle",
            f"--cert={signing.certificate}",
            f"--key={signing.key}",
            f"--keyring={signing.keyring}",
            f"--mksquashfs-args=-comp zstd -Xcompression-level {level}",
            content,
            out,
        ],
        log=work / "bundle.log",
        what="Making the bundle",
        binds=[*binds, place.OUT] if place.OUT.exists() else binds,
    )
    return out


def manifest(arch: Arch, version: str, schema: int) -> str:
    """What a bundle says of itself. A box takes none whose database it could not open after a roll-back."""
    return (
        f"[update]\ncompatible={compatible(arch)}\nversion={version}\n\n"
        "[bundle]\nformat=verity\n\n"
        "[image.rootfs]\nfilename=rootfs.ext4\n\n"
        f"[meta.dicom-edge]\nschema={schema}\n"
    )


def compatible(arch: Arch) -> str:
    """What a bundle and a box must agree on."""
    return f"dicom-edge-{arch}"
