"""`image-build/boot`: the image in QEMU, for a person to try: ports on this machine, its console in the terminal."""

import subprocess
from pathlib import Path
from typing import Final

import click

from box import package, place
from box.build import console, prepare
from box.card import Card
from box.disk import SLOT_A, part_uuid
from box.qemu import Hardware, command
from box.rootfs import Arch
from box.toolbox import BuildError, toolbox

_PROVISION: Final = """\
# Put on the card by image-build/boot.
[box]
hostname = "trial-box"

[dashboard]
password = "{password}"
"""
HOST: Final = "10.0.2.2"
"""The machine that QEMU runs on, as the box sees it."""
_CONFIGURATION: Final = """\
[device]
name = "Trial box"

[receive]
ae_title = "EDGE"
port = 11112
accept = "any"

[dashboard]
address = "0.0.0.0"
port = 443

[[destination]]
name = "host"
type = "dimse"
host = "{host}"
port = {port}
ae_title = "STORESCP"
"""
_PASSWORD: Final = "trial-box-1"
"""Of a box that only this machine reaches."""


def configuration(port: int) -> str:
    """What a box on trial is told: it takes images from anyone, and sends them to ``port`` of this machine."""
    return _CONFIGURATION.format(host=HOST, port=port)


def slot_a(arch: Arch, disk: Path, work: Path, **more: object) -> Hardware:
    """The machine for ``disk``: arm64 as a board starts it; amd64 with the kernel of slot A given to QEMU."""
    if arch == "arm64":
        return Hardware(arch=arch, disk=disk, **more)  # type: ignore[arg-type]
    words = f"root=PARTUUID={part_uuid(SLOT_A)} ro rootwait rauc.slot=A panic=10 fsck.repair=yes"
    kernel, initrd = work / "vmlinuz", work / "initrd.img"
    return Hardware(arch=arch, disk=disk, kernel=kernel, initrd=initrd, append=f"{words} console=ttyS0", **more)  # type: ignore[arg-type]


@click.command()
@click.option("--arch", type=click.Choice(["arm64", "amd64"]), default="arm64", show_default=True, help="Which image.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=place.OUT, help="Where it was built.")
@click.option(
    "--provision",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder whose files are put on FIRMWARE, as for a clinic; without it a trial configuration is.",
)
@click.option("--as-shipped", is_flag=True, help="Put nothing on the card.")
@click.option("--keep", is_flag=True, help="Go on with the card of the last time.")
@click.option("--dicom", default=11112, show_default=True, help="Port of this machine for DICOM.")
@click.option("--dashboard", default=8443, show_default=True, help="Port of this machine for the dashboard.")
@click.option(
    "--pacs", default=11113, show_default=True, help="Port of this machine that the trial configuration sends to."
)
def main(
    arch: Arch,
    out: Path,
    provision: Path | None,
    dicom: int,
    dashboard: int,
    pacs: int,
    *,
    as_shipped: bool,
    keep: bool,
) -> None:
    """Start the image in QEMU. Its console is this terminal, with root at it; Ctrl-A X pulls the plug."""
    try:
        prepare(arch, out)
        card = _card(arch, out, keep=keep)
        if provision:
            card.put(sorted(provision.iterdir()))
        elif not as_shipped and not keep:
            card.put(_trial(out / "trial", pacs))
    except BuildError as e:
        console.print(f"error: {e}", style="red", markup=False)
        raise SystemExit(1) from None
    hardware = slot_a(
        *(arch, card.path, out / f"work-{arch}"),
        ports={dicom: 11112, dashboard: 443},
        terminal=True,
    )
    console.print(f"dashboard      https://127.0.0.1:{dashboard}/, once the console asks for a login (a minute or two)")
    console.print(f"send to it     storescu -aec EDGE 127.0.0.1 {dicom} FILE.dcm")
    if not provision and not as_shipped:
        console.print(f"password       {_PASSWORD}")
        console.print(f"a PACS for it  storescp -od FOLDER -aet STORESCP {pacs}")
    console.print("ask it         edge status, in the console below; Ctrl-A X pulls the plug\n")
    argv = command(hardware, toolbox(), folder=out)
    raise SystemExit(subprocess.run(argv, check=False).returncode)


def _card(arch: Arch, out: Path, *, keep: bool) -> Card:
    path = out / f"card-{arch}.img"
    if keep and path.exists():
        return Card(path, toolbox())
    image = out / f"dicom-edge-{package.own_version()}-{arch}.img"
    if not image.exists():
        raise BuildError(f"There is no {image}: run image-build/build --arch {arch} first.")
    return Card.flash(image, path, toolbox())


def _trial(folder: Path, pacs: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    texts = {
        "provision.toml": _PROVISION.format(password=_PASSWORD),
        "edge.toml": configuration(pacs),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


if __name__ == "__main__":
    main()
