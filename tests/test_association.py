"""Acceptor and requestor over real sockets: the acceptor in a loop of its own, against the peer made by hand."""

import asyncio
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Final, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.app import Appliance
from edge.board import Board
from edge.clock import SystemClock
from edge.config import Config, Dashboard, DimseDestination, Modality, Receive, ReceiveTimeouts, Storage
from edge.dicom import command as dimse
from edge.dicom.acceptor import Acceptor, Capacity, Peer
from edge.dicom.association import (
    AbortedError,
    Association,
    Limits,
    Message,
    ReleasedError,
)
from edge.dicom.command import CommandField
from edge.dicom.fsm import Evt, Machine, Sta
from edge.dicom.pdu import Abort, AssociateReject, InvalidPDU
from edge.dicom.requestor import Address, NoContextError, RejectedError, Requestor, connect
from edge.dicom.wire import ConnectionLostError, DeadlineError, Wire
from edge.findings import Journal
from edge.intake.admission import Admission
from edge.intake.policy import ReceivePolicy
from edge.model import Kind
from edge.spool import Free, Ledger
from edge.supervise import Supervisor
from tests.peers import objects, wire
from tests.peers.line import Line
from tests.peers.ports import LOOPBACK, listening, wait_for
from tests.peers.raw import Behaviour, PeerClosedError, RawReceiver, RawSender, Rejected
from tests.peers.wire import Control, Pdv

LITTLE: Final = [wire.EXPLICIT_LITTLE]
JPEG: Final = "1.2.840.10008.1.2.4.50"
WORKLIST: Final = "1.2.840.10008.5.1.4.31"
PRIVATE: Final = "1.2.826.0.1.3680043.9.3811.1"
SHORT: Final = Limits(request=0.4, idle=0.4, response=0.4, artim=0.2)
COMMAND: Final = Control.COMMAND | Control.LAST


class Kept(list[tuple[Peer, str, str, bytes]]):
    """Calling title, SOP Instance UID, transfer syntax and dataset of what came whole."""

    def digests(self) -> dict[str, bytes]:
        return {uid: data for _, uid, _, data in self}


class _Sink:
    pressure = False

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, fragment: memoryview, /) -> None:
        self.data += fragment

    async def relieve(self) -> None: ...


class Listener:
    """The acceptor with the appliance's own policy, and a C-STORE service that keeps datasets in memory.

    Leaving the context fails where a task of the acceptor failed.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        limits: Limits | None = None,
        capacity: Capacity | None = None,
        free: int = 1 << 40,
    ) -> None:
        self.kept = Kept()
        self.receiving = 0
        self.cut = 0
        self.port = 0
        self._config = config or Config()
        self._limits = limits or Limits(artim=0.5)
        self._capacity = capacity or Capacity()
        self._clock = SystemClock()
        self.journal = Journal(self._clock)
        self.board = Board(self._clock)
        self._admission = Admission(self.board, self.journal, self._clock, Ledger(lambda: Free(free, 1 << 20), 1 << 20))
        self._admission.open("starting")
        self._ready = threading.Event()
        self._closed: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="listener")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.close().result(20)
        self._thread.join(20)
        assert not self._thread.is_alive()
        if kind is None:
            assert [text for text in self.findings() if "failed and was started again" in text] == []

    def close(self) -> Future[None]:
        """Stop listening, as the appliance does at its end."""
        if not self._closed.done():
            self._loop.call_soon_threadsafe(self._stop.set)
        return self._closed

    def findings(self) -> list[str]:
        return [finding.text for finding in self.journal.open()]

    def told(self, words: str) -> None:
        """Wait until a finding speaks of it."""
        wait_for(lambda: any(words in text for text in self.findings()), 10, f"{words} in {self.findings()}")

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        acceptor = self.acceptor = Acceptor(
            ReceivePolicy(self._config, self._admission, self.board, self.journal, forgiven=0),
            {CommandField.C_STORE_RQ: self._keep},
            spawn=Supervisor(self.journal, self._clock).spawn,
            limits=self._limits,
            capacity=self._capacity,
        )
        self.port = await acceptor.listen(LOOPBACK, 0)
        self._ready.set()
        await self._stop.wait()
        await acceptor.close(2.0)
        self._closed.set_result(None)

    async def _keep(self, association: Association, message: Message, peer: Peer, /) -> None:
        sink = _Sink()
        self.receiving += 1
        try:
            await association.receive_dataset(message, sink)
        except BaseException:
            self.cut += 1
            raise
        self.kept.append((peer, message.command.sop_instance_uid, message.context.transfer_syntax, bytes(sink.data)))
        association.send_command(message.context.id, dimse.response(message.command, 0))


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as running:
        yield running


@pytest.fixture
def hasty() -> Iterator[Listener]:
    with Listener(limits=SHORT) as running:
        yield running


@contextmanager
def associated(port: int, *, calling: str = "RAW") -> Iterator[RawSender]:
    """A sender with CT in context 1, CT as JPEG in 3 and Verification in 5."""
    with RawSender(port, calling=calling, timeout=10) as sender:
        contexts = [(objects.CT, LITTLE), (objects.CT, [JPEG]), (wire.VERIFICATION, LITTLE)]
        assert set(sender.associate(contexts)) == {1, 3, 5}
        yield sender


def alive(port: int) -> None:
    """A new association is made, serves and ends."""
    with RawSender(port, timeout=10) as sender:
        sender.associate([(wire.VERIFICATION, LITTLE)])
        assert sender.echo() == 0


def command_of(obj: objects.DicomObject, message_id: int = 1) -> bytes:
    return wire.c_store_rq(message_id, obj.sop_class_uid, obj.sop_instance_uid).encode()


def ct_like() -> objects.DicomObject:
    """A small object that says it is a CT image."""
    (made,) = objects.tiny(1)
    return objects.DicomObject(
        objects.CT, made.sop_instance_uid, made.transfer_syntax_uid, made.study_uid, made.dataset
    )


# negotiation


def results(port: int, contexts: list[tuple[str, list[str]]], others: Sequence[tuple[int, bytes]] = ()) -> list[int]:
    with RawSender(port, timeout=10) as sender:
        sender.associate(contexts, others=others)
        assert sender.answer is not None
        return [answered.result for answered in sender.answer.contexts]


def storage_related(uid: str, service: str = "1.2.840.10008.4.2") -> tuple[int, bytes]:
    """SOP class common extended negotiation (PS3.7 D.3.3.6)."""
    parts = [struct.pack(">H", len(text)) + text.encode() for text in (uid, service)]
    return 0x57, b"".join(parts) + b"\0\0"


@pytest.mark.parametrize(
    ("abstract", "syntaxes", "result"),
    [
        (wire.VERIFICATION, LITTLE, 0),
        (objects.CT, LITTLE, 0),
        (objects.CT, ["1.2.3.4.5"], 0),
        (objects.CT, ["no syntax"], 4),
        (objects.CT, [], 4),
        (PRIVATE, LITTLE, 0),
        ("1.2.840.10008.5.1.4.1.1.5", LITTLE, 0),
        (WORKLIST, LITTLE, 3),
        ("1.2.840.10008.1.20.1", LITTLE, 0),
        ("1.2.840.10008.1.20.1", [JPEG, wire.DEFLATED, "1.2.3"], 4),
        ("1.2.840.10008.1.20.2", LITTLE, 3),
        ("1.2.840.10008.5.1.4.1.2.1.1", LITTLE, 3),
        ("1.2.840.10008.5.1.4.1.2.2.2", LITTLE, 3),
        ("1.2.840.10008.3.1.2.3.3", LITTLE, 3),
        ("1.2.840.10008.5.1.1.9", LITTLE, 3),
        ("1.2.840.10008.1.3.10", LITTLE, 3),
        ("no class", LITTLE, 3),
        ("", LITTLE, 3),
    ],
    ids=[
        "Verification",
        "CT",
        "an unknown transfer syntax",
        "nonsense for a transfer syntax",
        "no transfer syntax",
        "a private class",
        "retired NM",
        "worklist",
        "commitment",
        "commitment, in what nobody reads",
        "commitment, pull model",
        "find",
        "move",
        "procedure step",
        "printing",
        "DICOMDIR",
        "nonsense",
        "nothing",
    ],
)
def test_a_context_is_answered_with_its_reason(
    listener: Listener, abstract: str, syntaxes: list[str], result: int
) -> None:
    assert results(listener.port, [(abstract, syntaxes)]) == [result]


def test_each_context_is_answered_for_itself_and_in_order(listener: Listener) -> None:
    asked = [(WORKLIST, LITTLE), (objects.CT, LITTLE), (objects.CT, [JPEG]), (objects.MR, ["?"]), (PRIVATE, [JPEG])]
    assert results(listener.port, asked) == [3, 0, 0, 4, 0]


def test_the_first_syntax_that_makes_sense_is_taken(listener: Listener) -> None:
    with RawSender(listener.port, timeout=10) as sender:
        contexts = [(objects.CT, ["?", JPEG, *LITTLE]), (objects.CT, [*LITTLE, JPEG])]
        accepted = sender.associate(contexts)
        assert [accepted[number].transfer_syntax_uid for number in (1, 3)] == [JPEG, wire.EXPLICIT_LITTLE]


def test_128_contexts_are_accepted_at_once(listener: Listener) -> None:
    assert results(listener.port, [(objects.CT, LITTLE)] * 128) == [0] * 128


def test_several_contexts_of_one_class_are_kept_apart(listener: Listener) -> None:
    first, second = ct_like(), ct_like()
    with associated(listener.port) as sender:
        assert sender.store(first, context=1) == 0
        assert sender.store(second, context=3) == 0
    assert {uid: syntax for _, uid, syntax, _ in listener.kept} == {
        first.sop_instance_uid: wire.EXPLICIT_LITTLE,
        second.sop_instance_uid: JPEG,
    }


def test_private_classes_are_refused_where_the_configuration_says_so() -> None:
    with Listener(Config(receive=Receive(private_storage=False))) as strict:
        assert results(strict.port, [(PRIVATE, LITTLE), (objects.CT, LITTLE)]) == [3, 0]
        assert results(strict.port, [(PRIVATE, LITTLE)], others=[storage_related(PRIVATE)]) == [0]
        other_service = storage_related(PRIVATE, "1.2.840.10008.4.3")
        assert results(strict.port, [(PRIVATE, LITTLE)], others=[other_service]) == [3]


@pytest.mark.parametrize("abstract", [WORKLIST, "1.2.840.10008.5.1.4.1.2.1.1", "nonsense"])
def test_what_is_no_storage_does_not_become_storage_by_saying_so(listener: Listener, abstract: str) -> None:
    assert results(listener.port, [(abstract, LITTLE)], others=[storage_related(abstract)]) == [3]


def test_the_requestor_stays_user_and_never_becomes_provider(listener: Listener) -> None:
    with RawSender(listener.port, timeout=10) as sender:
        asked = [wire.Role(objects.CT, 1, 1), wire.Role(WORKLIST, 1, 1)]
        sender.associate([(objects.CT, LITTLE), (WORKLIST, LITTLE)], roles=asked)
        assert sender.answer is not None
        assert sender.answer.user.roles == (wire.Role(objects.CT, 1, 0),)


def test_a_role_asked_for_again_and_again_is_answered_once(listener: Listener) -> None:
    with RawSender(listener.port, timeout=10) as sender:
        sender.associate([(objects.CT, LITTLE)], roles=[wire.Role(objects.CT, 1, 1)] * 1980)
        assert sender.answer is not None
        assert sender.answer.user.roles == (wire.Role(objects.CT, 1, 0),)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ((0x53, b"\0\x05\0\x05"), (0x53, b"\0\1\0\1")),
        ((0x58, b"\2\1\0\4user\0\4word"), (0x59, b"\0\0")),
        ((0x58, b"\2\0\0\4user\0\4word"), None),
        ((0x56, b"\0\3" + b"1.2\1\1"), None),
        (storage_related(PRIVATE), None),
    ],
    ids=["async window", "identity, answer wanted", "identity", "extended", "common extended"],
)
def test_optional_negotiation_is_answered_as_the_standard_asks(
    listener: Listener, asked: tuple[int, bytes], answered: tuple[int, bytes] | None
) -> None:
    with RawSender(listener.port, timeout=10) as sender:
        sender.associate([(objects.CT, LITTLE)], others=[asked])
        assert sender.answer is not None
        assert sender.answer.user.others == (() if answered is None else (answered,))
        assert sender.answer.user.max_pdu == 256 * 1024


def test_the_answer_carries_the_titles_as_they_came(listener: Listener) -> None:
    with RawSender(listener.port, timeout=10) as sender:
        request = wire.AssociateRQ(called="EDGE\0", calling=" C T", contexts=(wire.Proposed(1, objects.CT, ()),))
        sender.send_bytes(request.encode())
        assert sender.read_pdu().body[4:68] == request.encode()[10:74]


# who is let in

MODALITIES: Final = Config(
    receive=Receive(ae_titles=("EDGE", "OLD PACS")),
    modality=(
        Modality(name="CT", ae_title="CT 1"),
        Modality(name="US", ae_title="US", address="10.0.0.0/8"),
        Modality(name="MR", ae_title="MR", address="127.0.0.0/8"),
    ),
    destination=(DimseDestination(name="pacs", host=LOOPBACK, ae_title="PACS"),),
)


@pytest.mark.parametrize(
    ("called", "calling", "rejected"),
    [
        ("EDGE", "CT 1", None),
        ("OLD PACS", "CT 1", None),
        ("  EDGE", " CT 1 ", None),
        ("EDGE\0\0", "\0CT 1\0\0", None),
        ("EDGE", "MR", None),
        ("EDGE", "PACS", None),
        ("edge", "CT 1", (1, 1, 7)),
        ("OLD  PACS", "CT 1", (1, 1, 7)),
        ("", "CT 1", (1, 1, 7)),
        ("PACS", "CT 1", (1, 1, 7)),
        ("EDGE", "ct 1", (1, 1, 3)),
        ("EDGE", "CT1", (1, 1, 3)),
        ("EDGE", "", (1, 1, 3)),
        ("EDGE", "EDGE", (1, 1, 3)),
        ("EDGE", "US", (1, 1, 3)),
    ],
)
def test_titles_and_address_decide_who_is_let_in(
    called: str, calling: str, rejected: tuple[int, int, int] | None
) -> None:
    with Listener(MODALITIES) as known, RawSender(known.port, called=called, calling=calling, timeout=10) as sender:
        if rejected is None:
            assert sender.associate([(objects.CT, LITTLE)])
            return
        with pytest.raises(Rejected) as caught:
            sender.associate([(objects.CT, LITTLE)])
        assert (caught.value.result, caught.value.source, caught.value.reason) == rejected
        known.told(f"{calling or 'A sender'} at {LOOPBACK} was refused")


def test_anyone_may_send_where_no_modality_is_configured(listener: Listener) -> None:
    for calling in ("EDGE", "anyone at all", ""):
        with RawSender(listener.port, calling=calling, timeout=10) as sender:
            assert sender.associate([(objects.CT, LITTLE)])


def test_the_peer_is_known_by_its_stripped_titles_and_address(listener: Listener) -> None:
    with RawSender(listener.port, calling="\0EDGE ", called=" EDGE\0", timeout=10) as sender:
        sender.associate([(objects.CT, LITTLE)])
        sender.store(ct_like())
    assert [peer for peer, *_ in listener.kept] == [Peer("EDGE", "EDGE", LOOPBACK)]


@pytest.mark.parametrize("capacity", [Capacity(associations=2), Capacity(per_address=2)])
def test_beyond_the_limit_an_association_is_rejected_until_one_ends(capacity: Capacity) -> None:
    with Listener(capacity=capacity) as small:
        with associated(small.port), associated(small.port) as second:
            with RawSender(small.port, timeout=10) as third, pytest.raises(Rejected) as caught:
                third.associate([(wire.VERIFICATION, LITTLE)])
            assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 2)
            assert second.echo() == 0
        wait_for(lambda: small.board.associations == 0, 10, "associations to end")
        alive(small.port)


def test_without_room_only_those_that_would_store_are_rejected() -> None:
    with Listener(free=0) as full:
        with RawSender(full.port, timeout=10) as sender, pytest.raises(Rejected) as caught:
            sender.associate([(objects.CT, LITTLE), (objects.MR, LITTLE)])
        assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 2)
        alive(full.port)


# lengths and fragments


@pytest.mark.parametrize("theirs", [0, 4096, 16384, 0xFFFFFFFF])
@pytest.mark.parametrize("ours", [4096, 256 * 1024])
def test_an_object_arrives_whole_whatever_lengths_are_announced(theirs: int, ours: int) -> None:
    (image,) = objects.mr(1)
    with Listener(capacity=Capacity(max_pdu=ours)) as running:
        with RawSender(running.port, max_pdu=theirs, timeout=10) as sender:
            sender.associate([(objects.MR, LITTLE)])
            assert sender.answer is not None
            assert sender.answer.user.max_pdu == ours
            assert sender.store(image) == 0
        assert running.kept.digests() == {image.sop_instance_uid: image.dataset}


def fragments(data: bytes, size: int, kind: int, context: int = 1) -> list[Pdv]:
    pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    last = len(pieces) - 1
    return [Pdv(context, kind | (Control.LAST if at == last else 0), piece) for at, piece in enumerate(pieces)]


def each_alone(command: list[Pdv], dataset: list[Pdv]) -> bytes:
    return b"".join(wire.p_data(value) for value in [*command, *dataset])


def all_in_one(command: list[Pdv], dataset: list[Pdv]) -> bytes:
    return wire.p_data(*command, *dataset)


def one_each(command: list[Pdv], dataset: list[Pdv]) -> bytes:
    return wire.p_data(*command) + wire.p_data(*dataset)


def across(command: list[Pdv], dataset: list[Pdv]) -> bytes:
    """The last of the command with the first of the dataset, between the rest of each."""
    return wire.p_data(*command[:-1]) + wire.p_data(command[-1], dataset[0]) + wire.p_data(*dataset[1:])


@pytest.mark.parametrize("layout", [each_alone, all_in_one, one_each, across])
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_however_a_message_is_cut_into_fragments_and_pdus_it_is_the_same(
    listener: Listener, size: int, layout: Callable[[list[Pdv], list[Pdv]], bytes]
) -> None:
    image = ct_like()
    with associated(listener.port) as sender:
        for number in (1, 2):
            command = fragments(command_of(image, number), size, Control.COMMAND)
            sender.send_bytes(layout(command, fragments(image.dataset, size, Control.DATASET)))
            answer = sender.read_message().command
            assert (answer.status, answer.number(wire.Field.RESPONDED_TO)) == (0, number)
    assert [data for *_, data in listener.kept] == [image.dataset] * 2


def test_empty_fragments_and_empty_pdus_carry_nothing_and_do_no_harm(listener: Listener) -> None:
    image, empty = ct_like(), wire.Pdu(wire.Type.P_DATA, b"").encode()
    with associated(listener.port) as sender:
        sender.send_bytes(
            empty
            + wire.p_data(Pdv(1, Control.COMMAND, b""), Pdv(1, COMMAND, command_of(image)))
            + empty
            + wire.p_data(Pdv(1, Control.DATASET, b""), Pdv(1, Control.DATASET, image.dataset))
            + empty
            + wire.p_data(Pdv(1, Control.LAST, b""))
        )
        assert sender.read_message().command.status == 0
    assert listener.kept.digests() == {image.sop_instance_uid: image.dataset}


def test_a_message_that_comes_a_byte_at_a_time_arrives(listener: Listener) -> None:
    image = ct_like()
    with associated(listener.port) as sender:
        whole = wire.p_data(Pdv(1, COMMAND, command_of(image)), Pdv(1, Control.LAST, image.dataset))
        for at in range(len(whole)):
            sender.send_bytes(whole[at : at + 1])
        assert sender.read_message().command.status == 0
    assert listener.kept.digests() == {image.sop_instance_uid: image.dataset}


def test_an_object_larger_than_the_receive_buffer_streams_through(listener: Listener) -> None:
    image = objects.multiframe(3)
    with RawSender(listener.port, timeout=20) as sender:
        sender.associate([(image.sop_class_uid, LITTLE)])
        assert sender.store(image, pdu=1 << 20) == 0
    assert listener.kept.digests() == {image.sop_instance_uid: image.dataset}


# commands


def test_echo_is_answered_also_while_objects_go_by(listener: Listener) -> None:
    with associated(listener.port) as sender:
        assert [sender.echo(), sender.store(ct_like()), sender.echo()] == [0, 0, 0]


@pytest.mark.parametrize("dataset", [b"", b"\x08\0\x52\0\4\0\0\0STUD"])
@pytest.mark.parametrize("verb", [0x0020, 0x0021, 0x0010, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x0100, 0x7777])
def test_a_command_that_nothing_serves_is_answered_0211_and_the_association_goes_on(
    listener: Listener, verb: int, dataset: bytes
) -> None:
    kind = 1 if dataset else wire.NO_DATASET
    fields: dict[int, int | str] = {wire.Field.COMMAND: verb, wire.Field.MESSAGE_ID: 9, wire.Field.DATASET_TYPE: kind}
    with associated(listener.port) as sender:
        sender.send_message(1, wire.Command.of(fields), dataset)
        answer = sender.read_message().command
        assert (answer.verb, answer.status) == (verb | wire.RESPONSE, 0x0211)
        assert answer.number(wire.Field.RESPONDED_TO) == 9
        assert sender.echo() == 0


@pytest.mark.parametrize("verb", [0x0FFF, 0x8001, 0x8100])
def test_a_cancel_or_a_response_to_nothing_is_not_answered(listener: Listener, verb: int) -> None:
    fields: dict[int, int | str] = {
        wire.Field.COMMAND: verb,
        wire.Field.RESPONDED_TO: 9,
        wire.Field.DATASET_TYPE: wire.NO_DATASET,
    }
    with associated(listener.port) as sender:
        sender.send_message(1, wire.Command.of(fields))
        assert sender.echo() == 0


# what breaks the rules


def ended(sender: RawSender) -> tuple[int, int]:
    """The A-ABORT that comes; then the connection is closed."""
    pdu = sender.read_pdu()
    assert pdu.type == wire.Type.ABORT
    abort = wire.Abort.decode(pdu.body)
    sender.close()
    return abort.source, abort.reason


def request_with(*ids: int) -> bytes:
    contexts = tuple(wire.Proposed(number, objects.CT, (wire.EXPLICIT_LITTLE,)) for number in ids)
    return wire.AssociateRQ(called="EDGE", calling="RAW", contexts=contexts).encode()


BEGINNINGS: Final[list[tuple[bytes, int, str]]] = [
    (request_with(2), 6, "even"),
    (request_with(0), 6, "even"),
    (request_with(1, 3, 1), 6, "used twice"),
    (wire.Pdu(1, bytes(10)).encode(), 6, "is cut"),
    (wire.Pdu(1, b"\0\1" + bytes(66) + b"\x10\0\xff\xff").encode(), 6, "longer than its PDU"),
    (wire.HEADER.pack(1, 0xFFFFFFFF), 6, "declares 4294967295 bytes"),
    (wire.HEADER.pack(1, 128 * 1024 + 1), 6, "declares 131073 bytes"),
    (wire.Pdu(8, b"").encode(), 1, "PDU type 8"),
    (wire.HEADER.pack(0, 0xFFFFFFFF), 1, "PDU type 0"),
    (b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n", 1, "PDU type 71 has no place here: it looks like HTTP"),
    (b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(100), 1, "PDU type 22 has no place here: it looks like TLS"),
    (wire.p_data(Pdv(1, COMMAND, b"")), 2, "PDU type 4"),
    (wire.RELEASE_RQ, 2, "PDU type 5"),
    (wire.RELEASE_RP, 2, "PDU type 6"),
    (wire.Pdu(2, bytes(68)).encode(), 2, "PDU type 2"),
    (wire.AssociateRJ(1, 1, 1).encode(), 2, "PDU type 3"),
]


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    BEGINNINGS,
    ids=[text for _, _, text in BEGINNINGS],
)
def test_who_begins_with_something_else_than_a_good_request_is_told_why(
    listener: Listener, data: bytes, reason: int, text: str
) -> None:
    with RawSender(listener.port, timeout=10) as sender:
        sender.send_bytes(data)
        assert ended(sender) == (2, reason)
    listener.told(text)
    alive(listener.port)


IMAGE: Final = command_of(ct_like())
BEGUN: Final = wire.p_data(Pdv(1, COMMAND, IMAGE), Pdv(1, Control.DATASET, b"\x08\0"))


VIOLATIONS: Final[list[tuple[bytes, int, str]]] = [
    (request_with(1), 2, "PDU type 1"),
    (wire.Pdu(2, bytes(68)).encode(), 2, "PDU type 2"),
    (wire.AssociateRJ(1, 1, 1).encode(), 2, "PDU type 3"),
    (wire.RELEASE_RP, 2, "PDU type 6"),
    (wire.Pdu(9, b"").encode(), 1, "PDU type 9"),
    (wire.Pdu(0xFF, b"").encode(), 1, "PDU type 255"),
    (wire.HEADER.pack(5, 0xFFFFFFFF), 6, "declares 4294967295 bytes"),
    (wire.HEADER.pack(7, 0xFFFFFFFF), 6, "declares 4294967295 bytes"),
    (wire.p_data(Pdv(7, COMMAND, IMAGE)), 6, "context 7 was not accepted"),
    (wire.p_data(Pdv(2, COMMAND, IMAGE)), 6, "context 2 was not accepted"),
    (wire.p_data(Pdv(1, COMMAND, b"nonsense")), 6, "command set"),
    (wire.p_data(Pdv(1, COMMAND, b"")), 6, "Command Field"),
    (wire.p_data(Pdv(1, Control.LAST, b"\x08\0")), 5, "where a command was due"),
    (wire.p_data(Pdv(1, Control.COMMAND, IMAGE[:20]), Pdv(1, Control.LAST, b"\x08\0")), 5, "a command was due"),
    (BEGUN + wire.p_data(Pdv(1, COMMAND, IMAGE)), 5, "mixed with another message"),
    (BEGUN + wire.p_data(Pdv(3, Control.LAST, b"\x08\0")), 5, "mixed with another message"),
    (BEGUN + wire.Pdu(9, b"").encode(), 1, "PDU type 9"),
    (BEGUN + request_with(1), 2, "PDU type 1"),
    (wire.Pdu(4, b"\0\0\0").encode(), 6, "no whole presentation data value"),
    (wire.Pdu(4, wire.PDV_HEADER.pack(1, 1, COMMAND)).encode(), 6, "longer than its PDU"),
    (wire.Pdu(4, wire.PDV_HEADER.pack(0, 1, COMMAND)).encode(), 6, "longer than its PDU"),
    (wire.Pdu(4, wire.PDV_HEADER.pack(9, 1, COMMAND) + b"ab").encode(), 6, "longer than its PDU"),
    (wire.Pdu(4, wire.PDV_HEADER.pack(0xFFFFFFFF, 1, COMMAND)).encode(), 6, "longer than its PDU"),
    (b"".join(wire.p_data(Pdv(1, Control.COMMAND, bytes(16000))) for _ in range(9)), 6, "too long"),
]


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    VIOLATIONS,
    ids=[text for _, _, text in VIOLATIONS],
)
def test_who_breaks_the_rules_of_an_association_loses_it_and_nothing_else(
    listener: Listener, data: bytes, reason: int, text: str
) -> None:
    image = ct_like()
    with associated(listener.port, calling="GOOD") as good:
        good.send_bytes(wire.p_data(Pdv(1, COMMAND, command_of(image))))
        with associated(listener.port, calling="BAD") as bad:
            bad.send_bytes(data)
            assert ended(bad) == (2, reason)
        listener.told(text)
        good.send_bytes(wire.p_data(Pdv(1, Control.LAST, image.dataset)))
        assert good.read_message().command.status == 0
    assert listener.kept.digests() == {image.sop_instance_uid: image.dataset}
    assert [text for text in listener.findings() if "GOOD" in text] == []


def test_an_abort_of_the_peer_is_no_misbehaviour(listener: Listener) -> None:
    for word in (wire.Abort(0, 0).encode(), wire.Abort(2, 6).encode(), wire.HEADER.pack(7, 0)):
        with associated(listener.port) as sender:
            sender.send_bytes(BEGUN + word)
            sender.wait_closed()
    wait_for(lambda: listener.board.associations == 0, 10, "associations to end")
    assert listener.cut == 3
    assert listener.findings() == []


def test_release_in_the_middle_of_an_object_is_answered_and_nothing_is_kept(listener: Listener) -> None:
    with associated(listener.port) as sender:
        sender.send_bytes(BEGUN + wire.RELEASE_RQ)
        assert sender.read_pdu().encode() == wire.RELEASE_RP
    wait_for(lambda: listener.cut == 1, 10, "the object to be given up")
    assert listener.kept == []


@pytest.fixture(scope="module")
def sturdy() -> Iterator[Listener]:
    with Listener(limits=SHORT) as running:
        yield running


GARBAGE: Final = st.lists(
    st.one_of(
        st.binary(max_size=64),
        st.builds(lambda kind, body: wire.Pdu(kind, body).encode(), st.integers(0, 9), st.binary(max_size=64)),
        st.builds(
            lambda context, control, data: wire.p_data(Pdv(context, control, data)),
            st.sampled_from([1, 1, 1, 3, 2]),
            st.integers(0, 4),
            st.sampled_from([b"", b"\x08\0", IMAGE]) | st.binary(max_size=32),
        ),
    ),
    min_size=1,
    max_size=5,
).map(b"".join)


@given(data=GARBAGE, established=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_garbage_brings_the_listener_down(sturdy: Listener, data: bytes, *, established: bool) -> None:
    with RawSender(sturdy.port, timeout=10) as sender:
        if established:
            sender.associate([(objects.CT, LITTLE), (objects.CT, [JPEG])])
        sender.send_bytes(data)
    alive(sturdy.port)
    assert [text for text in sturdy.findings() if "failed" in text] == []


# what takes too long


def test_who_says_nothing_is_closed(hasty: Listener) -> None:
    with RawSender(hasty.port, timeout=10) as sender:
        began = time.monotonic()
        sender.wait_closed()
        assert 0.3 < time.monotonic() - began < 5
    hasty.told("was too slow")


def test_dripping_a_request_gains_no_time(hasty: Listener) -> None:
    with RawSender(hasty.port, timeout=10) as sender:
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in request_with(1):
                sender.send_bytes(bytes([byte]))
                if time.monotonic() - began > 5:
                    break
                time.sleep(0.02)  # the pace of the drip
        assert time.monotonic() - began < 3
        hasty.told("was too slow")


def test_an_idle_association_is_aborted(hasty: Listener) -> None:
    with associated(hasty.port) as sender:
        assert sender.echo() == 0
        assert ended(sender) == (0, 0)
    hasty.told("RAW at 127.0.0.1 was too slow")


def test_a_command_begun_must_be_finished() -> None:
    with Listener(limits=Limits(idle=60, response=0.3, artim=0.2)) as running:
        with associated(running.port) as sender:
            sender.send_bytes(wire.p_data(Pdv(1, Control.COMMAND, IMAGE[:10])))
            assert ended(sender) == (0, 0)
        running.told("was too slow")


@pytest.fixture
def pacing() -> Iterator[Listener]:
    """A listener that wants 1 KiB/s over a fifth of a second."""
    with Listener(limits=Limits(pace=0.2, artim=0.5)) as running:
        yield running


def test_a_dataset_slower_than_the_least_pace_is_given_up(pacing: Listener) -> None:
    with associated(pacing.port) as sender:
        sender.send_bytes(wire.p_data(Pdv(1, COMMAND, IMAGE)))
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < 5:
                sender.send_bytes(wire.p_data(Pdv(1, Control.DATASET, b"ab")))
                time.sleep(0.02)  # the pace of the drip
        assert time.monotonic() - began < 3
    pacing.told("slower than 1 KiB/s")
    assert (pacing.cut, pacing.kept) == (1, [])


def test_a_dataset_that_stops_is_given_up(pacing: Listener) -> None:
    with associated(pacing.port) as sender:
        sender.send_bytes(BEGUN)
        assert ended(sender) == (0, 0)
    pacing.told("was too slow")
    assert (pacing.cut, pacing.kept) == (1, [])


def test_a_dataset_that_keeps_the_least_pace_arrives_however_long_it_takes(pacing: Listener) -> None:
    image = ct_like()
    with associated(pacing.port) as sender:
        sender.send_bytes(wire.p_data(Pdv(1, COMMAND, command_of(image))))
        began, sent = time.monotonic(), 0
        while sent < len(image.dataset):
            piece = image.dataset[sent : sent + 128]
            sent += len(piece)
            control = Control.DATASET if sent < len(image.dataset) else Control.LAST
            sender.send_bytes(wire.p_data(Pdv(1, control, piece)))
            time.sleep(0.02)  # 6 KiB/s, over several times the pace
            if time.monotonic() - began > 0.8:
                sender.send_bytes(wire.p_data(Pdv(1, Control.LAST, image.dataset[sent:])))
                break
        assert sender.read_message().command.status == 0
    assert pacing.kept.digests() == {image.sop_instance_uid: image.dataset}


def test_who_does_not_close_after_an_abort_is_cut_off(hasty: Listener) -> None:
    with RawSender(hasty.port, timeout=10) as sender:
        sender.send_bytes(wire.Pdu(9, b"").encode())
        assert sender.read_pdu().type == wire.Type.ABORT
        sender.wait_closed()
    hasty.told("PDU type 9")


def test_closing_lets_an_object_finish_that_has_begun() -> None:
    image = ct_like()
    with Listener() as running, associated(running.port) as sender:
        sender.send_bytes(wire.p_data(Pdv(1, COMMAND, command_of(image))))
        sender.send_bytes(wire.p_data(Pdv(1, Control.DATASET, image.dataset[:100])))
        wait_for(lambda: running.receiving == 1, 10, "the object to begin")
        closing = running.close()
        wait_for(lambda: not listening(running.port), 5, "the port to close")
        sender.send_bytes(wire.p_data(Pdv(1, Control.LAST, image.dataset[100:])))
        assert sender.read_message().command.status == 0
        assert ended(sender) == (0, 0)
        closing.result(10)
    assert running.kept.digests() == {image.sop_instance_uid: image.dataset}


async def test_a_connection_whose_task_is_cancelled_before_it_ran_is_closed_too() -> None:
    clock = SystemClock()
    board, journal = Board(clock), Journal(clock)
    admission = Admission(board, journal, clock, Ledger(lambda: Free(1 << 40, 1 << 20), 0))

    def cancelled(coroutine: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.cancel()
        return task

    acceptor = Acceptor(ReceivePolicy(Config(), admission, board, journal), {}, spawn=cancelled)
    port = await acceptor.listen(LOOPBACK, 0)

    def knock() -> None:
        with RawSender(port, timeout=5) as sender:
            sender.wait_closed()

    await asyncio.to_thread(knock)
    await acceptor.close(1)


# files and rows: the whole appliance in this process


class Box:
    """An appliance in a loop of its own, with short timeouts."""

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "s"
        receive = Receive(address=LOOPBACK, port=0, timeouts=ReceiveTimeouts(request=0.5, idle=0.5))
        self._config = Config(
            storage=Storage(path=self.storage, reserve=1 << 20), receive=receive, dashboard=Dashboard(enabled=False)
        )
        self._ready = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._done = self._pool.submit(lambda: asyncio.run(self._run()))
        wait_for(lambda: self._ready.is_set() or self._done.done(), 20, "the appliance")
        if self._done.done():
            self._done.result()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._appliance.stop)
        self._done.result(20)
        self._pool.shutdown()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._appliance = Appliance(self._config)
        await self._appliance.run(lambda _: self._ready.set())

    @property
    def port(self) -> int:
        return self._appliance.ports[0]

    @property
    def associations(self) -> int:
        return self._appliance.board.associations

    def rows(self) -> list[str]:
        database = self.storage / "db" / "edge.sqlite"
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
        try:
            return [uid for (uid,) in connection.execute("SELECT sop_instance_uid FROM instance ORDER BY id")]
        finally:
            connection.close()

    def files(self) -> list[Path]:
        return [*(self.storage / "spool").rglob("*.part"), *(self.storage / "spool").rglob("*.dcm")]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "ending",
    [
        wire.Abort(0, 0).encode(),
        wire.Abort(2, 2).encode(),
        wire.RELEASE_RQ,
        wire.Pdu(9, b"").encode(),
        wire.p_data(Pdv(1, COMMAND, IMAGE)),
        wire.Pdu(4, b"\0").encode(),
        b"",
    ],
    ids=["abort", "provider's abort", "release", "unknown PDU", "another command", "malformed PDU", "dropped"],
)
def test_an_object_broken_off_leaves_no_file_and_no_row(box: Box, ending: bytes) -> None:
    broken, whole = objects.multiframe(1), ct_like()
    with RawSender(box.port, timeout=10) as sender:
        sender.associate([(broken.sop_class_uid, LITTLE)])
        sender.send_bytes(wire.p_data(Pdv(1, COMMAND, command_of(broken))))
        for piece in fragments(broken.dataset, 16000, Control.DATASET)[:-1]:
            sender.send_bytes(wire.p_data(piece))
        wait_for(lambda: len(box.files()) == 1, 10, "the part")
        sender.send_bytes(ending)
    wait_for(lambda: box.associations == 0 and box.files() == [], 10, "the part to go")
    with RawSender(box.port, timeout=10) as sender:
        sender.associate([(objects.RAW_DATA, LITTLE)])
        (made,) = objects.tiny(1)
        assert sender.store(made) == 0
    wait_for(lambda: box.rows() == [made.sop_instance_uid], 10, "the row of what came whole")
    assert len(box.files()) == 1
    assert whole.sop_instance_uid not in box.rows()


def test_an_object_without_a_dataset_is_refused_and_leaves_nothing(box: Box) -> None:
    command = wire.c_store_rq(1, objects.CT, "1.2.3")
    without = wire.Command({**command.elements, wire.Field.DATASET_TYPE: struct.pack("<H", wire.NO_DATASET)})
    with RawSender(box.port, timeout=10) as sender:
        sender.associate([(objects.CT, LITTLE), (wire.VERIFICATION, LITTLE)])
        sender.send_message(1, without)
        assert sender.read_message().command.status == 0xC000
        assert sender.echo() == 0
    assert (box.files(), box.rows()) == ([], [])


@pytest.mark.parametrize("uid", ["", "x" * 65, "1.2\x01"])
def test_an_object_whose_command_makes_no_sense_is_drained_and_refused(box: Box, uid: str) -> None:
    with RawSender(box.port, timeout=10) as sender:
        sender.associate([(objects.CT, LITTLE), (wire.VERIFICATION, LITTLE)])
        sender.send_message(1, wire.c_store_rq(1, objects.CT, uid), ct_like().dataset)
        assert sender.read_message().command.status == 0xC000
        assert sender.echo() == 0
    assert (box.files(), box.rows()) == ([], [])


# the calling side


def address(port: int, *, response: float = 10, max_pdu: int = 65536) -> Address:
    return Address(
        host=LOOPBACK, port=port, called="PACS", calling="EDGE", max_pdu=max_pdu, connect=10, response=response
    )


def from_memory(data: bytes) -> Callable[[int], Awaitable[bytes]]:
    source = BytesIO(data)

    async def read(count: int) -> bytes:
        return source.read(count)

    return read


def kind_of(obj: objects.DicomObject) -> Kind:
    return Kind(obj.sop_class_uid, obj.transfer_syntax_uid)


async def send(requestor: Requestor, obj: objects.DicomObject) -> dimse.Command:
    return await requestor.store(kind_of(obj), obj.sop_instance_uid, obj.length, from_memory(obj.dataset))


PROPOSALS: Final = [(objects.CT, (wire.EXPLICIT_LITTLE,)), (wire.VERIFICATION, (wire.IMPLICIT_LITTLE,))]


async def test_our_requestor_and_our_acceptor_understand_each_other(listener: Listener) -> None:
    images = objects.ct(2)
    requestor = await connect(Address(host=LOOPBACK, port=listener.port, called="EDGE", calling="EDGE"), PROPOSALS)
    assert await requestor.echo() == 0
    assert [(await send(requestor, image)).status for image in images] == [0, 0]
    await requestor.release()
    assert not requestor.usable
    assert listener.kept.digests() == {image.sop_instance_uid: image.dataset for image in images}
    assert listener.findings() == []


@pytest.mark.parametrize("max_pdu", [0, 8, 100, 4096, 16384, 65536, 1 << 20, 0xFFFFFFFF])
async def test_we_send_in_pdus_of_the_peers_length(max_pdu: int) -> None:
    image, odd = objects.tiny(2)
    odd = objects.DicomObject(
        odd.sop_class_uid, odd.sop_instance_uid, odd.transfer_syntax_uid, odd.study_uid, odd.dataset + b"\1"
    )
    images = [image, odd, *([objects.multiframe(2)] if max_pdu > 100 or not max_pdu else [])]
    with RawReceiver(max_pdu=max_pdu) as receiver:
        requestor = await connect(address(receiver.port), [(i.sop_class_uid, (i.transfer_syntax_uid,)) for i in images])
        assert [(await send(requestor, each)).status for each in images] == [0] * len(images)
        await requestor.release()
        assert {r.sop_instance_uid: r.digest for r in receiver.received} == {
            i.sop_instance_uid: i.wire_digest for i in images
        }
        assert receiver.problems == []
        assert receiver.wait_ending() == ["released"]


async def test_the_request_says_who_calls_whom_and_what_we_take() -> None:
    with RawReceiver() as receiver:
        requestor = await connect(address(receiver.port, max_pdu=4096), PROPOSALS)
        await requestor.release()
        (request,) = receiver.requests
        assert (request.called, request.calling, request.user.max_pdu) == ("PACS", "EDGE", 4096)
        assert [(c.id, c.abstract, c.syntaxes) for c in request.contexts] == [
            (1, *PROPOSALS[0]),
            (3, *PROPOSALS[1]),
        ]


@pytest.mark.parametrize("reject", [(1, 1, 7), (1, 1, 3), (2, 3, 2)])
async def test_a_rejection_is_told_with_its_reason(reject: tuple[int, int, int]) -> None:
    with RawReceiver(reject=reject) as receiver:
        with pytest.raises(RejectedError) as caught:
            await connect(address(receiver.port), PROPOSALS)
        assert caught.value.reject == AssociateReject(*reject)


async def test_what_the_peer_did_not_take_cannot_be_sent_and_what_it_took_can() -> None:
    with RawReceiver(negotiate=lambda abstract, syntaxes: 3 if abstract == objects.MR else syntaxes[0]) as receiver:
        (mr,), image = objects.mr(1), ct_like()
        requestor = await connect(address(receiver.port), [(objects.MR, (wire.EXPLICIT_LITTLE,)), *PROPOSALS[:1]])
        assert (requestor.takes(kind_of(mr)), requestor.takes(kind_of(image))) == (False, True)
        with pytest.raises(NoContextError, match="was refused"):
            await send(requestor, mr)
        with pytest.raises(NoContextError, match="verification was refused"):
            await requestor.echo()
        assert (await send(requestor, image)).status == 0
        await requestor.release()


async def test_a_syntax_that_was_not_proposed_is_not_used() -> None:
    with RawReceiver(negotiate=lambda _abstract, _syntaxes: JPEG) as receiver:
        requestor = await connect(address(receiver.port), PROPOSALS)
        assert not requestor.takes(Kind(objects.CT, wire.EXPLICIT_LITTLE))
        assert not requestor.takes(Kind(objects.CT, JPEG))
        await requestor.release()


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xA700, 0xA900, 0xC000, 0x0110])
async def test_the_status_is_the_peers(status: int) -> None:
    with RawReceiver(status_for=lambda _received: status) as receiver:
        requestor = await connect(address(receiver.port), PROPOSALS)
        assert (await send(requestor, ct_like())).status == status
        assert requestor.usable
        await requestor.release()


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (Behaviour.ABORT, AbortedError),
        (Behaviour.ABORT_MID, AbortedError),
        (Behaviour.RELEASE, ReleasedError),
        (Behaviour.CLOSE, ConnectionLostError),
        (Behaviour.SILENT, DeadlineError),
    ],
)
async def test_a_peer_that_does_not_answer_ends_the_association(behaviour: Behaviour, error: type[Exception]) -> None:
    with RawReceiver(status_for=lambda _received: behaviour) as receiver:
        requestor = await connect(address(receiver.port, response=0.5), PROPOSALS)
        with pytest.raises(error):
            await send(requestor, ct_like())
        assert not requestor.usable
        await requestor.release()
        if behaviour is Behaviour.SILENT:
            assert receiver.wait_ending() == ["aborted by the peer: (0, 0)"]


async def test_an_answer_without_a_status_has_none() -> None:
    with RawReceiver(status_for=lambda _received: Behaviour.EMPTY) as receiver:
        requestor = await connect(address(receiver.port), PROPOSALS)
        assert (await send(requestor, ct_like())).status is None
        await requestor.release()


async def test_a_peer_that_connects_and_never_answers_is_given_up() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        began = time.monotonic()
        silent_address = Address(
            host=LOOPBACK, port=silent.getsockname()[1], called="A", calling="B", connect=0.3, response=0.3
        )
        with pytest.raises(DeadlineError):
            await connect(silent_address, PROPOSALS)
        assert time.monotonic() - began < 5


async def test_nobody_at_the_port_is_said_as_the_system_says_it() -> None:
    with socket.create_server((LOOPBACK, 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await connect(address(port), PROPOSALS)


# a peer that follows a script


class Script:
    """Accepts one connection and plays `act` on it; what `act` raises, leaving the context raises."""

    def __init__(self, act: Callable[[Line], None]) -> None:
        self._act = act
        self._server = socket.create_server((LOOPBACK, 0))
        self.port: int = self._server.getsockname()[1]
        self._pool = ThreadPoolExecutor(1)
        self._done: Future[None] | None = None

    def __enter__(self) -> Self:
        self._done = self._pool.submit(self._play)
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._done is not None and kind is None:
            self._done.result(10)
        self._server.close()
        self._pool.shutdown()

    def _play(self) -> None:
        self._server.settimeout(10)
        sock, _ = self._server.accept()
        with sock:
            line = Line(sock)
            line.limit(10)
            self._act(line)


def accept(line: Line) -> None:
    request = wire.AssociateRQ.decode(line.pdu().body)
    answers = tuple(wire.Answered(c.id, 0, c.syntaxes[0]) for c in request.contexts)
    line.send(wire.AssociateAC(called=request.called, calling=request.calling, contexts=answers).encode())


def collide_as_acceptor(line: Line) -> None:
    accept(line)
    assert line.pdu().type == wire.Type.RELEASE_RQ
    line.send(wire.RELEASE_RQ)
    assert line.pdu().type == wire.Type.RELEASE_RP
    line.send(wire.RELEASE_RP)
    with pytest.raises((PeerClosedError, ConnectionResetError)):
        line.pdu()


async def test_when_both_ask_for_release_the_requestor_answers_first() -> None:
    with Script(collide_as_acceptor) as script:
        requestor = await connect(address(script.port), PROPOSALS)
        await requestor.release()


async def test_when_both_ask_for_release_the_acceptor_answers_last() -> None:
    made: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
    server = await asyncio.get_running_loop().create_server(lambda: Wire(made.set_result), LOOPBACK, 0)

    def play(port: int) -> list[int]:
        with RawSender(port, timeout=10) as sender:
            kinds = [sender.read_pdu().type]
            sender.send_bytes(wire.RELEASE_RQ + wire.RELEASE_RP)
            kinds.append(sender.read_pdu().type)
            sender.wait_closed()
            return kinds

    playing = asyncio.create_task(asyncio.to_thread(play, server.sockets[0].getsockname()[1]))
    association = Association(await made, Machine(requestor=False, state=Sta.STA6), Limits(artim=5))
    await association.release()
    assert await playing == [wire.Type.RELEASE_RQ, wire.Type.RELEASE_RP]
    server.close()
    await server.wait_closed()


def never_release(line: Line) -> None:
    accept(line)
    assert line.pdu().type == wire.Type.RELEASE_RQ
    line.drain(8)


async def test_a_peer_that_does_not_answer_a_release_is_cut_off() -> None:
    with Script(never_release) as script:
        requestor = await connect(address(script.port), PROPOSALS)
        began = time.monotonic()
        await requestor.release()
        assert time.monotonic() - began < 8


async def test_a_peer_that_stops_reading_is_given_up() -> None:
    over = threading.Event()

    def stop_reading(line: Line) -> None:
        accept(line)
        assert over.wait(20)

    with Script(stop_reading) as script:
        requestor = await connect(address(script.port, response=0.5), PROPOSALS)
        endless = 1 << 30

        async def read(count: int) -> bytes:
            return bytes(count)

        began = time.monotonic()
        with pytest.raises(DeadlineError):
            await requestor.store(Kind(objects.CT, wire.EXPLICIT_LITTLE), "1.2.3", endless, read)
        assert time.monotonic() - began < 8
        assert not requestor.usable
        over.set()


def answers(message: Callable[[wire.Command], bytes]) -> Callable[[Line], None]:
    """Accept, take an echo, answer with `message`, and wait for the abort."""

    def act(line: Line) -> None:
        accept(line)
        (value,) = wire.decode_p_data(line.pdu().body)
        line.send(message(wire.Command.decode(value.data)))
        with suppress(PeerClosedError, ConnectionResetError):
            while line.pdu().type != wire.Type.ABORT:
                pass

    return act


@pytest.mark.parametrize(
    "message",
    [
        lambda _request: wire.p_data(Pdv(3, COMMAND, wire.response(wire.c_echo_rq(999), 0).encode())),
        lambda request: wire.p_data(Pdv(3, COMMAND, request.encode())),
        lambda request: wire.p_data(Pdv(9, COMMAND, wire.response(request, 0).encode())),
        lambda request: wire.p_data(Pdv(3, Control.LAST, wire.response(request, 0).encode())),
        lambda _request: wire.p_data(Pdv(3, COMMAND, b"nonsense")),
        lambda _request: wire.Pdu(9, b"").encode(),
        lambda _request: wire.Pdu(2, bytes(68)).encode(),
        lambda _request: wire.HEADER.pack(5, 0xFFFFFFFF),
    ],
    ids=[
        "to another message",
        "a request",
        "in a context not made",
        "a dataset",
        "nonsense",
        "an unknown PDU",
        "an accept",
        "4 GiB of release",
    ],
)
async def test_an_answer_that_is_none_ends_the_association(message: Callable[[wire.Command], bytes]) -> None:
    with Script(answers(message)) as script:
        requestor = await connect(address(script.port), PROPOSALS)
        with pytest.raises(InvalidPDU):
            await requestor.echo()
        assert not requestor.usable


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (wire.Pdu(2, bytes(10)).encode(), InvalidPDU),
        (wire.Pdu(3, b"\0").encode(), InvalidPDU),
        (wire.HEADER.pack(2, 0xFFFFFFFF), InvalidPDU),
        (wire.RELEASE_RP, InvalidPDU),
        (wire.Pdu(0x47, b"").encode(), InvalidPDU),
        (wire.Abort(2, 6).encode(), AbortedError),
        (b"", ConnectionLostError),
        (b"\2", ConnectionLostError),
    ],
)
async def test_a_request_that_is_answered_badly_fails_at_once(answer: bytes, error: type[Exception]) -> None:
    def act(line: Line) -> None:
        line.pdu()
        line.send(answer)

    with Script(act) as script, pytest.raises(error) as caught:
        await connect(address(script.port), PROPOSALS)
    if isinstance(caught.value, AbortedError):
        assert caught.value.abort == Abort(2, 6)


async def test_a_dataset_that_cannot_be_read_is_no_fault_of_the_peer() -> None:
    async def broken(_count: int) -> bytes:
        raise EOFError("the file is short")

    with RawReceiver() as receiver:
        requestor = await connect(address(receiver.port), PROPOSALS)
        with pytest.raises(EOFError):
            await requestor.store(Kind(objects.CT, wire.EXPLICIT_LITTLE), "1.2.3", 100, broken)
        await requestor.abort()
        assert receiver.received == []


def test_the_machine_starts_where_the_transport_does() -> None:
    machine = Machine(requestor=False)
    machine.fire(Evt.EVT5)
    assert machine.state is Sta.STA2
