"""Counts that are remembered, against counts made anew, whatever happens to studies in whatever order."""

import random
from pathlib import Path
from typing import Any

import pytest

from edge.routing import Leg
from edge.states import DeliveryState
from edge.store import Choice
from edge.store.counting import Counted, count
from tests.stored import EXPLICIT, JPEG, Stored, instance, leg
from tests.studying import commit, verify

S = DeliveryState
UIDS = range(1, 7)
ROUTES: tuple[list[Leg], ...] = ([leg()], [leg(), leg("cloud", proof=False)], [])
OUTCOMES = (S.ACCEPTED, S.ACCEPTED, S.HELD, S.DECLINED, S.QUEUED)


class Chance:
    """What happens to a store, by the throw of dice."""

    def __init__(self, stored: Stored, seed: int) -> None:
        self._stored = stored
        self._dice = random.Random(seed)
        self._last = 0
        self._requests = 0
        often = (self.receive, self.settle)
        self._acts = [*often, *often, self.verify, self.decide, self.lose, self.find, self.quarantine]
        self._acts += [self.commit, self.expire, stored.restart, self.claim]

    async def act(self) -> str:
        """Do one thing; its name."""
        chosen = self._dice.choice(self._acts)
        await chosen()
        return chosen.__name__

    async def receive(self) -> None:
        """Few UIDs: they come again, in other bytes, in another transfer syntax, and in another study."""
        self._last += 1
        one = instance(
            self._last,
            uid=f"1.2.3.{self._dice.choice(UIDS)}",
            content=self._dice.randrange(1, 4),
            syntax=self._dice.choice((EXPLICIT, JPEG)),
            study=self._dice.choice(("1.7", "1.8", "1.9", "")),
        )
        await self._stored.receive(one, to=self._dice.choice(ROUTES))

    async def settle(self) -> None:
        await self._stored.settle(self._dice.choice(OUTCOMES), destination=self._dice.choice(("pacs", "cloud")))

    async def verify(self) -> None:
        await verify(self._stored, self._some())

    async def decide(self) -> None:
        verb = self._dice.choice(("release", "hold", "cancel", "resend"))
        chosen = Choice(destination=self._dice.choice(("", "pacs")), study=self._dice.randrange(1, 4))
        await self._stored.store.decide(verb, chosen, who="test")

    async def lose(self) -> None:
        await self._stored.store.lose(self._some()[:2])

    async def find(self) -> None:
        await self._stored.store.find(self._some())

    async def quarantine(self) -> None:
        for number in self._some()[:1]:
            await self._stored.store.quarantine(number, "damaged")

    async def commit(self) -> None:
        self._requests += 1
        named = self._dice.sample(UIDS, self._dice.randrange(1, len(UIDS)))
        await commit(self._stored, named, uid=f"2.25.{self._requests}")

    async def expire(self) -> None:
        await self._stored.store.expire(self._some()[:2], "full")

    async def claim(self) -> None:
        await self._stored.store.claim("pacs", 1)

    def _some(self) -> list[int]:
        return [number for number in range(1, self._last + 1) if self._dice.random() < 0.3]


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_remembered_stays_right_whatever_happens_in_whatever_order(tmp_path: Path, seed: int) -> None:
    counted = Counted()

    def differ(raw: Any) -> list[int]:
        counted.learn(raw)
        studies = raw.execute("SELECT id, latest FROM study WHERE latest IS NOT NULL").fetchall()
        return [study for study, latest in studies if counted.count(raw, study, latest) != count(raw, study, latest)]

    async with Stored(tmp_path) as stored:
        chance = Chance(stored, seed)
        for _ in range(120):
            what = await chance.act()
            assert (what, await stored.store.reading.run(differ)) == (what, [])
