"""Who is logged in: random names that browsers keep in a cookie, in memory only, so a restart logs everybody out."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

IDLE: Final = 30 * 60.0
"""Seconds without a request after which a session ends."""
LONGEST: Final = 12 * 3600.0
"""Seconds after its login at which it ends."""
MOST: Final = 64
"""Sessions at once; the one unused longest gives way."""
_BYTES: Final = 32


@dataclass(slots=True)
class Session:
    """One login. ``token`` proves that a form was ours."""

    id: str
    token: str
    began: float
    seen: float
    said: str = ""
    """What the next page is to say: what came of a form."""


class Sessions:
    """The sessions by id; ``now`` is monotonic."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._open: dict[str, Session] = {}

    def begin(self) -> Session:
        """Open a session with a name that nobody had before."""
        self._sweep()
        while len(self._open) >= MOST:
            del self._open[min(self._open.values(), key=lambda session: session.seen).id]
        now = self._now()
        session = Session(secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES), now, now)
        self._open[session.id] = session
        return session

    def find(self, name: str, *, touch: bool = True) -> Session | None:
        """Return the live session ``name``; without ``touch`` it goes on to idle."""
        session = self._open.get(name)
        if session is None:
            return None
        now = self._now()
        if now - session.seen >= IDLE or now - session.began >= LONGEST:
            del self._open[name]
            return None
        if touch:
            session.seen = now
        return session

    def end(self, name: str) -> None:
        """Log out."""
        self._open.pop(name, None)

    def end_all(self) -> None:
        """Log everybody out: the password is another."""
        self._open.clear()

    def __len__(self) -> int:
        return len(self._open)

    def _sweep(self) -> None:
        for name in list(self._open):
            self.find(name, touch=False)
