"""Logging in: what stands in the Authorization header of a request, by each kind of login that is configured.

A secret is read from its file when it is needed and goes nowhere but into that header, or to the server that gives out
tokens; `edge.dicomweb.client` sends the header to no other host than the destination's.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from edge.clock import Clock
from edge.dicomweb.errors import LoginError
from edge.dicomweb.secret import SecretFile

_AHEAD: Final = 60.0
"""Seconds before its end at which a token is replaced, or a quarter of its life where that is less."""
_AGAIN: Final = 10.0
"""Seconds after which a new token is asked for again while the old one still holds."""


class Login(Protocol):
    """One way to log in."""

    async def header(self) -> str:
        """Return the value for Authorization; empty for none. Raises `LoginError`, or `WebError` from who gives it."""
        ...

    async def renew(self, refused: str) -> bool:
        """Say whether there is another value than ``refused``, which the server answered 401. Raises as `header`."""
        ...


class NoLogin:
    """Nothing to say: anybody may come, or the certificate says who we are."""

    async def header(self) -> str:
        """Return nothing."""
        return ""

    async def renew(self, refused: str) -> bool:
        """There is no other."""
        del refused
        return False


class FileLogin:
    """A secret that somebody else keeps current in its file."""

    def __init__(self, make: Callable[[], str]) -> None:
        """``make`` reads the file and gives the header; it blocks and raises `LoginError`."""
        self._make = make

    async def header(self) -> str:
        """Return what the file says now."""
        return await asyncio.to_thread(self._make)

    async def renew(self, refused: str) -> bool:
        """Look whether the file has changed."""
        return await self.header() != refused


def basic(username: str, password: SecretFile) -> FileLogin:
    """Log in by name and password (RFC 7617)."""
    return FileLogin(lambda: basic_header(username, password.line()))


def bearer(token: SecretFile) -> FileLogin:
    """Log in by a token that lies in a file (RFC 6750)."""
    return FileLogin(lambda: f"Bearer {token.word()}")


def basic_header(username: str, password: str) -> str:
    """Write name and password as the scheme wants them."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


class Token(msgspec.Struct, frozen=True):
    """A token, and for how many seconds it is good."""

    value: str
    lifetime: float


class TokenLogin:
    """Tokens that a server gives out, each replaced ahead of its end; one is asked for at a time."""

    def __init__(self, ask: Callable[[], Awaitable[Token]], clock: Clock) -> None:
        """``ask`` raises `WebError`."""
        self._ask = ask
        self._clock = clock
        self._lock = asyncio.Lock()
        self._value = ""
        self._renew_at = self._ends_at = 0.0

    async def header(self) -> str:
        """Return the token in force."""
        async with self._lock:
            if not self._value or self._clock.monotonic() >= self._renew_at:
                await self._replace()
            return f"Bearer {self._value}"

    async def renew(self, refused: str) -> bool:
        """Throw the token away if it is the one that was refused, and get another."""
        async with self._lock:
            if refused == f"Bearer {self._value}":
                self._value = ""
        return await self.header() != refused

    async def _replace(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            token = await self._ask()
        except LoginError:
            now = self._clock.monotonic()
            if not self._value or now >= self._ends_at:
                raise
            self._renew_at = now + _AGAIN
            return
        self._value = token.value
        self._ends_at = asked_at + token.lifetime
        self._renew_at = self._ends_at - min(_AHEAD, token.lifetime / 4)
