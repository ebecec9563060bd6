"""What a transport says of one instance: a value, never an exception.

The dispatcher alone turns outcomes into states. A sick destination (`Unreachable`) is not a sick instance (`Refused`,
`TryLater`), and the other way round.
"""

from typing import Final

import msgspec

from edge.dicom import status
from edge.dicom.status import StatusClass
from edge.evidence import Evidence


class Accepted(msgspec.Struct, frozen=True):
    """The destination said yes for this instance."""

    code: str
    evidence: Evidence
    detail: str = ""
    """The warning it said it with, if any."""


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


class Unsupported(msgspec.Struct, frozen=True):
    """The destination has no such service."""

    detail: str


class Declined(msgspec.Struct, frozen=True):
    """The destination has the service, and answered with a failure."""

    code: str
    detail: str


Outcome = Accepted | TryLater | Refused | Unreachable

_HOUR: Final = 3600.0


def from_status(code: int | None, comment: str = "") -> Outcome:
    """Turn the status of a C-STORE response (PS3.4 B.2.3, PS3.7 annex C) into an outcome; None is an empty status."""
    if code is None:
        return Unreachable("EMPTY_STATUS", "The answer held no status, so it proves nothing.", midway=True)
    name = f"{code:04X}"
    detail = status.meaning(code) + (f" It says: {comment}" if comment else "")
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


_LATER: Final = frozenset({status.PROCESSING_FAILURE, status.RESOURCE_LIMITATION})
_WARNINGS: Final = frozenset({status.WARNING, status.ATTRIBUTE_LIST_ERROR, status.ATTRIBUTE_VALUE_OUT_OF_RANGE})
