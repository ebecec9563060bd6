"""mosquitto as the broker, and a client that collects what is published.

Debian starts a broker of its own on port 1883 when the package is installed: nothing here uses that port.
"""

import os
import pwd
import signal
import ssl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.peers.certificates import Authority, Pair
from tests.peers.ports import LOOPBACK, free_port, require, wait_for
from tests.peers.program import Program, run

_TIMEOUT: Final = 15.0


class BrokerTls(NamedTuple):
    """The broker's certificate; `clients`: who must have signed a client's, None: none is asked for."""

    pair: Pair
    clients: Authority | None = None


class Mosquitto(Program):
    """mosquitto on a free port of the loopback, its files in `folder`, kept over `stop`, `kill` and `start`.

    `users`: name to password; without, anybody may come. `acl`: the text of an ACL file. Without `persistence` it
    forgets everything when it ends. `extra`: further lines of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        tls: BrokerTls | None = None,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        persistence: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        lines = [
            f"listener {self.port} {LOOPBACK}",
            f"allow_anonymous {'false' if users else 'true'}",
            # as root it would become somebody who may not read the folder
            f"user {pwd.getpwuid(os.geteuid()).pw_name}",
            f"persistence {'true' if persistence else 'false'}",
            f"persistence_location {folder}/",
            "log_dest stderr",
        ]
        if users:
            lines.append(f"password_file {_passwords(folder, users)}")
        if acl is not None:
            (folder / "acl").write_text(acl)
            (folder / "acl").chmod(0o600)
            lines.append(f"acl_file {folder / 'acl'}")
        if tls is not None:
            lines += [f"certfile {tls.pair.certificate}", f"keyfile {tls.pair.key}"]
            if tls.clients is not None:
                lines += [f"cafile {tls.clients.path}", "require_certificate true"]
        configuration = folder / "mosquitto.conf"
        configuration.write_text("\n".join([*lines, *extra, ""]))
        super().__init__(
            [require("mosquitto"), "-c", str(configuration)],
            ports=[self.port],
            log=folder / "mosquitto.log",
            environment=os.environ,
        )

    def freeze(self) -> None:
        """From here on it answers nothing, yet the kernel takes connections and bytes for it."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
        super().stop()


class Heard(NamedTuple):
    """One message, as it came."""

    topic: str
    payload: bytes
    retain: bool
    qos: int


class Subscriber:
    """A client that collects what is published under `topics`, from the moment the context is entered."""

    def __init__(
        self,
        port: int,
        *topics: str,
        username: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.heard: list[Heard] = []
        self._port = port
        self._topics = topics or ("#",)
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if username:
            self._client.username_pw_set(username, password)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect(LOOPBACK, self._port)
        self._client.loop_start()
        if not self._subscribed.wait(_TIMEOUT):
            self.__exit__()
            raise TimeoutError(f"no subscription to {self._topics} within {_TIMEOUT:g} s")
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, payload, qos, retain).wait_for_publish(_TIMEOUT)

    def payloads(self, topic: str) -> list[bytes]:
        """What came on `topic`, in order."""
        return [heard.payload for heard in list(self.heard) if heard.topic == topic]

    def wait(self, topic: str, payload: bytes, timeout: float = _TIMEOUT) -> None:
        """Wait until `payload` came on `topic`."""
        wait_for(lambda: payload in self.payloads(topic), timeout, f"{payload!r} on {topic}")

    def _on_connect(
        self, client: Client, _userdata: object, _flags: ConnectFlags, _code: ReasonCode, _p: Properties | None
    ) -> None:
        client.subscribe([(topic, 1) for topic in self._topics])

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.heard.append(Heard(message.topic, bytes(message.payload), message.retain, message.qos))


def _passwords(folder: Path, users: Mapping[str, str]) -> Path:
    path = folder / "passwords"
    path.touch(mode=0o600)
    for name, password in users.items():
        run([require("mosquitto_passwd"), "-b", str(path), name, password], environment=os.environ, timeout=_TIMEOUT)
    return path


def remaining_length(size: int) -> bytes:
    """The Remaining Length of a packet as it stands on the wire (MQTT 5, 2.1.4)."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)
