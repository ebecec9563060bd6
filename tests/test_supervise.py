"""The one owner of tasks, and what it tells systemd."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge import sdnotify, supervise
from edge.findings import Journal
from edge.sdnotify import Notifier
from edge.supervise import MOST_RESTARTS, WINDOW, CrashLoopError, Supervisor
from tests.fakes import ManualClock


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


@pytest.fixture
def journal(clock: ManualClock) -> Journal:
    return Journal(clock)


@pytest.fixture
async def supervisor(
    journal: Journal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Supervisor]:
    """One that makes no pause before it starts a service again."""
    monkeypatch.setattr(supervise, "_FIRST_PAUSE", 0.0)
    made = Supervisor(journal, clock)
    yield made
    await made.settle(0)


class Service:
    """A service that fails as often as it is told, then runs until it is told to stop."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.started = 0
        self.error = error or RuntimeError("a secret that stands in no finding")
        self.running = asyncio.Event()
        self.stop = asyncio.Event()
        self.ended = ""

    async def run(self) -> None:
        self.started += 1
        if self.started <= self.failures:
            raise self.error
        self.running.set()
        try:
            await self.stop.wait()
            self.ended = "returned"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


async def within(seconds: float, awaited: Awaitable[object]) -> None:
    async with asyncio.timeout(seconds):
        await awaited


# services


async def test_a_service_that_crashes_is_started_again_and_that_is_said(
    supervisor: Supervisor, journal: Journal, logged: list[MutableMapping[str, Any]]
) -> None:
    service = Service(failures=2)
    supervisor.service("index", service.run)
    await within(10, service.running.wait())
    assert service.started == 3
    (finding,) = journal.open()
    assert (finding.code, finding.component, finding.count) == ("SERVICE_RESTARTED", "service.index", 2)
    assert "index: RuntimeError" in finding.text
    assert "secret" not in finding.text
    assert [(entry["event"], entry["service"]) for entry in logged if "service" in entry] == [
        ("service crashed", "index")
    ] * 2


async def test_a_service_that_returns_is_over(supervisor: Supervisor, journal: Journal) -> None:
    service = Service(failures=0)
    task = supervisor.service("index", service.run)
    service.stop.set()
    await within(10, task)
    assert (service.started, service.ended) == (1, "returned")
    assert journal.open() == ()


async def test_a_crash_harms_no_other_service(supervisor: Supervisor) -> None:
    sick, well = Service(failures=100), Service(failures=0)
    supervisor.service("well", well.run)
    sickness = supervisor.service("sick", sick.run, vital=True)
    await within(10, sickness)
    assert well.running.is_set()
    assert (well.started, well.ended) == (1, "")


async def test_a_service_that_keeps_crashing_ends_the_process(supervisor: Supervisor) -> None:
    service = Service(failures=100)
    failing = asyncio.create_task(supervisor.failure())
    supervisor.service("index", service.run, vital=True)
    with pytest.raises(CrashLoopError, match=f"The service index crashed {MOST_RESTARTS + 1} times"):
        await within(10, failing)
    assert service.started == MOST_RESTARTS + 1


async def test_a_crash_loop_that_nobody_waited_for_yet_is_not_forgotten(supervisor: Supervisor) -> None:
    for name in ("index", "store"):
        await within(10, supervisor.service(name, Service(failures=100).run, vital=True))
    with pytest.raises(CrashLoopError, match="The service index crashed"):
        await within(10, supervisor.failure())


async def test_crashes_that_lie_far_apart_never_end_the_process(supervisor: Supervisor, clock: ManualClock) -> None:
    service = Service(failures=40)
    rare = WINDOW / MOST_RESTARTS + 0.1

    async def run() -> None:
        clock.seconds += rare
        await service.run()

    supervisor.service("index", run, vital=True)
    await within(10, service.running.wait())
    assert service.started == 41


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is slept, without sleeping."""
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


async def test_the_pause_before_a_restart_grows(journal: Journal, clock: ManualClock, pauses: list[float]) -> None:
    await within(10, Supervisor(journal, clock).service("index", Service(failures=100).run, vital=True))
    assert pauses == [pytest.approx(0.2 * 2**n) for n in range(MOST_RESTARTS)]


async def test_one_that_nobody_needs_rests_and_is_tried_again_for_ever(
    journal: Journal, clock: ManualClock, pauses: list[float]
) -> None:
    supervisor, service = Supervisor(journal, clock), Service(failures=40)
    failing = asyncio.create_task(supervisor.failure())
    keeping = supervisor.service("telemetry", service.run)
    await within(10, service.running.wait())
    assert service.started == 41
    assert pauses[MOST_RESTARTS:] == [WINDOW] * (40 - MOST_RESTARTS)
    assert not failing.done()
    for task in (failing, keeping):
        task.cancel()
    await asyncio.wait((failing, keeping))


async def test_what_crashes_while_everything_ends_stays_down(supervisor: Supervisor) -> None:
    service = Service(failures=0)

    async def run() -> None:
        await service.run()
        raise RuntimeError("on the way out")

    task = supervisor.service("index", run)
    await within(10, service.running.wait())
    service.stop.set()
    await within(10, supervisor.finish([task], 5))
    assert service.started == 1


# one-shot tasks


async def test_a_task_that_fails_is_noted_and_harms_nobody(supervisor: Supervisor, journal: Journal) -> None:
    async def fail() -> None:
        raise ValueError("a name that stands in no finding")

    service = Service(failures=0)
    supervisor.service("index", service.run)
    await within(10, supervisor.spawn(fail(), "association 10.0.0.7"))
    (finding,) = journal.open()
    assert (finding.code, finding.component) == ("SERVICE_RESTARTED", "task")
    assert "association 10.0.0.7: ValueError" in finding.text
    assert "name that stands" not in finding.text
    assert not service.ended


async def test_a_task_that_is_cancelled_is_no_failure(supervisor: Supervisor, journal: Journal) -> None:
    task = supervisor.spawn(_for_ever(), "task")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert journal.open() == ()


async def _for_ever() -> None:
    await asyncio.Event().wait()


# the end


async def test_services_told_to_stop_are_waited_for(supervisor: Supervisor) -> None:
    service = Service(failures=0)
    task = supervisor.service("lane", service.run)
    await within(10, service.running.wait())
    asyncio.get_running_loop().call_soon(service.stop.set)
    await within(10, supervisor.finish([task], 30))
    assert service.ended == "returned"


async def test_a_straggler_is_cut_after_its_time_and_its_end_is_waited_for(supervisor: Supervisor) -> None:
    straggler, punctual = Service(failures=0), Service(failures=0)
    tasks = [supervisor.service("straggler", straggler.run), supervisor.service("punctual", punctual.run)]
    await within(10, straggler.running.wait())
    punctual.stop.set()
    await within(10, supervisor.finish(tasks, 0.01))
    assert (straggler.ended, punctual.ended) == ("cancelled", "returned")
    assert all(task.done() for task in tasks)


async def test_finishing_leaves_alone_what_it_was_not_given(supervisor: Supervisor) -> None:
    kept = Service(failures=0)
    supervisor.service("store", kept.run)
    await within(10, supervisor.finish([], 30))
    await within(10, kept.running.wait())
    assert not kept.ended


async def test_settling_cuts_everything_that_is_left_even_what_was_spawned_late(supervisor: Supervisor) -> None:
    service = Service(failures=0)
    tasks = [supervisor.service("store", service.run)]

    async def one_more() -> None:
        try:
            await _for_ever()
        finally:
            tasks.append(supervisor.spawn(_for_ever(), "late"))

    tasks.append(supervisor.spawn(one_more(), "task"))
    await within(10, service.running.wait())
    await within(10, supervisor.settle(0.01))
    assert service.ended == "cancelled"
    assert [task.done() for task in tasks[:2]] == [True, True]
    await within(10, supervisor.settle(0.01))
    assert tasks[2].done()


async def test_a_task_that_will_not_end_does_not_hold_up_the_process(supervisor: Supervisor) -> None:
    stubborn = asyncio.Event()

    async def run() -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue

    task = supervisor.spawn(run(), "stubborn")
    await asyncio.sleep(0)
    await within(10, supervisor.settle(0))
    assert not task.done()
    stubborn.set()
    await within(10, task)


async def test_a_service_in_its_pause_is_cut_too(
    journal: Journal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_FIRST_PAUSE", 3600.0)
    supervisor = Supervisor(journal, clock)
    crashing = asyncio.Event()
    service = Service(failures=1)

    async def run() -> None:
        crashing.set()
        await service.run()

    task = supervisor.service("index", run)
    await within(10, crashing.wait())
    await within(10, supervisor.settle(0))
    assert task.done()
    assert service.started == 1


async def test_nothing_to_end_ends_at_once(supervisor: Supervisor) -> None:
    await within(1, supervisor.finish([], 3600))
    await within(1, supervisor.settle(3600))


# systemd

Bind = Callable[[str], socket.socket]


@pytest.fixture
def bind() -> Iterator[Bind]:
    sockets: list[socket.socket] = []

    def made(address: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sockets.append(listener)
        listener.bind(address)
        listener.settimeout(10)
        return listener

    yield made
    for listener in sockets:
        listener.close()


def test_systemd_hears_what_it_is_told(bind: Bind, tmp_path: Path) -> None:
    listener = bind(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.tell("READY=1\nSTATUS=receiving on [11112]")
    notifier.tell("STOPPING=1")
    assert listener.recv(1000) == b"READY=1\nSTATUS=receiving on [11112]"
    assert listener.recv(1000) == b"STOPPING=1"


def test_an_abstract_socket_is_reached_by_its_at_sign(bind: Bind, tmp_path: Path) -> None:
    name = f"edge-test{tmp_path}"
    listener = bind(f"\0{name}")
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
    assert listener.recv(1000) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here", "x" * 200])
def test_without_systemd_it_is_silent(address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address} if address else {}).tell("READY=1")


async def test_the_watchdog_is_patted_three_times_as_often_as_it_asks(bind: Bind, tmp_path: Path) -> None:
    listener = bind(str(tmp_path / "notify"))
    listener.settimeout(0)
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "150000"})
    assert notifier._interval == pytest.approx(0.05)
    notifier.tell("READY=1")
    assert listener.recv(1000) == b"READY=1"
    beating = asyncio.create_task(notifier.heartbeat())
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.timeout(10):
        beats = [await loop.sock_recv(listener, 1000) for _ in range(4)]
    assert beats == [b"WATCHDOG=1"] * 4
    assert loop.time() - begun >= 0.14
    beating.cancel()
    await asyncio.wait([beating])


@pytest.mark.parametrize("asked", [None, "", "0", "soon", "-5"])
async def test_without_a_watchdog_there_is_no_heartbeat(asked: str | None) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/nowhere"} | ({} if asked is None else {"WATCHDOG_USEC": asked}))
    notifier.tell("READY=1")
    await within(10, notifier.heartbeat())


async def test_without_systemd_there_is_no_heartbeat() -> None:
    await within(10, Notifier({}).heartbeat())


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "3000000"}], ids=["no watchdog", "watchdog"])
async def test_a_long_start_asks_for_more_time_until_it_is_ready(
    bind: Bind, tmp_path: Path, watchdog: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdnotify, "_START_BEAT", 0.01)
    listener = bind(str(tmp_path / "notify"))
    listener.settimeout(0)
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")} | watchdog)
    beating = asyncio.create_task(notifier.heartbeat())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        for _ in range(3):
            while await loop.sock_recv(listener, 1000) != b"EXTEND_TIMEOUT_USEC=60000000":
                pass
        notifier.tell("READY=1")
        while await loop.sock_recv(listener, 1000) != b"READY=1":
            pass
        if watchdog:
            assert {await loop.sock_recv(listener, 1000) for _ in range(5)} == {b"WATCHDOG=1"}
            beating.cancel()
        await asyncio.wait([beating])
