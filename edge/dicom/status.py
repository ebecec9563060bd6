"""What a C-STORE status means: the table, and a sentence for a person (PS3.4 B.2.3, PS3.7 annex C).

Every 16-bit code has a class. What follows from a class (keep, send again, hold) is decided elsewhere.
"""

from enum import StrEnum
from typing import Final

from edge.phrase import say

SUCCESS: Final = 0x0000
WARNING: Final = 0x0001
NO_SUCH_ATTRIBUTE: Final = 0x0105
INVALID_ATTRIBUTE_VALUE: Final = 0x0106
ATTRIBUTE_LIST_ERROR: Final = 0x0107
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NO_SUCH_SOP_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
NO_SUCH_ARGUMENT: Final = 0x0114
INVALID_ARGUMENT_VALUE: Final = 0x0115
ATTRIBUTE_VALUE_OUT_OF_RANGE: Final = 0x0116
INVALID_SOP_INSTANCE: Final = 0x0117
NO_SUCH_SOP_CLASS: Final = 0x0118
CLASS_INSTANCE_CONFLICT: Final = 0x0119
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_ATTRIBUTE_VALUE: Final = 0x0121
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NO_SUCH_ACTION: Final = 0x0123
NOT_AUTHORIZED: Final = 0x0124
DUPLICATE_INVOCATION: Final = 0x0210
UNRECOGNIZED_OPERATION: Final = 0x0211
MISTYPED_ARGUMENT: Final = 0x0212
RESOURCE_LIMITATION: Final = 0x0213
OUT_OF_RESOURCES: Final = 0xA700
DATASET_MISMATCH: Final = 0xA900
COERCION_OF_DATA_ELEMENTS: Final = 0xB000
ELEMENTS_DISCARDED: Final = 0xB006
DATASET_MISMATCH_WARNING: Final = 0xB007
CANNOT_UNDERSTAND: Final = 0xC000
CANCEL: Final = 0xFE00
PENDING: Final = 0xFF00
PENDING_WARNING: Final = 0xFF01


class StatusClass(StrEnum):
    """What kind of answer a status is: PS3.4 B.2.3 for storage, else the name that PS3.7 annex C gives it."""

    SUCCESS = "success"
    WARNING = "warning"
    """Stored, with a remark: 0001, 0107, 0116, Bxxx."""
    OUT_OF_RESOURCES = "out-of-resources"
    """A7xx."""
    MISMATCH = "mismatch"
    """A9xx: the dataset is not what its SOP class asks for."""
    CANNOT_UNDERSTAND = "cannot-understand"
    """Cxxx."""
    NO_SUCH_ATTRIBUTE = "no-such-attribute"
    INVALID_ATTRIBUTE_VALUE = "invalid-attribute-value"
    PROCESSING_FAILURE = "processing-failure"
    DUPLICATE_SOP_INSTANCE = "duplicate-sop-instance"
    NO_SUCH_SOP_INSTANCE = "no-such-sop-instance"
    NO_SUCH_EVENT_TYPE = "no-such-event-type"
    NO_SUCH_ARGUMENT = "no-such-argument"
    INVALID_ARGUMENT_VALUE = "invalid-argument-value"
    INVALID_SOP_INSTANCE = "invalid-sop-instance"
    NO_SUCH_SOP_CLASS = "no-such-sop-class"
    CLASS_INSTANCE_CONFLICT = "class-instance-conflict"
    MISSING_ATTRIBUTE = "missing-attribute"
    MISSING_ATTRIBUTE_VALUE = "missing-attribute-value"
    SOP_CLASS_NOT_SUPPORTED = "sop-class-not-supported"
    NO_SUCH_ACTION = "no-such-action"
    NOT_AUTHORIZED = "not-authorized"
    DUPLICATE_INVOCATION = "duplicate-invocation"
    UNRECOGNIZED_OPERATION = "unrecognized-operation"
    MISTYPED_ARGUMENT = "mistyped-argument"
    RESOURCE_LIMITATION = "resource-limitation"
    CANCELLED = "cancelled"
    PENDING = "pending"
    FAILURE = "failure"
    """A failure by its range (PS3.7 C.4: Axxx, 01xx, 02xx) without a name of its own."""
    UNKNOWN = "unknown"
    """In no range of the standard."""


_C = StatusClass

_CODES: Final[dict[int, tuple[StatusClass, str]]] = {
    SUCCESS: (_C.SUCCESS, "Stored: the receiver has the object"),
    WARNING: (_C.WARNING, "Stored with a warning that the receiver does not explain"),
    NO_SUCH_ATTRIBUTE: (_C.NO_SUCH_ATTRIBUTE, "The receiver does not know an attribute that was named"),
    INVALID_ATTRIBUTE_VALUE: (
        _C.INVALID_ATTRIBUTE_VALUE,
        "The receiver does not allow the value of an attribute",
    ),
    ATTRIBUTE_LIST_ERROR: (_C.WARNING, "Stored, but the receiver passed over attributes it does not know"),
    PROCESSING_FAILURE: (_C.PROCESSING_FAILURE, "The receiver had an error of its own while storing"),
    DUPLICATE_SOP_INSTANCE: (
        _C.DUPLICATE_SOP_INSTANCE,
        "The receiver already has an object with this SOP Instance UID",
    ),
    NO_SUCH_SOP_INSTANCE: (_C.NO_SUCH_SOP_INSTANCE, "The receiver does not know this SOP Instance UID"),
    NO_SUCH_EVENT_TYPE: (_C.NO_SUCH_EVENT_TYPE, "The receiver does not know this type of event"),
    NO_SUCH_ARGUMENT: (_C.NO_SUCH_ARGUMENT, "The receiver does not know an argument of the command"),
    INVALID_ARGUMENT_VALUE: (
        _C.INVALID_ARGUMENT_VALUE,
        "The receiver does not allow the value of an argument of the command",
    ),
    ATTRIBUTE_VALUE_OUT_OF_RANGE: (_C.WARNING, "Stored, but the receiver found a value out of range"),
    INVALID_SOP_INSTANCE: (
        _C.INVALID_SOP_INSTANCE,
        "The receiver says that the SOP Instance UID is malformed",
    ),
    NO_SUCH_SOP_CLASS: (_C.NO_SUCH_SOP_CLASS, "The receiver does not know this SOP class"),
    CLASS_INSTANCE_CONFLICT: (
        _C.CLASS_INSTANCE_CONFLICT,
        "The receiver knows this SOP Instance UID under another SOP class",
    ),
    MISSING_ATTRIBUTE: (_C.MISSING_ATTRIBUTE, "The receiver misses an attribute that it requires"),
    MISSING_ATTRIBUTE_VALUE: (
        _C.MISSING_ATTRIBUTE_VALUE,
        "The receiver misses the value of an attribute that it requires",
    ),
    SOP_CLASS_NOT_SUPPORTED: (_C.SOP_CLASS_NOT_SUPPORTED, "The receiver does not take this SOP class"),
    NO_SUCH_ACTION: (_C.NO_SUCH_ACTION, "The receiver does not know this type of action"),
    NOT_AUTHORIZED: (_C.NOT_AUTHORIZED, "The receiver does not allow this sender to store"),
    DUPLICATE_INVOCATION: (
        _C.DUPLICATE_INVOCATION,
        "The receiver says that the message ID is in use already",
    ),
    UNRECOGNIZED_OPERATION: (_C.UNRECOGNIZED_OPERATION, "The receiver does not know this command"),
    MISTYPED_ARGUMENT: (
        _C.MISTYPED_ARGUMENT,
        "The receiver says that an argument of the command is malformed",
    ),
    RESOURCE_LIMITATION: (_C.RESOURCE_LIMITATION, "The receiver is short of resources"),
    COERCION_OF_DATA_ELEMENTS: (_C.WARNING, "Stored, but the receiver changed values in its copy"),
    ELEMENTS_DISCARDED: (_C.WARNING, "Stored, but the receiver left elements out of its copy"),
    DATASET_MISMATCH_WARNING: (
        _C.WARNING,
        "Stored, but the receiver says that it does not match its SOP class",
    ),
    CANCEL: (_C.CANCELLED, "The operation was cancelled"),
    PENDING: (_C.PENDING, "The receiver is still at work"),
    PENDING_WARNING: (_C.PENDING, "The receiver is still at work and has a remark"),
}

_RANGES: Final[dict[int, tuple[StatusClass, str]]] = {
    0x01: (_C.FAILURE, "The receiver reports a failure that the DICOM standard gives no name"),
    0x02: (_C.FAILURE, "The receiver reports a failure that the DICOM standard gives no name"),
    **dict.fromkeys(range(0xA0, 0xB0), (_C.FAILURE, "The receiver reports a failure that has no meaning for storage")),
    0xA7: (_C.OUT_OF_RESOURCES, "The receiver has no room or is short of resources"),
    0xA9: (_C.MISMATCH, "The receiver says that the object does not match its SOP class"),
    **dict.fromkeys(range(0xB0, 0xC0), (_C.WARNING, "Stored with a warning of the receiver's own")),
    **dict.fromkeys(range(0xC0, 0xD0), (_C.CANNOT_UNDERSTAND, "The receiver cannot understand the object")),
}
"""By the high byte of the code."""

_UNKNOWN: Final = (_C.UNKNOWN, "The DICOM standard does not know this status; ask who runs the receiver")


def _entry(code: int) -> tuple[StatusClass, str]:
    return _CODES.get(code) or _RANGES.get(code >> 8, _UNKNOWN)


def classify(code: int) -> StatusClass:
    """Give the class of Status (0000,0900); every code has one."""
    return _entry(code)[0]


def meaning(code: int) -> str:
    """Say what Status (0000,0900) means in one sentence that ends with the code in hexadecimal."""
    return say("{detail} (status {code}).", detail=_entry(code)[1], code=f"{code:04X}")


MEANINGS: Final = tuple(dict.fromkeys(entry[1] for entry in (*_CODES.values(), *_RANGES.values(), _UNKNOWN)))
"""Every sentence that a status may mean."""
