"""The spool: from the first byte to a published file, with a disk that is slow, full or broken on demand."""

import asyncio
import errno
import hashlib
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from edge.spool import Identity, Part, Reader, Spool, StorageError, Syncer
from edge.spool import identity as numbering
from edge.spool import part as parts
from edge.spool import reader as reading
from edge.spool.files import storage_trouble
from edge.spool.part import CHUNK
from edge.spool.reader import ChangedError
from tests.fakes import plenty

HEAD = 1000
MIB = 1 << 20


@pytest.fixture
async def syncer() -> AsyncIterator[Syncer]:
    made = Syncer()
    yield made
    made.close()


@pytest.fixture
def spool(tmp_path: Path, syncer: Syncer) -> Iterator[Spool]:
    made = Spool(tmp_path, syncer)
    made.open()
    yield made
    made.close()


def make_head(digest: bytes) -> bytes:
    return digest + bytes(HEAD - len(digest))


def data(length: int) -> bytes:
    """Bytes that are the same nowhere."""
    return b"".join(n.to_bytes(4, "big") for n in range(length // 4 + 1))[:length]


def feed(part: Part, content: bytes, size: int) -> None:
    for start in range(0, len(content), size):
        part.write(memoryview(content)[start : start + size])


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def until_idle(part: Part) -> None:
    """Wait for the thread, while the loop hears nothing."""
    while part._working:
        time.sleep(0.001)


async def sealed(spool: Spool, number: int, content: bytes = b"dataset") -> None:
    part = spool.create(number, HEAD, MIB, plenty())
    part.write(memoryview(content))
    await part.seal(make_head)
    part.close()


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Slow:
    """A system call that waits until it is let go; how often it was made, by descriptor."""

    def __init__(self, real: Callable[..., int | None]) -> None:
        self.calls: Counter[int] = Counter()
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.fail: dict[tuple[int, int], int] = {}
        """Error by descriptor and how many times it was called."""
        self._real = real

    def __call__(self, fd: int, *rest: object) -> int | None:
        self.calls[fd] += 1
        number = self.fail.get((fd, self.calls[fd]))
        self.begun.release()
        if not self.let_go.wait(30):
            raise TimeoutError
        if number is not None:
            raise error(number)
        return self._real(fd, *rest)

    async def running(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=30)


@pytest.fixture
def slow_fsync(monkeypatch: pytest.MonkeyPatch, spool: Spool) -> Iterator[Slow]:
    del spool  # made before, by an ordinary disk
    slow = Slow(os.fsync)
    monkeypatch.setattr(os, "fsync", slow)
    yield slow
    slow.let_go.set()


# a part


@pytest.mark.parametrize("length", [0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("size", [1021, CHUNK, 2 * CHUNK + 1])
async def test_a_sealed_file_is_its_head_and_every_byte_in_order(spool: Spool, length: int, size: int) -> None:
    content = data(length)
    part = spool.create(5, HEAD, MIB, plenty())
    feed(part, content, size)
    await part.seal(make_head)
    part.close()
    assert part.length == length
    assert part.digest == hashlib.sha256(content).digest()
    assert bytes(part.first) == content[: parts.FIRST]
    assert spool.part_path(5).read_bytes() == make_head(part.digest) + content
    assert not part.failed


async def test_a_part_can_be_read_back_wherever_its_bytes_are(spool: Spool) -> None:
    content = data(2 * CHUNK + 100)
    part = spool.create(5, HEAD, MIB, plenty())
    feed(part, content, CHUNK)
    await part.catch_up()
    for offset in (0, 1, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 99, 2 * CHUNK + 100, 3 * CHUNK):
        for count in (0, 1, 50, CHUNK, 4 * CHUNK):
            assert part.read(offset, count) == content[offset : offset + count]
    part.close()


async def test_files_are_for_their_owner_alone(spool: Spool) -> None:
    await sealed(spool, 1)
    assert stat.S_IMODE(spool.part_path(1).stat().st_mode) == 0o600
    for folder in (spool.incoming, spool.ready, spool.quarantine, spool.ready / "ff"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_no_part_is_ever_written_over_another(spool: Spool) -> None:
    await sealed(spool, 1, b"first")
    with pytest.raises(FileExistsError):
        spool.create(1, HEAD, MIB, plenty())
    assert spool.part_path(1).read_bytes().endswith(b"first")


async def test_a_full_disk_is_remembered_and_the_rest_is_drained(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise error(errno.ENOSPC)

    part = spool.create(1, HEAD, 64 * MIB, plenty())
    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "write", full)
    fragment = memoryview(bytes(CHUNK))
    for _ in range(40):
        part.write(fragment)
        if part.pressure:
            await part.relieve()
    with pytest.raises(OSError, match="No space left"):
        await part.catch_up()
    assert part.failed
    assert part.error is not None
    assert part.error.errno == errno.ENOSPC
    length = part.length
    part.write(fragment)
    assert part.length == length, "nothing is gathered for a part that cannot be kept"
    assert not part.pressure
    await part.relieve()
    with pytest.raises(OSError, match="No space left"):
        await part.seal(make_head)
    part.close()
    spool.discard(1)
    assert spool.waiting() == []


async def test_a_disk_that_fills_at_the_seal_fails_the_seal(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise error(errno.ENOSPC)

    part = spool.create(1, HEAD, MIB, plenty())
    part.write(memoryview(b"dataset"))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        await part.seal(make_head)
    part.close()


async def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all_of_them(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: real(fd, view[:1000], at))
    content = data(CHUNK + 1234)
    await sealed(spool, 1, content)
    assert spool.part_path(1).read_bytes()[HEAD:] == content


async def test_an_object_longer_than_allowed_is_dropped_where_it_begins_to_be(spool: Spool) -> None:
    part = spool.create(1, HEAD, 100, plenty())
    part.write(memoryview(bytes(60)))
    part.write(memoryview(bytes(41)))
    part.write(memoryview(bytes(1)))
    assert part.too_long
    assert part.failed
    assert part.length == 60
    assert part.error is None
    part.close()


async def test_a_long_object_is_synced_on_the_way(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_SYNC_EVERY", 4 * CHUNK)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    part = spool.create(1, HEAD, 64 * MIB, plenty())
    for _ in range(13):
        part.write(memoryview(bytes(CHUNK)))
        await part.catch_up()
    assert len(synced) == 3
    part.close()


async def test_a_disk_that_falls_behind_holds_up_the_sender_and_memory_stays_flat(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(os.pwrite)
    monkeypatch.setattr(os, "pwrite", slow)
    part = spool.create(1, HEAD, 64 * MIB, plenty())
    part.write(memoryview(bytes(CHUNK)))
    await slow.running()
    pressed = [part.pressure]
    part.write(memoryview(bytes(CHUNK)))
    assert [*pressed, part.pressure] == [False, True]
    relieved = asyncio.create_task(part.relieve())
    await asyncio.sleep(0)
    assert not relieved.done()
    slow.let_go.set()
    await relieved
    assert not part.pressure
    await part.catch_up()
    part.close()


async def test_a_descriptor_is_never_closed_under_the_thread_that_uses_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(os.pwrite)
    monkeypatch.setattr(os, "pwrite", slow)
    part = spool.create(1, HEAD, MIB, plenty())
    part.write(memoryview(bytes(CHUNK)))
    await slow.running()
    (fd,) = slow.calls
    part.close()
    os.fstat(fd)
    slow.let_go.set()
    await part.catch_up()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# syncing


async def test_a_seal_syncs_the_file_and_its_folder_and_waits_for_both(spool: Spool, slow_fsync: Slow) -> None:
    sealing = asyncio.create_task(sealed(spool, 1))
    await slow_fsync.running()
    await slow_fsync.running()
    assert not sealing.done()
    assert slow_fsync.calls[spool._incoming_fd] == 1
    assert len(slow_fsync.calls) == 2
    slow_fsync.let_go.set()
    await sealing


@pytest.mark.parametrize("held", ["file", "folder"])
async def test_a_seal_is_not_done_while_either_sync_is_under_way(
    spool: Spool, syncer: Syncer, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    folder, let_go, real = spool._incoming_fd, threading.Event(), os.fsync

    def fsync(fd: int) -> None:
        if (fd == folder) == (held == "folder") and not let_go.wait(30):
            raise TimeoutError
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    part = spool.create(1, HEAD, MIB, plenty())
    part.write(memoryview(b"dataset"))
    sealing = asyncio.create_task(part.seal(make_head))
    await asyncio.sleep(0)
    # the one that is not held is over when this is
    await (part.catch_up() if held == "folder" else syncer.directory(folder))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not sealing.done()
    let_go.set()
    await sealing
    part.close()


async def test_who_comes_while_a_folder_is_synced_shares_the_next_round(
    spool: Spool, syncer: Syncer, slow_fsync: Slow
) -> None:
    folder = spool._incoming_fd
    first = syncer.directory(folder)
    await slow_fsync.running()
    others = [syncer.directory(folder) for _ in range(20)]
    slow_fsync.let_go.set()
    await asyncio.gather(first, *others)
    assert slow_fsync.calls == {folder: 2}
    await syncer.directory(folder)
    assert slow_fsync.calls == {folder: 3}, "when idle a round begins at once"


@pytest.mark.parametrize("failing", [1, 2])
async def test_whoever_joined_a_round_hears_of_its_error_and_nobody_else(
    spool: Spool, syncer: Syncer, slow_fsync: Slow, failing: int
) -> None:
    folder = spool._incoming_fd
    slow_fsync.fail[folder, failing] = errno.EIO
    first = syncer.directory(folder)
    await slow_fsync.running()
    second = [syncer.directory(folder) for _ in range(5)]
    slow_fsync.let_go.set()
    got = await asyncio.gather(first, *second, return_exceptions=True)
    failed = [isinstance(one, OSError) and one.errno == errno.EIO for one in got]
    assert failed == [failing == 1] + [failing == 2] * 5
    await syncer.directory(folder)


async def test_an_error_of_the_file_fails_its_seal_and_it_is_never_synced_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, Counter[int]()

    def broken(fd: int) -> None:
        calls[fd] += 1
        if fd != spool._incoming_fd:
            raise error(errno.EIO)
        real(fd)

    monkeypatch.setattr(os, "fsync", broken)
    part = spool.create(1, HEAD, MIB, plenty())
    part.write(memoryview(b"dataset"))
    with pytest.raises(OSError, match="Input/output error"):
        await part.seal(make_head)
    with pytest.raises(OSError, match="Input/output error"):
        await part.seal(make_head)
    part.close()
    assert set(calls.values()) == {1}


async def test_a_seal_asked_for_before_the_error_of_a_write_is_heard_of_fails_all_the_same(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.pwrite, Counter[int]()

    def full_once(fd: int, data: bytes, at: int) -> int:
        calls[fd] += 1
        if calls[fd] == 1:
            raise error(errno.ENOSPC)
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full_once)
    part = spool.create(1, HEAD, MIB, plenty())
    part.write(memoryview(bytes(CHUNK)))
    until_idle(part)
    assert part.busy
    with pytest.raises(OSError, match="No space left"):
        await part.seal(make_head)
    await asyncio.sleep(0)
    assert set(calls.values()) == {1}
    part.close()


async def test_a_discarded_part_is_gone_at_once_and_its_descriptor_when_no_thread_uses_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go = os.pwrite, threading.Event()

    def held(fd: int, data: bytes, at: int) -> int:
        if not go.wait(30):
            raise TimeoutError
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", held)
    before = open_files()
    part = spool.create(1, HEAD, MIB, plenty())
    part.write(memoryview(bytes(CHUNK)))
    part.discard(lambda: spool.discard(1))
    async with asyncio.timeout(10):
        while spool.part_path(1).exists():  # noqa: ASYNC110 - a thread unlinks it
            await asyncio.sleep(0.001)
        assert open_files() != before, "a thread still writes to it"
        go.set()
        while open_files() != before:  # noqa: ASYNC110 - a thread closes it
            await asyncio.sleep(0.001)


async def test_what_is_left_at_the_end_goes_to_the_thread_that_is_at_work(
    spool: Spool, syncer: Syncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go, jobs, submit = os.pwrite, threading.Event(), [], syncer.submit

    def held(fd: int, data: bytes, at: int) -> int:
        if not go.wait(30):
            raise TimeoutError
        return real(fd, data, at)

    def count(work: Callable[[], None]) -> "asyncio.Future[None]":
        jobs.append(work)
        return submit(work)

    monkeypatch.setattr(os, "pwrite", held)
    monkeypatch.setattr(syncer, "submit", count)
    content = data(CHUNK + 1000)
    part = spool.create(1, HEAD, MIB, plenty())
    feed(part, content, CHUNK)
    sealing = asyncio.create_task(part.seal(make_head))
    await asyncio.sleep(0)
    go.set()
    await sealing
    part.close()
    assert len(jobs) == 2, "the writing, and the folder's sync"
    assert part.digest == hashlib.sha256(content).digest()
    assert spool.part_path(1).read_bytes()[HEAD:] == content


async def test_an_error_of_the_folder_fails_the_seal(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def broken(fd: int) -> None:
        if fd == spool._incoming_fd:
            raise error(errno.EIO)
        real(fd)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        await sealed(spool, 1)


async def test_who_goes_away_takes_nobody_of_the_same_round_along(spool: Spool, slow_fsync: Slow) -> None:
    goes = asyncio.create_task(sealed(spool, 1))
    stays = asyncio.create_task(sealed(spool, 2))
    for _ in range(3):
        await slow_fsync.running()
    goes.cancel()
    await asyncio.sleep(0)
    goes.cancel()
    await asyncio.sleep(0)
    slow_fsync.let_go.set()
    await asyncio.wait([goes])
    await stays
    assert goes.cancelled()


async def test_a_seal_whose_head_cannot_be_made_says_why_instead_of_hanging(spool: Spool) -> None:
    def no_room(digest: bytes) -> bytes:
        raise ValueError(f"no room for {len(digest)} bytes")

    part = spool.create(1, HEAD, MIB, plenty())
    part.write(memoryview(b"dataset"))
    with pytest.raises(ValueError, match="no room for 32 bytes"):
        async with asyncio.timeout(10):
            await part.seal(no_room)
    part.close()
    await sealed(spool, 2)


async def test_other_file_work_goes_on_while_every_sync_is_stuck(
    spool: Spool, syncer: Syncer, slow_fsync: Slow
) -> None:
    stuck = [asyncio.create_task(sealed(spool, number)) for number in range(1, 13)]
    for _ in range(8):
        await slow_fsync.running()
    assert await syncer.run(lambda: "read") == "read"
    slow_fsync.let_go.set()
    await asyncio.gather(*stuck)


async def test_closing_ends_every_thread() -> None:
    before = set(threading.enumerate())
    syncer = Syncer()
    await asyncio.gather(*(syncer.submit(lambda: None) for _ in range(20)))
    await syncer.run(lambda: None)
    assert set(threading.enumerate()) > before
    syncer.close()
    assert set(threading.enumerate()) == before


# files


async def test_a_published_file_is_in_its_shard_and_no_longer_incoming(spool: Spool) -> None:
    number = (7 << 20) + (0x2A << 12) + 5
    await sealed(spool, number)
    assert spool.waiting() == [number]
    assert list(spool.published()) == []
    spool.publish(number)
    assert spool.path(number) == spool.ready / "2a" / f"{number}.dcm"
    assert spool.path(number).read_bytes()[HEAD:] == b"dataset"
    assert spool.waiting() == []
    assert list(spool.published()) == [number]


async def test_publishing_and_unlinking_twice_is_fine_and_publishing_nothing_is_not(spool: Spool) -> None:
    await sealed(spool, 1)
    spool.publish(1)
    spool.publish(1)
    with pytest.raises(FileNotFoundError):
        spool.publish(2)
    spool.unpublish(1)
    spool.unpublish(1)
    spool.discard(3)
    assert list(spool.published()) == []


async def test_what_is_set_aside_lies_in_quarantine_with_its_reason(spool: Spool) -> None:
    await sealed(spool, 4)
    spool.set_aside(4, b'{"why":"odd"}')
    assert spool.waiting() == []
    assert (spool.quarantine / "4.dcm").read_bytes()[HEAD:] == b"dataset"
    assert (spool.quarantine / "4.json").read_bytes() == b'{"why":"odd"}'


async def test_a_scan_sees_our_own_names_only_the_oldest_first(spool: Spool) -> None:
    for name in ("12.part", "9.part", "x.part", "7.dcm", "8.part.new", "-1.part"):
        (spool.incoming / name).touch()
    for name in ("00/3.dcm", "00/copy of 3.dcm", "00/4.dcm.part", "01/5.txt", "ff/6.dcm"):
        (spool.ready / name).touch()
    assert spool.waiting() == [9, 12]
    assert sorted(spool.published()) == [3, 6]


def test_opening_again_leaves_everything_as_it_is(tmp_path: Path) -> None:
    for _ in range(2):
        spool = Spool(tmp_path, Syncer())
        spool.open()
        (spool.ready / "00" / "1.dcm").touch()
        spool.close()
        spool.close()
    assert len(list((tmp_path / "spool" / "ready").iterdir())) == 256
    assert list((tmp_path / "spool" / "incoming").iterdir()) == []


async def test_room_is_told_in_bytes(spool: Spool) -> None:
    assert 0 < spool.free_bytes() <= spool.total_bytes()


@pytest.mark.parametrize("inside", ["", "storage", "deep/er"])
def test_a_file_in_the_way_is_said_with_what_to_do(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file" / inside, Syncer())
    with pytest.raises(StorageError, match=r"a part of the path is a file: set storage\.path to a folder"):
        spool.open()


def test_a_path_where_no_folder_can_be_made_is_said() -> None:
    with pytest.raises(StorageError, match=r"The storage path /proc/self/edge cannot be used: .*storage\.path"):
        Spool(Path("/proc/self/edge"), Syncer()).open()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "Permission denied; give this user the right to write there, or set storage.path elsewhere."),
        (errno.EPERM, "Operation not permitted; give this user the right to write there"),
        (errno.EROFS, "Read-only file system; the file system is read-only: check the card, then mount it"),
        (errno.ENOSPC, "No space left on device; the disk is full: make room, or set storage.path to a larger disk."),
        (errno.ENOTDIR, "Not a directory; a part of the path is a file: set storage.path to a folder."),
        (errno.EIO, "Input/output error; check the disk and storage.path."),
    ],
)
def test_each_trouble_with_the_storage_path_has_its_advice(number: int, advice: str) -> None:
    text = storage_trouble(Path("/srv/edge"), error(number))
    assert text.startswith("The storage path /srv/edge cannot be used: ")
    assert advice in text


# identity


def started(root: Path, highest: int = 0) -> Identity:
    identity = Identity(root)
    identity.open(lambda: highest)
    return identity


def test_ids_grow_over_restarts_and_never_repeat(tmp_path: Path) -> None:
    ids: list[int] = []
    for session in range(1, 6):
        identity = started(tmp_path)
        assert identity.session == session
        taken = [identity.next_id() for _ in range(50)]
        assert taken[0] == identity.first_id
        ids += taken
    assert ids == sorted(set(ids))


def test_a_session_is_on_disk_before_its_first_id_is_used(tmp_path: Path) -> None:
    identity = started(tmp_path)
    assert int((tmp_path / "identity" / "session").read_text()) == identity.session
    assert identity.next_id() >> numbering.BLOCK_BITS == identity.session


def test_a_session_that_uses_up_its_numbers_takes_another_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbering, "BLOCK_BITS", 2)
    first = started(tmp_path)
    ids = [first.next_id() for _ in range(10)]
    assert ids == list(range(4, 14))
    assert (first.session, first.first_id) == (1, 4)
    second = started(tmp_path)
    assert second.session == 4
    assert second.next_id() == 16


def test_the_box_keeps_its_own_id(tmp_path: Path) -> None:
    assert started(tmp_path).device == started(tmp_path).device != ""
    assert started(tmp_path).device != started(tmp_path / "another").device


@pytest.mark.parametrize("content", [None, b"", b"twelve\n", b"\xff\xfe\n", b"-3\n"])
def test_a_lost_count_goes_on_above_the_highest_id_there_is(tmp_path: Path, content: bytes | None) -> None:
    before = started(tmp_path)
    highest = [before.next_id() for _ in range(5)][-1]
    session = tmp_path / "identity" / "session"
    session.unlink()
    if content is not None:
        session.write_bytes(content)
    after = started(tmp_path, highest)
    assert after.first_id > highest
    assert after.session > before.session
    assert int(session.read_text()) == after.session


def test_the_files_are_not_searched_where_the_count_is_there(tmp_path: Path) -> None:
    started(tmp_path)
    Identity(tmp_path).open(lambda: pytest.fail("searched"))


def test_a_count_cut_while_it_was_written_is_the_old_one(tmp_path: Path) -> None:
    started(tmp_path)
    (tmp_path / "identity" / "session.new").write_text("99")
    assert started(tmp_path).session == 2


def test_a_count_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "identity").touch()
    with pytest.raises(OSError, match="File exists"):
        started(tmp_path)


# reading


def not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def preadv(*_: object) -> int:
        raise error(errno.EAGAIN)

    monkeypatch.setattr(os, "preadv", preadv)


def half_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def preadv(fd: int, buffers: list[bytearray], at: int, flags: int) -> int:
        return real(fd, [memoryview(buffers[0])[: len(buffers[0]) // 2]], at, flags)

    monkeypatch.setattr(os, "preadv", preadv)


def no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_NOWAIT", None)


def as_it_is(_: pytest.MonkeyPatch) -> None:
    pass


def reading_of(path: Path, content: bytes, syncer: Syncer) -> Reader:
    """Read what should be ``content``, after a head."""
    return Reader(path, HEAD, len(content), hashlib.sha256(content).digest(), syncer)


ways = pytest.mark.parametrize("way", [as_it_is, half_cached, not_cached, no_such_call])


@ways
async def test_a_reader_gives_exactly_the_bytes_asked_for(
    tmp_path: Path, syncer: Syncer, monkeypatch: pytest.MonkeyPatch, way: Callable[[pytest.MonkeyPatch], None]
) -> None:
    content = data(300_000)
    path = tmp_path / "1.dcm"
    path.write_bytes(bytes(HEAD) + content)
    way(monkeypatch)
    got = []
    with reading_of(path, content, syncer) as reader:
        for count in (1, 0, 2, 65_536, 4096, 131_071, 300_000 - 200_706):
            got.append(await reader.read(count))
            assert len(got[-1]) == count
    assert b"".join(got) == content


@ways
async def test_a_file_that_ends_too_soon_is_an_error_and_never_fewer_bytes(
    tmp_path: Path, syncer: Syncer, monkeypatch: pytest.MonkeyPatch, way: Callable[[pytest.MonkeyPatch], None]
) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(bytes(HEAD + 99))
    way(monkeypatch)
    with reading_of(path, data(100), syncer) as reader:
        assert len(await reader.read(50)) == 50
        with pytest.raises(EOFError, match=r"1\.dcm is shorter than its seal says"):
            await reader.read(50)


@pytest.mark.parametrize("pieces", [[100], [99, 1], [1, 99]])
@pytest.mark.parametrize("size", [1, 3000])
async def test_the_last_piece_of_a_file_that_has_changed_is_never_given(
    tmp_path: Path, syncer: Syncer, pieces: list[int], size: int
) -> None:
    content = data(100 * size)
    path = tmp_path / "1.dcm"
    path.write_bytes(bytes(HEAD) + b"\xff" + content[1:])
    with reading_of(path, content, syncer) as reader:
        for count in pieces[:-1]:
            await reader.read(count * size)
        with pytest.raises(ChangedError, match=r"1\.dcm is not what was received"):
            await reader.read(pieces[-1] * size)


async def test_a_file_that_is_gone_is_an_error_when_it_is_opened(tmp_path: Path, syncer: Syncer) -> None:
    with pytest.raises(FileNotFoundError), reading_of(tmp_path / "1.dcm", b"", syncer):
        pass


async def test_reading_leaves_no_descriptor_behind(tmp_path: Path, syncer: Syncer) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(bytes(HEAD) + b"data")
    before = open_files()
    for _ in range(3):
        with reading_of(path, b"data", syncer) as reader:
            await reader.read(4)
    assert open_files() == before
