"""What was heard at the broker, by node, each message decoded strictly or noted as one that cannot be."""

import re
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from edge.messages import COMMAND_ID, PAYLOADS, ROOT, Payload

P = TypeVar("P", bound=Payload)

_TOPIC: Final = re.compile(rf"{re.escape(ROOT)}/([^/]+)/(.+)", re.DOTALL)
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_VARIABLE: Final = {"up/alerts": _CODE, "up/command": COMMAND_ID, "down/command": COMMAND_ID}
"""Topics that end in a word of their own."""
_CLEARED: Final = {"up/alerts", "up/command", "down/command", "down/config", "down/ack"}
"""Topics on which an empty payload means that nothing stands there any more."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message; ``at`` in seconds from any start."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    at: float


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a known topic. ``payload`` is None where it clears, or cannot be read."""

    message: Message
    kind: str
    """A key of `PAYLOADS`."""
    rest: str
    """The code or id at the end of the topic."""
    payload: Payload | None

    @property
    def at(self) -> float:
        """When it came."""
        return self.message.at


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """All that was heard of one node, in order; ``problems`` tells what could not be read."""

    name: str
    heard: list[Heard] = []
    problems: list[str] = []

    def all(self, kind: type[P]) -> list[tuple[float, P]]:
        """Give every payload of ``kind`` with the time it came."""
        return [(one.at, one.payload) for one in self.heard if isinstance(one.payload, kind)]

    def last(self, kind: type[P]) -> P | None:
        """Give the last payload of ``kind``."""
        found = self.all(kind)
        return found[-1][1] if found else None


def gather(messages: Iterable[Message]) -> dict[str, Node]:
    """Sort ``messages`` by node."""
    nodes: dict[str, Node] = {}
    for message in messages:
        parts = _TOPIC.fullmatch(message.topic)
        if parts is None:
            continue
        node = nodes.setdefault(parts[1], Node(name=parts[1]))
        _hear(node, message, parts[2])
    return nodes


def _hear(node: Node, message: Message, topic: str) -> None:
    kind, rest = _kind(topic)
    if kind is None:
        node.problems.append(f"{topic[:80]!r} is no topic of the contract")
        return
    payload: Payload | None = None
    if message.payload or kind not in _CLEARED:
        try:
            payload = msgspec.json.decode(message.payload, type=PAYLOADS[kind])
        except (msgspec.DecodeError, ValueError, RecursionError) as e:
            node.problems.append(f"{topic}: {e}")
    node.heard.append(Heard(message=message, kind=kind, rest=rest, payload=payload))


def _kind(topic: str) -> tuple[str | None, str]:
    if topic in PAYLOADS and topic not in _VARIABLE:
        return topic, ""
    kind, _, rest = topic.rpartition("/")
    form = _VARIABLE.get(kind)
    return (kind, rest) if form is not None and form.fullmatch(rest) else (None, "")
