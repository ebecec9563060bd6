"""Live gauges that stages write and status reads.

Plain numbers in memory, lost at a restart, so nothing is decided by them. The stages never learn who reads.
"""

from collections import deque
from dataclasses import dataclass, field

from edge.clock import Clock


@dataclass(slots=True)
class Rate:
    """Bytes over the last ten seconds."""

    clock: Clock
    window: float = 10.0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)
    _sum: int = 0

    def add(self, amount: int) -> None:
        """Count ``amount`` bytes as of now."""
        now = self.clock.monotonic()
        if self._marks and now - self._marks[-1][0] < self.window / 100:
            self._marks[-1] = (self._marks[-1][0], self._marks[-1][1] + amount)
        else:
            self._marks.append((now, amount))
        self._sum += amount
        self._trim(now)

    def per_second(self) -> float:
        """Bytes a second over the window."""
        self._trim(self.clock.monotonic())
        return self._sum / self.window

    def _trim(self, now: float) -> None:
        while self._marks and now - self._marks[0][0] > self.window:
            self._sum -= self._marks.popleft()[1]


@dataclass(slots=True)
class DestinationGauge:
    """What is known of one destination at this moment."""

    rate: Rate
    associations: int = 0
    sending: int = 0
    """Workers that have something on the wire."""
    paused: bool = False
    last_success_at: float | None = None
    problem_code: str = ""
    problem_text: str = ""
    problem_since: float | None = None


@dataclass(slots=True)
class WatchGauge:
    """What is known of one watched folder at this moment."""

    taken: int = 0
    """Objects since the start."""
    waiting: int = 0
    """Files that are not finished yet, or not looked at."""
    left: int = 0
    """Files that were looked at and are not taken, for longer than the watch's patience."""


@dataclass(slots=True)
class ImportGauge:
    """What is known of one import at this moment."""

    name: str
    media: bool
    """Whether it reads something that somebody waits to pull out."""
    files: int = 0
    files_done: int = 0
    bytes: int = 0
    bytes_done: int = 0
    refused: int = 0
    over_at: float | None = None
    """Monotonic; None while it goes on."""


@dataclass(slots=True)
class ModalityGauge:
    """What is known of one sender: of the configuration, or a stranger."""

    name: str
    """As the configuration calls it; empty for a stranger."""
    ae_title: str
    address: str
    """Where it was last, or where the configuration says it is."""
    heard: float | None = None
    """Monotonic, of its last association that was let in; before this start as the store tells it."""
    heard_at: float | None = None
    """The same by the wall clock."""
    object_at: float | None = None
    """Wall time of its last object that was answered with success."""
    refused: int = 0
    """Associations refused since the start."""
    refused_because: str = ""


@dataclass(slots=True)
class Board:
    """Every gauge of the box."""

    clock: Clock
    intake_open: bool = False
    intake_closed_because: str = "starting"
    associations: int = 0
    instances: int = 0
    bytes: int = 0
    refused: int = 0
    unindexed: int = 0
    """Objects answered with success whose row is not written yet; a moment's worth."""
    unindexed_bytes: int = 0
    last_at: float | None = None
    destinations: dict[str, DestinationGauge] = field(default_factory=dict)
    watches: dict[str, WatchGauge] = field(default_factory=dict)
    imports: dict[int, ImportGauge] = field(default_factory=dict)
    modalities: dict[str, ModalityGauge] = field(default_factory=dict)
    """Those of the configuration, by their names."""
    strangers: dict[tuple[str, str], ModalityGauge] = field(default_factory=dict)
    """Who else called, by title and address; bounded by who writes it."""
    identify_until: float = 0.0
    """Monotonic; until then the light says "this one"."""

    def cannot_start(self, why: str) -> None:
        """Say that the start does not get on: no images are taken until it does."""
        self.intake_closed_because = why

    def destination(self, name: str) -> DestinationGauge:
        """The gauge of the destination ``name``, made at its first use."""
        if name not in self.destinations:
            self.destinations[name] = DestinationGauge(Rate(self.clock))
        return self.destinations[name]

    def watch(self, name: str) -> WatchGauge:
        """The gauge of the watch ``name``, made at its first use."""
        return self.watches.setdefault(name, WatchGauge())

    def received(self, amount: int) -> None:
        """Count one object of ``amount`` bytes that was answered with success."""
        self.instances += 1
        self.bytes += amount
        self.last_at = self.clock.now()
