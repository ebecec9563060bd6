"""Does a destination answer? DIMSE: TCP, TLS, association, C-ECHO; DICOMweb: a query; a folder: whether it is there."""

import asyncio
import time

import msgspec

from edge.clock import SystemClock
from edge.config import Destination, DicomwebDestination, DimseDestination, FolderDestination
from edge.dicom import status
from edge.dicom.requestor import NoContextError, connect
from edge.dicom.uids import IMPLICIT_LITTLE, VERIFICATION
from edge.forward.folder import is_there
from edge.forward.reach import FAILURES, ORIGINAL, OWN_TITLE, address_of, diagnose
from edge.forward.web import Web
from edge.forward.webquery import ask
from edge.tls import TlsError, client_context


class Probe(msgspec.Struct, frozen=True):
    """What came of it. ``code`` and ``problem`` are empty where the destination answers."""

    seconds: float
    code: str = ""
    """As a delivery's reasons, for machines."""
    problem: str = ""
    """A sentence for people; may hold a peer's words."""


async def probe(destination: Destination, *, trusted: bool) -> Probe:
    """Ask ``destination``. ``trusted``: whether this box knows the time. Never raises for the destination's faults."""
    match destination:
        case FolderDestination():
            if await asyncio.to_thread(is_there, destination.path):
                return Probe(0.0)
            return Probe(0.0, "FOLDER_MISSING", f"{destination.path} is not there: is it mounted?")
        case DimseDestination():
            return await _echo(destination, trusted=trusted)
        case DicomwebDestination():
            begun = time.monotonic()
            problem = await ask(Web(destination, None, _Now(believed=trusted)))
            taken = time.monotonic() - begun
            return Probe(taken) if problem is None else Probe(taken, problem.code, problem.detail)


class _Now(SystemClock):
    """The machine's clock, with what is already known of it."""

    def __init__(self, *, believed: bool) -> None:
        super().__init__()
        self._believed = believed

    def trusted(self) -> bool:
        """As it was said."""
        return self._believed


async def _echo(destination: DimseDestination, *, trusted: bool) -> Probe:
    title = destination.calling_ae_title
    try:
        context = client_context(destination.tls) if destination.tls is not None else None
    except TlsError as e:
        return Probe(0.0, "TLS_FILES", f"TLS cannot be used: tls.{e.key}: {e}.")
    address = address_of(destination, OWN_TITLE if title == ORIGINAL else title, context)
    begun = time.monotonic()
    try:
        requestor = await connect(address, [(VERIFICATION, (IMPLICIT_LITTLE,))])
        try:
            code = await requestor.echo()
        except NoContextError:
            await requestor.release()
            return Probe(time.monotonic() - begun, "NO_ECHO", "it takes associations, but no C-ECHO")
        await requestor.release()
    except FAILURES as e:
        found = diagnose(e, destination, trusted=trusted)
        return Probe(time.monotonic() - begun, found.code, found.detail)
    taken = time.monotonic() - begun
    if code is None:
        return Probe(taken, "EMPTY_STATUS", "it answers C-ECHO without a status")
    return Probe(taken) if code == status.SUCCESS else Probe(taken, f"{code:04X}", status.meaning(code))
