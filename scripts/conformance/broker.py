"""Listens at a broker for a while. MQTT 5 where the broker knows it, for only that tells the sender's retain flags."""

import ssl
import threading
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.messages import ROOT
from scripts.conformance.heard import Message

_ANSWER: Final = 10.0
"""Seconds for the broker to let us in."""
_UNKNOWN_PROTOCOL: Final = 0x84
"""Unsupported protocol version (MQTT 5, 3.2.2.2)."""
_PLAIN, _TLS = 1883, 8883
_MOST: Final = 1_000_000
"""Messages kept."""


class UnreachableError(Exception):
    """The broker cannot be listened to; the text says why."""


class _UnknownProtocolError(UnreachableError):
    pass


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Which broker, and who we are there."""

    url: str
    username: str = ""
    password: str = ""
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


class Listened(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard until ``ended`` (monotonic seconds); ``flags``: the retain flags are the senders'."""

    messages: list[Message]
    ended: float
    flags: bool


def listen(access: Access, seconds: float, node: str = "+") -> Listened:
    """Hear everything that ``node`` and its monitor say for ``seconds``. Raises `UnreachableError`."""
    try:
        return _listen(access, seconds, node, MQTTProtocolVersion.MQTTv5)
    except _UnknownProtocolError:
        return _listen(access, seconds, node, MQTTProtocolVersion.MQTTv311)


def _listen(access: Access, seconds: float, node: str, protocol: MQTTProtocolVersion) -> Listened:
    ear = _Ear(f"{ROOT}/{node}/#", protocol)
    ear.connect(access)
    try:
        if not ear.answered.wait(_ANSWER) and not ear.problem:
            ear.problem = f"it did not answer within {_ANSWER:g} s"
        if not ear.problem:
            ear.ended.wait(seconds)
    finally:
        ended = time.monotonic()
        ear.close()
    if ear.unknown_protocol:
        raise _UnknownProtocolError(ear.problem)
    if ear.problem:
        raise UnreachableError(ear.problem)
    return Listened(messages=ear.messages, ended=ended, flags=protocol is MQTTProtocolVersion.MQTTv5)


class _Ear:
    def __init__(self, topics: str, protocol: MQTTProtocolVersion) -> None:
        self.messages: list[Message] = []
        self.problem = ""
        self.unknown_protocol = False
        self.answered = threading.Event()
        self.ended = threading.Event()
        self._topics = topics
        self._five = protocol is MQTTProtocolVersion.MQTTv5
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._came
        self._client.on_disconnect = self._lost

    def connect(self, access: Access) -> None:
        """Begin. Raises `UnreachableError`."""
        parts = urlsplit(access.url)
        secure = parts.scheme == "mqtts"
        if access.username:
            self._client.username_pw_set(access.username, access.password)
        try:
            if secure:
                context = ssl.create_default_context(cafile=access.ca_file)
                if access.certificate_file is not None:
                    context.load_cert_chain(access.certificate_file, access.key_file)
                self._client.tls_set_context(context)
            self._client.connect(parts.hostname or "", parts.port or (_TLS if secure else _PLAIN))
        except (OSError, ValueError) as e:
            raise UnreachableError(f"{access.url}: {e}") from e
        self._client.loop_start()

    def close(self) -> None:
        """End."""
        self.ended.set()
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: Client, _data: object, _flags: object, code: ReasonCode, _more: object) -> None:
        if code.is_failure:
            self.unknown_protocol = code.value == _UNKNOWN_PROTOCOL
            self._fail(f"the broker does not let us in: {code}")
        elif self._five:
            client.subscribe(self._topics, options=SubscribeOptions(qos=2, retainAsPublished=True))
        else:
            client.subscribe(self._topics, qos=2)

    def _subscribed(self, _client: Client, _data: object, _mid: int, codes: list[ReasonCode], _more: object) -> None:
        if codes and codes[0].is_failure:
            self._fail(f"the broker does not let us listen to {self._topics}: {codes[0]}")
        self.answered.set()

    def _came(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if len(self.messages) >= _MOST:
            self._fail(f"more than {_MOST} messages came; listen to one node, or for less time")
            return
        self.messages.append(
            Message(
                topic=message.topic,
                payload=bytes(message.payload),
                qos=message.qos,
                retain=message.retain,
                at=time.monotonic(),
            )
        )

    def _lost(self, _client: Client, _data: object, _flags: Any, code: ReasonCode, _more: object) -> None:
        if not self.ended.is_set():
            self._fail(f"the connection broke: {code}")

    def _fail(self, why: str) -> None:
        self.problem = self.problem or why
        self.answered.set()
        self.ended.set()
