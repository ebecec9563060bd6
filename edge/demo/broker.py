"""The demonstration's MQTT broker: mosquitto where it is installed, else one in Python from the extra ``broker``.

    python -m edge.demo.broker PORT

runs the latter until SIGTERM. Without either the demonstration goes on without a broker, and says so.
"""

import asyncio
import contextlib
import importlib
import os
import pwd
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edge.demo.peers import LOOPBACK, until

_ALSO_IN: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
"""Debian keeps mosquitto where only root looks."""
_START: Final = 10.0
_MISSING: Final = "no broker: install mosquitto, or pip install 'dicom-edge[broker]', to watch over MQTT too"


class DemoBroker:
    """A broker of its own for one demonstration, on the loopback, for anybody."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def there(self) -> bool:
        """Whether there is one."""
        return self._process is not None

    async def start(self) -> str:
        """Start it; a sentence that says how to watch, or why there is nothing to watch."""
        command = self._command()
        if command is None:
            return _MISSING
        with (self._folder / "broker.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if not await until(self._answers, _START):
            await self.stop()
            return f"no broker: {command[0]} did not start; see {self._folder / 'broker.log'}"
        return f"mosquitto_sub -h {LOOPBACK} -p {self.port} -t 'dicom-edge/#' -v"

    async def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()

    def _command(self) -> list[str] | None:
        mosquitto = shutil.which("mosquitto", path=_ALSO_IN)
        if mosquitto is not None:
            config = self._folder / "mosquitto.conf"
            user = pwd.getpwuid(os.geteuid()).pw_name
            config.write_text(f"listener {self.port} {LOOPBACK}\nallow_anonymous true\nuser {user}\n", "utf-8")
            return [mosquitto, "-c", str(config)]
        if find_spec("amqtt") is not None:
            return [sys.executable, "-m", "edge.demo.broker", str(self.port)]
        return None

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True


async def _serve(port: int) -> None:
    """Run the broker in Python until SIGTERM."""
    plugin = "amqtt.plugins.authentication.AnonymousAuthPlugin"
    broker = importlib.import_module("amqtt.broker").Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{LOOPBACK}:{port}"}},
            "plugins": {plugin: {"allow_anonymous": True}},
        }
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await broker.start()
    await ended.wait()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
