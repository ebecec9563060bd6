"""What is said between a connection's thread and who waits for it."""

from typing import Protocol

import msgspec

from edge.mqtt.inbox import Message
from edge.mqtt.problem import Problem


class Will(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker publishes when we vanish: QoS 1, retained."""

    topic: str
    payload: bytes


class Greeting(msgspec.Struct, frozen=True):
    """What the broker answers to CONNECT."""

    code: int
    receive_maximum: int
    """Messages of QoS 1 that it takes unacknowledged."""
    maximum_packet: int
    """Bytes."""


class Report(Protocol):
    """Who is told, in the thread of the connection."""

    def stands(self) -> None:
        """TCP and TLS are there."""

    def greeted(self, greeting: Greeting) -> None:
        """The broker answered CONNECT."""

    def heard(self, message: Message) -> None:
        """A message came."""

    def closed(self, problem: Problem) -> None:
        """It is over because of ``problem``, and nothing of it is left open."""
