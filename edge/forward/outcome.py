"""What a transport says of one instance: a value, never an exception.

The dispatcher alone turns outcomes into states. A sick destination (`Unreachable`) is not a sick instance (`Refused`,
`TryLater`), and the other way round.
"""

from typing import Final

import msgspec

from edge.dicom import status
from edge.dicom.status import StatusClass
from edge.evidence import Evidence
from edge.model import Rendering
from edge.phrase import N_, say


class Accepted(msgspec.Struct, frozen=True):
    """The destination said yes for this instance."""

    code: str
    evidence: Evidence
    detail: str = ""
    """The warning it said it with, if any."""
    rendering: Rendering | None = None
    """What was sent; None: what is stored."""


class TryLater(msgspec.Struct, frozen=True):
    """The destination has a trouble of its own with this instance; others go on."""

    code: str
    detail: str
    after: float | None = None
    """Seconds to wait, where known; else backoff."""


class Refused(msgspec.Struct, frozen=True):
    """The destination will not take this instance as it is; a person decides."""

    code: str
    detail: str
    unsupported: bool = False
    """Whether it takes no such kind of object at all."""


class Unreachable(msgspec.Struct, frozen=True):
    """The destination cannot be talked to; whether it has the instance is unknown."""

    code: str
    detail: str
    midway: bool = False
    """Whether it happened while this instance was being sent."""
    echo: bool = False
    """Whether it is the failure that another instance of the same request was told of: no news of the destination."""
    after: float | None = None
    """Seconds for which the destination wants to be left alone, where it says so."""


class Unsupported(msgspec.Struct, frozen=True):
    """The destination has no such service."""

    detail: str


class Declined(msgspec.Struct, frozen=True):
    """The destination has the service, and answered with a failure."""

    code: str
    detail: str


Outcome = Accepted | TryLater | Refused | Unreachable

_HOUR: Final = 3600.0


def from_file(error: OSError) -> Refused | TryLater:
    """Turn what the system says of our own stored file into an outcome: only one that is gone is given up."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Refused("FILE_MISSING", say("the stored file cannot be opened: {error}.", error=error.strerror))
    # such as that there are no descriptors left, which says nothing of the file
    return TryLater("FILE_UNREADABLE", say("the stored file cannot be read now: {error}.", error=error.strerror))


def from_status(code: int | None, comment: str = "") -> Outcome:
    """Turn the status of a C-STORE response (PS3.4 B.2.3, PS3.7 annex C) into an outcome; None is an empty status."""
    if code is None:
        return Unreachable("EMPTY_STATUS", N_("The answer held no status, so it proves nothing."), midway=True)
    name = f"{code:04X}"
    detail = status.meaning(code)
    if comment:
        detail = say("{detail} It says: {comment}", detail=detail, comment=comment)
    if code == status.SUCCESS:
        return Accepted(name, Evidence.STORE_SUCCESS)
    if code == status.NOT_AUTHORIZED:
        return Unreachable("NOT_AUTHORIZED", detail, midway=True)
    if code in _LATER:
        return TryLater(name, detail)
    if code in _WARNINGS:
        return Accepted(name, Evidence.STORE_WARNING, detail)
    kind = status.classify(code)
    if kind is StatusClass.WARNING:
        return Accepted(name, Evidence.STORE_WARNING, detail)
    if kind is StatusClass.OUT_OF_RESOURCES:
        return TryLater(name, detail)
    if kind is StatusClass.CANNOT_UNDERSTAND:
        # many PACSs say so when their database is in trouble
        return TryLater(name, detail, after=_HOUR)
    return Refused(name, detail, unsupported=code == status.SOP_CLASS_NOT_SUPPORTED)


def from_reason(code: int) -> Outcome:
    """Turn the Failure Reason (0008,1197) of one instance of a STOW-RS request (PS3.18 Table I.2.2) into an outcome."""
    name = f"{code:04X}"
    if code == _NO_REASON:
        return TryLater("NO_REASON", N_("it did not store it, and does not say why."))
    if code == _BEING_STORED:
        return TryLater(name, N_("it is being stored by another request."))
    detail = status.meaning(code)
    if code == status.NOT_AUTHORIZED:
        return Unreachable("NOT_AUTHORIZED", detail, midway=True)
    if code in _LATER or status.classify(code) is StatusClass.OUT_OF_RESOURCES:
        return TryLater(name, detail)
    if code == _SYNTAX_NOT_SUPPORTED:
        return Refused(name, N_("it does not take its transfer syntax."), unsupported=True)
    return Refused(name, detail, unsupported=code == status.SOP_CLASS_NOT_SUPPORTED)


_NO_REASON: Final = 0
_SYNTAX_NOT_SUPPORTED: Final = 0xC122
_BEING_STORED: Final = 0xB00F
"""Of no standard; Azure says it."""
ALREADY: Final = frozenset({status.DUPLICATE_SOP_INSTANCE, 0xB00E})
"""Reasons that say that an instance of this UID is stored already; the second is of no standard, and common."""

_LATER: Final = frozenset({status.PROCESSING_FAILURE, status.RESOURCE_LIMITATION})
_WARNINGS: Final = frozenset({status.WARNING, status.ATTRIBUTE_LIST_ERROR, status.ATTRIBUTE_VALUE_OUT_OF_RANGE})
