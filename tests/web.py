"""The dashboard as a test has it: really listening, over a box that is made by hand."""

import asyncio
import contextlib
import functools
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpx
import msgspec
from argon2 import PasswordHasher

from edge.config import Config, Dashboard, Device, Storage
from edge.control import Control
from edge.findings import Journal
from edge.safety import StudyView
from edge.snapshot import Snapshot
from edge.store import Choice, Reading, StoreError, StudyFilter
from edge.web.box import Box
from edge.web.secret import Secrets
from edge.web.server import Dashboard as Service
from edge.web.site import Site
from tests import snapshots
from tests.fakes import ManualClock
from tests.peers.ports import LOOPBACK

PASSWORD = "correct horse battery"


class Acted(msgspec.Struct, frozen=True):
    verb: str
    choice: Choice
    who: str
    reason: str


class FakeControl:
    """Takes down what is decided."""

    def __init__(self) -> None:
        self.acted: list[Acted] = []

    async def act(self, verb: str, choice: Choice, *, who: str, reason: str = "", force: bool = False) -> int:
        del force
        self.acted.append(Acted(verb, choice, who, reason))
        return 1


class Served:
    """A dashboard on a free port of this machine, for as long as the ``with`` lasts.

    `shown` is what the box says of itself: change it as you like; None: its database does not answer.
    """

    def __init__(
        self,
        folder: Path,
        shown: Snapshot | None = None,
        *,
        dashboard: Dashboard | None = None,
        device: Device | None = None,
        clock: ManualClock | None = None,
        snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
        reading: Reading | None = None,
        control: Control | None = None,
        password: str = PASSWORD,
        configure: Callable[[Config], Config] = lambda config: config,
    ) -> None:
        self.clock = clock or ManualClock()
        self.journal = Journal(self.clock)
        self.shown: Snapshot | None = shown or snapshots.snapshot(destinations=["pacs"])
        self.taken = 0
        self.studies: Sequence[StudyView] = ()
        self.asked: list[StudyFilter] = []
        self.fake_control = FakeControl()
        self.secrets = Secrets(folder / "identity")
        if password:
            stored = folder / "identity" / "password"
            stored.parent.mkdir(parents=True, exist_ok=True)
            stored.write_bytes(stored_password(password))
        plain = Config(
            device=device or Device(name="CT room", site="Posta"),
            storage=Storage(path=folder),
            dashboard=dashboard or Dashboard(port=0),
        )
        self.config = configure(plain)
        self.box = Box(
            config=self.config,
            device="0123456789abcdef",
            identity=folder / "identity",
            snapshot=snapshot or self._snapshot,
            studies=self._studies,
            reading=reading or cast("Reading", None),
            control=control or cast("Control", self.fake_control),
            journal=self.journal,
            clock=self.clock,
            spawn=lambda coroutine, _: asyncio.ensure_future(coroutine),
        )
        self.service = Service(self.box)
        self._task: asyncio.Task[None] | None = None
        self._clients: list[httpx.AsyncClient] = []
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def site(self) -> Site:
        assert self.service.site is not None
        return self.service.site

    @property
    def url(self) -> str:
        return self.service.url.rstrip("/")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A browser of its own."""
        client = httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False, **options)
        self._clients.append(client)
        return client

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which nothing was said yet; it is closed in the end."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        self._writers.append(writer)
        return reader, writer

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.service.run())
        async with asyncio.timeout(20):
            while not self.service.url:
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.005)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            await client.aclose()
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _snapshot(self) -> Snapshot:
        self.taken += 1
        if self.shown is None:
            raise StoreError("The database does not answer.")
        return self.shown

    async def _studies(self, which: StudyFilter, most: int) -> Sequence[StudyView]:
        self.asked.append(which)
        return self.studies[:most]


@functools.cache
def stored_password(password: str) -> bytes:
    """What the file of a password holds, at a cost that tests can bear: the hash itself says how dear it is."""
    return f"{PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(password)}\n".encode()


def token_in(page: str) -> str:
    """The token of the first form of a page."""
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


async def post(client: httpx.AsyncClient, path: str, page: str, **fields: str) -> httpx.Response:
    """Send the form that stands on ``page``, as a browser would."""
    token = token_in((await client.get(page)).text)
    origin = str(client.base_url).rstrip("/")
    return await client.post(path, data={"token": token, **fields}, headers={"Origin": origin})


async def log_in(client: httpx.AsyncClient, password: str = PASSWORD, target: str = "/") -> httpx.Response:
    """Log in, as a browser would."""
    return await post(client, "/login", "/login", password=password, next=target)
