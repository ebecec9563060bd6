"""firmware-config with real parts: smbd and smbclient, a medium on a loop device, the units by systemd."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import pytest

from scripts.rigs import preflight
from scripts.rigs.preflight import MissingError
from scripts.rigs.volume import CommandFailedError, command
from tests.appliance import COMMAND, Edge, dimse
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import LOOPBACK, free_port, missing, require, wait_for
from tests.peers.program import Program
from tests.peers.raw import RawReceiver

pytestmark = pytest.mark.rig

FIRMWARE: Final = Path(__file__).parents[1] / "firmware-config"
SHARE: Final = FIRMWARE / "samba" / "edge-export.conf"
SCRIPT: Final = FIRMWARE / "udev" / "import-stick"
CHECK: Final = FIRMWARE / "udev" / "is-medium"
SERVICE: Final = FIRMWARE / "systemd" / "edge.service"
UNIT: Final = FIRMWARE / "systemd" / "edge-import@.service"
PASSWORD: Final = "scan"


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


def files(folder: Path, objects: list[DicomObject]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [one.write(folder / f"IM{number:04}.dcm") for number, one in enumerate(objects)]


def delivered(pacs: RawReceiver) -> list[bytes]:
    return sorted(one.digest for one in pacs.received)


def expected(objects: list[DicomObject]) -> list[bytes]:
    return sorted(one.wire_digest for one in objects)


# the share


def test_samba_takes_the_share_without_a_word() -> None:
    done = subprocess.run([require("testparm"), "-s", str(SHARE)], capture_output=True, text=True, check=True)
    assert re.findall("(?i).*(?:warn|error|unknown|ignor|deprecat).*", done.stderr) == []
    assert "server min protocol = SMB2" in done.stdout


class Smbd(Program):
    """The sample's share with a folder, a port and an account of our own."""

    def __init__(self, folder: Path, export: Path) -> None:
        port = free_port()
        user = os.environ.get("USER") or "root"
        text = SHARE.read_text()
        for old, new in (
            ("path = /srv/edge/export", f"path = {export}"),
            ("valid users = modality", f"valid users = {user}"),
            ("force group = edge", f"force group = {user}"),
            ("smb ports = 445", f"smb ports = {port}\ninterfaces = lo\nbind interfaces only = yes"),
        ):
            assert old in text
            text = text.replace(old, new)
        state = folder / "samba"
        for kind in ("private", "lock", "state", "cache", "pid", "ncalrpc"):
            (state / kind).mkdir(parents=True)
            option = f"{kind} {'directory' if kind in {'lock', 'state', 'cache', 'pid'} else 'dir'}"
            text = text.replace("[global]\n", f"[global]\n{option} = {state / kind}\n", 1)
        config = folder / "smb.conf"
        config.write_text(text.replace("[global]\n", f"[global]\nlog file = {state}/log\n", 1))
        self.account = f"{user}%{PASSWORD}"
        subprocess.run(
            [require("smbpasswd"), "-c", str(config), "-s", "-a", user],
            input=f"{PASSWORD}\n{PASSWORD}\n",
            text=True,
            check=True,
            capture_output=True,
        )
        super().__init__(
            [require("smbd"), "--foreground", "-s", str(config)],
            ports=[port],
            log=folder / "smbd.log",
            environment=dict(os.environ),
        )

    def run(self, command: str) -> str:
        """Run a command of smbclient on the share."""
        done = subprocess.run(
            [require("smbclient"), f"//{LOOPBACK}/export", "-p", str(self.ports[0]), "-U", self.account, "-c", command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_what_a_modality_puts_on_the_share_is_delivered(tmp_path: Path, pacs: RawReceiver) -> None:
    if os.geteuid():
        missing("root, for a Samba account")
    export = tmp_path / "export"
    export.mkdir()
    sample = (FIRMWARE / "samba" / "edge.toml").read_text()
    watch = sample.replace("/srv/edge/export", str(export)).replace('settle = "10s"', 'settle = "1s"')
    assert watch != sample
    objects = mr(12)
    files(tmp_path / "STUDY", objects)
    with Edge(tmp_path, dimse("pacs", pacs.port), more=watch) as edge, Smbd(tmp_path, export) as share:
        share.run(f'lcd "{tmp_path}"; prompt OFF; recurse ON; mput STUDY')
        pacs.wait(12, 30)
        wait_for(lambda: len(list((export / "done" / "STUDY").glob("*.dcm"))) == 12, 10, "moved to done/")
        edge.wait_settled("pacs", {"accepted": 12})
        # the modality may tidy up what was taken
        share.run("recurse ON; deltree done")
        assert not (export / "done").exists()
    assert delivered(pacs) == expected(objects)


# the medium


class Stick:
    """A file system in a file, on a loop device."""

    def __init__(self, folder: Path, kind: str) -> None:
        try:
            preflight.loop_devices()
        except preflight.NoLoopDeviceError as e:  # not a tool: nothing that could be installed would help
            pytest.skip(f"NOT TESTED: {e}")
        except MissingError as e:
            missing(str(e))
        if kind not in Path("/proc/filesystems").read_text().split():
            pytest.skip(f"NOT TESTED: this kernel has no {kind}, and nothing can be installed against that")
        self.image = folder / "stick.img"
        with self.image.open("wb") as file:
            file.truncate(32 << 20)
        content = folder / "content"
        try:
            if kind == "vfat":
                command("mkfs.vfat", str(self.image))
                command("mcopy", "-s", "-i", str(self.image), *map(str, sorted(content.iterdir())), "::/")
            else:
                command(f"mkfs.{kind}", "-q", "-F", "-d", str(content), str(self.image))
            self.device = command("losetup", "--find", "--show", str(self.image)).strip()
        except (MissingError, CommandFailedError) as e:
            missing(str(e))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        command("losetup", "--detach", self.device)

    def digest(self) -> str:
        return hashlib.sha256(self.image.read_bytes()).hexdigest()

    def read(self, folder: Path, edge: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the script as the unit does."""
        environment = {
            **os.environ,
            "EDGE_COMMAND": edge,
            "EDGE_MEDIA_ROOT": str(folder / "media"),
            "EDGE_USER": "",
            **more,
        }
        return subprocess.run(
            [str(SCRIPT), self.device], env=environment, capture_output=True, text=True, timeout=60, check=False
        )


def stand_in(folder: Path, script: str) -> str:
    path = folder / "stand-in"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("kind", ["vfat", "ext4", "ext2"])
def test_a_medium_is_only_read_and_let_go_of_whatever_happens(tmp_path: Path, kind: str) -> None:
    files(tmp_path / "content" / "DICOM", mr(2))
    with Stick(tmp_path, kind) as stick:
        before = stick.digest()
        name = Path(stick.device).name
        tried = stand_in(tmp_path, 'echo "$@"; touch "$4/x" 2>&1; find "$4" -name "*.dcm" | wc -l; exit 7')
        done = stick.read(tmp_path, tried)
        said = done.stdout.splitlines()
        assert said[0] == f"import --media {name} {tmp_path}/media/{name}"
        assert "Read-only file system" in said[1]
        assert said[2] == "2"
        assert done.returncode == 7
        assert not (tmp_path / "media" / name).exists()
        assert stick.digest() == before


@pytest.mark.parametrize(
    ("cmdline", "name", "asked"),
    [
        ("root=/dev/vda3 rauc.slot=A", "dicom-edge-9.9.9-arm64.raucb", True),
        ("root=/dev/vda3 rauc.slot=A", "dicom-edge-1.0.0-arm64.raucb", False),  # runs already
        ("root=/dev/vda3 rauc.slot=A", "dicom-edge-0.9.12-arm64.raucb", False),  # would go back
        ("root=/dev/vda3 rauc.slot=A", "dicom-edge-1.0.10-arm64.raucb", True),
        ("root=/dev/vda3", "dicom-edge-9.9.9-arm64.raucb", False),  # no image of the box
        ("root=/dev/vda3 rauc.slot=A", "9.9.9.raucb", False),
    ],
)
def test_a_bundle_on_a_stick_is_asked_for_as_an_update_and_the_images_are_taken_too(
    tmp_path: Path, cmdline: str, name: str, *, asked: bool
) -> None:
    files(tmp_path / "content" / "DICOM", mr(1))
    (tmp_path / "content" / name).write_bytes(b"bundle")
    # neither an older one beside it nor a link to what only root may read is asked for
    (tmp_path / "content" / "dicom-edge-0.5-arm64.raucb").write_bytes(b"old")
    (tmp_path / "content" / "dicom-edge-99-arm64.raucb").symlink_to("/etc/shadow")
    (tmp_path / "cmdline").write_text(cmdline)
    told = 'case $1 in --version) echo "edge, version 1.0.0";; update) echo "$@"; exit 1;; *) echo "$@";; esac'
    with Stick(tmp_path, "ext2") as stick:
        done = stick.read(tmp_path, stand_in(tmp_path, told), EDGE_CMDLINE=str(tmp_path / "cmdline"))
        place = f"{tmp_path}/media/{Path(stick.device).name}"
    assert done.returncode == 0, done.stderr
    expected_lines = [f"update {place}/{name}"] * asked + [f"import --media {Path(place).name} {place}"]
    assert done.stdout.splitlines() == expected_lines


def test_a_stick_is_imported_and_what_cannot_be_mounted_is_told(tmp_path: Path, pacs: RawReceiver) -> None:
    objects = mr(5)
    files(tmp_path / "content" / "DICOM", objects)
    with Stick(tmp_path, "ext2") as stick, Edge(tmp_path / "box", dimse("pacs", pacs.port)) as edge:
        for shown in ("taken          5", "already there  5"):
            done = stick.read(tmp_path, COMMAND, EDGE_CONFIG=str(edge.config))
            assert done.returncode == 0, done.stderr
            assert shown in done.stdout.splitlines()
        assert edge.json("status")["light"]["code"] == "B3"
        pacs.wait(5, 20)
        command("dd", "if=/dev/zero", f"of={stick.device}", "bs=1M", "count=1", "conv=notrunc")
        done = stick.read(tmp_path, COMMAND, EDGE_CONFIG=str(edge.config))
        assert done.returncode == 1
        assert "cannot be mounted: is it damaged" in done.stderr
    assert delivered(pacs) == expected(objects)


def test_the_import_runs_as_the_user_of_the_service_who_may_read_everything(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    closed = tmp_path / "content" / "closed"
    closed.write_text("words")
    closed.chmod(0)
    tmp_path.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    with Stick(tmp_path, "ext4") as stick:
        tried = stand_in(tmp_path, 'id -un; cat "$4/closed"')
        done = stick.read(tmp_path, tried, EDGE_USER="nobody")
        assert done.stdout == "nobody\nwords"


# what is no medium

DISKS: Final = {
    # a disk, its partitions, what lies on these, and where that is mounted
    "sda": {"sda1": ("sda1", "/boot/firmware"), "sda2": ("sda2", "/"), "sda3": ("sda3", "")},
    "sdb": {"sdb1": ("sdb1", "")},
    "sdc": {"sdc1": ("crypt", "/var/lib/edge"), "sdc2": ("sdc2", "")},
    "sdd": {"sdd1": ("sdd1", ""), "sdd2": ("sdd2", "{root}/sdd2")},
    "sde": {"sde1": ("sde1", ""), "sde2": ("sde2", "[SWAP]")},
    "sdf": {"sdf1": ("sdf1", ""), "sdf2": ("sdf2", "")},
    "sdg": {"sdg1": ("sdg1", ""), "sdg2": ("sdg2", "")},
    "sr0": {"sr0": ("sr0", "")},
}
FSTAB: Final = {"sdf2": "rw,nofail", "sr0": "user,noauto"}
LSBLK: Final = """
import sys
disks, root = {disks}, {root!r}
*_, output, device = sys.argv
name = device.removeprefix("/dev/")
if output == "PKNAME":
    found = [disk for disk, parts in disks.items() if name in parts and name != disk]
    found = ["/dev/" + one for one in found] or ["" for disk in disks if disk == name]
else:
    found = ["" if output == "MOUNTPOINTS" else device]
    for part, (inner, place) in disks.get(name, {{}}).items():
        found += ["/dev/" + part, "/dev/" + inner] if output == "NAME" else ["", place.format(root=root)]
if not found:
    sys.exit(1)
print("\\n".join(found))
"""


def asked(folder: Path, device: str, cmdline: str = "") -> subprocess.CompletedProcess[str]:
    """Ask whether a device of `DISKS` is a medium."""
    tools = {
        "lsblk": LSBLK.format(disks=DISKS, root=f"{folder}/media"),
        "findmnt": f"import sys\nname = sys.argv[-1][5:]\nprint({FSTAB}.get(name, ''), end='')",
        "findfs": "import sys\nprint('/dev/sdg2') if sys.argv[1] == 'PARTUUID=7-2' else sys.exit(1)",
    }
    for name, text in tools.items():
        tool = folder / "tools" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!{sys.executable}\n{text}\n")
        tool.chmod(0o755)
    (folder / "cmdline").write_text(f"console=tty1 {cmdline} rw\n")
    environment = {
        **os.environ,
        "PATH": f"{folder}/tools:{os.environ['PATH']}",
        "EDGE_MEDIA_ROOT": f"{folder}/media",
        "EDGE_CMDLINE": str(folder / "cmdline"),
    }
    return subprocess.run(
        [str(CHECK), f"/dev/{device}"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("device", ["sdb1", "sdb", "sdd1", "sr0"])
def test_a_medium_is_one_also_while_another_part_of_it_is_read(tmp_path: Path, device: str) -> None:
    done = asked(tmp_path, device, "root=/dev/sda2")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("device", "cmdline", "why"),
    [
        ("sda3", "", "the box itself uses its disk, for /boot/firmware"),
        ("sdc2", "", "the box itself uses its disk, for /var/lib/edge"),
        ("sde1", "", "the box itself uses its disk, for [SWAP]"),
        ("sdf1", "", "the box itself uses its disk, by /etc/fstab"),
        ("sdg1", "root=PARTUUID=7-2", "the box itself started from its disk"),
        ("sdg1", "root=/dev/sdg2", "the box itself started from its disk"),
        ("sdx1", "", "it cannot be told what disk it is on"),
    ],
)
def test_no_part_of_a_disk_that_the_box_uses_is_a_medium(tmp_path: Path, device: str, cmdline: str, why: str) -> None:
    done = asked(tmp_path, device, cmdline)
    assert done.returncode == 1
    assert done.stderr == (
        f"edge: /dev/{device} is not imported: {why}. If it is meant, mount it and run edge import.\n"
    )


def test_a_real_device_is_a_medium_until_the_box_uses_it(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    with Stick(tmp_path, "ext2") as stick:

        def ask() -> int:
            return subprocess.run([str(CHECK), stick.device], timeout=60, check=False).returncode

        assert ask() == 0
        command("mount", "-o", "ro", stick.device, str(mounted))
        try:
            assert ask() == 1
        finally:
            command("umount", str(mounted))
        assert ask() == 0


def test_the_unit_asks_before_it_imports() -> None:
    lines = UNIT.read_text().splitlines()
    asks, imports = (lines.index(f"{key}=/usr/lib/edge/{script} /dev/%I") for key, script in (
        ("ExecCondition", "is-medium"), ("ExecStart", "import-stick")
    ))  # fmt: skip
    assert asks < imports


# the units


def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    tool = require("systemd-analyze")
    unit = tmp_path / "edge-import@.service"
    text = UNIT.read_text()
    for script in (SCRIPT, CHECK):
        text = text.replace(f"/usr/lib/edge/{script.name}", str(script))
    assert "/usr/lib" not in text
    unit.write_text(text)
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "edge-import" in line and "dev-" not in line] == []
    done = subprocess.run([tool, "security", "--offline=yes", str(unit)], capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 4.5  # it mounts


def test_the_documented_service_is_the_one_that_is_shipped() -> None:
    page = (FIRMWARE.parent / "docs" / "operations.md").read_text()
    assert re.findall(r"```ini\n(.*?)```", page, re.DOTALL) == [SERVICE.read_text()]


def test_the_service_is_watched_restarted_and_tells_by_its_light_that_it_is_gone() -> None:
    lines = SERVICE.read_text().splitlines()
    for line in (
        "Type=notify",
        "WatchdogSec=30",
        "Restart=always",
        "ExecStopPost=-edge light R2",
        "ExecStartPre=-edge light W1",
    ):
        assert line in lines
    # the second to see who still writes to files of others
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert [line for line in lines if line.startswith(key)] == [f"{key}=CAP_NET_BIND_SERVICE CAP_LEASE"]


@pytest.mark.parametrize("gpio", [False, True])
def test_systemd_takes_the_service_and_finds_little_exposed(tmp_path: Path, *, gpio: bool) -> None:
    tool = require("systemd-analyze")
    unit = tmp_path / "edge.service"
    text = re.sub(r"^(Exec\w+=-?)edge ", rf"\1{COMMAND} ", SERVICE.read_text(), flags=re.MULTILINE)
    text = text.replace("=edge\n", "=root\n")
    if gpio:
        text += (SERVICE.with_name("edge.service.d") / "gpio.conf").read_text()
    unit.write_text(text)
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "edge.service" in line] == []
    unit.write_text(text.replace("=root\n", "=edge\n"))
    done = subprocess.run([tool, "security", "--offline=yes", str(unit)], capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= (2.2 if gpio else 2.0)


def test_what_a_trigger_makes_is_given_to_the_service_too() -> None:
    rules = (FIRMWARE / "udev" / "71-edge-lights.rules").read_text()
    loads, gives = [line for line in rules.splitlines() if 'SUBSYSTEM=="leds"' in line]
    assert loads.endswith('="kmod load ledtrig-timer ledtrig-pattern"')
    shell = re.search(r"/bin/sh -c '(.*)'", gives)
    assert shell is not None
    for name in ("brightness", "trigger", "delay_on", "delay_off", "pattern", "multi_intensity"):
        assert re.search(rf"\b{name}\b", shell[1])
    assert "ACTION" not in gives, "a change tells of a trigger"


def test_the_rule_means_media_and_never_a_disk_of_the_box() -> None:
    lines = (FIRMWARE / "udev" / "70-edge-media.rules").read_text().splitlines()
    starts = [line for line in lines if "SYSTEMD_WANTS" in line]
    assert len(starts) == 2
    for line in starts:
        assert 'ENV{SYSTEMD_WANTS}+="edge-import@%k.service"' in line
        assert 'ENV{ID_BUS}=="usb", ATTRS{removable}=="1"' in line or 'KERNEL=="sr*"' in line
    assert 'ENV{ID_FS_USAGE}!="filesystem", GOTO="edge_media_end"' in lines
    assert lines[-1] == 'LABEL="edge_media_end"'


def test_every_file_is_in_the_table() -> None:
    table = (FIRMWARE / "README.md").read_text()
    there = {str(path.relative_to(FIRMWARE)) for path in FIRMWARE.rglob("*") if path.is_file()} - {"README.md"}
    named = set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))
    folders = {name for name in named if name.endswith("/")}  # with a README of its own
    assert {next((one for one in folders if name.startswith(one)), name) for name in there} == named
