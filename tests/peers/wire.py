"""The DICOM upper layer protocol (PS3.8 9.3) and the C-ECHO and C-STORE commands (PS3.7 9.3), by hand.

An oracle beside the product's own codecs: it shares nothing with them. Encoders do not judge, so that a test
can send what no honest peer would; decoders raise `MalformedError` for what cannot be read.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple, Self

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
VERIFICATION: Final = "1.2.840.10008.1.1"
IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"

IMPLEMENTATION_CLASS: Final = "2.25.145938472908475029384750293847502938475"
IMPLEMENTATION_VERSION: Final = "RAW_PEER_1"

HEADER: Final = struct.Struct(">BxI")
"""Of every PDU: its type, a reserved byte, the length of what follows."""
PDV_HEADER: Final = struct.Struct(">IBB")
"""Of every item of a P-DATA-TF: its length, the context id, the message control header."""

NO_DATASET: Final = 0x0101
_TITLE: Final = 16


class MalformedError(ValueError):
    """Bytes that PS3.8 or PS3.7 do not allow."""


class Type(IntEnum):
    """PDU types (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class Control(IntFlag):
    """The message control header of a PDV (PS3.8 Annex E)."""

    DATASET = 0
    COMMAND = 1
    LAST = 2


class Pdu(NamedTuple):
    type: int
    body: bytes

    def encode(self) -> bytes:
        return HEADER.pack(self.type, len(self.body)) + self.body


# Items, and what is in an association


class Proposed(NamedTuple):
    """A presentation context of an A-ASSOCIATE-RQ (PS3.8 9.3.2.2)."""

    id: int
    abstract: str
    syntaxes: tuple[str, ...]


class Answered(NamedTuple):
    """A presentation context of an A-ASSOCIATE-AC (PS3.8 9.3.3.2); its syntax counts for result 0."""

    id: int
    result: int
    syntax: str


class Role(NamedTuple):
    """SCP/SCU role selection (PS3.7 D.3.3.4)."""

    abstract: str
    scu: int
    scp: int


@dataclass(frozen=True, kw_only=True)
class User:
    """User information (PS3.8 9.3.2.3, PS3.7 D.3.3); sub-items without a field here are kept in `others`."""

    max_pdu: int = 16384
    implementation_class: str = IMPLEMENTATION_CLASS
    implementation_version: str = IMPLEMENTATION_VERSION
    roles: tuple[Role, ...] = ()
    others: tuple[tuple[int, bytes], ...] = ()

    def encode(self) -> bytes:
        parts = [
            _item(0x51, struct.pack(">I", self.max_pdu)),
            _item(0x52, self.implementation_class.encode("latin-1")),
        ]
        for role in self.roles:
            uid = role.abstract.encode("latin-1")
            parts.append(_item(0x54, struct.pack(">H", len(uid)) + uid + bytes([role.scu, role.scp])))
        if self.implementation_version:
            parts.append(_item(0x55, self.implementation_version.encode("latin-1")))
        parts.extend(_item(kind, body) for kind, body in self.others)
        return _item(0x50, b"".join(parts))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        max_pdu, class_uid, version = 0, "", ""
        roles: list[Role] = []
        others: list[tuple[int, bytes]] = []
        for kind, body in _items(data):
            if kind == 0x51:
                (max_pdu,) = _unpack(">I", body)
            elif kind == 0x52:
                class_uid = _text(body)
            elif kind == 0x54:
                (length,) = _unpack(">H", body[:2])
                scu, scp = _unpack(">BB", body[2 + length :])
                roles.append(Role(_text(body[2 : 2 + length]), scu, scp))
            elif kind == 0x55:
                version = _text(body)
            else:
                others.append((kind, body))
        return cls(
            max_pdu=max_pdu,
            implementation_class=class_uid,
            implementation_version=version,
            roles=tuple(roles),
            others=tuple(others),
        )


@dataclass(frozen=True, kw_only=True)
class AssociateRQ:
    """PS3.8 9.3.2."""

    called: str
    calling: str
    contexts: tuple[Proposed, ...]
    user: User = User()

    def encode(self) -> bytes:
        items = [_item(0x10, APPLICATION_CONTEXT.encode())]
        for context in self.contexts:
            syntaxes = b"".join(_item(0x40, uid.encode("latin-1")) for uid in context.syntaxes)
            abstract = _item(0x30, context.abstract.encode("latin-1"))
            items.append(_item(0x20, struct.pack(">Bxxx", context.id) + abstract + syntaxes))
        items.append(self.user.encode())
        body = _titles(self.called, self.calling) + b"".join(items)
        return Pdu(Type.ASSOCIATE_RQ, body).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        called, calling = _read_titles(body)
        contexts: list[Proposed] = []
        user = User(max_pdu=0)
        for kind, item in _items(body[68:]):
            if kind == 0x20:
                (context,) = _unpack(">Bxxx", item[:4])
                inner = list(_items(item[4:]))
                abstract = [_text(uid) for sub, uid in inner if sub == 0x30]
                if len(abstract) != 1:
                    raise MalformedError(f"context {context} has {len(abstract)} abstract syntaxes")
                syntaxes = tuple(_text(uid) for sub, uid in inner if sub == 0x40)
                contexts.append(Proposed(context, abstract[0], syntaxes))
            elif kind == 0x50:
                user = User.decode(item)
        return cls(called=called, calling=calling, contexts=tuple(contexts), user=user)


@dataclass(frozen=True, kw_only=True)
class AssociateAC:
    """PS3.8 9.3.3."""

    called: str
    calling: str
    contexts: tuple[Answered, ...]
    user: User = User()

    def encode(self) -> bytes:
        items = [_item(0x10, APPLICATION_CONTEXT.encode())]
        for context in self.contexts:
            syntax = _item(0x40, context.syntax.encode("latin-1"))
            items.append(_item(0x21, struct.pack(">BxBx", context.id, context.result) + syntax))
        items.append(self.user.encode())
        body = _titles(self.called, self.calling) + b"".join(items)
        return Pdu(Type.ASSOCIATE_AC, body).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        called, calling = _read_titles(body)
        contexts: list[Answered] = []
        user = User(max_pdu=0)
        for kind, item in _items(body[68:]):
            if kind == 0x21:
                context, result = _unpack(">BxBx", item[:4])
                syntaxes = [_text(uid) for sub, uid in _items(item[4:]) if sub == 0x40]
                contexts.append(Answered(context, result, syntaxes[0] if syntaxes else ""))
            elif kind == 0x50:
                user = User.decode(item)
        return cls(called=called, calling=calling, contexts=tuple(contexts), user=user)


class AssociateRJ(NamedTuple):
    """PS3.8 9.3.4, Table 9-21."""

    result: int
    source: int
    reason: int

    def encode(self) -> bytes:
        return Pdu(Type.ASSOCIATE_RJ, struct.pack(">xBBB", *self)).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        return cls(*_unpack(">xBBB", body))


class Abort(NamedTuple):
    """PS3.8 9.3.8, Table 9-26."""

    source: int = 0
    reason: int = 0

    def encode(self) -> bytes:
        return Pdu(Type.ABORT, struct.pack(">xxBB", *self)).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        return cls(*_unpack(">xxBB", body))


RELEASE_RQ: Final = Pdu(Type.RELEASE_RQ, bytes(4)).encode()
RELEASE_RP: Final = Pdu(Type.RELEASE_RP, bytes(4)).encode()


# P-DATA-TF


class Pdv(NamedTuple):
    """A presentation data value (PS3.8 9.3.5.1)."""

    context: int
    control: int
    data: bytes

    def encode(self) -> bytes:
        return PDV_HEADER.pack(len(self.data) + 2, self.context, self.control) + self.data


def p_data(*values: Pdv) -> bytes:
    return Pdu(Type.P_DATA, b"".join(value.encode() for value in values)).encode()


def p_data_header(context: int, control: int, length: int) -> bytes:
    """What stands before a fragment of `length` bytes that is alone in its P-DATA-TF."""
    return HEADER.pack(Type.P_DATA, length + 6) + PDV_HEADER.pack(length + 2, context, control)


def decode_p_data(body: bytes) -> list[Pdv]:
    values: list[Pdv] = []
    position = 0
    while position < len(body):
        length, context, control = _unpack(">IBB", body[position : position + 6])
        end = position + 4 + length
        if length < 2 or end > len(body):
            raise MalformedError(f"a PDV of {length} bytes in {len(body) - position - 4}")
        values.append(Pdv(context, control, body[position + 6 : end]))
        position = end
    return values


# Command sets


class Field(IntEnum):
    """Elements of group 0000 (PS3.7 E.1)."""

    GROUP_LENGTH = 0x0000
    AFFECTED_CLASS = 0x0002
    REQUESTED_CLASS = 0x0003
    COMMAND = 0x0100
    MESSAGE_ID = 0x0110
    RESPONDED_TO = 0x0120
    PRIORITY = 0x0700
    DATASET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_INSTANCE = 0x1000
    REQUESTED_INSTANCE = 0x1001
    EVENT_TYPE = 0x1002
    ACTION_TYPE = 0x1008


class Verb(IntEnum):
    """Command fields; a response has the high bit set."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_ACTION = 0x0130


RESPONSE: Final = 0x8000


@dataclass(frozen=True)
class Command:
    """A command set: element number to its value field as it stands on the wire."""

    elements: Mapping[int, bytes]

    @classmethod
    def of(cls, elements: Mapping[int, int | str]) -> Self:
        """Whole numbers become US, strings UI or another text VR, padded as a UID is."""
        return cls({field: _value(value) for field, value in elements.items()})

    def encode(self) -> bytes:
        body = b"".join(
            struct.pack("<HHI", 0, field, len(value)) + value for field, value in sorted(self.elements.items())
        )
        return struct.pack("<HHII", 0, Field.GROUP_LENGTH, 4, len(body)) + body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        elements: dict[int, bytes] = {}
        position = 0
        while position < len(data):
            group, field, length = _unpack("<HHI", data[position : position + 8])
            end = position + 8 + length
            if group != 0 or end > len(data):
                raise MalformedError(f"({group:04x},{field:04x}) of {length} bytes in a command set")
            elements[field] = data[position + 8 : end]
            position = end
        elements.pop(Field.GROUP_LENGTH, None)
        return cls(elements)

    def number(self, field: int) -> int | None:
        """A US element; None where it is absent or empty."""
        value = self.elements.get(field, b"")
        if not value:
            return None
        number: int = _unpack("<H", value)[0]
        return number

    def text(self, field: int) -> str:
        return _text(self.elements.get(field, b""))

    @property
    def verb(self) -> int:
        return self.number(Field.COMMAND) or 0

    @property
    def message_id(self) -> int:
        return self.number(Field.MESSAGE_ID) or 0

    @property
    def status(self) -> int | None:
        return self.number(Field.STATUS)

    @property
    def has_dataset(self) -> bool:
        return self.number(Field.DATASET_TYPE) != NO_DATASET


def c_store_rq(message_id: int, sop_class: str, sop_instance: str, *, priority: int = 0) -> Command:
    """PS3.7 9.3.1.1."""
    return Command.of(
        {
            Field.AFFECTED_CLASS: sop_class,
            Field.COMMAND: Verb.C_STORE,
            Field.MESSAGE_ID: message_id,
            Field.PRIORITY: priority,
            Field.DATASET_TYPE: 1,
            Field.AFFECTED_INSTANCE: sop_instance,
        }
    )


def c_store_rsp(message_id: int, sop_class: str, sop_instance: str, status: int | None) -> Command:
    """PS3.7 9.3.1.2. Without a status the response breaks the standard, as some peers do."""
    return Command.of(
        {
            Field.AFFECTED_CLASS: sop_class,
            Field.COMMAND: Verb.C_STORE | RESPONSE,
            Field.RESPONDED_TO: message_id,
            Field.DATASET_TYPE: NO_DATASET,
            **({} if status is None else {Field.STATUS: status}),
            Field.AFFECTED_INSTANCE: sop_instance,
        }
    )


def c_echo_rq(message_id: int) -> Command:
    """PS3.7 9.3.5.1."""
    return Command.of(
        {
            Field.AFFECTED_CLASS: VERIFICATION,
            Field.COMMAND: Verb.C_ECHO,
            Field.MESSAGE_ID: message_id,
            Field.DATASET_TYPE: NO_DATASET,
        }
    )


def response(request: Command, status: int) -> Command:
    """The answer to a request of any kind, with nothing beyond what all answers carry."""
    return Command.of(
        {
            Field.AFFECTED_CLASS: request.text(Field.AFFECTED_CLASS) or request.text(Field.REQUESTED_CLASS),
            Field.COMMAND: request.verb | RESPONSE,
            Field.RESPONDED_TO: request.message_id,
            Field.DATASET_TYPE: NO_DATASET,
            Field.STATUS: status,
        }
    )


def _value(value: int | str) -> bytes:
    if isinstance(value, int):
        return struct.pack("<H", value)
    data = value.encode("latin-1")
    return data + b"\0" * (len(data) % 2)


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        kind, length = _unpack(">BxH", data[position : position + 4])
        end = position + 4 + length
        if end > len(data):
            raise MalformedError(f"item {kind:02x}H of {length} bytes in {len(data) - position - 4}")
        yield kind, data[position + 4 : end]
        position = end


def _titles(called: str, calling: str) -> bytes:
    titles = [title.encode("latin-1").ljust(_TITLE)[:_TITLE] for title in (called, calling)]
    return struct.pack(">Hxx", 1) + b"".join(titles) + bytes(32)


def _read_titles(body: bytes) -> tuple[str, str]:
    if len(body) < 68:
        raise MalformedError(f"an A-ASSOCIATE PDU of {len(body)} bytes")
    return _text(body[4:20]), _text(body[20:36])


def _text(data: bytes) -> str:
    return data.decode("latin-1").strip(" \0")


def _unpack(layout: str, data: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack(layout, data)
    except struct.error as wrong:
        raise MalformedError(f"{len(data)} bytes where {struct.calcsize(layout)} belong") from wrong
