"""The appliance as a peer: `edge run` on a storage folder of its own."""

import asyncio
import os
import sqlite3
import sys
from pathlib import Path
from typing import Final

from edge.local import Request, ask
from edge.store import Choice
from tests.peers.ports import LOOPBACK, free_port
from tests.peers.program import Program

DESTINATION: Final = "pacs"
_EDGE: Final = Path(sys.executable).with_name("edge")


class Edge(Program):
    """Receives from anyone; delivers to `pacs` on the loopback where a port is given, else nowhere.

    `more`: further lines of its configuration.
    """

    def __init__(self, folder: Path, *, pacs: int | None = None, associations: int = 1, more: str = "") -> None:
        folder.mkdir(parents=True)
        self.storage = folder / "storage"
        self.port = free_port()
        config = folder / "edge.toml"
        text = (
            f'[storage]\npath = "{self.storage}"\n'
            f'[receive]\naccept = "any"\naddress = "{LOOPBACK}"\nport = {self.port}\n'
            f"[dashboard]\nport = {free_port()}\n"
        )
        if pacs is not None:
            text += (
                f'[[destination]]\nname = "{DESTINATION}"\ntype = "dimse"\nhost = "{LOOPBACK}"\nport = {pacs}\n'
                f'ae_title = "PACS"\nassociations = {associations}\n'
            )
        config.write_text(text + more, encoding="utf-8")
        super().__init__(
            [str(_EDGE), "run", "--config", str(config)],
            ports=[self.port],
            log=folder / "edge.log",
            environment=os.environ,
        )

    def retry(self) -> None:
        """Do what `edge retry` does, without the time that a command takes to start."""
        asyncio.run(ask(self.storage, Request(command="retry", choice=Choice(destination=DESTINATION))))

    def tally(self) -> "Tally":
        """Open the counters of the deliveries, to read."""
        return Tally(self.storage)


class Tally:
    """Kept counters of the store, read beside the running appliance."""

    def __init__(self, storage: Path) -> None:
        (path,) = (storage / "db").glob("*.sqlite")
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def all(self) -> int:
        """Count the deliveries, whatever became of them."""
        return self._count("SELECT coalesce(sum(instances), 0) FROM tally WHERE destination = ?")

    def accepted(self) -> int:
        """Count the deliveries that the destination has accepted."""
        return self._count("SELECT coalesce(sum(instances), 0) FROM tally WHERE destination = ? AND state = 'accepted'")

    def _count(self, query: str) -> int:
        (count,) = self._connection.execute(query, (DESTINATION,)).fetchone()
        return int(count)
