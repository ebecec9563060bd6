"""The way in: a password, or once the first-start code. One attempt is computed at a time, in a thread.

Whoever fails waits, by `edge.web.throttle`; more attempts than a few at once are turned away unread. Nothing that is
answered tells a wrong password from one that was not looked at.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Literal, TypeVar

import msgspec

from edge.clock import Clock
from edge.web.secret import PasswordError, Secrets, check
from edge.web.throttle import Throttle

T = TypeVar("T")

_WAITING: Final = 4
"""Attempts that may wait for their turn."""
_BUSY: Final = 2.0
"""Seconds after which to try again where more wait."""


class Attempt(msgspec.Struct, frozen=True):
    """How an attempt went; ``wait`` is seconds until the next may be made, where it was not looked at."""

    result: Literal["in", "wrong", "wait"]
    wait: float = 0.0


class Gate:
    """Lets people in."""

    def __init__(self, secrets: Secrets, clock: Clock) -> None:
        self._secrets = secrets
        self._throttle = Throttle(clock.monotonic)
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def log_in(self, address: str, password: str) -> Attempt:
        """Try ``password``. Raises OSError."""
        return await self._try(address, lambda: self._secrets.verify(password))

    async def first(self, address: str, code: str, password: str) -> Attempt:
        """Set the first password with the first-start code. Raises OSError, `PasswordError`."""
        check(password)

        def work() -> bool:
            if not self._secrets.is_code(code):
                return False
            self._secrets.set(password)
            return True

        return await self._try(address, work)

    async def is_set(self) -> bool:
        """Whether there is a password. Raises OSError."""
        return await asyncio.to_thread(self._secrets.is_set)

    async def stamp(self) -> str:
        """Return what changes with the password; where there is none, see that there is a code. Raises OSError."""

        def work() -> str:
            stamp = self._secrets.stamp()
            if not stamp:
                self._secrets.code()
            return stamp

        return await asyncio.to_thread(work)

    async def _try(self, address: str, work: Callable[[], bool]) -> Attempt:
        if self._waiting >= _WAITING:
            return Attempt("wait", _BUSY)
        self._waiting += 1
        try:
            async with self._turn:
                wait = self._throttle.wait(address)
                if wait > 0:
                    return Attempt("wait", wait)
                # an attempt whose asker is gone counts, so it is not cut
                right = await asyncio.shield(asyncio.ensure_future(self._count(address, work)))
        finally:
            self._waiting -= 1
        return Attempt("in" if right else "wrong")

    async def _count(self, address: str, work: Callable[[], bool]) -> bool:
        right = await asyncio.to_thread(work)
        if right:
            self._throttle.succeeded(address)
        else:
            self._throttle.failed(address)
        return right


__all__ = ["Attempt", "Gate", "PasswordError"]
