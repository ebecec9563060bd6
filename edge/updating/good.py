"""After a start: which slot runs, and whether its program does well. Then it is marked good, or taken back.

A version is judged by itself alone: its service runs, answers with its database, and answers a modality. Never by a
PACS, the network, the clock or a full disk: an offline clinic must not roll back. What has been good before is never
started anew for that; it is looked at until it is well.
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
"""Seconds after which a version on trial is taken back that was not good in one moment of them."""
STARTING: Final = 3600.0
"""Seconds for which a start that goes on, as one that mends a database, is not held against it."""
STEADY: Final = 3
"""Looks in a row at which a version on trial must be good: one that falls again and again is so for a moment."""
_LOOK: Final = 5.0
_SELDOM: Final = 30.0
"""Seconds between two looks at what has been good before, and is not well for long."""
_ROOM: Final = 64 << 20
"""Bytes below which a disk is full."""
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
            return self._compared()

    def _compared(self) -> State:
        state = self._record.state
        if state.phase in {"installing", "waiting"} and not self._record.is_of_this_start(state):
            if state.slot == self._slot:
                return self._record.enter(state, "trial")
            if state.phase == "waiting":
                return self._fell_back(state)
        if state.phase in {"trial", "done"} and state.slot != self._slot:
            return self._fell_back(state)
        return state

    def settle(self, judge: Judge) -> bool:
        """Wait until what runs is good, and mark it; False where it was taken back. Raises OSError, `ToolError`."""
        state = self.compare()
        trial = state.phase == "trial"
        log.info("the running slot is looked at", slot=self._slot, trial=trial, version=state.to if trial else "")
        blamed, said, well = 0.0, "", 0
        while True:
            verdict = judge.look()
            well = 0 if verdict.code else well + 1
            if well >= (STEADY if trial else 1):
                break
            if verdict.code and verdict.code != said:
                said = verdict.code
                log.warning("the program is not good yet", reason=said, excused=verdict.excused)
            if trial and verdict.code and blamed >= TRIAL:
                self._take_back(state, verdict.code)
                return False
            before = self._clock.monotonic()
            self._pause(_LOOK if blamed < TRIAL else _SELDOM)
            if verdict.code and not verdict.excused:
                blamed += self._clock.monotonic() - before
        self._system.mark_good()
        if trial:
            self._record.enter(state, "done")
        log.info("the running slot is good", slot=self._slot)
        return True

    def _fell_back(self, state: State) -> State:
        log.error("the new version was taken back", version=state.to, reason=state.reason or "FELL_BACK")
        return self._record.enter(state, "rolled-back", reason=state.reason or "FELL_BACK", text=state.text)

    def _take_back(self, state: State, code: str) -> None:
        """Have the other slot started, as the record will say then. Raises OSError, `ToolError`."""
        log.error("the new version is taken back", version=state.to, reason=code)
        self._record.keep(msgspec.structs.replace(state, reason=code))
        try:
            self._system.mark_bad()
        except ToolError as e:
            # its tries run out with the next starts
            log.warning("the slot could not be marked bad", why=e.text)
        self._system.reboot()


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
    """Whether the file system of ``folder`` can be written and has room."""
    try:
        at = os.statvfs(folder)
    except OSError:
        return False
    full = at.f_bavail * at.f_frsize < _ROOM or (at.f_files > 0 and not at.f_favail)
    return not full and not at.f_flag & os.ST_RDONLY
