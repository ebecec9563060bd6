"""What stands retained at the broker, kept true over one connection: state, birth, health, alerts; and metrics.

Everything is published anew at the start of a connection, for a broker may have forgotten it all. A database that
cannot be read ends no connection: then that is told, and what is known without it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

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
from edge.snapshot import FindingStatus, Snapshot
from edge.store import StoreError
from edge.telemetry.health import alerts, blind, health, same
from edge.telemetry.metrics import values

log = structlog.get_logger()

LEASE: Final = 180
"""Seconds for which a state may be believed."""
_LOOK: Final = 1.0
_HEALTH: Final = 300.0
_METRICS: Final = 60.0
"""Seconds between two of each, where nothing changes."""
_POWER: Final = 10.0
"""Seconds between two looks at the power."""
_REFUSED: Final = 0x80
"""Reason codes from here on say that a message was not taken."""


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
        findings: Callable[[], Sequence[FindingStatus]],
        power: Callable[[], Awaitable[bool | None]],
        before: Health | None = None,
        introduce: Callable[[], Awaitable[None]],
        update: Callable[[], UpdateReport] | None = None,
    ) -> None:
        """``findings`` tells of those that are open, without the database; ``power`` whether the voltage was enough.

        ``before`` is the health that the connection before told last. ``introduce`` publishes what else is retained.
        ``update`` tells of updates; None: there are none here.
        """
        self._update = update
        self._updated: UpdateReport | None = None
        self._session = session
        self._topics = topics
        self._who = who
        self._clock = clock
        self._snapshot = snapshot
        self._birth = birth
        self._findings = findings
        self._power = power
        self._introduce = introduce
        self.health = before
        """What was told last."""
        self._good_power: bool | None = None
        self._refused: set[str] = set()
        self._alerts: dict[str, Alert] = {}
        self._due = {"state": 0.0, "health": 0.0, "metrics": 0.0, "power": 0.0}
        self._number = 0
        self._reborn = asyncio.Event()

    async def begin(self) -> None:
        """Publish everything that is retained. Raises `LostError`; gives up a broker that does not take the state."""
        self._session.insist(await self._retain(self._topics.state, state(self._who, "online", self._clock)))
        await self._retain(self._topics.birth, await self._birth())
        await self._tell_update(anew=True)
        self._due = dict.fromkeys(self._due, self._clock.monotonic())
        self._due["state"] += LEASE / 3
        snapshot = await self._see()
        await self._tell_health(snapshot, anew=True)
        await self._tell_alerts(anew=True)
        await self._introduce()

    async def run(self) -> None:
        """Keep it true until cancelled. Raises `LostError`."""
        while True:
            if self._reborn.is_set():
                self._reborn.clear()
                await self.begin()
            now = self._clock.monotonic()
            snapshot = await self._see()
            await self._tell_health(snapshot, anew=now >= self._due["health"])
            await self._tell_alerts(anew=False)
            await self._tell_update(anew=False)
            if now >= self._due["metrics"] and snapshot is not None:
                self._due["metrics"] = now + _METRICS
                await self._tell_metrics(snapshot)
            if now >= self._due["state"]:
                self._due["state"] = now + LEASE / 3
                await self._retain(self._topics.state, state(self._who, "online", self._clock))
            await asyncio.sleep(_LOOK)

    def rebirth(self) -> None:
        """Publish everything again, soon."""
        self._reborn.set()

    async def _see(self) -> Snapshot | None:
        """Look at the box; None where the database cannot be read."""
        now = self._clock.monotonic()
        if now >= self._due["power"]:
            self._due["power"] = now + _POWER
            self._good_power = await self._power()
        try:
            return await self._snapshot()
        except StoreError:
            return None

    async def _tell_health(self, snapshot: Snapshot | None, *, anew: bool) -> None:
        before = self.health.components if self.health else {}
        if snapshot is not None:
            now = health(snapshot, before, power=self._good_power, image=self._update is not None)
        else:
            now = blind(self._findings(), before, iso(self._clock.now()))
        if anew or self.health is None or not same(now, self.health):
            self.health = now
            self._due["health"] = self._clock.monotonic() + _HEALTH
            await self._retain(self._topics.health, now)

    async def _tell_alerts(self, *, anew: bool) -> None:
        now = alerts(self._findings(), iso(self._clock.now()))
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

    async def _tell_update(self, *, anew: bool) -> None:
        if self._update is not None:
            now = self._update()
        else:
            now = UpdateReport(phase="unsupported", from_="", to="", slot="", ts=iso(self._clock.now()))
        before = self._updated
        if anew or before is None or msgspec.structs.replace(now, ts=before.ts) != before:
            self._updated = now
            await self._retain(self._topics.update, now)

    async def _tell_metrics(self, snapshot: Snapshot) -> None:
        self._number += 1
        payload = Metrics(session=self._who.session, seq=self._number, ts=snapshot.taken_at, m=values(snapshot))
        await self._session.publish(self._topics.metrics, encode(payload), qos=0, retain=False)

    async def _retain(self, topic: str, payload: Payload) -> int:
        code = await self._session.publish(topic, encode(payload), qos=1, retain=True)
        if code >= _REFUSED and topic not in self._refused:
            self._refused.add(topic)
            log.warning("the broker does not take what is told", topic=topic, reason=f"0x{code:02X}")
        return code


def _alike(a: Alert, b: Alert) -> bool:
    """Whether two alerts say the same; one more of a kind is news at each doubling only."""
    grown = a.count >= 2 * b.count
    return not grown and msgspec.structs.replace(a, ts=b.ts, count=b.count, since=b.since) == b
