"""Findings about proofs that destinations owe for longer than a day: looked for in the store, every minute."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from edge.config import Config
from edge.findings import Journal
from edge.phrase import say, say_n
from edge.store import Reading, StoreError

_EVERY: Final = 60.0
_LATE: Final = 86_400.0


class ProofWatch:
    """``oldest`` tells for how many seconds a destination has owed its oldest proof; None: it owes none."""

    def __init__(
        self, config: Config, reading: Reading, oldest: Callable[[str], Awaitable[float | None]], journal: Journal
    ) -> None:
        self._asked = {d.name for d in config.destination if d.verify != "none"}
        self._reading = reading
        self._oldest = oldest
        self._journal = journal

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as e:
                self._journal.note("STORAGE_ERROR", "store", str(e))
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Look once. Raises `StoreError`."""
        for name in {name for name, _ in await self._reading.tallies() if name} | self._asked:
            age, component = await self._oldest(name), f"destination.{name}"
            if age is None or (age < _LATE and name in self._asked):
                self._journal.clear("PROOF_OVERDUE", component)
            elif name in self._asked:
                text = say_n(
                    "{name} accepted images more than a day ago and has not proven them yet.",
                    "{name} accepted images more than {n} days ago and has not proven them yet.",
                    int(age // _LATE),
                    name=name,
                )
                self._journal.state("PROOF_OVERDUE", component, text)
            else:
                text = say(
                    "{name} owes proof of images, and the configuration does not ask it for any: set its "
                    "verify again, or give them up with edge cancel.",
                    name=name,
                )
                self._journal.state("PROOF_OVERDUE", component, text)
