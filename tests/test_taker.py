"""The taking of one file: whatever it holds is its own fate, never that of the watch, the import or the next file."""

import asyncio
import errno
import hashlib
import io
import os
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import msgspec
import pytest
from structlog.testing import capture_logs

from edge.board import Board
from edge.dicom import part10
from edge.dicom.whole import Whole
from edge.findings import Journal
from edge.intake import archives, tree, unpack
from edge.intake import remote as remotely
from edge.intake import seal as seals
from edge.intake import taker as takers
from edge.intake.fate import Fate, Result
from edge.intake.handover import HandoverService
from edge.intake.receiver import NoRoomNowError, ReceiverError, TooLargeNowError
from edge.intake.remote import RemoteReceiver
from edge.intake.seal import Seal
from edge.intake.settling import Settling
from edge.intake.taker import Taker
from edge.intake.through import DoorReceiver
from edge.intake.tree import Readable
from edge.model import WATCH, Origin, Source
from edge.spool import Free, Ledger, Reservation
from edge.store import StoreError
from edge.threads import Threads
from tests.fakes import ManualClock
from tests.peers.objects import DicomObject, ct, mr, tiny, write_multiframe
from tests.peers.ports import wait_for
from tests.test_intake import Box, box

OWN: Final = Source(door=WATCH, calling="US1", called="EDGE", address="us")
SENDER: Final = Source(door="dimse", calling="CT7", called="OTHER", address="10.0.0.7")


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as entries:
        yield entries


class Memory:
    """A receiver that keeps what it takes; `trouble` may raise instead."""

    most: int | None = None

    def __init__(self, trouble: Callable[[Whole], None] = lambda _: None) -> None:
        self.taken: list[tuple[bytes, Source]] = []
        self.archives: list[Origin] = []
        self._trouble = trouble

    async def known(self, origins: Sequence[Origin]) -> list[bool]:
        return [False] * len(origins)

    async def receive(self, whole: Whole, file: Readable, source: Source) -> bool:
        self._trouble(whole)
        self.taken.append((file.read(whole.offset, whole.length), source))
        return True

    async def remember(self, origin: Origin) -> None:
        self.archives.append(origin)


def taker(receiver: Memory | DoorReceiver, folder: Path, *, room: bool = True, spool: bool = False) -> Taker:
    return Taker(receiver, asyncio.to_thread, OWN, folder, lambda _: room, spool=spool)


async def take(one: Taker, path: Path, **origin: int) -> Result:
    entry = tree.look(path)
    return await one.take(path.parent, entry, msgspec.structs.replace(entry.origin("watch us"), **origin))


def through(here: Box, *, most: int | None = None) -> DoorReceiver:
    return DoorReceiver(here.door, here.store, asyncio.to_thread, here.journal, most=most)


def raising(error: Exception) -> Callable[[Whole], None]:
    def trouble(_: Whole) -> NoReturn:
        raise error

    return trouble


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def content(tmp_path: Path, one: DicomObject) -> bytes:
    return one.write(tmp_path / "written").read_bytes()


def sealed(path: Path, one: DicomObject, source: Source = SENDER, digest: bytes = b"") -> Path:
    """A file as it lies in the spool of another box."""
    seal = Seal(
        id=7,
        length=len(one.dataset),
        digest=digest or hashlib.sha256(one.dataset).digest(),
        source=source,
        received_at=1.7e9,
        clock_trusted=True,
        legs=(),
    )
    head = part10.begin(one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid, seals.room(0, source))
    data = part10.sealed(head, source="OTHER", sending="CT7", receiving="OTHER", private=seals.encode(seal))
    path.write_bytes(data + one.dataset)
    return path


# what one file may do to the others: nothing


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), RecursionError(), OverflowError("too large")])
async def test_whatever_goes_wrong_is_the_fate_of_the_file_alone(
    tmp_path: Path, error: Exception, logged: list[MutableMapping[str, Any]]
) -> None:
    result = await take(taker(Memory(raising(error)), tmp_path), mr(1)[0].write(tmp_path / "DOE^JANE"))
    assert (result.fate, result.why) == (Fate.REFUSED, f"it cannot be dealt with: {type(error).__name__}")
    assert [entry["log_level"] for entry in logged] == ["error"]
    assert "DOE" not in str(logged)


@pytest.mark.parametrize("error", [StoreError("it is full"), ReceiverError("it is gone")])
async def test_a_failure_of_the_receiver_is_not_the_fate_of_the_file(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        await take(taker(Memory(raising(error)), tmp_path), mr(1)[0].write(tmp_path / "one"))


async def test_a_member_that_cannot_be_dealt_with_leaves_the_others_to_be_taken(tmp_path: Path) -> None:
    first, second = mr(1)[0], ct(1)[0]

    def trouble(whole: Whole) -> None:
        if whole.sop_instance_uid == first.sop_instance_uid:
            raise ZeroDivisionError

    receiver = Memory(trouble)
    path = zipped(tmp_path / "a.zip", {"a": content(tmp_path, first), "b": content(tmp_path, second)})
    result = await take(taker(receiver, tmp_path), path)
    assert (result.fate, result.counts()) == (Fate.REFUSED, {Fate.REFUSED: 1, Fate.TAKEN: 1})
    assert result.reasons == [("a", "it cannot be dealt with: ZeroDivisionError")]
    assert [data for data, _ in receiver.taken] == [second.dataset]
    assert receiver.archives == []


@pytest.mark.parametrize("most", [100 << 10, None])
async def test_an_object_that_is_too_long_is_refused(tmp_path: Path, most: int | None) -> None:
    async with box(tmp_path / "box") as here:
        here.door._most = 100 << 10
        result = await take(taker(through(here, most=most), tmp_path), ct(1)[0].write(tmp_path / "large"))
        assert (result.fate, result.why) == (Fate.REFUSED, "it is longer than receive.max_object")
        here.start_index()
        result = await take(taker(through(here, most=most), tmp_path), mr(1)[0].write(tmp_path / "small"))
        assert result.fate is Fate.TAKEN


async def test_an_object_that_is_too_long_is_not_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with box(tmp_path / "box") as here:
        one = taker(through(here, most=1000), tmp_path)
        monkeypatch.setattr(here.door, "begin", raising(AssertionError()))
        result = await take(one, ct(1)[0].write(tmp_path / "large"))
        assert result.why == "it is longer than receive.max_object"


@pytest.mark.parametrize("numbers", [{"inode": (1 << 64) - 1}, {"mtime_ns": 1 << 70}, {"ctime_ns": -(1 << 70)}])
async def test_numbers_that_no_row_holds_are_brought_into_those_it_does(
    tmp_path: Path, numbers: dict[str, int]
) -> None:
    async with box(tmp_path / "box") as here:
        here.start_index()
        one = taker(through(here), tmp_path)
        assert (await take(one, mr(1)[0].write(tmp_path / "one"), **numbers)).fate is Fate.TAKEN
        path = zipped(tmp_path / "a.zip", {"a": content(tmp_path, mr(1)[0])})
        assert (await take(one, path, **numbers)).fate is Fate.TAKEN
        assert (await take(one, path, **numbers)).counts() == {Fate.ALREADY: 1}


async def test_room_may_be_asked_for_while_objects_begin_and_end() -> None:
    """A watch's thread asks, and the loop goes on: here objects end just while the sum is made."""
    ledger = Ledger(lambda: Free(1 << 40, 1 << 20), 0)
    others = [ledger.begin() for _ in range(3)]

    class Meddling(Reservation):
        written = property(lambda _: meddle(), lambda _, __: None)

    def meddle() -> int:
        while others and (other := others.pop()) is not None:
            ending = threading.Thread(target=other.release)
            ending.start()
            ending.join(10)
            assert not ending.is_alive()
        return 0

    ledger._open = {Meddling(ledger), *ledger._open}
    assert ledger.room() <= 1 << 40
    assert len(ledger._open) == 1


class Unlucky(Memory):
    """The receiver of the appliance, into which objects come as a stream."""

    async def has(self, *_: object) -> bool:
        return False

    async def stream(self, whole: Whole, chunks: AsyncIterator[bytes], source: Source) -> bool:
        data = b"".join([chunk async for chunk in chunks])
        self._trouble(whole)
        self.taken.append((data, source))
        return True


@asynccontextmanager
async def handed(receiver: Any, folder: Path) -> AsyncIterator[RemoteReceiver]:
    clock = ManualClock()
    service = HandoverService(receiver, Board(clock), Journal(clock), clock)
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await service.serve(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()
            served.set()

    server = await asyncio.start_unix_server(serve, folder / "s")
    reader, writer = await asyncio.open_unix_connection(folder / "s")
    try:
        yield RemoteReceiver(reader, writer, asyncio.to_thread)
    finally:
        writer.close()
        await writer.wait_closed()
        await served.wait()
        server.close()


@pytest.mark.parametrize(
    ("error", "fate", "why"),
    [
        (ZeroDivisionError(), Fate.REFUSED, "it cannot be dealt with: ZeroDivisionError"),
        (TooLargeNowError("no room"), Fate.TOO_LARGE, "no room"),
        (NoRoomNowError("no room"), Fate.NO_ROOM, "no room"),
    ],
)
async def test_what_the_appliance_cannot_deal_with_leaves_the_connection_to_the_next_object(
    tmp_path: Path, error: Exception, fate: Fate, why: str
) -> None:
    bad, good = mr(2)

    def trouble(whole: Whole) -> None:
        if whole.sop_instance_uid == bad.sop_instance_uid:
            raise error

    appliance = Unlucky(trouble)
    async with handed(appliance, tmp_path) as remote:
        one = Taker(remote, asyncio.to_thread, OWN, tmp_path, lambda _: True)
        result = await take(one, bad.write(tmp_path / "bad"))
        assert (result.fate, result.why) == (fate, why)
        assert (await take(one, good.write(tmp_path / "good"))).fate is Fate.TAKEN
    assert [data for data, _ in appliance.taken] == [good.dataset]


async def test_whatever_goes_wrong_in_the_middle_of_an_object_leaves_the_connection_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = ct(1)[0], mr(1)[0]
    appliance = Unlucky()
    async with handed(appliance, tmp_path) as remote:
        one = Taker(remote, asyncio.to_thread, OWN, tmp_path, lambda _: True)
        with monkeypatch.context() as patch:
            patch.setattr(remotely, "digest_of", lambda *_: bytes(32))
            # the looks when it is opened and when it was recognised are well, and the last is not
            looks = iter([None, None])
            patch.setattr(tree.OpenFile, "check", lambda _: 1 // 0 if next(looks, 1) else None)
            assert (await take(one, bad.write(tmp_path / "bad"))).why == "it cannot be dealt with: ZeroDivisionError"
        assert (await take(one, good.write(tmp_path / "good"))).fate is Fate.TAKEN
    assert [data for data, _ in appliance.taken] == [good.dataset]


# archives


async def test_an_archive_in_an_archive_keeps_the_outer_one(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner", {"a": content(tmp_path, mr(1)[0])}).read_bytes()
    receiver = Memory()
    path = zipped(tmp_path / "outer.zip", {"study.zip": inner, "b": content(tmp_path, mr(1)[0]), "c.txt": b"words"})
    result = await take(taker(receiver, tmp_path), path)
    why = "an archive in an archive is not opened: unpack it"
    assert (result.fate, result.why) == (Fate.REFUSED, f"study.zip in it: {why}")
    assert result.reasons == [("study.zip", why)]
    assert len(receiver.taken) == 1
    assert receiver.archives == []


async def test_a_member_for_which_there_is_no_room_leaves_the_others_to_be_taken(tmp_path: Path) -> None:
    receiver = Memory()
    path = zipped(tmp_path / "a.zip", {"large": long(tmp_path), "small": content(tmp_path, mr(1)[0])})
    result = await take(taker(receiver, tmp_path, room=False), path)
    assert (result.fate, result.why) == (Fate.TOO_LARGE, "large in it: there is no room to unpack it")
    assert (len(receiver.taken), receiver.archives) == (1, [])


def long(tmp_path: Path) -> bytes:
    """An object that is not unpacked into memory."""
    write_multiframe(tmp_path / "long", 9)
    return (tmp_path / "long").read_bytes()


@pytest.mark.parametrize("beginning", [b"words ", b"PK\3\4", bytes(1024)])
async def test_what_begins_as_no_object_does_is_not_unpacked_to_its_end(tmp_path: Path, beginning: bytes) -> None:
    receiver = Memory()
    path = zipped(tmp_path / "a.zip", {"large": beginning + bytes(9 << 20), "small": content(tmp_path, mr(1)[0])})
    # there would be no room
    result = await take(taker(receiver, tmp_path, room=False), path)
    assert result.counts().get(Fate.TOO_LARGE, 0) == 0
    assert len(receiver.taken) == 1


async def test_a_member_that_is_too_long_is_not_unpacked(tmp_path: Path) -> None:
    receiver = Memory()
    receiver.most = 8 << 20
    path = zipped(tmp_path / "a.zip", {"large": long(tmp_path) + bytes(1 << 20)})
    result = await take(taker(receiver, tmp_path, room=False), path)
    assert (result.fate, result.why) == (Fate.REFUSED, "large in it: it is longer than receive.max_object")


async def test_nothing_is_looked_through_or_unpacked_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[threading.Thread]] = {}

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            threads.setdefault(name, set()).add(threading.current_thread())
            return work(*arguments)

        return noting

    for owner, name in (
        (takers, "recognise"),
        (archives, "recognise"),
        (archives, "Archive"),
        (unpack.Archive, "begin"),
        (unpack.Archive, "unpack"),
    ):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    path = zipped(tmp_path / "a.zip", {"large": long(tmp_path), "small": content(tmp_path, mr(1)[0])})
    assert (await take(taker(Memory(), tmp_path), path)).counts() == {Fate.TAKEN: 2}
    assert threads.keys() == {"recognise", "Archive", "begin", "unpack"}
    assert threading.main_thread() not in set().union(*threads.values())


async def test_archives_that_are_unpacked_for_long_leave_a_thread_to_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacking, goes_on = unpack.Archive.unpack, threading.Event()
    begun: list[str] = []

    def slow(archive: unpack.Archive, info: zipfile.ZipInfo) -> unpack.Member:
        begun.append(info.filename)
        assert goes_on.wait(10)
        return unpacking(archive, info)

    monkeypatch.setattr(unpack.Archive, "unpack", slow)
    threads, receiver = Threads(2, "two"), Memory()
    one = Taker(receiver, threads.run, OWN, tmp_path, lambda _: True)
    paths = [zipped(tmp_path / f"{number}.zip", {"large": long(tmp_path)}) for number in range(3)]
    tasks = [asyncio.create_task(take(one, path)) for path in paths]
    try:
        await asyncio.to_thread(wait_for, lambda: bool(begun), 5, "one is unpacked")
        async with asyncio.timeout(5):
            assert (await take(one, mr(1)[0].write(tmp_path / "other"))).fate is Fate.TAKEN
        assert begun == ["large"]
    finally:
        goes_on.set()
    assert [result.fate for result in await asyncio.gather(*tasks)] == [Fate.TAKEN] * 3
    threads.end()


async def test_a_disk_that_fills_while_a_member_is_unpacked_is_no_fault_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> NoReturn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = zipped(tmp_path / "a.zip", {"a": content(tmp_path, mr(1)[0])})
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "SpooledTemporaryFile", lambda *_, **__: Full())
        result = await take(taker(Memory(), tmp_path), path)
    assert (result.fate, result.why) == (Fate.TOO_LARGE, "a in it: there is no room to unpack it")


async def test_an_archive_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", {"a": content(tmp_path, mr(1)[0])})

    def broken(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(unpack, "_count", broken)
    result = await take(taker(Memory(), tmp_path), path)
    assert (result.fate, result.why) == (Fate.REFUSED, "it cannot be read: Input/output error")


# room


def test_what_is_too_large_is_tried_again_at_least_once_a_minute() -> None:
    known, entry, looks = Settling(5, 600), tree.Entry("a", inode=1, size=10), []
    for now in range(1000):
        known.begin(now)
        if known.ripe(entry, now):
            looks.append(now)
            known.leave(entry, Fate.TOO_LARGE, "there is no room", now)
        known.end(now)
    assert max(after - before for before, after in pairwise(looks)) == 60


async def test_one_object_that_does_not_fit_leaves_room_for_others(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as here:
        here.start_index()
        one = taker(through(here), tmp_path)
        here.free = (1 << 30) + (400 << 10)
        result = await take(one, ct(1)[0].write(tmp_path / "large"))
        assert result.why == "there is no room on the disk for an object of this size"
        assert result.fate is Fate.TOO_LARGE
        assert (await take(one, mr(1)[0].write(tmp_path / "small"))).fate is Fate.TAKEN
        assert here.codes() == []


async def test_while_the_door_is_closed_there_is_room_for_nothing(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as here:
        here.free = 1
        result = await take(taker(through(here), tmp_path), mr(1)[0].write(tmp_path / "small"))
        assert (result.fate, result.why) == (Fate.NO_ROOM, "the disk is full up to its reserve.")


async def test_an_archive_of_which_something_is_too_large_says_so(tmp_path: Path) -> None:
    large = ct(1)[0]

    def trouble(whole: Whole) -> None:
        if whole.sop_instance_uid == large.sop_instance_uid:
            raise TooLargeNowError("there is no room")

    path = zipped(tmp_path / "a.zip", {"a": content(tmp_path, large), "b": content(tmp_path, mr(1)[0])})
    result = await take(taker(Memory(trouble), tmp_path), path)
    assert (result.fate, result.why) == (Fate.TOO_LARGE, "a in it: there is no room")
    assert result.counts() == {Fate.TOO_LARGE: 1, Fate.TAKEN: 1}


# seals


@pytest.mark.parametrize("digest", [b"", bytes(32)])
async def test_in_a_watch_a_seal_says_nothing(tmp_path: Path, digest: bytes) -> None:
    """Anybody can write one; and a tool that changed the dataset may have left it standing."""
    receiver, (one,) = Memory(), mr(1)
    path = sealed(tmp_path / "one", one, digest=digest)
    assert (await take(taker(receiver, tmp_path), path)).fate is Fate.TAKEN
    ((data, source),) = receiver.taken
    assert data == one.dataset
    assert msgspec.structs.replace(source, file=None) == OWN


async def test_in_a_spool_a_seal_says_who_sent_it_and_what_it_was(tmp_path: Path) -> None:
    receiver, (one,) = Memory(), mr(1)
    reading = taker(receiver, tmp_path, spool=True)
    assert (await take(reading, sealed(tmp_path / "one", one))).fate is Fate.TAKEN
    assert [msgspec.structs.replace(source, file=None) for _, source in receiver.taken] == [SENDER]
    damaged = await take(reading, sealed(tmp_path / "two", one, digest=bytes(32)))
    assert (damaged.fate, damaged.why) == (Fate.REFUSED, "it is not what its seal says: the file was damaged")


@pytest.mark.parametrize("word", ["calling", "called", "address", "door"])
async def test_a_seal_with_words_without_end_is_taken_and_sealed_anew(
    tmp_path: Path, word: Literal["calling", "called", "address", "door"]
) -> None:
    source = msgspec.structs.replace(SENDER, **{word: "\x01" * 20_000})
    (one,) = mr(1)
    path = sealed(tmp_path / "one", one, source)
    async with box(tmp_path / "box") as here:
        here.start_index()
        assert (await take(taker(through(here), tmp_path, spool=True), path)).fate is Fate.TAKEN
        (file,) = here.files().values()
    kept = seals.decode(part10.read_meta(file).private).source
    assert getattr(kept, word) == "\x01" * 255


async def test_titles_of_any_length_fit_into_the_room_of_a_seal(tmp_path: Path) -> None:
    source = Source(door="dimse", calling="\x01" * 5000, called="\x02" * 5000, address="\x03" * 5000)
    (one,) = tiny(1)
    async with box(tmp_path) as here:
        here.start_index()
        incoming = here.begin(one, source)
        await here.fill(incoming, one)
        await here.door.finish(incoming)
        (file,) = here.files().values()
    assert seals.decode(part10.read_meta(file).private).source == source
