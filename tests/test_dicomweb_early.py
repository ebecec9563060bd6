"""Answers that come before a request is whole are heard: plain, in TLS, and where HTTP/2 was spoken first."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import pytest

from edge.dicomweb.client import Client, Settings
from edge.dicomweb.errors import GarbledError, LostError, TooLongError
from edge.dicomweb.login import NoLogin
from tests.peers.certificates import Authority, Pair
from tests.peers.dicomweb import JSON, Reply, WebPacs, saying
from tests.peers.http2 import Http2

pytestmark = pytest.mark.filterwarnings("error")

LARGE = 24 << 20
"""Bytes, more than the buffers on the way hold."""
LINGERS = 1.0
"""Seconds that any server gives its answer before it resets the connection, were it ever so rude."""
_PIECE = b"x" * (64 << 10)


class Filled:
    """A body of `length` bytes; `taken`: how many of them, on all tries."""

    content_type = "application/octet-stream"

    def __init__(self, length: int = LARGE) -> None:
        self.length = length
        self.taken = 0

    async def stream(self) -> AsyncGenerator[bytes]:
        left = self.length
        while left:
            piece = _PIECE[: min(left, len(_PIECE))]
            left -= len(piece)
            self.taken += len(piece)
            yield piece


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


def serving(pair: Pair) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pair.certificate, pair.key)
    return made


@pytest.fixture(params=["plain", "tls"])
def pacs(request: pytest.FixtureRequest, pair: Pair) -> Iterator[WebPacs]:
    with WebPacs(tls=serving(pair) if request.param == "tls" else None) as server:
        yield server


@pytest.fixture
def front(pair: Pair) -> Iterator[Http2]:
    context = serving(pair)
    with Http2(WebPacs(tls=context), context) as server:
        yield server


@pytest.fixture
async def client(request: pytest.FixtureRequest, authority: Authority) -> AsyncIterator[Client]:
    front = "front" in request.fixturenames
    pacs: WebPacs = request.getfixturevalue("front").pacs if front else request.getfixturevalue("pacs")
    believed = ssl.create_default_context(cafile=authority.path)
    made = Client(Settings(url=pacs.url, connect=2.0, response=2.0, tls=believed), NoLogin())
    yield made
    await made.close()


@pytest.mark.parametrize("lingers", [LINGERS, 30.0])
@pytest.mark.parametrize("status", [401, 413])
async def test_an_answer_is_heard_while_the_request_is_sent(
    pacs: WebPacs, client: Client, status: int, lingers: float
) -> None:
    pacs.early = lambda _: Reply(status, b"no", "text/plain")
    pacs.lingers = lingers
    body = Filled()
    answer = await client.post("/studies", body, JSON)
    assert (answer.status, answer.body) == (status, b"no")
    assert body.taken < LARGE, "nothing more is sent than what was on its way"
    pacs.early = lambda _: None
    assert (await client.get("/studies", JSON)).status == 204


async def test_what_announces_an_answer_is_none(pacs: WebPacs, client: Client) -> None:
    pacs.early = lambda _: Reply(103)
    body = Filled()
    assert (await client.post("/nowhere", body, JSON)).status == 404
    assert body.taken == LARGE
    assert pacs.requests[-1].whole


async def test_a_connection_that_is_closed_while_the_request_is_sent_is_lost(pacs: WebPacs, client: Client) -> None:
    pacs.early = lambda _: Reply(0)
    with pytest.raises(LostError):
        await client.post("/studies", Filled(), JSON)


async def test_one_connection_serves_one_request_after_another(pacs: WebPacs, client: Client) -> None:
    for length in (1, 100, 1 << 20, LARGE):
        assert (await client.post("/nowhere", Filled(length), JSON)).status == 404
        assert (await client.get("/studies", JSON)).status == 204
    assert pacs.connections == 1


async def test_a_connection_that_was_closed_while_it_was_idle_is_not_used(pacs: WebPacs, client: Client) -> None:
    assert (await client.get("/studies", JSON)).status == 204
    pacs.stop()
    pacs.start()
    assert (await client.post("/nowhere", Filled(100), JSON)).status == 404
    assert pacs.connections == 2


async def test_what_we_take_our_time_over_is_not_the_servers_silence() -> None:
    class Slow(Filled):
        async def stream(self) -> AsyncGenerator[bytes]:
            async for piece in super().stream():
                await asyncio.sleep(0.5)
                yield piece

    with WebPacs() as pacs:
        client = Client(Settings(url=pacs.url, connect=0.05, response=0.3), NoLogin())
        assert (await client.post("/nowhere", Slow(2 * len(_PIECE)), JSON)).status == 404
        await client.close()


@pytest.mark.parametrize("resets", [True, False])
async def test_an_answer_by_two_that_was_not_heard_is_asked_for_by_one(
    front: Http2, client: Client, *, resets: bool
) -> None:
    front.resets, front.pacs.lingers = resets, LINGERS
    front.pacs.early = lambda _: Reply(413)
    assert (await client.post("/studies", Filled(), JSON)).status == 413
    assert len(front.pacs.requests) == 2
    front.pacs.early = lambda _: None
    assert (await client.post("/nowhere", Filled(), JSON)).status == 404
    assert len(front.pacs.requests) == 3, "it is remembered"


@pytest.mark.parametrize(("garbled", "status"), [(True, ""), (False, "abc")])
async def test_what_is_no_answer_by_two_is_told_as_that(
    front: Http2, client: Client, *, garbled: bool, status: str
) -> None:
    front.garbled, front.status = garbled, status
    front.pacs.queries = saying(200, b"[]", JSON)
    with pytest.raises(GarbledError):
        await client.get("/studies", JSON)


async def test_a_server_that_says_goodbye_is_lost_and_reached_again(front: Http2, client: Client) -> None:
    front.leaves = 1
    assert (await client.post("/nowhere", Filled(10), JSON)).status == 404
    with pytest.raises(LostError):
        await client.post("/nowhere", Filled(10), JSON)
    assert (await client.post("/nowhere", Filled(10), JSON)).status == 404


async def test_an_answer_is_no_longer_than_what_was_asked_for(pacs: WebPacs, client: Client) -> None:
    pacs.queries = saying(200, b"[" + b" " * (2 << 20) + b"]", JSON)
    assert (await client.get("/studies", JSON)).status == 200
    pacs.early, pacs.lingers = lambda _: Reply(200, b" " * (2 << 20)), LINGERS
    with pytest.raises(TooLongError):
        await client.post("/studies", Filled(1), JSON)
    pacs.queries = saying(200, b"[" + b" " * (9 << 20) + b"]", JSON)
    with pytest.raises(TooLongError):
        await client.get("/studies", JSON)
