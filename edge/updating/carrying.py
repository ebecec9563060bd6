"""Root's side: takes what was asked for, fetches it, has it installed, waits for a quiet minute, and starts anew.

What was asked for is first put on record in a folder of root's own, and only then taken away from where it was asked:
whenever the power goes, the next start goes on with it. A bundle that is no good is deleted and leaves the box as it
is. A restart of the machine is served also while a download waits for its line.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edge.clock import Clock
from edge.fsync import replace_synced, sync_path
from edge.updating.download import MOST, Download, FetchError
from edge.updating.image import other
from edge.updating.state import Record, State
from edge.updating.system import System, ToolError
from edge.updating.taking import Counter, NotPlainError
from edge.updating.wanted import Kind, Wanted

log = structlog.get_logger()

QUIET: Final = 60.0
"""Seconds without anything coming in after which the machine may start anew."""
PATIENCE: Final = 86_400.0
"""Seconds after which it does so anyway."""
_LOOK: Final = 5.0
_CHUNK: Final = 1 << 20
_MOST_TRIES: Final = 3
"""Installations that a stop of the machine may break off."""


class Traffic(msgspec.Struct, frozen=True):
    """What comes in: whether anything does now, and a number that grows with what came."""

    going: bool
    came: int


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, on root's own record."""

    wanted: Wanted
    tries: int = 0
    """Installations that were begun."""


class _FailedError(Exception):
    """An update came to nothing: ``code`` is a reason, ``to`` its version where that is known only from the bundle."""

    def __init__(self, code: str, text: str = "", to: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.text = text
        self.to = to


class _RebootError(Exception):
    """Somebody asked for a restart of the machine meanwhile."""


class Carrier:
    """Carries out what is asked for; one at a time."""

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
        pause: Callable[[float], None],
    ) -> None:
        """``slot`` runs, in version ``running``. ``keep``: bytes of the disk that are left to images.

        ``traffic`` asks the appliance; None: it does not answer, so nothing comes in.
        """
        self._counter = counter
        self._record = record
        self._system = system
        self._clock = clock
        self._slot = slot
        self._running = running
        self._keep = keep
        self._traffic = traffic
        self._pause = pause
        self._folder = record.folder / "download"
        self._request = record.folder / "request.json"

    def run(self) -> None:
        """Do what there is to do. Raises OSError where the disk fails, and `ToolError` where no restart can be had."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._record.folder / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process carries out what is asked for")
                return
            try:
                request = self._begun() or self._taken()
                if request is None:
                    self._serve()
                else:
                    self._work(request)
            except _RebootError:
                self._reboot()

    def _work(self, request: Request) -> None:
        try:
            self._serve()
            if self._record.state.phase != "waiting":
                self._install(request)
            self._wait()
        except _FailedError as e:
            self._give_up(request, e)
            return
        self._reboot()

    def _serve(self) -> None:
        """See whether a restart, or an end, was asked for. Raises `_RebootError`, `_FailedError`."""
        if self._asked("reboot") is not None:
            self._counter.discard("reboot")
            raise _RebootError
        if self._asked("cancel") is not None:
            self._counter.discard("cancel")
            if self._record.state.phase == "downloading":
                raise _FailedError("CANCELLED")
            log.warning("nothing is being downloaded that could be called off")

    def _asked(self, kind: Kind) -> Wanted | None:
        """Return a request; one that is none is thrown away."""
        try:
            return self._counter.look(kind)
        except NotPlainError as e:
            log.warning("a request was thrown away", kind=kind, why=str(e))
            self._counter.discard(kind)
            return None

    def _begun(self) -> Request | None:
        """Return what was begun, perhaps before a power cut."""
        try:
            request = msgspec.json.decode(self._request.read_bytes(), type=Request)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, ValueError):
            self._clear()
            return None
        state = self._record.state
        if (state.request == request.wanted.id and not state.busy) or state.phase == "trial":
            self._clear()  # its end was written, and the power went before it was cleared away
            return None
        return request

    def _taken(self) -> Request | None:
        """Put what was asked for on record; None where there is nothing, or another is on trial."""
        wanted = self._asked("update")
        if wanted is None:
            return None
        state = self._record.state
        if state.busy:
            log.warning("a request was thrown away: another update is under way", phase=state.phase)
            self._counter.discard("update")
            return None
        request = Request(wanted=wanted)
        self._keep_request(request)
        self._counter.discard("update")
        log.info("an update was asked for", version=wanted.version or "from a file", force=wanted.force)
        return request

    def _install(self, request: Request) -> None:
        """Fetch, check and install. Raises `_FailedError`, `_RebootError`, OSError."""
        wanted = request.wanted
        self._may(wanted.version, force=wanted.force)
        path = self._folder / ("fetched.raucb" if wanted.url else "handed-over.raucb")
        if wanted.url:
            self._fetch(wanted, path, self._of(request))
        elif not path.exists():
            self._copy(path)
        try:
            bundle = self._system.bundle(path)
            if wanted.version and bundle.version != wanted.version:
                raise _FailedError("WRONG_VERSION", f"it holds {bundle.version}")
            self._may(bundle.version, force=wanted.force)
            if request.tries >= _MOST_TRIES:
                raise _FailedError("INTERRUPTED", to=bundle.version)
            self._keep_request(msgspec.structs.replace(request, tries=request.tries + 1))
            state = msgspec.structs.replace(self._of(request), to=bundle.version)
            state = self._record.enter(state, "installing")
            log.info("installing", version=bundle.version, slot=state.slot)
            self._system.install(path)
        except ToolError as e:
            raise _FailedError(e.code, e.text) from None
        self._record.enter(state, "waiting")
        self._delete_bundles()

    def _of(self, request: Request) -> State:
        """Begin the record of a request, or go on with it."""
        state = self._record.state
        if state.request == request.wanted.id:
            return state
        return State(from_=self._running, to=request.wanted.version, slot=other(self._slot), request=request.wanted.id)

    def _may(self, version: str, *, force: bool) -> None:
        """Raises `_FailedError` where ``version`` is not to be installed."""
        if force or not version:
            return
        if version in self._record.state.rolled_back:
            raise _FailedError("ROLLED_BACK_BEFORE", to=version)
        if version == self._running:
            raise _FailedError("SAME_VERSION", to=version)

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
            raise _FailedError(e.code, e.text) from None

    def _copy(self, path: Path) -> None:
        """Copy what was handed over to where nobody else can change it. Raises `_FailedError`, OSError."""
        temporary = path.with_suffix(".part")
        try:
            with self._counter.bundle() as source, temporary.open("wb") as target:
                length = os.fstat(source.fileno()).st_size
                if length > MOST:
                    raise _FailedError("BAD_FILE", "the file is too long")
                if length > self._room():
                    raise _FailedError("NO_ROOM")
                # it may grow meanwhile
                while piece := source.read(min(_CHUNK, length - target.tell())):
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
        except NotPlainError as e:
            raise _FailedError("BAD_FILE", str(e)) from None
        temporary.replace(path)
        sync_path(self._folder)
        self._counter.discard_bundle()

    def _wait(self) -> None:
        """Wait until nothing came in for a minute. Raises `_RebootError`."""
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
            self._rest(_LOOK)
        log.warning("the machine starts anew although images come in: it waited for a day")

    def _rest(self, seconds: float) -> None:
        """Pause, and hear of what is asked for meanwhile."""
        end = self._clock.monotonic() + seconds
        while True:
            self._attend()
            left = end - self._clock.monotonic()
            if left <= 0:
                return
            self._pause(min(left, _LOOK))

    def _attend(self) -> None:
        self._serve()
        self._drop()

    def _drop(self) -> None:
        """Throw away an update that is asked for while another is under way."""
        if self._asked("update") is not None:
            self._counter.discard("update")

    def _reboot(self) -> None:
        log.warning("the machine starts anew")
        try:
            self._system.reboot()
        except ToolError as e:
            state = self._record.state
            if state.phase == "waiting":
                self._record.keep(msgspec.structs.replace(state, reason="REBOOT", text=e.text))
            raise

    def _give_up(self, request: Request, why: _FailedError) -> None:
        log.error("the update failed", reason=why.code, why=why.text)
        self._delete_bundles()
        state = self._of(request)
        state = msgspec.structs.replace(state, to=why.to or state.to)
        self._record.enter(state, "failed", reason=why.code, text=why.text)
        self._clear()

    def _keep_request(self, request: Request) -> None:
        replace_synced(self._request, msgspec.json.encode(request), 0o600)

    def _clear(self) -> None:
        self._delete_bundles()
        self._request.unlink(missing_ok=True)
        sync_path(self._record.folder)

    def _delete_bundles(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._counter.discard_bundle()

    def _room(self) -> int:
        """Bytes that may be written beside what is kept for images."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize - self._keep
