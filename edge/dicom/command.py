"""DIMSE command sets: group 0000 in Implicit VR Little Endian (PS3.7 6.3, 9.3, annex E).

A command set is small and met twice for every image, so it is decoded by hand into one frozen value. Elements
that no service here uses are passed over.
"""

from enum import IntEnum
from struct import Struct, error
from typing import Final

import msgspec

from edge.phrase import N_, say

NO_DATASET: Final = 0x0101
"""Command Data Set Type (0000,0800): nothing follows."""
_DATASET: Final = 0x0001

_LONGEST_UID: Final = 64
_ELEMENT: Final = Struct("<HHL")
_U16: Final = Struct("<H")


class CommandField(IntEnum):
    """Command Field (0000,0100) of PS3.7 annex E."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_ACTION_RQ = 0x0130
    C_CANCEL_RQ = 0x0FFF


RESPONSE: Final = 0x8000
"""Set in the command field of every response."""


class InvalidCommand(Exception):
    """The bytes are no command set."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One command set. UIDs are stripped of trailing NUL and space; empty or None where absent."""

    field: int
    message_id: int = 0
    """Message ID, or Message ID Being Responded To in a response."""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    has_dataset: bool = False
    priority: int = 0
    status: int | None = None
    error_comment: str = ""
    originator: str = ""
    """Move Originator AE title (0000,1030)."""
    event_type: int | None = None
    """Event Type ID (0000,1002)."""
    action_type: int | None = None
    """Action Type ID (0000,1008)."""


def _text(raw: bytes) -> str:
    return raw.decode("latin-1").strip(" \0")


def _number(raw: bytes | None) -> int | None:
    return _U16.unpack(raw)[0] if raw else None


def decode(data: bytes | bytearray | memoryview) -> Command:
    """Decode a whole command set. Raises `InvalidCommand`."""
    values: dict[int, bytes] = {}
    position, end = 0, len(data)
    try:
        while position < end:
            group, element, length = _ELEMENT.unpack_from(data, position)
            position += 8
            if group != 0 or position + length > end:
                raise InvalidCommand(N_("the command set is cut, or holds elements outside of group 0000"))
            values[element] = bytes(data[position : position + length])
            position += length
        field = _U16.unpack(values[0x0100])[0]
        responded = values.get(0x0120)
        message = responded if responded is not None and field & RESPONSE else values.get(0x0110, b"\0\0")
        kind = values.get(0x0800)
        return Command(
            field=field,
            message_id=_U16.unpack(message)[0],
            sop_class_uid=_text(values.get(0x0002) or values.get(0x0003, b"")),
            sop_instance_uid=_text(values.get(0x1000) or values.get(0x1001, b"")),
            has_dataset=kind is not None and _U16.unpack(kind)[0] != NO_DATASET,
            priority=_U16.unpack(values.get(0x0700, b"\0\0"))[0],
            status=_number(values.get(0x0900)),
            error_comment=_text(values.get(0x0902, b"")),
            originator=_text(values.get(0x1030, b"")),
            event_type=_number(values.get(0x1002)),
            action_type=_number(values.get(0x1008)),
        )
    except KeyError as e:
        raise InvalidCommand(N_("the command set has no Command Field (0000,0100)")) from e
    except error as e:
        raise InvalidCommand(say("the command set is malformed: {error}", error=e)) from e


def _us(element: int, value: int) -> bytes:
    return _ELEMENT.pack(0, element, 2) + _U16.pack(value)


def _ui(element: int, uid: str) -> bytes:
    raw = uid.encode("latin-1")
    raw += b"\0" * (len(raw) & 1)
    return _ELEMENT.pack(0, element, len(raw)) + raw


def _lo(element: int, text: str, most: int) -> bytes:
    raw = text.encode("latin-1", "replace")[:most]
    raw += b" " * (len(raw) & 1)
    return _ELEMENT.pack(0, element, len(raw)) + raw


def _whole(elements: bytes) -> bytes:
    return _ELEMENT.pack(0, 0, 4) + len(elements).to_bytes(4, "little") + elements


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, priority: int = 0) -> bytes:
    """C-STORE-RQ (PS3.7 9.3.1.1). ``priority``: 0 medium, 1 high, 2 low."""
    return _whole(
        _ui(0x0002, sop_class_uid)
        + _us(0x0100, CommandField.C_STORE_RQ)
        + _us(0x0110, message_id)
        + _us(0x0700, priority)
        + _us(0x0800, _DATASET)
        + _ui(0x1000, sop_instance_uid)
    )


def echo_request(message_id: int) -> bytes:
    """C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return _whole(
        _ui(0x0002, "1.2.840.10008.1.1")
        + _us(0x0100, CommandField.C_ECHO_RQ)
        + _us(0x0110, message_id)
        + _us(0x0800, NO_DATASET)
    )


def find_request(message_id: int, sop_class_uid: str, priority: int = 0) -> bytes:
    """C-FIND-RQ (PS3.7 9.3.2.1). ``priority``: 0 medium, 1 high, 2 low."""
    return _whole(
        _ui(0x0002, sop_class_uid)
        + _us(0x0100, CommandField.C_FIND_RQ)
        + _us(0x0110, message_id)
        + _us(0x0700, priority)
        + _us(0x0800, _DATASET)
    )


def event_report_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """N-EVENT-REPORT-RQ with a dataset (PS3.7 10.3.1.1)."""
    return _whole(
        _ui(0x0002, sop_class_uid)
        + _us(0x0100, CommandField.N_EVENT_REPORT_RQ)
        + _us(0x0110, message_id)
        + _us(0x0800, _DATASET)
        + _ui(0x1000, sop_instance_uid)
        + _us(0x1002, event_type)
    )


def action_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type: int) -> bytes:
    """N-ACTION-RQ with a dataset (PS3.7 10.3.4.1)."""
    return _whole(
        _ui(0x0003, sop_class_uid)
        + _us(0x0100, CommandField.N_ACTION_RQ)
        + _us(0x0110, message_id)
        + _us(0x0800, _DATASET)
        + _ui(0x1001, sop_instance_uid)
        + _us(0x1008, action_type)
    )


def response(request: Command, status: int, comment: str = "") -> bytes:
    """Build the response to ``request``; ``comment`` is cut to the 64 characters of Error Comment (0000,0902).

    What the request calls UIDs and are too long for any is not sent back. An event or action type is (PS3.7 10.3.1.2,
    10.3.4.2): it must be there wherever a dataset is, and does no harm without one.
    """
    parts = []
    if 0 < len(request.sop_class_uid) <= _LONGEST_UID:
        parts.append(_ui(0x0002, request.sop_class_uid))
    parts.append(_us(0x0100, request.field | RESPONSE))
    parts.append(_us(0x0120, request.message_id))
    parts.append(_us(0x0800, NO_DATASET))
    parts.append(_us(0x0900, status))
    if comment:
        parts.append(_lo(0x0902, comment, 64))
    if 0 < len(request.sop_instance_uid) <= _LONGEST_UID:
        parts.append(_ui(0x1000, request.sop_instance_uid))
    if request.event_type is not None:
        parts.append(_us(0x1002, request.event_type))
    if request.action_type is not None:
        parts.append(_us(0x1008, request.action_type))
    return _whole(b"".join(parts))
