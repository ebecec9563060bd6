"""What the broker sent and nobody has taken yet: bounded in number and in bytes. What is beyond it is dropped.

The network's thread puts, the event loop takes.
"""

import threading
from collections import deque
from typing import Final

import msgspec

MOST_MESSAGES: Final = 256
MOST_BYTES: Final = 2 * 1024 * 1024
"""Of topics and payloads."""


class Message(msgspec.Struct, frozen=True):
    """What somebody published."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    """Whether it stood there before we subscribed."""


class Inbox:
    """The queue."""

    def __init__(self) -> None:
        self.dropped = 0
        """How many messages found no place."""
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque()
        self._bytes = 0

    def put(self, message: Message) -> bool:
        """Keep ``message`` if there is room. Tell whether who takes must be woken."""
        size = _size(message)
        with self._lock:
            if len(self._messages) >= MOST_MESSAGES or self._bytes + size > MOST_BYTES:
                self.dropped += 1
                return False
            self._messages.append(message)
            self._bytes += size
            return len(self._messages) == 1

    def take(self) -> Message | None:
        """Return the oldest; None where there is none."""
        with self._lock:
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._bytes -= _size(message)
            return message


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload)
