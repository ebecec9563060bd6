"""Reaching a DIMSE destination: associations as its configuration says, and why there is none, in words for people."""

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from edge.config import DimseDestination
from edge.dicom.association import AbortedError, ReleasedError
from edge.dicom.pdu import AssociateReject, InvalidPDU, Role
from edge.dicom.requestor import Address, NoConnectionError, NoContextError, RejectedError, Requestor, connect
from edge.dicom.wire import ConnectionLostError, DeadlineError
from edge.forward.outcome import Unreachable, Unsupported
from edge.forward.unreached import unreached
from edge.phrase import N_, say
from edge.tls import Credentials, Failure, destination_credentials, failure

T = TypeVar("T")

OWN_TITLE: Final = "EDGE"
ORIGINAL: Final = "original"
"""As ``calling_ae_title``: call as the modality did."""

FAILURES: Final = (
    OSError,
    UnicodeError,  # of a host that is no name
    RejectedError,
    DeadlineError,
    ConnectionLostError,
    AbortedError,
    ReleasedError,
    InvalidPDU,
)


class Caller:
    """Calls one destination."""

    def __init__(
        self,
        destination: DimseDestination,
        credentials: Credentials | None = None,
        trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """``credentials`` are those of ``destination.tls``; ``trusted`` tells whether our clock is right."""
        if credentials is None and destination.tls is not None:
            credentials = destination_credentials(destination.name, destination.tls)
        self.destination = destination
        self._credentials = credentials
        self._trusted = trusted

    async def call(
        self, proposals: Iterable[tuple[str, tuple[str, ...]]], original: str = "", roles: tuple[Role, ...] = ()
    ) -> Requestor | Unreachable:
        """Make an association; ``original`` is the modality for whom it is, where we call by its name."""
        destination = self.destination
        calling = destination.calling_ae_title
        if calling == ORIGINAL:
            calling = original or OWN_TITLE
        context: ssl.SSLContext | None = None
        if self._credentials is not None:
            context = self._credentials.context()
            if context is None and self._credentials.reload():
                context = self._credentials.context()
            if context is None:
                return Unreachable("TLS_FILES", say("TLS cannot be used: {why}.", why=self._credentials.trouble))
        try:
            return await connect(address_of(destination, calling, context), proposals, roles)
        except FAILURES as e:
            return self.diagnose(e)

    async def converse(
        self,
        abstract_syntax: str,
        transfer_syntaxes: tuple[str, ...],
        service: str,
        talk: Callable[[Requestor], Awaitable[T]],
    ) -> T | Unsupported | Unreachable:
        """Make an association for one service, ``talk`` over it, and release it; ``service`` is its name for people."""
        requestor = await self.call([(abstract_syntax, transfer_syntaxes)])
        if isinstance(requestor, Unreachable):
            return requestor
        try:
            return await over(requestor, talk)
        except NoContextError:
            return Unsupported(say("it takes no association for {service}", service=service))
        except FAILURES as e:
            return self.diagnose(e, midway=True)

    def diagnose(self, error: Exception, *, midway: bool = False) -> Unreachable:
        """Say what a failure means."""
        return diagnose(error, self.destination, midway=midway, trusted=self._trusted())


async def over(requestor: Requestor, talk: Callable[[Requestor], Awaitable[T]]) -> T:
    """Return what ``talk`` does over an association, which ends with it. Raises what it raises."""
    try:
        answer = await talk(requestor)
    except NoContextError:
        await requestor.release()
        raise
    except BaseException:
        await requestor.abort()
        raise
    await requestor.release()
    return answer


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


_REASONS: Final[dict[tuple[int, int], str]] = {
    (1, 1): N_("it gave no reason"),
    (1, 2): N_("it does not know the application context"),
    (1, 3): N_("it does not know our AE title"),
    (1, 7): N_("it is not called so: check ae_title"),
    (2, 1): N_("it gave no reason"),
    (2, 2): N_("it does not know this protocol version"),
    (3, 1): N_("it is overloaded"),
    (3, 2): N_("it has too many associations"),
}
"""(source, reason) of a rejection, PS3.8 Table 9-21."""


def _rejection(reject: AssociateReject) -> str:
    return _REASONS.get(
        (reject.source, reject.reason),
        say("source {source}, reason {reason}", source=reject.source, reason=reject.reason),
    )


_LOST: Final = N_("{where} closed the connection.")
_LOST_AT_ONCE: Final = N_(
    "{where} closed the connection after the first words of TLS: does it speak TLS there, and know our certificate?"
)

_TLS_HINTS: Final = (
    (
        ("certificate required",),
        N_("It wants a certificate of ours: name it with tls.certificate_file and tls.key_file."),
    ),
    (
        ("alert unknown ca", "alert bad certificate", "alert certificate", "alert access denied"),
        N_("It does not accept our certificate: have it, or who signed it, entered there."),
    ),
    (("wrong version number", "http request", "record layer", "packet length"), N_("Does it speak TLS on this port?")),
    (
        ("protocol version", "unsupported protocol", "handshake failure", "no shared cipher"),
        N_("It must speak TLS 1.2 or newer with the ciphers of today, and may want a certificate of ours."),
    ),
)
"""What stands in a refusal (RFC 8446 6.2, and OpenSSL's words), and what it mostly means."""


def _tls_hint(text: str) -> str:
    """Say what a refusal mostly means."""
    for words, hint in _TLS_HINTS:
        if any(word in text for word in words):
            return hint
    return N_("Does it speak TLS there, and know our certificate?")


def about_tls(why: Failure, where: str, key: str, *, trusted: bool, midway: bool) -> Unreachable:
    """Say what went wrong with TLS; ``key`` of the configuration names the host."""
    match why.kind:
        case "dates" if not trusted:
            # nobody's fault but ours: whoever reads this need not look at the PACS
            text = say(
                "the clock of this box is wrong, so the certificate of {where} cannot be judged ({said}); "
                "images wait until the clock is set.",
                where=where,
                said=why.text,
            )
            return Unreachable("CLOCK_NOT_TRUSTED", text, midway=midway)
        case "dates" if "not yet" in why.text:
            text = say(
                "the certificate of {where} is not valid now ({said}): is our clock behind, or theirs ahead?",
                where=where,
                said=why.text,
            )
            return Unreachable("PEER_CERTIFICATE_EXPIRED", text, midway=midway)
        case "dates":
            text = say(
                "the certificate of {where} is not valid now ({said}): it must be renewed there.",
                where=where,
                said=why.text,
            )
            return Unreachable("PEER_CERTIFICATE_EXPIRED", text, midway=midway)
        case "name":
            text = say(
                "the certificate of {where} is for another machine ({said}): write its name as {key}.",
                where=where,
                said=why.text,
                key=key,
            )
            return Unreachable("PEER_CERTIFICATE_NAME", text, midway=midway)
        case "authority":
            text = say(
                "nobody we know signed the certificate of {where} ({said}): name who did with tls.ca_file.",
                where=where,
                said=why.text,
            )
            return Unreachable("PEER_CERTIFICATE_UNKNOWN", text, midway=midway)
        case "peer":
            return Unreachable(
                "PEER_CERTIFICATE_BAD",
                say("the certificate of {where} is bad: {said}.", where=where, said=why.text),
                midway=midway,
            )
        case _:
            text = say(
                "{where} and we cannot agree on TLS: {said}. {hint}",
                where=where,
                said=why.text,
                hint=_tls_hint(why.text),
            )
            return Unreachable("TLS_REFUSED", text, midway=midway)


def diagnose(
    error: Exception, destination: DimseDestination, *, midway: bool = False, trusted: bool = True
) -> Unreachable:
    """Say what a failure means, in words a technician can read to IT; ``trusted``: whether our clock is right."""
    where = say("{host} port {port}", host=destination.host, port=destination.port)
    # with TLS nobody can tell here whether it was the connection or the handshake that took too long
    plain = destination.tls is None or not isinstance(error, NoConnectionError)
    match error:
        case _ if (why := failure(error)) is not None:
            return about_tls(why, where, "host", trusted=trusted, midway=midway)
        case _ if plain and (found := unreached(error, destination.host, where, "PACS")) is not None:
            code, text = found
        case RejectedError():
            code = "ASSOCIATION_REJECTED"
            text = say("{where} rejected the association: {why}.", where=where, why=_rejection(error.reject))
        case AbortedError() | ReleasedError():
            code, text = "ABORTED", say("{where} ended the association instead of answering.", where=where)
        case DeadlineError():
            code, text = "NO_ANSWER", say("{where} does not answer in time.", where=where)
        case ConnectionLostError() | ConnectionError():
            lost = _LOST if midway or destination.tls is None else _LOST_AT_ONCE
            code, text = "CONNECTION_LOST", lost.format(where=where)
        case InvalidPDU():
            code, text = (
                "PROTOCOL_ERROR",
                say("{where} does not speak DICOM as it should: {error}.", where=where, error=error),
            )
        case _:
            code, text = "FAILED", say("{where}: {error}.", where=where, error=error)
    return Unreachable(code, text, midway=midway)
