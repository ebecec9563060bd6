"""The MQTT contract, version 1: topics and payloads, as frozen structs that refuse what they do not know.

The keys are a public contract (docs/mqtt.md; the JSON Schemas beside it are made from here). Nothing of a patient has a
place in any of them.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec

ROOT: Final = "dicom-edge/v1"

_END: Final = r"$(?!\n)"
"""The end, to Python and to ECMA-262 alike; for Python's ``$`` a line feed may follow."""
_TIME: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z" + _END

Time = Annotated[str, msgspec.Meta(pattern=_TIME, description="RFC 3339, UTC")]
CommandId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}" + _END)]
Status = Literal["ok", "degraded", "attention", "fault", "down", "paused", "unknown"]
CommandStatus = Literal["accepted", "running", "succeeded", "failed", "rejected", "expired"]
COMMAND_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every payload has."""

    v: Literal[1] = 1


class State(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/state``, retained; ``lost`` is the will. An older session's word is void; a lapsed lease is stale."""

    state: Literal["online", "offline", "lost"]
    session: int
    """Grows with every connection; never used twice."""
    boot_id: str
    lease_s: int
    """Seconds after ``ts`` within which the next one comes while the box is well."""
    ts: Time


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the metric dictionary."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    help: str


class EventRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The events that are kept here; ``first`` above ``last`` means none."""

    epoch: int
    first: int
    last: int


class Birth(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/birth``, retained: what this box is and can do."""

    session: int
    model: str
    name: str
    site: str
    version: str
    slot: str
    """Of the system image; empty where there is none."""
    capabilities: list[str]
    """Types of commands that are served."""
    metrics: list[Metric]
    events: EventRange
    ts: Time


class Component(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of the box. ``code`` says why it is not ok; empty where it is."""

    status: Status
    code: str
    since: Time


class Health(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/health``, retained: on change and every five minutes."""

    light: str
    overall: Status
    components: dict[str, Component]
    ts: Time


class Metrics(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/metrics``, QoS 0, every minute."""

    session: int
    seq: int
    ts: Time
    m: dict[str, int | float]


class SentEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event. ``late``: it was written before this connection was made."""

    seq: int
    ts: Time
    clock_trusted: bool
    severity: Literal["info", "warning", "error"]
    component: str
    code: str
    data: dict[str, str | int | bool]
    late: bool


class Events(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/events``: a batch in order. The key of an event is (node, epoch, seq)."""

    epoch: int
    from_: int = msgspec.field(name="from")
    to: int
    events: list[SentEvent]


class Alert(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/alerts/{code}``, retained while a finding is open; empty once it is closed."""

    severity: Literal["info", "warning", "error"]
    components: list[str]
    since: Time
    count: int
    advice: str
    ts: Time


class CommandReport(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/command/{id}``, retained for a while: what became of a command."""

    id: CommandId
    status: CommandStatus
    reason: str = ""
    """Code, where it did not succeed."""
    result: dict[str, str | int | bool] = {}
    ts: Time


class ConfigReport(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/config``, retained: the configuration in force, and what became of the last one desired."""

    revision: int
    """In force; 0: the box's own file."""
    hash: str
    """SHA-256 of the document in force, hexadecimal."""
    desired: int
    """The last revision that came; 0: none."""
    status: Literal["local", "trial", "applied", "rejected", "rolled-back"]
    reason: str = ""
    errors: list[str] = []
    """Keys of the document that are wrong, with their lines."""
    ts: Time


class UpdateReport(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``up/update``, retained."""

    phase: Literal[
        "none", "unsupported", "downloading", "installing", "waiting", "trial", "done", "failed", "rolled-back"
    ]
    from_: str = msgspec.field(name="from")
    to: str
    """Empty while it is not known."""
    slot: str
    """Where the new version goes; before any update, the one that runs."""
    reason: str = ""
    """Code: why a download waits, why it failed, why it was taken back."""
    ts: Time


class Command(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``down/command/{id}``: signed, for this box alone, never retained."""

    id: CommandId
    type: str
    args: dict[str, Any] = {}
    issued_by: str
    expires_at: Time
    signature: str = ""
    """Base64 of Ed25519 over the RFC 8785 form of the payload without it and with ``node``."""


class DesiredConfig(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``down/config``, retained and signed: a whole configuration, as TOML."""

    revision: Annotated[int, msgspec.Meta(ge=1)]
    document: str
    issued_by: str
    signature: str = ""


class Ack(Payload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``down/ack``, retained: events up to ``up_to`` of ``epoch`` are stored where they shall be."""

    epoch: int
    up_to: int


class Topics:
    """The topics of one node."""

    def __init__(self, node: str) -> None:
        self.base = f"{ROOT}/{node}"
        self.state = f"{self.base}/up/state"
        self.birth = f"{self.base}/up/birth"
        self.health = f"{self.base}/up/health"
        self.metrics = f"{self.base}/up/metrics"
        self.events = f"{self.base}/up/events"
        self.config = f"{self.base}/up/config"
        self.update = f"{self.base}/up/update"
        self.down_commands = f"{self.base}/down/command/+"
        self.down_config = f"{self.base}/down/config"
        self.down_ack = f"{self.base}/down/ack"

    def alert(self, code: str) -> str:
        """Where the alert of a finding stands."""
        return f"{self.base}/up/alerts/{code}"

    def command(self, number: str) -> str:
        """Where what became of a command is told."""
        return f"{self.base}/up/command/{number}"

    def down_command(self, number: str) -> str:
        """Where a command is given."""
        return f"{self.base}/down/command/{number}"

    def command_id(self, topic: str) -> str | None:
        """The id of the command given on ``topic``; None where it is no such topic."""
        head, _, number = topic.rpartition("/")
        return number if head == f"{self.base}/down/command" and COMMAND_ID.fullmatch(number) else None


PAYLOADS: Final[dict[str, type[Payload]]] = {
    "up/state": State,
    "up/birth": Birth,
    "up/health": Health,
    "up/metrics": Metrics,
    "up/events": Events,
    "up/alerts": Alert,
    "up/command": CommandReport,
    "up/config": ConfigReport,
    "up/update": UpdateReport,
    "down/command": Command,
    "down/config": DesiredConfig,
    "down/ack": Ack,
}
"""By topic, without what is variable."""


def encode(payload: Payload) -> bytes:
    """Write ``payload`` as JSON."""
    return msgspec.json.encode(payload)


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every payload, by topic."""
    return {topic: msgspec.json.schema(kind) for topic, kind in PAYLOADS.items()}
