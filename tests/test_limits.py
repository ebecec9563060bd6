"""The limits of the listener: who gives way, who is refused and how, and that no peer makes anything grow."""

import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from struct import pack
from typing import Final

import pytest
import structlog

from edge.board import Board
from edge.config import Config, Modality
from edge.dicom.acceptor import Capacity, Peer
from edge.dicom.header import MAX_READ, read_header
from edge.findings import CODES, MOST_OF_A_CODE, MOST_OPEN, Journal
from edge.intake.admission import Admission
from edge.intake.policy import ReceivePolicy
from edge.spool import Free, Ledger
from scripts.rigs import streams
from tests.appliance import Edge
from tests.fakes import ManualClock
from tests.peers import objects, wire
from tests.peers.ports import LOOPBACK, wait_for
from tests.peers.raw import Aborted, RawSender, Rejected, Released
from tests.peers.wire import Control, Pdv
from tests.test_association import COMMAND, IMAGE, LITTLE, Listener

COMMITMENT: Final = "1.2.840.10008.1.20.1"
SECOND, THIRD = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def senders() -> Iterator[Callable[..., RawSender]]:
    """Makes senders with an association, which end without a word."""
    with ExitStack() as stack:

        def make(listener: Listener, source: str = LOOPBACK, calling: str = "RAW") -> RawSender:
            sender = RawSender(listener.port, calling=calling, timeout=10, source=source)
            stack.callback(sender.close)
            sender.connect()
            sender.associate([(objects.CT, LITTLE), (wire.VERIFICATION, LITTLE)])
            return sender

        yield make


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count every association between two messages as idle, at once."""
    monkeypatch.setattr("edge.dicom.acceptor._AT_WORK", 0.0)


def refused(listener: Listener, source: str = LOOPBACK) -> tuple[int, int, int]:
    with RawSender(listener.port, timeout=10, source=source) as sender, pytest.raises(Rejected) as caught:
        sender.associate([(wire.VERIFICATION, LITTLE)])
    return caught.value.result, caught.value.source, caught.value.reason


def released(sender: RawSender) -> None:
    with pytest.raises(Released):
        sender.read_message()
    sender.close()


Make = Callable[..., RawSender]

# associations


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("capacity", [Capacity(associations=2), Capacity(per_address=2)])
def test_the_longest_idle_association_is_released_to_make_room(senders: Make, capacity: Capacity) -> None:
    with Listener(capacity=capacity) as listener:
        first, second = senders(listener), senders(listener)
        assert first.echo() == 0
        third = senders(listener)
        released(second)
        assert first.echo() == 0
        assert third.echo() == 0
        assert listener.board.associations == 2


@pytest.mark.usefixtures("restless")
def test_an_association_in_the_middle_of_a_message_is_not_idle(senders: Make) -> None:
    with Listener(capacity=Capacity(associations=2)) as listener:
        first, second = senders(listener), senders(listener)
        first.send_bytes(wire.p_data(Pdv(1, Control.COMMAND, IMAGE[:10])))
        second.send_bytes(wire.p_data(Pdv(1, COMMAND, IMAGE), Pdv(1, Control.DATASET, b"\x08\0")))
        wait_for(lambda: listener.receiving == 1, 10, "the object to begin")
        # the first has sent part of a command, of which nothing tells: it is asked until it is read
        wait_for(lambda: refused(listener) == (2, 3, 2), 10, "a refusal")
        first.close()
        second.close()


def test_a_message_that_rests_gives_way_where_nothing_is_idle(senders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.acceptor._STALLED", 0.0)
    with Listener(capacity=Capacity(associations=2)) as listener:
        first, second = senders(listener), senders(listener)
        begun = wire.p_data(Pdv(1, COMMAND, IMAGE), Pdv(1, Control.DATASET, b"\x08\0"))
        first.send_bytes(begun)
        wait_for(lambda: listener.receiving == 1, 10, "the first object to begin")
        second.send_bytes(begun)
        wait_for(lambda: listener.receiving == 2, 10, "the second object to begin")
        assert senders(listener).echo() == 0
        with pytest.raises(Aborted):
            first.read_message()
        assert (listener.cut, listener.kept) == (1, [])


@pytest.mark.parametrize("begin", [3, 6])
def test_a_header_in_pieces_does_not_make_an_association_busy(
    senders: Make, monkeypatch: pytest.MonkeyPatch, begin: int
) -> None:
    monkeypatch.setattr("edge.dicom.acceptor._AT_WORK", 0.0)
    with Listener(capacity=Capacity(associations=1)) as listener:
        senders(listener).send_bytes(wire.HEADER.pack(4, 100)[:begin])
        assert senders(listener).echo() == 0


def test_an_association_that_pauses_between_two_images_keeps_its_place(senders: Make) -> None:
    with Listener(capacity=Capacity(associations=2)) as listener:
        first, second = senders(listener), senders(listener)
        assert refused(listener) == (2, 3, 2)
        assert first.echo() == second.echo() == 0


def test_who_has_more_than_a_newcomer_would_have_gives_way_even_in_a_pause(senders: Make) -> None:
    with Listener(capacity=Capacity(associations=4, per_address=3)) as listener:
        many = [senders(listener) for _ in range(3)]
        other = senders(listener, SECOND)
        new = senders(listener, THIRD)
        released(many[0])
        assert [sender.echo() for sender in (many[1], many[2], other, new)] == [0] * 4
        # nobody has more than one above a fourth, so nobody gives way
        assert refused(listener, LOOPBACK) == (2, 3, 2)


def test_a_peer_that_ignores_its_release_holds_no_place(senders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.acceptor._AT_WORK", 0.0)
    with Listener(capacity=Capacity(associations=1)) as listener:
        for _ in range(5):
            senders(listener)
        assert listener.board.associations == 1


# connections


def silent(listener: Listener, count: int, source: str = LOOPBACK) -> list[socket.socket]:
    return [socket.create_connection((LOOPBACK, listener.port), 10, source_address=(source, 0)) for _ in range(count)]


def closed(sock: socket.socket) -> bool:
    sock.settimeout(0)
    try:
        return len(sock.recv(100)) < 100
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_silent_connections_of_one_address_take_no_more_than_its_share(senders: Make) -> None:
    with Listener(capacity=Capacity(waiting=8, waiting_per_address=4)) as listener:
        flood = silent(listener, 40)
        assert senders(listener, SECOND).echo() == 0
        assert senders(listener).echo() == 0
        wait_for(lambda: sum(map(closed, flood)) >= 36, 10, "the flood to be cut")
        listener.told("too many connections without an association")
        for sock in flood:
            sock.close()


def test_where_all_places_to_wait_are_taken_the_crowd_gives_way(senders: Make) -> None:
    with Listener(capacity=Capacity(waiting=8, waiting_per_address=6)) as listener:
        few, crowd = silent(listener, 2, SECOND), silent(listener, 6)
        assert senders(listener, THIRD).echo() == 0
        wait_for(lambda: closed(crowd[0]), 10, "the oldest of the crowd to be closed")
        assert not any(map(closed, [*few, *crowd[1:]]))
        for sock in few + crowd:
            sock.close()


def test_who_must_give_way_is_told_with_an_abort() -> None:
    with (
        Listener(capacity=Capacity(waiting_per_address=1)) as listener,
        RawSender(listener.port, timeout=10) as first,
    ):
        wait_for(lambda: _waits(listener), 10, "the first to wait")
        with RawSender(listener.port, timeout=10) as second:
            assert first.read_pdu().type == wire.Type.ABORT
            second.associate([(wire.VERIFICATION, LITTLE)])


def _waits(listener: Listener) -> bool:
    acceptor = listener.acceptor
    return any(c.association is not None for c in list(acceptor._connections.values()))


# refusals


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[:6] + b"\0\2" + data[8:], (1, 2, 2)),
        (lambda data: data.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"), (1, 1, 2)),
    ],
    ids=["version", "application context"],
)
def test_what_we_do_not_speak_is_rejected_with_its_reason(
    change: Callable[[bytes], bytes], expected: tuple[int, int, int]
) -> None:
    contexts = (wire.Proposed(1, objects.CT, (wire.EXPLICIT_LITTLE,)),)
    request = wire.AssociateRQ(called="EDGE", calling="RAW", contexts=contexts).encode()
    assert change(request) != request
    with Listener() as listener, RawSender(listener.port, timeout=10) as sender:
        sender.send_bytes(change(request))
        pdu = sender.read_pdu()
        assert pdu.type == wire.Type.ASSOCIATE_RJ
        reject = wire.AssociateRJ.decode(pdu.body)
        assert (reject.result, reject.source, reject.reason) == expected
        sender.wait_closed()


def test_a_full_disk_keeps_out_only_who_would_do_nothing_but_store() -> None:
    with Listener(free=0) as full:
        for contexts in ([wire.VERIFICATION], [COMMITMENT], [objects.CT, COMMITMENT], [objects.CT, wire.VERIFICATION]):
            with RawSender(full.port, timeout=10) as sender:
                sender.associate([(uid, LITTLE) for uid in contexts])
        with RawSender(full.port, timeout=10) as sender, pytest.raises(Rejected) as caught:
            sender.associate([(objects.CT, LITTLE)])
        assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 2)


def test_one_title_at_two_addresses_is_told(senders: Make) -> None:
    with Listener(Config(modality=(Modality(name="CT", ae_title="CT1"),))) as listener:
        senders(listener, calling="CT1")
        senders(listener, calling="CT1")
        assert listener.findings() == []
        senders(listener, SECOND, calling="CT1")
        listener.told(f"CT1 is used at {LOOPBACK} and at {SECOND}.")


# what could grow


class Policy:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = Journal(self.clock)
        board = Board(self.clock)
        admission = Admission(board, self.journal, self.clock, Ledger(lambda: Free(1 << 40, 1 << 20), 0))
        admission.open("starting")
        self.policy = ReceivePolicy(Config(), admission, board, self.journal, now=self.clock.monotonic)

    def limit(self, address: str = LOOPBACK) -> list[str]:
        self.policy.limit(Peer("CT", "EDGE", address), "CT was too slow")
        return [finding.code for finding in self.journal.open()]


def test_a_limit_met_once_is_a_line_in_the_log_and_again_within_the_hour_a_finding() -> None:
    box = Policy()
    with structlog.testing.capture_logs() as lines:
        assert box.limit() == []
    assert [line["event"] for line in lines] == ["peer met a limit"]
    assert box.limit("10.0.0.1") == []
    box.clock.seconds += 3601
    assert box.limit() == []
    assert box.limit() == ["PEER_MISBEHAVES"]


def test_a_flood_of_peers_fills_neither_log_nor_memory() -> None:
    box = Policy()
    box.journal.note("NO_DESTINATION", "config.destination")
    with structlog.testing.capture_logs() as lines:
        for n in range(2000):
            flood(box, n)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for n in range(2000, 6000):
                flood(box, n)
            lines_kept = len(lines)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    said = [line for line in lines if line["event"].startswith("peer")]
    assert len(said) <= 60
    assert all(str(value).isprintable() for line in said for value in line.values())
    # what the capture keeps is not the program's
    assert after - before < 1_500_000 + 600 * lines_kept
    assert len(box.policy._met) <= 256
    assert len(box.policy._titles_seen) <= 256
    found = box.journal.open()
    assert len(found) <= MOST_OPEN
    assert "NO_DESTINATION" in {finding.code for finding in found}
    assert all(len(f.text) < 700 and len(f.component) <= 100 and f.text.isprintable() for f in found)


def flood(box: Policy, n: int) -> None:
    peer = Peer(f"\x1b[31m{n}\0" + "A" * 10_000, "EDGE", f"fe80::{n >> 16:x}:{n & 0xFFFF:x}")
    box.policy.report(peer, f"{peer.calling} broke the protocol")
    box.policy.limit(peer, f"{peer.calling} was too slow")
    box.policy.limit(peer, f"{peer.calling} was too slow")
    box.policy._notice_twin(peer)


def test_the_journal_keeps_the_news_of_each_code_apart() -> None:
    journal = Journal(ManualClock())
    codes = list(CODES)
    journal.note("LOST", "recovery")
    for n in range(3 * MOST_OPEN):
        journal.note("PEER_REFUSED", f"modality.{n}")
    assert len(journal.open()) == MOST_OF_A_CODE + 1
    for code in codes:
        for n in range(MOST_OF_A_CODE + 5):
            journal.note(code, f"component.{n}")
    assert len(journal.open()) <= MOST_OPEN
    assert len(journal._seen) == len(journal._open) <= MOST_OPEN
    assert {finding.code for finding in journal.open()} >= set(codes[-3:])


# objects that are too long


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Edge]:
    """An appliance that takes objects of a MiB at the most."""
    with Edge(tmp_path, receive='max_object = "1MiB"') as edge:
        yield edge


def storing(edge: Edge) -> RawSender:
    sender = RawSender(edge.port, timeout=10)
    sender.connect()
    sender.associate([(objects.CT, LITTLE)])
    return sender


def _told_times(edge: Edge, times: int) -> bool:
    return edge.output().count("peer met a limit") == times


@pytest.mark.rig
def test_an_object_is_cut_off_at_the_byte_that_is_too_much_and_leaves_nothing(narrow: Edge) -> None:
    sender = storing(narrow)
    streams.begin_store(sender)
    sender.send_bytes(bytes(1 << 20))
    wait_for(lambda: [part for part in narrow.parts() if part.stat().st_size > 512 << 10], 10, "most of it")
    assert "peer met a limit" not in narrow.output()
    sender.send_bytes(b"\0")
    pdu = sender.read_pdu()
    assert pdu.type == wire.Type.ABORT
    assert wire.Abort.decode(pdu.body) == (0, 0)
    sender.wait_closed()
    sender.close()
    wait_for(lambda: narrow.parts() == [], 10, "nothing is left of it")
    wait_for(partial(_told_times, narrow, 1), 10, "a line in the log")
    (line,) = (line for line in narrow.output().splitlines() if "peer met a limit" in line)
    assert "the object is longer than receive.max_object" in line


@pytest.mark.rig
def test_who_sends_too_much_twice_within_the_hour_is_a_finding(narrow: Edge) -> None:
    def found() -> list[str]:
        findings = narrow.json("status")["findings"]
        return [finding["text"] for finding in findings if finding["code"] == "PEER_MISBEHAVES"]

    for times in (1, 2):
        sender = storing(narrow)
        with pytest.raises(ConnectionError):
            streams.one_value(sender, 256)
        sender.close()
        wait_for(partial(_told_times, narrow, times), 10, "a line in the log")
        assert len(found()) == times - 1
    assert "the object is longer than receive.max_object" in found()[0]
    wait_for(lambda: narrow.parts() == [], 10, "nothing is left of them")
    with RawSender(narrow.port, timeout=10) as small:
        small.associate([(objects.CT, LITTLE)])
        assert small.store(objects.ct(1)[0]) == 0


# headers


def deep(levels: int, *, explicit: bool) -> bytes:
    """Sequences of undefined length in one another, then the end of the data."""
    item = pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = (
        pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) if explicit else pack("<HHL", 8, 0x1140, 0xFFFFFFFF)
    )
    return (sequence + item) * levels


def bomb(length: int) -> bytes:
    """A deflated dataset that opens to so many bytes."""
    squeeze = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = pack("<HH2sHL", 0x0008, 0x0008, b"UN", 0, length)
    return b"".join(
        [squeeze.compress(head), *(squeeze.compress(bytes(1 << 20)) for _ in range(length >> 20)), squeeze.flush()]
    )


HOSTILE: Final[dict[str, tuple[bytes, str]]] = {
    "deep, explicit": (deep(10_000, explicit=True), wire.EXPLICIT_LITTLE),
    "deep, implicit": (deep(10_000, explicit=False), wire.IMPLICIT_LITTLE),
    "many elements": (pack("<HHL", 8, 0x50, 0) * 500_000, wire.IMPLICIT_LITTLE),
    "a bomb": (bomb(256 << 20), "1.2.840.10008.1.2.1.99"),
    "a bomb of sequences": (
        zlib.compress(deep(200_000, explicit=True), 9, wbits=-zlib.MAX_WBITS),
        "1.2.840.10008.1.2.1.99",
    ),
    "no end of a value": (pack("<HH2sHL", 8, 0x1140, b"UN", 0, 0xFFFFFFFE) + bytes(100), wire.EXPLICIT_LITTLE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_costs_little_time_and_memory(name: str) -> None:
    data, syntax = HOSTILE[name]
    read = 0

    def piece(offset: int, count: int) -> bytes:
        nonlocal read
        read += count
        return data[offset : offset + count]

    begun = time.process_time()
    header = read_header(piece, len(data), syntax, data[:8192])
    assert time.process_time() - begun < 1.0
    assert header.problem
    assert read <= MAX_READ
    tracemalloc.start()
    try:
        read_header(piece, len(data), syntax, data[:8192])
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_READ
    finally:
        tracemalloc.stop()
