"""One connection, driven by one thread of its own: TCP, TLS, CONNECT, and what goes to and fro until it ends.

Nothing here touches the event loop. The thread does what is posted to it and reports; however it ends, it reports that.
It is a daemon, so that a name server or a broker that never answers keeps no process from ending.
"""

import contextlib
import math
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties

from edge.clock import Clock
from edge.mqtt.allowance import Allowance
from edge.mqtt.client import Bare, Version
from edge.mqtt.dial import dial
from edge.mqtt.inbox import Message
from edge.mqtt.problem import Problem, UnreachableError, diagnose, lost, refused, timed_out
from edge.mqtt.report import Greeting, Report, Will
from edge.mqtt.settings import Settings
from edge.mqtt.stream import Stream
from edge.phrase import say

log = structlog.get_logger()

_TICK: Final = 1.0
"""Seconds between two looks at the keep-alive."""
_LINGER: Final = 0.5
_RATES: Final = ((200.0, 300.0), (10.0, 150.0), (32.0 * 1024.0, 512.0 * 1024.0))
"""Packets, published messages and bytes: read a second, and saved up. More than that is a flood.

What comes is a few commands a day, so nearly all of this is for bursts. Bytes are what costs: a signature in JSON is
verified at some 2 MB a second of a core, so that a flood of forgeries takes about a hundredth of one.
"""
_MOST_UNANSWERED: Final = 1000
"""Packets read while the broker takes nothing: each may want an answer, and answers are kept in memory."""
_SILENCE: Final = 0x8D
"""Reason code: keep alive timeout."""

Answer = Callable[[tuple[int, ...]], None]
"""Takes reason codes."""


class Wire:
    """The connection. `post` and `abort` are for other threads; all else is its own thread's."""

    def __init__(self, settings: Settings, version: Version, report: Report, clock: Clock) -> None:
        """Raises OSError where no descriptors are left."""
        self._settings = settings
        self._version = version
        self._report = report
        self._clock = clock
        self._acts: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._woken, self._waker = socket.socketpair()
        self._woken.settimeout(0)
        self._waker.settimeout(0)
        self._socket: socket.socket | None = None
        self._stream: Stream | None = None
        self._client: Bare | None = None
        self._aborted = False
        self._gracious = False
        self._reason: Problem | None = None
        self._published: dict[int, Answer] = {}
        self._subscribed: dict[int, Answer] = {}
        now = clock.monotonic()
        self._allowances = [Allowance(rate, most, now) for rate, most in _RATES]
        self._answered = 0

    def post(self, act: Callable[[], None]) -> None:
        """Have ``act`` done by the thread, soon; never, where it is over."""
        self._acts.append(act)
        self._wake()

    def abort(self) -> None:
        """End it without a word, so that the broker publishes the will."""
        self._aborted = True
        with self._lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # not SSLSocket's own, which would take TLS away under the thread
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._wake()

    def run(self) -> None:
        """Be the thread."""
        problem = lost(self._settings.where)
        try:
            self._stream = dial(self._settings, self._hold, trusted=self._clock.trusted())
            self._report.stands()
            while not self._over():
                self._turn(self._stream)
            problem = self._why(self._stream)
        except UnreachableError as e:
            problem = e.problem
        except OSError as e:
            problem = diagnose(e, self._settings.where)
        except Exception as e:  # noqa: BLE001 - there is no telling what paho raises on a malformed packet
            log.warning("the connection to the broker failed", error=type(e).__name__)
            problem = Problem("PROTOCOL", say("{where} sent what cannot be understood.", where=self._settings.where))
        finally:
            self._close()
            self._report.closed(problem)

    def greet(self, will: Will) -> None:
        """Send CONNECT."""
        if self._stream is None:
            return
        settings = self._settings
        client = Bare(self._stream, settings.client_id, self._version)
        client.hear(
            connected=self._on_connected,
            published=lambda mid, code: _answer(self._published, mid, (code,)),
            subscribed=lambda mid, codes: _answer(self._subscribed, mid, codes),
            disconnected=self._on_disconnected,
            message=self._on_message,
        )
        client.will_set(will.topic, will.payload, qos=1, retain=True)
        if settings.username:
            client.username_pw_set(settings.username, settings.password())
        self._client = client
        client.begin(settings.keep_alive)

    def publish(self, topic: str, payload: bytes, qos: int, answer: Answer, *, retain: bool) -> None:
        """Publish; ``answer`` gets the reason code of PUBACK, or 0 once a message of QoS 0 is written."""
        if self._client is None:
            return
        info = self._client.publish(topic, payload, qos, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return  # it is about to end
        if qos == 0 and not self._client.want_write():
            answer((0,))
        else:
            self._published[info.mid] = answer

    def subscribe(self, topics: list[tuple[str, int]], answer: Answer) -> None:
        """Subscribe; ``answer`` gets the reason codes of SUBACK."""
        if self._client is not None:
            _, mid = self._client.subscribe(topics)
            if mid is not None:
                self._subscribed[mid] = answer

    def disconnect(self) -> None:
        """End it with DISCONNECT, so that the broker forgets the will."""
        if self._client is not None:
            self._gracious = True
            self._client.disconnect()

    def _hold(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock
        if self._aborted:
            raise UnreachableError(lost(self._settings.where))

    def _over(self) -> bool:
        return self._aborted or (self._client is not None and self._client.socket() is None)

    def _turn(self, stream: Stream) -> None:
        """Do what was posted, wait for the network or for more of that, and read and write."""
        while self._acts:
            self._acts.popleft()()
        client = self._client
        if client is None or self._over():
            self._wait(stream, 0, 0.0 if client else _TICK)
            return
        pause = max(allowance.wait(self._clock.monotonic()) for allowance in self._allowances)
        reading = not pause and not self._clogged(client, stream)
        pending = reading and stream.pending() > 0
        wanted = (select.POLLIN if reading else 0) | (select.POLLOUT if client.want_write() else 0)
        ready = self._wait(stream, wanted, 0.0 if pending else min(_TICK, pause or _TICK))
        if reading and (pending or ready & ~select.POLLOUT):
            self._read(client, stream)
        if ready and client.want_write():
            client.loop_write()
        client.loop_misc()

    def _clogged(self, client: Bare, stream: Stream) -> bool:
        if not client.want_write():
            self._answered = stream.packets
        return stream.packets - self._answered > _MOST_UNANSWERED

    def _read(self, client: Bare, stream: Stream) -> None:
        before = stream.counts()
        code = client.loop_read()
        now = self._clock.monotonic()
        for allowance, then, after in zip(self._allowances, before, stream.counts(), strict=True):
            allowance.spend(after - then, now)
        if code == MQTTErrorCode.MQTT_ERR_PROTOCOL:
            text = say("{where} does not speak MQTT as it should.", where=self._settings.where)
            self._reason = self._reason or Problem("PROTOCOL", text)

    def _wait(self, stream: Stream, wanted: int, seconds: float) -> int:
        """Wait for what is ``wanted`` of the stream, for something posted, or ``seconds``; return the poll's answer."""
        poll = select.poll()  # select.select fails on descriptors above 1023
        poll.register(self._woken, select.POLLIN)
        if wanted:
            poll.register(stream, wanted)
        ready = dict(poll.poll(math.ceil(seconds * 1000)))
        if self._woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        return ready.get(stream.fileno(), 0)

    def _why(self, stream: Stream) -> Problem:
        if self._reason is not None:
            return self._reason
        return diagnose(stream.error, self._settings.where) if stream.error else lost(self._settings.where)

    def _close(self) -> None:
        with self._lock:
            sock, self._socket = self._socket, None
            self._woken.close()
            self._waker.close()
        if self._stream is not None:
            self._stream.hang_up(_LINGER if self._gracious else 0.0)
        elif sock is not None:
            sock.close()

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # full: it is awake; closed: it is over
            self._waker.send(b"\0")

    def _on_connected(self, code: int, properties: Properties | None) -> None:
        window = getattr(properties, "ReceiveMaximum", 65_535)
        self._report.greeted(Greeting(code, window, getattr(properties, "MaximumPacketSize", 2**28)))

    def _on_disconnected(self, code: int, by_broker: bool) -> None:  # noqa: FBT001 - a callback
        if by_broker:
            self._reason = refused(code, self._settings.where)
        elif code == _SILENCE:
            self._reason = timed_out(self._settings.where)

    def _on_message(self, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        if topic:  # empty: an alias that we did not allow
            self._report.heard(Message(topic, bytes(message.payload), message.qos, message.retain))


def _answer(waiting: dict[int, Answer], mid: int, codes: tuple[int, ...]) -> None:
    answer = waiting.pop(mid, None)
    if answer is not None:
        answer(codes)
