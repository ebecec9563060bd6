"""What the senders know: which objects they began to send, and which were answered 0000.

It is kept by those who sent, from the answers they read, and knows nothing of the appliance's inside. An object is its
SOP Instance UID and the SHA-256 of its dataset as it was on the wire.
"""

import threading
from collections import Counter
from typing import NamedTuple, Protocol

from tests.peers.sender import Storable


class Item(NamedTuple):
    """One object."""

    uid: str
    digest: bytes
    """SHA-256, 32 bytes."""


class Sendable(Storable, Protocol):
    """What can be sent and recognized."""

    @property
    def wire_digest(self) -> bytes:
        """SHA-256 of the dataset as it is sent, 32 bytes."""


class Ledger:
    """The senders' book; any thread may write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: set[Item] = set()
        self._promised: set[Item] = set()
        self._answers: Counter[str] = Counter()

    def begin(self, obj: Sendable) -> Item:
        """Note that the object is about to be sent."""
        item = Item(obj.sop_instance_uid, obj.wire_digest)
        with self._lock:
            self._sent.add(item)
        return item

    def answered(self, item: Item, status: int) -> None:
        """Note the answer. Only 0000 is a promise."""
        with self._lock:
            self._answers[f"{status:04X}"] += 1
            if status == 0:
                self._promised.add(item)

    def failed(self, how: str) -> None:
        """Note an association that was refused, or that ended without an answer."""
        with self._lock:
            self._answers[how] += 1

    def adopt(self, other: "Ledger") -> None:
        """Take over what was sent and promised before."""
        sent, promised = other.sent, other.promised
        with self._lock:
            self._sent |= sent
            self._promised |= promised

    @property
    def sent(self) -> frozenset[Item]:
        """Everything that was begun."""
        with self._lock:
            return frozenset(self._sent)

    @property
    def promised(self) -> frozenset[Item]:
        """Everything that was answered 0000."""
        with self._lock:
            return frozenset(self._promised)

    @property
    def answers(self) -> Counter[str]:
        """How often what was answered: statuses as four hexadecimal digits, and words for what was none."""
        with self._lock:
            return Counter(self._answers)
