"""N-ACTION, N-EVENT-REPORT and C-FIND over associations of either side: against scripts, and against pynetdicom."""

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import pytest
from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.ae import ApplicationEntity

from edge.clock import SystemClock
from edge.dicom import command as dimse
from edge.dicom import requestor as requesting
from edge.dicom.acceptor import Acceptor, Peer
from edge.dicom.association import Association, Gather, LimitError, Message, ReleasedError
from edge.dicom.command import CommandField
from edge.dicom.commitment import (
    ACTION_TYPE,
    INSTANCE,
    MOST_BYTES,
    ActionInformation,
    Report,
    decode_action,
    decode_report,
    encode_action,
    encode_report,
)
from edge.dicom.dataset import SYNTAXES
from edge.dicom.find import FindError, image_query, instance_uid
from edge.dicom.pdu import AssociateReject, AssociateRequest, InvalidPDU, Role
from edge.dicom.requestor import NoContextError, Requestor, connect
from edge.dicom.uids import STORAGE_COMMITMENT, STUDY_ROOT_FIND
from edge.dicom.wire import ConnectionLostError, DeadlineError
from edge.findings import Journal
from edge.model import Failure, Reference
from edge.supervise import Supervisor
from tests.peers import wire
from tests.peers.line import Line, PeerClosedError
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.wire import Control, Field, Pdv, Verb
from tests.test_association import COMMAND, Script, accept, address

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
ASKED: Final = ActionInformation("2.25.7", (Reference(CT, "1.2.3"), Reference(CT, "1.2.34")))
SAID: Final = Report("2.25.7", (Reference(CT, "1.2.3"),), (Failure(Reference(CT, "1.2.34"), 0x0112),))
PUSH: Final = [(STORAGE_COMMITMENT, SYNTAXES)]
FIND: Final = [(STUDY_ROOT_FIND, SYNTAXES)]
C_FIND: Final = 0x0020


class Taken(list[tuple[int | None, Report]]):
    """A taker that keeps what it was given."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    async def __call__(self, message: Message, dataset: bytes) -> int:
        self.append((message.command.event_type, decode_report(dataset, message.context.transfer_syntax)))
        return self.status


# scripts


def answer(line: Line, request: wire.Command, status: int | None = 0, data: bytes | None = None) -> None:
    elements: dict[int, int | str] = {
        Field.AFFECTED_CLASS: request.text(Field.AFFECTED_CLASS) or request.text(Field.REQUESTED_CLASS),
        Field.COMMAND: request.verb | wire.RESPONSE,
        Field.RESPONDED_TO: request.message_id,
        Field.DATASET_TYPE: wire.NO_DATASET if data is None else 0,
    }
    if status is not None:
        elements[Field.STATUS] = status
    send(line, wire.Command.of(elements), data)


def send(line: Line, command: wire.Command, data: bytes | None = None) -> None:
    values = [Pdv(1, COMMAND, command.encode())]
    if data is not None:
        values.append(Pdv(1, Control.LAST, data))
    line.send(wire.p_data(*values))


def event(message_id: int, data: bytes | None = None) -> wire.Command:
    return wire.Command.of(
        {
            Field.AFFECTED_CLASS: STORAGE_COMMITMENT,
            Field.COMMAND: Verb.N_EVENT_REPORT,
            Field.MESSAGE_ID: message_id,
            Field.DATASET_TYPE: wire.NO_DATASET if data is None else 0,
            Field.AFFECTED_INSTANCE: INSTANCE,
            Field.EVENT_TYPE: 2,
        }
    )


def receive(line: Line) -> tuple[wire.Command, bytes]:
    command: wire.Command | None = None
    dataset = b""
    while True:
        for value in wire.decode_p_data(line.pdu().body):
            if value.control & Control.COMMAND:
                command = wire.Command.decode(value.data)
            else:
                dataset += value.data
            if command is not None and value.control & Control.LAST and (dataset or not command.has_dataset):
                return command, dataset


def told(line: Line, message_id: int) -> wire.Command:
    """Report, and take the answer."""
    data = encode_report(SAID, SYNTAXES[0])
    send(line, event(message_id, data), data)
    reply, _ = receive(line)
    assert (reply.verb, reply.number(Field.RESPONDED_TO)) == (Verb.N_EVENT_REPORT | wire.RESPONSE, message_id)
    return reply


def released(line: Line) -> None:
    assert line.pdu().type == wire.Type.RELEASE_RQ
    line.send(wire.RELEASE_RP)


def aborted(line: Line) -> None:
    with suppress(PeerClosedError, ConnectionResetError):
        while line.pdu().type != wire.Type.ABORT:
            pass


async def act(requestor: Requestor, taken: requesting.Taker | None = None) -> dimse.Command:
    data = encode_action(ASKED, requestor.syntax_of(STORAGE_COMMITMENT))
    return await requestor.action(STORAGE_COMMITMENT, INSTANCE, ACTION_TYPE, data, taken)


# as SCU of storage commitment


async def test_the_request_goes_out_as_the_standard_asks_and_its_answer_comes_back() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        request, data = receive(line)
        assert (request.verb, request.number(Field.ACTION_TYPE)) == (Verb.N_ACTION, 1)
        assert request.text(Field.REQUESTED_CLASS) == STORAGE_COMMITMENT
        assert request.text(Field.REQUESTED_INSTANCE) == INSTANCE
        assert decode_action(data, SYNTAXES[0]) == ASKED
        answer(line, request, 0x0110)
        released(line)

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        assert (await act(requestor)).status == 0x0110
        assert requestor.usable
        await requestor.release()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_report_that_comes_before_the_answer_is_answered_before_it(times: int) -> None:
    def act_out(line: Line) -> None:
        accept(line)
        request, _ = receive(line)
        for number in range(times):
            assert told(line, 100 + number).status == 0
        answer(line, request)
        released(line)

    taken = Taken()
    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        assert (await act(requestor, taken)).status == 0
        await requestor.release()
    assert taken == [(2, SAID)] * times


async def test_reports_after_the_answer_are_taken_while_one_waits() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        request, _ = receive(line)
        answer(line, request)
        assert [told(line, number).status for number in (1, 2)] == [0x0110, 0x0110]
        send(line, event(3))
        assert receive(line)[0].status == 0x0110
        released(line)

    taken, bare = Taken(0x0110), []

    async def take(message: Message, dataset: bytes) -> int:
        if dataset:
            return await taken(message, dataset)
        bare.append(message)
        return taken.status

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        assert (await act(requestor, take)).status == 0
        assert [await requestor.listen(10, take) for _ in range(3)] == [True] * 3
        await requestor.release()
    assert (len(taken), len(bare)) == (2, 1)


async def test_when_nothing_comes_the_association_stands() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        for _ in range(2):
            request, _ = receive(line)
            answer(line, request)
        released(line)

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        await act(requestor)
        assert not await requestor.listen(0.05, Taken())
        assert requestor.usable
        assert (await act(requestor)).status == 0
        await requestor.release()


async def test_a_peer_that_is_done_while_we_wait_says_so() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        line.send(wire.RELEASE_RQ)
        assert line.pdu().type == wire.Type.RELEASE_RP

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        with pytest.raises(ReleasedError):
            await requestor.listen(10, Taken())
        assert not requestor.usable


async def test_a_peer_that_goes_while_we_wait_is_gone() -> None:
    with Script(accept) as script:
        requestor = await connect(address(script.port), PUSH)
        with pytest.raises(ConnectionLostError):
            await requestor.listen(10, Taken())
        assert not requestor.usable


async def test_a_reply_dataset_to_the_request_is_read_and_forgotten() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        request, _ = receive(line)
        answer(line, request, 0, b"\x08\0\x16\0\0\0\0\0" * 10)
        assert told(line, 1).status == 0
        released(line)

    taken = Taken()
    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        assert (await act(requestor, taken)).status == 0
        assert await requestor.listen(10, taken)
        await requestor.release()


async def test_a_report_that_nobody_expects_ends_the_association() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        receive(line)
        send(line, event(1))
        aborted(line)

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        with pytest.raises(InvalidPDU, match="another question"):
            await act(requestor)
        assert not requestor.usable


async def test_what_comes_unasked_and_is_no_report_ends_the_association() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        send(line, wire.c_echo_rq(1))
        aborted(line)

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        with pytest.raises(InvalidPDU, match="unasked"):
            await requestor.listen(10, Taken())


@pytest.mark.parametrize("before", [True, False], ids=["before the answer", "after it"])
async def test_a_flood_of_reports_is_bounded_and_makes_nothing_grow(
    monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    monkeypatch.setattr(requesting, "MOST_REPORTS", 300)
    data = bytes(8192)

    def act_out(line: Line) -> None:
        accept(line)
        request, _ = receive(line)
        if not before:
            answer(line, request)
        with suppress(ConnectionError, PeerClosedError, wire.MalformedError):  # an abort is no P-DATA
            for number in range(5000):
                send(line, event(number, data), data)
                receive(line)

    taken = 0

    async def count(_message: Message, dataset: bytes) -> int:
        nonlocal taken
        taken += len(dataset) == len(data)
        return 0

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        tracemalloc.start()
        try:
            with pytest.raises(InvalidPDU, match="without end"):  # noqa: PT012 - what floods after the answer comes now
                await act(requestor, count)
                while await requestor.listen(10, count):
                    pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not requestor.usable
    assert taken == 300
    assert peak < 2 << 20


async def test_a_report_longer_than_may_be_held_ends_the_association(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.commitment.MOST_BYTES", 65536)

    def act_out(line: Line) -> None:
        accept(line)
        receive(line)
        with suppress(ConnectionError):
            send(line, event(1, bytes(70000)), bytes(70000))
        aborted(line)

    taken = Taken()
    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        with pytest.raises(InvalidPDU, match="longer than 64 KiB"):
            await act(requestor, taken)
        assert not requestor.usable
    assert taken == []


async def test_a_peer_that_reports_and_never_answers_is_given_up_in_time() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        receive(line)
        with suppress(ConnectionError, PeerClosedError, wire.MalformedError):
            for number in range(100):
                told(line, number)
                time.sleep(0.1)

    began = time.monotonic()
    with Script(act_out) as script:
        requestor = await connect(address(script.port, response=0.5), PUSH)
        with pytest.raises(DeadlineError):
            await act(requestor, Taken())
        assert not requestor.usable
    assert time.monotonic() - began < 8


async def test_the_takers_own_time_is_not_the_peers() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        request, _ = receive(line)
        told(line, 1)
        answer(line, request)
        released(line)

    async def slow(_message: Message, _dataset: bytes) -> int:
        await asyncio.sleep(0.6)
        return 0

    with Script(act_out) as script:
        requestor = await connect(address(script.port, response=0.5), PUSH)
        assert (await act(requestor, slow)).status == 0
        await requestor.release()


async def test_a_report_that_stops_in_the_middle_ends_the_association() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        line.send(wire.p_data(Pdv(1, Control.COMMAND, event(1).encode()[:20])))
        aborted(line)

    with Script(act_out) as script:
        requestor = await connect(address(script.port, response=0.3), PUSH)
        with pytest.raises(DeadlineError):
            await requestor.listen(10, Taken())
        assert not requestor.usable


async def test_a_taker_that_fails_ends_the_association_and_is_heard() -> None:
    def act_out(line: Line) -> None:
        accept(line)
        receive(line)
        send(line, event(1))
        aborted(line)

    async def fail(_message: Message, _dataset: bytes) -> int:
        raise RuntimeError("no store")

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        with pytest.raises(RuntimeError, match="no store"):
            await act(requestor, fail)
        assert not requestor.usable


async def test_what_was_refused_cannot_be_asked() -> None:
    def act_out(line: Line) -> None:
        request = wire.AssociateRQ.decode(line.pdu().body)
        refused = (wire.Answered(1, 3, ""),)
        line.send(wire.AssociateAC(called=request.called, calling=request.calling, contexts=refused).encode())
        released(line)

    with Script(act_out) as script:
        requestor = await connect(address(script.port), PUSH)
        for asking in (act(requestor), requestor.report(STORAGE_COMMITMENT, INSTANCE, 1, b"")):
            with pytest.raises(NoContextError, match="storage commitment was refused"):
                await asking
        with pytest.raises(NoContextError):
            await anext(aiter(requestor.find(STUDY_ROOT_FIND, b"")))
        await requestor.release()


@pytest.mark.parametrize("granted", [True, False])
async def test_roles_are_asked_for_and_what_the_peer_answers_is_known(*, granted: bool) -> None:
    def act_out(line: Line) -> None:
        request = wire.AssociateRQ.decode(line.pdu().body)
        assert request.user.roles == (wire.Role(STORAGE_COMMITMENT, 0, 1),)
        answers = (wire.Answered(1, 0, request.contexts[0].syntaxes[0]),)
        user = wire.User(roles=request.user.roles if granted else ())
        reply = wire.AssociateAC(called=request.called, calling=request.calling, contexts=answers, user=user)
        line.send(reply.encode())
        command, data = receive(line)
        assert (command.verb, command.number(Field.EVENT_TYPE)) == (Verb.N_EVENT_REPORT, 2)
        assert decode_report(data, SYNTAXES[0]) == SAID
        answer(line, command)
        released(line)

    with Script(act_out) as script:
        role = Role(STORAGE_COMMITMENT, scu=False, scp=True)
        requestor = await connect(address(script.port), PUSH, [role])
        assert requestor.roles == ((role,) if granted else ())
        data = encode_report(SAID, requestor.syntax_of(STORAGE_COMMITMENT))
        assert (await requestor.report(STORAGE_COMMITMENT, INSTANCE, SAID.event_type, data)).status == 0
        await requestor.release()


# queries


def found(uid: str) -> bytes:
    """An answer as it stands on the wire, in Explicit VR Little Endian."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x08\0\x18\0UI" + len(value).to_bytes(2, "little") + value


def finder(*answers: tuple[int | None, bytes | None]) -> Callable[[Line], None]:
    def act_out(line: Line) -> None:
        accept(line)
        request, data = receive(line)
        assert request.verb == C_FIND
        assert data == image_query("1.2", "1.2.3", SYNTAXES[0])
        with suppress(ConnectionError):
            for status, identifier in answers:
                answer(line, request, status, identifier)
        with suppress(ConnectionError, PeerClosedError, AssertionError):
            released(line)

    return act_out


async def ask(requestor: Requestor) -> list[str]:
    syntax = requestor.syntax_of(STUDY_ROOT_FIND)
    identifier = image_query("1.2", "1.2.3", syntax)
    return [instance_uid(each, syntax) async for each in requestor.find(STUDY_ROOT_FIND, identifier)]


@pytest.mark.parametrize("answers", [[], ["1.2.3"], ["1.2.3", "1.2.34", "", "1.2.345"]])
async def test_every_pending_answer_is_given_in_turn(answers: list[str]) -> None:
    pending = [(0xFF00 + n % 2, found(uid) if uid else None) for n, uid in enumerate(answers)]
    with Script(finder(*pending, (0, None))) as script:
        requestor = await connect(address(script.port), FIND)
        assert await ask(requestor) == answers
        assert requestor.usable
        await requestor.release()


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001, 0xFE00, 0x0122, 0x0001])
async def test_a_query_that_fails_is_told_with_its_status_and_the_association_stands(status: int) -> None:
    with Script(finder((0xFF00, found("1.2.3")), (status, None))) as script:
        requestor = await connect(address(script.port), FIND)
        with pytest.raises(FindError) as caught:
            await ask(requestor)
        assert caught.value.status == status
        assert requestor.usable
        await requestor.release()


async def test_a_last_answer_without_a_status_is_none() -> None:
    with Script(finder((None, None))) as script:
        requestor = await connect(address(script.port), FIND)
        with pytest.raises(InvalidPDU, match="no status"):
            await ask(requestor)
        assert not requestor.usable


async def test_answers_are_streamed_and_to_stop_early_ends_the_association() -> None:
    with Script(finder(*[(0xFF00, found("1.2.3"))] * 2000)) as script:
        requestor = await connect(address(script.port), FIND)
        async with aclosing(requestor.find(STUDY_ROOT_FIND, image_query("1.2", "1.2.3", SYNTAXES[0]))) as answers:
            assert instance_uid(await anext(answers), SYNTAXES[0]) == "1.2.3"
            assert not requestor.usable
        assert not requestor.usable


async def test_an_answer_longer_than_may_be_held_ends_the_association() -> None:
    with Script(finder((0xFF00, bytes(300 << 10)))) as script:
        requestor = await connect(address(script.port), FIND)
        with pytest.raises(InvalidPDU, match="longer than 256 KiB"):
            await ask(requestor)
        assert not requestor.usable


async def test_a_query_that_is_never_answered_to_its_end_is_given_up() -> None:
    with Script(finder((0xFF00, found("1.2.3")))) as script:
        requestor = await connect(address(script.port, response=0.3), FIND)
        with pytest.raises(DeadlineError):
            await ask(requestor)
        assert not requestor.usable


# pynetdicom as the PACS


def refs(items: Sequence[Any]) -> list[Reference]:
    return [Reference(str(each.ReferencedSOPClassUID), str(each.ReferencedSOPInstanceUID)) for each in items]


def event_information() -> Dataset:
    made = Dataset()
    made.TransactionUID = "2.25.7"
    good, bad = Dataset(), Dataset()
    good.ReferencedSOPClassUID, good.ReferencedSOPInstanceUID = CT, "1.2.3"
    bad.ReferencedSOPClassUID, bad.ReferencedSOPInstanceUID, bad.FailureReason = CT, "1.2.34", 0x0112
    made.ReferencedSOPSequence, made.FailedSOPSequence = [good], [bad]
    return made


@contextmanager
def pacs(handlers: list[Any], abstract: str, syntax: str, roles: tuple[bool, bool] | None = None) -> Iterator[int]:
    entity = ApplicationEntity("PACS")
    context: dict[str, Any] = {} if roles is None else {"scu_role": roles[0], "scp_role": roles[1]}
    entity.add_supported_context(abstract, syntax, **context)
    port = free_port()
    server = entity.start_server((LOOPBACK, port), block=False, evt_handlers=handlers)
    try:
        yield port
    finally:
        wait_for(lambda: not entity.active_associations, 10, "pynetdicom's associations to end")
        if server is not None:
            server.shutdown()


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_pynetdicom_takes_our_request_and_reports_before_it_answers(syntax: str) -> None:
    asked: list[tuple[int, str, list[Reference]]] = []
    answered: list[int] = []

    def on_action(event: Any) -> tuple[int, None]:
        info = event.action_information
        asked.append((event.action_type, str(info.TransactionUID), refs(info.ReferencedSOPSequence)))
        status, _ = event.assoc.send_n_event_report(event_information(), 2, STORAGE_COMMITMENT, INSTANCE)
        answered.append(status.Status)
        return 0, None

    taken = Taken()
    with pacs([(evt.EVT_N_ACTION, on_action)], STORAGE_COMMITMENT, syntax) as port:
        requestor = await connect(address(port), PUSH)
        assert requestor.syntax_of(STORAGE_COMMITMENT) == syntax
        assert (await act(requestor, taken)).status == 0
        await requestor.release()
    assert asked == [(1, "2.25.7", [*ASKED.references])]
    assert taken == [(2, SAID)]
    assert answered == [0]


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_pynetdicom_takes_our_report_in_the_role_that_it_grants(syntax: str) -> None:
    came: list[tuple[int, Dataset]] = []

    def on_report(event: Any) -> tuple[int, None]:
        came.append((event.event_type, event.event_information))
        return 0, None

    with pacs([(evt.EVT_N_EVENT_REPORT, on_report)], STORAGE_COMMITMENT, syntax, (True, True)) as port:
        role = Role(STORAGE_COMMITMENT, scu=False, scp=True)
        requestor = await connect(address(port), PUSH, (role,))
        assert requestor.roles == (role,)
        data = encode_report(SAID, requestor.syntax_of(STORAGE_COMMITMENT))
        answered = await requestor.report(STORAGE_COMMITMENT, INSTANCE, SAID.event_type, data)
        assert (answered.status, answered.event_type) == (0, 2)
        await requestor.release()
    assert came == [(2, event_information())]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("status", [0x0000, 0xA700])
async def test_pynetdicom_answers_our_query(syntax: str, status: int) -> None:
    asked: list[Dataset] = []

    def on_find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        for number in range(40):
            match = Dataset()
            match.SOPInstanceUID = f"1.2.{number}"
            match.PatientName = "Doe^John"
            match.StudyInstanceUID, match.SeriesInstanceUID = "1.2", "1.2.3"
            yield 0xFF00, match
        if status:
            yield status, None

    with pacs([(evt.EVT_C_FIND, on_find)], STUDY_ROOT_FIND, syntax) as port:
        requestor = await connect(address(port), FIND)
        assert requestor.syntax_of(STUDY_ROOT_FIND) == syntax
        if status:
            with pytest.raises(FindError, match="A700"):
                await ask(requestor)
        else:
            assert await ask(requestor) == [f"1.2.{number}" for number in range(40)]
        await requestor.release()
    (identifier,) = asked
    assert (identifier.QueryRetrieveLevel, identifier.StudyInstanceUID, identifier.SeriesInstanceUID) == (
        "IMAGE",
        "1.2",
        "1.2.3",
    )
    assert not identifier.SOPInstanceUID


# pynetdicom as the caller


class Open:
    """A policy that offers storage commitment to everyone."""

    def admit(self, request: AssociateRequest, address: str) -> AssociateReject | None:
        del request, address
        return None

    def offers(self, abstract_syntax: str) -> bool:
        return abstract_syntax == STORAGE_COMMITMENT

    def knows(self, transfer_syntax: str, abstract_syntax: str) -> bool:
        return abstract_syntax == STORAGE_COMMITMENT and transfer_syntax in SYNTAXES

    def privileged(self, request: AssociateRequest, address: str) -> bool:
        del request, address
        return False

    def report(self, peer: Peer, text: str) -> None:
        raise AssertionError(f"{peer}: {text}")

    def limit(self, peer: Peer, text: str) -> None:
        raise AssertionError(f"{peer}: {text}")

    def count(self, associations: int) -> None:
        assert associations >= 0


@asynccontextmanager
async def serving(verb: int, came: list[tuple[dimse.Command, str, bytes]]) -> AsyncIterator[int]:
    async def serve(association: Association, message: Message, _peer: Peer, /) -> None:
        data = await association.receive_whole(message, MOST_BYTES)
        came.append((message.command, message.context.transfer_syntax, data))
        association.send_command(message.context.id, dimse.response(message.command, 0))

    clock = SystemClock()
    acceptor = Acceptor(Open(), {verb: serve}, spawn=Supervisor(Journal(clock), clock).spawn)
    try:
        yield await acceptor.listen(LOOPBACK, 0)
    finally:
        await acceptor.close(2.0)


def call(port: int, syntax: str, roles: tuple[bool, bool] | None, say: Callable[[Any], int]) -> int:
    entity = ApplicationEntity("PACS")
    entity.add_requested_context(STORAGE_COMMITMENT, syntax)
    negotiated: list[Any] = (
        [] if roles is None else [build_role(STORAGE_COMMITMENT, scu_role=roles[0], scp_role=roles[1])]
    )
    association = entity.associate(LOOPBACK, port, ae_title="EDGE", ext_neg=negotiated)
    assert association.is_established
    try:
        return say(association)
    finally:
        association.release()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("roles", [(False, True), (True, True)])
async def test_pynetdicom_reports_to_us_in_the_role_that_we_grant(syntax: str, roles: tuple[bool, bool]) -> None:
    def say(association: Any) -> int:
        assert [context.as_scp for context in association.accepted_contexts] == [True]
        status, _ = association.send_n_event_report(event_information(), 2, STORAGE_COMMITMENT, INSTANCE)
        return int(status.Status)

    came: list[tuple[dimse.Command, str, bytes]] = []
    async with serving(CommandField.N_EVENT_REPORT_RQ, came) as port:
        assert await asyncio.to_thread(call, port, syntax, roles, say) == 0
    ((command, used, data),) = came
    assert (command.event_type, command.sop_class_uid, command.sop_instance_uid) == (2, STORAGE_COMMITMENT, INSTANCE)
    assert used == syntax
    assert decode_report(data, used) == SAID


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("roles", [None, (True, False), (True, True)])
async def test_pynetdicom_asks_us_with_a_role_or_without(syntax: str, roles: tuple[bool, bool] | None) -> None:
    info = Dataset()
    info.TransactionUID = "2.25.7"
    info.ReferencedSOPSequence = []
    for reference in ASKED.references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference.sop_class_uid, reference.sop_instance_uid
        info.ReferencedSOPSequence.append(item)

    def say(association: Any) -> int:
        status, _ = association.send_n_action(info, 1, STORAGE_COMMITMENT, INSTANCE)
        return int(status.Status)

    came: list[tuple[dimse.Command, str, bytes]] = []
    async with serving(CommandField.N_ACTION_RQ, came) as port:
        assert await asyncio.to_thread(call, port, syntax, roles, say) == 0
    ((command, used, data),) = came
    assert (command.action_type, command.sop_class_uid, command.sop_instance_uid) == (1, STORAGE_COMMITMENT, INSTANCE)
    assert decode_action(data, used) == ASKED


async def test_what_is_gathered_is_bounded() -> None:
    gather = Gather(10)
    pressed = []
    for fragment in (b"12345", b"67890", b"1"):
        gather.write(memoryview(fragment))
        pressed.append(gather.pressure)
    assert pressed == [False, False, True]
    with pytest.raises(LimitError):
        await gather.relieve()
    assert gather.value() == b"1234567890"
