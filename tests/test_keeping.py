"""What happens to objects that lie: kept while anybody needs them, deleted when nobody does, checked in between."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edge.app import Appliance
from edge.board import Board
from edge.clock import SystemClock, kernel_synchronised
from edge.config import Config, Storage
from edge.findings import Journal
from edge.intake.admission import Admission, margin, reserve
from edge.intake.guard import DiskGuard
from edge.intake.soundness import Soundness
from edge.keeping.audit import Audit
from edge.keeping.retention import Retention
from edge.keeping.timekeeper import Timekeeper, latest
from edge.model import Kind
from edge.spool import Ballast, FolderError, Free, Ledger, Spool, Syncer, doubts
from edge.spool import ballast as ballasting
from edge.spool.ballast import LENGTH
from edge.states import DeliveryState
from edge.store import Choice, Settlement, Store, Stored
from edge.store.connection import FILE
from tests.appliance import Edge, dimse
from tests.fakes import ManualClock, evidence_of
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.test_store import instance, leg

S = DeliveryState
DAY = 86_400.0


class Box:
    """Store, spool and retention on one path, with objects whose files are empty."""

    def __init__(self, root: Path, store: Store, spool: Spool, syncer: Syncer, clock: ManualClock) -> None:
        self.store, self.spool, self.clock, self.root = store, spool, clock, root
        self.journal = Journal(clock)
        self.short = False
        self.ballast = Ballast(root)
        self.retention = Retention(
            spool,
            syncer,
            store,
            self.ballast,
            self.journal,
            clock,
            keep=3 * DAY,
            keep_trail=400 * DAY,
            short=lambda: self.short,
        )

    async def lie(self, number: int, *states: DeliveryState, proof: bool = False) -> None:
        """One object with a delivery in each of ``states``."""
        legs = [leg(f"d{at}", proof=proof) for at in range(len(states))]
        await self.store.record([(instance(number), legs)])
        self.spool.path(number).write_bytes(b"")
        for at, state in enumerate(states):
            if state is S.CANCELLED:
                await self.store.decide("cancel", Choice(destination=f"d{at}", uid=str(number)), who="test", reason="x")
            elif state is not S.QUEUED:
                (parcel,) = await self.store.claim(f"d{at}", 1)
                assert parcel.instance == number
                await self.settle(parcel.delivery, number, f"d{at}", state)

    async def settle(self, delivery: int, number: int, destination: str, state: DeliveryState) -> None:
        await self.store.settle(
            [
                Settlement(
                    delivery=delivery,
                    instance=number,
                    destination=destination,
                    state=state,
                    code="0000",
                    evidence=evidence_of(state),
                )
            ]
        )

    def there(self) -> set[int]:
        return set(self.spool.published())

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, as the appliance does: a look now and then."""
        for _ in range(4):
            self.clock.pass_time(seconds / 4)
            await self.retention.sweep()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    clock, syncer = ManualClock(), Syncer()
    spool = Spool(tmp_path, syncer)
    spool.open()
    store = await Store.open(tmp_path, clock, 1, spool.path)
    committing = asyncio.create_task(store.run())
    yield Box(tmp_path, store, spool, syncer, clock)
    store.finish()
    await committing
    await store.close()
    spool.close()
    syncer.close()


@pytest.mark.parametrize(
    ("states", "proof", "goes"),
    [
        ((S.ACCEPTED,), False, True),
        ((S.ACCEPTED,), True, False),
        ((S.VERIFIED,), True, True),
        ((S.DECLINED,), True, True),
        ((S.CANCELLED,), True, True),
        ((S.QUEUED,), False, False),
        ((S.HELD,), False, False),
        ((S.ACCEPTED, S.QUEUED), False, False),
        ((S.ACCEPTED, S.ACCEPTED), False, True),
        ((S.SENDING,), False, False),
        ((), False, False),
    ],
)
@pytest.mark.parametrize("pressed", [False, True])
async def test_only_what_every_destination_has_is_ever_deleted(
    *, states: tuple[DeliveryState, ...], proof: bool, goes: bool, pressed: bool, box: Box
) -> None:
    if states == (S.SENDING,):
        await box.lie(1, S.QUEUED)
        assert await box.store.claim("d0", 1)
    else:
        await box.lie(1, *states, proof=proof)
    if pressed:
        box.short = True
        await box.retention.sweep()
    else:
        await box.pass_time(3 * DAY + 1200)
    assert box.there() == (set() if goes else {1})
    assert (await box.store.states([1]))[1] == ("expired" if goes else "stored")


async def test_nothing_goes_before_its_time_and_the_trail_stays_longer(box: Box) -> None:
    await box.lie(1, S.ACCEPTED)
    await box.pass_time(3 * DAY - 1200)
    assert box.there() == {1}
    await box.pass_time(2400)
    assert box.there() == set()
    (row,) = await box.store.reading.trace("1.2.3.1")
    assert (row.state, row.trail[-1].event, row.trail[-1].detail) == (
        "expired",
        "deleted",
        "kept as long as configured",
    )
    await box.pass_time(399 * DAY)
    assert await box.store.reading.trace("1.2.3.1")
    await box.pass_time(2 * DAY)
    assert await box.store.reading.trace("1.2.3.1") == []
    assert all(t.instances == 0 for t in (await box.store.reading.tallies()).values())


@pytest.mark.parametrize("jump", [-50 * 365 * DAY, -DAY, 365 * DAY])
async def test_a_wall_clock_that_jumps_deletes_nothing(jump: float, box: Box) -> None:
    await box.lie(1, S.ACCEPTED)
    box.clock.wall += jump
    await box.pass_time(DAY)
    assert box.there() == {1}


async def test_a_person_who_wants_it_sent_again_keeps_it(box: Box) -> None:
    await box.lie(1, S.ACCEPTED)
    await box.store.decide("resend", Choice(uid="1"), who="test")
    await box.pass_time(4 * DAY)
    assert box.there() == {1}
    (parcel,) = await box.store.claim("d0", 1)
    await box.settle(parcel.delivery, 1, "d0", S.ACCEPTED)
    await box.pass_time(2 * DAY)
    assert box.there() == {1}, "its time begins anew"
    await box.pass_time(2 * DAY)
    assert box.there() == set()
    assert await box.store.decide("resend", Choice(uid="1"), who="test") == 0, "what is deleted cannot be sent"


async def test_short_of_room_the_oldest_go_first_and_only_until_there_is_room(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        await box.lie(number, S.ACCEPTED)
        await box.pass_time(120)
    monkeypatch.setattr("edge.keeping.retention._AT_ONCE", 1)
    looks = iter([True, False])
    monkeypatch.setattr(box.retention, "_short", lambda: next(looks, False))
    await box.retention.sweep()
    assert box.there() == {2, 3}
    (row,) = await box.store.reading.trace("1.2.3.1")
    assert row.trail[-1].detail == "room was short"


async def test_short_of_room_what_was_refused_goes_and_what_was_answered_stays(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, note in ((1, b'{"why":"x","answered":"A900"}'), (2, b'{"why":"x"}')):
        box.spool.part_path(number).write_bytes(b"")
        box.spool.set_aside(number, note)
    await box.retention.sweep()
    assert len(list(box.spool.quarantine.iterdir())) == 4
    looks = iter([True, True])
    monkeypatch.setattr(box.retention, "_short", lambda: next(looks, False))
    await box.retention.sweep()
    assert sorted(path.name for path in box.spool.quarantine.iterdir()) == ["2.dcm", "2.json"]


async def test_a_tombstone_whose_file_could_not_be_unlinked_is_no_longer_sent_or_counted(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.lie(1, S.ACCEPTED)

    def fail(_ids: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(box.spool, "delete", fail)
    with pytest.raises(OSError, match="Input/output"):
        await box.pass_time(4 * DAY)
    assert (await box.store.states([1]))[1] == "expired"
    assert box.there() == {1}, "the next start deletes it"


@pytest.mark.parametrize("configured", [0, 1 << 20, LENGTH - 1])
def test_what_the_ballast_gives_back_is_no_room_for_objects(configured: int) -> None:
    """A disk of 32 MiB, full to the last byte, whose ballast went overboard."""
    total = 32 << 20
    ledger = Ledger(lambda: Free(LENGTH, 1 << 20), reserve(configured, total), margin(total))
    assert ledger.full()
    assert not ledger.ample()
    assert ledger.begin() is None


def test_the_reserve_is_what_was_asked_for_where_that_is_enough() -> None:
    assert reserve(5 << 20, 1 << 40) == 5 << 20
    assert reserve(None, 1 << 40) == 2 << 30
    assert reserve(None, 1 << 30) == (1 << 30) // 10
    assert reserve(None, 32 << 20) == LENGTH


def test_the_appliance_keeps_that_much(tmp_path: Path) -> None:
    appliance = Appliance(Config(storage=Storage(path=tmp_path, reserve=0)))
    appliance._spool.open()
    assert appliance._ledger().reserve == LENGTH
    appliance._spool.close()


async def test_the_ballast_is_there_while_there_is_room_and_goes_overboard_once(box: Box) -> None:
    await box.retention.sweep()
    assert (box.root / "ballast").stat().st_size == ballasting.LENGTH
    assert box.ballast.drop()
    assert not box.ballast.drop()


# the ledger


def test_room_is_promised_once_and_no_more_than_there_is() -> None:
    free = Free(10 << 20, 1000)
    ledger = Ledger(lambda: free, 8 << 20)
    one, two = ledger.begin(), ledger.begin()
    assert one is not None
    assert two is not None
    assert ledger.room() == (2 << 20) - one.granted - two.granted
    assert one.extend(1 << 20)
    assert not two.extend(1 << 20), "the first has it"
    one.release()
    assert two.extend(1 << 20)


def test_what_is_written_is_not_counted_twice() -> None:
    free = [10 << 20]
    ledger = Ledger(lambda: Free(free[0], 1000), 8 << 20)
    one = ledger.begin()
    assert one is not None
    assert one.extend(1 << 20)
    before = ledger.room()
    free[0] -= 1 << 20
    one.written = 1 << 20
    assert ledger.room() == before


@pytest.mark.parametrize("free", [Free(8 << 20, 1000), Free(1 << 30, 3)])
def test_no_room_or_no_inodes_is_no_beginning(free: Free) -> None:
    assert Ledger(lambda: free, 8 << 20).begin() is None


# the guard


async def guarded(tmp_path: Path, clock: ManualClock) -> tuple[DiskGuard, Admission, Spool]:
    syncer, journal = Syncer(), Journal(clock)
    spool = Spool(tmp_path, syncer)
    spool.open()
    admission = Admission(Board(clock), journal, clock, Ledger(lambda: Free(1 << 40, 1 << 20), 0))
    admission.open("starting")
    return DiskGuard(spool, syncer, admission, journal, clock), admission, spool


EIO = OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("errors", "closes"),
    [
        ([EIO], False),
        ([EIO, EIO], True),
        ([OSError(30, "Read-only file system")], True),
        ([FolderError(5, "Input/output error")], True),
        ([OSError(24, "Too many open files")] * 5, False),
    ],
)
async def test_one_error_fails_its_object_and_a_second_closes_intake(
    *, errors: list[OSError], closes: bool, tmp_path: Path
) -> None:
    guard, admission, _ = await guarded(tmp_path, ManualClock())
    for error in errors:
        guard.failed(error)
    assert (admission.refusal() is not None) is closes


async def test_two_errors_a_day_apart_close_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    guard, admission, _ = await guarded(tmp_path, clock)
    guard.failed(EIO)
    clock.pass_time(2 * DAY)
    guard.failed(EIO)
    assert admission.refusal() is None


async def test_intake_opens_again_when_the_disk_proves_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard, admission, spool = await guarded(tmp_path, ManualClock())
    monkeypatch.setattr("edge.intake.guard._FIRST_PAUSE", 0.01)
    tries = iter([EIO, None])
    probe = spool.probe

    def flaky() -> None:
        if (error := next(tries)) is not None:
            raise error
        probe()

    monkeypatch.setattr(spool, "probe", flaky)
    guard.failed(EIO)
    guard.failed(EIO)
    running = asyncio.create_task(guard.run())
    async with asyncio.timeout(10):
        while admission.refusal() is not None:  # noqa: ASYNC110 - the gate tells nobody when it opens
            await asyncio.sleep(0.01)
    running.cancel()
    assert next(tries, "both were used") == "both were used"


# the clock


@pytest.mark.rig
def test_a_counter_that_is_wrong_holds_up_no_delivery(tmp_path: Path) -> None:
    study = mr(5)
    with RawReceiver() as pacs:
        pacs.stop()
        with Edge(tmp_path, dimse("pacs", pacs.port)) as edge:
            assert [send(edge, one) for one in study] == [0] * 5
            wait_for(lambda: edge.tally("pacs") == {"queued": 5}, 10, "they are queued")
            edge.stop()
            with closing(sqlite3.connect(edge.storage / "db" / FILE)) as raw:
                raw.execute("UPDATE tally SET instances = 2, bytes = 2 WHERE destination = 'pacs'")
                raw.commit()
            pacs.start()
            edge.start()
            edge.wait_settled("pacs", {"accepted": 5})
            assert "DATABASE_MENDED" in {f["code"] for f in edge.json("status")["findings"]}
            assert {r.digest for r in pacs.received} == {o.wire_digest for o in study}


class Kept(list[str]):
    async def __call__(self, text: str) -> None:
        self.append(text)


async def test_a_jump_is_said_and_a_wrong_time_too() -> None:
    clock = ManualClock()
    journal = Journal(clock)
    keeper = Timekeeper(clock, journal, Kept())
    await keeper.look()
    clock.pass_time(60)
    await keeper.look()
    assert [f.code for f in journal.open()] == []
    clock.wall += DAY
    await keeper.look()
    assert [f.code for f in journal.open()] == ["CLOCK_JUMPED"]
    clock.believed = False
    await keeper.look()
    assert "CLOCK_WRONG" in {f.code for f in journal.open()}
    clock.believed = True
    await keeper.look()
    assert "CLOCK_WRONG" not in {f.code for f in journal.open()}


async def test_a_time_is_kept_once_it_has_held_for_an_hour_and_never_one_that_was_there_for_a_moment() -> None:
    clock, kept = ManualClock(), Kept()
    keeper = Timekeeper(clock, Journal(clock), kept)
    for _ in range(59):
        await keeper.look()
        clock.pass_time(60)
    assert kept == []
    clock.wall += 12 * 365 * DAY
    await keeper.look()
    clock.pass_time(60)
    clock.wall -= 12 * 365 * DAY
    for _ in range(59):
        await keeper.look()
        clock.pass_time(60)
    assert kept == []
    clock.pass_time(60.9)
    await keeper.look()
    assert kept == [str(int(clock.now()))], "and never later than it is"


def test_a_synchronised_clock_is_believed_whatever_has_been(tmp_path: Path) -> None:
    ahead = 4102444800.0
    assert not SystemClock(ahead).trusted()
    assert SystemClock(ahead, lambda: True).trusted()
    assert not SystemClock(ahead, lambda: False).trusted()
    assert isinstance(kernel_synchronised(), bool)
    assert not list(tmp_path.iterdir())


def test_a_clock_that_says_less_than_what_has_been_is_not_believed(tmp_path: Path) -> None:
    assert latest(tmp_path) == 0
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "time").write_text("4102444800\n")
    assert not SystemClock(latest(tmp_path)).trusted()
    assert SystemClock().trusted()


# the audit, and the appliance as a whole


@pytest.mark.rig
def test_a_stored_file_that_rots_is_set_aside_and_the_same_image_is_then_taken_as_new(tmp_path: Path) -> None:
    (one,) = mr(1)
    with RawReceiver() as pacs:
        pacs.stop()
        with Edge(tmp_path, dimse("pacs", pacs.port)) as edge:
            assert send(edge, one) == 0
            wait_for(lambda: edge.tally("pacs") == {"queued": 1}, 10, "it is indexed")
            (path,) = edge.spooled()
            data = bytearray(path.read_bytes())
            data[-5] ^= 1
            path.write_bytes(data)
            asyncio.run(audit_once(edge.storage))
            assert edge.spooled() == []
            assert (edge.storage / "quarantine" / path.name).read_bytes() == data
            assert edge.tally("pacs") == {"held": 1}
            (trace,) = edge.json("trace", one.sop_instance_uid)
            assert trace["state"] == "quarantined"
            pacs.start()
            assert send(edge, one) == 0
            edge.wait_settled("pacs", {"accepted": 1, "held": 1})
        assert [r.digest for r in pacs.accepted] == [one.wire_digest]


@pytest.mark.rig
def test_a_damaged_file_that_was_not_moved_yet_is_moved_at_the_next_start(tmp_path: Path) -> None:
    (one,) = mr(1)
    with Edge(tmp_path) as edge:
        assert send(edge, one) == 0
        wait_for(lambda: edge.json("trace", one.sop_instance_uid), 10, "it is indexed")
        edge.stop()
        (path,) = edge.spooled()
        with closing(sqlite3.connect(edge.storage / "db" / FILE)) as raw:
            raw.execute("UPDATE instance SET state = 'quarantined'")
            raw.commit()
        edge.start()
        wait_for((edge.storage / "quarantine" / path.name).exists, 10, "it is set aside")
        assert edge.spooled() == []


@pytest.mark.rig
def test_a_row_that_differs_from_a_sound_file_is_corrected(tmp_path: Path) -> None:
    (one,) = mr(1)
    with Edge(tmp_path) as edge:
        assert send(edge, one) == 0
        wait_for(lambda: edge.json("trace", one.sop_instance_uid), 10, "it is indexed")
        edge.stop()
        with closing(sqlite3.connect(edge.storage / "db" / FILE)) as raw:
            raw.execute("UPDATE instance SET digest = zeroblob(32), sop_instance_uid = '1.2.3'")
            raw.commit()
        asyncio.run(audit_once(edge.storage))
        (trace,) = edge.json("trace", one.sop_instance_uid)
        assert trace["sha256"] == one.digest.hex()
        assert trace["trail"][-1]["event"] == "amended"


async def test_a_file_that_cannot_be_read_keeps_no_other_from_being_looked_at() -> None:
    clock = ManualClock()
    journal = Journal(clock)
    row = Stored(id=1, kind=Kind("1.3", "1.4"), sop_instance_uid="1.2", digest=b"", length=0, offset=0)
    marks, seen = list[int](), list[int]()

    class Three:
        async def next_to_audit(self, _most: int) -> list[Stored]:
            return [msgspec.structs.replace(row, id=n) for n in (1, 2, 3)]

        async def audited(self, last: int) -> None:
            marks.append(last)

    class Sight:
        async def check(self, number: int) -> None:
            seen.append(number)
            if number == 2:
                raise EIO

    audit = Audit(Sight(), Three(), journal, lambda: 1 << 50)  # type: ignore[arg-type]
    assert await audit.batch() == 3
    assert (seen, marks) == ([1, 2, 3], [3])
    assert [f.code for f in journal.open()] == ["STORAGE_ERROR"]


async def audit_once(storage: Path) -> None:
    """Check every file, as an appliance does in a month."""
    clock, syncer = SystemClock(), Syncer()
    spool = Spool(storage, syncer)
    store = await Store.open(storage, clock, 1 << 30, spool.path)
    committing = asyncio.create_task(store.run())
    try:
        journal = Journal(clock)
        audit = Audit(Soundness(spool, syncer, store, journal), store, journal, lambda: 1 << 50)
        assert await audit.batch() == 1
        assert await audit.batch() == 0, "and then it begins anew"
    finally:
        store.finish()
        await committing
        await store.close()
        syncer.close()


def send(edge: Edge, one: DicomObject) -> int:
    with RawSender(edge.port) as sender:
        sender.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
        status = sender.store(one)
        sender.release()
    return status


@pytest.mark.rig
def test_what_was_delivered_is_deleted_and_its_trail_tells(tmp_path: Path) -> None:
    study = mr(5)
    with RawReceiver() as pacs, Edge(tmp_path, dimse("pacs", pacs.port), store='keep_delivered = "0s"') as edge:
        for one in study:
            assert send(edge, one) == 0
        edge.wait_settled("pacs", {"accepted": 5})
        wait_for(lambda: edge.spooled() == [], 10, "the files are deleted")
        (trace,) = edge.json("trace", study[0].sop_instance_uid)
        assert trace["state"] == "expired"
        assert [step["event"] for step in trace["trail"]] == ["received", "accepted", "deleted"]
        failed = edge.command("retry", study[0].sop_instance_uid, "--force", check=False)
        assert "No delivery was found" in failed.stderr
        assert edge.tally("pacs") == {"accepted": 5}


@pytest.mark.rig
def test_a_tombstone_whose_file_is_left_is_cleared_away_at_the_next_start(tmp_path: Path) -> None:
    (one,) = mr(1)
    with RawReceiver() as pacs, Edge(tmp_path, dimse("pacs", pacs.port)) as edge:
        assert send(edge, one) == 0
        edge.wait_settled("pacs", {"accepted": 1})
        edge.stop()
        with closing(sqlite3.connect(edge.storage / "db" / FILE)) as raw:
            raw.execute("UPDATE instance SET state = 'expired', expired_at = 0")
            raw.commit()
        assert edge.spooled()
        edge.start()
        wait_for(lambda: edge.spooled() == [], 10, "the file is deleted")
        assert [r.digest for r in pacs.accepted] == [one.wire_digest]


# what it lies on


MOUNTS = """/dev/mmcblk0p2 / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sda1 /mnt/stick vfat rw 0 0
/dev/sdb1 /mnt/no\\040flush ext4 rw,nobarrier 0 0
/dev/sdc1 /mnt/bare ext4 rw 0 0
server:/x /mnt/far nfs4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/var/lib/edge", ""),
        ("/tmp/edge", "in memory"),
        ("/mnt/stick/edge", "vfat without a journal"),
        ("/mnt/no flush/edge", "nobarrier"),
        ("/mnt/bare/edge", "ext4 without a journal"),
        ("/mnt/far/edge", "another machine"),
    ],
)
def test_what_the_file_system_does_not_promise_is_said(path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    for device, task in (("mmcblk0p2", "123"), ("sdb1", "124"), ("sdc1", "<none>")):
        (tmp_path / device).mkdir()
        (tmp_path / device / "journal_task").write_text(f"{task}\n")
    found = doubts(Path(path), tmp_path / "mounts", tmp_path)
    assert bool(found) is bool(said)
    assert said in "".join(found)
