"""The two peers made by hand: `RawSender` and `RawReceiver`, the oracle for bytes on the wire."""

from tests.peers.line import PeerClosedError
from tests.peers.receiver import Behaviour, RawReceiver, Received, first_syntax, success
from tests.peers.sender import (
    Aborted,
    Accepted,
    Message,
    NoStatusError,
    NotAcceptedError,
    RawSender,
    Rejected,
    Released,
    Storable,
)

__all__ = [
    "Aborted",
    "Accepted",
    "Behaviour",
    "Message",
    "NoStatusError",
    "NotAcceptedError",
    "PeerClosedError",
    "RawReceiver",
    "RawSender",
    "Received",
    "Rejected",
    "Released",
    "Storable",
    "first_syntax",
    "success",
]
