"""Events over a connection: in order, once, and again until somebody has said that they are stored."""

import asyncio
import contextlib
import errno
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edge import events
from edge.messages import Ack, Topics
from edge.mqtt.session import TOO_LARGE
from edge.store import LoggedEvent, Store, StoreError
from edge.telemetry import shipment as shipping
from edge.telemetry.shipment import MOST_BYTES, NOBODY, Shipment
from tests.fakes import FakeBrokerSession, ManualClock

TOPICS = Topics("0123456789abcdef")


class Line:
    """One connection: a shipment that runs, and what the broker has of it."""

    def __init__(self, store: Store, *, acknowledged: bool = True) -> None:
        self.session = FakeBrokerSession()
        self.store = store
        self.shipment = Shipment(self.session, store, TOPICS, acknowledged=acknowledged)  # type: ignore[arg-type]
        self._task = asyncio.ensure_future(self.shipment.run())

    async def cut(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def batches(self) -> list[dict[str, object]]:
        return [json.loads(body) for body in self.session.on(TOPICS.events)]

    def numbers(self) -> list[int]:
        return [event["seq"] for batch in self.batches() for event in batch["events"]]  # type: ignore[attr-defined]

    def ack(self, up_to: int, epoch: int | None = None) -> None:
        self.shipment.acknowledge(Ack(epoch=self.store.epoch if epoch is None else epoch, up_to=up_to))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path, ManualClock(), 1, lambda n: tmp_path / str(n), new_epoch=lambda: 7)
    running = asyncio.create_task(store.run())
    yield store
    store.finish()
    await running
    await store.close()


@pytest.fixture
async def line(store: Store) -> AsyncIterator[Line]:
    made = Line(store)
    yield made
    await made.cut()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to give
            await asyncio.sleep(0.001)


async def until_kept(store: Store, count: int) -> None:
    async with asyncio.timeout(10):
        while await kept(store) != count:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.001)


async def write(store: Store, count: int) -> None:
    await store.write_events([events.deleted(n, n) for n in range(count)])


async def kept(store: Store) -> int:
    first, last = await store.event_range()
    return max(0, last - first + 1)


async def test_events_go_in_order_and_leave_when_they_are_acknowledged(store: Store, line: Line) -> None:
    await write(store, 5)
    await until(lambda: line.numbers() == [1, 2, 3, 4, 5])
    assert await kept(store) == 5
    line.ack(3)
    await until_kept(store, 2)
    await write(store, 1)
    await until(lambda: line.numbers() == [1, 2, 3, 4, 5, 6])
    assert {batch["epoch"] for batch in line.batches()} == {7}


async def test_what_was_there_before_the_connection_is_late_and_nothing_else(store: Store) -> None:
    await write(store, 2)
    line = Line(store)
    await until(lambda: len(line.numbers()) == 2)
    await write(store, 1)
    await until(lambda: len(line.numbers()) == 3)
    late = [event["late"] for batch in line.batches() for event in batch["events"]]  # type: ignore[attr-defined]
    assert late == [True, True, False]
    await line.cut()


async def test_late_is_what_was_there_when_the_connection_was_made_not_when_the_first_batch_goes(store: Store) -> None:
    await write(store, 2)
    session = FakeBrokerSession()
    shipment = Shipment(session, store, TOPICS, acknowledged=True)  # type: ignore[arg-type]
    await shipment.begin()
    await write(store, 1)
    task = asyncio.ensure_future(shipment.run())
    await until(lambda: bool(session.on(TOPICS.events)))
    (batch,) = [json.loads(body) for body in session.on(TOPICS.events)]
    assert [event["late"] for event in batch["events"]] == [True, True, False]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_sent_is_put_down_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Line] = []
    put_down: list[tuple[int, list[int]]] = []

    async def mark(seq: int) -> None:
        put_down.append((seq, made[0].numbers()))

    monkeypatch.setattr(store, "mark_events", mark)
    await write(store, 3)
    made.append(Line(store))
    await until(lambda: made[0].numbers() == [1, 2, 3])
    assert put_down == [(3, [])]
    await made[0].cut()


async def test_a_disk_that_takes_no_mark_stops_no_event(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def mark(_: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store, "mark_events", mark)
    await write(store, 3)
    line = Line(store)
    await until(lambda: line.numbers() == [1, 2, 3])
    await line.cut()


async def test_a_store_that_can_only_be_read_ends_no_connection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "RETRY", 0.01)

    async def fails(_: int) -> int:
        raise StoreError("The database can only be read at this moment.")

    await write(store, 3)
    with monkeypatch.context() as broken:
        broken.setattr(store, "drop_events", fails)
        line = Line(store)
        await until(lambda: line.numbers() == [1, 2, 3])
        line.ack(3)
        await asyncio.sleep(0.05)
        assert not line._task.done()
        assert line.numbers() == [1, 2, 3]
    await until_kept(store, 0)
    await line.cut()


async def test_a_store_that_cannot_be_read_ends_no_connection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "RETRY", 0.01)

    async def fails(*_: int) -> list[LoggedEvent]:
        raise StoreError("The database cannot be read.")

    await write(store, 3)
    with monkeypatch.context() as broken:
        broken.setattr(store, "events_after", fails)
        broken.setattr(store, "event_range", fails)
        line = Line(store)
        await asyncio.sleep(0.05)
        assert not line._task.done()
    await until(lambda: line.numbers() == [1, 2, 3])
    await line.cut()


async def test_the_longer_nobody_acknowledges_the_more_rarely_all_is_sent_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "RESEND", 0.001)
    monkeypatch.setattr(shipping, "RAREST", 0.004)
    await write(store, 2)
    line = Line(store)
    seen = [line.shipment._patience]
    async with asyncio.timeout(10):
        while len(line.batches()) < 8:
            if line.shipment._patience != seen[-1]:
                seen.append(line.shipment._patience)
            await asyncio.sleep(0)
    assert seen == [0.001, 0.002, 0.004]
    await line.cut()


async def test_a_quiet_log_makes_nobody_patient(store: Store, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "RESEND", 0.001)
    line.shipment._patience = 0.001
    await asyncio.sleep(0.05)
    assert line.shipment._patience == 0.001
    await write(store, 1)
    await until(lambda: line.numbers()[:2] == [1, 1])


async def test_somebody_who_begins_to_listen_has_events_with_the_next_that_happens(store: Store) -> None:
    for _ in range(4):
        await write(store, 500)
    line = Line(store, acknowledged=False)
    line.session.codes = [NOBODY, NOBODY]
    await until(lambda: len(line.batches()) == 1)
    await write(store, 1)
    await until(lambda: len(line.batches()) == 2)
    assert line.numbers()[-1:] == [1]
    await write(store, 1)
    await until_kept(store, 0)
    await line.cut()


async def test_who_asks_for_all_again_has_events_again_at_once(store: Store, line: Line) -> None:
    await write(store, 3)
    await until(lambda: line.numbers() == [1, 2, 3])
    line.shipment.again()
    await until(lambda: line.numbers() == [1, 2, 3] * 2)


async def test_a_log_that_is_begun_anew_meanwhile_is_shipped_from_its_first_event(store: Store, line: Line) -> None:
    await write(store, 5)
    await until(lambda: line.numbers() == [1, 2, 3, 4, 5])

    def anew(raw: sqlite3.Connection) -> None:
        raw.execute("DELETE FROM event")
        raw.execute("DELETE FROM sqlite_sequence WHERE name = 'event'")
        raw.execute("UPDATE log SET epoch = 8, kept = 0")

    await store._commit(anew)
    store.epoch = 8
    await write(store, 2)
    await until(lambda: line.numbers() == [1, 2, 3, 4, 5, 1, 2])
    assert line.batches()[-1]["epoch"] == 8
    line.ack(2)
    await until_kept(store, 0)


async def test_an_acknowledgement_makes_it_impatient_again(store: Store) -> None:
    line = Line(store)
    line.shipment._patience = shipping.RAREST
    line.ack(0)
    assert line.shipment._patience == shipping.RESEND
    await line.cut()


async def test_without_an_acknowledgement_the_next_connection_sends_them_again(store: Store) -> None:
    await write(store, 3)
    for _ in range(2):
        line = Line(store)
        await until(lambda line=line: line.numbers() == [1, 2, 3])  # type: ignore[misc]
        await line.cut()


async def test_without_an_acknowledgement_they_are_sent_again_after_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "RESEND", 0.01)
    await write(store, 2)
    line = Line(store)
    await until(lambda: line.numbers()[:4] == [1, 2, 1, 2])
    await line.cut()


@pytest.mark.parametrize(("up_to", "epoch"), [(99, None), (3, 6), (0, None)])
async def test_an_acknowledgement_of_what_was_not_sent_is_void(
    store: Store, line: Line, up_to: int, epoch: int | None
) -> None:
    await write(store, 3)
    await until(lambda: line.numbers() == [1, 2, 3])
    line.ack(up_to, epoch)
    await write(store, 1)
    await until(lambda: line.numbers() == [1, 2, 3, 4])
    assert await kept(store) == 4


async def test_a_retained_acknowledgement_counts_once_its_events_were_sent_again(store: Store) -> None:
    await write(store, 3)
    line = Line(store)
    line.ack(2)  # the broker gives it before anything is sent
    await until_kept(store, 1)
    assert line.numbers()[:3] == [1, 2, 3]
    await line.cut()


async def test_where_no_monitor_acknowledges_the_broker_having_them_is_enough(store: Store) -> None:
    await write(store, 3)
    line = Line(store, acknowledged=False)
    await until_kept(store, 0)
    assert line.numbers() == [1, 2, 3]
    await line.cut()


async def test_where_nobody_listens_they_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "RESEND", 0.01)
    await write(store, 3)
    line = Line(store, acknowledged=False)
    line.session.codes = [NOBODY] * 3
    await until_kept(store, 0)
    assert line.numbers() == [1, 2, 3, 1, 1, 1, 2, 3], "one is enough to ask whether somebody listens"
    await line.cut()


async def test_a_broker_that_takes_no_batch_of_this_size_gets_smaller_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "RESEND", 0.001)
    await write(store, 150)
    line = Line(store)
    line.session.codes = [TOO_LARGE] * 3
    await until(lambda: line.numbers()[-1:] == [150] and len(line.batches()) > 4)
    sizes = [len(body) for body in line.session.on(TOPICS.events)]
    assert max(sizes[3:]) <= MOST_BYTES // 8 + 200
    await line.cut()


async def test_batches_are_bounded_and_so_are_those_without_an_acknowledgement(store: Store, line: Line) -> None:
    for _ in range(20):
        await write(store, 500)
    await until(lambda: len(line.batches()) == 8)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(line.batches()) == 8
    assert all(len(body) <= MOST_BYTES + 200 for body in line.session.on(TOPICS.events))
    while len(line.numbers()) < 10_000:
        line.ack(line.numbers()[-1])
        await asyncio.sleep(0.001)
    assert line.numbers() == list(range(1, 10_001))
