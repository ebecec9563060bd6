"""One update, from what was asked for to a machine that may start anew: fetched or copied, checked, installed.

What is no good is refused with a reason, and leaves the box as it is: another version than was asked for, one that is
not wanted, or one whose database what runs could not open after a roll-back.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edge.clock import Clock
from edge.fsync import sync_path
from edge.store.schema import VERSION
from edge.updating.download import MOST, Download, FetchError
from edge.updating.image import other
from edge.updating.state import Record, State
from edge.updating.system import Bundle, System, ToolError
from edge.updating.taking import Counter, NotPlainError
from edge.updating.versions import is_older
from edge.updating.wanted import Wanted

log = structlog.get_logger()

QUIET: Final = 60.0
"""Seconds without anything coming in after which the machine may start anew."""
PATIENCE: Final = 86_400.0
"""Seconds after which it does so anyway."""
LOOK: Final = 5.0
"""Seconds between two looks at what comes in."""
_CHUNK: Final = 1 << 20
_MOST_TRIES: Final = 3
"""Installations that a stop of the machine may break off."""


class Traffic(msgspec.Struct, frozen=True):
    """What comes in: whether anything does now, and a number that grows with what came."""

    going: bool
    came: int


class Known(Wanted, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What was asked for, as root's side keeps it: what a newer version wrote is read after a roll-back."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, on root's own record."""

    wanted: Known
    tries: int = 0
    """Installations that were begun."""


class FailedError(Exception):
    """An update came to nothing: ``code`` is a reason, ``to`` its version where that is known only from the bundle."""

    def __init__(self, code: str, text: str = "", to: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.text = text
        self.to = to


class Installer:
    """Fetches, checks and installs what is asked for, and waits until the machine may start anew."""

    def __init__(
        self,
        counter: Counter,
        record: Record,
        system: System,
        clock: Clock,
        *,
        slot: str,
        running: str,
        keep: int,
        traffic: Callable[[], Traffic | None],
        keep_request: Callable[[Request], None],
        rest: Callable[[float], None],
        attend: Callable[[], None],
    ) -> None:
        """As `edge.updating.carrying.Carrier` has it. ``keep_request`` writes a request down.

        ``attend`` hears of what is asked for meanwhile, ``rest`` pauses and does so as well; both may raise.
        """
        self.folder = record.folder / "download"
        self._counter = counter
        self._record = record
        self._system = system
        self._clock = clock
        self._slot = slot
        self._running = running
        self._keep = keep
        self._traffic = traffic
        self._keep_request = keep_request
        self._rest = rest
        self._attend = attend

    def install(self, request: Request) -> None:
        """Fetch, check and install. Raises `FailedError`, OSError, and what hearing raises."""
        wanted = request.wanted
        if wanted.version:
            self._may(wanted.version, wanted)
        path = self.folder / ("fetched.raucb" if wanted.url else "handed-over.raucb")
        if wanted.url:
            self._fetch(wanted, path, self.of(request))
        elif not path.exists():
            self._copy(path)
        try:
            bundle = self._system.bundle(path)
            if wanted.version and bundle.version != wanted.version:
                raise FailedError("WRONG_VERSION", f"it holds {bundle.version}")
            self._may(bundle.version, wanted)
            _may_open(bundle, force=wanted.force)
            if request.tries >= _MOST_TRIES:
                raise FailedError("INTERRUPTED", to=bundle.version)
            self._keep_request(msgspec.structs.replace(request, tries=request.tries + 1))
            state = msgspec.structs.replace(self.of(request), to=bundle.version)
            state = self._record.enter(state, "installing")
            log.info("installing", version=bundle.version, slot=state.slot)
            self._system.install(path)
        except ToolError as e:
            raise FailedError(e.code, e.text) from None
        self._record.enter(state, "waiting")

    def of(self, request: Request) -> State:
        """Begin the record of a request, or go on with it."""
        state = self._record.state
        if state.request == request.wanted.id:
            return state
        return State(from_=self._running, to=request.wanted.version, slot=other(self._slot), request=request.wanted.id)

    def wait(self) -> None:
        """Wait until nothing came in for a minute. Raises what hearing raises."""
        began = quiet_since = self._clock.monotonic()
        came: int | None = None
        log.info("installed; the machine starts anew once nothing comes in", version=self._record.state.to)
        while (now := self._clock.monotonic()) - began < PATIENCE:
            traffic = self._traffic()
            if traffic is not None:
                if traffic.going or came not in {None, traffic.came}:
                    quiet_since = now
                came = traffic.came
            if now - quiet_since >= QUIET:
                return
            self._rest(LOOK)
        log.warning("the machine starts anew although images come in: it waited for a day")

    def _may(self, version: str, wanted: Wanted) -> None:
        """Raises `FailedError` where ``version`` is not to be installed."""
        if wanted.force:
            return
        if version in self._record.state.rolled_back:
            raise FailedError("ROLLED_BACK_BEFORE", to=version)
        if version == self._running:
            raise FailedError("SAME_VERSION", to=version)
        if wanted.url:
            return  # that it is asked for from afar is signed
        try:
            older = is_older(version, self._running)
        except ValueError:
            why = f"{version or 'no version'} cannot be compared with {self._running}"
            raise FailedError("OLDER_VERSION", why, to=version) from None
        if older:
            raise FailedError("OLDER_VERSION", to=version)

    def _fetch(self, wanted: Wanted, path: Path, state: State) -> None:
        if state.phase != "downloading":
            self._record.enter(state, "downloading")

        def tell(received: int, size: int, trouble: str) -> None:
            if trouble:
                log.warning("the download waits for its line", why=trouble, received=received)
            self._record.keep(
                msgspec.structs.replace(
                    self._record.state,
                    received=received,
                    size=size,
                    reason="LINE" if trouble else "",
                    text=trouble,
                )
            )

        try:
            Download(
                wanted.url,
                path,
                self._clock,
                room=self._room,
                pause=self._rest,
                tell=tell,
                look=self._attend,
            ).run()
        except FetchError as e:
            raise FailedError(e.code, e.text) from None

    def _copy(self, path: Path) -> None:
        """Copy what was handed over to where nobody else can change it. Raises `FailedError`, OSError."""
        temporary = path.with_suffix(".part")
        try:
            with self._counter.bundle() as source, temporary.open("wb") as target:
                length = os.fstat(source.fileno()).st_size
                if length > MOST:
                    raise FailedError("BAD_FILE", "the file is too long")
                if length > self._room():
                    raise FailedError("NO_ROOM")
                # it may grow meanwhile
                while piece := source.read(min(_CHUNK, length - target.tell())):
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
        except NotPlainError as e:
            raise FailedError("BAD_FILE", str(e)) from None
        temporary.replace(path)
        sync_path(self.folder)
        self._counter.discard_bundle()

    def _room(self) -> int:
        """Bytes that may be written beside what is kept for images."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize - self._keep


def _may_open(bundle: Bundle, *, force: bool) -> None:
    """Raises `FailedError` where the database could be opened by what runs no more after a roll-back, or not at all.

    A program opens a database of its own version, of any before, and of the next one (`edge.store.schema.migrate`).
    """
    if bundle.schema is None:
        return
    if bundle.schema > VERSION + 1 or (bundle.schema < VERSION - 1 and not force):
        raise FailedError("SCHEMA", to=bundle.version)
