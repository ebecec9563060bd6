"""The record of updates: what root's side does or did, in one file that everybody may read.

Root alone writes it, whole or not at all. An older program may have to read what a newer one wrote, after a roll-back:
keys that are not known are passed over, and a record that cannot be read is none.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from edge.clock import Clock, iso
from edge.fsync import replace_synced

FOLDER: Final = Path("/var/lib/edge-update")
"""Where root's side keeps what is its own."""
NAME: Final = "state.json"
REQUEST: Final = "request.json"
"""What was begun, beside the record."""
Phase = Literal["none", "downloading", "installing", "waiting", "trial", "done", "failed", "rolled-back"]
BUSY: Final = frozenset({"downloading", "installing", "waiting", "trial"})
"""Phases in which no other update is begun."""
_MOST_BYTES: Final = 1 << 16
_MOST_CHANGES: Final = 32
_MOST_ROLLED_BACK: Final = 16
_MOST_TEXT: Final = 300


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of phase; ``n`` grows by one with each."""

    n: int
    phase: Phase
    from_: str = msgspec.field(name="from")
    to: str
    slot: str
    reason: str
    since: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How the last update is."""

    v: Literal[1] = 1
    phase: Phase = "none"
    from_: str = msgspec.field(name="from", default="")
    """Version before."""
    to: str = ""
    """Version after; empty while it is not known."""
    slot: str = ""
    """Where the new version goes."""
    reason: str = ""
    """One of `edge.updating.reasons.REASONS`, or empty."""
    text: str = ""
    """What a program said about it, in English: for people at the box, and for nobody else."""
    since: str = ""
    """When the phase began, by a clock that may have been wrong."""
    boot_id: str = ""
    """Of the start of the machine in which the phase began; of a trial, of the last one that was looked at."""
    starts: int = 0
    """Starts of the new version that came so far as to be looked at."""
    request: str = ""
    """Id of the request."""
    received: int = 0
    size: int = 0
    """Bytes of the bundle that are here, and of all of it; 0: not known."""
    rolled_back: tuple[str, ...] = ()
    """Versions that did not do well, or did not start, the oldest first."""
    changes: tuple[Change, ...] = ()
    """The last changes of phase."""

    @property
    def busy(self) -> bool:
        """Whether an update is under way."""
        return self.phase in BUSY


def read_state(path: Path) -> State:
    """Read the record; one that is not there, or is none, says that there was no update."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=State)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return State()


class Record:
    """The record as root's side writes it, in ``folder``."""

    def __init__(self, folder: Path, clock: Clock, boot_id: str) -> None:
        self.folder = folder
        self._path = folder / NAME
        self._clock = clock
        self._boot_id = boot_id

    @property
    def state(self) -> State:
        """How it is."""
        return read_state(self._path)

    @property
    def has_request(self) -> bool:
        """Whether there is a record of what was asked for."""
        return (self.folder / REQUEST).exists()

    def enter(self, state: State, phase: Phase, *, reason: str = "", text: str = "") -> State:
        """Write ``state`` in another phase, after all changes before, and return it. Raises OSError."""
        return self.keep(self.entered(state, phase, reason=reason, text=text))

    def entered(
        self, state: State, phase: Phase, *, reason: str = "", text: str = "", remembered: bool = True
    ) -> State:
        """Return ``state`` in another phase, after all changes before; nothing is written.

        ``remembered``: whether a version that is rolled back is not to be taken again.
        """
        now, before = iso(self._clock.now()), self.state
        rolled_back = before.rolled_back
        if phase == "rolled-back" and state.to and remembered:
            rolled_back = (*(one for one in rolled_back if one != state.to), state.to)[-_MOST_ROLLED_BACK:]
        change = Change(
            n=before.changes[-1].n + 1 if before.changes else 1,
            phase=phase,
            from_=state.from_,
            to=state.to,
            slot=state.slot,
            reason=reason,
            since=now,
        )
        return msgspec.structs.replace(
            state,
            phase=phase,
            reason=reason,
            text=text,
            since=now,
            boot_id=self._boot_id,
            rolled_back=rolled_back,
            changes=(*before.changes, change)[-_MOST_CHANGES:],
        )

    def keep(self, state: State) -> State:
        """Write ``state``, which is in the phase that it was in, and return it. Raises OSError."""
        state = msgspec.structs.replace(state, text=state.text[:_MOST_TEXT])
        replace_synced(self._path, msgspec.json.encode(state), 0o644)
        # whatever the umask is: the appliance reads it
        self._path.chmod(0o644)
        return state

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep another process of root's side from finding the same at the same time. Raises OSError."""
        with (self.folder / "record.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def is_of_this_start(self, state: State) -> bool:
        """Whether the phase began, or a trial went on, since the machine started."""
        return bool(state.boot_id) and state.boot_id == self._boot_id

    def started_again(self, state: State) -> State:
        """Return ``state`` of a trial that goes on in this start; nothing is written."""
        return msgspec.structs.replace(state, boot_id=self._boot_id, starts=state.starts + 1)
