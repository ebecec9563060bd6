"""The DIMSE transport: C-STORE as SCU (PS3.4 B.2), one association a session.

An object of a kind that the association was not negotiated for is no error: the association is made anew with it among
the proposals. Each kind has its own presentation context; beside each uncompressed one Implicit VR Little Endian is
offered too (PS3.5 10.1).
"""

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from edge.config import DimseDestination
from edge.dicom.association import AbortedError, ReleasedError
from edge.dicom.pdu import AssociateReject, InvalidPDU
from edge.dicom.requestor import MOST_CONTEXTS, Address, NoContextError, RejectedError, Requestor, connect
from edge.dicom.uids import IMPLICIT_LITTLE, UNCOMPRESSED
from edge.dicom.wire import ConnectionLostError, DeadlineError
from edge.forward.outcome import Outcome, Refused, Unreachable, from_status
from edge.model import Kind
from edge.spool import Reader, Syncer
from edge.store import Parcel

ORIGINAL: Final = "original"
"""As ``calling_ae_title``: call as the modality did."""

FAILURES: Final = (
    OSError,
    RejectedError,
    DeadlineError,
    ConnectionLostError,
    AbortedError,
    ReleasedError,
    InvalidPDU,
)


class DimseTransport:
    """Reaches one destination by DIMSE."""

    def __init__(self, destination: DimseDestination, syncer: Syncer) -> None:
        self._destination = destination
        self._syncer = syncer

    async def open(self, kinds: Sequence[Kind]) -> "DimseSession | Unreachable":
        """Open an association that proposes ``kinds``."""
        session = DimseSession(self._destination, self._syncer)
        failure = await session.associate(kinds, "")
        return session if failure is None else failure


class DimseSession:
    """One association at a time, made anew when an object needs it."""

    def __init__(self, destination: DimseDestination, syncer: Syncer) -> None:
        self._destination = destination
        self._syncer = syncer
        self._requestor: Requestor | None = None
        self._proposed: dict[Kind, None] = {}
        self._calling = ""

    @property
    def usable(self) -> bool:
        """Whether the association stands."""
        return self._requestor is not None and self._requestor.usable

    async def associate(self, kinds: Iterable[Kind], original: str) -> Unreachable | None:
        """Make the association, proposing ``kinds`` and what was proposed before; ``original``: whom to call as."""
        await self.close()
        destination = self._destination
        self._calling = original
        proposals, self._proposed = propose([*kinds, *self._proposed])
        title = destination.calling_ae_title
        if title == ORIGINAL:
            title = original or "EDGE"
        address = Address(
            host=destination.host,
            port=destination.port,
            called=destination.ae_title,
            calling=title,
            max_pdu=destination.max_pdu,
            connect=destination.timeouts.connect,
            response=destination.timeouts.response,
        )
        try:
            self._requestor = await connect(address, proposals)
        except FAILURES as e:
            return diagnose(e, destination)
        return None

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Send each parcel in turn."""
        for parcel in parcels:
            outcome = await self._prepare(parcel, parcels) or await self._store(parcel)
            yield parcel, outcome
            if isinstance(outcome, Unreachable):
                return

    async def _prepare(self, parcel: Parcel, parcels: Sequence[Parcel]) -> Unreachable | None:
        """Make sure of an association on which ``parcel`` was proposed."""
        as_modality = self._destination.calling_ae_title == ORIGINAL
        original = parcel.calling if as_modality else ""
        if self.usable and parcel.kind in self._proposed and original == self._calling:
            return None
        return await self.associate((parcel.kind, *(p.kind for p in parcels)), original)

    async def _store(self, parcel: Parcel) -> Outcome:
        requestor = self._requestor
        if requestor is None:
            raise RuntimeError("a parcel needs an association")
        if not requestor.takes(parcel.kind):
            kind = parcel.kind
            detail = f"it takes no {kind.sop_class_uid} in transfer syntax {kind.transfer_syntax_uid}"
            return Refused("CONTEXT_REJECTED", detail, unsupported=True)
        try:
            reader = Reader(parcel.path, parcel.offset, self._syncer)
            with reader:
                answer = await requestor.store(parcel.kind, parcel.sop_instance_uid, parcel.length, reader.read)
        except NoContextError as e:
            return Refused("CONTEXT_REJECTED", str(e), unsupported=True)
        except EOFError as e:
            await requestor.abort()
            return Refused("FILE_DAMAGED", f"the stored file cannot be read: {e}")
        except FAILURES as e:
            if isinstance(e, OSError) and e.filename is not None:
                return Refused("FILE_MISSING", f"the stored file cannot be opened: {e.strerror}")
            await requestor.abort()
            return diagnose(e, self._destination, midway=True)
        outcome = from_status(answer.status, answer.error_comment)
        if isinstance(outcome, Unreachable):
            await requestor.abort()
        return outcome

    async def close(self) -> None:
        """Release the association."""
        requestor, self._requestor = self._requestor, None
        if requestor is not None:
            await requestor.release()


def propose(kinds: Iterable[Kind]) -> tuple[list[tuple[str, tuple[str, ...]]], dict[Kind, None]]:
    """Lay out presentation contexts for ``kinds``, the first first, and tell which found room."""
    proposals: dict[tuple[str, str], None] = {}
    proposed: dict[Kind, None] = {}
    for kind in dict.fromkeys(kinds):
        wanted = {(kind.sop_class_uid, kind.transfer_syntax_uid): None}
        if kind.transfer_syntax_uid in UNCOMPRESSED:
            wanted[kind.sop_class_uid, IMPLICIT_LITTLE] = None
        if len(proposals | wanted) > MOST_CONTEXTS:
            break
        proposals |= wanted
        proposed[kind] = None
    return [(abstract, (syntax,)) for abstract, syntax in proposals], proposed


_REASONS: Final[dict[tuple[int, int], str]] = {
    (1, 1): "it gave no reason",
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know our AE title",
    (1, 7): "it is not called so: check ae_title",
    (2, 1): "it gave no reason",
    (2, 2): "it does not know this protocol version",
    (3, 1): "it is overloaded",
    (3, 2): "it has too many associations",
}
"""(source, reason) of a rejection, PS3.8 Table 9-21."""


def _rejection(reject: AssociateReject) -> str:
    return _REASONS.get((reject.source, reject.reason), f"source {reject.source}, reason {reject.reason}")


def diagnose(error: Exception, destination: DimseDestination, *, midway: bool = False) -> Unreachable:
    """Say what a failure means, in words a technician can read to IT."""
    where = f"{destination.host} port {destination.port}"
    match error:
        case socket.gaierror():
            code, text = (
                "NO_ADDRESS",
                f"the name {destination.host} cannot be resolved: check DNS or the host",
            )
        case ConnectionRefusedError():
            code, text = "REFUSED_CONNECTION", f"{where} refuses connections: is the PACS running?"
        case RejectedError():
            code = "ASSOCIATION_REJECTED"
            text = f"{where} rejected the association: {_rejection(error.reject)}"
        case AbortedError() | ReleasedError():
            code, text = "ABORTED", f"{where} ended the association instead of answering"
        case DeadlineError():
            code, text = "NO_ANSWER", f"{where} does not answer in time"
        case ConnectionLostError() | ConnectionError():
            code, text = "CONNECTION_LOST", f"{where} closed the connection"
        case InvalidPDU():
            code, text = "PROTOCOL_ERROR", f"{where} does not speak DICOM as it should: {error}"
        case OSError():
            code, text = "NO_ROUTE", f"{where} cannot be reached: {error.strerror or error}"
        case _:
            code, text = "FAILED", f"{where}: {error}"
    return Unreachable(code, text + ".", midway=midway)
