"""`image-build/build`: all that is given out, from the checkout: package, image, bundle, lists of what is inside."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import file_digest
from pathlib import Path

import click
import msgspec
from rich.console import Console

from box import keys, package, place, preflight, sbom
from box.bundle import bundle
from box.disk import Assembly, Disk
from box.keys import Signing
from box.rootfs import Arch, base, slot
from box.toolbox import BuildError, toolbox

console = Console(stderr=True, highlight=False)


Progress = Callable[[str], AbstractContextManager[None]]
"""Shows a step with its name."""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What was built."""

    package: Path
    disk: Disk
    bundle: Path
    files: list[Path]


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show that something is under way, and how long it took."""
    began = time.monotonic()
    with console.status(text):
        yield
    console.print(f"{time.monotonic() - began:7.0f} s  {text}")


def build(
    arch: Arch, *, version: str, signing: Signing, out: Path, fresh: bool = False, progress: Progress = step
) -> Built:
    """Build all of it into ``out``. Raises `BuildError`."""
    out.mkdir(parents=True, exist_ok=True)
    work = out / f"work-{arch}"
    epoch = package.epoch()
    with progress("tools"):
        tools = toolbox()
    with progress(f"package for {arch}"):
        deb = package.build(arch, out, version=version)
    with progress("Debian for the box (kept for the next time)"):
        debian = base(arch, epoch=epoch, fresh=fresh)
    with progress("root file system"):
        root = slot(arch, base=debian, package=deb, keyring=signing.keyring, toolbox=tools, out=out, epoch=epoch)
    image = out / f"dicom-edge-{version}-{arch}.img"
    with progress("image of the card"):
        disk = Assembly(arch, root, toolbox=tools, work=work, epoch=epoch).make(image)
    with progress("bundle for updates"):
        update = bundle(
            *(arch, version, disk.root),
            signing=signing,
            toolbox=tools,
            work=out / f"bundle-{arch}",
            out=out / f"dicom-edge-{version}-{arch}.raucb",
        )
    with progress("list of what is inside (CycloneDX)"):
        bom = sbom.write(arch, version, root.manifest, out / f"dicom-edge-{version}-{arch}.cdx.json", epoch=epoch)
    return Built(package=deb, disk=disk, bundle=update, files=[deb, image, update, root.manifest, bom])


def prepare(arch: Arch, out: Path) -> None:
    """See that the host can build; as root, get what is missing. Raises `BuildError` that says what and how."""
    out.mkdir(parents=True, exist_ok=True)
    found = preflight.missing(arch, room=out)
    if found and preflight.can_mend():
        for one in found:
            console.print(f"         getting {one.what}")
        preflight.mend(found)
        found = preflight.missing(arch, room=out)
    if found:
        lines = [f"  {one.what}" + (f"\n    as root: {one.command}" if one.command else "") for one in found]
        raise BuildError("This machine lacks what a build needs:\n" + "\n".join(lines))


@click.command()
@click.option(
    "--arch",
    type=click.Choice(["arm64", "amd64"]),
    default="arm64",
    show_default=True,
    help="arm64: Raspberry Pi and QEMU. amd64: to try in QEMU, where it is fast.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=place.OUT, help="Folder for the results."
)
@click.option(
    "--certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate (PEM) of who signs updates; a box built with it takes those alone.",
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its key (PEM).")
@click.option("--fresh", is_flag=True, help="Take Debian's packages anew, with what was mended in them since.")
@click.option("--compress/--no-compress", default=True, help="Compress the image (xz).")
def main(arch: Arch, out: Path, certificate: Path | None, key: Path | None, *, fresh: bool, compress: bool) -> None:
    """Build the Debian package, the image of the card, the bundle that updates a box, and lists of what is inside."""
    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key belong together.")
    began = time.monotonic()
    try:
        prepare(arch, out)
        if certificate and key:
            signing = Signing(certificate=certificate, key=key, keyring=certificate)
        else:
            signing = keys.trial(place.cache() / "trial-key")
            console.print("         no --key: updates are signed with a key for trying, never meant for a clinic")
        built = build(arch, version=package.own_version(), signing=signing, out=out, fresh=fresh)
        files = [*built.files, *([squeezed(built.disk.image)] if compress else [])]
    except BuildError as e:
        console.print(f"error: {e}", style="red", markup=False)
        raise SystemExit(1) from None
    (out / f"SHA256SUMS-{arch}").write_text("".join(f"{digest(path)}  {path.name}\n" for path in files))
    console.print(f"{time.monotonic() - began:7.0f} s  in all")
    for path in files:
        console.print(f"{path.stat().st_size / 1e6:9.1f} MB  {path}", soft_wrap=True)


def squeezed(image: Path) -> Path:
    """The image as it is given out: what writes cards reads xz. Raises `BuildError`."""
    with step("compressing"):
        done = subprocess.run(["xz", "-T0", "-2", "-k", "-f", image], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{image} could not be compressed: {done.stderr.strip()}")
    return image.with_name(f"{image.name}.xz")


def digest(path: Path) -> str:
    """SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
