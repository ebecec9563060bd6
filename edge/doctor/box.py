"""The steps at the box itself: clock, storage, whether the appliance runs and hears, and who was heard.

What the appliance knows comes from its snapshot, which whoever calls has asked for; None: it does not run.
"""

import os
from functools import partial
from pathlib import Path
from typing import Final

from edge.clock import Clock, iso, kernel_synchronised
from edge.config import Config
from edge.dicom import status
from edge.dicom.requestor import Address, NoContextError, connect
from edge.dicom.uids import IMPLICIT_LITTLE, VERIFICATION
from edge.doctor.folder import free_bytes, size, write_and_remove
from edge.doctor.step import Told, doubtful, failed, fine, left_out
from edge.doctor.words import TEXTS
from edge.forward.reach import FAILURES
from edge.intake.admission import reserve
from edge.snapshot import Snapshot
from edge.threads import aside

PATIENCE: Final = 10.0
"""Seconds for our own listener."""
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is asked, not listened on


class BoxVisit:
    """This box."""

    def __init__(self, config: Config, snapshot: Snapshot | None, clock: Clock) -> None:
        self.config, self.snapshot, self.clock = config, snapshot, clock

    @property
    def path(self) -> Path:
        """Where objects are kept."""
        return self.config.storage.path

    async def close(self) -> None:
        """Nothing is open."""


async def clock(visit: BoxVisit) -> Told:
    """See whether our clock may be believed."""
    now = iso(visit.clock.now())
    if not visit.clock.trusted():
        return doubtful("CLOCK_WRONG", TEXTS["clock_wrong"].format(now=now))
    return fine("box_clock" if kernel_synchronised() else "box_clock_alone", now=now)


async def storage(visit: BoxVisit) -> Told:
    """See whether the storage can be entered, and is on a disk that can be written."""
    try:
        found, there = await aside(partial(_entered, visit.path))
    except OSError as e:
        return failed("STORAGE_UNUSABLE", TEXTS["storage_closed"].format(path=visit.path, why=e.strerror))
    if found.f_flag & os.ST_RDONLY:
        return failed("STORAGE_UNUSABLE", TEXTS["storage_read_only"].format(path=visit.path))
    return fine("storage" if there else "storage_missing", path=visit.path)


async def room(visit: BoxVisit) -> Told:
    """Compare the room with the reserve."""
    free, total = await aside(partial(_room, visit.path))
    kept = reserve(visit.config.storage.reserve, total)
    values = {"free": size(free), "reserve": size(kept)}
    if free <= kept:
        return failed("STORAGE_FULL", TEXTS["storage_full"].format(**values))
    if free < 2 * kept:
        return doubtful("STORAGE_SHORT", TEXTS["storage_short"].format(**values))
    return fine("storage_room", **values)


async def written(visit: BoxVisit) -> Told:
    """Write, sync and remove a small file beside the spool."""
    if not await aside(visit.path.is_dir):
        return left_out("storage_missing", path=visit.path)
    try:
        await aside(partial(write_and_remove, visit.path))
    except OSError as e:
        return failed("STORAGE_UNUSABLE", TEXTS["storage_failed"].format(path=visit.path, why=e.strerror or e))
    return fine("written")


async def appliance(visit: BoxVisit) -> Told:
    """See whether the appliance runs and takes images."""
    if visit.snapshot is None:
        return failed("NOT_RUNNING", TEXTS["not_running"].format(path=visit.path))
    if visit.snapshot.intake.open:
        return fine("running")
    why = next((f.text for f in visit.snapshot.findings if f.code == "INTAKE_CLOSED"), visit.snapshot.light.text)
    return failed("INTAKE_CLOSED", TEXTS["closed"].format(why=why))


async def listener(visit: BoxVisit) -> Told:
    """C-ECHO to ourselves, by our own name on both sides, which nobody else is let in by."""
    snapshot, receive = visit.snapshot, visit.config.receive
    if snapshot is None:
        return left_out("needs_appliance")
    if snapshot.intake.associations >= receive.max_associations:
        return left_out("listener_full")
    title, port = receive.titles[0], receive.all_ports[0]
    host = _ANY.get(receive.address, receive.address)
    address = Address(host=host, port=port, called=title, calling=title, connect=PATIENCE / 2, response=PATIENCE / 2)
    try:
        requestor = await connect(address, [(VERIFICATION, (IMPLICIT_LITTLE,))])
        code = await requestor.echo()
        await requestor.release()
    except (*FAILURES, NoContextError) as e:
        return failed("LISTENER_SILENT", TEXTS["listener_wrong"].format(why=str(e) or type(e).__name__))
    if code != status.SUCCESS:
        said = TEXTS["empty_status"] if code is None else TEXTS["echo_status"].format(meaning=status.meaning(code))
        return failed("LISTENER_SILENT", TEXTS["listener_wrong"].format(why=said))
    return fine("listening", title=title, port=port)


async def modalities(visit: BoxVisit) -> Told:
    """See whether images came, and whether somebody was refused."""
    snapshot = visit.snapshot
    if snapshot is None:
        return left_out("needs_appliance")
    refused = next((f for f in snapshot.findings if f.code == "PEER_REFUSED"), None)
    if refused is not None:
        return doubtful("PEER_REFUSED", TEXTS["refused"].format(why=refused.text))
    if snapshot.intake.last_at is None:
        return fine("unheard")
    return fine("heard", last=snapshot.intake.last_at, count=snapshot.intake.instances)


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that there is."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _entered(path: Path) -> tuple[os.statvfs_result, bool]:
    """Tell of the file system, and whether the folder is there. Raises OSError where it can never be."""
    try:
        there = bool(path.stat())
    except FileNotFoundError:
        there = False
    if there:
        with os.scandir(path) as entries:
            next(entries, None)
    return os.statvfs(_nearest(path)), there


def _room(path: Path) -> tuple[int, int]:
    found = os.statvfs(_nearest(path))
    return free_bytes(_nearest(path)), found.f_blocks * found.f_frsize
