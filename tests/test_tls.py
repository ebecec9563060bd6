"""TLS on both sides: contexts, the listener's port, destinations, reloading and expiry."""

import asyncio
import hashlib
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from edge.board import Board
from edge.clock import SystemClock
from edge.config import ClientTls, Config, DimseDestination, Receive, ReceiveTls, Timeouts, differences
from edge.dicom import command as dimse
from edge.dicom.acceptor import Acceptor, Capacity, Peer
from edge.dicom.association import Association, Limits, Message
from edge.dicom.command import CommandField
from edge.findings import Journal
from edge.forward.dimse import DimseTransport
from edge.forward.outcome import Unreachable
from edge.intake.admission import Admission
from edge.intake.policy import ReceivePolicy
from edge.model import Kind, Need
from edge.spool import Free, Ledger, Syncer
from edge.status.certificates import CertificateWatch
from edge.supervise import Supervisor
from edge.tls import TlsError, client_context, receive_credentials, server_context, validity
from tests.appliance import Edge
from tests.appliance import dimse as destination
from tests.fakes import ManualClock
from tests.peers import dcmtk, objects, wire
from tests.peers.certificates import Authority, Pair
from tests.peers.line import Line
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.program import PeerFailedError
from tests.peers.raw import RawReceiver, RawSender
from tests.peers.secure import TlsSender

LITTLE: Final = [wire.EXPLICIT_LITTLE]
DAY: Final = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "Somebody else")


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Pair:
    return authority.issue("edge")


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Pair:
    return authority.issue("modality", hosts=())


def believing(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """A client's context, made here and not by the code under test."""
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


class Box:
    """An acceptor in this loop that keeps the digests of what it gets."""

    def __init__(self, acceptor: Acceptor, journal: Journal, port: int) -> None:
        self.acceptor, self.journal, self.port = acceptor, journal, port
        self.digests: list[bytes] = []
        self.titles: list[str] = []

    def findings(self) -> list[str]:
        return [finding.text for finding in self.journal.open()]


class _Hash:
    pressure = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, fragment: memoryview, /) -> None:
        self.hash.update(fragment)

    async def relieve(self) -> None: ...


@asynccontextmanager
async def box(
    tls: Callable[[], ssl.SSLContext | None] | None,
    *,
    limits: Limits | None = None,
    capacity: Capacity | None = None,
) -> AsyncIterator[Box]:
    clock = SystemClock()
    board, journal = Board(clock), Journal(clock)
    admission = Admission(board, journal, clock, Ledger(lambda: Free(1 << 40, 1 << 20), 0))
    admission.open("starting")
    running: list[Box] = []

    async def keep(association: Association, message: Message, peer: Peer, /) -> None:
        sink = _Hash()
        await association.receive_dataset(message, sink)
        running[0].digests.append(sink.hash.digest())
        running[0].titles.append(peer.calling)
        association.send_command(message.context.id, dimse.response(message.command, 0))

    acceptor = Acceptor(
        ReceivePolicy(Config(receive=Receive(ae_titles=("EDGE", "PACS"))), admission, board, journal, forgiven=0),
        {CommandField.C_STORE_RQ: keep},
        spawn=Supervisor(journal, clock).spawn,
        limits=limits or Limits(artim=0.5),
        capacity=capacity,
    )
    running.append(Box(acceptor, journal, await acceptor.listen(LOOPBACK, 0, tls)))
    try:
        yield running[0]
    finally:
        await acceptor.close(0.5)


def serving(pair: Pair, clients: Authority | None = None) -> Callable[[], ssl.SSLContext]:
    config = ReceiveTls(
        certificate_file=pair.certificate, key_file=pair.key, client_ca_file=clients.path if clients else None
    )
    context = server_context(config)
    return lambda: context


def send(port: int, context: ssl.SSLContext, obj: objects.DicomObject) -> dict[str, object]:
    with TlsSender(port, context, timeout=20) as sender:
        sender.associate([(obj.sop_class_uid, [obj.transfer_syntax_uid])])
        assert sender.store(obj) == 0
        return sender.certificate


# contexts


def test_a_context_takes_nothing_older_than_tls_1_2(ours: Pair) -> None:
    context = serving(ours)()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    ciphers = {cipher["name"] for cipher in context.get_ciphers()}
    assert all("GCM" in name or "CHACHA20" in name for name in ciphers), ciphers
    assert all(name.startswith(("ECDHE-", "TLS_")) for name in ciphers), ciphers
    assert client_context(ClientTls()).check_hostname


def replaced(pair: Pair, folder: Path, **files: bytes) -> ReceiveTls:
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "c.pem", folder / "k.pem"
    certificate.write_bytes(files.get("certificate", pair.certificate.read_bytes()))
    key.write_bytes(files.get("key", pair.key.read_bytes()))
    return ReceiveTls(certificate_file=certificate, key_file=key)


def test_what_a_file_lacks_is_said_with_its_key_and_never_with_its_content(
    tmp_path: Path, authority: Authority, ours: Pair, theirs: Pair
) -> None:
    locked = authority.issue("locked", passphrase=b"secret").key.read_bytes()
    absent = ReceiveTls(certificate_file=tmp_path / "no.pem", key_file=ours.key)
    no_key = ReceiveTls(certificate_file=ours.certificate, key_file=tmp_path / "no.key")
    no_authority = ReceiveTls(certificate_file=ours.certificate, key_file=ours.key, client_ca_file=ours.key)
    cases = [
        (absent, "certificate_file", "no.pem cannot be read (No such file"),
        (no_key, "key_file", "no.key cannot be read (No such file"),
        (replaced(ours, tmp_path / "a", key=theirs.key.read_bytes()), "key_file", "does not belong to"),
        (replaced(ours, tmp_path / "b", key=b"SECRET"), "key_file", "no usable key"),
        (replaced(ours, tmp_path / "c", certificate=b"nothing"), "certificate_file", "no certificate in PEM form"),
        (replaced(ours, tmp_path / "d", key=locked), "key_file", "has a passphrase"),
        (no_authority, "client_ca_file", "no certificates in PEM form"),
    ]
    for config, key, text in cases:
        with pytest.raises(TlsError) as caught:
            server_context(config)
        assert caught.value.key == key
        assert text in str(caught.value)
        assert "PRIVATE" not in str(caught.value)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(TlsError, match="no certificate_file"):
        client_context(ClientTls(key_file=ours.key))


# receiving


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_objects_arrive_whole_over_tls(authority: Authority, ours: Pair, version: ssl.TLSVersion) -> None:
    context = believing(authority)
    context.minimum_version = context.maximum_version = version
    large = objects.multiframe(6)
    async with box(serving(ours)) as running:
        for obj in (objects.tiny(1)[0], large):
            await asyncio.to_thread(send, running.port, context, obj)
            assert running.digests[-1] == obj.digest


async def test_a_large_request_right_after_the_handshake_is_answered(authority: Authority, ours: Pair) -> None:
    contexts = [(objects.CT, [f"1.2.3.{n}.{m}" for m in range(20)]) for n in range(128)]

    def ask(port: int) -> int:
        with TlsSender(port, believing(authority), timeout=20) as sender:
            return len(sender.associate(contexts))

    async with box(serving(ours)) as running:
        assert await asyncio.to_thread(ask, running.port) == 128


async def test_what_comes_with_the_handshake_and_fills_the_buffer_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, ours: Pair
) -> None:
    loop = asyncio.get_running_loop()
    start_tls = loop.start_tls

    async def late(*arguments: Any, **keys: Any) -> asyncio.Transport | None:
        secured = await start_tls(*arguments, **keys)
        await asyncio.sleep(0.3)  # long enough for the buffer to fill
        return secured

    def ask(port: int) -> int:
        with TlsSender(port, believing(authority), timeout=10) as sender:
            return len(sender.associate([(objects.CT, [f"1.2.3.{n}.{m}" for m in range(20)]) for n in range(128)]))

    monkeypatch.setattr(loop, "start_tls", late)
    async with box(serving(ours)) as running:
        assert await asyncio.to_thread(ask, running.port) == 128


async def test_a_receiver_that_is_slow_slows_the_sender_over_tls(authority: Authority, ours: Pair) -> None:
    """What is not taken stays with the peer: the process holds no more than the buffers."""
    release = asyncio.Event()
    obj = objects.multiframe(40)

    class Slow(_Hash):
        pressure = True

        async def relieve(self) -> None:
            await release.wait()

    async def slow(association: Association, message: Message, _peer: Peer, /) -> None:
        await association.receive_dataset(message, Slow())
        association.send_command(message.context.id, dimse.response(message.command, 0))

    async with box(serving(ours)) as running:
        running.acceptor._services[CommandField.C_STORE_RQ] = slow
        sending = asyncio.create_task(asyncio.to_thread(send, running.port, believing(authority), obj))
        before = psutil.Process().memory_info().rss
        await asyncio.wait([sending], timeout=1.0)
        assert not sending.done()
        assert psutil.Process().memory_info().rss - before < 8 << 20
        release.set()
        await asyncio.wait_for(sending, 20)


def handshake(port: int, context: ssl.SSLContext, first: bytes = b"") -> bytes:
    """What comes back, once the handshake is through and `first` was sent."""
    with (
        socket.create_connection((LOOPBACK, port), 10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as sock,
    ):
        sock.sendall(first)
        return sock.recv(100)


def old_version() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def weak_cipher() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA")
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [old_version, weak_cipher])
async def test_what_is_out_of_date_is_refused_and_said(ours: Pair, make: Callable[[], ssl.SSLContext]) -> None:
    async with box(serving(ours)) as running:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(handshake, running.port, make())
        assert any("cannot agree on TLS" in text for text in running.findings())


async def test_with_client_ca_file_only_who_shows_a_certificate_of_theirs_is_let_in(
    authority: Authority, stranger: Authority, ours: Pair, theirs: Pair
) -> None:
    obj = objects.tiny(1)[0]
    async with box(serving(ours, authority)) as running:
        await asyncio.to_thread(send, running.port, believing(authority, theirs), obj)
        foreign = stranger.issue("foreign", hosts=())
        for context in (believing(authority), believing(authority, foreign)):
            with pytest.raises((OSError, ConnectionError)):
                await asyncio.to_thread(send, running.port, context, obj)
        assert len(running.digests) == 1
        assert any("cannot agree on TLS" in text for text in running.findings())


async def test_dates_of_modalities_are_not_judged_by_a_clock_that_is_wrong(authority: Authority, ours: Pair) -> None:
    late = authority.issue("late", hosts=(), begins=-30, ends=-1)
    config = ReceiveTls(certificate_file=ours.certificate, key_file=ours.key, client_ca_file=authority.path)
    credentials = receive_credentials(config)
    trusted = True
    obj = objects.tiny(1)[0]
    async with box(lambda: credentials.judging_dates(trusted=trusted)) as running:
        with pytest.raises(OSError):  # noqa: PT011 - an alert or a reset, as the timing has it
            await asyncio.to_thread(send, running.port, believing(authority, late), obj)
        trusted = False
        await asyncio.to_thread(send, running.port, believing(authority, late), obj)
        trusted = True
        with pytest.raises(OSError):  # noqa: PT011 - likewise
            await asyncio.to_thread(send, running.port, believing(authority, late), obj)
    assert len(running.digests) == 1


async def test_silent_and_dripping_handshakes_end_in_time_and_hold_up_nobody(authority: Authority, ours: Pair) -> None:
    obj = objects.tiny(1)[0]
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300)

    async def drip() -> float:
        reader, writer = await asyncio.open_connection(LOOPBACK, running.port)
        begun = time.monotonic()
        with suppress(ConnectionError):
            for byte in hello:
                writer.write(bytes([byte]))
                if reader.at_eof():
                    break
                await asyncio.sleep(0.02)  # the pace of the drip
            await reader.read()
        writer.close()
        return time.monotonic() - begun

    async def silent() -> float:
        reader, writer = await asyncio.open_connection(LOOPBACK, running.port)
        begun = time.monotonic()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        return time.monotonic() - begun

    async with box(serving(ours), limits=Limits(handshake=0.6, artim=0.2)) as running:
        hostile = [asyncio.create_task(attack()) for attack in (drip, silent, drip, silent)]
        begun = time.monotonic()
        await asyncio.to_thread(send, running.port, believing(authority), obj)
        assert time.monotonic() - begun < 0.6
        for taken in await asyncio.gather(*hostile):
            assert 0.5 < taken < 3
        assert any("no TLS handshake in time" in text for text in running.findings())
        assert running.acceptor._connections == {}


async def test_connections_in_their_handshake_count_and_the_oldest_give_way(authority: Authority, ours: Pair) -> None:
    obj = objects.tiny(1)[0]
    capacity = Capacity(waiting=6, waiting_per_address=4)
    async with box(serving(ours), capacity=capacity) as running:
        opened = [await asyncio.open_connection(LOOPBACK, running.port) for _ in range(20)]
        await asyncio.to_thread(send, running.port, believing(authority), obj)
        assert len(running.acceptor._connections) <= 4
        closed = [reader for reader, _ in opened if reader.at_eof() or reader.exception()]
        assert len(closed) >= 16
        for _, writer in opened:
            writer.close()
    assert running.digests == [obj.digest]


async def test_a_plain_request_to_the_tls_port_is_said(ours: Pair) -> None:
    def ask(port: int) -> None:
        with RawSender(port, timeout=10) as sender, suppress(ConnectionError, OSError, wire.MalformedError):
            sender.associate([(objects.CT, LITTLE)])

    async with box(serving(ours)) as running:
        await asyncio.to_thread(ask, running.port)
        assert any("cannot agree on TLS" in text for text in running.findings())


async def test_without_a_usable_certificate_the_port_closes_at_once(authority: Authority) -> None:
    async with box(lambda: None) as running:
        with pytest.raises((OSError, ConnectionError)):
            await asyncio.to_thread(handshake, running.port, believing(authority))
        assert running.acceptor._connections == {}


# sending


def pacs(port: int, tls: ClientTls, host: str = LOOPBACK) -> DimseDestination:
    return DimseDestination(
        name="pacs", host=host, port=port, ae_title="PACS", tls=tls, timeouts=Timeouts(connect=3, response=3)
    )


NEED: Final = [Need(Kind(objects.CT, wire.EXPLICIT_LITTLE), "CT1")]


async def opened(where: DimseDestination, *, trusted: bool = True) -> Unreachable | None:
    """Open a session: what is wrong, or None where it stood."""
    syncer = Syncer()
    try:
        session = await DimseTransport(where, syncer, trusted=lambda: trusted).open(NEED)
        if isinstance(session, Unreachable):
            return session
        await session.close()
        return None
    finally:
        syncer.close()


@pytest.mark.parametrize("host", [LOOPBACK, "localhost"])
async def test_a_destination_whose_certificate_is_good_is_reached(authority: Authority, ours: Pair, host: str) -> None:
    async with box(serving(ours)) as running:
        assert await opened(pacs(running.port, ClientTls(ca_file=authority.path), host)) is None


async def test_a_destination_that_asks_for_our_certificate_gets_it(
    authority: Authority, ours: Pair, theirs: Pair
) -> None:
    tls = ClientTls(ca_file=authority.path, certificate_file=theirs.certificate, key_file=theirs.key)
    async with box(serving(ours, authority)) as running:
        assert await opened(pacs(running.port, tls)) is None
        assert running.findings() == []
        lost = await opened(pacs(running.port, ClientTls(ca_file=authority.path)))
        assert lost is not None
        assert "know our certificate?" in lost.detail


async def test_a_destination_that_refuses_our_certificate_is_quoted(authority: Authority, ours: Pair) -> None:
    def refuse(listener: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ours.certificate, ours.key)
        context.load_verify_locations(authority.path)
        context.verify_mode = ssl.CERT_REQUIRED
        plain, _ = listener.accept()
        plain.settimeout(5)
        # a handshake that fails closes its socket; with what the peer sent unread, that would reset the connection
        with plain.dup() as open_still:
            with plain, suppress(OSError):
                context.wrap_socket(plain, server_side=True)
            Line(open_still).drain(3)

    with socket.create_server((LOOPBACK, 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        why = await opened(pacs(listener.getsockname()[1], ClientTls(ca_file=authority.path)))
        await refusing
    assert why is not None
    assert why.code == "TLS_REFUSED"
    assert "certificate required" in why.detail


@pytest.mark.parametrize(
    ("certificate", "trusted", "code"),
    [
        ({"hosts": ("pacs.example.org",)}, True, "PEER_CERTIFICATE_NAME"),
        ({"hosts": ("192.0.2.1",)}, True, "PEER_CERTIFICATE_NAME"),
        ({"begins": -30, "ends": -1}, True, "PEER_CERTIFICATE_EXPIRED"),
        ({"begins": 1, "ends": 30}, True, "PEER_CERTIFICATE_EXPIRED"),
        ({"begins": -30, "ends": -1}, False, "CLOCK_NOT_TRUSTED"),
        ({"begins": 1, "ends": 30}, False, "CLOCK_NOT_TRUSTED"),
        ({"hosts": ("192.0.2.1",)}, False, "PEER_CERTIFICATE_NAME"),
    ],
)
async def test_a_certificate_that_is_not_the_destinations_is_an_outcome_of_its_own(
    authority: Authority,
    certificate: dict[str, object],
    trusted: bool,  # noqa: FBT001 - a case of the table
    code: str,
) -> None:
    pair = authority.issue("pacs", **certificate)  # type: ignore[arg-type]
    async with box(serving(pair)) as running:
        why = await opened(pacs(running.port, ClientTls(ca_file=authority.path)), trusted=trusted)
        assert why is not None
        assert (why.code, why.midway) == (code, False)
        assert ("clock of this box is wrong" in why.detail) is not trusted or code != "CLOCK_NOT_TRUSTED"
        assert running.digests == []


async def test_an_unknown_authority_is_said(authority: Authority, stranger: Authority, ours: Pair) -> None:
    async with box(serving(ours)) as running:
        for tls in (ClientTls(ca_file=stranger.path), ClientTls()):
            why = await opened(pacs(running.port, tls))
            assert why is not None
            assert why.code == "PEER_CERTIFICATE_UNKNOWN"
    del authority


async def test_a_destination_without_tls_is_no_tls(authority: Authority) -> None:
    with RawReceiver() as plain:
        why = await opened(pacs(plain.port, ClientTls(ca_file=authority.path)))
    assert why is not None
    assert why.code in {"TLS_REFUSED", "CONNECTION_LOST"}
    assert plain.requests == []


async def test_files_that_cannot_be_used_are_said_and_read_again_once_they_can(
    authority: Authority, ours: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    syncer = Syncer()
    async with box(serving(ours)) as running:
        transport = DimseTransport(pacs(running.port, ClientTls(ca_file=path)), syncer)
        why = await transport.open(NEED)
        assert isinstance(why, Unreachable)
        assert why.code == "TLS_FILES"
        assert "destination.pacs.tls.ca_file" in why.detail
        path.write_bytes(authority.path.read_bytes())
        session = await transport.open(NEED)
        assert not isinstance(session, Unreachable)
        await session.close()
    syncer.close()


async def test_a_peer_that_never_shakes_hands_is_given_up_in_time(authority: Authority) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        where = pacs(silent.getsockname()[1], ClientTls(ca_file=authority.path))
        begun = time.monotonic()
        why = await opened(where)
        assert time.monotonic() - begun < 5
    assert why is not None
    assert why.code == "NO_ANSWER"


# reloading and expiry


def test_a_bad_file_leaves_the_old_certificate_in_force(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("first")
    config = replaced(pair, tmp_path / "x")
    credentials = receive_credentials(config)
    before = credentials.context()
    assert before is not None
    config.certificate_file.write_bytes(b"rubbish")
    assert not credentials.reload()
    assert credentials.context() is before
    assert "receive.tls.certificate_file" in credentials.trouble
    config.certificate_file.write_bytes(pair.certificate.read_bytes())
    assert credentials.reload()
    assert credentials.trouble == ""
    assert credentials.context() is not before


class Watched:
    def __init__(self, authority: Authority, ends: float) -> None:
        pair = authority.issue(f"watched{ends}", begins=-100, ends=ends)
        self.clock = ManualClock()
        self.clock.wall = time.time()
        self.journal = Journal(self.clock)
        self.righted = 0
        config = ReceiveTls(certificate_file=pair.certificate, key_file=pair.key)
        self.watch = CertificateWatch([receive_credentials(config)], self.journal, self.clock, self._right)

    def _right(self) -> None:
        self.righted += 1

    def codes(self) -> list[str]:
        return [finding.code for finding in self.journal.open()]


@pytest.mark.parametrize(
    ("days", "codes"),
    [(31, []), (29.5, ["CERTIFICATE_EXPIRES"]), (0.5, ["CERTIFICATE_EXPIRES"]), (-0.5, ["CERTIFICATE_EXPIRED"])],
)
def test_the_end_of_a_certificate_is_told_a_month_ahead(authority: Authority, days: float, codes: list[str]) -> None:
    watched = Watched(authority, days)
    watched.watch.look()
    assert watched.codes() == codes


def test_the_end_of_a_certificate_is_looked_for_every_hour(authority: Authority) -> None:
    watched = Watched(authority, 31)
    watched.watch.look()
    watched.clock.wall += 2 * DAY
    watched.clock.seconds += 3599
    watched.watch.look()
    assert watched.codes() == []
    watched.clock.seconds += 1
    watched.watch.look()
    assert watched.codes() == ["CERTIFICATE_EXPIRES"]
    (finding,) = watched.journal.open()
    assert "in 28 days" in finding.text
    watched.clock.wall += 40 * DAY
    watched.clock.seconds += 3600
    watched.watch.look()
    assert watched.codes() == ["CERTIFICATE_EXPIRED"]


def test_a_clock_that_is_wrong_judges_no_certificate_and_its_righting_is_told(authority: Authority) -> None:
    watched = Watched(authority, -0.5)
    watched.clock.believed = False
    watched.watch.look()
    assert (watched.codes(), watched.righted) == ([], 0)
    watched.clock.believed = True
    watched.watch.look()
    watched.watch.look()
    assert (watched.codes(), watched.righted) == (["CERTIFICATE_EXPIRED"], 1)


def test_a_file_that_is_no_certificate_has_no_dates(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert validity(path) is None
    path.write_bytes(b"x")
    assert validity(path) is None


def test_what_changed_is_named() -> None:
    one = DimseDestination(name="a", host="h", ae_title="A")
    old = Config(destination=(one, DimseDestination(name="b", host="h", ae_title="B")), receive=Receive(port=104))
    new = Config(destination=(DimseDestination(name="a", host="i", ae_title="A"),), receive=Receive(port=105))
    assert set(differences(old, new)) == {"destination.a.host", "destination.b", "receive.port"}
    assert list(differences(old, old)) == []


# the installed command


def tls_keys(pair: Pair, port: int, clients: Authority | None = None) -> str:
    lines = [f"[receive.tls]\nport = {port}\ncertificate_file = '{pair.certificate}'\nkey_file = '{pair.key}'"]
    if clients is not None:
        lines.append(f"client_ca_file = '{clients.path}'")
    return "\n".join(lines)


class Secured:
    """An appliance that receives and sends over TLS, with DCMTK on both sides."""

    def __init__(self, folder: Path, authority: Authority, ours: Pair, theirs: Pair) -> None:
        self.port = free_port()
        self.pair = Pair(folder / "own.pem", folder / "own.key")
        self.install(ours)
        server = ["+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.path)]
        self.pacs = dcmtk.Storescp(folder / "pacs", nodelay=True, extra=server)
        tls = {
            "ca_file": str(authority.path),
            "certificate_file": str(self.pair.certificate),
            "key_file": str(self.pair.key),
        }
        inline = ", ".join(f'{key} = "{value}"' for key, value in tls.items())
        more = f"tls = {{ {inline} }}\n" + tls_keys(self.pair, self.port, authority)
        self.edge = Edge(folder / "edge", destination("pacs", self.pacs.port), more=more)

    def install(self, pair: Pair) -> None:
        self.pair.certificate.write_bytes(pair.certificate.read_bytes())
        self.pair.key.write_bytes(pair.key.read_bytes())

    def findings(self) -> dict[str, str]:
        return {f["code"]: f["text"] for f in self.edge.json("status")["findings"]}

    def reload(self) -> None:
        assert self.edge._process is not None
        seen = self.edge.output().count("certificates read again")
        os.kill(self.edge._process.pid, signal.SIGHUP)
        wait_for(lambda: self.edge.output().count("certificates read again") > seen, 10, "the reload")


@pytest.fixture
def secured(tmp_path: Path, authority: Authority, ours: Pair) -> Iterator[Secured]:
    theirs = authority.issue("pacs", hosts=(LOOPBACK,))
    made = Secured(tmp_path, authority, ours, theirs)
    with made.pacs, made.edge:
        yield made


@pytest.mark.rig
def test_from_modality_to_pacs_over_tls_with_dcmtk_on_both_sides(
    secured: Secured, tmp_path: Path, authority: Authority, theirs: Pair
) -> None:
    file = tmp_path / "one.dcm"
    obj = objects.ct(1)[0]
    obj.write(file)
    client = ["+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.path)]
    assert secured.edge.json("echo", "pacs")["ok"]
    dcmtk.storescu(secured.port, [file], extra=client)
    secured.edge.wait_settled("pacs", {"accepted": 1})
    assert obj.dataset in secured.pacs.received()[0].read_bytes()
    # without a certificate of theirs, or without TLS, nobody gets in
    with pytest.raises(PeerFailedError):
        dcmtk.storescu(secured.port, [file], extra=["+tla", "+cf", str(authority.path)])
    with pytest.raises(PeerFailedError):
        dcmtk.storescu(secured.port, [file])


@pytest.mark.rig
def test_a_reload_puts_new_certificates_in_force_and_keeps_the_old_where_the_new_are_bad(
    secured: Secured, authority: Authority, theirs: Pair
) -> None:
    def shown() -> object:
        obj = objects.tiny(1)[0]
        return send(secured.port, believing(authority, theirs), obj)["serialNumber"]

    before = shown()
    secured.pair.key.write_bytes(b"rubbish")
    secured.reload()
    assert shown() == before
    assert "own.key holds no usable key" in secured.findings()["CERTIFICATE_UNUSABLE"]
    secured.install(authority.issue("soon", ends=3))
    secured.reload()
    assert shown() != before
    found = secured.findings()
    assert "CERTIFICATE_UNUSABLE" not in found
    assert "in 2 days" in found["CERTIFICATE_EXPIRES"]
    assert "RESTART_NEEDED" not in found
    config = secured.edge.config
    config.write_text(config.read_text().replace('name = "test"', 'name = "renamed"'))
    secured.reload()
    assert "device.name" in secured.findings()["RESTART_NEEDED"]
    good = config.read_text()
    config.write_text(good + "\n[nonsense]\n")
    secured.reload()
    config.write_text(good)  # for the command that asks
    assert "nonsense" in secured.findings()["RELOAD_FAILED"]


@pytest.mark.rig
def test_the_check_finds_what_is_wrong_with_certificates(
    tmp_path: Path, authority: Authority, ours: Pair, theirs: Pair
) -> None:
    good = tls_keys(ours, 2762)
    edge = Edge(tmp_path, destination("pacs", 104) + f'tls = {{ ca_file = "{authority.path}" }}\n', more=good)
    assert edge.command("check").returncode == 0
    wrong = f'tls = {{ ca_file = "{tmp_path}/no.pem" }}\n'
    edge = Edge(tmp_path, destination("pacs", 104) + wrong, more=tls_keys(Pair(ours.certificate, theirs.key), 2762))
    done = edge.command("check", check=False)
    assert done.returncode == 2
    assert "receive.tls.key_file: " in done.stderr
    assert "destination.pacs.tls.ca_file: " in done.stderr
    ended = authority.issue("ended", begins=-3, ends=-1)
    done = Edge(tmp_path, more=tls_keys(ended, 2762)).command("check", check=False)
    assert done.returncode == 2
    assert "is valid only from" in done.stderr


@pytest.mark.rig
def test_a_box_whose_certificate_is_broken_receives_on_the_other_port_and_says_so(
    tmp_path: Path, authority: Authority, ours: Pair
) -> None:
    port = free_port()
    with Edge(tmp_path, more=tls_keys(Pair(ours.certificate, tmp_path / "no.key"), port)) as edge:
        dcmtk.echoscu(edge.port)
        codes = {finding["code"] for finding in edge.json("status")["findings"]}
        assert "CERTIFICATE_UNUSABLE" in codes
        with pytest.raises((OSError, ConnectionError)):
            handshake(port, believing(authority))
