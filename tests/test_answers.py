"""Reports to modalities: who is called where, what is over, what is tried again, and that nobody waits for another."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from edge.config import Modality, ReportTo
from edge.dicom.requestor import Address
from edge.findings import Journal
from edge.forward import answers as answering
from edge.forward.answers import GRACE, Answers, address_of
from edge.model import Reference
from edge.store import Answer, StoreError
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.scanner import Scanner
from tests.stored import CT, Request, Stored, instance, leg, references

MINUTE: Final = 60.0
DAY: Final = 86_400.0


def modality(title: str, port: int, *, host: str | None = LOOPBACK, address: str | None = None) -> Modality:
    return Modality(
        name=title,
        ae_title=title,
        address=address,
        commitment=ReportTo(host=host, port=port, ae_title=title),
    )


class Desk:
    """What answers modalities, on a clock of its own; calls go over real sockets."""

    def __init__(self, box: Stored, *modalities: Modality, random: float = 1.0) -> None:
        self.box, self.clock, self._modalities, self._random = box, box.clock, modalities, random
        self.journal = Journal(self.clock)
        self.on_record = True
        self.answers = self.made()

    def made(self) -> Answers:
        return Answers(
            self._modalities,
            "stored",
            DAY,
            self.box.store,
            self.journal,
            self.clock,
            lambda: self._random,
            lambda: self.on_record,
        )

    async def promise(self, *wanted: int, uid: str = "1.7", calling: str = "CT1") -> None:
        asked = tuple(Reference(CT, reference.sop_instance_uid) for reference in references(*wanted))
        await self.box.store.promise(calling, "EDGE", "10.0.0.7", Request(uid, asked))

    async def turns(self, seconds: float = 0.0) -> None:
        """Let time pass, and take turns until nobody is called."""
        self.clock.pass_time(seconds)
        async with asyncio.timeout(30):
            while await self.answers.turn() or self.answers._calls:
                pass

    async def until(self, happened: Callable[[], bool]) -> None:
        """Take turns until it happened."""
        async with asyncio.timeout(30):
            while not happened():
                await self.answers.turn()

    async def until_over(self) -> None:
        """Wait until somebody else's turns have put the report on record as taken."""
        async with asyncio.timeout(30):
            while True:
                if (await self.row())[0] == "reported":
                    return
                await asyncio.sleep(0.01)

    async def pass_minutes(self, minutes: int) -> None:
        for _ in range(minutes):
            await self.box.store.tick(MINUTE)
            await self.turns(MINUTE)

    async def row(self, uid: str = "1.7") -> tuple[str, int, str]:
        """State, tries and note of the promise."""
        ((state, tries, note),) = await self.box.rows(
            "SELECT state, tries, note FROM promise WHERE transaction_uid = ?", uid
        )
        return state, tries, note

    def undelivered(self) -> list[str]:
        return [finding.text for finding in self.journal.open() if finding.code == "REPORT_UNDELIVERED"]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        await opened.receive(instance(1), instance(2), to=[leg(proof=False)])
        yield opened


@contextmanager
def mute() -> Iterator[int]:
    """The port of one who takes connections and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


# delivered


async def test_a_report_is_delivered_once_and_is_over(box: Stored) -> None:
    with Scanner() as scanner:
        desk = Desk(box, modality("CT1", scanner.port))
        await desk.promise(1, 2)
        await desk.turns()
        (heard,) = scanner.heard
        await desk.turns(DAY)
    assert (heard.report.transaction_uid, heard.report.committed_uids) == ("1.7", ["1.2.3.1", "1.2.3.2"])
    assert (heard.calling, heard.called, heard.anew, heard.roles) == ("EDGE", "CT1", True, (False, True))
    assert len(scanner.heard) == 1
    assert await desk.row() == ("reported", 0, "")
    assert (await box.trail(1))[-1] == ("report-taken", "1.7")


@pytest.mark.parametrize("status", [0x0113, 0x0211, 0x0118])
async def test_a_report_that_is_refused_as_such_is_over_and_the_trail_says_so(status: int, box: Stored) -> None:
    with Scanner() as scanner:
        scanner.answer = status
        desk = Desk(box, modality("CT1", scanner.port))
        await desk.promise(1)
        await desk.turns()
        await desk.turns(DAY)
    assert len(scanner.heard) == 1
    state, _, note = await desk.row()
    assert (state, note) == ("reported", f"it answered {status:04X} and takes no such reports")
    ((detail,),) = await box.rows("SELECT detail FROM trail WHERE event = 'report-taken'")
    assert f"{status:04X}" in detail


async def test_a_report_that_fails_otherwise_is_made_again(box: Stored) -> None:
    with Scanner() as scanner:
        scanner.answer = 0x0110
        desk = Desk(box, modality("CT1", scanner.port))
        await desk.promise(1)
        await desk.turns()
        assert await desk.row() == ("ready", 1, f"{LOOPBACK} port {scanner.port} answered 0110")
        scanner.answer = 0
        await desk.turns(1.0)
    assert [heard.answer for heard in scanner.heard] == [0x0110, 0]
    assert (await desk.row())[0] == "reported"


async def test_nothing_is_decided_before_everything_that_lies_here_is_on_record(box: Stored) -> None:
    with Scanner() as scanner:
        desk = Desk(box, modality("CT1", scanner.port))
        desk.on_record = False
        await desk.promise(1, 8)
        for _ in range(5):
            await desk.turns(10 * GRACE)
        assert scanner.heard == []
        desk.on_record = True
        await desk.turns()
        assert scanner.heard == [], "it may still come, for a minute from now"
        await desk.turns(GRACE)
    (heard,) = scanner.heard
    assert (heard.report.committed_uids, heard.report.reasons) == (["1.2.3.1"], {"1.2.3.8": 0x0112})


async def test_what_was_decided_is_delivered_while_recovery_looks_for_the_rest(box: Stored) -> None:
    with Scanner() as scanner:
        scanner.stop()
        desk = Desk(box, modality("CT1", scanner.port))
        await desk.promise(1)
        await desk.turns()
        desk.on_record = False
        scanner.start()
        await desk.turns(1.0)
        assert len(scanner.heard) == 1


# not delivered


async def test_a_modality_that_is_down_is_called_ever_less_often_and_gets_its_report_when_it_is_back(
    box: Stored,
) -> None:
    scanner = Scanner()
    desk = Desk(box, modality("CT1", scanner.port))
    await desk.promise(1)
    await desk.turns()
    waits = []
    for _ in range(12):
        begun, (_, tries, _) = desk.clock.seconds, await desk.row()
        while (await desk.row())[1] == tries:
            await desk.turns(1.0)
        waits.append(desk.clock.seconds - begun)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    (text,) = desk.undelivered()
    assert text.startswith(
        f"CT1 asked whether its images are safe and cannot be told: {LOOPBACK} port {scanner.port}: "
    )
    with scanner:
        await desk.turns(300.0)
        assert len(scanner.heard) == 1
    assert desk.undelivered() == []


async def test_it_is_a_finding_when_it_has_lasted_for_ten_minutes_and_not_before(box: Stored) -> None:
    desk = Desk(box, modality("CT1", free_port()))
    await desk.promise(1)
    await desk.turns()
    await desk.pass_minutes(9)
    assert desk.undelivered() == []
    await desk.pass_minutes(6)
    assert len(desk.undelivered()) == 1


async def test_after_a_day_it_is_called_every_hour(box: Stored) -> None:
    desk = Desk(box, modality("CT1", free_port()))
    await desk.promise(1)
    await desk.turns()
    await box.store.tick(DAY)
    await desk.turns(DAY)
    for _ in range(3):
        tries = (await desk.row())[1]
        await desk.turns(3590.0)
        assert (await desk.row())[1] == tries
        await desk.turns(10.0)
        assert (await desk.row())[1] == tries + 1


async def test_a_restart_loses_no_report_and_calls_soon(box: Stored) -> None:
    scanner = Scanner()
    desk = Desk(box, modality("CT1", scanner.port))
    await desk.promise(1)
    await desk.turns()
    await box.store.tick(DAY)
    await desk.turns(DAY)
    await box.restart(ripe_in=3.0)
    desk.answers = desk.made()
    with scanner:
        await desk.turns()
        assert scanner.heard == []
        await desk.turns(3.0)
        assert len(scanner.heard) == 1
    assert (await desk.row())[0] == "reported"


async def test_a_modality_that_left_the_configuration_is_a_finding_and_holds_up_nobody(box: Stored) -> None:
    with Scanner() as scanner:
        desk = Desk(box, modality("CT1", scanner.port))
        await desk.promise(1, calling="GONE")
        await desk.turns()
        await desk.pass_minutes(15)
        (text,) = desk.undelivered()
        assert text.endswith("no [[modality]] says where its reports go.")
        await desk.promise(1, uid="1.8")
        await desk.turns()
        assert len(scanner.heard) == 1


async def test_a_host_that_is_no_name_is_a_finding_and_ends_nothing(box: Stored) -> None:
    with Scanner() as scanner:
        desk = Desk(box, modality("CT1", 104, host="x" * 70), modality("CT2", scanner.port))
        await desk.promise(1)
        await desk.promise(1, calling="CT2")
        await desk.turns()
        assert len(scanner.heard) == 1
    notes = await box.rows("SELECT note FROM promise WHERE calling = 'CT1'")
    assert notes == [(f"{'x' * 70} is no name of a host",)]


# who waits for whom


async def test_modalities_that_say_nothing_hold_up_no_other(box: Stored) -> None:
    with mute() as port, Scanner("LIVE") as scanner:
        mutes = [f"MUTE{number}" for number in range(answering._CALLS - 1)]
        desk = Desk(box, modality("LIVE", scanner.port), *(modality(title, port) for title in mutes))
        for title in mutes:
            await desk.promise(1, calling=title)
        try:
            await desk.until(lambda: len(desk.answers._calls) == len(mutes))
            for number in range(1, 6):
                await desk.promise(1, calling="LIVE", uid=f"1.8.{number}")
            await desk.until(lambda: len(scanner.heard) == 5)
            assert desk.answers._calls.keys() == set(mutes), "each of them is called once, and still"
        finally:
            await desk.answers.close()
        assert not desk.answers._calls


async def test_of_one_modality_one_report_at_a_time_is_under_way(box: Stored) -> None:
    with mute() as port:
        desk = Desk(box, modality("CT1", port))
        for number in range(4):
            await desk.promise(1, uid=f"1.{number}")
        try:
            for _ in range(3):
                assert not await desk.answers.turn()
                assert list(desk.answers._calls) == ["CT1"]
        finally:
            await desk.answers.close()
    assert await box.rows("SELECT DISTINCT state, tries FROM promise") == [("ready", 0)]


async def test_more_modalities_than_are_called_at_once_all_get_their_reports(box: Stored) -> None:
    with Scanner() as scanner:
        titles = [f"CT{number}" for number in range(3 * answering._CALLS)]
        desk = Desk(box, *(modality(title, scanner.port) for title in titles))
        for title in titles:
            await desk.promise(1, calling=title)
        await desk.turns()
        assert len(scanner.heard) == len(titles)


# the store


async def test_an_error_of_the_store_ends_nothing_and_the_report_is_made_again(
    box: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_POLL", 0.02)
    real, failures = box.store.answered, 1

    async def answered(promise: int, note: str = "") -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("the disk is full")
        await real(promise, note)

    monkeypatch.setattr(box.store, "answered", answered)
    with Scanner() as scanner:
        desk = Desk(box, modality("CT1", scanner.port))
        await desk.promise(1)
        serving = asyncio.create_task(desk.answers.run())
        try:
            await asyncio.to_thread(wait_for, lambda: len(scanner.heard) == 2, 20, "the report to be made again")
            await desk.until_over()
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
        assert len(scanner.heard) == 2
    assert failures == 0


# where


def report_of(address: str) -> Answer:
    return Answer(
        promise=1,
        transaction_uid="1.7",
        calling="CT1",
        called="EDGE2",
        address=address,
        committed=(),
        failed=(),
        tries=0,
        age=0.0,
    )


@pytest.mark.parametrize(
    ("asked_from", "host", "port"),
    [
        ("10.0.0.7", "10.0.0.7", 1),
        ("10.0.1.9", "reports.example.org", 2),
        ("fe80::1%eth0", "v6.example.org", 3),
        ("192.168.1.1", "any.example.org", 4),
        ("", "any.example.org", 4),
    ],
)
def test_the_first_modality_of_the_title_and_address_says_where_its_report_goes(
    asked_from: str, host: str, port: int
) -> None:
    modalities = [
        modality("CT2", 9),
        Modality(name="mute", ae_title="CT1", address="10.0.0.7"),
        modality("CT1", 1, host=None, address="10.0.0.7"),
        modality("CT1", 2, host="reports.example.org", address="10.0.1.0/24"),
        modality("CT1", 3, host="v6.example.org", address="fe80::/10"),
        modality("CT1", 4, host="any.example.org"),
    ]
    assert address_of(modalities, report_of(asked_from)) == Address(host=host, port=port, called="CT1", calling="EDGE2")


def test_who_is_not_in_the_configuration_has_no_address() -> None:
    assert address_of([modality("CT2", 1), modality("CT1", 1, address="10.0.0.0/8")], report_of("192.168.1.1")) is None
