import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ
from pynetdicom.pdu_items import UserIdentitySubItemAC
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext

from edge.dicom.pdu import (
    APPLICATION_CONTEXT,
    HEADER_LENGTH,
    RELEASE_RP,
    RELEASE_RQ,
    Abort,
    AbortReason,
    AnsweredContext,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    ContextResult,
    InvalidPDU,
    ProposedContext,
    Role,
    UserIdentity,
    UserInformation,
    decode_abort,
    decode_accept,
    decode_reject,
    decode_request,
    encode_abort,
    encode_accept,
    encode_reject,
    encode_request,
)
from tests.peers import wire

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
PRIVATE, OTHER = "1.2.826.0.1.3680043.9.3811.1", "1.2.826.0.1.3680043.9.3811.2"
STORAGE_SERVICE, QUERY_SERVICE = "1.2.840.10008.4.2", "1.2.840.10008.4.3"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"


# pynetdicom's side


def limit(length: int) -> MaximumLengthNotification:
    item = MaximumLengthNotification()
    item.maximum_length_received = length
    return item


def implementation(uid: str) -> ImplementationClassUIDNotification:
    item = ImplementationClassUIDNotification()
    item.implementation_class_uid = uid
    return item


def version(name: str) -> ImplementationVersionNameNotification:
    item = ImplementationVersionNameNotification()
    item.implementation_version_name = name
    return item


def window(invoked: int, performed: int) -> AsynchronousOperationsWindowNegotiation:
    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked = invoked
    item.maximum_number_operations_performed = performed
    return item


def role(uid: str, *, scu: bool, scp: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = uid, scu, scp
    return item


def extended(uid: str, information: bytes) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = uid, information
    return item


def common(uid: str, service: str, *related: str) -> SOPClassCommonExtendedNegotiation:
    item = SOPClassCommonExtendedNegotiation()
    item.sop_class_uid, item.service_class_uid = uid, service
    item.related_general_sop_class_identification = list(related)
    return item


def identity(kind: int, primary: bytes, secondary: bytes = b"", *, response: bool) -> UserIdentityNegotiation:
    item = UserIdentityNegotiation()
    item.user_identity_type, item.positive_response_requested = kind, response
    item.primary_field, item.secondary_field = primary, secondary
    return item


def context(number: int, abstract: str, *syntaxes: str) -> PresentationContext:
    made = PresentationContext()
    made.context_id, made.abstract_syntax, made.transfer_syntax = number, abstract, list(syntaxes)
    return made


def primitive(*user: Any) -> A_ASSOCIATE:
    made = A_ASSOCIATE()
    made.application_context_name = APPLICATION_CONTEXT
    made.called_ae_title, made.calling_ae_title = "EDGE ONE", "CT"
    made.user_information = [limit(16382), implementation("1.2.3"), *user]
    return made


def their_request(*user: Any) -> bytes:
    """The body of pynetdicom's A-ASSOCIATE-RQ."""
    asked = primitive(*user)
    asked.presentation_context_definition_list = [context(1, CT, EXPLICIT, IMPLICIT), context(3, MR, JPEG)]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(asked)
    return pdu.encode()[HEADER_LENGTH:]


def their_accept(*user: Any) -> bytes:
    answered = primitive(*user)
    taken, refused = context(1, CT, EXPLICIT), context(3, MR, JPEG)
    taken.result, refused.result = 0, 4
    answered.presentation_context_definition_results_list = [taken, refused]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(answered)
    return pdu.encode()[HEADER_LENGTH:]


def read(pdu: Any, data: bytes) -> Any:
    """Let pynetdicom decode `data`, and see that it would have encoded the same."""
    pdu.decode(data)
    assert pdu.encode() == data
    return pdu


# by hand


def item(kind: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    return struct.pack(">BxH", kind, len(value)) + value


def proposed(number: int, abstract: bytes = CT.encode(), syntax: bytes = EXPLICIT.encode()) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)), item(0x30, abstract), item(0x40, syntax))


def body(*items: bytes, called: bytes = b"EDGE", calling: bytes = b"CT", protocol: int = 1) -> bytes:
    """An A-ASSOCIATE-RQ after its PDU header."""
    titles = called.ljust(16) + calling.ljust(16)
    return struct.pack(">HH", protocol, 0) + titles + bytes(32) + b"".join(items)


NAME = item(0x10, APPLICATION_CONTEXT.encode())
USER = item(0x50, item(0x51, struct.pack(">L", 16384)), item(0x52, b"1.2.3"))
GOOD = body(NAME, proposed(1), USER)


# requests


def test_pynetdicoms_request_is_read() -> None:
    data = their_request()
    assert decode_request(data) == AssociateRequest(
        called="EDGE ONE",
        calling="CT",
        contexts=(ProposedContext(1, CT, (EXPLICIT, IMPLICIT)), ProposedContext(3, MR, (JPEG,))),
        user=UserInformation(max_pdu=16382, implementation_class_uid="1.2.3", implementation_version=""),
        titles=data[4:68],
    )


def test_every_negotiation_item_of_pynetdicom_is_read_beside_the_others() -> None:
    user = decode_request(
        their_request(
            version("PYNETDICOM_X"),
            window(3, 0),
            role(CT, scu=False, scp=True),
            role(MR, scu=True, scp=False),
            extended(MR, b"\1\2\3"),
            common(PRIVATE, STORAGE_SERVICE, CT, MR),
            common(OTHER, QUERY_SERVICE),
            identity(2, b"user", b"word", response=True),
        )
    ).user
    assert user == UserInformation(
        max_pdu=16382,
        implementation_class_uid="1.2.3",
        implementation_version="PYNETDICOM_X",
        async_window=(3, 0),
        roles=(Role(CT, scu=False, scp=True), Role(MR, scu=True, scp=False)),
        storage_related=(PRIVATE,),
        identity=UserIdentity(2, response_requested=True),
    )


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5], ids=["name", "name and passcode", "Kerberos", "SAML", "JWT"])
@pytest.mark.parametrize("response", [False, True])
def test_user_identity_is_read_whatever_its_kind(kind: int, *, response: bool) -> None:
    asked = decode_request(their_request(identity(kind, b"first", b"second" * (kind == 2), response=response)))
    assert asked.user.identity == UserIdentity(kind, response)


def test_pynetdicom_reads_our_request() -> None:
    request = AssociateRequest(
        called="EDGE ONE",
        calling="CT",
        contexts=(ProposedContext(1, CT, (EXPLICIT, IMPLICIT)), ProposedContext(255, MR, (JPEG,))),
        user=UserInformation(max_pdu=262144, async_window=(1, 1), roles=(Role(CT, scu=False, scp=True),)),
    )
    pdu = read(A_ASSOCIATE_RQ(), encode_request(request))
    assert (pdu.called_ae_title.strip(), pdu.calling_ae_title.strip()) == ("EDGE ONE", "CT")
    assert pdu.application_context_name == APPLICATION_CONTEXT
    assert [(c.context_id, c.abstract_syntax, tuple(c.transfer_syntax)) for c in pdu.presentation_context] == [
        (1, CT, (EXPLICIT, IMPLICIT)),
        (255, MR, (JPEG,)),
    ]
    user = pdu.user_information
    assert user.maximum_length == 262144
    assert user.implementation_class_uid == request.user.implementation_class_uid
    assert user.implementation_version_name == request.user.implementation_version
    assert (user.async_ops_window.max_operations_invoked, user.async_ops_window.max_operations_performed) == (1, 1)
    assert (user.role_selection[CT].scu_role, user.role_selection[CT].scp_role) == (False, True)


def test_what_we_say_of_ourselves_fits_its_fields() -> None:
    user = UserInformation()
    assert len(user.implementation_version) <= 16
    assert len(user.implementation_class_uid) <= 64


# answers


def test_pynetdicoms_accept_is_read() -> None:
    accept = decode_accept(their_accept(window(1, 1), role(CT, scu=True, scp=True), version("PYNETDICOM_X")))
    assert accept.contexts[0] == AnsweredContext(1, ContextResult.ACCEPTANCE, EXPLICIT)
    assert [(c.id, c.result) for c in accept.contexts] == [(1, 0), (3, 4)]
    assert accept.user.max_pdu == 16382
    assert accept.user.async_window == (1, 1)
    assert accept.user.roles == (Role(CT, scu=True, scp=True),)


def test_pynetdicom_reads_our_accept() -> None:
    request = decode_request(their_request())
    accept = AssociateAccept(
        contexts=(
            AnsweredContext(1, ContextResult.ACCEPTANCE, EXPLICIT),
            AnsweredContext(3, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, JPEG),
        ),
        user=UserInformation(
            max_pdu=4096, async_window=(1, 1), roles=(Role(CT, scu=True, scp=False),), identity_response=True
        ),
        titles=request.titles,
    )
    pdu = read(A_ASSOCIATE_AC(), encode_accept(accept))
    assert (pdu.reserved_aet.strip(), pdu.reserved_aec.strip()) == ("EDGE ONE", "CT")
    assert [(c.context_id, c.result) for c in pdu.presentation_context] == [(1, 0), (3, 3)]
    assert pdu.presentation_context[0].transfer_syntax == EXPLICIT
    user = pdu.user_information
    assert user.maximum_length == 4096
    assert (user.role_selection[CT].scu_role, user.role_selection[CT].scp_role) == (True, False)
    assert isinstance(user.user_identity, UserIdentitySubItemAC)
    assert user.user_identity.server_response == b""


def test_pynetdicom_reads_a_refused_context_without_a_transfer_syntax() -> None:
    refused = AnsweredContext(5, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, "")
    pdu = A_ASSOCIATE_AC()
    pdu.decode(encode_accept(AssociateAccept(contexts=(refused,), user=UserInformation())))
    assert [(c.context_id, c.result) for c in pdu.presentation_context] == [(5, 4)]


def test_an_accept_sends_the_titles_back_unchanged() -> None:
    request = decode_request(body(NAME, proposed(1), USER, called=b"\0EDGE\0", calling=b"  C T "))
    accept = encode_accept(AssociateAccept(contexts=(), user=UserInformation(), titles=request.titles))
    assert accept[10:74] == request.titles == b"\0EDGE\0".ljust(16) + b"  C T ".ljust(16) + bytes(32)


@pytest.mark.parametrize("reject", [(1, 1, 7), (1, 1, 3), (1, 2, 2), (2, 3, 1), (2, 3, 2)])
def test_pynetdicom_and_we_read_each_others_rejections(reject: tuple[int, int, int]) -> None:
    ours = encode_reject(AssociateReject(*reject))
    pdu = read(A_ASSOCIATE_RJ(), ours)
    assert (pdu.result, pdu.source, pdu.reason_diagnostic) == reject
    assert decode_reject(pdu.encode()[HEADER_LENGTH:]) == AssociateReject(*reject)


@pytest.mark.parametrize("abort", [(0, 0), *((2, reason) for reason in AbortReason)])
def test_pynetdicom_and_we_read_each_others_aborts(abort: tuple[int, int]) -> None:
    ours = encode_abort(Abort(*abort))
    pdu = read(A_ABORT_RQ(), ours)
    assert (pdu.source, pdu.reason_diagnostic) == abort
    assert decode_abort(pdu.encode()[HEADER_LENGTH:]) == Abort(*abort)


def test_release_is_pynetdicoms() -> None:
    assert A_RELEASE_RQ().encode() == RELEASE_RQ
    assert A_RELEASE_RP().encode() == RELEASE_RP


def test_a_short_abort_is_an_abort() -> None:
    assert decode_abort(b"") == decode_abort(b"\0\0\1") == Abort(2, 0)


# lenience


def test_unknown_items_are_passed_over_wherever_they_stand() -> None:
    unknown = item(0x7F, b"new in some later standard")
    odd = item(0x20, b"\1\0\0\0", unknown, item(0x30, CT.encode()), unknown, item(0x40, EXPLICIT.encode()))
    user = item(0x50, unknown, item(0x51, struct.pack(">L", 16384)), item(0x52, b"1.2.3"), unknown)
    assert decode_request(body(unknown, NAME, odd, unknown, user, unknown)) == decode_request(GOOD)


def test_padding_of_titles_and_uids_is_no_part_of_them() -> None:
    padded = body(
        NAME,
        proposed(1, CT.encode() + b"\0", b" " + EXPLICIT.encode() + b" \0"),
        item(0x50, item(0x51, struct.pack(">L", 16384)), item(0x52, b"1.2.3\0")),
        called=b"\0\0EDGE".ljust(16, b"\0"),
        calling=b" CT\0",
    )
    read_back, plain = decode_request(padded), decode_request(GOOD)
    assert (read_back.called, read_back.calling) == ("EDGE", "CT")
    assert (read_back.contexts, read_back.user) == (plain.contexts, plain.user)


def test_inner_spaces_and_case_of_a_title_are_kept() -> None:
    request = decode_request(body(NAME, USER, called=b"  eDGE  1 ", calling=bytes(16)))
    assert (request.called, request.calling) == ("eDGE  1", "")


def test_a_title_outside_ascii_is_read_as_latin_1() -> None:
    assert decode_request(body(NAME, USER, calling=b"R\xd6NTGEN")).calling == "RÖNTGEN"


def test_as_many_contexts_as_there_are_odd_ids_are_read_in_order() -> None:
    request = decode_request(body(NAME, *(proposed(number) for number in range(1, 256, 2)), USER))
    assert [c.id for c in request.contexts] == list(range(1, 256, 2))


def test_our_own_request_with_128_contexts_comes_back() -> None:
    asked = AssociateRequest(
        called="A",
        calling="B",
        contexts=tuple(ProposedContext(number, f"1.2.{number}", (IMPLICIT,)) for number in range(1, 256, 2)),
        user=UserInformation(max_pdu=0),
    )
    again = decode_request(encode_request(asked)[HEADER_LENGTH:])
    assert (again.contexts, again.user) == (asked.contexts, asked.user)


def test_further_protocol_versions_beside_the_first_are_no_obstacle() -> None:
    assert decode_request(body(NAME, proposed(1), USER, protocol=0xFFFF)).contexts[0].abstract_syntax == CT


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ((), UserInformation(implementation_class_uid="", implementation_version="")),
        ((item(0x54, b"\0\x05abc"),), UserInformation(implementation_class_uid="", implementation_version="")),
        ((item(0x58, b"\2"),), UserInformation(implementation_class_uid="", implementation_version="")),
    ],
    ids=["nothing", "a role cut short", "an identity cut short"],
)
def test_user_information_may_lack_what_we_can_do_without(items: tuple[bytes, ...], expected: UserInformation) -> None:
    assert decode_request(body(NAME, proposed(1), item(0x50, *items))).user == expected


def test_user_information_may_be_absent() -> None:
    assert decode_request(body(NAME, proposed(1))).user.max_pdu == 0


def test_a_request_in_an_unknown_version_is_read_only_up_to_its_titles() -> None:
    request = decode_request(body(NAME, proposed(2), protocol=2))
    assert (request.known_version, request.contexts) == (False, ())
    assert decode_request(body(NAME, proposed(1), protocol=3)).known_version


def test_the_application_context_is_read_and_may_be_absent() -> None:
    assert decode_request(body(NAME, proposed(1))).application_context == "1.2.840.10008.3.1.1.1"
    assert decode_request(body(item(0x10, b"1.2.3"), proposed(1))).application_context == "1.2.3"
    assert decode_request(body(proposed(1))).application_context == ""


# refusals


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (body(NAME, proposed(2), USER), "even"),
        (body(NAME, proposed(0), USER), "even"),
        (body(NAME, proposed(254), USER), "even"),
        (body(NAME, item(0x20), USER), "even"),
        (body(NAME, proposed(1), proposed(3), proposed(1), USER), "used twice"),
        (body(NAME, proposed(1), USER)[:-1], "longer than its PDU"),
        (body(NAME, proposed(1), USER) + b"\x50", "header is cut"),
        (body(NAME, proposed(1), USER) + b"\x50\0\0", "header is cut"),
        (body(NAME, item(0x20, b"\1\0\0\0", b"\x30\0\0\x40" + b"1.2")), "longer than its PDU"),
        (body(NAME, item(0x20, b"\1\0\0\0", item(0x30, b"1.2"), b"\x40")), "header is cut"),
        (body(NAME, item(0x50, b"\x51\0\0\x04\0\0")), "longer than its PDU"),
        (body(NAME, item(0x50, item(0x51, b"\0\0\1"))), "cut"),
        (body(NAME, item(0x50, item(0x53, b"\0\1"))), "cut"),
        (body(NAME, item(0x50, item(0x54, b"\0"))), "cut"),
        (body(NAME, item(0x50, item(0x57, b"\0\x09" + b"1.2"))), "cut"),
        (b"", "cut"),
        (GOOD[:67], "cut"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_as_an_invalid_parameter(data: bytes, text: str) -> None:
    with pytest.raises(InvalidPDU, match=text) as caught:
        decode_request(data)
    assert caught.value.reason is AbortReason.INVALID_PARAMETER


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (decode_accept, b""),
        (decode_accept, bytes(67)),
        (decode_accept, bytes(68) + item(0x21, b"\1\0")),
        (decode_accept, bytes(68) + item(0x21, b"\1\0\0\0", b"\x40\0\0\x09" + b"1.2")),
        (decode_accept, bytes(68) + item(0x50, item(0x51, b"\0\1"))),
        (decode_accept, bytes(68) + b"\x21\0\0"),
        (decode_reject, b""),
        (decode_reject, b"\0\1\1"),
    ],
)
def test_an_answer_that_is_cut_is_refused_as_an_invalid_parameter(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with pytest.raises(InvalidPDU, match=r"cut|longer than its PDU") as caught:
        decode(data)
    assert caught.value.reason is AbortReason.INVALID_PARAMETER


def test_an_accepted_context_without_a_transfer_syntax_names_none() -> None:
    assert decode_accept(bytes(68) + item(0x21, b"\1\0\0\0")).contexts == (AnsweredContext(1, 0, ""),)


# anything at all


def bodies() -> st.SearchStrategy[bytes]:
    """Noise, noise behind a good beginning, and good bodies with a few bytes changed or the end cut."""

    def spoil(data: bytes, changes: list[tuple[int, int]], keep: int) -> bytes:
        spoilt = bytearray(data)
        for at, value in changes:
            spoilt[at % len(spoilt)] = value
        return bytes(spoilt[: max(68, keep % (len(spoilt) + 1))])

    rich = their_request(window(1, 1), role(CT, scu=True, scp=True), common(PRIVATE, STORAGE_SERVICE), version("X"))
    changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6)
    return st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=200).map(lambda noise: GOOD[:68] + noise),
        st.builds(
            spoil, st.sampled_from([GOOD, rich, their_accept(role(CT, scu=True, scp=True))]), changes, st.integers(0)
        ),
    )


@given(data=bodies())
def test_whatever_the_bytes_are_decoding_fails_with_invalid_pdu_or_not_at_all(data: bytes) -> None:
    for decode in (decode_request, decode_accept, decode_reject, decode_abort):
        with contextlib.suppress(InvalidPDU):
            decode(data)


@given(data=bodies())
def test_what_is_decoded_as_a_request_keeps_the_rules_of_context_ids(data: bytes) -> None:
    try:
        request = decode_request(data)
    except InvalidPDU:
        return
    ids = [c.id for c in request.contexts]
    assert len(set(ids)) == len(ids)
    assert all(number % 2 for number in ids)
    assert len(request.titles) == 64


TITLES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=16)
UIDS = st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,8}){0,6}", fullmatch=True)


@given(
    called=TITLES,
    calling=TITLES,
    contexts=st.lists(st.tuples(UIDS, st.lists(UIDS, max_size=4)), max_size=128),
    max_pdu=st.integers(0, 2**32 - 1),
    roles=st.lists(st.builds(Role, UIDS, st.booleans(), st.booleans()), max_size=5),
    window=st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
)
def test_what_we_encode_is_read_alike_by_us_and_by_the_peer_made_by_hand(
    called: str,
    calling: str,
    contexts: list[tuple[str, list[str]]],
    max_pdu: int,
    roles: list[Role],
    window: tuple[int, int] | None,
) -> None:
    made = tuple(ProposedContext(2 * n + 1, abstract, tuple(s)) for n, (abstract, s) in enumerate(contexts))
    user = UserInformation(max_pdu=max_pdu, roles=tuple(roles), async_window=window)
    data = encode_request(AssociateRequest(called=called, calling=calling, contexts=made, user=user))[HEADER_LENGTH:]
    again = decode_request(data)
    assert (again.called, again.calling, again.contexts, again.user) == (called, calling, made, user)
    by_hand = wire.AssociateRQ.decode(data)
    assert [tuple(c) for c in by_hand.contexts] == [(c.id, c.abstract_syntax, c.transfer_syntaxes) for c in made]
    assert [(r.abstract, r.scu, r.scp) for r in by_hand.user.roles] == [(r.sop_class_uid, r.scu, r.scp) for r in roles]
