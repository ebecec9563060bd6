"""After a start: which slot runs, and whether its program does well. Then it is marked good, or taken back.

A version is judged by itself alone: its service runs, answers with its database, and answers a modality. Never by a
PACS, the network, the clock or a full disk: an offline clinic must not roll back. What has been good before is never
started anew for that; it is looked at until it is well.

A version that was judged to be bad, or never came up, is remembered and not taken again; one whose starts were cut off
is not the first time, for the power may have been it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from edge.clock import Clock
from edge.config import Receive
from edge.dicom import status
from edge.dicom.association import AbortedError, ReleasedError
from edge.dicom.pdu import InvalidPDU
from edge.dicom.requestor import Address, NoContextError, RejectedError, connect
from edge.dicom.uids import IMPLICIT_LITTLE, VERIFICATION
from edge.dicom.wire import ConnectionLostError, DeadlineError
from edge.updating.state import Record, State
from edge.updating.system import System, ToolError, Unit

log = structlog.get_logger()

TRIAL: Final = 300.0
"""Seconds in all of not being good, without an excuse, after which a version on trial is taken back."""
STARTING: Final = 3600.0
"""Seconds for which a start that goes on, as one that mends a database, is not held against it."""
STEADY: Final = 3
"""Looks in a row at which a version on trial must be good: one that falls again and again is so for a moment."""
_LOOK: Final = 5.0
_SELDOM: Final = 30.0
"""Seconds between two looks at what has been good before, and is not well for long."""
_ROOM: Final = 64 << 20
"""Bytes below which a disk is full."""
_STARTS: Final = 2
"""Starts that a version on trial has."""
_PROBE: Final = "takes"
_PATIENCE: Final = 5.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is asked, not listened on

Answer = Literal["good", "no database", "none"]


class Verdict(msgspec.Struct, frozen=True):
    """How the program is. ``code``: why it is not good, empty where it is."""

    code: str
    excused: bool = False
    """Whether that is no fault of the version."""


class Judge:
    """Looks at the running program, from outside."""

    def __init__(
        self,
        unit: Callable[[], Unit],
        answer: Callable[[], Answer],
        receives: Callable[[Sequence[int]], bool],
        disk: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """``answer``: of the program on its socket. ``receives``: whether a modality is answered on one of the ports.

        ``disk``: whether the disk takes anything; the version's own word on it counts for nothing.
        """
        self._unit = unit
        self._answer = answer
        self._receives = receives
        self._disk = disk
        self._clock = clock
        self._began = clock.monotonic()

    def look(self) -> Verdict:
        """Judge it as it is now."""
        unit = self._unit()
        if unit.active == "activating" or (unit.active == "inactive" and unit.queued):
            # one that fell and is started again has had its chance
            patient = not unit.restarts and self._clock.monotonic() - self._began < STARTING
            return self._unless_disk("STARTING", excused=patient)
        if unit.active not in {"active", "reloading"}:
            return self._unless_disk("SERVICE_DOWN")
        answer = self._answer()
        if answer != "good":
            return self._unless_disk("NO_DATABASE" if answer == "no database" else "NO_STATUS")
        return Verdict("") if self._receives(unit.ports) else self._unless_disk("NO_RECEIVER")

    def _unless_disk(self, code: str, *, excused: bool = False) -> Verdict:
        return Verdict(code, excused) if self._disk() else Verdict("DISK", excused=True)


class Settler:
    """Brings the record in line with what runs, and marks it."""

    def __init__(
        self, record: Record, system: System, clock: Clock, *, slot: str, pause: Callable[[float], None]
    ) -> None:
        self._record = record
        self._system = system
        self._clock = clock
        self._slot = slot
        self._pause = pause

    def compare(self) -> State:
        """Find what became of an update with the last start, and return the record. Raises OSError."""
        with self._record.locked():
            state = self._record.state
            found = self._found(state)
            return state if found is state else self._record.keep(found)

    def _found(self, state: State) -> State:
        """Say what ``state`` is after this start; it is itself where nothing changed."""
        here, anew = state.slot == self._slot, not self._record.is_of_this_start(state)
        if state.phase in {"installing", "waiting"} and anew and here:
            return self._record.entered(msgspec.structs.replace(state, starts=1), "trial")
        begun = state.phase == "downloading" or (state.phase == "installing" and not here)
        if begun and not self._record.has_request:
            log.error("what was asked for is lost", version=state.to)
            return self._record.entered(state, "failed", reason="INTERRUPTED")
        if state.phase == "waiting" and anew:
            return self._fallen_back(state)
        if state.phase == "trial" and anew and here:
            return self._record.started_again(state)
        if state.phase in {"trial", "done"} and not here:
            return self._fallen_back(state)
        return state

    def settle(self, judge: Judge) -> bool:
        """Wait until what runs is good, and mark it; False where it was taken back. Raises `ToolError`.

        A disk that takes nothing keeps no version from being marked: the record is written when there is room.
        """
        state, written = self._compared()
        trial = state.phase == "trial"
        log.info("the running slot is looked at", slot=self._slot, trial=trial, version=state.to if trial else "")
        blamed, said, well = 0.0, "", 0
        while True:
            if not written:
                state, written = self._compared()
            verdict = judge.look()
            well = 0 if verdict.code else well + 1
            if well >= (STEADY if trial else 1):
                break
            if verdict.code and verdict.code != said:
                said = verdict.code
                log.warning("the program is not good yet", reason=said, excused=verdict.excused)
            if trial and verdict.code and blamed >= TRIAL and self._take_back(state, verdict.code):
                return False
            before = self._clock.monotonic()
            self._pause(_LOOK if blamed < TRIAL else _SELDOM)
            if verdict.code and not verdict.excused:
                blamed += self._clock.monotonic() - before
        self._system.mark_good()
        log.info("the running slot is good", slot=self._slot)
        if trial:
            self._close(state)
        return True

    def _compared(self) -> tuple[State, bool]:
        """Return what the record is to say, and whether it does."""
        try:
            return self.compare(), True
        except OSError as e:
            log.warning("the record cannot be written", why=e.strerror or str(e))
            return self._found(self._record.state), False

    def _close(self, state: State) -> None:
        """Write that the update is done, as soon as the disk takes it."""
        while True:
            try:
                self._record.enter(state, "done")
            except OSError as e:
                log.warning("the record cannot be written", why=e.strerror or str(e))
                self._pause(_SELDOM)
            else:
                return

    def _fallen_back(self, state: State) -> State:
        judged = state.reason if state.phase == "trial" else ""
        # one that came up each time, and was never judged, may have been cut off by the power; not so twice
        again = any(one.phase == "rolled-back" and one.to == state.to for one in state.changes)
        remembered = bool(judged) or (state.phase != "done" and (state.starts < _STARTS or again))
        reason = judged or "FELL_BACK"
        log.error("the new version was taken back", version=state.to, reason=reason, remembered=remembered)
        text = state.text if judged else ""
        return self._record.entered(state, "rolled-back", reason=reason, text=text, remembered=remembered)

    def _take_back(self, state: State, code: str) -> bool:
        """Have the other slot started, as the record will say then; False where this one would start again.

        Raises `ToolError`.
        """
        log.error("the new version is taken back", version=state.to, reason=code)
        if self._record.state.reason != code:
            try:
                self._record.keep(msgspec.structs.replace(state, reason=code))
            except OSError as e:
                log.warning("the record cannot be written", why=e.strerror or str(e))
        try:
            self._system.mark_bad(self._slot)
        except ToolError as e:
            # where nothing is kept its tries do not run out either: the machine would start anew for ever
            log.error("the slot cannot be marked bad, so the machine is left running", why=e.text)  # noqa: TRY400
            return False
        self._system.reboot()
        return True


async def receives(receive: Receive, ports: Sequence[int]) -> bool:
    """Whether the receiver answers an association of its own name, C-ECHO; a rejection is an answer too."""
    host, title = _ANY.get(receive.address, receive.address), receive.titles[0]
    for port in ports or receive.all_ports:
        address = Address(host=host, port=port, called=title, calling=title, connect=_PATIENCE, response=_PATIENCE)
        try:
            requestor = await connect(address, [(VERIFICATION, (IMPLICIT_LITTLE,))])
            code = await requestor.echo()
            await requestor.release()
        except RejectedError:
            return True
        except (OSError, DeadlineError, ConnectionLostError, AbortedError, ReleasedError, InvalidPDU, NoContextError):
            continue
        if code == status.SUCCESS:
            return True
    return False


def disk_takes(folder: Path) -> bool:
    """Whether the file system of ``folder`` can be written and has room; a small file in it is touched."""
    try:
        at = os.statvfs(folder)
    except OSError:
        return False
    full = at.f_bavail * at.f_frsize < _ROOM or (at.f_files > 0 and not at.f_favail)
    return not full and not at.f_flag & os.ST_RDONLY and _touched(folder / _PROBE)


def _touched(path: Path) -> bool:
    """Whether a change is taken: after an error ext4 may refuse all of them without calling itself read-only."""
    try:
        try:
            os.utime(path)
        except FileNotFoundError:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return True
