"""Reaching a DICOMweb destination: clients as its configuration says, and what is wrong, in words for people."""

import http
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from edge.clock import Clock
from edge.config import Auth, ClientTls, DicomwebDestination
from edge.dicomweb.answer import UnreadableError
from edge.dicomweb.client import Answer, Client, Settings
from edge.dicomweb.errors import (
    LoginError,
    LostError,
    RedirectError,
    SilentError,
    TooLongError,
    UnreachedError,
    WebError,
)
from edge.dicomweb.login import Login, NoLogin, TokenLogin, basic, bearer
from edge.dicomweb.retry import retry_after
from edge.dicomweb.secret import SecretFile
from edge.dicomweb.tokens import ClientCredentials, Dial, ServiceAccount
from edge.forward.outcome import Unreachable
from edge.forward.reach import about_tls
from edge.phrase import N_, say
from edge.tls import Credentials, TlsError, destination_credentials, failure, token_context

JSON: Final = "application/dicom+json"
XML: Final = "application/dicom+xml"


class Web:
    """Calls one destination; its login serves all clients."""

    def __init__(self, destination: DicomwebDestination, credentials: Credentials | None, clock: Clock) -> None:
        """``credentials`` are those of its TLS; None: they are read here, where it needs some."""
        if credentials is None and destination.secure:
            credentials = destination_credentials(destination.name, destination.tls or ClientTls())
        self._destination = destination
        self._credentials = credentials
        self._clock = clock
        self._login = _login(destination.auth, self._dial, clock)
        self._where = urlsplit(destination.url).netloc

    async def client(self) -> Client | Unreachable:
        """Return a client that has what it needs to log in; it connects with its first request."""
        context = None
        if self._credentials is not None:
            context = self._credentials.context()
            if context is None and self._credentials.reload():
                context = self._credentials.context()
            if context is None:
                return Unreachable("TLS_FILES", say("TLS cannot be used: {why}.", why=self._credentials.trouble))
        try:
            await self._login.header()
        except WebError as e:
            return self.diagnose(e)
        timeouts = self._destination.timeouts
        settings = Settings(
            url=self._destination.url, connect=timeouts.connect, response=timeouts.response, tls=context
        )
        return Client(settings, self._login)

    def diagnose(self, error: WebError | UnreadableError, *, midway: bool = False) -> Unreachable:
        """Say what it means that there is no answer, or none that can be read."""
        where = self._where
        match error:
            case UnreachedError():
                return self._unreached(error.why, midway=midway)
            case LoginError() if not self._clock.trusted() and (fault := failure(error.why)) and fault.kind == "dates":
                return about_tls(fault, error.where, "token_url", trusted=False, midway=midway)
            case LoginError():
                code, text = "NO_CREDENTIALS", say("we cannot log in to {where}: {error}.", where=where, error=error)
            case RedirectError():
                code, text = (
                    "REDIRECTED",
                    say("{where} sends us elsewhere, where nothing of ours goes: {error}.", where=where, error=error),
                )
            case SilentError():
                code, text = "NO_ANSWER", say("{where} does not answer in time.", where=where)
            case LostError():
                code, text = (
                    "CONNECTION_LOST",
                    say("the connection to {where} was lost: {error}.", where=where, error=error),
                )
            case UnreadableError() | TooLongError():
                hint = N_("does DICOMweb begin at url, and is there no login page or proxy before it?")
                code, text = (
                    "NOT_DICOMWEB",
                    say("{where} gives no answer of DICOMweb: {error}; {hint}", where=where, error=error, hint=hint),
                )
            case _:
                code, text = "PROTOCOL_ERROR", f"{where}: {error}."
        return Unreachable(code, text, midway=midway)

    def answered(self, answer: Answer, *, midway: bool = False) -> Unreachable:
        """Say what an answer means that is about the destination, not about what it was asked."""
        where = self._where
        match answer.status:
            case 401:
                code = "LOGIN_REFUSED"
                text = say("{where} does not accept our login (401): check auth and what its files hold.", where=where)
            case 403:
                code, text = (
                    "FORBIDDEN",
                    say("{where} knows us and does not let us (403): have it give us the right.", where=where),
                )
            case 404 | 405 | 410:
                code, text = (
                    "NO_SERVICE",
                    say("{where} has no such service there ({status}): check url.", where=where, status=answer.status),
                )
            case 406:
                code, text = (
                    "NO_COMMON_FORMAT",
                    say("{where} answers neither in JSON nor in XML of DICOM (406).", where=where),
                )
            case 429:
                code, text = "TOO_MANY_REQUESTS", say("{where} has had too much of us for now (429).", where=where)
            case 503:
                code, text = (
                    "UNAVAILABLE",
                    say("{where} is not available for now (503): it is busy or being maintained.", where=where),
                )
            case status if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
                code, text = (
                    "SERVER_ERROR",
                    say("{where} has a trouble of its own ({status}): look into its log.", where=where, status=status),
                )
            case status:
                code, text = (
                    "UNEXPECTED_ANSWER",
                    say("{where} answered {status}, which is no answer to this.", where=where, status=status),
                )
        return Unreachable(code, text, midway=midway, after=retry_after(answer.headers, self._clock.now()))

    def _unreached(self, why: Exception | None, *, midway: bool) -> Unreachable:
        where = self._where
        match why:
            case _ if (fault := failure(why)) is not None:
                return about_tls(fault, where, "url", trusted=self._clock.trusted(), midway=midway)
            case None | TimeoutError() if not self._destination.secure:
                code = "FILTERED"
                text = say(
                    "{where} does not react to connections: it is off, or a firewall on the way drops them.",
                    where=where,
                )
            case None | TimeoutError():
                code, text = "NO_ANSWER", say("{where} does not answer in time.", where=where)
            case socket.gaierror():
                host = urlsplit(self._destination.url).hostname
                code, text = "NO_ADDRESS", say("the name {host} cannot be resolved: check DNS or the url.", host=host)
            case ConnectionRefusedError():
                code, text = (
                    "REFUSED_CONNECTION",
                    say("{where} refuses connections: is the server running?", where=where),
                )
            case ConnectionError():
                code, text = "CONNECTION_LOST", say("{where} closed the connection.", where=where)
            case _:
                said = getattr(why, "strerror", None) or why
                code, text = "NO_ROUTE", say("{where} cannot be reached: {why}.", where=where, why=said)
        return Unreachable(code, text, midway=midway)

    def _dial(self, url: str) -> Settings:
        """Say how to reach who gives out tokens."""
        destination = self._destination
        timeouts = destination.timeouts
        try:
            context = token_context(destination.tls or ClientTls()) if url.lower().startswith("https:") else None
        except TlsError as e:
            raise LoginError(say("TLS cannot be used: tls.{key}: {error}", key=e.key, error=e)) from None
        return Settings(url=url, connect=timeouts.connect, response=timeouts.response, tls=context)


def _login(auth: Auth, dial: Dial, clock: Clock) -> Login:
    """Choose the way to log in; a key that its type needs is there, as the configuration was checked."""
    match auth.type:
        case "none":
            return NoLogin()
        case "basic":
            return basic(auth.username, _secret(auth.password_file))
        case "bearer":
            return bearer(_secret(auth.token_file))
        case "oauth2":
            secret = _secret(auth.client_secret_file)
            return TokenLogin(
                ClientCredentials(auth.token_url or "", auth.client_id, secret, auth.scope, dial).ask, clock
            )
        case "google":
            return TokenLogin(ServiceAccount(_secret(auth.service_account_file), auth.scope, dial, clock).ask, clock)


def _secret(path: Path | None) -> SecretFile:
    if path is None:
        raise TypeError("the configuration names no file for this kind of login")
    return SecretFile(path)
