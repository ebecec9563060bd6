"""A line between two programs: a TCP relay as thin, as long and as unreliable as it is told to be.

What is carried shares one rate in each direction, over all connections, and comes out a delay later. Between the two
there is a queue of a few milliseconds and no more, so who sends too much is held up, as on a real line. A connection
takes one round trip to make. Losses of single packets, and what TCP makes of them, are not imitated: the line is whole
or cut.

It can be cut (every connection is reset), go silent (nothing passes, nobody is told), and be down for a while. It knows
the PDUs of PS3.8 9.3, and can tear one in its middle, or lose an answer.
"""

import asyncio
import contextlib
import enum
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

from tests.peers import wire
from tests.peers.ports import LOOPBACK

_PIECE: Final = 2 * 1448
"""Bytes that go in one turn: two segments of Ethernet."""
_SEGMENT: Final = 1448
_SOCKET: Final = 32 * 1024
"""Bytes that a socket of ours holds: the kernel's own buffers would hide that the line is full."""
_QUEUE: Final = 0.02
"""Seconds' worth that waits before the line."""
_LARGE: Final = 1024
"""Bytes from which on a P-DATA-TF is a piece of a dataset."""
_RESET: Final = struct.pack("ii", 1, 0)
_PATIENCE: Final = 30.0


class Fault(enum.Enum):
    """What befalls one association."""

    TEAR = "reset in the middle of a piece of a dataset"
    LOSE_ANSWER = "reset instead of passing an answer on"
    HALF_OPEN = "nothing passes any more, from an answer on, and nobody is told"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a line is like. `rate`: bytes a second each way, over all connections; None: no limit. `delay`: seconds
    that a byte takes one way. `window`: bytes of one connection that are on the line at most, beside its sockets.
    """

    rate: float | None = None
    delay: float = 0.0

    @property
    def window(self) -> int:
        return 64 * 1024 + int((self.rate or 0) * (2 * self.delay + _QUEUE))


class Way:
    """The one direction of a line: when what is given to it comes out, whoever gives it. Numbers in, numbers out."""

    def __init__(self, bounds: Bounds) -> None:
        self.carried = 0
        self._bounds = bounds
        self._free_at = 0.0

    def book(self, now: float, count: int) -> tuple[float, float]:
        """Give `count` bytes to the line; when they come out, and when the next may be given."""
        self.carried += count
        if self._bounds.rate is None:
            return now + self._bounds.delay, now
        self._free_at = max(now, self._free_at) + count / self._bounds.rate
        return self._free_at + self._bounds.delay, self._free_at - _QUEUE


class Pdus:
    """Follows a stream of PDUs, whose bytes it is given."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._kind = self._length = 0

    def take(self, data: bytes) -> list[tuple[int, int, int]]:
        """The bodies of which `data` has a piece: the PDU's type, the length of its body, where the piece ends."""
        at, found = 0, []
        while at < len(data):
            if self._left:
                count = min(self._left, len(data) - at)
                at += count
                self._left -= count
                found.append((self._kind, self._length, at))
                continue
            more = data[at : at + wire.HEADER.size - len(self._head)]
            self._head += more
            at += len(more)
            if len(self._head) == wire.HEADER.size:
                self._kind, self._length = wire.HEADER.unpack(self._head)
                self._left = self._length
                self._head.clear()
        return found


class _Transit:
    """What of one connection is on the line in one direction, `most` bytes of it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[tuple[float, bytes]] = deque()
        self._count = 0
        self._changed = asyncio.Event()

    def add(self, at: float, data: bytes) -> None:
        """Let `data` come out at a time; empty is the end."""
        self._items.append((at, data))
        self._count += len(data)
        self._changed.set()

    async def room(self) -> None:
        """Wait until more may be on the line: its far end takes what comes out."""
        await self._until(lambda: self._count < self._most)

    async def emptied(self) -> None:
        """Wait until all that was on it has come out."""
        await self._until(lambda: not self._count)

    async def next(self) -> tuple[float, bytes]:
        """What comes out next, and when."""
        await self._until(lambda: bool(self._items))
        return self._items.popleft()

    def passed(self, count: int) -> None:
        """So much was taken at the far end."""
        self._count -= count
        self._changed.set()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._changed.clear()
            await self._changed.wait()


@dataclass(eq=False)
class _Connection:
    """One connection, from the caller to the called."""

    near: socket.socket
    far: socket.socket
    silent: bool = False
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def reset(self) -> None:
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for task in self.tasks:
            task.cancel()


class Relay:
    """Listens on `port` and carries what comes to `to`, both on the loopback; all of it on one event loop.

    `faults` befall one association each, in their order, as soon as there is an occasion. `cuts` counts connections
    that were broken in any way, `made` those that were carried, `broken_at` says when each was, by the
    monotonic clock; `began_at` when it was first called, by the wall clock.
    """

    def __init__(self, to: int, bounds: Bounds = Bounds()) -> None:
        self.to = to
        self.bounds = bounds
        self.port = 0
        self.faults: deque[Fault] = deque()
        self.began_at = 0.0
        self.made = 0
        self.cuts = 0
        self.broken_at: list[float] = []
        self.up = True
        self._outages: asyncio.Task[None] | None = None
        self.there, self.back = Way(bounds), Way(bounds)
        self._turns = {self.there: asyncio.Lock(), self.back: asyncio.Lock()}
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    @property
    def connected(self) -> int:
        """Connections that stand."""
        return len(self._connections)

    async def open(self) -> None:
        """Listen."""
        self._listener = _socket()
        self._listener.bind((LOOPBACK, 0))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept(self._listener))

    async def close(self) -> None:
        """Reset what is carried, and end."""
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def cut(self) -> None:
        """Reset every connection: what is on the line is lost."""
        for connection in list(self._connections):
            self._break(connection)

    def silence(self) -> None:
        """Pass nothing more on what is connected now, and tell nobody."""
        for connection in self._connections:
            self._mute(connection)

    async def outages(self, every: float, lasting: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Cut the line after `every` so many seconds, and leave it down for `lasting`, until cancelled."""
        try:
            while True:
                await sleep(every)
                self.up = False
                self.cut()
                await sleep(lasting)
                self.up = True
        finally:
            self.up = True

    def spoil(self, every: float, lasting: float) -> None:
        """Begin with `outages`, in place of those that were."""
        self.heal()
        self._outages = self._spawn(self.outages(every, lasting, asyncio.sleep))

    def heal(self) -> None:
        """End the outages, and be up."""
        if self._outages is not None:
            self._outages.cancel()
            self._outages = None
        self.up = True

    def down(self) -> None:
        """Cut the line until it is healed: whoever calls is reset at once."""
        self.heal()
        self.up = False
        self.cut()

    def _break(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._note()
        connection.reset()

    def _mute(self, connection: _Connection) -> None:
        if not connection.silent:
            self._note()
            connection.silent = True

    def _note(self) -> None:
        self.cuts += 1
        self.broken_at.append(time.monotonic())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(listener)
            if self.up:
                self.began_at = self.began_at or time.time()
            near.settimeout(0)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(near, _socket())
            self._connections.add(connection)
            task = self._spawn(self._carry(connection))
            # also where it is cancelled before it began
            task.add_done_callback(partial(self._over, connection))
            connection.tasks.append(task)
            if not self.up:
                connection.reset()

    def _over(self, connection: _Connection, _task: "asyncio.Task[None]") -> None:
        self._connections.discard(connection)
        connection.near.close()
        connection.far.close()

    async def _carry(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        near, far = connection.near, connection.far
        try:
            # what is said first waits for the answer to the connection
            await asyncio.sleep(2 * self.bounds.delay)
            await loop.sock_connect(far, (LOOPBACK, self.to))
            self.made += 1
            for work in (self._pump(connection, near, far, self.there), self._pump(connection, far, near, self.back)):
                connection.tasks.append(self._spawn(work))
            await asyncio.gather(*connection.tasks[1:])
        except OSError:
            connection.reset()
        finally:
            for task in connection.tasks[1:]:
                task.cancel()
            await asyncio.gather(*connection.tasks[1:], return_exceptions=True)

    async def _pump(self, connection: _Connection, source: socket.socket, sink: socket.socket, way: Way) -> None:
        """Carry what comes from `source` one way, to its end."""
        loop = asyncio.get_running_loop()
        transit = _Transit(self.bounds.window)
        out = self._spawn(self._come_out(connection, transit, sink))
        connection.tasks.append(out)
        pdus = Pdus()
        while data := await loop.sock_recv(source, _PIECE):
            data, fault = self._befall(data, pdus, way)
            await transit.room()
            if data:
                await self._give(data, transit, way)
            if fault is Fault.HALF_OPEN:
                self._mute(connection)
            elif fault is not None:
                await transit.emptied()
                self._break(connection)
                return
        transit.add(loop.time() + self.bounds.delay, b"")
        await out

    async def _give(self, data: bytes, transit: _Transit, way: Way) -> None:
        """Give `data` to the line, each connection in its turn, and wait until another may."""
        loop = asyncio.get_running_loop()
        async with self._turns[way]:
            at, next_at = way.book(loop.time(), len(data))
            transit.add(at, data)
            if (wait := next_at - loop.time()) > 0:
                await asyncio.sleep(wait)

    async def _come_out(self, connection: _Connection, transit: _Transit, sink: socket.socket) -> None:
        """Pass on what has been long enough on the line."""
        loop = asyncio.get_running_loop()
        while True:
            at, data = await transit.next()
            if (wait := at - loop.time()) > 0:
                await asyncio.sleep(wait)
            if connection.silent:
                await asyncio.Event().wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, data)
            transit.passed(len(data))

    def _befall(self, data: bytes, pdus: Pdus, way: Way) -> tuple[bytes, Fault | None]:
        """What of `data` is still passed on, and what befalls the connection then."""
        for kind, length, end in pdus.take(data):
            if not self.faults or kind != wire.Type.P_DATA:
                continue
            if self.faults[0] is Fault.TEAR and way is self.there and length > _LARGE:
                return data[: end - 1], self.faults.popleft()
            if self.faults[0] is not Fault.TEAR and way is self.back:
                return b"", self.faults.popleft()
        return data, None


class Line:
    """A relay in a thread of its own, for as long as the context lasts; what is asked of it is done at once."""

    def __init__(self, to: int, bounds: Bounds = Bounds()) -> None:
        self._loop = asyncio.new_event_loop()
        self._relay = Relay(to, bounds)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"line to {to}")

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._relay.open())
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._relay.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._relay.port

    @property
    def relay(self) -> Relay:
        """To read its counters."""
        return self._relay

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes that went there, and back."""
        return self._relay.there.carried, self._relay.back.carried

    @property
    def busy(self) -> bool:
        """Whether anybody is connected."""
        return self._relay.connected > 0

    def cut(self) -> None:
        """Reset every connection."""
        self._call(self._relay.cut)

    def silence(self) -> None:
        """Pass nothing more on what is connected now, and tell nobody."""
        self._call(self._relay.silence)

    def spoil(self, every: float, lasting: float) -> None:
        """Cut it `every` so many seconds, for `lasting` each."""
        self._call(lambda: self._relay.spoil(every, lasting))

    def down(self) -> None:
        """Cut it until it is healed."""
        self._call(self._relay.down)

    def heal(self) -> None:
        """Let it hold from now on."""
        self._call(self._relay.heal)

    def befall(self, *faults: Fault) -> None:
        """Let these faults befall an association each, in their order."""
        self._call(lambda: self._relay.faults.extend(faults))

    def _call(self, act: Callable[[], object]) -> None:
        async def work() -> None:
            act()

        self._do(work())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)


def _socket() -> socket.socket:
    """A socket that holds little, in segments as long as on a real line."""
    made = socket.socket()
    made.settimeout(0)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        made.setsockopt(socket.SOL_SOCKET, option, _SOCKET)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
