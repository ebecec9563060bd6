"""Intake: the order of the promise, what is refused, what is left behind, and what the next start makes of it."""

import asyncio
import errno
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from structlog.testing import capture_logs

from edge.board import Board
from edge.config import Config, DimseDestination, Modality
from edge.dicom import status
from edge.dicom.acceptor import Acceptor
from edge.dicom.association import Association
from edge.dicom.command import CommandField
from edge.dicom.uids import class_names
from edge.findings import Journal
from edge.intake import door as doors
from edge.intake import index as indexing
from edge.intake import recovery as recovering
from edge.intake.admission import Admission
from edge.intake.door import Door, Incoming, MismatchError, NoRoomError, RefusedError
from edge.intake.guard import DiskGuard
from edge.intake.index import Index
from edge.intake.oddity import odd_uids
from edge.intake.policy import ReceivePolicy
from edge.intake.recovery import Recovery
from edge.intake.scp import StoreService
from edge.model import Header, Instance, Kind, Source
from edge.routing import Leg, Routing
from edge.spool import Free, Identity, Ledger, Spool, Syncer
from edge.spool.part import CHUNK
from edge.store import Choice, Recorded, Store
from edge.supervise import Supervisor
from tests.fakes import ManualClock
from tests.peers import wire
from tests.peers.objects import DicomObject, ct, tiny
from tests.peers.raw import RawSender, Rejected

TO_PACS: Final = Config(destination=(DimseDestination(name="pacs", host="127.0.0.1", ae_title="PACS"),))
CT1: Final = Source(door="dimse", calling="CT1", called="EDGE", address="10.0.0.7")
PLENTY: Final = 1 << 40


class Box:
    """Every part of intake on one storage path, for one session; the index runs once it is told to."""

    def __init__(self, root: Path, store: Store, identity: Identity, spool: Spool, syncer: Syncer) -> None:
        self.root = root
        self.store, self.identity, self.spool, self.syncer = store, identity, spool, syncer
        self.clock = ManualClock()
        self.board = Board(self.clock)
        self.journal = Journal(self.clock)
        self.supervisor = Supervisor(self.journal, self.clock)
        self.free = PLENTY
        self.ledger = Ledger(lambda: Free(self.free, 1 << 20), 1 << 30)
        self.admission = Admission(self.board, self.journal, self.clock, self.ledger)
        self.guard = DiskGuard(spool, syncer, self.admission, self.journal, self.clock)
        self.admission.open("starting")
        self.index = Index(spool, syncer, store, self.admission, self.board, self.journal, self.clock)
        self.door = Door(
            spool,
            identity,
            self.index,
            self.admission,
            self.guard,
            Routing(TO_PACS, class_names),
            board=self.board,
            journal=self.journal,
            clock=self.clock,
            title="EDGE",
            most=64 << 20,
            destinations=1,
        )
        self.indexing: asyncio.Task[None] | None = None

    def start_index(self) -> None:
        self.indexing = asyncio.create_task(self.index.run())

    async def indexed(self) -> None:
        """Let the index finish what waits, and end."""
        self.index.close()
        if self.indexing is None:
            self.indexing = asyncio.create_task(self.index.run())
        async with asyncio.timeout(20):
            await self.indexing

    def begin(self, one: DicomObject, source: Source = CT1) -> Incoming:
        return self.door.begin(Kind(one.sop_class_uid, one.transfer_syntax_uid), one.sop_instance_uid, source)

    async def fill(self, incoming: Incoming, one: DicomObject) -> None:
        for fragment in one.fragments(CHUNK):
            incoming.write(memoryview(fragment))
            if incoming.pressure:
                await incoming.relieve()

    async def receive(self, one: DicomObject) -> Instance:
        """Take an object as a service does; sealed and synced when this returns, not yet indexed."""
        incoming = self.begin(one)
        await self.fill(incoming, one)
        return await self.door.finish(incoming)

    async def scan(self) -> None:
        """Recover as a start does; what was found is handed to the index."""
        first = self.identity.first_id
        recovery = Recovery(
            self.spool, self.syncer, self.store, self.index, Routing(TO_PACS, class_names), self.journal, first
        )
        await recovery.run()

    async def recover(self) -> None:
        """Recover as a start does, to the end."""
        await self.scan()
        await self.indexed()

    def codes(self) -> list[str]:
        return [finding.code for finding in self.journal.open()]

    def finding(self, code: str) -> str:
        (text,) = [finding.text for finding in self.journal.open() if finding.code == code]
        return text

    async def rows(self) -> dict[int, tuple[str, str]]:
        """State and digest of each instance."""
        asked = "SELECT id, state, hex(digest) FROM instance ORDER BY id"
        found = await self.store.reading.run(lambda raw: raw.execute(asked).fetchall())
        return {number: (state, digest.lower()) for number, state, digest in found}

    async def queued(self) -> list[int]:
        return [row.instance for row in await self.store.reading.queue()]

    async def trail(self) -> list[tuple[int, str, str]]:
        asked = "SELECT instance, event, destination FROM trail ORDER BY seq"
        return await self.store.reading.run(lambda raw: raw.execute(asked).fetchall())

    def files(self) -> dict[str, bytes]:
        """Every file of the spool and of the quarantine."""
        found: dict[str, bytes] = {}
        for folder in ("spool", "quarantine"):
            for path in sorted((self.root / folder).rglob("*")):
                with suppress(FileNotFoundError, IsADirectoryError):  # a thread may be deleting it
                    found[str(path.relative_to(self.root))] = path.read_bytes()
        return found

    def published(self) -> list[int]:
        return sorted(self.spool.published())


@asynccontextmanager
async def box(root: Path) -> AsyncIterator[Box]:
    """One session on ``root``. What the index has not done when it ends is left as a kill would leave it."""
    syncer = Syncer()
    spool = Spool(root, syncer)
    spool.open()
    identity = Identity(root)
    identity.open(lambda: 0)
    store = await Store.open(root, ManualClock(), identity.session, spool.path)
    committing = asyncio.create_task(store.run())
    made = Box(root, store, identity, spool, syncer)
    try:
        yield made
    finally:
        if made.indexing is not None:
            made.indexing.cancel()
            await asyncio.wait([made.indexing])
        await made.supervisor.settle(0)
        store.finish()
        await committing
        await store.close()
        spool.close()
        syncer.close()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index go from batch to batch and try again without a pause."""
    monkeypatch.setattr(indexing, "_PACE", 0.0)
    monkeypatch.setattr(indexing, "_RETRY", 0.001)


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
async def port(here: Box) -> AsyncIterator[int]:
    """The box listens as it does in the appliance."""
    config = msgspec.structs.replace(TO_PACS, modality=(Modality(name="Raw", ae_title="RAW"),))
    policy = ReceivePolicy(config, here.admission, here.board, here.journal)
    acceptor = Acceptor(policy, {CommandField.C_STORE_RQ: StoreService(here.door)}, spawn=here.supervisor.spawn)
    yield await acceptor.listen("127.0.0.1", 0)
    await acceptor.close(5)


def send(port: int, *objects: DicomObject, also: str = "") -> list[int]:
    """Send on one association as a modality would; the statuses."""
    contexts = {(one.sop_class_uid, (one.transfer_syntax_uid,)) for one in objects}
    with RawSender(port) as modality:
        modality.associate([*contexts, *([(also, ("1.2.840.10008.1.2",))] if also else [])])
        return [modality.store(one) for one in objects]


# the order of the promise


class Recording:
    """What was done, in the order in which it was done, whichever thread did it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self._patch = monkeypatch

    def watch(self, owner: object, name: str, say: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **keys: Any) -> Any:
            said = say(*arguments)
            result = real(*arguments, **keys)
            if said:
                self.events.append(said)
            return result

        self._patch.setattr(owner, name, call)

    async def whole(self, here: Box) -> None:
        """Watch the spool's system calls, the answer and the commits."""

        def named(fd: int, *_: object) -> str:
            return Path(f"/proc/self/fd/{fd}").readlink().name.partition(".")[2] or "folder"

        self.watch(os, "pwrite", lambda fd, *_: f"write {named(fd)}")
        self.watch(os, "fsync", lambda fd: f"sync {named(fd)}")
        self.watch(os, "rename", lambda *_: "rename")
        self.watch(Association, "send_command", lambda *_: "answer")
        await here.store._connection.run(
            lambda raw: raw.set_trace_callback(lambda sql: self.events.append("commit") if sql == "COMMIT" else None)
        )


async def test_an_object_is_written_and_synced_then_answered_then_renamed_then_committed(
    here: Box, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(monkeypatch)
    await recording.whole(here)
    here.start_index()
    (one,) = ct(1)
    assert await asyncio.to_thread(send, port, one) == [0x0000]
    await here.indexed()
    events = list(dict.fromkeys(recording.events))
    assert set(events[:3]) == {"write part", "sync part", "sync folder"}
    assert events[3:] == ["answer", "rename", "commit"]
    last_write = max(n for n, event in enumerate(recording.events) if event == "write part")
    assert last_write < recording.events.index("sync part"), "nothing is written after the sync"


@pytest.mark.parametrize("what", ["part", "folder"])
async def test_no_answer_is_given_while_either_sync_is_under_way(
    here: Box, port: int, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    recording = Recording(monkeypatch)
    await recording.whole(here)
    here.start_index()
    loop = asyncio.get_running_loop()
    let_go, reached = asyncio.Event(), asyncio.Event()
    real = os.fsync

    def held(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir() == (what == "folder"):
            loop.call_soon_threadsafe(reached.set)
            asyncio.run_coroutine_threadsafe(let_go.wait(), loop).result(30)
        real(fd)

    monkeypatch.setattr(os, "fsync", held)
    sending = asyncio.create_task(asyncio.to_thread(send, port, *tiny(1)))
    async with asyncio.timeout(20):
        await reached.wait()
        assert not sending.done()
        assert not {"answer", "rename", "commit"} & set(recording.events)
        let_go.set()
        assert await sending == [0x0000]


async def test_what_was_answered_is_forwarded_byte_for_byte_from_its_row(here: Box, port: int) -> None:
    here.start_index()
    objects = tiny(40)
    assert await asyncio.to_thread(send, port, *objects) == [0x0000] * 40
    await here.indexed()
    parcels = await here.store.claim("pacs", 100)
    assert [p.digest for p in parcels] == [one.digest for one in objects]
    for parcel, one in zip(parcels, objects, strict=True):
        assert parcel.path.read_bytes()[parcel.offset :] == one.dataset
    assert here.board.instances == 40
    assert (here.board.unindexed, here.board.unindexed_bytes) == (0, 0)


async def test_an_answered_object_is_owed_before_its_row_is_written(here: Box) -> None:
    (one,) = tiny(1)
    await here.receive(one)
    assert (here.board.unindexed, here.board.unindexed_bytes) == (1, one.length)
    assert await here.rows() == {}
    await here.indexed()
    assert (here.board.unindexed, here.board.unindexed_bytes) == (0, 0)


async def test_what_recovery_finds_while_it_waits_is_indexed_once(here: Box) -> None:
    one, again = tiny(1)[0], tiny(1)[0]
    taken = [await here.receive(one), await here.receive(one), await here.receive(again)]
    for instance in taken:
        here.index.take(instance, ())
    await here.indexed()
    assert sorted(await here.rows()) == [taken[0].id, taken[2].id]
    assert here.codes() == []


async def test_an_object_whose_file_is_gone_before_it_is_indexed_is_said_and_stops_no_other(here: Box) -> None:
    first, second = [await here.receive(one) for one in tiny(2)]
    here.spool.part_path(first.id).unlink()
    await here.indexed()
    assert list(await here.rows()) == [second.id]
    assert here.finding("LOST").endswith(f"object {first.id}")
    assert here.board.unindexed == 0


# what is refused, and what is left of it


async def test_below_the_reserve_nothing_is_taken_until_there_is_room_again(here: Box, port: int) -> None:
    here.start_index()
    (one,) = tiny(1)
    here.free = 1
    assert await asyncio.to_thread(send, port, one, also=wire.VERIFICATION) == [status.OUT_OF_RESOURCES]
    assert here.files() == {}
    assert not here.board.intake_open
    assert here.board.refused == 1
    assert "the disk is full up to its reserve" in here.finding("INTAKE_CLOSED")
    with pytest.raises(Rejected) as rejected:
        await asyncio.to_thread(send, port, one)
    assert (rejected.value.result, rejected.value.source, rejected.value.reason) == (2, 3, 2)
    here.free = PLENTY
    here.clock.seconds += 1.0
    assert await asyncio.to_thread(send, port, one) == [0x0000]
    assert (here.board.intake_open, here.codes()) == (True, [])


async def test_a_disk_that_fills_in_the_middle_of_an_object_drains_it_and_leaves_nothing(
    here: Box, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise error(errno.ENOSPC)

    large, small = ct(1)[0], tiny(1)[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert await asyncio.to_thread(send, port, large) == [status.OUT_OF_RESOURCES]
    await until(lambda: here.files() == {})
    assert here.codes() == ["STORAGE_ERROR"]
    assert here.board.refused == 1
    assert await asyncio.to_thread(send, port, small) == [0x0000]


async def test_a_disk_that_says_it_has_room_and_gives_none_closes_intake_after_a_second_object(
    here: Box, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quota(*_: object) -> int:
        raise error(errno.EDQUOT)

    monkeypatch.setattr(os, "pwrite", quota)
    assert await asyncio.to_thread(send, port, *tiny(2)) == [status.OUT_OF_RESOURCES] * 2
    assert not here.board.intake_open
    assert here.codes() == ["STORAGE_ERROR", "INTAKE_CLOSED"]


async def test_an_error_of_the_disk_at_the_sync_is_a_finding_and_no_success(
    here: Box, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fd: int) -> None:
        raise error(errno.EIO)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        assert await asyncio.to_thread(send, port, *tiny(1)) == [status.OUT_OF_RESOURCES]
    assert here.files() == {}
    assert "Input/output error" in here.finding("STORAGE_ERROR")


async def test_a_part_that_cannot_be_made_is_refused_and_the_association_goes_on(here: Box, port: int) -> None:
    here.spool.incoming.rename(here.root / "moved")
    assert await asyncio.to_thread(send, port, *tiny(2)) == [status.OUT_OF_RESOURCES] * 2
    assert "No such file or directory" in here.finding("STORAGE_ERROR")


async def test_what_is_no_storage_is_not_stored_whatever_the_context(here: Box, port: int) -> None:
    here.start_index()
    (image,) = tiny(1)
    worklist = replace(image, sop_class_uid="1.2.840.10008.5.1.4.31")

    def attempt() -> list[int]:
        with RawSender(port) as modality:
            modality.associate(
                [(image.sop_class_uid, (image.transfer_syntax_uid,)), (wire.VERIFICATION, ("1.2.840.10008.1.2",))]
            )
            return [modality.store(image, context=3), modality.store(worklist, context=1), modality.store(image)]

    assert await asyncio.to_thread(attempt) == [status.SOP_CLASS_NOT_SUPPORTED] * 2 + [0]


async def test_a_disk_that_is_too_slow_gets_an_answer_in_time_and_leaves_nothing(
    here: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_LONGEST_ANSWER", 0.02)
    loop = asyncio.get_running_loop()
    let_go = asyncio.Event()
    real = os.fsync

    def stuck(fd: int) -> None:
        asyncio.run_coroutine_threadsafe(let_go.wait(), loop).result(30)
        real(fd)

    monkeypatch.setattr(os, "fsync", stuck)
    with pytest.raises(NoRoomError, match="the disk is too slow"):
        async with asyncio.timeout(20):
            await here.receive(tiny(1)[0])
    await until(lambda: here.files() == {})
    assert here.board.instances == 0
    let_go.set()


async def test_an_object_longer_than_allowed_is_refused_and_leaves_nothing(here: Box) -> None:
    here.door._most = 100
    incoming = here.begin(tiny(1)[0])
    incoming.write(memoryview(bytes(101)))
    with pytest.raises(RefusedError, match="the object is longer than 100 bytes"):
        await here.door.finish(incoming)
    assert here.files() == {}


@pytest.mark.parametrize("which", ["instance", "class"])
async def test_a_dataset_that_is_another_object_than_the_command_said_is_set_aside(
    here: Box, port: int, which: str
) -> None:
    one, other = tiny(1)[0], ct(1)[0]
    if which == "instance":
        lying = replace(one, sop_instance_uid=other.sop_instance_uid)
    else:
        lying = replace(one, sop_class_uid=other.sop_class_uid)
    assert await asyncio.to_thread(send, port, lying) == [status.DATASET_MISMATCH]
    dcm, note = sorted(here.files())
    assert dcm.endswith(".dcm")
    assert here.files()[dcm].endswith(one.dataset)
    written = json.loads(here.files()[note])
    assert "is not the command's" in written["why"]
    assert written["sop_instance_uid"] == lying.sop_instance_uid
    assert written["source"]["calling"] == "RAW"
    assert here.codes() == ["QUARANTINED"]


async def test_a_mismatch_that_cannot_be_set_aside_is_refused_all_the_same(here: Box) -> None:
    here.spool.quarantine.rmdir()
    one, other = tiny(2)
    incoming = here.begin(other)
    incoming.write(memoryview(one.dataset))
    with pytest.raises(MismatchError):
        await here.door.finish(incoming)
    await until(lambda: here.files() == {})
    assert here.codes() == ["QUARANTINED"]


@pytest.mark.parametrize("dataset", [b"", b"\x08\x00\x18\x00UI\xff\xff", b"no dataset at all"])
async def test_a_dataset_that_cannot_be_read_is_kept_as_it_came_with_a_finding(
    here: Box, port: int, dataset: bytes
) -> None:
    here.start_index()
    one = tiny(1)[0]
    odd = replace(one, dataset=dataset)
    assert await asyncio.to_thread(send, port, odd) == [0x0000]
    await here.indexed()
    assert "ODD_OBJECT" in here.codes()
    (parcel,) = await here.store.claim("pacs", 5)
    assert parcel.sop_instance_uid == one.sop_instance_uid
    sent = dataset + b"\0" * (len(dataset) % 2)
    assert parcel.path.read_bytes()[parcel.offset :] == sent


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        (b"\x20\x00\x0d\x00UI", None, "Study Instance UID (0020,000D) is absent."),
        (b"\x20\x00\x0e\x00UI", None, "Series Instance UID (0020,000E) is absent."),
        (b"\x20\x00\x0d\x00UI", b"1.2.007", "Study Instance UID (0020,000D) has a component that begins with 0."),
        (b"\x20\x00\x0e\x00UI", b"1.2.x", "Series Instance UID (0020,000E) is no UID of at most 64 digits and dots."),
    ],
)
async def test_odd_uids_are_stored_as_they_came_and_said_once(
    here: Box, tag: bytes, value: bytes | None, said: str
) -> None:
    for one in tiny(3):
        head, _, rest = one.dataset.partition(tag)
        length = int.from_bytes(rest[:2], "little")
        given = b"" if value is None else (value + b".1" * length)[:length]
        element = b"" if value is None else tag + rest[:2] + given
        odd = replace(one, dataset=head + element + rest[2 + length :])
        stored = await here.receive(odd)
        assert here.spool.part_path(stored.id).read_bytes()[stored.offset :] == odd.dataset
    assert here.codes() == ["NONCONFORMING_UID"]
    assert here.finding("NONCONFORMING_UID").endswith(said)
    assert here.journal.open()[0].count == 3
    await here.indexed()
    assert len(await here.queued()) == 3


@pytest.mark.parametrize(
    ("uid", "said"),
    [
        ("1.2.3", ""),
        ("1.0.3", ""),
        ("1.02.3", "has a component that begins with 0"),
        ("01.2", "has a component that begins with 0"),
        ("1.2." + "3" * 61, "is no UID of at most 64 digits and dots"),
        ("../etc", "is no UID of at most 64 digits and dots"),
        ("1..2", "is no UID of at most 64 digits and dots"),
    ],
)
def test_what_is_wrong_with_a_uid_is_said_without_a_word_of_the_peers(uid: str, said: str) -> None:
    header = Header(study_uid="1.2", series_uid="1.3")
    assert odd_uids(header, uid) == (f"SOP Instance UID (0008,0018) {said}" if said else "")


def test_nothing_is_absent_from_a_header_that_could_not_be_read() -> None:
    assert odd_uids(Header(problem="The dataset is empty."), "1.2") == ""


async def test_a_sender_that_goes_away_in_the_middle_leaves_nothing(here: Box, port: int) -> None:
    (one,) = ct(1)

    def go_away() -> None:
        modality = RawSender(port)
        modality.connect()
        modality.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
        command = wire.c_store_rq(1, one.sop_class_uid, one.sop_instance_uid).encode()
        modality.send_bytes(wire.p_data(wire.Pdv(1, wire.Control.COMMAND | wire.Control.LAST, command)))
        modality.send_bytes(wire.p_data(wire.Pdv(1, wire.Control.DATASET, one.dataset[:4096])))
        modality.close()

    await asyncio.to_thread(go_away)
    async with asyncio.timeout(20):
        while here.supervisor._tasks:
            await asyncio.wait(here.supervisor._tasks)
    assert here.files() == {}
    assert here.board.instances == 0


async def test_a_discarded_object_leaves_nothing(here: Box) -> None:
    incoming = here.begin(tiny(1)[0])
    incoming.write(memoryview(bytes(1000)))
    here.door.discard(incoming)
    assert here.files() == {}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - gauges tell nobody that they change
            await asyncio.sleep(0.001)


# the index


async def test_the_same_bytes_again_leave_one_file_and_one_delivery(here: Box) -> None:
    (one,) = tiny(1)
    first = await here.receive(one)
    await here.receive(one)
    await here.receive(one)
    await here.indexed()
    assert here.published() == [first.id]
    assert await here.queued() == [first.id]
    assert here.spool.waiting() == []


async def test_two_objects_under_one_uid_are_both_kept_and_that_is_said(here: Box) -> None:
    one, other = tiny(2)
    content = other.dataset.replace(other.sop_instance_uid.encode(), one.sop_instance_uid.encode())
    twin = replace(one, dataset=content)
    ids = [(await here.receive(each)).id for each in (one, twin)]
    await here.indexed()
    assert here.published() == ids
    assert here.codes() == ["TWIN"]


async def limit_pages(store: Store, pages: int) -> None:
    """Let the database grow to ``pages`` at most; 0 is what it has now."""

    def work(raw: sqlite3.Connection) -> None:
        count = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count = {pages or count}")

    await store._connection.run(work)


async def test_intake_closes_while_the_store_cannot_be_written_and_opens_again_losing_nothing(here: Box) -> None:
    await limit_pages(here.store, 0)
    here.start_index()
    objects = tiny(150)
    taken = []
    for one in objects:
        with suppress(NoRoomError):
            taken.append(await here.receive(one))
        await asyncio.sleep(0)
    await until(lambda: not here.board.intake_open)
    said = here.finding("INTAKE_CLOSED")
    assert "database or disk is full" in said
    assert "Objects already acknowledged are safe on disk" in said
    with pytest.raises(NoRoomError):
        here.begin(objects[0])
    await limit_pages(here.store, 1 << 30)
    await until(lambda: here.board.intake_open)
    await here.receive(tiny(1)[0])
    await here.indexed()
    assert set(await here.rows()) >= {instance.id for instance in taken}
    assert len(await here.queued()) == len(taken) + 1
    assert here.codes() == []
    assert here.spool.waiting() == []


async def test_an_answer_waits_while_the_index_is_far_behind(here: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "_MOST_BEHIND", 3)
    objects = tiny(5)
    for one in objects[:3]:
        await here.receive(one)
    late = asyncio.create_task(here.receive(objects[3]))
    await until(lambda: here.board.unindexed == 4)
    assert not late.done()
    here.start_index()
    async with asyncio.timeout(20):
        await late
    await here.indexed()
    assert len(await here.rows()) == 4


async def test_an_answer_waits_while_the_oldest_row_is_late(here: Box) -> None:
    objects = tiny(2)
    await here.receive(objects[0])
    here.clock.seconds += 1.5
    late = asyncio.create_task(here.receive(objects[1]))
    await until(lambda: here.board.unindexed == 2)
    assert not late.done()
    here.start_index()
    async with asyncio.timeout(20):
        await late


@pytest.mark.parametrize("how", ["told to try again", "cut"])
async def test_a_sender_that_does_not_wait_for_the_index_stops_nobody_elses_objects(
    here: Box, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(indexing, "_MOST_BEHIND", 2)
    take = here.index.take

    def take_long(instance: Instance, legs: Sequence[Leg]) -> None:
        take(instance, legs)
        here.clock.seconds += doors._LONGEST_ANSWER

    first, second, late = tiny(3)
    await here.receive(first)
    await here.receive(second)
    if how == "cut":
        waiting = asyncio.create_task(here.receive(late))
        await until(lambda: here.board.unindexed == 3)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    else:
        monkeypatch.setattr(here.index, "take", take_long)
        with pytest.raises(NoRoomError, match="the store is too slow"):
            await here.receive(late)
    assert here.board.instances == 2
    await here.indexed()
    assert {digest for _, digest in (await here.rows()).values()} == {o.digest.hex() for o in (first, second, late)}
    assert len(here.published()) == 3


async def test_an_index_started_again_after_a_crash_serves_what_still_waits(
    here: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(_batch: object) -> list[Recorded]:
        raise RuntimeError("crash")

    (one,) = tiny(1)
    await here.receive(one)
    with monkeypatch.context() as patch:
        patch.setattr(here.store, "record", crash)
        with pytest.raises(RuntimeError, match="crash"):
            await here.index.run()
    here.start_index()
    await until(lambda: not here.board.unindexed)
    assert len(await here.queued()) == 1


# recovery


async def test_what_was_answered_and_not_yet_indexed_is_indexed_at_the_next_start(tmp_path: Path) -> None:
    objects = tiny(5)
    async with box(tmp_path) as before:
        sealed = [await before.receive(one) for one in objects]
    async with box(tmp_path) as after:
        await after.recover()
        assert await after.rows() == {i.id: ("stored", i.digest.hex()) for i in sealed}
        assert await after.queued() == [i.id for i in sealed]
        assert after.published() == [i.id for i in sealed]
        assert after.spool.waiting() == []
        assert after.codes() == []
        (row,) = await after.store.reading.trace(objects[0].sop_instance_uid)
        assert (row.study_uid, row.modality, row.calling) == (objects[0].study_uid, "OT", "CT1")
        parcels = await after.store.claim("pacs", 9)
        assert [p.path.read_bytes()[p.offset :] for p in parcels] == [one.dataset for one in objects]


async def test_deliveries_go_where_they_were_routed_when_the_object_came(tmp_path: Path) -> None:
    legs = (Leg("pacs", 1, needs_proof=True), Leg("cloud", 0, needs_proof=False))
    async with box(tmp_path) as before:
        before.door._destinations = 2

        class Then(Routing):
            def legs(self, *_: object) -> tuple[Leg, ...]:
                return legs

        before.door._routing = Then(TO_PACS, class_names)
        await before.receive(tiny(1)[0])
    async with box(tmp_path) as after:
        await after.recover()
        asked = "SELECT destination, priority, needs_proof FROM delivery ORDER BY id"
        found = await after.store.reading.run(lambda raw: raw.execute(asked).fetchall())
        assert found == [("pacs", 1, 1), ("cloud", 0, 0)]


async def test_what_was_never_sealed_was_never_answered_and_goes(tmp_path: Path) -> None:
    one, other = ct(2)
    async with box(tmp_path) as before:
        unsealed = before.begin(one)
        await before.fill(unsealed, one)
        await unsealed.part.catch_up()
        before.begin(other)
        unsealed.part.close()
        whole = await before.receive(other)
        torn = before.spool.part_path(whole.id)
        data = bytearray(torn.read_bytes())
        data[data.index(b'"door"') + 1] ^= 1
        torn.write_bytes(data)
        (before.spool.incoming / f"{whole.id + 1}.part").write_bytes(bytes(data[:200]))
    async with box(tmp_path) as after:
        assert len(after.spool.waiting()) == 4
        await after.recover()
        assert after.files() == {}
        assert await after.rows() == {}
        assert after.codes() == []


@pytest.mark.parametrize("damage", ["flipped", "short", "long"])
async def test_a_good_seal_over_damaged_bytes_is_set_aside_and_said_never_dropped(tmp_path: Path, damage: str) -> None:
    (one,) = tiny(1)
    async with box(tmp_path) as before:
        sealed = await before.receive(one)
        path = before.spool.part_path(sealed.id)
        data = path.read_bytes()
        path.write_bytes({"flipped": data[:-1] + b"\xff", "short": data[:-1], "long": data + b"\0"}[damage])
        damaged = path.read_bytes()
    async with box(tmp_path) as after:
        await after.recover()
        assert await after.rows() == {}
        name = f"quarantine/{sealed.id}"
        assert set(after.files()) == {f"{name}.dcm", f"{name}.json"}
        assert after.files()[f"{name}.dcm"] == damaged
        assert f"{sealed.id}.part" in json.loads(after.files()[f"{name}.json"])["why"]
        assert after.codes() == ["QUARANTINED"]


async def test_a_seal_of_another_version_was_answered_and_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box(tmp_path) as before:
        with monkeypatch.context() as patch:
            patch.setattr(msgspec.json, "encode", lambda _: b'{"version":2,"made":"by a newer program"}')
            sealed = await before.receive(tiny(1)[0])
    async with box(tmp_path) as after:
        await after.recover()
        assert f"quarantine/{sealed.id}.dcm" in after.files()
        assert after.codes() == ["QUARANTINED"]


async def test_a_published_file_without_a_row_gets_its_row_from_its_seal(tmp_path: Path) -> None:
    async with box(tmp_path) as before:
        sealed = await before.receive(tiny(1)[0])
        before.spool.publish(sealed.id)
        files = before.files()
    async with box(tmp_path) as after:
        await after.recover()
        assert await after.rows() == {sealed.id: ("stored", sealed.digest.hex())}
        assert await after.queued() == [sealed.id]
        assert after.files() == files


async def test_a_row_whose_rename_did_not_last_gets_its_file_back(tmp_path: Path) -> None:
    async with box(tmp_path) as before:
        sealed = [await before.receive(one) for one in tiny(3)]
        await before.indexed()
        for one in sealed:
            before.spool.path(one.id).rename(before.spool.part_path(one.id))
    async with box(tmp_path) as after:
        await after.recover()
        assert after.published() == [one.id for one in sealed]
        assert {state for state, _ in (await after.rows()).values()} == {"stored"}
        assert after.codes() == []


async def test_a_row_without_a_file_is_lost_and_that_is_said_at_every_start(tmp_path: Path) -> None:
    lost, kept = tiny(2)
    async with box(tmp_path) as before:
        ids = [(await before.receive(one)).id for one in (lost, kept)]
        await before.indexed()
        before.spool.unpublish(ids[0])
    for _ in range(2):
        async with box(tmp_path) as after:
            await after.recover()
            assert [state for state, _ in (await after.rows()).values()] == ["lost", "stored"]
            assert after.codes() == ["LOST"]
            assert f"object {ids[0]}" in after.finding("LOST")
            (row,) = await after.store.reading.trace(str(ids[0]))
            assert [step.event for step in row.trail].count("lost") == 1


async def test_sending_a_lost_object_again_is_the_cure(tmp_path: Path) -> None:
    (one,) = tiny(1)
    async with box(tmp_path) as before:
        first = await before.receive(one)
        await before.indexed()
        before.spool.unpublish(first.id)
    async with box(tmp_path) as after:
        await after.recover()
    async with box(tmp_path) as again:
        second = await again.receive(one)
        await again.indexed()
        assert again.published() == [second.id]
        assert await again.queued() == [first.id, second.id]


@pytest.mark.parametrize("harm", ["removed", "changed", "cut", "unreadable"])
async def test_an_object_sent_again_is_the_cure_where_the_stored_file_is_not_what_it_was_and_nobody_knew(
    tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = tiny(1)
    async with box(tmp_path) as before:
        first = await before.receive(one)
        await before.indexed()
        path = before.spool.path(first.id)
    if harm == "removed":
        path.unlink()
    elif harm == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    elif harm == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        monkeypatch.setattr("edge.intake.soundness.examine", broken)
    async with box(tmp_path) as here:
        second = await here.receive(one)
        await here.indexed()
        assert here.spool.path(second.id).read_bytes()[second.offset :] == one.dataset
        states = {number: state for number, (state, _) in (await here.rows()).items()}
        gone = "quarantined" if harm in {"changed", "cut"} else "lost"
        assert states == {first.id: gone, second.id: "stored"}
        assert second.id in await here.queued()
        code = {"removed": "LOST", "unreadable": "STORAGE_ERROR"}.get(harm, "DAMAGED_FILE")
        assert here.codes() == [code]


def broken(_path: Path) -> None:
    raise error(errno.EIO)


async def test_one_file_that_cannot_be_deleted_keeps_no_object_from_being_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = tiny(3)
    async with box(tmp_path) as before:
        ids = [(await before.receive(one)).id for one in objects]
        before.start_index()
        await until(lambda: not before.board.unindexed)
        await before.store.decide("cancel", Choice(), who="test", reason="test")
        assert await before.store.expire(ids[:1], "test") == ids[:1]
        orphan = (await before.receive(tiny(4)[3])).id
    async with box(tmp_path) as after:
        monkeypatch.setattr(after.spool, "delete", lambda _ids: broken(tmp_path))
        await after.recover()
        assert orphan in after.published()
        assert orphan in await after.queued()
        assert after.codes() == ["STORAGE_ERROR"]


async def test_a_recovery_that_is_hindered_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "_FIRST_PAUSE", 0.0)
    (one,) = tiny(1)
    async with box(tmp_path) as before:
        sealed = await before.receive(one)
    async with box(tmp_path) as after:
        waiting, calls = after.spool.waiting, Counter[str]()

        def once_broken() -> list[int]:
            calls["waiting"] += 1
            if calls["waiting"] == 1:
                raise error(errno.EIO)
            return waiting()

        monkeypatch.setattr(after.spool, "waiting", once_broken)
        await after.recover()
        assert after.published() == [sealed.id]
        assert after.codes() == ["STORAGE_ERROR"]


async def test_a_spare_left_by_a_crash_after_its_commit_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = tiny(1)
    async with box(tmp_path) as before:
        monkeypatch.setattr(before.index, "_unpublish", lambda _ids: None)
        first, spare = await before.receive(one), await before.receive(one)
        await before.indexed()
        assert before.published() == [first.id, spare.id]
    async with box(tmp_path) as after:
        await after.recover()
        assert after.published() == [first.id]
        assert list(await after.rows()) == [first.id]
        assert await after.queued() == [first.id]


async def test_recovering_again_changes_nothing(tmp_path: Path) -> None:
    objects = tiny(6)
    async with box(tmp_path) as before:
        sealed = [await before.receive(one) for one in objects]
        before.spool.publish(sealed[0].id)
        damaged = before.spool.part_path(sealed[1].id)
        damaged.write_bytes(damaged.read_bytes()[:-1])
        begun = before.begin(objects[0])
        begun.part.close()
    seen = []
    for _ in range(3):
        async with box(tmp_path) as after:
            await after.recover()
            seen.append((await after.rows(), await after.queued(), after.files(), await after.trail()))
    assert len(seen[0][0]) == 5
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]


async def test_recovery_leaves_alone_what_this_session_receives(tmp_path: Path) -> None:
    old, halfway, unindexed = ct(3)
    async with box(tmp_path) as before:
        first = await before.receive(old)
    async with box(tmp_path) as after:
        incoming = after.begin(halfway)
        await after.fill(incoming, halfway)
        second = await after.receive(unindexed)
        await after.scan()
        third = await after.door.finish(incoming)
        await after.indexed()
        assert list(await after.rows()) == [first.id, third.id, second.id]
        assert after.codes() == []


async def test_a_file_that_cannot_be_read_keeps_no_other_waiting(tmp_path: Path) -> None:
    objects = tiny(4)
    async with box(tmp_path) as before:
        sealed = [await before.receive(one) for one in objects]
        before.spool.publish(sealed[2].id)
        (before.spool.incoming / "1.part").mkdir()
        (before.spool.ready / "00" / "2.dcm").mkdir()
        misplaced = before.spool.ready / "ff" / f"{sealed[3].id}.dcm"
        before.spool.part_path(sealed[3].id).rename(misplaced)
    async with box(tmp_path) as after:
        await after.recover()
        assert list(await after.rows()) == [one.id for one in sealed[:3]]
        assert misplaced.exists()
        assert after.codes() == ["STORAGE_ERROR"]


@pytest.mark.parametrize("where", ["incoming", "ready"])
async def test_a_file_under_another_ones_number_does_not_stop_the_index(tmp_path: Path, where: str) -> None:
    (one,) = tiny(1)
    async with box(tmp_path) as before:
        sealed = await before.receive(one)
        await before.indexed()
        number = sealed.id + 1
        copy = before.spool.part_path(number) if where == "incoming" else before.spool.path(number)
        copy.write_bytes(before.spool.path(sealed.id).read_bytes())
    async with box(tmp_path) as after:
        await after.scan()
        await after.receive(tiny(1)[0])
        await after.indexed()
        assert len(await after.rows()) == 2
        assert after.codes() == ["QUARANTINED"]
        assert after.board.intake_open


async def test_where_the_database_was_made_anew_files_are_indexed_in_order_of_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box(tmp_path) as before:
        ids = [(await before.receive(one)).id for one in tiny(5)]
        await before.indexed()
    shutil.rmtree(tmp_path / "db")
    monkeypatch.setattr(Spool, "published", lambda _: iter(reversed(ids)))
    async with box(tmp_path) as here:
        first = here.identity.first_id
        recovery = Recovery(
            here.spool,
            here.syncer,
            here.store,
            here.index,
            Routing(TO_PACS, class_names),
            here.journal,
            first,
            everything=True,
        )
        await recovery.run()
        await here.indexed()
        assert [number for number, event, _ in await here.trail() if event == "received"] == ids


def test_files_that_could_be_listed_are_indexed_before_the_error_is_told() -> None:
    def published() -> Iterator[int]:
        yield from (3, 1, 2)
        raise error(errno.EIO)

    files = recovering._in_order(published())
    assert [next(files) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(OSError, match="Input/output"):
        next(files)


async def test_nothing_to_recover_is_nothing_done(here: Box) -> None:
    await here.recover()
    assert await here.rows() == {}
    assert here.codes() == []
