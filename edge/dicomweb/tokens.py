"""Tokens that a server gives out: OAuth2 client credentials (RFC 6749 4.4), and Google's service accounts (RFC 7523).

The secret goes to that server alone. What it says instead of a token is told by its error code only.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec

from edge.clock import Clock
from edge.dicomweb.client import Answer, Client, Settings
from edge.dicomweb.errors import LoginError, WebError
from edge.dicomweb.login import FileLogin, NoLogin, Token, basic_header
from edge.dicomweb.secret import SecretFile, as_word
from edge.phrase import N_, say

_LIFETIME: Final = 300.0
"""Seconds for which a token is taken to be good of which its server does not say it."""
_LONGEST: Final = 86_400.0
_OK: Final = 200
_REFUSED: Final = frozenset({400, 401})
_JWT_SECONDS: Final = 3600
GOOGLE_SCOPE: Final = "https://www.googleapis.com/auth/cloud-healthcare"

Dial = Callable[[str], Settings]
"""How to reach the server of tokens at an address. Raises `LoginError`."""


class ClientCredentials:
    """Asks for tokens with an id and a secret, in the header, or in the form where the server wants it there."""

    def __init__(self, url: str, client_id: str, secret: SecretFile, scope: str, dial: Dial) -> None:
        self._url = url
        self._id = client_id
        self._secret = secret
        self._scope = {"scope": scope} if scope else {}
        self._dial = dial
        self._in_form = False

    async def ask(self) -> Token:
        """Get a token. Raises `LoginError`."""
        secret = await asyncio.to_thread(self._secret.line)
        answer = await self._ask(secret, in_form=self._in_form)
        if answer.status in _REFUSED:
            other = await self._ask(secret, in_form=not self._in_form)
            if other.status == _OK:
                self._in_form, answer = not self._in_form, other
        return _token(answer, self._url)

    async def _ask(self, secret: str, *, in_form: bool) -> Answer:
        form = {"grant_type": "client_credentials", **self._scope}
        if in_form:
            return await _post(self._url, form | {"client_id": self._id, "client_secret": secret}, "", self._dial)
        # RFC 6749 2.3.1: each of the two is encoded as in a form
        encoded = (urlencode({"": text})[1:] for text in (self._id, secret))
        return await _post(self._url, form, basic_header(*encoded), self._dial)


class _ServiceAccount(msgspec.Struct, frozen=True):
    """What a key file says that is needed."""

    client_email: str
    private_key: str
    token_uri: str
    private_key_id: str = ""


class ServiceAccount:
    """Asks for tokens with assertions that the key of a service account signs."""

    def __init__(self, file: SecretFile, scope: str, dial: Dial, clock: Clock) -> None:
        self._file = file
        self._scope = scope or GOOGLE_SCOPE
        self._dial = dial
        self._clock = clock

    async def ask(self) -> Token:
        """Get a token. Raises `LoginError`."""
        url, assertion = await asyncio.to_thread(self._assertion)
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
        answer = await _post(url, form, "", self._dial)
        if answer.status in _REFUSED and not self._clock.trusted():
            raise LoginError(
                N_("the clock of this box is wrong, so nobody gives it a token; it waits until that is set")
            )
        return _token(answer, url)

    def _assertion(self) -> tuple[str, str]:
        """Read the key and sign; return where to take it. Blocks."""
        import jwt  # noqa: PLC0415 - only for who uses it

        try:
            account = msgspec.json.decode(self._file.read(), type=_ServiceAccount)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise LoginError(
                N_("the service account's file is not a key file in JSON, as Google gives it out")
            ) from None
        if urlsplit(account.token_uri).scheme != "https":
            raise LoginError(N_("token_uri in the service account's file must begin with https"))
        now = int(self._clock.now())
        claims = {
            "iss": account.client_email,
            "scope": self._scope,
            "aud": account.token_uri,
            "iat": now,
            "exp": now + _JWT_SECONDS,
        }
        headers = {"kid": account.private_key_id} if account.private_key_id else None
        try:
            return account.token_uri, jwt.encode(claims, account.private_key, algorithm="RS256", headers=headers)
        except (jwt.PyJWTError, ValueError, TypeError):
            raise LoginError(N_("the service account's file holds no usable RSA key: have a new one made")) from None


class _Form:
    """A form as the body of a request."""

    content_type = "application/x-www-form-urlencoded"

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._data = urlencode(fields).encode()
        self.length = len(self._data)

    async def stream(self) -> AsyncGenerator[bytes]:
        """Give it in one piece."""
        yield self._data


async def _post(url: str, form: Mapping[str, str], authorization: str, dial: Dial) -> Answer:
    login = FileLogin(partial(str, authorization)) if authorization else NoLogin()
    client = Client(dial(url), login)
    try:
        return await client.post("", _Form(form), "application/json")
    except WebError as e:
        raise LoginError(
            say("no token from {host}: {error}", host=_host(url), error=_why(e)), _host(url), getattr(e, "why", None)
        ) from None
    finally:
        await client.close()


def _why(error: WebError) -> str:
    reason = getattr(error, "why", None)
    return f"{error} ({reason})" if reason else str(error)


class _Given(msgspec.Struct, frozen=True):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the name of a scheme
    expires_in: float | str | None = None


class _Error(msgspec.Struct, frozen=True):
    error: str = ""


def _token(answer: Answer, url: str) -> Token:
    """Read the answer (RFC 6749 5.1). Raises `LoginError`."""
    host = _host(url)
    if answer.status != _OK:
        text = say(
            "no token from {host}: it answered {status}", host=host, status=f"{answer.status}{_error(answer.body)}"
        )
        raise LoginError(text)
    try:
        given = msgspec.json.decode(answer.body, type=_Given)
        lifetime = _LIFETIME if given.expires_in is None else float(given.expires_in)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise LoginError(say("no token from {host}: its answer holds none", host=host)) from None
    if given.token_type.lower() != "bearer":
        raise LoginError(say("no token from {host}: it gives out none of the kind bearer", host=host))
    # in this order what is no number is the shortest
    return Token(as_word(given.access_token, host), max(1.0, min(lifetime, _LONGEST)))


def _error(body: bytes) -> str:
    """Quote the error code, which is one of a few words (RFC 6749 5.2), and nothing else."""
    try:
        code = msgspec.json.decode(body, type=_Error).error
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""
    return f" ({code})" if re.fullmatch(r"[a-z_]{1,40}", code) else ""


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2][:100]
