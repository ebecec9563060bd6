"""Connections to the dashboard: who is slow, who holds on, who comes in crowds; TLS; a port that is taken."""

import asyncio
import errno
import hashlib
import ssl
import stat
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from edge.config import Dashboard
from edge.findings import Journal
from edge.tls import validity
from edge.web import certificate, connection, listening, pace, screens, server
from edge.web.screens import Screens
from tests.fakes import ManualClock
from tests.peers.certificates import Authority
from tests.peers.ports import LOOPBACK, free_port
from tests.web import Served, log_in

HEAD = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"


async def ended(reader: asyncio.StreamReader, within: float = 5.0) -> bytes:
    """What still comes until the end of a connection, which must come."""
    async with asyncio.timeout(within):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ARRIVAL", 0.4)
    monkeypatch.setattr(connection, "STALLED", 0.4)
    monkeypatch.setattr(listening, "HANDSHAKE", 0.4)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nHost: local",
        HEAD + b"Content-Length: 100\r\n\r\na=",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["nothing", "a byte", "half a head", "half a form", "no chunk"],
)
@pytest.mark.usefixtures("_hasty")
async def test_a_request_that_does_not_arrive_is_cut(tmp_path: Path, sent: bytes) -> None:
    async with Served(tmp_path) as served:
        reader, writer = await served.connect()
        writer.write(sent)
        assert await ended(reader) == b""
        writer.close()


@pytest.mark.parametrize(
    "begun",
    [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", HEAD + b"Content-Length: 10000\r\n\r\n"],
    ids=["head", "form"],
)
@pytest.mark.usefixtures("_hasty")
async def test_a_request_that_drips_is_cut_as_soon(tmp_path: Path, begun: bytes) -> None:
    async with Served(tmp_path) as served:
        reader, writer = await served.connect()
        writer.write(begun)
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await ended(reader) == b""
        assert loop.time() - start < 2.0
        dripping.cancel()
        writer.close()


@pytest.mark.usefixtures("_hasty")
async def test_a_connection_that_rests_after_an_answer_is_ended(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await ended(reader)
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.usefixtures("_hasty")
async def test_a_screen_that_does_not_read_is_dropped_and_nothing_is_kept_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    def changed(*_: object) -> list[bytes]:
        nonlocal rounds
        rounds += 1
        return [b"data: " + b"x" * 500_000 + b"\n\n"]

    monkeypatch.setattr(screens, "EVERY", 0.01)
    monkeypatch.setattr(Screens, "_changed", changed)
    async with Served(tmp_path) as served:
        _, writer = await served.connect()
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        streams = served.site.screens._streams
        async with asyncio.timeout(10):
            while not streams:  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.01)
            while streams:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert 1 < rounds < 30  # what the kernel's buffers hold, and no more
        writer.close()


async def test_two_hundred_idle_connections_leave_room_for_a_reader(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        idle = [await served.connect() for _ in range(200)]
        answer = await served.client().get("/")
        assert answer.status_code == 200
        listener_open = sum(not reader.at_eof() for reader, _ in idle)
        assert listener_open <= listening.MOST
        for _, writer in idle:
            writer.close()


async def test_connections_that_are_answered_do_not_give_way_and_the_next_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MOST", 3)
    async with Served(tmp_path) as served:
        clients = [served.client() for _ in range(3)]
        streams = [client.stream("GET", "/events") for client in clients]
        for stream in streams:
            assert (await stream.__aenter__()).status_code == 200
        reader, writer = await served.connect()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await ended(reader) == b""
        writer.close()
        for stream in streams:
            await stream.__aexit__(None, None, None)


async def test_streams_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "MOST", 2)
    async with Served(tmp_path) as served:
        one, two, three = (served.client() for _ in range(3))
        async with one.stream("GET", "/events"), two.stream("GET", "/events"):
            turned_away = await three.get("/events")
            assert turned_away.status_code == 503
            assert (await three.get("/")).status_code == 200
        async with asyncio.timeout(10):
            while served.site.screens.full:  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.01)


async def test_who_is_logged_in_is_not_kept_from_looking_by_those_who_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "MOST", 2)
    monkeypatch.setattr(screens, "EVERY", 0.01)
    async with Served(tmp_path) as served:
        first, second, inside = (served.client() for _ in range(3))
        await log_in(inside)
        async with (
            first.stream("GET", "/events") as oldest,
            second.stream("GET", "/events"),
            inside.stream("GET", "/events") as looking,
        ):
            assert looking.status_code == 200
            async with asyncio.timeout(10):
                async for _ in oldest.aiter_lines():
                    pass  # it ends
            assert (await first.get("/events")).status_code == 503
            async with inside.stream("GET", "/events") as another:
                assert another.status_code == 200
                assert (await inside.get("/events")).status_code == 503


async def test_nothing_is_taken_while_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "EVERY", 0.01)
    async with Served(tmp_path) as served:
        client = served.client()
        async with client.stream("GET", "/events") as stream:
            async for line in stream.aiter_lines():
                if line == "event: beat":
                    break
        await client.aclose()
        async with asyncio.timeout(10):
            while served.site.screens._streams or served.site.screens._shown:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        before = served.taken
        for _ in range(20):
            served.clock.pass_time(1)
            await asyncio.sleep(0.01)
        assert served.taken == before


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02", b"\x00" * 100, b"A" * 40_000, b"GET / HTTP/9.9\r\n\r\n"])
async def test_what_is_no_http_ends_its_own_connection_only(tmp_path: Path, sent: bytes) -> None:
    async with Served(tmp_path) as served:
        reader, writer = await served.connect()
        writer.write(sent)
        writer.write_eof()
        answer = await ended(reader)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        writer.close()
        assert (await served.client().get("/healthz")).status_code == 200


async def test_a_flood_is_served_in_turns_and_its_excess_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "BURST", 10.0)
    monkeypatch.setattr(pace, "LONGEST", 0.3)
    async with Served(tmp_path) as served:
        client = served.client(limits=httpx.Limits(max_connections=60))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        answers = await asyncio.gather(*(client.get("/healthz") for _ in range(60)))
        took = loop.time() - begun
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 503}
        assert 20 <= codes.count(200) <= 12 + pace.RATE * (took + 0.3)
        await asyncio.sleep(0.5)
        assert (await client.get("/healthz")).status_code == 200


# TLS


@pytest.fixture
def _not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 127.0.0.1 were on the network."""
    monkeypatch.setattr(server, "_is_loopback", lambda _: False)


def present() -> ManualClock:
    """A clock by which certificates are valid that this machine looks at."""
    clock = ManualClock()
    clock.wall = time.time()
    return clock


def trusting(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "identity" / certificate.NAME))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


@pytest.mark.usefixtures("_not_loopback")
async def test_another_address_than_loopback_is_served_by_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    async with Served(tmp_path, clock=present()) as served:
        assert served.url.startswith("https://")
        browser = served.client(verify=trusting(tmp_path))
        answer = await log_in(browser)
        assert "__Host-edge-session=" in answer.headers["set-cookie"]
        assert "Secure" in answer.headers["set-cookie"]
        assert (await browser.get("/api/studies")).status_code == 200
        assert "max-age" in (await browser.get("/")).headers["strict-transport-security"]


@pytest.mark.usefixtures("_not_loopback")
async def test_the_certificate_is_kept_and_nobody_else_reads_its_key(tmp_path: Path) -> None:
    path = tmp_path / "identity" / certificate.NAME
    async with Served(tmp_path):
        first = path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with Served(tmp_path):
        assert path.read_bytes() == first


@pytest.mark.usefixtures("_not_loopback")
async def test_who_comes_without_tls_is_shown_the_way(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        plain = served.url.replace("https", "http")
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{plain}/studies?x=1")
            assert answer.status_code == 307
            assert answer.headers["location"] == f"{served.url}/studies?x=1"
            foreign = await client.get(plain, headers={"Host": "evil.example"})
            assert foreign.status_code == 421


@pytest.mark.usefixtures("_hasty", "_not_loopback")
@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00"])
async def test_a_handshake_that_does_not_arrive_is_cut(tmp_path: Path, sent: bytes) -> None:
    async with Served(tmp_path) as served:
        reader, writer = await served.connect()
        writer.write(sent)
        assert await ended(reader) == b""
        writer.close()


@pytest.mark.usefixtures("_not_loopback")
async def test_two_hundred_handshakes_that_rest_leave_room_for_a_reader(tmp_path: Path) -> None:
    async with Served(tmp_path, clock=present()) as served:
        idle = [await served.connect() for _ in range(200)]
        assert (await served.client(verify=trusting(tmp_path)).get("/healthz")).status_code == 200
        for _, writer in idle:
            writer.close()


async def test_a_configured_certificate_is_served_on_loopback_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    own = authority.issue("127.0.0.1")
    dashboard = Dashboard(port=0, certificate_file=own.certificate, key_file=own.key)
    async with Served(tmp_path, dashboard=dashboard) as served:
        browser = served.client(verify=ssl.create_default_context(cafile=str(authority.path)))
        assert (await browser.get("/healthz")).status_code == 200


def test_the_certificate_names_every_way_to_the_box_and_lasts_two_years(tmp_path: Path) -> None:
    clock = ManualClock()
    path = certificate.ensure(tmp_path, ["box", "box.local", "192.168.1.7", "fe80::1%eth0", "192.168.1.7"], clock)
    made = x509.load_pem_x509_certificate(path.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["box", "box.local"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.168.1.7", "fe80::1"]
    assert 730 < (made.not_valid_after_utc - made.not_valid_before_utc).days <= 825
    digest = certificate.fingerprint(path)
    assert len(digest) == 95
    assert digest.count(":") == 31


def test_the_certificate_is_made_anew_only_at_its_end_and_by_a_clock_that_knows(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.believed = False
    clock.wall = 0.0
    path = certificate.ensure(tmp_path, ["box"], clock)
    first = path.read_bytes()
    clock.wall = 4e9
    assert certificate.ensure(tmp_path, ["other"], clock).read_bytes() == first
    clock.believed = True
    clock.wall = 1_800_000_000.0
    assert certificate.ensure(tmp_path, ["other"], clock).read_bytes() == first
    clock.wall += 800 * 86_400
    assert certificate.ensure(tmp_path, ["other"], clock).read_bytes() != first


def test_a_certificate_of_a_time_to_come_is_made_anew_once_the_clock_is_right(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.wall += 20 * 365 * 86_400
    certificate.ensure(tmp_path, ["box"], clock)
    clock.wall -= 20 * 365 * 86_400
    found = validity(certificate.ensure(tmp_path, ["box"], clock))
    assert found is not None
    assert found.begins < clock.now() < found.ends


def test_a_name_that_no_certificate_can_hold_keeps_nobody_out(tmp_path: Path) -> None:
    path = certificate.ensure(tmp_path, ["", "ñandú.example", "x" * 70, "box"], ManualClock())
    made = x509.load_pem_x509_certificate(path.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "box" in names.get_values_for_type(x509.DNSName)


@pytest.mark.usefixtures("_not_loopback")
async def test_a_certificate_that_ends_while_it_is_served_is_made_anew_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_RENEW_EVERY", 0.05)
    path = tmp_path / "identity" / certificate.NAME
    async with Served(tmp_path, clock=present()) as served:
        first = await shown_certificate(served)
        assert first == certificate.fingerprint(path)
        served.clock.wall += 800 * 86_400
        for _ in range(500):
            if await shown_certificate(served) != first:
                break
            await asyncio.sleep(0.02)
        assert await shown_certificate(served) == certificate.fingerprint(path) != first


async def shown_certificate(served: Served) -> str:
    """The fingerprint of what a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(LOOPBACK, served.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return hashlib.sha256(der).digest().hex(":").upper()


def test_a_certificate_near_its_end_is_served_on_where_the_disk_takes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clock = ManualClock()
    first = certificate.ensure(tmp_path, ["box"], clock).read_bytes()
    monkeypatch.setattr(certificate, "replace_synced", full)
    clock.wall += 800 * 86_400
    assert certificate.ensure(tmp_path, ["box"], clock).read_bytes() == first
    with pytest.raises(OSError, match="No space"):
        certificate.ensure(tmp_path / "empty", ["box"], clock)


def test_a_damaged_certificate_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / certificate.NAME).write_text("nonsense")
    assert certificate.fingerprint(certificate.ensure(tmp_path, ["box"], ManualClock()))


# a port, an address, a file that cannot be had


async def test_a_port_that_is_taken_is_a_finding_and_is_had_once_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_AGAIN", 0.02)
    port = free_port()
    other = await asyncio.start_server(lambda _r, w: w.close(), LOOPBACK, port)
    served = Served(tmp_path, dashboard=Dashboard(port=port))
    running = asyncio.create_task(served.service.run())

    def found(journal: Journal) -> list[str]:
        return [finding.text for finding in journal.open() if finding.code == "DASHBOARD_DOWN"]

    async with asyncio.timeout(15):
        while not found(served.journal):  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.01)
        assert f"127.0.0.1 port {port}: Address already in use." in found(served.journal)[0]
        other.close()
        await other.wait_closed()
        while not served.service.url:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert found(served.journal) == []
    async with served.client() as client:
        assert (await client.get("/healthz")).status_code == 200
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize(
    ("dashboard", "said"),
    [
        (Dashboard(address="192.0.2.1", port=0), "192.0.2.1 port 0"),
        (Dashboard(address="nowhere.invalid", port=0), "nowhere.invalid port 0"),
        (Dashboard(port=0, certificate_file=Path("/nonexistent.pem")), "certificate_file"),
    ],
    ids=["address", "name", "certificate"],
)
async def test_what_cannot_be_served_is_a_finding(tmp_path: Path, dashboard: Dashboard, said: str) -> None:
    served = Served(tmp_path, dashboard=dashboard)
    running = asyncio.create_task(served.service.run())
    async with asyncio.timeout(15):
        while not served.journal.open():  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.01)
    (found,) = served.journal.open()
    assert found.code == "DASHBOARD_DOWN"
    assert said in found.text
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
