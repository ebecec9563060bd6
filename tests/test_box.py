"""The image of the card, started in QEMU: what CI can see of the box in a minute or two. The rest: image-build/test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import disk, keys, package, place, preflight, rootfs, sbom
from box.card import Card
from box.toolbox import Toolbox, toolbox
from box.trials import starts
from box.trials.stand import Image

from tests.peers.ports import missing

pytestmark = [pytest.mark.rig, pytest.mark.timeout(900)]

ARCH: rootfs.Arch = "amd64"
"""Nothing of it is emulated while it is built."""


@pytest.fixture(scope="module")
def tools() -> Toolbox:
    lacking = preflight.missing(ARCH, room=place.cache())
    if lacking or os.geteuid():
        missing(f"building an image needs root and {[one.what for one in lacking]}")
    return toolbox()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module")
def root(tools: Toolbox, out: Path) -> rootfs.Root:
    deb = package.build(ARCH, out, level=1)
    signing = keys.trial(out / "key")
    base = rootfs.base(ARCH, epoch=package.epoch())
    return rootfs.slot(
        ARCH, base=base, package=deb, keyring=signing.keyring, toolbox=tools, out=out, epoch=package.epoch()
    )


@pytest.fixture(scope="module")
def assembled(root: rootfs.Root, tools: Toolbox, out: Path) -> Iterator[disk.Disk]:
    made = disk.Assembly(ARCH, root, toolbox=tools, work=out / "work", epoch=package.epoch()).make(out / "box.img")
    yield made
    made.image.unlink()
    made.root.unlink()


def test_a_new_box_takes_images_delivers_them_and_says_so(assembled: disk.Disk, tools: Toolbox, out: Path) -> None:
    image = Image(arch=ARCH, image=assembled.image, work=assembled.kernel.parent)
    assert starts.new(image, tools, out / "new") == []


def test_the_same_root_makes_the_same_card_bit_for_bit(
    root: rootfs.Root, assembled: disk.Disk, tools: Toolbox, out: Path
) -> None:
    again = disk.Assembly(ARCH, root, toolbox=tools, work=out / "again", epoch=package.epoch()).make(out / "again.img")
    try:
        assert _digest(again.image) == _digest(assembled.image)
    finally:
        again.image.unlink()
        again.root.unlink()


def test_the_card_has_the_partitions_that_boot_script_and_updates_go_by(assembled: disk.Disk, tools: Toolbox) -> None:
    card = Card(assembled.image, tools)
    assert card.environment() == {
        "SERIAL": "2",
        "BOOT_ORDER": "A B",
        "BOOT_A_LEFT": "3",
        "BOOT_B_LEFT": "3",
        "MACHINE_ID": "",
    }
    script = (place.FIRMWARE / "boot" / "boot.cmd").read_text()
    config = (place.FIRMWARE / "rauc" / "system.conf").read_text()
    for number, name in ((0x0A, "rootfs_a"), (0x0B, "rootfs_b")):
        assert card.part(name)[1] == disk.SLOT
        assert disk.part_uuid(number) in script
        assert f"/dev/disk/by-partlabel/{name}" in config


def test_the_list_of_what_is_inside_names_debian_s_packages_and_python_s(root: rootfs.Root, out: Path) -> None:
    written = [
        sbom.write(ARCH, "1.0", root.manifest, out / name, epoch=1_700_000_000).read_bytes() for name in ("a", "b")
    ]
    assert written[0] == written[1]
    for inside in (b"pkg:deb/debian/rauc@", b"pkg:deb/debian/linux-image-amd64@", b"pkg:pypi/pynetdicom@"):
        assert inside in written[0]


def _digest(path: Path) -> str:
    from box.build import digest  # noqa: PLC0415 - pulls in the command line

    return digest(path)


@pytest.mark.parametrize(("lacks", "says"), [("mmdebstrap", "mmdebstrap"), ("bwrap", "bubblewrap")])
def test_what_the_host_lacks_is_named_with_the_command_that_gets_it(
    lacks: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known: Callable[[str], str | None] = lambda name: None if name == lacks else f"/usr/bin/{name}"  # noqa: E731
    monkeypatch.setattr("box.preflight.shutil.which", known)
    found = [one for one in preflight.missing("amd64", room=tmp_path) if says in one.what]
    assert len(found) == 1
    assert f"apt-get install -qq -y --no-install-recommends {says}" in found[0].command
