"""What stands retained at the broker, kept true over one connection: state, birth, health, alerts; and metrics.

Everything is published anew at the start of a connection, for a broker may have forgotten it all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from edge.clock import Clock, iso
from edge.findings import CODES
from edge.messages import (
    Alert,
    Birth,
    Health,
    Metrics,
    Payload,
    State,
    Topics,
    UpdateReport,
    encode,
)
from edge.mqtt import Session
from edge.snapshot import Snapshot
from edge.telemetry.health import alerts, health, same
from edge.telemetry.metrics import values

LEASE: Final = 180
"""Seconds for which a state may be believed."""
_LOOK: Final = 1.0
_HEALTH: Final = 300.0
_METRICS: Final = 60.0
"""Seconds between two of each, where nothing changes."""


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """This connection of this box."""

    session: int
    boot_id: str


def state(who: Who, word: str, clock: Clock) -> State:
    """Say ``online``, ``offline`` or, in a will, ``lost``."""
    return State(
        state="online" if word == "online" else "offline" if word == "offline" else "lost",
        session=who.session,
        boot_id=who.boot_id,
        lease_s=LEASE,
        ts=iso(clock.now()),
    )


class Reporter:
    """Reports over one connection."""

    def __init__(
        self,
        session: Session,
        topics: Topics,
        who: Who,
        clock: Clock,
        *,
        snapshot: Callable[[], Awaitable[Snapshot]],
        birth: Callable[[], Awaitable[Birth]],
    ) -> None:
        self._session = session
        self._topics = topics
        self._who = who
        self._clock = clock
        self._snapshot = snapshot
        self._birth = birth
        self._health: Health | None = None
        self._alerts: dict[str, Alert] = {}
        self._due = {"state": 0.0, "health": 0.0, "metrics": 0.0}
        self._number = 0
        self._reborn = asyncio.Event()

    async def begin(self) -> None:
        """Publish everything that is retained. Raises `LostError`, `StoreError`."""
        await self._retain(self._topics.state, state(self._who, "online", self._clock))
        await self._retain(self._topics.birth, await self._birth())
        await self._retain(
            self._topics.update, UpdateReport(phase="unsupported", from_="", to="", slot="", ts=iso(self._clock.now()))
        )
        self._due = dict.fromkeys(self._due, self._clock.monotonic())
        self._due["state"] += LEASE / 3
        snapshot = await self._snapshot()
        await self._tell_health(snapshot, anew=True)
        await self._tell_alerts(snapshot, anew=True)

    async def run(self) -> None:
        """Keep it true until cancelled. Raises `LostError`, `StoreError`."""
        while True:
            if self._reborn.is_set():
                self._reborn.clear()
                await self.begin()
            now = self._clock.monotonic()
            snapshot = await self._snapshot()
            await self._tell_health(snapshot, anew=now >= self._due["health"])
            await self._tell_alerts(snapshot, anew=False)
            if now >= self._due["metrics"]:
                self._due["metrics"] = now + _METRICS
                await self._tell_metrics(snapshot)
            if now >= self._due["state"]:
                self._due["state"] = now + LEASE / 3
                await self._retain(self._topics.state, state(self._who, "online", self._clock))
            await asyncio.sleep(_LOOK)

    def rebirth(self) -> None:
        """Publish everything again, soon."""
        self._reborn.set()

    async def _tell_health(self, snapshot: Snapshot, *, anew: bool) -> None:
        now = health(snapshot, self._health.components if self._health else {})
        if anew or self._health is None or not same(now, self._health):
            self._health = now
            self._due["health"] = self._clock.monotonic() + _HEALTH
            await self._retain(self._topics.health, now)

    async def _tell_alerts(self, snapshot: Snapshot, *, anew: bool) -> None:
        now = alerts(snapshot.findings, snapshot.taken_at)
        # anew: also what an earlier connection left there
        gone = [code for code in (CODES if anew else self._alerts) if code not in now]
        told = {
            code: alert
            for code, alert in now.items()
            if anew or code not in self._alerts or not _alike(alert, self._alerts[code])
        }
        self._alerts = {code: alert for code, alert in {**self._alerts, **told}.items() if code in now}
        await asyncio.gather(
            *(self._session.publish(self._topics.alert(code), b"", qos=1, retain=True) for code in gone),
            *(self._retain(self._topics.alert(code), alert) for code, alert in told.items()),
        )

    async def _tell_metrics(self, snapshot: Snapshot) -> None:
        self._number += 1
        payload = Metrics(session=self._who.session, seq=self._number, ts=snapshot.taken_at, m=values(snapshot))
        await self._session.publish(self._topics.metrics, encode(payload), qos=0, retain=False)

    async def _retain(self, topic: str, payload: Payload) -> None:
        await self._session.publish(topic, encode(payload), qos=1, retain=True)


def _alike(a: Alert, b: Alert) -> bool:
    """Whether two alerts say the same; one more of a kind is news at each doubling only."""
    grown = a.count >= 2 * b.count
    return not grown and msgspec.structs.replace(a, ts=b.ts, count=b.count, since=b.since) == b
