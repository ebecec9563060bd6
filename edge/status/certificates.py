"""The days that our own certificates have left: a finding a month ahead, an error once they ended.

Looked at every hour, and only by a clock that can be trusted: a box that believes it is 1970 says nothing of its
certificates. When the clock becomes right, whoever waited for that is told.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from edge.clock import Clock
from edge.findings import Journal
from edge.phrase import say, say_n
from edge.tls import Credentials, date

AHEAD: Final = 30 * 86_400.0
"""Seconds before the end of a certificate from which it is a finding."""
_EVERY: Final = 3600.0
_LOOK: Final = 10.0
"""Seconds between two looks at whether the clock can be trusted, and whether it is time."""
_CODES: Final = ("CERTIFICATE_EXPIRES", "CERTIFICATE_EXPIRED")


class CertificateWatch:
    """Watches the certificates of this box."""

    def __init__(
        self, credentials: Sequence[Credentials], journal: Journal, clock: Clock, clock_is_right: Callable[[], None]
    ) -> None:
        self._credentials = credentials
        self._journal = journal
        self._clock = clock
        self._clock_is_right = clock_is_right
        self._was_trusted = clock.trusted()
        self._judged_at: float | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK)

    def look(self) -> None:
        """Judge what is due."""
        trusted, now = self._clock.trusted(), self._clock.monotonic()
        if trusted and not self._was_trusted:
            self._judged_at = None
            self._clock_is_right()
        self._was_trusted = trusted
        if trusted and (self._judged_at is None or now - self._judged_at >= _EVERY):
            self._judged_at = now
            self._judge()

    def reload(self) -> None:
        """Read every file again, and say what cannot be used or ends soon."""
        for one in self._credentials:
            one.reload()
        self.say_troubles()
        self._judged_at = None
        self.look()

    def say_troubles(self) -> None:
        """Open a finding for each that cannot be used, and close the others'."""
        for one in self._credentials:
            if one.trouble:
                self._journal.state("CERTIFICATE_UNUSABLE", one.where, f"{one.trouble}.")
            else:
                self._journal.clear("CERTIFICATE_UNUSABLE", one.where)

    def _judge(self) -> None:
        now = self._clock.now()
        for one in self._credentials:
            code, detail = "", ""
            if (valid := one.validity) is not None:
                whose = f"{one.where}: {valid.name}"
                if now > valid.ends:
                    code, detail = (
                        "CERTIFICATE_EXPIRED",
                        say("{whose} ended on {day}.", whose=whose, day=date(valid.ends)),
                    )
                elif now < valid.begins:
                    code, detail = (
                        "CERTIFICATE_EXPIRED",
                        say("{whose} begins on {day} only.", whose=whose, day=date(valid.begins)),
                    )
                elif valid.ends - now < AHEAD:
                    days = int((valid.ends - now) // 86_400)
                    code = "CERTIFICATE_EXPIRES"
                    detail = say_n(
                        "{whose} ends on {day}, in 1 day.",
                        "{whose} ends on {day}, in {n} days.",
                        days,
                        whose=whose,
                        day=date(valid.ends),
                    )
            for other in _CODES:
                if other == code:
                    self._journal.state(code, one.where, detail)
                else:
                    self._journal.clear(other, one.where)
