"""What a connection needs to know, from the configuration; and how patient it is.

Files are read at each connect, so that a renewed certificate or a changed password needs no restart.
"""

import math
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from edge.config import Mqtt
from edge.mqtt.problem import Problem, UnreachableError
from edge.phrase import say
from edge.tls import Credentials, broker_credentials

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_MOST_PASSWORD: Final = 65_535
"""Bytes; the length has 16 bits."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One broker, and who we are to it. The password is not in here, only where it is."""

    host: str
    port: int
    client_id: str
    tls: Credentials | None = None
    username: str = ""
    password_file: Path | None = None
    keep_alive: int = 60
    """Seconds."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"

    @property
    def where(self) -> str:
        """How people call the broker."""
        return f"{self.host} port {self.port}"

    def password(self) -> str | None:
        """Read the password, without the end of its line; None where there is none. Raises `UnreachableError`."""
        if self.password_file is None:
            return None
        try:
            with self.password_file.open("rb") as file:
                raw = file.read(_MOST_PASSWORD)
            return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as e:
            text = say(
                "mqtt.password_file: {path} cannot be read ({error}): it must be a file that edge may read.",
                path=self.password_file,
                error=e.strerror or e,
            )
        except UnicodeDecodeError:
            text = say(
                "mqtt.password_file: {path} holds no text in UTF-8: write the password and nothing else.",
                path=self.password_file,
            )
        raise UnreachableError(Problem("PASSWORD_FILE", text))


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long what may take, in seconds."""

    connect: float = 30.0
    """To stand (TCP and TLS), and again to answer CONNECT."""
    answer: float = 30.0
    """To acknowledge a message or a subscription; who does not is taken for dead."""
    stop: float = 2.0
    """For a clean end."""
    first_pause: float = 1.0
    longest_pause: float = 300.0
    """Between two connections: doubling from the one to the other, with full jitter."""
    held: float = 60.0
    """A connection that held so long begins with the first pause again."""


def settings(mqtt: Mqtt, node: str) -> Settings:
    """Make them for the box ``node``."""
    parts = urlsplit(mqtt.url)
    tls = broker_credentials(mqtt) if parts.scheme == "mqtts" else None
    return Settings(
        host=parts.hostname or "",
        port=parts.port or _PORTS[parts.scheme],
        client_id=f"dicom-edge-{node}",
        tls=tls,
        username=mqtt.username,
        password_file=mqtt.password_file,
        keep_alive=math.ceil(mqtt.keep_alive),
        protocol=mqtt.protocol,
    )
