"""Root's side: takes what was asked for, has it carried out (`installing`), and starts the machine anew.

What was asked for is first put on record in a folder of root's own, and only then taken away from where it was asked:
whenever the power goes, the next start goes on with it. A bundle that is no good is deleted and leaves the box as it
is. A restart of the machine is served also while a download waits for its line.
"""

import fcntl
import shutil
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from edge.clock import Clock
from edge.fsync import replace_synced, sync_path
from edge.updating.installing import LOOK, FailedError, Installer, Known, Request, Traffic
from edge.updating.state import REQUEST, Record
from edge.updating.system import System, ToolError
from edge.updating.taking import Counter, NotPlainError
from edge.updating.wanted import Kind, Wanted

log = structlog.get_logger()

_KNOWN: Final = frozenset({"ROLLED_BACK_BEFORE", "SAME_VERSION", "OLDER_VERSION"})
"""Reasons that say nothing of the box but that it did not need what was asked for."""


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
        self._pause = pause
        self._installer = Installer(
            counter,
            record,
            system,
            clock,
            slot=slot,
            running=running,
            keep=keep,
            traffic=traffic,
            keep_request=self._keep_request,
            rest=self._rest,
            attend=self._attend,
        )
        self._folder = self._installer.folder
        self._request = record.folder / REQUEST

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
                request = self._begun()
                if request is None:
                    self._close_lost()
                    request = self._taken()
                if request is None:
                    self._go_on()
                else:
                    self._work(request)
            except _RebootError:
                self._reboot()

    def _work(self, request: Request) -> None:
        try:
            self._serve()
            if self._record.state.phase != "waiting":
                self._installer.install(request)
                self._delete_bundles()
            self._installer.wait()
        except FailedError as e:
            self._give_up(request, e)
            return
        self._reboot()

    def _go_on(self) -> None:
        """Do what needs no record of a request. Raises `_RebootError`."""
        self._serve()
        if self._record.state.phase == "waiting":
            self._installer.wait()
            raise _RebootError

    def _close_lost(self) -> None:
        """End an update whose request is lost or cannot be read: nobody could go on with it, nor begin another."""
        state = self._record.state
        if state.phase == "downloading" or (state.phase == "installing" and state.slot != self._slot):
            log.error("what was asked for is lost", version=state.to)
            self._record.enter(state, "failed", reason="INTERRUPTED")

    def _serve(self) -> None:
        """See whether a restart, or an end, was asked for. Raises `_RebootError`, `FailedError`."""
        if self._asked("reboot") is not None:
            self._counter.discard("reboot")
            raise _RebootError
        if self._asked("cancel") is not None:
            self._counter.discard("cancel")
            if self._record.state.phase == "downloading":
                raise FailedError("CANCELLED")
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
        request = Request(wanted=Known(**msgspec.structs.asdict(wanted)))
        self._empty_folder()  # of an update whose request was lost
        self._keep_request(request)
        self._counter.discard("update")
        log.info("an update was asked for", version=wanted.version or "from a file", force=wanted.force)
        return request

    def _rest(self, seconds: float) -> None:
        """Pause, and hear of what is asked for meanwhile."""
        end = self._clock.monotonic() + seconds
        while True:
            self._attend()
            left = end - self._clock.monotonic()
            if left <= 0:
                return
            self._pause(min(left, LOOK))

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

    def _give_up(self, request: Request, why: FailedError) -> None:
        log.error("the update failed", reason=why.code, why=why.text)
        self._delete_bundles()
        if why.code in _KNOWN and self._record.state.phase in {"done", "rolled-back"}:
            # a stick that was left in says nothing new; what became of the update before does
            self._clear()
            return
        state = self._installer.of(request)
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
        self._empty_folder()
        self._counter.discard_bundle()

    def _empty_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
