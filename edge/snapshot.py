"""The whole status at one moment: the one thing every face reads.

The keys are a public contract (``edge status --json``, ``GET /api/status``): adding one is free, changing one
is a breaking change.
"""

from typing import Literal

import msgspec

SCHEMA = 1


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Which box this is."""

    id: str
    name: str
    site: str
    version: str


class Light(msgspec.Struct, frozen=True, kw_only=True):
    """The status light: never colour alone."""

    code: str
    color: str
    pattern: str
    text: str


class Intake(msgspec.Struct, frozen=True, kw_only=True):
    """What comes in. Counters since the start of the process."""

    open: bool
    associations: int
    instances: int
    bytes: int
    refused: int
    last_at: str | None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What is still owed to a destination: instances in states queued, sending or held."""

    instances: int
    bytes: int
    oldest_seconds: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a destination is down."""

    code: str
    text: str


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """One destination, with its deliveries by state."""

    name: str
    state: Literal["up", "down", "paused"]
    queued: int
    sending: int
    accepted: int
    verified: int
    held: int
    cancelled: int
    declined: int
    rate_bytes_per_second: int
    drain_seconds: int | None
    """Until what is queued is gone, at the rate of now and as the limit and the hours allow; None: nobody can tell."""
    rate_limit_bytes_per_second: int | None = None
    hours: str | None = None
    """When background work may go; None: always."""
    hours_open: bool = True
    """Whether it may go now."""
    paused: bool = False
    """Whether a person paused it; ``state`` tells that only where nothing else is wrong."""
    last_success_at: str | None
    problem: Problem | None


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """Room on the disk. ``autonomy_seconds``: how long it lasts, at the least, as things came in over the last day.

    What was delivered and makes way counts as room. None where nothing came in.
    """

    free_bytes: int
    reserve_bytes: int
    autonomy_seconds: int | None


class WatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One watched folder. ``taken``: objects since the start of the process; ``waiting`` and ``left``: files."""

    name: str
    taken: int
    waiting: int
    left: int


class ImportStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An import that goes on, or has ended a moment ago."""

    name: str
    media: bool
    over: bool
    files: int
    files_done: int
    bytes: int
    bytes_done: int
    refused: int


class ModalityStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A sender: one of the configuration, or, with an empty name, a stranger. Its title is for people at the box."""

    name: str
    ae_title: str
    address: str
    last_heard_at: str | None
    """When an association of it was let in last."""
    last_object_at: str | None
    refused: int
    """Associations of it that were refused since the start of the process."""
    refused_because: str


class ClockStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the wall clock may be believed."""

    trusted: bool


class FindingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a person should know."""

    code: str
    severity: str
    component: str
    since: str
    count: int
    text: str
    advice: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole status."""

    schema: int = SCHEMA
    taken_at: str
    device: Device
    light: Light
    intake: Intake
    queue: Queue
    destinations: list[Destination]
    storage: Storage
    watches: list[WatchStatus] = []
    imports: list[ImportStatus] = []
    modalities: list[ModalityStatus] = []
    clock: ClockStatus
    findings: list[FindingStatus]
