"""Opening the storage path: a disk that does not allow a start is waited for, and a mistake is not."""

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge.app import opening as openings
from edge.app.errors import StartError
from edge.app.opening import Opening
from edge.sdnotify import Notifier
from edge.spool import Ballast, Identity, Spool, Syncer
from edge.store import Store, StoreError
from scripts.rigs import preflight
from scripts.rigs.volume import Volume, command
from tests.appliance import Edge
from tests.fakes import ManualClock
from tests.peers.objects import mr
from tests.peers.ports import missing, wait_for
from tests.peers.raw import RawSender


class Systemd:
    """The service manager's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def heard(self) -> list[str]:
        """What was told since it was asked last."""
        said = []
        while True:
            try:
                said.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


class Disk:
    """A storage path whose start fails as often as is asked."""

    def __init__(self, root: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures: list[Exception] = []
        self.tries = 0
        self.pauses: list[float] = []
        self.stop = asyncio.Event()
        self.syncer = Syncer()
        self._real = Identity.open
        monkeypatch.setattr(Identity, "open", self._open)
        monkeypatch.setattr(openings, "_rest", self._rest)
        self.identity = Identity(root)
        notifier = Notifier({"NOTIFY_SOCKET": str(systemd.path)})
        spool = Spool(root, self.syncer)
        self.troubles: list[str] = []
        self.opening = Opening(
            root, spool, self.identity, Ballast(root), ManualClock(), notifier, 100, self.troubles.append
        )

    def _open(self, *arguments: Any) -> None:
        self.tries += 1
        if self.failures:
            raise self.failures.pop(0)
        self._real(self.identity, *arguments)

    async def _rest(self, stop: asyncio.Event, seconds: float) -> None:
        """No test waits as long as an appliance."""
        assert stop is self.stop
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def close(self, store: Store | None) -> None:
        if store is not None:
            await store.close()
        self.opening.close()
        self.syncer.close()


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


async def test_a_disk_that_does_not_allow_a_start_is_tried_until_it_does(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path / "storage", systemd, monkeypatch)
    disk.failures += [error(number) for number in [errno.EROFS] * 8 + [errno.ENOSPC, errno.EDQUOT]]
    with capture_logs() as logged:
        store = await disk.opening.wait(disk.stop)
    assert store is not None
    assert disk.tries == 11
    assert disk.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert [line["log_level"] for line in logged] == ["error"] * 3  # once for each reason
    assert "read-only" in logged[0]["why"]
    told = systemd.heard()
    assert len(told) == 3
    assert all(one.startswith("READY=1\nSTATUS=not receiving, trying again: The storage path") for one in told)
    assert disk.troubles == [line["why"] for line in logged], "the light is red meanwhile"
    await disk.close(store)


async def test_who_waits_for_a_disk_can_be_stopped(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path / "storage", systemd, monkeypatch)
    disk.failures += [error(errno.EROFS)] * 1000
    waiting = asyncio.create_task(disk.opening.wait(disk.stop))
    while disk.tries < 3:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0)
    disk.stop.set()
    async with asyncio.timeout(10):
        assert await waiting is None
    await disk.close(None)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.EIO])
async def test_what_a_person_must_put_right_ends_it(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = Disk(tmp_path / "storage", systemd, monkeypatch)
    disk.failures = [error(number)]
    with pytest.raises(StartError, match="cannot be used"):
        await disk.opening.wait(disk.stop)
    assert (disk.tries, disk.pauses, systemd.heard()) == (1, [], [])
    await disk.close(None)


async def test_a_second_appliance_is_not_waited_for(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path / "storage", systemd, monkeypatch)
    store = await disk.opening.wait(disk.stop)
    other = Opening(
        tmp_path / "storage",
        Spool(tmp_path / "storage", disk.syncer),
        Identity(tmp_path / "storage"),
        Ballast(tmp_path / "storage"),
        ManualClock(),
        Notifier({}),
        100,
    )
    with pytest.raises(StartError, match="Another appliance"):
        await other.wait(disk.stop)
    await disk.close(store)


@pytest.mark.parametrize(("left", "waits"), [(0, True), (64 << 20, False)], ids=["full", "with room"])
async def test_a_database_that_cannot_be_opened_is_waited_for_on_a_full_disk_only(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, left: int, *, waits: bool
) -> None:
    disk = Disk(tmp_path / "storage", systemd, monkeypatch)
    disk.failures = [StoreError("The database cannot be opened.")]
    at = os.statvfs_result((4096, 4096, 1 << 20, left >> 12, left >> 12, 1 << 20, 1 << 19, 1 << 19, 0, 255))
    monkeypatch.setattr("edge.app.opening.os.statvfs", lambda _: at)
    if waits:
        await disk.close(await disk.opening.wait(disk.stop))
        assert disk.tries == 2
    else:
        with pytest.raises(StartError, match="cannot be opened"):
            await disk.opening.wait(disk.stop)
        await disk.close(None)


# a real disk


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    try:
        preflight.loop_devices()
    except preflight.NoLoopDeviceError as e:
        pytest.skip(f"NOT TESTED: {e}")
    except preflight.MissingError as e:
        missing(str(e))
    with Volume(tmp_path / "disk.img", tmp_path / "edge" / "storage", 64) as made:
        yield made


def send(edge: Edge) -> int:
    (one,) = mr(1)
    with RawSender(edge.port) as modality:
        modality.associate([(one.sop_class_uid, (one.transfer_syntax_uid,))])
        return modality.store(one)


def begin(edge: Edge) -> subprocess.Popen[bytes]:
    """Start it without waiting until it receives."""
    edge._readies = edge.output().count("event=ready")
    with edge.log.open("ab") as log:
        edge._process = subprocess.Popen(edge.arguments, env=edge.environment, stdout=log, stderr=subprocess.STDOUT)
    return edge._process


def fill(theirs: Path) -> None:
    """Take what is left, to the last byte; what was deleted is free only once the journal has it."""
    os.sync()
    with theirs.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


@pytest.mark.rig
@pytest.mark.parametrize("ran_before", [True, False], ids=["used before", "new"])
@pytest.mark.parametrize("how", ["read-only", "full"])
def test_a_start_on_a_disk_that_does_not_allow_it_goes_on_by_itself_when_it_does(
    volume: Volume, tmp_path: Path, systemd: Systemd, how: str, *, ran_before: bool
) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "600000"}
    edge = Edge(tmp_path / "edge", environment=environment)
    theirs = edge.storage / "of-somebody-else"
    if ran_before:
        edge.start()
        assert send(edge) == 0
        edge.stop()
    (edge.storage / "ballast").unlink(missing_ok=True)
    if how == "full":
        fill(theirs)
    else:
        command("mount", "-o", "remount,ro", str(volume.point))
    systemd.heard()
    try:
        process = begin(edge)
        wait_for(lambda: "images are not accepted yet" in edge.output(), 20, "it says that it waits")
        told = systemd.heard()
        for _ in range(3):
            wait_for(lambda: "WATCHDOG=1" in systemd.heard(), 20, "a heartbeat")
        assert any(one.startswith("READY=1\nSTATUS=not receiving, trying again") for one in told)
        assert process.poll() is None
        assert not edge.ready()
        if how == "full":
            theirs.unlink()
        else:
            command("mount", "-o", "remount,rw", str(volume.point))
        wait_for(edge.ready, 30, "it receives")
        assert send(edge) == 0
        assert edge.output().count("images are not accepted yet") == 1
    finally:
        edge.stop()


@pytest.mark.rig
def test_sigterm_ends_who_waits_for_a_disk(volume: Volume, tmp_path: Path) -> None:
    command("mount", "-o", "remount,ro", str(volume.point))
    edge = Edge(tmp_path / "edge")
    process = begin(edge)
    wait_for(lambda: "images are not accepted yet" in edge.output(), 20, "it says that it waits")
    process.terminate()
    assert process.wait(20) == 0
    edge.stop()
