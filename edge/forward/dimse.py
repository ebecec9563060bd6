"""The DIMSE transport: C-STORE as SCU (PS3.4 B.2), one association a session.

An object of a kind that was not proposed is no error: it waits for the next association, which proposes it. Each kind
has its own presentation context; beside each uncompressed one Implicit VR Little Endian is offered too (PS3.5 10.1).
"""

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Final

from edge.config import DimseDestination
from edge.dicom.association import AbortedError, ReleasedError
from edge.dicom.pdu import AssociateReject, InvalidPDU
from edge.dicom.requestor import MOST_CONTEXTS, Address, NoContextError, RejectedError, Requestor, connect
from edge.dicom.uids import IMPLICIT_LITTLE, UNCOMPRESSED
from edge.dicom.wire import ConnectionLostError, DeadlineError
from edge.forward.outcome import Outcome, Refused, Unreachable, from_status
from edge.model import Kind, Need
from edge.spool import Reader, Syncer
from edge.store import Parcel
from edge.tls import Credentials, Failure, destination_credentials, failure

_MOST_SEEN: Final = 64
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

    def __init__(
        self,
        destination: DimseDestination,
        syncer: Syncer,
        credentials: Credentials | None = None,
        trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """``credentials`` are those of ``destination.tls``; ``trusted`` tells whether our clock is right."""
        if credentials is None and destination.tls is not None:
            credentials = destination_credentials(destination.name, destination.tls)
        self._destination = destination
        self._syncer = syncer
        self._credentials = credentials
        self._trusted = trusted
        self._seen: dict[Kind, None] = {}

    async def open(self, needs: Sequence[Need]) -> "DimseSession | Unreachable":
        """Make an association that proposes what is needed now, then what was needed lately."""
        destination = self._destination
        wanted = dict.fromkeys(need.kind for need in needs)
        proposals, proposed = propose([*wanted, *self._seen])
        self._seen = dict.fromkeys([*wanted, *self._seen][:_MOST_SEEN])
        calling = destination.calling_ae_title
        original = needs[0].calling if calling == ORIGINAL and needs else None
        if calling == ORIGINAL:
            calling = original or "EDGE"
        context: ssl.SSLContext | None = None
        if self._credentials is not None:
            context = self._credentials.context()
            if context is None and self._credentials.reload():
                context = self._credentials.context()
            if context is None:
                return Unreachable("TLS_FILES", f"TLS cannot be used: {self._credentials.trouble}.")
        try:
            requestor = await connect(address_of(destination, calling, context), proposals)
        except FAILURES as e:
            return diagnose(e, destination, trusted=self._trusted())
        return DimseSession(requestor, destination, self._syncer, proposed, original)


class DimseSession:
    """One association, for what was proposed on it."""

    def __init__(
        self,
        requestor: Requestor,
        destination: DimseDestination,
        syncer: Syncer,
        proposed: Collection[Kind],
        original: str | None,
    ) -> None:
        self._requestor = requestor
        self._destination = destination
        self._syncer = syncer
        self._proposed = proposed
        self._original = original
        self._outgrown = False

    @property
    def usable(self) -> bool:
        """Whether the association stands and is the one that the next object needs."""
        return self._requestor.usable and not self._outgrown

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Send each parcel in turn, up to the first that needs another association."""
        for parcel in parcels:
            other_sender = self._original is not None and parcel.calling != self._original
            if other_sender or parcel.kind not in self._proposed:
                self._outgrown = True
                return
            outcome = await self._store(parcel)
            yield parcel, outcome
            if not self.usable:
                return

    async def _store(self, parcel: Parcel) -> Outcome:
        requestor = self._requestor
        if not requestor.takes(parcel.kind):
            kind = parcel.kind
            detail = f"it takes no {kind.sop_class_uid} in transfer syntax {kind.transfer_syntax_uid}"
            return Refused("CONTEXT_REJECTED", detail, unsupported=True)
        try:
            reader = Reader(parcel.path, parcel.offset, parcel.length, parcel.digest, self._syncer)
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
        await self._requestor.release()


def address_of(destination: DimseDestination, calling: str, context: ssl.SSLContext | None) -> Address:
    """Whom to call, and how; ``context`` is that of ``destination.tls``."""
    return Address(
        host=destination.host,
        port=destination.port,
        called=destination.ae_title,
        calling=calling,
        max_pdu=destination.max_pdu,
        connect=destination.timeouts.connect,
        response=destination.timeouts.response,
        tls=context,
    )


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


_TLS_HINT: Final = " after the first words of TLS: does it speak TLS there, and know our certificate?"


def _about_tls(why: Failure, where: str, *, trusted: bool, midway: bool) -> Unreachable:
    """Say what went wrong with TLS."""
    match why.kind:
        case "dates" if not trusted:
            # nobody's fault but ours: whoever reads this need not look at the PACS
            text = (
                f"the clock of this box is wrong, so the certificate of {where} cannot be judged ({why.text}); "
                "images wait until the clock is set."
            )
            return Unreachable("CLOCK_NOT_TRUSTED", text, midway=midway)
        case "dates":
            text = f"the certificate of {where} is not valid now ({why.text}): it must be renewed there."
            return Unreachable("PEER_CERTIFICATE_EXPIRED", text, midway=midway)
        case "name":
            text = f"the certificate of {where} is for another machine ({why.text}): write its name as host."
            return Unreachable("PEER_CERTIFICATE_NAME", text, midway=midway)
        case "authority":
            text = f"nobody we know signed the certificate of {where} ({why.text}): name who did with tls.ca_file."
            return Unreachable("PEER_CERTIFICATE_UNKNOWN", text, midway=midway)
        case "peer":
            return Unreachable("PEER_CERTIFICATE_BAD", f"the certificate of {where} is bad: {why.text}.", midway=midway)
        case _:
            text = f"{where} and we cannot agree on TLS: {why.text}. Does it speak TLS there, and know our certificate?"
            return Unreachable("TLS_REFUSED", text, midway=midway)


def diagnose(
    error: Exception, destination: DimseDestination, *, midway: bool = False, trusted: bool = True
) -> Unreachable:
    """Say what a failure means, in words a technician can read to IT; ``trusted``: whether our clock is right."""
    where = f"{destination.host} port {destination.port}"
    match error:
        case _ if (why := failure(error)) is not None:
            return _about_tls(why, where, trusted=trusted, midway=midway)
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
            hint = "" if midway or destination.tls is None else _TLS_HINT
            code, text = "CONNECTION_LOST", f"{where} closed the connection{hint}"
        case InvalidPDU():
            code, text = "PROTOCOL_ERROR", f"{where} does not speak DICOM as it should: {error}"
        case OSError():
            code, text = "NO_ROUTE", f"{where} cannot be reached: {error.strerror or error}"
        case _:
            code, text = "FAILED", f"{where}: {error}"
    return Unreachable(code, text if text.endswith("?") else text + ".", midway=midway)
