"""The installed command as the test's subject: an appliance as a child process, found as a user finds it.

`Edge` writes a configuration, starts ``edge run``, and asks ``edge status`` and the other commands for the rest. What
it knows of the inside (the tally table) is read only where a command would be too slow to poll.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.program import Program

COMMAND: Final = str(Path(sys.executable).with_name("edge"))


def dimse(name: str, port: int, *, title: str = "PACS", **keys: object) -> str:
    """Write a [[destination]] of type dimse."""
    lines = [f'name = "{name}"', 'type = "dimse"', f'host = "{LOOPBACK}"', f"port = {port}", f'ae_title = "{title}"']
    lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["[[destination]]", *lines]) + "\n"


class Edge(Program):
    """One appliance below `folder`; `stop` is SIGTERM, `kill` is SIGKILL, and it may be started again."""

    def __init__(
        self,
        folder: Path,
        destinations: str = "",
        *,
        more: str = "",
        receive: str = "",
        store: str = "",
        dashboard: str = "enabled = false",
        environment: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        self.port = free_port()
        self.config = folder / "edge.toml"
        self._readies = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.configure(destinations, more=more, receive=receive, store=store, dashboard=dashboard)
        super().__init__(
            [*wrapper, COMMAND, "run", "--config", str(self.config)],
            ports=[self.port],
            log=folder / "edge.log",
            environment={**os.environ, **(environment or {})},
        )

    def configure(
        self,
        destinations: str = "",
        *,
        more: str = "",
        receive: str = "",
        store: str = "",
        dashboard: str = "enabled = false",
    ) -> None:
        """Write the configuration, for the next start; `receive`, `store`, `dashboard` are lines of their sections."""
        self.config.write_text(
            f'[device]\nname = "test"\n[storage]\npath = "{self.storage}"\nreserve = "1MiB"\n{store}\n'
            f'[receive]\naddress = "{LOOPBACK}"\nport = {self.port}\n{receive}\n'
            f"[dashboard]\n{dashboard}\n{destinations}\n{more}"
        )

    def start(self) -> None:
        self._readies = self.output().count("event=ready")
        super().start()

    def ready(self) -> bool:
        return self.output().count("event=ready") > self._readies

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``edge ARGUMENTS --config …`` to its end."""
        return subprocess.run(
            [COMMAND, *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with --json and parse what it prints."""
        return json.loads(self.command(*arguments, "--json").stdout)

    def tally(self, destination: str) -> dict[str, int]:
        """Deliveries to `destination` by state, straight from the store."""
        path = self.storage / "db" / "edge.sqlite"
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                rows = connection.execute(
                    "SELECT state, instances FROM tally WHERE destination = ? AND instances > 0", (destination,)
                )
                return dict(rows.fetchall())
        except sqlite3.OperationalError:  # it is not there, or is being put there
            return {}

    def wait_settled(self, destination: str, expected: dict[str, int], timeout: float = 60.0) -> None:
        """Wait until the deliveries to `destination` are exactly `expected`, by state."""
        wait_for(lambda: self.tally(destination) == expected, timeout, f"{destination} at {expected}")

    def spooled(self) -> list[Path]:
        """Every published file."""
        return sorted((self.storage / "spool" / "ready").glob("*/*.dcm"))

    def parts(self) -> list[Path]:
        """Every part still in incoming/."""
        return sorted((self.storage / "spool" / "incoming").glob("*.part"))

    def erase(self) -> None:
        """Throw the storage away."""
        shutil.rmtree(self.storage, ignore_errors=True)
