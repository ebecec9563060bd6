"""paho's client on a socket that stands already, without its thread and without its reconnecting.

Three of paho's own methods are overridden; tests/test_mqtt.py notices a paho that does without one.
"""

from collections.abc import Callable
from typing import Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.mqtt.stream import MOST_BYTES, Stream

_MOST_PROPERTIES: Final = 2048
"""Bytes of a message's properties; paho takes them apart in quadratic time."""
_WINDOW: Final = 20

Version = MQTTProtocolVersion


class Bare(Client):
    """One connection, driven by ``loop_read``, ``loop_write`` and ``loop_misc`` from one thread."""

    def __init__(self, stream: Stream, client_id: str, version: Version) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, reconnect_on_failure=False)
        self._stream = stream
        self._asked = 0

    def begin(self, keep_alive: int) -> None:
        """Send CONNECT; clean always. ``keep_alive`` in seconds."""
        self._asked = keep_alive
        if self.protocol != Version.MQTTv5:
            self.connect("broker", keepalive=keep_alive)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MOST_BYTES
        properties.ReceiveMaximum = _WINDOW
        self.connect("broker", keepalive=keep_alive, clean_start=True, properties=properties)

    def hear(
        self,
        *,
        connected: Callable[[int, Properties | None], None],
        published: Callable[[int, int], None],
        subscribed: Callable[[int, tuple[int, ...]], None],
        disconnected: Callable[[int, bool], None],
        message: Callable[[MQTTMessage], None],
    ) -> None:
        """Name who is told of what the broker says; numbers are packet ids and reason codes, in this order.

        ``disconnected`` hears whether the broker said it, or paho did.
        """

        def on_connect(
            _c: Client, _u: object, _f: ConnectFlags, code: ReasonCode, properties: Properties | None
        ) -> None:
            connected(code.value, properties)

        def on_publish(_c: Client, _u: object, mid: int, code: ReasonCode, _p: Properties) -> None:
            published(mid, code.value)

        def on_subscribe(_c: Client, _u: object, mid: int, codes: list[ReasonCode], _p: Properties | None) -> None:
            subscribed(mid, tuple(code.value for code in codes))

        def on_disconnect(
            _c: Client, _u: object, flags: DisconnectFlags, code: ReasonCode, _p: Properties | None
        ) -> None:
            disconnected(code.value, flags.is_disconnect_packet_from_server)

        self.on_connect = on_connect
        self.on_publish = on_publish
        self.on_subscribe = on_subscribe
        self.on_disconnect = on_disconnect
        self.on_message = lambda _c, _u, heard: message(heard)

    def _create_socket(self) -> Stream:
        return self._stream

    def _handle_connack(self) -> MQTTErrorCode:
        code = super()._handle_connack()
        # a broker may ask for more pings than we do, but not for none
        self._keepalive = min(self._keepalive or self._asked, self._asked)
        return code

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        if self.protocol == Version.MQTTv5 and _properties(packet["command"], packet["packet"]) > _MOST_PROPERTIES:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()


def _properties(command: int, packet: bytes | bytearray) -> int:
    """Read how long the properties of a PUBLISH are (MQTT 5, 3.3.2.3.1)."""
    begin = 2 + int.from_bytes(packet[:2]) + (2 if command & 0x06 else 0)
    length = 0
    for place, byte in enumerate(packet[begin : begin + 4]):
        length |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            break
    return length
