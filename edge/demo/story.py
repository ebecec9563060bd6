"""The story told: an outage from beginning to end, with the numbers that prove it.

The appliance is a process of its own, started, asked and killed as any other would be; modality and PACS live here.
"""

import asyncio
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edge.clock import SystemClock
from edge.demo.broker import DemoBroker
from edge.demo.peers import LOOPBACK, Pacs, send_study, until
from edge.demo.phantom import Image, study
from edge.findings import Journal
from edge.local import NotRunningError, Request, ask
from edge.snapshot import Snapshot
from edge.store import StoreError
from edge.supervise import Supervisor

_CONFIG: Final = """[device]
name = "Demonstration"
[storage]
path = "{storage}"
reserve = "64MiB"
[receive]
address = "127.0.0.1"
port = {port}
[dashboard]
port = {dashboard}
[[destination]]
name = "pacs"
type = "dimse"
host = "127.0.0.1"
port = {pacs}
ae_title = "PACS"
associations = 4
verify = "commitment"
timeouts = {{ connect = "3s", response = "10s" }}
"""
_MQTT: Final = """[mqtt]
url = "mqtt://127.0.0.1:{broker}"
acknowledged = false
"""
_START: Final = 20.0
_DRAIN: Final = 90.0


class DemoError(Exception):
    """The demonstration could not be shown."""


class Stage:
    """The three actors and what was promised."""

    def __init__(self, folder: Path, console: Console) -> None:
        clock = SystemClock()
        self.console = console
        self.pacs = Pacs(Supervisor(Journal(clock), clock))
        self.promised: Counter[bytes] = Counter()
        self.statuses: Counter[int] = Counter()
        self.port = 0
        self._storage = folder / "storage"
        self._config = folder / "edge.toml"
        self._log = folder / "edge.log"
        self._folder = folder
        self._broker: DemoBroker | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        """Switch everything on."""
        await self.pacs.start()
        self.port = self.pacs.reports_to = await _free_port()
        broker = self._broker = DemoBroker(self._folder, await _free_port())
        watching = await broker.start()
        dashboard = await _free_port()
        text = _CONFIG.format(storage=self._storage, port=self.port, dashboard=dashboard, pacs=self.pacs.port)
        text += _MQTT.format(broker=broker.port) * broker.there
        self._config.write_text(text, "utf-8")
        await self.start_appliance()
        self.console.print(f"appliance  AE title EDGE on {LOOPBACK} port {self.port}")
        self.console.print(f"PACS       AE title PACS on {LOOPBACK} port {self.pacs.port}")
        self.console.print(f"dashboard  http://{LOOPBACK}:{dashboard}/")
        self.console.print(f"to look:   edge status --config {self._config}", style="dim", soft_wrap=True)
        self.console.print(f"to watch:  {watching}", style="dim", soft_wrap=True)

    async def start_appliance(self) -> None:
        """Start the appliance's process and wait until it serves."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "edge",
                "run",
                "--config",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if not await until(self._serves, _START):
            raise DemoError(f"The appliance did not start:\n{self._log.read_text('utf-8', 'replace')[-2000:]}")

    async def kill_appliance(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        """Switch everything off."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()
        if self._broker is not None:
            await self._broker.stop()
        await self.pacs.stop()

    async def scan(self, images: int, number: int) -> None:
        """Let the modality make a study and send it."""
        made: list[Image] = []
        with self._progress("modality sends") as progress:
            task = progress.add_task("modality sends", total=images)

            def slices() -> Any:
                for image in study(images, number):
                    made.append(image)
                    yield image
                    progress.advance(task)

            statuses = await send_study(self.port, slices())
        self.statuses += statuses
        self.promised.update(image.digest for image in made)
        told = ", ".join(f"{code:04X} x {n}" for code, n in sorted(statuses.items()))
        self.console.print(f"  the modality was answered: {told}")

    async def snapshot(self) -> Snapshot:
        """Ask the appliance how it is."""
        return msgspec.convert(await ask(self._storage, Request(command="status")), Snapshot)

    async def notice(self) -> None:
        """Wait until the appliance has found out that the PACS is gone, which only a try tells it."""

        async def noticed() -> bool:
            return (await self.snapshot()).destinations[0].state == "down"

        await until(noticed, _START)

    async def tell(self) -> None:
        """Print what the appliance says of itself."""
        s = await self.snapshot()
        d = s.destinations[0]
        self.console.print(
            f"  appliance: [bold]{s.light.code} {s.light.color}[/]: {s.light.text} "
            f"pacs {d.state}, {s.queue.instances} waiting, {d.accepted} accepted, {d.verified} verified",
            soft_wrap=not self.console.is_terminal,
        )

    async def drain(self) -> bool:
        """Wait until nothing is owed any more."""
        total = self.promised.total()
        with self._progress("PACS receives") as progress:
            task = progress.add_task("PACS receives", total=total)

            async def empty() -> bool:
                progress.update(task, completed=self.arrived())
                return (await self.snapshot()).queue.instances == 0

            return await until(empty, _DRAIN)

    async def prove(self) -> bool:
        """Wait until the PACS has committed to keep everything that was promised."""
        total = self.promised.total()
        with self._progress("PACS commits") as progress:
            task = progress.add_task("PACS commits", total=total)

            async def proven() -> bool:
                verified = (await self.snapshot()).destinations[0].verified
                progress.update(task, completed=verified)
                return verified == total

            return await until(proven, _DRAIN)

    def arrived(self) -> int:
        """How many of the promised images the PACS has, by digest."""
        return sum(1 for digest in self.promised if self.pacs.received[digest])

    def _progress(self, what: str) -> Progress:
        columns = (TextColumn(f"  {what:15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console)

    async def _serves(self) -> bool:
        if self._process is not None and self._process.returncode is not None:
            return False
        try:
            await self.snapshot()
        except (NotRunningError, StoreError):
            return False
        return True


async def once(images: int, console: Console) -> bool:
    """Show one outage to its end; whether every image arrived, each once."""
    with tempfile.TemporaryDirectory(prefix="edge-demo-") as folder:
        stage = Stage(Path(folder), console)
        try:
            await stage.open()
            console.rule("1. all is well")
            await stage.scan(max(1, images // 10), 1)
            await stage.drain()
            await stage.tell()
            console.rule("2. the PACS is gone; the scanner goes on")
            await stage.pacs.stop()
            await stage.scan(images, 2)
            await stage.notice()
            await stage.tell()
            console.rule("3. the appliance is killed, and started again")
            await stage.kill_appliance()
            await stage.start_appliance()
            await stage.notice()
            await stage.tell()
            console.rule("4. the PACS is back")
            await stage.pacs.start()
            proven = await stage.drain() and await stage.prove()
            await stage.tell()
            return _report(stage, await stage.snapshot(), proven=proven)
        finally:
            await stage.close()


def _report(stage: Stage, snapshot: Snapshot, *, proven: bool) -> bool:
    """Print the numbers; whether they are as promised."""
    console, promised = stage.console, stage.promised.total()
    arrived = stage.arrived()
    again = sum(n - 1 for digest, n in stage.pacs.received.items() if digest in stage.promised)
    strange = sum(1 for digest in stage.pacs.received if digest not in stage.promised)
    console.rule("what became of it")
    console.print(f"received   {promised:6} images, each answered 0000: {stage.statuses == Counter({0: promised})}")
    console.print(
        f"delivered  {arrived:6} by SHA-256 at the PACS, {again} of them more than once, {strange} not as sent",
        soft_wrap=not console.is_terminal,
    )
    console.print(f"verified   {snapshot.destinations[0].verified:6} by storage commitment")
    good = proven and arrived == promised and not strange and stage.statuses == Counter({0: promised})
    console.print("[bold green]nothing was lost[/]" if good else "[bold red]NOT everything arrived[/]")
    return good


async def forever(images: int, console: Console) -> None:
    """Go on until Ctrl-C: a study, an outage, a study, for as long as somebody watches."""
    with tempfile.TemporaryDirectory(prefix="edge-demo-") as folder:
        stage = Stage(Path(folder), console)
        try:
            await stage.open()
            console.print("Ctrl-C ends it.", style="dim")
            number = 0
            while True:
                number += 1
                console.rule(f"study {number}: the PACS is {'up' if stage.pacs.up else 'gone'}")
                await stage.scan(images, number)
                if not stage.pacs.up:
                    await stage.notice()
                await stage.tell()
                if stage.pacs.up:
                    await stage.drain()
                    await stage.tell()
                    await stage.pacs.stop()
                else:
                    await asyncio.sleep(5)
                    console.print("  the PACS is back")
                    await stage.pacs.start()
                    await stage.drain()
                    await stage.tell()
                await asyncio.sleep(3)
        finally:
            await stage.close()


async def _free_port() -> int:
    server = await asyncio.start_server(lambda _r, _w: None, LOOPBACK, 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
