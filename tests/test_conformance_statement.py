"""The tables of docs/conformance.md beside the code that they tell of."""

import ast
import re
import sqlite3
import ssl
import tomllib
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from types import ModuleType
from typing import Final

import msgspec
import pytest
from pydicom.charset import python_encoding
from pydicom.filereader import read_dataset

from edge import __version__, tls, units
from edge.app import listener
from edge.board import Board
from edge.config import Config, DimseDestination, Receive, Timeouts
from edge.configfile import Reader
from edge.dicom import acceptor, association, commitment, find, negotiation, part10, pdu, requestor, status, uids
from edge.dicom.acceptor import Capacity
from edge.dicom.association import Limits
from edge.dicom.dataset import SYNTAXES
from edge.dicom.negotiation import Context, roles
from edge.dicom.pdu import AssociateAccept, AssociateReject, AssociateRequest, Role, UserIdentity, UserInformation
from edge.findings import Journal
from edge.forward import answers, probe, query, reach, reports, verifier
from edge.forward import commitment as asking
from edge.forward.dimse import propose
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable, from_status
from edge.intake import policy, promises, scp
from edge.intake.admission import Admission
from edge.intake.policy import ReceivePolicy
from edge.model import Kind
from edge.spool import Free, Ledger
from edge.store import deciding, verdicts
from tests.fakes import ManualClock
from tests.test_config import STRUCTS
from tests.test_docs import ROOT, quote, quoted, read, rows

PAGE: Final = read("docs/conformance.md")
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
PRIVATE: Final = "1.2.826.0.1.3680043.9.1"
FIXED: Final = "*fixed*"


def table(*head: str) -> list[list[str]]:
    """The one table with this head."""
    assert PAGE.count(f"\n| {' | '.join(head)} |\n") == 1, head
    return rows(PAGE, *head)


def policy_of(config: Config) -> ReceivePolicy:
    clock = ManualClock()
    board, journal = Board(clock), Journal(clock)
    return ReceivePolicy(
        config, Admission(board, journal, clock, Ledger(lambda: Free(1 << 40, 1 << 20), 0)), board, journal
    )


POLICY: Final = policy_of(Config())
FEWER: Final = policy_of(Config(receive=Receive(private_storage=False)))


def code(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse((ROOT / module.__file__).read_text(encoding="utf-8"))


def named(module: ModuleType, owner: str) -> set[str]:
    """Every ``owner.NAME`` that the module reads."""
    return {
        node.attr
        for node in ast.walk(code(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner
    }


def statuses(module: ModuleType) -> set[int]:
    """Every status that the module names."""
    return {getattr(status, name) for name in named(module, "status")}


def codes(cell: str) -> set[int]:
    return {int(text, 16) for text in quoted(cell)}


def all_codes(found: list[list[str]]) -> set[int]:
    """The codes of a table, each of which stands there once."""
    given = [number for first, *_ in found for number in sorted(codes(first))]
    assert len(set(given)) == len(given)
    return set(given)


def yes(cell: str) -> bool:
    assert cell.startswith(("yes", "no", "`1, 1`", "as `59`", "for reports")), cell
    return not cell.startswith("no")


def test_it_is_about_this_version() -> None:
    assert f"Of dicom-edge {__version__}," in PAGE


# services and SOP classes


def test_services_and_roles_are_what_is_taken_and_called() -> None:
    found = table("network service", "UID", "user (SCU)", "provider (SCP)")
    listed = {(quoted(uid) or [CT])[0]: (yes(scu), yes(scp)) for _, uid, scu, scp in found}
    # verification the acceptor takes, whatever the policy says
    assert {uid for uid, (_, taken) in listed.items() if taken} == {uids.VERIFICATION} | {
        uid for uid in listed if POLICY.offers(uid)
    }
    called = {getattr(uids, name) for module in CALLING for name in imported(module) & SERVICES}
    assert {uid for uid, (calls, _) in listed.items() if calls} == called | {CT}


CALLING: Final = (asking, answers, probe, query)
SERVICES: Final = {"VERIFICATION", "STORAGE_COMMITMENT", "STUDY_ROOT_FIND", "PATIENT_ROOT_FIND"}


def imported(module: ModuleType) -> set[str]:
    return {alias.name for node in ast.walk(code(module)) if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_what_is_not_supported_is_refused_and_is_no_storage() -> None:
    for name, uid in table("not supported", "UID"):
        assert quote(uid) in uids._DICTIONARY, name
        assert not POLICY.offers(quote(uid)), name


def test_storage_is_what_the_standard_names_so_with_these_exceptions() -> None:
    listed = {quote(uid): yes(storage) for uid, _, storage in table("UID", "name", "as storage")}
    assert {uid for uid, storage in listed.items() if storage} == (
        uids._STORAGE_NEWER_THAN_PYDICOM | uids._STORAGE_WITHOUT_A_NAME
    )
    assert {uid for uid, storage in listed.items() if not storage} == uids._NOT_STORAGE
    for uid, (name, kind, *_) in uids._DICTIONARY.items():
        storage = listed.get(uid, kind == "SOP Class" and "Storage" in name)
        # the one that is taken, and not as storage
        assert POLICY.offers(uid) is (storage or uid == uids.STORAGE_COMMITMENT), name
        assert FEWER.offers(uid) is POLICY.offers(uid), name
    assert POLICY.offers(PRIVATE)
    assert not FEWER.offers(PRIVATE)


def test_receive_is_the_provider_and_takes_reports_as_the_user() -> None:
    found = table("SOP class", "UID of what is taken", "SCU", "SCP")
    assert [(uid, yes(scu), yes(scp)) for _, uid, scu, scp in found] == [
        (f"`{uids.VERIFICATION}`", False, True),
        ("as below", False, True),
        (f"`{uids.STORAGE_COMMITMENT}`", False, True),
        (f"`{uids.STORAGE_COMMITMENT}`", True, False),
    ]
    # who calls may be SCP of storage commitment, and of nothing else
    asked = UserInformation(roles=tuple(Role(uid, scu=True, scp=True) for uid in (CT, uids.STORAGE_COMMITMENT)))
    request = AssociateRequest(called="", calling="", contexts=(), user=asked)
    taken = {n: Context(n, uid, uids.EXPLICIT_LITTLE) for n, uid in ((1, CT), (3, uids.STORAGE_COMMITMENT))}
    assert [role.scp for role in roles(request, taken)] == [False, True]


# the association


def test_identification() -> None:
    found = {name: quote(value) for name, value in table("identification", "value")}
    assert found.pop("Implementation Class UID") == pdu.IMPLEMENTATION_CLASS_UID
    assert found.pop("Implementation Version Name") == pdu.IMPLEMENTATION_VERSION
    announced = units.size(found.pop("Maximum PDU length announced"))
    assert (announced, announced) == (Receive().max_pdu, destination().max_pdu)
    assert not found
    assert f"The application context is `{pdu.APPLICATION_CONTEXT}`" in PAGE


def destination() -> DimseDestination:
    return DimseDestination(name="pacs", host="pacs", ae_title="PACS")


ITEMS: Final[Mapping[int, bytes]] = {
    0x51: b"\0\0\x10\0",
    0x52: b"1.2",
    0x53: b"\0\1\0\1",
    0x54: b"\0\3" + b"1.2" + b"\0\1",
    0x55: b"X",
    0x56: b"\0\3" + b"1.2" + b"\2",
    0x57: b"\0\3" + b"1.2" + b"\0\x11" + b"1.2.840.10008.4.2" + b"\0\0",
    0x58: b"\1\1\0\4user\0\0",
}


def user_items(encoded: bytes) -> set[int]:
    """The user information items of an association request or answer."""
    view = memoryview(encoded)[pdu.HEADER_LENGTH + 68 :]
    return {kind for item, value in pdu._items(view) if item == 0x50 for kind, _ in pdu._items(value)}


def test_negotiation_items_are_read_and_sent_as_said() -> None:
    found = table("user information item", "read", "in our answer", "in our request")
    listed = [int(quoted(item)[0], 16) for item, *_ in found]
    assert listed == list(ITEMS)
    nothing = pdu._user_information(memoryview(b""))
    for item, said, *_ in found:
        kind = int(quoted(item)[0], 16)
        heard = pdu._user_information(memoryview(pdu._item(kind, ITEMS[kind])))
        assert (heard != nothing) is yes(said), item
    everything = UserInformation(
        async_window=(1, 1),
        roles=(Role("1.2", scu=True, scp=True),),
        identity=UserIdentity(1, response_requested=True),
        identity_response=True,
    )
    answered = user_items(pdu.encode_accept(AssociateAccept(contexts=(), user=everything)))
    assert {kind for kind, row in zip(listed, found, strict=True) if yes(row[2])} == {
        0x58 if kind == 0x59 else kind for kind in answered
    }
    # as `connect` makes it
    ours = UserInformation(max_pdu=1, roles=(Role("1.2", scu=False, scp=True),))
    request = AssociateRequest(called="", calling="", contexts=(), user=ours)
    assert {kind for kind, row in zip(listed, found, strict=True) if yes(row[3])} == user_items(
        pdu.encode_request(request)
    )


def test_rejections_are_those_that_the_acceptor_and_its_policy_give() -> None:
    used = {
        getattr(acceptor, node.id)
        for module in (acceptor, policy)
        for node in ast.walk(code(module))
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and isinstance(getattr(acceptor, node.id, None), AssociateReject)
    }
    found = [AssociateReject(*map(int, row[:3])) for row in table("result", "source", "reason", "answered where")]
    assert len(found) == len(used)
    assert set(found) == used


def test_rejections_are_understood_as_said() -> None:
    found = table("source", "reason", "rejection understood as")
    assert {(int(source), int(reason)): text for source, reason, text in found} == reach._REASONS


def test_results_of_contexts_are_those_that_are_given() -> None:
    found = {int(result) for result, _ in table("result of a context", "when")}
    assert found == {int(pdu.ContextResult[name]) for name in named(negotiation, "ContextResult")}


def test_aborts_are_those_that_are_sent() -> None:
    sent = {
        (2, int(pdu.AbortReason[name])) for module in (association, pdu) for name in named(module, "AbortReason")
    } | set(_aborts())
    found = [(int(source), int(reason)) for source, reason, _ in table("A-ABORT source", "reason", "sent when")]
    assert len(found) == len(sent)
    assert set(found) == sent


def _aborts() -> Iterator[tuple[int, int]]:
    """Every A-ABORT with a source and a reason that stand in the code."""
    for module in (association, acceptor):
        for node in ast.walk(code(module)):
            match node:
                case ast.Call(
                    func=ast.Name(id="Abort"), args=[ast.Constant(value=int(source)), ast.Constant(value=int(reason))]
                ):
                    yield source, reason


def test_transfer_syntaxes_are_taken_and_proposed_as_said() -> None:
    found = table(
        "transfer syntax",
        "UID",
        "taken for storage",
        "taken and proposed for commitment, proposed for queries",
        "when sent, Explicit and Implicit VR Little Endian beside it",
    )
    listed = {quote(uid): (yes(storage), yes(small), yes(beside)) for _, uid, storage, small, beside in found}
    assert set(listed) > uids.UNCOMPRESSED
    for uid, said in listed.items():
        proposals, _ = propose([Kind(CT, uid)])
        assert said == (
            POLICY.knows(uid, CT),
            POLICY.knows(uid, uids.STORAGE_COMMITMENT),
            {(CT, (uids.EXPLICIT_LITTLE,)), (CT, (uids.IMPLICIT_LITTLE,))} <= set(proposals),
        ), uid
        assert POLICY.knows(uid, uids.VERIFICATION), uid
        assert said[1] is (uid in SYNTAXES), uid
    for uid in uids.KNOWN_TRANSFER_SYNTAXES | {PRIVATE}:
        assert POLICY.knows(uid, CT), uid
        stand_ins = {uids.EXPLICIT_LITTLE, uids.IMPLICIT_LITTLE} if uid in uids.UNCOMPRESSED else set()
        assert {syntax for _, (syntax,) in propose([Kind(CT, uid)])[0]} == {uid, *stand_ins}, uid
    assert [uids._DICTIONARY[uid][0] for uid in SYNTAXES] == [
        "Explicit VR Little Endian",
        "Implicit VR Little Endian",
        "Explicit VR Big Endian",
    ]


# limits


def limit(text: str) -> float:
    """A value as it is written in a table of limits."""
    if text.isdecimal():
        return int(text)
    return units.rate(text) if text.endswith("/s") else units.size(text) if text.endswith("B") else units.duration(text)


def test_limits_of_the_listener_are_the_defaults() -> None:
    receive, limits, capacity = Receive(), listener._limits(Receive()), listener._capacity(Receive())
    expected: list[tuple[float, str]] = [
        (capacity.associations, "receive.max_associations"),
        (capacity.per_address, "receive.max_associations_per_address"),
        (capacity.reserved, FIXED),
        (capacity.max_pdu, "receive.max_pdu"),
        (capacity.waiting, "receive.max_associations"),
        (capacity.waiting_per_address, "receive.max_associations_per_address"),
        (limits.handshake, "receive.timeouts.handshake"),
        (limits.request, "receive.timeouts.request"),
        (limits.idle, "receive.timeouts.idle"),
        (limits.response, FIXED),
        (limits.artim, FIXED),
        (limits.least_rate, "receive.least_rate"),
        (limits.pace, FIXED),
        (limits.control, "receive.max_control"),
        (receive.max_object, "receive.max_object"),
        (commitment.MOST_BYTES, FIXED),
        (commitment.MOST_REFERENCES, FIXED),
    ]
    found = table("limit", "default", "set by")
    assert [(limit(quote(default)), (quoted(by) or [by])[0]) for _, default, by in found] == expected
    # none is left out, and what is built without a configuration is the same
    assert len(Limits.__struct_fields__) + len(Capacity.__struct_fields__) + 3 == len(expected)
    assert (limits, capacity) == (Limits(), Capacity())


@pytest.mark.parametrize("by", sorted({quote(by) for *_, by in table("limit", "default", "set by") if by != FIXED}))
def test_a_limit_that_has_a_key_is_set_by_it(by: str) -> None:
    _, *inner, name = by.split(".")
    usual = Receive()
    if inner:
        longer = msgspec.structs.replace(usual.timeouts, **{name: 2 * getattr(usual.timeouts, name)})
        changed = msgspec.structs.replace(usual, timeouts=longer)
    else:
        changed = msgspec.structs.replace(usual, **{name: 2 * getattr(usual, name)})
    if name == "max_object":
        assert changed.max_object == 2 * usual.max_object
        return  # the door's, not the listener's
    made = [value for one in (listener._limits, listener._capacity) for value in msgspec.structs.astuple(one(changed))]
    before = [value for one in (listener._limits, listener._capacity) for value in msgspec.structs.astuple(one(usual))]
    said = sum((quoted(each) or [each])[0] == by for *_, each in table("limit", "default", "set by"))
    assert [new / old for new, old in zip(made, before, strict=True) if new != old] == [2] * said


def test_limits_when_calling_are_the_defaults() -> None:
    usual = destination()
    assert [(limit(quote(default)), (quoted(by) or [by])[0]) for _, default, by in table(
        "limit when calling", "default", "set by"
    )] == [
        (Timeouts().connect, "destination.timeouts.connect"),
        (Timeouts().response, "destination.timeouts.response"),
        (usual.max_pdu, "destination.max_pdu"),
        (usual.associations, "destination.associations"),
        (requestor.MOST_CONTEXTS, FIXED),
        (find.MOST_BYTES, FIXED),
        (query.MOST_ANSWERS, FIXED),
        (requestor.MOST_REPORTS, FIXED),
        (verifier.MOST, FIXED),
    ]  # fmt: skip
    made = reach.address_of(usual, "EDGE", None)
    reports_to = requestor.Address(host=made.host, port=made.port, called=made.called, calling=made.calling)
    assert made == reports_to


# statuses


@pytest.mark.parametrize(
    ("head", "module"),
    [("C-STORE answered", scp), ("N-ACTION answered", promises), ("N-EVENT-REPORT answered", reports)],
)
def test_statuses_answered_are_those_that_the_service_gives(head: str, module: ModuleType) -> None:
    assert all_codes(table(head, "when")) == statuses(module)


def test_what_no_service_serves_is_answered_0211() -> None:
    (served,) = (
        node for node in code(acceptor).body if isinstance(node, ast.AsyncFunctionDef) and node.name == "unrecognized"
    )
    assert "status.UNRECOGNIZED_OPERATION" in ast.unparse(served)
    assert f"is answered {status.UNRECOGNIZED_OPERATION:04X}" in PAGE


WORDS: Final[Mapping[str, Callable[[Outcome], bool]]] = {
    "accepted": lambda o: isinstance(o, Accepted),
    "tried again": lambda o: isinstance(o, TryLater) and o.after is None,
    "tried again hourly": lambda o: isinstance(o, TryLater) and o.after == 3600,
    "the destination rests": lambda o: isinstance(o, Unreachable) and o.midway,
    "held or passed over": lambda o: isinstance(o, Refused) and o.unsupported,
    "held": lambda o: isinstance(o, Refused) and not o.unsupported,
}


def test_every_status_of_a_c_store_leads_to_what_is_said() -> None:
    found = table("C-STORE status", "leads to", "more")
    exact = {cell: then for cells, then, _ in found for cell in quoted(cells)}
    said = {cells: then for cells, then, _ in found}
    assert WORDS[next(then for cells, then in said.items() if "*none*" in cells)](from_status(None))
    for number in range(0x10000):
        name = f"{number:04X}"
        then = exact.get(name) or exact.get(f"{name[0]}xxx") or exact.get(f"{name[:2]}xx") or said["every other"]
        assert WORDS[then](from_status(number)), name
    assert set(said.values()) == set(WORDS)


def test_statuses_of_n_action_are_understood_as_said() -> None:
    success, refused, _ = (codes(first) for first, _ in table("N-ACTION status", "leads to"))
    assert success == {status.SUCCESS}
    assert refused == asking._NO_SERVICE


def test_statuses_of_n_event_report_are_understood_as_said() -> None:
    success, over, _ = (codes(first) for first, _ in table("N-EVENT-REPORT status", "leads to"))
    assert success == {status.SUCCESS}
    assert over == answers._REFUSED


def test_statuses_of_c_find_are_understood_as_said() -> None:
    pending, success, refused, _ = (codes(first) for first, _ in table("C-FIND status", "leads to"))
    assert pending == set(requestor._PENDING)
    assert success == {status.SUCCESS}
    assert refused == query._NO_SERVICE


def test_failure_reasons_told_are_those_that_are_decided() -> None:
    decided = {
        value for value in vars(deciding).values() if isinstance(value, int) and min(REASONS) <= value <= max(REASONS)
    }
    assert all_codes(table("failure reason told", "when")) == decided
    assert decided <= REASONS


REASONS: Final = set(commitment.REASONS)


class Judge(verdicts._Judge):
    """Notes what would become of an instance."""

    then = ""

    def _mark(self, *_: object) -> None:
        """There is no trail."""

    def _resend(self, *_: object) -> None:
        self.then = "sent again"

    def _hold(self, *_: object) -> None:
        self.then = "held"


def judged(reason: int, tries: int) -> str:
    """What becomes of an instance that was asked about so often, and not committed for ``reason``."""
    raw = sqlite3.connect(":memory:")
    try:
        raw.execute("CREATE TABLE proof (delivery, ask_at, tries, heard)")
        raw.execute("INSERT INTO proof VALUES (1, NULL, 1, 0)")
        judge = Judge(raw, "pacs", "1.7", 0.0, 0.0, trusted=True)
        judge.fail(verdicts._Accepted(1, 1, "1.2", CT, 1, tries, 0), reason)
        ask_at = raw.execute("SELECT ask_at FROM proof").fetchone()[0]
    finally:
        raw.close()
    return judge.then or ("asked again at once" if ask_at == 0 else "asked again")


def test_failure_reasons_lead_to_what_is_said() -> None:
    found = table("failure reason understood", "leads to")
    assert all_codes(found) == REASONS
    for cell, then in found:
        for reason in codes(cell):
            said = re.match(r"asked again at once|asked again|sent again|held", then)
            assert said is not None, then
            assert judged(reason, 1) == said[0], cell
    assert [judged(commitment.DUPLICATE_TRANSACTION, tries) for tries in (3, 4)] == [
        "asked again at once",
        "asked again",
    ]
    assert judged(0xC001, 1) == "asked again"


def test_the_keys_of_a_query_are_those_that_are_sent() -> None:
    words = {"empty": "", "`IMAGE`": "IMAGE", "of the study": "1.2", "of the series": "1.3"}
    sent = read_dataset(BytesIO(find.image_query("1.2", "1.3", uids.EXPLICIT_LITTLE)), False, True)  # noqa: FBT003
    assert [(name, tag, vr, words[value]) for name, tag, vr, value in table("key", "tag", "VR", "value")] == [
        (each.name, f"({each.tag.group:04X},{each.tag.element:04X})", each.VR, each.value or "") for each in sent
    ]


# configuration, files, character sets, TLS


def test_parameters_have_the_defaults_of_the_configuration() -> None:
    fields: dict[str, msgspec.structs.FieldInfo] = {}
    for heading, kind in STRUCTS.items():
        path, _, tag = re.sub(r"[\[\]]", "", heading).partition(" of type ")
        if tag in ("", "dimse"):
            fields |= {f"{path}.{field.name}": field for field in msgspec.structs.fields(kind)}
    for _, key, default in table("parameter", "key", "default"):
        field = fields[quote(key)]
        if field.required:
            assert default == "*required*", key
        elif field.default in (None, ()):
            assert default == "*not set*", key
        else:
            reader, raw = Reader({}, {}), tomllib.loads(f"x = {quote(default)}")["x"]
            assert (reader.value(field.type, raw, ("x",)), reader.problems) == (field.default, []), key


def test_file_meta_information_has_the_elements_that_are_listed() -> None:
    raw = part10.begin(CT, "1.2", uids.EXPLICIT_LITTLE, 16).data[len(part10.PREAMBLE) :]
    written = read_dataset(BytesIO(raw), False, True)  # noqa: FBT003
    found = table("element written", "VR", "value")
    assert [(tag, vr) for tag, vr, _ in found] == [
        (f"({each.tag.group:04X},{each.tag.element:04X})", each.VR) for each in written
    ]
    values = {tag: value for tag, _, value in found}
    assert quote(values["(0002,0100)"]) == part10.PRIVATE_CREATOR
    assert written[0x00020001].value == bytes.fromhex(values["(0002,0001)"])


def test_character_sets_are_those_that_are_known() -> None:
    found = table("without code extensions", "with code extensions")
    assert {term for row in found for cell in row for term in quoted(cell)} == set(python_encoding) - {""}


def test_cipher_suites_are_those_that_are_offered() -> None:
    offered = {(each["protocol"], each["name"]) for each in tls._hardened(ssl.PROTOCOL_TLS_SERVER).get_ciphers()}
    assert {(protocol, quote(name)) for protocol, name in table("protocol", "cipher suite")} == offered
