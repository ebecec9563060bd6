"""Diagnosis: each step against a real counterpart, good or broken in one way, and what it tells a technician."""

import ast
import errno
import json
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.clock import SystemClock
from edge.config import (
    Auth,
    ClientTls,
    Config,
    Destination,
    DicomwebDestination,
    DimseDestination,
    FolderDestination,
    Modality,
    Mqtt,
    Receive,
    Storage,
    Timeouts,
)
from edge.dicom.association import AbortedError
from edge.dicom.pdu import Abort, AssociateRequest, ProposedContext, UserInformation
from edge.dicom.requestor import NoConnectionError
from edge.dicom.uids import IMPLICIT_LITTLE, STORAGE_COMMITMENT, STUDY_ROOT_FIND, VERIFICATION
from edge.doctor import PROBLEMS, TITLES, Result, Step, Who, box, examine, examine_box, examine_broker, problem, tables
from edge.doctor.dimse import USUAL, DimseVisit
from edge.doctor.folder import FolderVisit
from edge.doctor.problems import REJECTIONS, STATUS
from edge.doctor.step import Check, Told, fine, walk
from edge.doctor.words import TEXTS
from edge.forward.folder import FolderTransport
from edge.forward.links import Interface, interfaces
from edge.forward.outcome import Unreachable
from edge.forward.probe import probe
from edge.forward.reach import _REASONS, diagnose
from edge.forward.unreached import is_here, own_trouble, unreached
from tests.appliance import COMMAND, Edge, dimse
from tests.fakes import ManualClock
from tests.peers.certificates import Authority, Pair
from tests.peers.committing import CommittingPacs
from tests.peers.dcmtk import Storescp
from tests.peers.dicomweb import Reply, Request, WebPacs, hang_up, saying
from tests.peers.mosquitto import Mosquitto
from tests.peers.objects import mr
from tests.peers.orthanc import Orthanc
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.receiver import RawReceiver, first_syntax
from tests.test_conformance_statement import policy_of
from tests.test_docs import ROOT, quote, read, rows, section
from tests.test_transport import parcel

CLOCK = SystemClock()
QUICK = Timeouts(connect=1.0, response=1.0)
OK, WARNING, FAILED, SKIPPED = Result.OK, Result.WARNING, Result.FAILED, Result.SKIPPED


def pacs(port: int, **keys: Any) -> DimseDestination:
    given: dict[str, Any] = {"name": "pacs", "host": LOOPBACK, "port": port, "ae_title": "PACS", "timeouts": QUICK}
    return DimseDestination(**given | keys)


def cloud(url: str, **keys: Any) -> DicomwebDestination:
    given: dict[str, Any] = {"name": "cloud", "url": url, "timeouts": QUICK}
    return DicomwebDestination(**given | keys)


async def steps(coming: AsyncGenerator[Step]) -> dict[str, Step]:
    return {step.name: step async for step in coming}


async def walked(destination: Destination, clock: SystemClock | ManualClock = CLOCK) -> dict[str, Step]:
    return await steps(examine(destination, clock))


async def the_failure(destination: Destination, clock: SystemClock | ManualClock = CLOCK) -> Step:
    """The one step that failed; what comes after it was not tried."""
    found = list((await walked(destination, clock)).values())
    bad = [number for number, step in enumerate(found) if step.result is FAILED]
    assert len(bad) == 1, found
    assert all(step.result is SKIPPED and step.untried for step in found[bad[0] + 1 :])
    assert not any(step.untried for step in found[: bad[0] + 1])
    step = found[bad[0]]
    assert step.text
    assert step.advice
    assert step.who is not None
    return step


# the cable, the address, the name


def sysfs(root: Path, **links: tuple[str, str]) -> Path:
    """Interfaces, each with its operstate and carrier; an empty carrier cannot be read."""
    for name, (state, carrier) in links.items():
        (root / name).mkdir(parents=True)
        (root / name / "operstate").write_text(f"{state}\n")
        if carrier:
            (root / name / "carrier").write_text(f"{carrier}\n")
    return root


def looking(root: Path, **addresses: tuple[str, ...]) -> Callable[[], tuple[Interface, ...] | None]:
    return lambda: interfaces(root, lambda name: addresses.get(name, ()))


async def from_here(look: Callable[[], tuple[Interface, ...] | None], host: str = "192.0.2.1") -> dict[str, Step]:
    """The first two steps to a machine elsewhere."""
    visit = DimseVisit(pacs(104, host=host), CLOCK, look)
    return {step.name: step async for step in walk(tables.NETWORK[:2], visit)}


@pytest.mark.parametrize(
    ("links", "linked"),
    [
        ({"eth0": ("up", "1")}, True),
        ({"eth0": ("down", "0")}, False),
        ({"eth0": ("down", "")}, False),
        ({"eth0": ("up", "0")}, False),
        ({"eth0": ("down", "0"), "ppp0": ("unknown", "1")}, True),
        ({"eth0": ("down", "0"), "lo": ("unknown", "1"), "docker0": ("up", "1"), "veth3": ("up", "1")}, False),
    ],
)
async def test_a_link_is_an_interface_that_leads_outside_and_has_a_carrier(
    tmp_path: Path, links: dict[str, tuple[str, str]], *, linked: bool
) -> None:
    found = await from_here(looking(sysfs(tmp_path, **links), eth0=("192.0.2.7",), ppp0=("192.0.2.8",)))
    assert found["link"].result is (OK if linked else FAILED)
    assert found["link"].code == ("" if linked else "NO_LINK")
    assert found["address"].untried is not linked


async def test_a_bridge_is_as_good_as_what_is_in_it(tmp_path: Path) -> None:
    root = sysfs(tmp_path, br0=("up", "1"), eth0=("down", "0"))
    (root / "br0" / "bridge").mkdir()
    assert (await from_here(looking(root)))["link"].code == "NO_LINK"


async def test_a_system_that_does_not_tell_its_interfaces_is_passed_over(tmp_path: Path) -> None:
    found = await from_here(looking(tmp_path / "none"))
    assert {step.result for step in found.values()} == {SKIPPED}
    assert own_trouble(None) is None


@pytest.mark.parametrize(
    ("addresses", "host", "code"),
    [
        (("192.0.2.7",), "192.0.2.1", ""),
        (("192.0.2.7", "fe80::1"), "192.0.2.1", ""),
        (("2001:db8::7",), "2001:db8::1", ""),
        ((), "192.0.2.1", "NO_OWN_ADDRESS"),
        (("169.254.3.4", "fe80::1"), "192.0.2.1", "NO_OWN_ADDRESS"),
        (("192.0.2.7",), "2001:db8::1", "NO_OWN_ADDRESS"),
        (("2001:db8::7",), "192.0.2.1", "NO_OWN_ADDRESS"),
    ],
)
async def test_an_address_is_one_that_was_given_and_is_of_the_kind_that_is_needed(
    tmp_path: Path, addresses: tuple[str, ...], host: str, code: str
) -> None:
    found = await from_here(looking(sysfs(tmp_path, eth0=("up", "1")), eth0=addresses), host)
    assert found["link"].result is OK
    assert found["address"].code == code
    assert all(a in found["address"].text for a in addresses if a.startswith("169.254"))


def test_the_addresses_of_this_machine_are_read_without_root() -> None:
    found = interfaces()
    assert found is None or all(
        socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for i in found for a in i.addresses
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoConnectionError("late"), "FILTERED"),
        (TimeoutError(), "FILTERED"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "NO_ROUTE"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "NO_ROUTE"),
        (ConnectionRefusedError(), "REFUSED_CONNECTION"),
        (socket.gaierror(socket.EAI_NONAME, "no"), "NO_ADDRESS"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "NO_ADDRESS"),
        (ConnectionResetError(), None),
        (ValueError("else"), None),
    ],
)
def test_what_the_system_says_of_a_connection_is_one_code_and_without_a_cable_another(
    error: Exception, code: str | None
) -> None:
    def said(*found: Interface) -> str | None:
        told = unreached(error, "pacs.example.org", "pacs.example.org port 104", "PACS", lambda: found)
        return told[0] if told is not None else None

    assert said(Interface("eth0", linked=True, addresses=("192.0.2.7",))) == code
    ours = code in {"FILTERED", "NO_ROUTE"} or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN)
    assert said(Interface("eth0", linked=False)) == ("NO_LINK" if ours else code)
    assert said(Interface("eth0", linked=True, addresses=("169.254.1.1",))) == ("NO_OWN_ADDRESS" if ours else code)
    here = unreached(error, "localhost", "localhost port 104", "PACS", lambda: (Interface("eth0", linked=False),))
    assert (here and here[0]) == code, "a cable has nothing to do with this machine itself"


@pytest.mark.parametrize(("host", "here"), [("127.0.0.2", True), ("::1", True), ("LOCALHOST.", True), ("a", False)])
def test_this_machine_is_known_by_its_name(host: str, *, here: bool) -> None:
    assert is_here(host) is here


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "-"), "there is no such name"),
        (socket.gaierror(socket.EAI_AGAIN, "-"), "no name server answers"),
        (UnicodeError("label too long"), "there is no such name"),
    ],
)
async def test_a_name_that_is_none_is_told_from_a_silent_name_server(error: Exception, words: str) -> None:
    def resolve(_host: str, _port: int) -> list[str]:
        raise error

    visit = DimseVisit(pacs(104, host="pacs.example.org"), CLOCK, resolve=resolve)
    (step,) = [step async for step in walk(tables.NETWORK[2:3], visit)]
    assert (step.result, step.code) == (FAILED, "NO_ADDRESS")
    assert words in step.text


async def test_a_name_server_that_never_answers_ends_the_step_and_not_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.doctor.network.RESOLVING", 0.1)
    asked = threading.Event()

    def resolve(_host: str, _port: int) -> list[str]:
        asked.wait(10)
        return []

    visit = DimseVisit(pacs(104, host="pacs.example.org"), CLOCK, resolve=resolve)
    (step,) = [step async for step in walk(tables.NETWORK[2:3], visit)]
    asked.set()
    assert step.code == "NO_ADDRESS"
    assert "no name server answers within 0.1 s" in step.text


# the connection


async def test_a_closed_port_is_refused() -> None:
    step = await the_failure(pacs(free_port()))
    assert (step.name, step.code) == ("connection", "REFUSED_CONNECTION")


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers nothing to a connection, as behind a firewall that drops: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):
            filling = stack.enter_context(closing(socket.socket()))
            filling.settimeout(0)
            filling.connect_ex((LOOPBACK, port))
        yield port


async def test_a_port_behind_a_firewall_that_drops_is_filtered_in_every_face() -> None:
    with black_hole() as port:
        step = await the_failure(pacs(port))
        assert (step.name, step.code) == ("connection", "FILTERED")
        assert step.seconds < 3
        assert (await probe(pacs(port), trusted=True)).code == "FILTERED"
        assert (await probe(cloud(f"http://{LOOPBACK}:{port}/x"), trusted=True)).code == "FILTERED"


async def test_the_second_address_of_a_name_is_tried() -> None:
    with RawReceiver() as live:
        there = pacs(live.port, host="pacs.example.org")
        visit = DimseVisit(there, CLOCK, lambda: None, lambda _host, _port: ["127.0.0.77", LOOPBACK])
        found = {step.name: step async for step in walk(tables.NETWORK, visit)}
    assert found["name"].text == f"pacs.example.org is 127.0.0.77, {LOOPBACK}"
    assert found["connection"].result is OK
    assert visit.reached == LOOPBACK


async def test_a_proxy_of_the_environment_is_named_where_a_server_is_not_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://name:secret@proxy.example.org:3128")
    step = await the_failure(cloud(f"http://{LOOPBACK}:{free_port()}/x"))
    assert "HTTPS_PROXY names a proxy" in step.text
    assert "secret" not in step.text


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("doctor-authority"))


def serving(pair: Pair, **settings: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    for key, value in settings.items():
        setattr(context, key, value)
    return context


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """A server that shakes hands, and closes when the other does."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                plain.settimeout(5)
                try:
                    with context.wrap_socket(plain, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


async def shaken(port: int, tls: ClientTls, clock: SystemClock | ManualClock = CLOCK) -> Step:
    """The step of TLS."""
    return (await walked(pacs(port, tls=tls), clock))["tls"]


@pytest.mark.parametrize(
    ("certificate", "code"),
    [
        ({}, ""),
        ({"ends": 10}, "PEER_CERTIFICATE_ENDS"),
        ({"begins": -30, "ends": -1}, "PEER_CERTIFICATE_EXPIRED"),
        ({"begins": 1, "ends": 30}, "PEER_CERTIFICATE_EXPIRED"),
        ({"hosts": ("pacs.example.org",)}, "PEER_CERTIFICATE_NAME"),
    ],
)
async def test_a_certificate_is_judged_as_ever(authority: Authority, certificate: dict[str, Any], code: str) -> None:
    with tls_server(serving(authority.issue("judged", **certificate))) as port:
        step = await shaken(port, ClientTls(ca_file=authority.path))
        assert step.code == code
        if code == "PEER_CERTIFICATE_EXPIRED":
            assert ("is our clock behind" in step.text) is ("begins" in certificate and certificate["begins"] > 0)
        if not code:
            assert re.match(r"TLS 1\.\d; the certificate of judged is valid until 20", step.text)
    assert (step.result is FAILED) is (code not in {"", "PEER_CERTIFICATE_ENDS"})


async def test_with_a_wrong_clock_nobody_looks_at_the_certificate(authority: Authority) -> None:
    clock = ManualClock()
    clock.believed = False
    with tls_server(serving(authority.issue("old", begins=-30, ends=-1))) as port:
        found = await walked(pacs(port, tls=ClientTls(ca_file=authority.path)), clock)
    assert (found["clock"].result, found["clock"].code) == (WARNING, "CLOCK_NOT_TRUSTED")
    assert found["tls"].code == "CLOCK_NOT_TRUSTED"
    assert found["tls"].who is Who.BOX


async def test_an_authority_that_nobody_knows_is_said(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "Stranger")
    with tls_server(serving(authority.issue("unknown"))) as port:
        assert (await shaken(port, ClientTls(ca_file=stranger.path))).code == "PEER_CERTIFICATE_UNKNOWN"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_wants_a_certificate_of_ours_says_so_in_the_step_of_tls(
    authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    wanting = serving(authority.issue("wanting"), maximum_version=version)
    wanting.load_verify_locations(authority.path)
    wanting.verify_mode = ssl.CERT_REQUIRED
    with tls_server(wanting) as port:
        without = await shaken(port, ClientTls(ca_file=authority.path))
        stranger = Authority(tmp_path / "stranger", "Stranger").issue("edge")
        refused = await shaken(
            port,
            ClientTls(ca_file=authority.path, certificate_file=stranger.certificate, key_file=stranger.key),
        )
        ours = authority.issue("edge")
        with_ours = ClientTls(ca_file=authority.path, certificate_file=ours.certificate, key_file=ours.key)
        assert (await shaken(port, with_ours)).result is OK
    assert without.code in {"TLS_REFUSED", "CONNECTION_LOST"}
    assert "ertificate" in without.text
    assert refused.code in {"TLS_REFUSED", "CONNECTION_LOST"}


async def test_a_port_without_tls_a_silent_one_and_files_that_are_missing_are_told_apart(
    authority: Authority, tmp_path: Path
) -> None:
    believing = ClientTls(ca_file=authority.path)
    with RawReceiver() as plain:
        step = await shaken(plain.port, believing)
        assert step.code in {"TLS_REFUSED", "CONNECTION_LOST"}
        assert "speak TLS" in step.text
        step = await shaken(plain.port, ClientTls(ca_file=tmp_path / "none.pem"))
        assert (step.code, step.who) == ("TLS_FILES", Who.BOX)
    with socket.create_server((LOOPBACK, 0)) as silent:
        step = await shaken(silent.getsockname()[1], believing)
        assert step.code == "NO_ANSWER"
        assert "says nothing of TLS within 1 s" in step.text


# a PACS


async def test_storescp_takes_everything_but_what_it_cannot_prove(tmp_path: Path) -> None:
    with Storescp(tmp_path / "pacs", nodelay=True) as real:
        found = await walked(pacs(real.port))
        assert list(found) == ["link", "address", "name", "route", "connection", "association", "echo", "images"]
        assert {step.result for step in found.values()} == {OK, SKIPPED}
        assert "PDUs of up to 16 KiB" in found["association"].text
        proving = await walked(pacs(real.port, verify="commitment-or-query"))
        assert real.received() == []
    assert (proving["commitment"].result, proving["commitment"].code) == (WARNING, "COMMITMENT_UNSUPPORTED")
    assert (proving["query"].result, proving["query"].code) == (FAILED, "QUERY_UNSUPPORTED")


async def test_orthanc_takes_everything(tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc", modalities={"edge": ("EDGE", 104)}, dicomweb=True) as orthanc:
        title = {"ae_title": orthanc.title, "verify": "commitment-or-query"}
        found = await walked(pacs(orthanc.dicom_port, **title))
        assert {step.result for step in found.values()} == {OK, SKIPPED}, found
        assert "0 found" in found["query"].text
        found = await walked(cloud(f"http://{LOOPBACK}:{orthanc.http_port}/dicom-web"))
        assert {step.result for step in found.values()} == {OK, SKIPPED}, found


@pytest.mark.parametrize("reason", _REASONS)
async def test_a_rejection_says_what_to_do_about_its_reason(reason: tuple[int, int]) -> None:
    with RawReceiver(reject=(2 if reason[0] == 3 else 1, *reason)) as live:
        step = await the_failure(pacs(live.port, calling_ae_title="EDGE7"))
        assert [request.calling for request in live.requests] == ["EDGE7"], "it is asked once"
    assert (step.name, step.code) == ("association", "ASSOCIATION_REJECTED")
    assert _REASONS[reason] in step.text
    assert step.advice == REJECTIONS[reason][0].format(called="PACS", calling="EDGE7", source=LOOPBACK)
    if reason == (1, 3):
        assert step.advice == f"Ask the administrator of PACS to add the AE title EDGE7 with the address {LOOPBACK}."


async def test_a_pacs_that_is_called_by_the_modalitys_title_is_called_so() -> None:
    with RawReceiver() as live:
        by_original = pacs(live.port, calling_ae_title="original")
        await steps(examine(by_original, CLOCK, "CT1"))
        await steps(examine(pacs(live.port), CLOCK, "CT1"))
        assert [request.calling for request in live.requests] == ["CT1", "EDGE"]


@pytest.mark.parametrize(
    ("refused", "name", "result", "code"),
    [
        ({VERIFICATION}, "echo", WARNING, "NO_ECHO"),
        (set(USUAL.values()), "images", FAILED, "CONTEXT_REJECTED"),
        ({USUAL["MG"]}, "images", OK, ""),
        ({STORAGE_COMMITMENT}, "commitment", WARNING, "COMMITMENT_UNSUPPORTED"),
    ],
)
async def test_what_a_pacs_does_not_take_is_said(refused: set[str], name: str, result: Result, code: str) -> None:
    def negotiate(uid: str, syntaxes: tuple[str, ...]) -> str | int:
        return 3 if uid in refused else first_syntax(uid, syntaxes)

    with RawReceiver(negotiate=negotiate, max_pdu=0) as live:
        found = await walked(pacs(live.port, verify="commitment-or-query"))
    assert (found[name].result, found[name].code) == (result, code)
    assert "PDUs of any length" in found["association"].text
    if refused == {USUAL["MG"]}:
        assert found["images"].text.endswith("not MG")


async def test_a_query_that_is_answered_with_a_failure_is_told_by_its_status() -> None:
    with CommittingPacs() as live:
        there = pacs(live.port, ae_title=live.title, verify="query")
        live.find_statuses = [0xA700, 0x0122]
        full, none, good = [(await walked(there))["query"] for _ in range(3)]
        assert [query.study_uid for query in live.queries] == [query.series_uid for query in live.queries]
        assert all(query.study_uid.startswith("2.25.") for query in live.queries)
    assert (full.result, full.code, full.advice) == (FAILED, "A700", PROBLEMS["A700"].advice)
    assert (none.result, none.code) == (FAILED, "QUERY_UNSUPPORTED")
    assert (good.result, good.text) == (OK, "it answers queries (0 found of a study that does not exist)")


async def test_a_query_that_fails_is_a_failure_only_where_nothing_else_proves() -> None:
    def negotiate(uid: str, syntaxes: tuple[str, ...]) -> str | int:
        return 3 if uid == STUDY_ROOT_FIND else first_syntax(uid, syntaxes)

    with RawReceiver(negotiate=negotiate) as live:
        assert (await walked(pacs(live.port, verify="query")))["query"].result is FAILED
        assert (await walked(pacs(live.port, verify="commitment-or-query")))["query"].result is WARNING
        assert "query" not in await walked(pacs(live.port, verify="commitment"))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "PROTOCOL_ERROR"),
        (b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00", "ABORTED"),
        (b"", "CONNECTION_LOST"),
        (None, "NO_ANSWER"),
    ],
)
async def test_what_is_no_pacs_is_said(answer: bytes | None, code: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.settimeout(5)
                    if not peer.recv(4096) or answer is None:
                        stopping.wait(5)
                    else:
                        peer.sendall(answer)

        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()
        step = await the_failure(pacs(listener.getsockname()[1]))
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
    assert (step.name, step.code) == ("association", code)


# DICOMweb


@pytest.fixture
def web() -> Iterator[WebPacs]:
    with WebPacs() as server:
        yield server


async def test_a_server_that_answers_is_asked_for_nothing_that_exists(web: WebPacs) -> None:
    found = await walked(cloud(web.url))
    assert {step.result for step in found.values()} == {OK, SKIPPED}
    assert list(found)[-3:] == ["login", "answer", "query"]
    (request,) = web.requests
    assert (request.method, request.query["limit"]) == ("GET", "1")
    assert request.query["StudyInstanceUID"].startswith("2.25.")


@pytest.mark.parametrize(
    ("script", "name", "code"),
    [
        (saying(401), "query", "LOGIN_REFUSED"),
        (saying(403), "query", "FORBIDDEN"),
        (saying(404), "query", "NO_SERVICE"),
        (saying(503), "query", "UNAVAILABLE"),
        (saying(507), "query", "SERVER_ERROR"),
        (saying(407), "query", "UNEXPECTED_ANSWER"),
        (saying(200, b"<html>Welcome to our guest network</html>", "text/html"), "query", "NOT_DICOMWEB"),
        (saying(302, location="https://login.example.org/?next=x"), "answer", "REDIRECTED"),
        (hang_up, "answer", "CONNECTION_LOST"),
    ],
)
async def test_what_is_wrong_with_a_server_is_said_as_the_probe_says_it(
    web: WebPacs, script: Callable[[Request], Reply], name: str, code: str
) -> None:
    web.queries = script
    step = await the_failure(cloud(web.url))
    assert (step.name, step.code) == (name, code)
    assert (await probe(cloud(web.url), trusted=True)).code == code


async def test_clocks_that_differ_are_said(web: WebPacs) -> None:
    clock = ManualClock()
    clock.wall = CLOCK.now() - 3600
    found = await walked(cloud(web.url), clock)
    assert (found["answer"].result, found["answer"].code) == (WARNING, "CLOCKS_DIFFER")
    assert "60 minutes" in found["answer"].text
    assert found["query"].result is OK


async def test_a_login_that_cannot_be_made_is_said_and_no_secret(web: WebPacs, tmp_path: Path) -> None:
    token = tmp_path / "token"
    there = cloud(web.url, auth=Auth(type="bearer", token_file=token))
    step = await the_failure(there)
    assert (step.name, step.code) == ("login", "NO_CREDENTIALS")
    assert str(token) in step.text
    token.write_text("s3cret-t0ken\n")
    web.authorized = lambda header: header == "Bearer other"
    found = await walked(there)
    assert found["query"].code == "LOGIN_REFUSED"
    assert not any("s3cret" in json.dumps([s.text, s.advice]) for s in found.values())


async def test_a_server_of_tokens_that_refuses_is_the_step_of_the_login(web: WebPacs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    web.tokens = saying(401, b'{"error": "invalid_client"}', "application/json")
    login = Auth(type="oauth2", token_url=f"{web.origin}/token", client_id="edge", client_secret_file=secret)
    step = await the_failure(cloud(web.url, auth=login))
    assert (step.name, step.code) == ("login", "NO_CREDENTIALS")
    assert "invalid_client" in step.text
    assert "hunter2" not in step.text


# folders


async def test_a_folder_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    found = await walked(FolderDestination(name="archive", path=tmp_path))
    assert [(s.name, s.result) for s in found.values()] == [
        ("folder", OK),
        ("mounted", OK),
        ("room", OK),
        ("written", OK),
    ]
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - in a loop
    step = await the_failure(FolderDestination(name="archive", path=tmp_path / "none"))
    assert (step.name, step.code) == ("folder", "FOLDER_MISSING")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "FOLDER_FULL"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "FOLDER_FULL"),
        (OSError(errno.EACCES, "Permission denied"), "FOLDER_FAILED"),
        (OSError(errno.EROFS, "Read-only file system"), "FOLDER_FAILED"),
    ],
)
async def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, code: str
) -> None:
    def fail(_path: Path) -> None:
        raise error

    monkeypatch.setattr("edge.doctor.folder.write_and_remove", fail)
    step = await the_failure(FolderDestination(name="archive", path=tmp_path))
    assert (step.name, step.code) == ("written", code)
    assert str(error.strerror) in step.text


@pytest.mark.parametrize(("free", "result", "code"), [(0, FAILED, "FOLDER_FULL"), (1 << 20, WARNING, "FOLDER_SHORT")])
async def test_room_that_is_short_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, result: Result, code: str
) -> None:
    monkeypatch.setattr("edge.doctor.folder.free_bytes", lambda _path: free)
    step = (await walked(FolderDestination(name="archive", path=tmp_path)))["room"]
    assert (step.result, step.code) == (result, code)


async def test_a_folder_where_a_disk_should_be_mounted_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.doctor.folder.mount_of", lambda _path: Path("/"))
    (step,) = [s async for s in walk(tables.FOLDER[1:2], FolderVisit(FolderDestination(name="a", path=Path("/mnt/a"))))]
    assert (step.result, step.code) == (WARNING, "FOLDER_NOT_MOUNTED")
    monkeypatch.setattr("edge.doctor.folder.mount_of", lambda _path: Path("/mnt/a"))
    (step,) = [s async for s in walk(tables.FOLDER[1:2], FolderVisit(FolderDestination(name="a", path=Path("/mnt/a"))))]
    assert (step.result, step.text) == (OK, "on the file system at /mnt/a")


async def test_a_full_disk_below_a_folder_is_said_by_the_transport_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one = parcel(tmp_path, mr(1)[0], 1)
    monkeypatch.setattr("edge.forward.folder.os.fsync", full)
    archive = FolderTransport(FolderDestination(name="archive", path=tmp_path))
    (outcome,) = [outcome async for _, outcome in archive.send([one])]
    assert isinstance(outcome, Unreachable)
    assert outcome.code == "FOLDER_FULL"


async def test_a_share_that_hangs_ends_the_step_and_not_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr("edge.doctor.folder.is_there", lambda _path: hanging.wait(10))
    check = Check(name="folder", work=tables.FOLDER[0].work, late="FOLDER_MISSING", deadline=lambda _: 0.1)
    (step,) = [s async for s in walk((check,), FolderVisit(FolderDestination(name="a", path=tmp_path)))]
    hanging.set()
    assert (step.result, step.code) == (FAILED, "FOLDER_MISSING")
    assert "within 0.1 s" in step.text


# the box


async def test_a_box_that_was_never_started_is_looked_at_and_not_touched(tmp_path: Path) -> None:
    config = Config(storage=Storage(path=tmp_path / "storage", reserve=1))
    found = await steps(examine_box(config, None, CLOCK))
    assert (found["storage"].result, found["room"].result, found["written"].result) == (OK, OK, SKIPPED)
    assert (found["appliance"].result, found["appliance"].code) == (FAILED, "NOT_RUNNING")
    assert (found["listener"].result, found["modalities"].result) == (SKIPPED, SKIPPED)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - in a loop


@pytest.mark.parametrize(
    ("free", "result", "code"),
    [(9 << 20, OK, ""), (7 << 20, WARNING, "STORAGE_SHORT"), (4 << 20, FAILED, "STORAGE_FULL")],
)
async def test_room_is_compared_with_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, result: Result, code: str
) -> None:
    monkeypatch.setattr(box, "_room", lambda _path: (free, 1 << 40))
    config = Config(storage=Storage(path=tmp_path, reserve=4 << 20))
    step = (await steps(examine_box(config, None, CLOCK)))["room"]
    assert (step.result, step.code) == (result, code)


async def test_a_disk_that_can_only_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(os.statvfs(tmp_path))
    found[8] |= os.ST_RDONLY
    monkeypatch.setattr(box, "_entered", lambda _path: (os.statvfs_result(found), True))
    step = (await steps(examine_box(Config(storage=Storage(path=tmp_path)), None, CLOCK)))["storage"]
    assert (step.result, step.code) == (FAILED, "STORAGE_UNUSABLE")
    assert "can only be read" in step.text


async def test_a_storage_that_is_no_folder_and_a_wrong_clock_are_said(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.believed = False
    (tmp_path / "file").touch()
    found = await steps(examine_box(Config(storage=Storage(path=tmp_path / "file" / "x")), None, clock))
    assert (found["clock"].result, found["clock"].code) == (WARNING, "CLOCK_WRONG")
    assert (found["storage"].result, found["storage"].code) == (FAILED, "STORAGE_UNUSABLE")
    assert found["room"].untried


async def test_a_broker_is_walked_to_as_far_as_a_connection(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        found = await steps(examine_broker(Mqtt(url=f"mqtt://{LOOPBACK}:{broker.port}"), CLOCK))
        assert found["connection"].result is OK
    step = (await steps(examine_broker(Mqtt(url=f"mqtt://{LOOPBACK}:{free_port()}"), CLOCK)))["connection"]
    assert (step.result, step.code) == (FAILED, "REFUSED_CONNECTION")
    assert "is the broker running?" in step.text


# walking


async def test_a_step_that_fails_alone_stops_nothing_and_words_of_peers_stay_on_one_line() -> None:
    async def bad(_: object) -> Told:
        return Told(FAILED, "two\nlines\x1b[2J" + "x" * 999, "FAILED", "advice", Who.BOX)

    async def good(_: object) -> Told:
        return fine("echo")

    checks = (
        Check(name="images", work=bad, alone=True),
        Check(name="echo", work=good),
        Check(name="query", work=bad, when=lambda _: False),
        Check(name="room", work=bad),
        Check(name="written", work=good),
    )
    found = [step async for step in walk(checks, object())]
    assert [(s.name, s.result, s.untried) for s in found] == [
        ("images", FAILED, False),
        ("echo", OK, False),
        ("room", FAILED, False),
        ("written", SKIPPED, True),
    ]
    assert found[0].text.startswith("two?lines?[2J")
    assert len(found[0].text) == 500


# the command


rig = pytest.mark.rig


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "doctor", *arguments, "--config", str(folder / "edge.toml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )


@rig
def test_the_command_prints_each_step_and_exits_by_what_it_found(tmp_path: Path) -> None:
    with RawReceiver() as live:
        destinations = dimse("live", live.port) + dimse("gone", free_port())
        (tmp_path / "edge.toml").write_text(f'[storage]\npath = "{tmp_path / "storage"}"\n{destinations}')
        good = run(tmp_path, "live")
        assert (good.returncode, good.stderr) == (0, "")
        assert "  ok       C-ECHO            it answers 0000" in good.stdout
        assert good.stdout.rstrip().endswith("All is well.")
        bad = run(tmp_path, "gone")
        assert bad.returncode == 1
        assert "  FAILED   connection        127.0.0.1 port" in bad.stdout
        assert "whom to call      who runs the destination (code REFUSED_CONNECTION)" in bad.stdout
        assert "not tried         association, C-ECHO, images" in bad.stdout
        assert bad.stdout.rstrip().endswith("FAILED: gone (connection)")
        unknown = run(tmp_path, "pcas")
        assert unknown.returncode == 2
        assert "the configuration has: live, gone." in unknown.stderr
        document = json.loads(run(tmp_path, "--json").stdout)
    assert document["ok"] is False
    assert [(walk["kind"], walk["name"], walk["ok"]) for walk in document["walks"]] == [
        ("dimse", "live", True),
        ("dimse", "gone", False),
        ("box", "", False),
    ]
    assert {step["name"] for walk in document["walks"] for step in walk["steps"]} <= set(TITLES)
    assert not (tmp_path / "storage").exists()


@rig
def test_a_running_appliance_is_asked_and_not_disturbed(tmp_path: Path) -> None:
    known = '[[modality]]\nname = "CT1"\nae_title = "CT1"\naddress = "192.0.2.20"\n'
    with RawReceiver() as live, Edge(tmp_path, dimse("live", live.port), more=known) as appliance:
        before = appliance.json("status")
        done = run(tmp_path, "--json")
        document = json.loads(done.stdout)
        (found,) = [walk["steps"] for walk in document["walks"] if walk["kind"] == "box"]
        by_name = {step["name"]: step for step in found}
        assert by_name["appliance"]["result"] == "ok"
        assert by_name["listener"]["result"] == "ok", by_name["listener"]
        assert by_name["modalities"]["result"] == "ok"
        assert by_name["written"]["result"] == "ok"
        after = wait_for(lambda: _idle(appliance), 10, "no association open")
        assert [f["code"] for f in after["findings"]] == [f["code"] for f in before["findings"]]
        assert after["intake"]["refused"] == 0
        assert not list(appliance.storage.glob(".edge-doctor*"))
        assert (done.returncode == 0) is document["ok"]


@pytest.mark.parametrize(
    ("calling", "called", "address", "uid", "let_in"),
    [
        ("EDGE", "EDGE", LOOPBACK, VERIFICATION, True),
        ("EDGE", "EDGE", "::1", VERIFICATION, True),
        ("EDGE", "EDGE", "192.0.2.9", VERIFICATION, False),
        ("EDGE", "EDGE", LOOPBACK, USUAL["CT"], False),
        ("EDGE2", "EDGE", LOOPBACK, VERIFICATION, False),
        ("OTHER", "OTHER", LOOPBACK, VERIFICATION, False),
    ],
)
def test_the_box_is_let_in_by_itself_for_an_echo_and_by_nobody_else(
    calling: str, called: str, address: str, uid: str, *, let_in: bool
) -> None:
    policy = policy_of(
        Config(receive=Receive(ae_titles=("EDGE", "EDGE2")), modality=(Modality(name="CT", ae_title="CT"),))
    )
    contexts = (ProposedContext(1, uid, (IMPLICIT_LITTLE,)),)
    request = AssociateRequest(called=called, calling=calling, contexts=contexts, user=UserInformation(max_pdu=0))
    assert (policy.admit(request, address) is None) is let_in


def _idle(appliance: Edge) -> Any:
    snapshot = appliance.json("status")
    return snapshot if snapshot["intake"]["associations"] == 0 else None


# what is documented


def codes() -> set[str]:
    """Every code that says why a destination cannot be reached, in the sources of transports, probes and the doctor."""
    found = set[str]()
    names = ("reach", "unreached", "web", "folder", "probe", "outcome")
    paths = [ROOT / "edge" / "forward" / f"{name}.py" for name in names]
    for path in [*paths, *(ROOT / "edge" / "doctor").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Unreachable" | "failed" | "doubtful" | "tell"), args=[first, *_]):
                    found |= _texts(first)
                case ast.Call(func=ast.Name(id="Probe"), args=[_, second, *_]):
                    found |= _texts(second)
                case ast.Call(func=ast.Name(id="Check"), keywords=keywords):
                    found |= {text for k in keywords if k.arg == "late" for text in _texts(k.value)}
                case ast.Assign(targets=[ast.Name(id="code")], value=value):
                    found |= _texts(value)
                case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="code"), *_])], value=ast.Tuple(elts=[v, *_])):
                    found |= _texts(v)
    return found


def _texts(node: ast.expr) -> set[str]:
    values = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {value for value in values if re.fullmatch(r"[A-Z][A-Z_0-9]+", value)}


def test_every_code_has_a_problem_and_every_problem_is_somewhere() -> None:
    assert {"REFUSED_CONNECTION", "NO_LINK", "FILTERED", "LOGIN_REFUSED", "FOLDER_FULL", "NO_ECHO"} <= codes()
    assert codes() - set(PROBLEMS) == set()
    assert set(PROBLEMS) - codes() - {"A700", STATUS} == set()


def test_every_problem_is_documented_as_it_is_told() -> None:
    table = rows(section(read("docs/problems.md"), "Codes"), "code", "meaning", "what to do", "whom to call")
    assert [(quote(code), *rest) for code, *rest in table] == [
        (p.code, p.meaning, p.advice, p.who) for p in PROBLEMS.values()
    ]


def test_every_rejection_and_every_step_is_documented() -> None:
    page = read("docs/problems.md")
    head = ("source", "reason", "says", "what to do", "whom to call")
    assert [(int(s), int(r), *rest) for s, r, *rest in rows(section(page, "Rejections"), *head)] == [
        (*reason, _REASONS[reason], advice, who) for reason, (advice, who) in REJECTIONS.items()
    ]
    every: Sequence[Check[Any]] = (*tables.DIMSE, *tables.WEB, *tables.FOLDER, *tables.BOX)
    named = {quote(step) for step, *_ in rows(section(page, "Steps"), "step", "to", "looks at")}
    assert named == {check.name for check in every}
    assert named <= set(TITLES)
    assert set(REJECTIONS) == set(_REASONS)


def test_every_sentence_is_used_and_a_code_that_is_new_has_advice_too() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "edge" / "doctor").glob("*.py"))
    assert [key for key in TEXTS if sources.count(f'"{key}"') < 2] == []
    assert problem("A701").code == "A700"
    assert problem("0122").code == STATUS
    assert problem("SOMETHING_NEW").code == "FAILED"
    told = diagnose(AbortedError(Abort(2, 0)), pacs(104))
    assert problem(told.code).code == "ABORTED"
