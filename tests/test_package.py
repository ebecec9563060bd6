"""The Debian package: built, and lived through on Debian 12 and 13, each in a chroot of its own.

The chroots are made from packages of Debian once and kept in the cache. There is no systemd in them that runs: a
`systemctl` of ours takes down what it is asked for. EDGE_BOX_FULL=1 does the same for arm64, under emulation.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from box import package, place, wheels
from box.toolbox import BuildError

from tests.appliance import dimse
from tests.peers.objects import mr
from tests.peers.ports import LOOPBACK, free_port, missing, require, wait_for
from tests.peers.program import Program
from tests.peers.raw import RawReceiver, RawSender

OLDER: Final = "0.0.1"
DEBIANS: Final = (("bookworm", "amd64"), ("trixie", "amd64")) + (
    (("trixie", "arm64"),) if os.environ.get("EDGE_BOX_FULL") == "1" else ()
)
INCLUDED: Final = "python3,systemd,udev,procps,mount,debconf"
START: Final = 120.0
"""Seconds until it listens: under emulation all is slow."""
AS_EDGE: Final = ("setpriv", "--reuid=edge", "--regid=edge", "--clear-groups")
SYSTEMCTL: Final = """#!/bin/sh
echo "$@" >>/var/tmp/asked
case "$*" in *enable* | *mask*) SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl "$@" ;; esac
"""
IMPORTS: Final = """
import importlib, importlib.metadata, sys
found = 0
for one in importlib.metadata.distributions():
    files = [file for file in one.files or [] if file.suffix in {".py", ".so"}]
    for name in {file.parts[0].partition(".")[0] for file in files}:
        importlib.import_module(name)
        found += 1
print(found, *sorted({path for path in sys.path if path.startswith("/opt")}))
"""


# without a Debian


@pytest.mark.parametrize(
    ("version", "debian"),
    [("1.2.3", "1.2.3"), ("1.2.3rc1", "1.2.3~rc1"), ("1.2.dev4", "1.2~dev4"), ("1.2+clinic.1", "1.2+clinic.1")],
)
def test_a_version_is_named_as_debian_sorts_it(version: str, debian: str) -> None:
    assert package.debian_version(version) == debian


@pytest.mark.parametrize("version", ["", "1.0-1", "one", "1.0rc1 ", "1:1.0", "../1.0"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(BuildError, match="is not a version"):
        package.debian_version(version)


def test_the_box_has_what_everybody_has_and_the_extras() -> None:
    everybody = wheels.pins((place.ROOT / "requirements.lock").read_text())
    box = wheels.pins(wheels.LOCK.read_text())
    assert {pin.requirement: pin.hashes for pin in everybody}.items() <= {
        pin.requirement: pin.hashes for pin in box
    }.items()
    assert {pin.requirement.partition("==")[0] for pin in box} >= {"gpiod", "python-gdcm"}
    for arch in wheels.MACHINES:
        for python in wheels.PYTHONS:
            names = [pin.requirement.partition("==")[0] for pin in box if pin.meant(arch, python)]
            assert len(names) == len(set(names)), "one version of each"


@pytest.mark.parametrize(
    "line", ["numpy>=2", "numpy==2.1", "numpy==2.* --hash=sha256:00", "numpy==2,<3 --hash=sha256:00"]
)
def test_a_lock_that_leaves_a_choice_is_refused(line: str) -> None:
    with pytest.raises(BuildError, match="does not name one version"):
        wheels.pins(f"{line}\n")


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x = 1\n")
    return path


def test_a_wheel_is_laid_out_without_what_nobody_asks_for(tmp_path: Path) -> None:
    one = wheel(tmp_path / "a.whl", "a/b.py", "a-1.data/platlib/c.py", "a-1.data/scripts/d", "a-1.data/data/man/e.1")
    wheels.lay_out(one, tmp_path / "into")
    assert sorted(str(file.relative_to(tmp_path / "into")) for file in (tmp_path / "into").rglob("*.*")) == [
        "a/b.py",
        "c.py",
    ]
    with pytest.raises(BuildError, match="and so has another wheel"):
        wheels.lay_out(one, tmp_path / "into")


@pytest.mark.parametrize("name", ["../a.py", "/a.py", "a-1.data/purelib/../../a.py", "a.pth"])
def test_a_wheel_that_would_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildError, match="cannot be installed as it is"):
        wheels.lay_out(wheel(tmp_path / "a.whl", name), tmp_path / "into" / "site")
    assert list(tmp_path.rglob("*.py")) == []


def test_what_the_cache_has_is_compared_with_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = wheel(tmp_path / "a-1.0-py3-none-any.whl", "a.py")
    lock = tmp_path / "lock"
    lock.write_text(f"a==1.0 --hash=sha256:{wheels.digest(source)}\n")

    def put(_lines: object, _options: object, folder: Path) -> None:
        folder.mkdir(parents=True)
        shutil.copy(source, folder)

    monkeypatch.setattr(wheels, "_download", put)
    (fetched,) = wheels.fetch("arm64", "3.13", lock)
    assert wheels.fetch("arm64", "3.13", lock) == (fetched,)
    fetched.write_bytes(b"another")
    with pytest.raises(BuildError, match="is not the file that lock names"):
        wheels.fetch("arm64", "3.13", lock)
    fetched.unlink()
    with pytest.raises(BuildError, match="has 0 wheels of 1"):
        wheels.fetch("arm64", "3.13", lock)


# built


def built(checkout: Path, out: Path, arch: str, version: str | None = None) -> Path:
    """Build from a copy of the checkout, which is none of git: nobody changes it meanwhile."""
    require("dpkg-deb")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, "ROOT", checkout)
            patch.setattr(place, "FIRMWARE", checkout / "firmware-config")
            patch.setenv("SOURCE_DATE_EPOCH", "1800000000")
            return package.build(arch, out, version=version, level=1)
    except BuildError as e:
        if "Fetching" in str(e):
            missing(f"the package index: {e}")
        raise


def copied(checkout: Path, to: Path) -> Path:
    for folder in ("edge", "docs", "firmware-config"):
        shutil.copytree(checkout / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(checkout / "CHANGELOG.md", to)
    return to


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(place.ROOT, tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def packages(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Packages by architecture and version."""
    out = tmp_path_factory.mktemp("packages")
    versions = (OLDER, package.own_version())
    arches = {arch for _, arch in DEBIANS}
    return {arch: {one: built(checkout, out, arch, one) for one in versions} for arch in arches}


@pytest.mark.rig
def test_the_same_checkout_gives_the_same_bytes_wherever_it_lies(
    checkout: Path, packages: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        again = built(copied(checkout, tmp_path / "elsewhere"), tmp_path, "amd64")
    finally:
        os.umask(before)
    first = packages["amd64"][package.own_version()]
    assert again.name == first.name
    assert wheels.digest(again) == wheels.digest(first)


@pytest.mark.rig
def test_only_root_owns_what_is_shipped_and_nothing_lies_twice(packages: dict[str, dict[str, Path]]) -> None:
    listed = subprocess.run(
        ["dpkg-deb", "--contents", packages["amd64"][package.own_version()]], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [line.split(maxsplit=5) for line in listed]
    assert {row[1] for row in rows} == {"root/root"}
    assert {row[0] for row in rows} == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
    names = [row[5] for row in rows]
    assert [name for name in names if "__pycache__" in name] == []
    for pure in ("pydicom", "cryptography", "edge"):
        (place_of,) = [name for name in names if name.endswith(f"/{pure}/__init__.py") and name.count("/") == 6]
        assert place_of == f"./opt/dicom-edge/lib/common/{pure}/__init__.py"


# on a Debian


class Debian:
    """A Debian in a folder, of which nothing runs but what is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked = root / "var/tmp/asked"
        (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        tool = root / "usr/local/bin/systemctl"
        tool.write_text(SYSTEMCTL)
        tool.chmod(0o755)

    def argv(self, *words: str) -> list[str]:
        mounts = "mount -t proc proc $0/proc && mount --rbind /dev $0/dev && mount -t tmpfs tmp $0/tmp"
        enter = f'{mounts} && exec chroot $0 env -i PATH=$PATH HOME=/ DEBIAN_FRONTEND=noninteractive "$@"'
        return [require("unshare"), "--mount", "--propagation", "private", "sh", "-ec", enter, str(self.root), *words]

    def run(self, *words: str, check: bool = True, given: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*words), input=given, capture_output=True, text=True, timeout=600, check=False, env=ENVIRONMENT
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done

    def edge(self, *words: str) -> str:
        return self.run(*AS_EDGE, "edge", *words).stdout

    def install(self, deb: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        shutil.copy(deb, self.root / "var/tmp/new.deb")
        self.asked.unlink(missing_ok=True)
        done = self.run("dpkg", "--install", "/var/tmp/new.deb", check=check)
        (self.root / "var/tmp/new.deb").unlink()
        return done

    def services(self) -> list[str]:
        """What was asked of the service since the last installation."""
        if not self.asked.exists():
            return []
        lines = [line.split() for line in self.asked.read_text().splitlines()]
        verbs = ("start", "stop", "restart", "try-restart")
        return [word for line in lines if "edge.service" in line for word in line if word in verbs]

    def paths(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    def mode(self, path: str) -> tuple[str, str, str]:
        user, group, mode = self.run("stat", "-c", "%U %G %a", path).stdout.split()
        return user, group, mode


ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Running(Program):
    """`edge run` in a Debian, as the user of the service."""

    def __init__(self, debian: Debian, port: int, log: Path) -> None:
        super().__init__(debian.argv(*AS_EDGE, "edge", "run"), ports=[], log=log, environment=ENVIRONMENT)
        self.port = port

    def start(self) -> None:
        readies = self.output().count("event=ready")
        super().start()
        try:
            wait_for(lambda: self.output().count("event=ready") > readies, START, "edge run")
        except TimeoutError:
            print(self.output())
            self.stop()
            raise


def base(suite: str, arch: str) -> Path:
    """The tar of a small Debian, made once."""
    tar = place.cache() / f"debian-{suite}-{arch}-{hashlib.sha256(INCLUDED.encode()).hexdigest()[:8]}.tar"
    if not tar.exists():
        draft = tar.with_suffix(f".{os.getpid()}.tar")
        options = ["--quiet", "--mode=root", "--variant=minbase", f"--architectures={arch}", f"--include={INCLUDED}"]
        paths = ["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
        done = subprocess.run(
            [require("mmdebstrap"), *options, *paths, suite, str(draft)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            draft.unlink(missing_ok=True)
            missing(f"a Debian could not be fetched: {done.stderr[-500:]}")
        draft.replace(tar)
    return tar


@pytest.fixture(params=DEBIANS, ids="-".join)
def debian(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Debian]:
    if os.geteuid():
        missing("root, for a chroot")
    if subprocess.run([require("unshare"), "--mount", "true"], capture_output=True, check=False).returncode:
        missing("the right to mount (in a container: --privileged)")
    root = tmp_path / "debian"
    root.mkdir()
    suite, arch = request.param
    subprocess.run(["tar", "-x", "-C", str(root), "-f", str(base(suite, arch)), "--exclude=./dev/*"], check=True)
    yield Debian(root)
    shutil.rmtree(root)


def queue(debian: Debian) -> Any:
    return json.loads(debian.edge("queue", "--json"))


def refused_for_its_python(debian: Debian, deb: Path) -> None:
    python = debian.root / "usr/bin/python3"
    real = python.readlink()
    python.unlink()
    python.write_text("#!/bin/sh\necho 3.12\n")
    python.chmod(0o755)
    done = debian.install(deb, check=False)
    assert done.returncode != 0
    assert "/usr/bin/python3 is Python 3.12, and this package has libraries for Python 3.11 and 3.13" in done.stderr
    assert not (debian.root / "opt/dicom-edge").exists()
    python.unlink()
    python.symlink_to(real)


def installed(debian: Debian) -> None:
    assert debian.mode("/etc/edge") == ("root", "edge", "750")
    assert debian.mode("/etc/edge/edge.toml") == ("root", "edge", "640")
    assert debian.mode("/var/lib/edge") == ("edge", "edge", "700")
    assert debian.edge("--version") == f"edge, version {OLDER}\n"
    assert debian.edge("check").startswith("ok; destinations: none")
    assert debian.services() == ["start"]
    found, *paths = debian.run("/opt/dicom-edge/bin/python3", "-I", "-c", IMPORTS).stdout.split()
    assert int(found) > 35
    assert [path.rpartition("/")[2] for path in paths] == ["common", "site-packages"]
    compiled = list((debian.root / "opt/dicom-edge/lib/common/edge/__pycache__").glob("__init__.cpython-31[13].pyc"))
    assert len(compiled) == 1


def its_units_are_sound(debian: Debian) -> None:
    folder = debian.root / "usr/lib/systemd/system"
    units = sorted(path.name for path in folder.glob("edge*.*") if path.is_file())
    assert "edge.service" in units
    named = [unit.replace("@.", "@sda1.") for unit in units]
    done = debian.run("systemd-analyze", "verify", "--man=no", *named, check=False)
    said = [line for line in done.stderr.splitlines() if "edge" in line and "dev-" not in line]
    assert said == []
    debian.run("systemd-analyze", "security", "--offline=yes", "--threshold=20", "edge.service")
    wanted = [path.name for path in (debian.root / "etc/systemd/system").rglob("edge*")]
    assert wanted == ["edge.service"], "the others are for the image to enable"


def compiles_for_another_python(debian: Debian) -> None:
    compiled = debian.root / "opt/dicom-edge/lib/common/edge/__pycache__"
    before = {path.name for path in compiled.iterdir()}
    shutil.rmtree(compiled)
    debian.asked.unlink()
    debian.run("dpkg-trigger", "--by-package=python3-minimal", "/usr/bin/python3")
    debian.run("dpkg", "--triggers-only", "dicom-edge")
    assert {path.name for path in compiled.iterdir()} >= before
    assert debian.services() == ["try-restart"]


def gone_but_for_the_images(debian: Debian, before: set[str]) -> None:
    """After a removal: purge with each answer."""
    state = ("var/lib/dpkg", "var/cache/debconf", "etc/edge", "var/lib/edge")
    kept = debian.root.parent / "kept"
    for path in state:
        shutil.copytree(debian.root / path, kept / path, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    images = {path.name for path in (debian.root / "var/lib/edge").rglob("*.dcm")}
    done = debian.run("dpkg", "--purge", "dicom-edge")
    assert "images and the queue are kept in /var/lib/edge" in done.stderr
    assert images == {path.name for path in (debian.root / "var/lib/edge").rglob("*.dcm")} != set()
    assert not (debian.root / "etc/edge").exists()
    for path in state:
        shutil.rmtree(debian.root / path, ignore_errors=True)
        shutil.copytree(kept / path, debian.root / path, symlinks=True)
    debian.run("debconf-set-selections", given="dicom-edge dicom-edge/delete-data boolean true\n")
    debian.run("dpkg", "--purge", "dicom-edge")
    left = {
        path
        for path in debian.paths() - before
        if not path.startswith(("run/", "var/cache/", "var/lib/dpkg/", "var/log/"))
    }
    assert left - {"var/tmp/asked"} <= {f"etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow")} | {
        "etc/.pwd.lock"
    }


@pytest.mark.rig
@pytest.mark.timeout(1800 if os.environ.get("EDGE_BOX_FULL") == "1" else 300)
def test_a_debian_takes_it_runs_it_upgrades_it_with_a_queue_and_lets_go_of_it(
    debian: Debian, request: pytest.FixtureRequest, packages: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    _, arch = request.node.callspec.params["debian"]
    older, newer = packages[arch].values()
    before = debian.paths()
    refused_for_its_python(debian, older)
    debian.install(older)
    installed(debian)
    its_units_are_sound(debian)
    if request.node.callspec.params["debian"] == DEBIANS[0]:
        compiles_for_another_python(debian)

    port = free_port()
    config = debian.root / "etc/edge/edge.toml"
    objects = mr(3)
    with RawReceiver(reserve=True) as pacs:
        pacs.stop()
        receive = f'[receive]\naddress = "{LOOPBACK}"\nport = {port}\n[dashboard]\nenabled = false\n'
        config.write_text(f"{receive}{dimse('pacs', pacs.port)}")
        running = Running(debian, port, tmp_path / "edge.log")
        with running:
            with RawSender(port) as modality:
                modality.associate([(one.sop_class_uid, [one.transfer_syntax_uid]) for one in objects[:1]])
                assert [modality.store(one) for one in objects] == [0, 0, 0]
            assert (debian.root / f"proc/{running.pid}").exists() is False, "its /proc is its own"
            assert Path(f"/proc/{running.pid}").stat().st_uid == (debian.root / "var/lib/edge").stat().st_uid
        waiting = queue(debian)
        assert len(waiting) == 3

        config.write_text(config.read_text() + "# by a person\n")
        debian.install(newer)
        assert debian.services() == ["stop", "start"]
        assert config.read_text().endswith("# by a person\n")
        assert debian.mode("/etc/edge/edge.toml") == ("root", "edge", "640")
        assert debian.edge("--version") == f"edge, version {package.own_version()}\n"
        assert queue(debian) == waiting
        pacs.start()
        with running:
            pacs.wait(3, START)
        assert sorted(one.digest for one in pacs.received) == sorted(one.wire_digest for one in objects)

    debian.asked.unlink()
    debian.run("dpkg", "--remove", "dicom-edge")
    assert debian.services() == ["stop"]
    assert not (debian.root / "opt/dicom-edge").exists()
    assert config.exists()
    assert stat.S_IMODE((debian.root / "var/lib/edge").stat().st_mode) == 0o700
    gone_but_for_the_images(debian, before)
