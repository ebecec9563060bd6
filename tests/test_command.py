import struct
from io import BytesIO
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_FIND_RQ,
    C_FIND_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    N_ACTION_RQ,
    N_ACTION_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    DIMSEMessage,
)
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_STORE, N_ACTION, N_EVENT_REPORT, DimsePrimitiveType
from pynetdicom.pdu import P_DATA_TF

from edge.dicom.command import (
    NO_DATASET,
    RESPONSE,
    Command,
    CommandField,
    InvalidCommand,
    action_request,
    decode,
    echo_request,
    event_report_request,
    find_request,
    response,
    store_request,
)
from tests.peers import wire

CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
ODD, EVEN = "1.2.3", "1.2.34"


def store(message_id: int = 7, uid: str = ODD, priority: int = 2) -> C_STORE:
    made = C_STORE()
    made.MessageID, made.Priority = message_id, priority
    made.AffectedSOPClassUID, made.AffectedSOPInstanceUID = CT, uid
    made.DataSet = BytesIO(b"\x08\0\x16\0\0\0\0\0")
    return made


def stored(message_id: int = 7, status: int = 0, comment: str | None = None) -> C_STORE:
    made: Any = C_STORE()
    made.MessageIDBeingRespondedTo, made.Status = message_id, status
    made.AffectedSOPClassUID, made.AffectedSOPInstanceUID = CT, ODD
    if comment is not None:
        made.ErrorComment = comment
    return cast("C_STORE", made)


def echo(*, answer: bool) -> C_ECHO:
    made = C_ECHO()
    made.AffectedSOPClassUID = VERIFICATION
    if answer:
        made.MessageIDBeingRespondedTo, made.Status = 65535, 0
    else:
        made.MessageID = 65535
    return made


def theirs(message: DIMSEMessage, primitive: DimsePrimitiveType, max_pdu: int = 0) -> bytes:
    """The command set as pynetdicom puts it on the wire, its fragments joined."""
    message.primitive_to_message(primitive)
    command = bytearray()
    for data in message.encode_msg(1, max_pdu):
        for _, value in data.presentation_data_value_list:
            if value[0] & 1:
                command += value[1:]
    return bytes(command)


def read(message: DIMSEMessage, command: bytes, dataset: bytes | None = None) -> DimsePrimitiveType:
    """What pynetdicom makes of ours."""
    values = [wire.Pdv(1, wire.Control.COMMAND | wire.Control.LAST, command)]
    if dataset is not None:
        values.append(wire.Pdv(1, wire.Control.LAST, dataset))
    pdu = P_DATA_TF()
    pdu.decode(wire.p_data(*values))
    assert message.decode_msg(pdu.to_primitive())
    return message.message_to_primitive()


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHL", group, number, len(value)) + value


def us(number: int, value: int) -> bytes:
    return element(number, struct.pack("<H", value))


FIELD = us(0x0100, CommandField.C_STORE_RQ)


# both ways


@pytest.mark.parametrize("uid", [ODD, EVEN, "1." + "9" * 62, "2.25.007"])
@pytest.mark.parametrize("priority", [0, 1, 2])
def test_pynetdicoms_store_request_is_read(uid: str, priority: int) -> None:
    assert decode(theirs(C_STORE_RQ(), store(uid=uid, priority=priority))) == Command(
        field=CommandField.C_STORE_RQ,
        message_id=7,
        sop_class_uid=CT,
        sop_instance_uid=uid,
        has_dataset=True,
        priority=priority,
    )


@pytest.mark.parametrize("uid", [ODD, EVEN])
def test_our_store_request_is_byte_for_byte_pynetdicoms_and_read_by_it(uid: str) -> None:
    ours = store_request(7, CT, uid, priority=2)
    assert [part for part in split(ours) if part[0] != 0x0800] == [
        part for part in split(theirs(C_STORE_RQ(), store(uid=uid))) if part[0] != 0x0800
    ]
    primitive = read(C_STORE_RQ(), ours, b"")
    assert isinstance(primitive, C_STORE)
    assert (primitive.MessageID, primitive.Priority) == (7, 2)
    assert (primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID) == (CT, uid)


def split(command: bytes) -> list[tuple[int, bytes]]:
    """Elements of a command set beyond the group length, which depends on nothing else."""
    parts, position = [], 12
    while position < len(command):
        _, number, length = struct.unpack_from("<HHL", command, position)
        parts.append((number, command[position + 8 : position + 8 + length]))
        position += 8 + length
    return parts


def test_pynetdicoms_echo_is_ours_both_ways() -> None:
    assert theirs(C_ECHO_RQ(), echo(answer=False)) == echo_request(65535)
    request = decode(echo_request(65535))
    assert request == Command(field=CommandField.C_ECHO_RQ, message_id=65535, sop_class_uid=VERIFICATION)
    assert response(request, 0) == theirs(C_ECHO_RSP(), echo(answer=True))


@pytest.mark.parametrize("status", [0x0000, 0xA700, 0xA900, 0xC000, 0xB000, 0x0211])
def test_pynetdicoms_store_response_is_read(status: int) -> None:
    assert decode(theirs(C_STORE_RSP(), stored(status=status))) == Command(
        field=CommandField.C_STORE_RSP, message_id=7, sop_class_uid=CT, sop_instance_uid=ODD, status=status
    )


@pytest.mark.parametrize(("status", "comment"), [(0x0000, ""), (0xA700, "the disk is full"), (0xC000, "x" * 63)])
def test_pynetdicom_reads_our_store_response(status: int, comment: str) -> None:
    request = decode(store_request(7, CT, ODD))
    answer: Any = read(C_STORE_RSP(), response(request, status, comment))
    assert (answer.MessageIDBeingRespondedTo, answer.Status) == (7, status)
    assert (answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID) == (CT, ODD)
    assert (answer.ErrorComment or "") == comment


def test_an_error_comment_of_pynetdicom_is_read_without_its_padding() -> None:
    assert decode(theirs(C_STORE_RSP(), stored(status=0xC001, comment="odd"))).error_comment == "odd"


def test_a_command_split_over_pdus_by_pynetdicom_joins_to_the_same() -> None:
    assert theirs(C_STORE_RQ(), store(), max_pdu=20) == theirs(C_STORE_RQ(), store())


def test_an_error_comment_is_cut_at_64_characters_and_never_fails() -> None:
    request = decode(store_request(1, CT, ODD))
    assert decode(response(request, 0xA700, "é" * 100)).error_comment == "é" * 64
    assert decode(response(request, 0xA700, "数" * 3)).error_comment == "???"


def test_a_response_to_a_request_without_uids_has_none() -> None:
    answer = decode(response(Command(field=CommandField.C_STORE_RQ, message_id=3), 0xC000))
    assert (answer.field, answer.message_id) == (CommandField.C_STORE_RQ | RESPONSE, 3)
    assert (answer.sop_class_uid, answer.sop_instance_uid) == ("", "")


PUSH, WELL_KNOWN, STUDY_ROOT = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", "1.2.840.10008.5.1.4.1.2.2.1"


def action() -> N_ACTION:
    made = N_ACTION()
    made.MessageID, made.ActionTypeID = 7, 1
    made.RequestedSOPClassUID, made.RequestedSOPInstanceUID = PUSH, WELL_KNOWN
    made.ActionInformation = BytesIO(b"\x08\0\x16\0\0\0\0\0")
    return made


def event_report() -> N_EVENT_REPORT:
    made = N_EVENT_REPORT()
    made.MessageID, made.EventTypeID = 7, 2
    made.AffectedSOPClassUID, made.AffectedSOPInstanceUID = PUSH, WELL_KNOWN
    made.EventInformation = BytesIO(b"\x08\0\x16\0\0\0\0\0")
    return made


def find() -> C_FIND:
    made = C_FIND()
    made.MessageID, made.Priority, made.AffectedSOPClassUID = 7, 2, STUDY_ROOT
    made.Identifier = BytesIO(b"\x08\0\x16\0\0\0\0\0")
    return made


OURS_AND_THEIRS: dict[str, tuple[bytes, DIMSEMessage, DimsePrimitiveType]] = {
    "N-ACTION": (action_request(7, PUSH, WELL_KNOWN, 1), N_ACTION_RQ(), action()),
    "N-EVENT-REPORT": (event_report_request(7, PUSH, WELL_KNOWN, 2), N_EVENT_REPORT_RQ(), event_report()),
    "C-FIND": (find_request(7, STUDY_ROOT, priority=2), C_FIND_RQ(), find()),
}


@pytest.mark.parametrize("name", OURS_AND_THEIRS)
def test_our_requests_are_byte_for_byte_pynetdicoms_but_for_what_says_that_a_dataset_follows(name: str) -> None:
    ours, message, primitive = OURS_AND_THEIRS[name]
    assert [part for part in split(ours) if part[0] != 0x0800] == [
        part for part in split(theirs(message, primitive)) if part[0] != 0x0800
    ]
    assert decode(ours) == decode(theirs(message, primitive))
    assert decode(ours).has_dataset


def test_requests_of_notification_and_action_are_read_with_their_types() -> None:
    asked, told = decode(action_request(7, PUSH, WELL_KNOWN, 1)), decode(event_report_request(9, PUSH, WELL_KNOWN, 2))
    assert (asked.field, asked.action_type, asked.event_type) == (CommandField.N_ACTION_RQ, 1, None)
    assert (told.field, told.action_type, told.event_type) == (CommandField.N_EVENT_REPORT_RQ, None, 2)
    for command in (asked, told):
        assert (command.sop_class_uid, command.sop_instance_uid) == (PUSH, WELL_KNOWN)


@pytest.mark.parametrize("status", [0x0000, 0x0110, 0x0211])
def test_pynetdicom_makes_our_responses_to_actions_and_reports_byte_for_byte(status: int) -> None:
    acted: Any = N_ACTION()
    acted.MessageIDBeingRespondedTo, acted.Status, acted.ActionTypeID = 7, status, 1
    acted.AffectedSOPClassUID, acted.AffectedSOPInstanceUID = PUSH, WELL_KNOWN
    assert response(decode(action_request(7, PUSH, WELL_KNOWN, 1)), status) == theirs(N_ACTION_RSP(), acted)
    took: Any = N_EVENT_REPORT()
    took.MessageIDBeingRespondedTo, took.Status, took.EventTypeID = 7, status, 2
    took.AffectedSOPClassUID, took.AffectedSOPInstanceUID = PUSH, WELL_KNOWN
    answer = response(decode(event_report_request(7, PUSH, WELL_KNOWN, 2)), status)
    assert answer == theirs(N_EVENT_REPORT_RSP(), took)
    assert decode(answer).event_type == 2


@pytest.mark.parametrize("status", [0xFF00, 0xFF01, 0x0000, 0xA700])
def test_pynetdicoms_find_response_is_read(status: int) -> None:
    made: Any = C_FIND()
    made.MessageIDBeingRespondedTo, made.Status, made.AffectedSOPClassUID = 7, status, STUDY_ROOT
    if status >= 0xFF00:
        made.Identifier = BytesIO(b"\x08\0\x16\0\0\0\0\0")
    command = decode(theirs(C_FIND_RSP(), made))
    assert (command.field, command.message_id, command.status) == (CommandField.C_FIND_RQ | RESPONSE, 7, status)
    assert command.has_dataset is (status >= 0xFF00)


def test_an_empty_type_is_none_and_one_of_another_length_is_refused() -> None:
    assert decode(FIELD + element(0x1002, b"")).event_type is None
    with pytest.raises(InvalidCommand, match="malformed"):
        decode(FIELD + element(0x1008, b"\1"))


# lenience


def test_elements_that_no_service_uses_are_passed_over() -> None:
    asked = decode(FIELD + element(0x0001, b"\0\0\0\0") + element(0x5110, b"anything") + us(0x0110, 5))
    assert (asked.field, asked.message_id) == (CommandField.C_STORE_RQ, 5)


def test_a_wrong_group_length_is_no_obstacle() -> None:
    good = store_request(1, CT, ODD)
    assert decode(element(0, b"\xff\xff\xff\xff") + good[12:]) == decode(good[12:]) == decode(good)


def test_the_order_of_elements_does_not_matter() -> None:
    command = store_request(1, CT, ODD)
    turned = b"".join(element(number, value) for number, value in reversed(split(command)))
    assert decode(turned) == decode(command)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0\0", b" \0"])
def test_padding_of_uids_is_no_part_of_them(padding: bytes) -> None:
    asked = decode(FIELD + element(0x0002, CT.encode() + padding) + element(0x1000, ODD.encode() + padding))
    assert (asked.sop_class_uid, asked.sop_instance_uid) == (CT, ODD)


def test_requested_uids_stand_for_affected_ones() -> None:
    asked = decode(us(0x0100, CommandField.N_ACTION_RQ) + element(0x0003, CT.encode()) + element(0x1001, EVEN.encode()))
    assert (asked.sop_class_uid, asked.sop_instance_uid) == (CT, EVEN)


def test_a_response_without_a_status_has_none() -> None:
    assert decode(us(0x0100, CommandField.C_STORE_RSP) + us(0x0120, 1)).status is None
    assert decode(us(0x0100, CommandField.C_STORE_RSP) + us(0x0120, 1) + element(0x0900, b"")).status is None


def test_a_response_is_matched_by_the_message_it_answers_and_a_request_by_its_own_id() -> None:
    both = us(0x0110, 1) + us(0x0120, 2)
    assert decode(us(0x0100, CommandField.C_STORE_RSP) + both).message_id == 2
    assert decode(us(0x0100, CommandField.C_STORE_RQ) + both).message_id == 1


@pytest.mark.parametrize(("kind", "expected"), [(NO_DATASET, False), (0, True), (1, True), (0x0102, True)])
def test_only_0101_says_that_no_dataset_follows(kind: int, *, expected: bool) -> None:
    assert decode(FIELD + us(0x0800, kind)).has_dataset is expected


def test_a_command_that_does_not_say_has_no_dataset() -> None:
    assert not decode(FIELD).has_dataset


# what is no command set


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no Command Field"),
        (us(0x0110, 1), "no Command Field"),
        (element(0x0100, b"\1"), "malformed"),
        (element(0x0100, b""), "malformed"),
        (element(0x0100, b"\1\0\0\0"), "malformed"),
        (FIELD + element(0x0110, b"\1"), "malformed"),
        (FIELD + element(0x0900, b"\1\2\3"), "malformed"),
        (FIELD + element(0x0800, b""), "malformed"),
        (FIELD + element(0x0016, b"1.2", group=8), "outside of group 0000"),
        (FIELD + element(0x0002, b"1.2.3")[:-1], "cut"),
        (FIELD + struct.pack("<HHL", 0, 2, 0xFFFFFFFF), "cut"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_is_wrong(data: bytes, text: str) -> None:
    with pytest.raises(InvalidCommand, match=text):
        decode(data)


def test_a_command_cut_anywhere_is_refused_or_ends_between_elements() -> None:
    whole = store_request(7, CT, ODD)
    ends = {12}
    for _, value in split(whole):
        ends.add(max(ends) + 8 + len(value))
    field_ends = 12 + 8 + 26 + 10
    assert field_ends in ends
    for keep in range(len(whole)):
        if keep in ends and keep >= field_ends:
            assert decode(whole[:keep]).field == CommandField.C_STORE_RQ
        else:
            with pytest.raises(InvalidCommand):
                decode(whole[:keep])


def commands() -> st.SearchStrategy[bytes]:
    """Noise, elements of group 0000 in any number, and a good command with bytes changed."""

    def spoil(changes: list[tuple[int, int]], keep: int) -> bytes:
        spoilt = bytearray(store_request(7, CT, ODD))
        for at, value in changes:
            spoilt[at % len(spoilt)] = value
        return bytes(spoilt[: keep % (len(spoilt) + 1)])

    numbers = st.sampled_from(
        [0, 2, 3, 0x100, 0x110, 0x120, 0x700, 0x800, 0x900, 0x902, 0x1000, 0x1001, 0x1002, 0x1008, 0x1030]
    )
    elements = st.lists(st.builds(element, numbers, st.binary(max_size=6)), max_size=10).map(b"".join)
    changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4)
    return st.one_of(st.binary(max_size=200), elements, st.builds(spoil, changes, st.integers(0)))


@given(data=commands())
def test_whatever_the_bytes_are_decoding_fails_with_invalid_command_or_not_at_all(data: bytes) -> None:
    try:
        command = decode(data)
    except InvalidCommand:
        return
    assert decode(memoryview(data)) == decode(bytearray(data)) == command
    assert decode(response(command, 0)).field == command.field | RESPONSE


@given(
    message_id=st.integers(0, 0xFFFF),
    status=st.integers(0, 0xFFFF),
    comment=st.text(max_size=80),
    uid=st.from_regex(r"[0-9.]{1,64}", fullmatch=True),
)
def test_what_we_answer_is_read_as_it_was_meant(message_id: int, status: int, comment: str, uid: str) -> None:
    request = decode(store_request(message_id, CT, uid))
    answer = decode(response(request, status, comment))
    assert (answer.message_id, answer.status, answer.sop_instance_uid) == (message_id, status, uid)
    assert not answer.has_dataset
    assert len(response(request, status, comment)) % 2 == 0
