"""The states of a delivery (one instance to one destination), as data.

The table is the one truth: the store mirrors it in SQL CHECK constraints and moves rows only by
compare-and-set along it, and a test keeps the two and the documentation alike.
"""

from enum import StrEnum
from typing import Final


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    QUEUED = "queued"
    SENDING = "sending"
    ACCEPTED = "accepted"
    VERIFIED = "verified"
    HELD = "held"
    CANCELLED = "cancelled"
    DECLINED = "declined"


_S = DeliveryState

MOVES: Final[dict[DeliveryState, frozenset[DeliveryState]]] = {
    # claimed by the dispatcher; held or cancelled by a person; cancelled where another rendering was accepted;
    # cancelled where the object came from the destination, held where it goes nowhere else
    _S.QUEUED: frozenset({_S.SENDING, _S.HELD, _S.CANCELLED}),
    # settled by the transport's outcome, or given back at the next start
    _S.SENDING: frozenset({_S.QUEUED, _S.ACCEPTED, _S.VERIFIED, _S.HELD, _S.DECLINED}),
    # proven by commitment or query; sent again when the destination says it has lost it, or by a person
    _S.ACCEPTED: frozenset({_S.VERIFIED, _S.QUEUED, _S.HELD, _S.CANCELLED}),
    # a person may force one more delivery
    _S.VERIFIED: frozenset({_S.QUEUED}),
    # released or given up by a person
    _S.HELD: frozenset({_S.QUEUED, _S.CANCELLED}),
    _S.CANCELLED: frozenset({_S.QUEUED}),
    _S.DECLINED: frozenset({_S.QUEUED}),
}

FINAL: Final = frozenset({_S.VERIFIED, _S.CANCELLED, _S.DECLINED})
"""States that nothing but a person's retry leaves. ``accepted`` joins them where no proof is asked for."""

WAITING: Final = frozenset({_S.QUEUED, _S.SENDING, _S.HELD})
"""States in which the destination does not have the instance as far as we know."""


def may_move(old: DeliveryState, new: DeliveryState) -> bool:
    """Whether a delivery may go from ``old`` to ``new``."""
    return new in MOVES[old]


def sources(new: DeliveryState) -> tuple[DeliveryState, ...]:
    """Every state from which ``new`` may be reached, in the table's order."""
    return tuple(old for old, targets in MOVES.items() if new in targets)


def is_settled(state: DeliveryState, *, needs_proof: bool) -> bool:
    """Whether a delivery is over, so that its instance may one day be deleted."""
    return state in FINAL or (state is _S.ACCEPTED and not needs_proof)
