"""What was seen of one instance at one destination, and what that proves: a closed table.

A delivery becomes accepted or verified on evidence that the table lists for that state, and on nothing else; what the
table gives no state proves nothing. The store refuses any other settlement, so no file can be deleted without.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from edge.phrase import N_
from edge.states import DeliveryState


class Evidence(StrEnum):
    """One thing that may be seen of an instance at a destination."""

    STORE_SUCCESS = "store-success"
    """The answer to its C-STORE was 0000."""
    STORE_WARNING = "store-warning"
    """The answer was a warning, which says that it is stored."""
    COPIED = "copied"
    """It was copied, synced and renamed, and the folder synced."""
    STOW_LISTED = "stow-listed"
    """It is in ReferencedSOPSequence of the answer to a STOW-RS request."""
    STOW_ALREADY = "stow-already"
    """The answer to a STOW-RS request failed it as stored already, and a query named its UID."""
    COMMITTED = "committed"
    """Its UID is in the success list of a report on a commitment that we asked for."""
    FOUND = "found"
    """Its UID is in an answer to a query."""
    STORE_FAILURE = "store-failure"
    EMPTY_STATUS = "empty-status"
    TIMEOUT = "timeout"
    ABORT = "abort"
    NOT_COMMITTED = "not-committed"
    """Its UID is in the failure list of a report, whether or not it is in the success list too."""
    UNLISTED = "unlisted"
    """Its UID is in neither list of a report."""
    FOREIGN_REPORT = "foreign-report"
    """The report has a transaction UID of no request of ours, or our request did not name it."""
    NOT_FOUND = "not-found"
    AMBIGUOUS = "ambiguous"
    """Its UID was named, but another content of that UID is or may be there too."""


_E = Evidence

PROVES: Final[Mapping[Evidence, DeliveryState | None]] = MappingProxyType(
    {
        _E.STORE_SUCCESS: DeliveryState.ACCEPTED,
        _E.STORE_WARNING: DeliveryState.ACCEPTED,
        _E.COPIED: DeliveryState.ACCEPTED,
        _E.STOW_LISTED: DeliveryState.ACCEPTED,
        _E.STOW_ALREADY: DeliveryState.ACCEPTED,
        _E.COMMITTED: DeliveryState.VERIFIED,
        _E.FOUND: DeliveryState.VERIFIED,
        _E.STORE_FAILURE: None,
        _E.EMPTY_STATUS: None,
        _E.TIMEOUT: None,
        _E.ABORT: None,
        _E.NOT_COMMITTED: None,
        _E.UNLISTED: None,
        _E.FOREIGN_REPORT: None,
        _E.NOT_FOUND: None,
        _E.AMBIGUOUS: None,
    }
)
"""Every member, with the one state that it proves; None: none."""

BY_UID: Final = frozenset({Evidence.STOW_ALREADY})
"""What proves that something of that UID was accepted: not enough where two contents have it."""

WORDS: Final[Mapping[Evidence, str]] = MappingProxyType(
    {
        _E.STORE_SUCCESS: N_("it answered that it stored it"),
        _E.STORE_WARNING: N_("it answered that it stored it, with a warning"),
        _E.COPIED: N_("copied and synced"),
        _E.STOW_LISTED: N_("its answer lists it as stored"),
        _E.STOW_ALREADY: N_("it answered that it has it already, and named it when it was queried"),
        _E.COMMITTED: N_("its commitment report lists it"),
        _E.FOUND: N_("it named it when it was queried"),
    }
)
"""What the trail says of evidence that proves something."""


def proves(evidence: Evidence | None, state: DeliveryState) -> bool:
    """Whether ``evidence`` is enough to put a delivery into ``state``, which is accepted or verified."""
    return evidence is not None and PROVES[evidence] is state


def told(detail: str) -> Evidence | None:
    """Which evidence a ``detail`` of the trail tells of, None where it tells of none."""
    return next((e for e, words in WORDS.items() if detail == words or detail.startswith(f"{words}: ")), None)
