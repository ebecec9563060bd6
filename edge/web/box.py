"""What the dashboard is given of the appliance: reads, and the one way to change anything."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edge.clock import Clock
from edge.config import Config
from edge.control import Control
from edge.findings import Journal
from edge.preview import Previews
from edge.safety import StudyView
from edge.snapshot import Snapshot
from edge.status.machine import Machine, look
from edge.status.network import addresses, open_ports
from edge.store import Reading, StudyFilter
from edge.updating.state import State
from edge.web.trials import Trials

WHO: Final = "dashboard"
"""Who decided, on the trail and in events."""


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One running appliance, as its pages see it."""

    config: Config
    device: str
    """The id of the box, which never changes."""
    identity: Path
    """The folder for what only this box knows: password, first-start code, certificate."""
    snapshot: Callable[[], Awaitable[Snapshot]]
    """Raises `StoreError`."""
    studies: Callable[[StudyFilter, int], Awaitable[Sequence[StudyView]]]
    """Raises `StoreError`."""
    reading: Reading
    control: Control
    journal: Journal
    clock: Clock
    spawn: Callable[[Coroutine[Any, Any, None], str], object]
    """Own a task until the process ends."""
    identify: Callable[[float], None] | None = None
    """Have the light say "this one" for so many seconds; None: it cannot."""
    restart: Callable[[], None] | None = None
    """End cleanly and begin anew; None: it cannot."""
    lines: Callable[[], Sequence[str]] = tuple
    """The last lines of the log, the oldest first."""
    machine: Callable[[], Machine] = look
    """Look at the machine: not in the event loop."""
    power: Callable[[], bool | None] = lambda: None
    """Whether there was no under-voltage lately; None: not told. Not in the event loop."""
    slot: str = ""
    """Of the image that runs; empty where this is none."""
    update: Callable[[], State] = State
    """How the last update is: not in the event loop."""
    addresses: Callable[[], Sequence[str]] = addresses
    """Under which the box is reached."""
    open_ports: Callable[[], frozenset[int] | None] = open_ports
    """On which anything listens; None: not told."""
    previews: Previews | None = None
    """None: no pictures are made."""
    trials: Trials = msgspec.field(default_factory=Trials)
    """The connection tests of its pages."""
