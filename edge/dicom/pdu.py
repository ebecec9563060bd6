"""Protocol data units of the DICOM upper layer, except P-DATA-TF (PS3.8 9.3).

Bytes to frozen values and back. Decoding is lenient where PS3.8 asks for it (unknown items are passed over, padding
of AE titles is stripped) and raises `InvalidPDU` with the A-ABORT reason where the bytes make no sense.
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct, error
from typing import Final

import msgspec

from edge.phrase import N_, say

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS_UID: Final = "2.25.242844071644968350697173694672403275706"
IMPLEMENTATION_VERSION: Final = "DICOM-EDGE_01"

HEADER: Final = Struct(">BxL")
"""PDU type and length of what follows."""
HEADER_LENGTH: Final = HEADER.size
PDV_HEADER: Final = Struct(">LBB")
"""Item length, presentation context id, message control header (PS3.8 9.3.5.1, annex E)."""
PDV_HEADER_LENGTH: Final = PDV_HEADER.size
COMMAND: Final = 1
"""Bit of the message control header: command, not dataset."""
LAST: Final = 2
"""Bit of the message control header: last fragment."""

_ITEM: Final = Struct(">BxH")
_ASSOCIATE: Final = Struct(">HH16s16s32s")
_U16: Final = Struct(">H")
_U32: Final = Struct(">L")


class PDUType(IntEnum):
    """PDU types (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortReason(IntEnum):
    """Why the service provider aborts (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class InvalidPDU(Exception):
    """The peer's bytes are no PDU that PS3.8 allows; ``reason`` goes into the A-ABORT."""

    def __init__(self, text: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(text)
        self.reason = reason


class ProposedContext(msgspec.Struct, frozen=True):
    """A presentation context as proposed (PS3.8 9.3.2.2)."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class ContextResult(IntEnum):
    """The answer to one presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class AnsweredContext(msgspec.Struct, frozen=True):
    """A presentation context as answered (PS3.8 9.3.3.2); ``transfer_syntax`` counts only where accepted."""

    id: int
    result: int
    transfer_syntax: str


class Role(msgspec.Struct, frozen=True):
    """SCP/SCU role selection (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


class UserIdentity(msgspec.Struct, frozen=True):
    """User identity negotiation (PS3.7 D.3.3.7)."""

    kind: int
    response_requested: bool


class UserInformation(msgspec.Struct, frozen=True, kw_only=True):
    """What the user information item carries (PS3.8 9.3.2.3, PS3.7 D.3.3)."""

    max_pdu: int = 0
    """Longest P-DATA-TF the sender of this item takes, header not counted; 0: no limit."""
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    implementation_version: str = IMPLEMENTATION_VERSION
    async_window: tuple[int, int] | None = None
    roles: tuple[Role, ...] = ()
    storage_related: tuple[str, ...] = ()
    """SOP classes whose common extended negotiation names the Storage service class (PS3.7 D.3.3.6)."""
    identity: UserIdentity | None = None
    identity_response: bool = False


class AssociateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    called: str
    calling: str
    contexts: tuple[ProposedContext, ...]
    user: UserInformation
    titles: bytes = b""
    """The 64 bytes of titles and reserved field as received: an A-ASSOCIATE-AC sends them back unchanged."""
    application_context: str = APPLICATION_CONTEXT
    """Empty where the item is missing."""
    known_version: bool = True
    """Whether version 1 of the protocol is among those proposed; if not, nothing after the titles was read."""


class AssociateAccept(msgspec.Struct, frozen=True, kw_only=True):
    """A-ASSOCIATE-AC (PS3.8 9.3.3)."""

    contexts: tuple[AnsweredContext, ...]
    user: UserInformation
    titles: bytes = bytes(64)


class AssociateReject(msgspec.Struct, frozen=True):
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    result: int
    source: int
    reason: int


class Abort(msgspec.Struct, frozen=True):
    """A-ABORT (PS3.8 9.3.8)."""

    source: int
    reason: int


def title(raw: bytes) -> str:
    """Decode an AE title: outer spaces and NULs are not significant, inner ones and case are (PS3.8 Table 9-11)."""
    return raw.decode("latin-1").strip(" \0")


def _uid(raw: bytes) -> str:
    return raw.decode("latin-1").strip(" \0")


def _items(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise InvalidPDU(N_("an item's header is cut"))
        kind, length = _ITEM.unpack_from(data, position)
        position += 4
        if position + length > len(data):
            raise InvalidPDU(N_("an item is longer than its PDU"))
        yield kind, data[position : position + length]
        position += length


def decode_request(body: bytes | memoryview) -> AssociateRequest:
    """Decode what follows the PDU header of an A-ASSOCIATE-RQ. Raises `InvalidPDU`."""
    view = memoryview(body)
    try:
        version, _, called, calling, _ = _ASSOCIATE.unpack_from(view)
        known_version = bool(version & 1)
        contexts: list[ProposedContext] = []
        application_context = ""
        user = UserInformation(implementation_class_uid="", implementation_version="")
        for kind, value in _items(view[68:]) if known_version else ():
            if kind == 0x10:
                application_context = _uid(bytes(value))
            elif kind == 0x20:
                contexts.append(_proposed(value))
            elif kind == 0x50:
                user = _user_information(value)
    except error as e:
        raise InvalidPDU(say("the association request is cut: {error}", error=e)) from e
    ids = [context.id for context in contexts]
    if any(not i & 1 for i in ids):
        raise InvalidPDU(N_("a presentation context id is even"))
    if len(set(ids)) != len(ids):
        raise InvalidPDU(N_("a presentation context id is used twice"))
    return AssociateRequest(
        called=title(called),
        calling=title(calling),
        contexts=tuple(contexts),
        user=user,
        titles=bytes(view[4:68]),
        application_context=application_context,
        known_version=known_version,
    )


def _proposed(value: memoryview) -> ProposedContext:
    abstract, transfer = "", []
    for kind, sub in _items(value[4:]):
        if kind == 0x30:
            abstract = _uid(bytes(sub))
        elif kind == 0x40:
            transfer.append(_uid(bytes(sub)))
    return ProposedContext(value[0] if value else 0, abstract, tuple(transfer))


def _user_information(value: memoryview) -> UserInformation:
    fields: dict[str, object] = {"implementation_class_uid": "", "implementation_version": ""}
    roles: list[Role] = []
    storage: list[str] = []
    for kind, item in _items(value):
        sub = bytes(item)
        match kind:
            case 0x51:
                fields["max_pdu"] = _U32.unpack_from(sub)[0]
            case 0x52:
                fields["implementation_class_uid"] = _uid(sub)
            case 0x53:
                fields["async_window"] = (_U16.unpack_from(sub)[0], _U16.unpack_from(sub, 2)[0])
            case 0x54:
                roles += _role(sub)
            case 0x55:
                fields["implementation_version"] = _uid(sub)
            case 0x57:
                storage += _storage_related(sub)
            case 0x58 if len(sub) >= 2:
                fields["identity"] = UserIdentity(sub[0], sub[1] == 1)
    return msgspec.convert(fields | {"roles": tuple(roles), "storage_related": tuple(storage)}, UserInformation)


def _role(sub: bytes) -> list[Role]:
    length = _U16.unpack_from(sub)[0]
    flags = sub[2 + length : 4 + length]
    return [Role(_uid(sub[2 : 2 + length]), flags[0] == 1, flags[1] == 1)] if len(flags) == 2 else []


def _storage_related(sub: bytes) -> list[str]:
    length = _U16.unpack_from(sub)[0]
    service = _U16.unpack_from(sub, 2 + length)[0]
    is_storage = _uid(sub[4 + length : 4 + length + service]) == "1.2.840.10008.4.2"
    return [_uid(sub[2 : 2 + length])] if is_storage else []


def decode_accept(body: bytes | memoryview) -> AssociateAccept:
    """Decode what follows the PDU header of an A-ASSOCIATE-AC. Raises `InvalidPDU`."""
    view = memoryview(body)
    if len(view) < 68:
        raise InvalidPDU(N_("the association answer is cut"))
    contexts: list[AnsweredContext] = []
    user = UserInformation(implementation_class_uid="", implementation_version="")
    try:
        for kind, value in _items(view[68:]):
            if kind == 0x21:
                syntaxes = [_uid(bytes(sub)) for k, sub in _items(value[4:]) if k == 0x40]
                contexts.append(AnsweredContext(value[0], value[2], syntaxes[0] if syntaxes else ""))
            elif kind == 0x50:
                user = _user_information(value)
    except (error, IndexError) as e:
        raise InvalidPDU(say("the association answer is cut: {error}", error=e)) from e
    return AssociateAccept(contexts=tuple(contexts), user=user, titles=bytes(view[4:68]))


def decode_reject(body: bytes | memoryview) -> AssociateReject:
    """Decode what follows the PDU header of an A-ASSOCIATE-RJ. Raises `InvalidPDU`."""
    if len(body) < 4:
        raise InvalidPDU(N_("the rejection is cut"))
    return AssociateReject(body[1], body[2], body[3])


def decode_abort(body: bytes | memoryview) -> Abort:
    """Decode what follows the PDU header of an A-ABORT; a short one counts as unspecified."""
    return Abort(body[2], body[3]) if len(body) >= 4 else Abort(2, 0)


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _pdu(kind: PDUType, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body)) + body


def _encode_user(user: UserInformation) -> bytes:
    parts = [
        _item(0x51, _U32.pack(user.max_pdu)),
        _item(0x52, user.implementation_class_uid.encode("latin-1")),
    ]
    if user.async_window is not None:
        parts.append(_item(0x53, _U16.pack(user.async_window[0]) + _U16.pack(user.async_window[1])))
    for role in user.roles:
        uid = role.sop_class_uid.encode("latin-1")
        parts.append(_item(0x54, _U16.pack(len(uid)) + uid + bytes((role.scu, role.scp))))
    parts.append(_item(0x55, user.implementation_version.encode("latin-1")))
    if user.identity_response:
        parts.append(_item(0x59, _U16.pack(0)))
    return _item(0x50, b"".join(parts))


def _titles(called: str, calling: str) -> bytes:
    return called.encode("latin-1").ljust(16)[:16] + calling.encode("latin-1").ljust(16)[:16] + bytes(32)


def encode_request(request: AssociateRequest) -> bytes:
    """Encode an A-ASSOCIATE-RQ, PDU header included."""
    items = [_item(0x10, APPLICATION_CONTEXT.encode())]
    for context in request.contexts:
        subs = _item(0x30, context.abstract_syntax.encode("latin-1"))
        subs += b"".join(_item(0x40, syntax.encode("latin-1")) for syntax in context.transfer_syntaxes)
        items.append(_item(0x20, bytes((context.id, 0, 0, 0)) + subs))
    items.append(_encode_user(request.user))
    head = _U32.pack(0x00010000) + _titles(request.called, request.calling)
    return _pdu(PDUType.ASSOCIATE_RQ, head + b"".join(items))


def encode_accept(accept: AssociateAccept) -> bytes:
    """Encode an A-ASSOCIATE-AC, PDU header included."""
    items = [_item(0x10, APPLICATION_CONTEXT.encode())]
    for context in accept.contexts:
        syntax = _item(0x40, context.transfer_syntax.encode("latin-1"))
        items.append(_item(0x21, bytes((context.id, 0, context.result, 0)) + syntax))
    items.append(_encode_user(accept.user))
    return _pdu(PDUType.ASSOCIATE_AC, _U32.pack(0x00010000) + accept.titles + b"".join(items))


def encode_reject(reject: AssociateReject) -> bytes:
    """Encode an A-ASSOCIATE-RJ, PDU header included."""
    return _pdu(PDUType.ASSOCIATE_RJ, bytes((0, reject.result, reject.source, reject.reason)))


def encode_abort(abort: Abort) -> bytes:
    """Encode an A-ABORT, PDU header included."""
    return _pdu(PDUType.ABORT, bytes((0, 0, abort.source, abort.reason)))


RELEASE_RQ: Final = _pdu(PDUType.RELEASE_RQ, bytes(4))
RELEASE_RP: Final = _pdu(PDUType.RELEASE_RP, bytes(4))
