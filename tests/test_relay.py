"""The line between two programs that other tests rely on: it is as thin and as long as it says, and breaks as told."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.peers import wire
from tests.peers.objects import CT, MR, ct, mr
from tests.peers.ports import LOOPBACK, wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.peers.relay import Bounds, Fault, Line, Pdus, Relay, Way

RATE = 2.5e6


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


class Sink:
    """A server that reads, and sends back where what comes begins with an e."""

    def __init__(self) -> None:
        self.port = 0
        self.count = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with suppress(ConnectionError):
            echo = await reader.read(1) == b"e"
            while data := await reader.read(1 << 16):
                self.count += len(data)
                if echo:
                    writer.write(data)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.open -= 1


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    made = Sink()
    server = await asyncio.start_server(made.serve, LOOPBACK, 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    async with asyncio.timeout(5):
        while made.open:  # noqa: ASYNC110 - it does not say
            await asyncio.sleep(0.01)


def test_what_is_given_to_a_line_comes_out_at_its_rate_and_after_its_delay() -> None:
    way = Way(Bounds(rate=1000.0, delay=2.0))
    assert list(way.book(10.0, 500)) == pytest.approx([12.5, 10.48])
    assert way.book(10.0, 500)[0] == pytest.approx(13.0), "after what was given before, whoever gave it"
    assert way.book(20.0, 1000)[0] == pytest.approx(23.0), "what was idle is not made up for"
    assert way.carried == 2000
    assert Way(Bounds(delay=2.0)).book(10.0, 1 << 30) == (12.0, 10.0)


def test_pdus_are_followed_however_they_are_cut_up() -> None:
    stream = wire.HEADER.pack(4, 10) + bytes(10) + wire.HEADER.pack(7, 4) + bytes(4)
    assert Pdus().take(stream) == [(4, 10, 16), (7, 4, 26)]
    pdus = Pdus()
    found = [piece[:2] for byte in stream for piece in pdus.take(bytes([byte]))]
    assert found == [(4, 10)] * 10 + [(7, 4)] * 4


async def test_a_byte_takes_as_long_as_the_line_is(sink: Sink) -> None:
    relay = Relay(sink.port, Bounds(rate=RATE, delay=0.04))
    await relay.open()
    reader, writer = await asyncio.open_connection(LOOPBACK, relay.port)
    writer.write(b"e")
    taken = []
    for _ in range(8):
        begun = time.monotonic()
        writer.write(b"x")
        await reader.readexactly(1)
        taken.append(time.monotonic() - begun)
    assert taken[0] > 0.155, "a connection takes a round trip"
    assert min(taken) == pytest.approx(0.08, abs=0.004)
    writer.close()
    await relay.close()


@pytest.mark.parametrize("connections", [1, 16])
async def test_all_connections_share_one_rate(sink: Sink, connections: int) -> None:
    relay = Relay(sink.port, Bounds(rate=RATE, delay=0.04))
    await relay.open()
    writers = [(await asyncio.open_connection(LOOPBACK, relay.port))[1] for _ in range(connections)]

    async def send(writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(bytes(1 << 15))
                await writer.drain()

    sending = [asyncio.create_task(send(writer)) for writer in writers]
    while sink.count < RATE / 4:  # noqa: ASYNC110 - until the line is full
        await asyncio.sleep(0.01)
    # by the counter of the line, as what comes out of it later is behind by as much at both ends
    before, begun = relay.there.carried, time.monotonic()
    while relay.there.carried < before + RATE:  # noqa: ASYNC110 - a second's worth
        await asyncio.sleep(0.01)
    rate = (relay.there.carried - before) / (time.monotonic() - begun)
    # a machine that is busy makes it slower, nothing makes it faster
    assert 0.8 * RATE < rate < 1.05 * RATE
    await relay.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*sending, return_exceptions=True)


async def test_a_line_holds_no_more_than_is_on_its_way() -> None:
    never = asyncio.Event()

    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never.wait()
        writer.close()

    server = await asyncio.start_server(ignore, LOOPBACK, 0, limit=1024)
    relay = Relay(server.sockets[0].getsockname()[1], Bounds(rate=RATE, delay=0.01))
    await relay.open()
    _, writer = await asyncio.open_connection(LOOPBACK, relay.port)
    writer.transport.set_write_buffer_limits(high=0)
    writer.write(bytes(64 << 20))
    with suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            await writer.drain()
    assert relay.there.carried < 1.5 * RATE, "the receiver's own buffers, and the window of the line"
    at = relay.there.carried
    await asyncio.sleep(0.1)
    assert relay.there.carried - at < 0.1 * RATE
    writer.transport.abort()
    await relay.close()
    never.set()
    await asyncio.sleep(0)
    server.close()


async def test_outages_come_and_go_by_the_time_that_is_injected(sink: Sink) -> None:
    relay = Relay(sink.port)
    await relay.open()
    slept: list[tuple[float, bool]] = []

    async def sleep(seconds: float) -> None:
        slept.append((seconds, relay.up))
        if len(slept) > 4:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await relay.outages(30.0, 3.0, sleep)
    assert slept == [(30.0, True), (3.0, False), (30.0, True), (3.0, False), (30.0, True)]
    await relay.close()


@contextmanager
def associated(port: int, timeout: float = 5.0) -> Iterator[RawSender]:
    """An association that ends without a word."""
    sender = RawSender(port, timeout=timeout)
    try:
        sender.connect()
        sender.associate([(CT, [wire.EXPLICIT_LITTLE]), (MR, [wire.EXPLICIT_LITTLE])])
        yield sender
    finally:
        sender.close()


def test_dicom_passes_unchanged(pacs: RawReceiver) -> None:
    (obj,) = ct(1)
    with Line(pacs.port, Bounds(delay=0.005)) as line:
        with associated(line.port) as sender:
            assert sender.store(obj) == 0
            sender.release()
            assert line.relay.cuts == 0
        assert line.carried[0] > obj.length
    assert [received.digest for received in pacs.accepted] == [obj.digest]
    assert pacs.problems == []
    assert pacs.wait_ending() == ["released"]


def test_an_association_is_torn_in_the_middle_of_a_pdu(pacs: RawReceiver) -> None:
    with Line(pacs.port) as line:
        line.befall(Fault.TEAR)
        with associated(line.port) as sender, pytest.raises(ConnectionError):
            sender.store(ct(1)[0])
        pacs.wait_ending()
        assert pacs.received == []
        assert line.relay.cuts == len(line.relay.broken_at) == 1
        with associated(line.port) as sender:
            assert sender.store(ct(1)[0]) == 0, "one fault, one association"


def test_an_answer_is_lost(pacs: RawReceiver) -> None:
    with Line(pacs.port) as line:
        line.befall(Fault.LOSE_ANSWER)
        with associated(line.port) as sender, pytest.raises(ConnectionError):
            sender.store(mr(1)[0])
        assert len(pacs.wait(1)) == 1, "the receiver has it"


def test_a_half_open_association_tells_nobody(pacs: RawReceiver) -> None:
    with Line(pacs.port) as line:
        line.befall(Fault.HALF_OPEN)
        with associated(line.port, timeout=0.5) as sender, pytest.raises(TimeoutError):
            sender.store(mr(1)[0])
        assert pacs.endings == []
        line.cut()
        pacs.wait_ending()


def test_a_line_that_is_down_lets_nobody_in_until_it_is_healed(pacs: RawReceiver) -> None:
    with Line(pacs.port) as line:
        with associated(line.port) as sender:
            line.down()
            with pytest.raises(ConnectionError):
                sender.store(mr(1)[0])
        with pytest.raises(ConnectionError), associated(line.port):
            pass
        line.heal()
        with associated(line.port) as sender:
            assert sender.store(mr(1)[0]) == 0
        wait_for(lambda: line.relay.made == 2, 5, "two connections were carried")


def test_silence_tells_nobody_and_befalls_only_what_is_connected(pacs: RawReceiver) -> None:
    with Line(pacs.port) as line, associated(line.port, timeout=0.5) as sender:
        line.silence()
        with pytest.raises(TimeoutError):
            sender.store(mr(1)[0])
        with associated(line.port) as another:
            assert another.store(mr(1)[0]) == 0
