"""A DICOMweb server that does as it is told: STOW-RS and QIDO-RS over HTTP/1.1, plain or in TLS, and tokens.

What it stores is by the truth of what came; what it says is up to its script, one reply for each STOW-RS request and
as it should be when the script has run out.
"""

import json
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Final, Protocol, Self
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydicom import dcmread

from tests.peers.objects import part10_bytes
from tests.peers.part10 import sha256
from tests.peers.ports import LOOPBACK, free_port

ROOT: Final = "/dicom-web"
JSON: Final = "application/dicom+json"
XML: Final = "application/dicom+xml"
_PIECE: Final = 1 << 16


@dataclass(frozen=True)
class Instance:
    """One Part 10 file as it came."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    digest: bytes
    """SHA-256 of the dataset, 32 bytes."""
    file: bytes = field(repr=False)


@dataclass(frozen=True)
class Request:
    """A request as it came; `whole`: whether its body came to its end."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By names in small letters."""
    body: bytes = field(repr=False)
    whole: bool
    at: float
    """When it came, by the monotonic clock, in seconds."""
    instances: tuple[Instance, ...] = ()

    @property
    def uids(self) -> list[str]:
        return [each.sop_instance_uid for each in self.instances]

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass(frozen=True)
class Reply:
    """What is answered. `cut`: bytes of the body that are sent before the connection is closed."""

    status: int
    body: bytes = b""
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    stored: bool = True
    """Whether what is sent is kept."""


Script = Callable[[Request], Reply]
"""What to answer; one that raises `HangUpError` closes the connection instead."""


class HangUpError(Exception):
    """The connection is closed instead of an answer."""


def stored(
    request: Request,
    *,
    failed: Mapping[str, int] | None = None,
    warned: Mapping[str, int] | None = None,
    omitted: Iterable[str] = (),
    status: int = 200,
) -> Reply:
    """The answer of PS3.18 Table I.2.1, as it is wanted: each instance in one of the lists, but for those `omitted`."""
    failed, warned, omitted = failed or {}, warned or {}, set(omitted)
    lists: dict[str, list[dict[str, Any]]] = {"00081199": [], "00081198": []}
    for each in request.instances:
        uid = each.sop_instance_uid
        if uid in omitted:
            continue
        item: dict[str, Any] = {
            "00081150": {"vr": "UI", "Value": [each.sop_class_uid]},
            "00081155": {"vr": "UI", "Value": [uid]},
        }
        if uid in failed:
            lists["00081198"].append(item | {"00081197": {"vr": "US", "Value": [failed[uid]]}})
            continue
        item["00081190"] = {"vr": "UR", "Value": [f"http://elsewhere.example.org/{uid}"]}
        if uid in warned:
            item["00081196"] = {"vr": "US", "Value": [warned[uid]]}
        lists["00081199"].append(item)
    answer = {tag: {"vr": "SQ", "Value": items} for tag, items in lists.items() if items}
    xml = request.headers["accept"] == XML
    body = as_xml(answer) if xml else json.dumps(answer).encode()
    return Reply(status, body, XML if xml else JSON)


def failing(reasons: Callable[[Request], Mapping[str, int]], status: int = 202) -> Script:
    """Fail some of the instances of a request."""

    def script(request: Request) -> Reply:
        failed = reasons(request)
        kept = [each for each in request.instances if each.sop_instance_uid not in failed]
        reply = stored(request, failed=failed, status=status)
        return Reply(status, reply.body, stored=bool(kept))

    return script


def saying(status: int, body: bytes = b"", media_type: str = "text/plain", **headers: str) -> Script:
    """Answer with a status and keep nothing."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Reply(status, body, media_type, named, stored=False)


def hang_up(_: Request) -> Reply:
    """Close the connection instead of answering, having kept nothing."""
    raise HangUpError


def knowing(pacs: "WebPacs") -> Script:
    """Fail what is stored already as that: the reason B00E, which many servers give."""

    def script(request: Request) -> Reply:
        there = {uid: 0xB00E for uid in request.uids if uid in pacs.stored}
        return stored(request, failed=there, status=409 if there else 200)

    return script


def keep_and_hang_up(pacs: "WebPacs") -> Script:
    """Keep what came, and lose the answer."""

    def script(request: Request) -> Reply:
        pacs.keep(request)
        raise HangUpError

    return script


def as_xml(answer: Mapping[str, Any]) -> bytes:
    """The same in the Native DICOM Model (PS3.19 A.1)."""

    def attribute(tag: str, given: Mapping[str, Any]) -> str:
        values = enumerate(given["Value"], 1)
        inner = "".join(
            f'<Item number="{number}">{"".join(attribute(t, v) for t, v in value.items())}</Item>'
            if isinstance(value, dict)
            else f'<Value number="{number}">{value}</Value>'
            for number, value in values
        )
        return f'<DicomAttribute tag="{tag}" vr="{given["vr"]}">{inner}</DicomAttribute>'

    inner = "".join(attribute(tag, given) for tag, given in answer.items())
    namespace = 'xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"'
    return f'<?xml version="1.0" encoding="UTF-8"?><NativeDicomModel {namespace}>{inner}</NativeDicomModel>'.encode()


class WebPacs:
    """The server; its own knowledge in `stored` and `requests`, for tests to look at and to change."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        authorized: Callable[[str], bool] | None = None,
        script: Iterable[Script] = (),
        page: int | None = None,
    ) -> None:
        """`authorized` judges the Authorization header; `page`: the most that a query gives at once."""
        self.port = free_port()
        self.script: deque[Script] = deque(script)
        self.always: Script = stored
        """What is answered when the script has run out."""
        self.authorized = authorized or (lambda _: True)
        self.page = page
        self.queries: Script | None = None
        """What is answered to queries; None: the truth."""
        self.tokens: Script | None = None
        """What is answered to POST /token; None: there is none."""
        self.early: Callable[[Request], Reply | None] = lambda _: None
        """What is answered to the head of a POST, its body unread; None: the body is read first.

        A status of 1xx goes before the answer proper; with 0 the connection is closed.
        """
        self.lingers = 0.0
        """Seconds for which the connection stands, unread, after an early answer; 0: it is reset at once."""
        self.closing = threading.Event()
        self.connections = 0
        self.accepts = {JSON, XML}
        self.stored: dict[str, Instance] = {}
        self.requests: list[Request] = []
        self._tls = tls
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return self.origin + ROOT

    @property
    def posts(self) -> list[Request]:
        """The STOW-RS requests."""
        return [each for each in self.requests if each.method == "POST" and each.path == f"{ROOT}/studies"]

    @property
    def asked(self) -> list[Request]:
        """The queries."""
        return [each for each in self.requests if each.method == "GET"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.closing.clear()
        self._server = _Server((LOOPBACK, self.port), self, self._tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="web pacs")
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        server, self._server = self._server, None
        self.closing.set()
        if server is not None and self._thread is not None:
            server.shutdown()
            self._thread.join()
            server.cut()
            server.server_close()

    def keep(self, request: Request, failed: Container[str] = ()) -> None:
        self.stored |= {e.sop_instance_uid: e for e in request.instances if e.sop_instance_uid not in failed}

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        if request.path == "/token":
            return self.tokens(request) if self.tokens else Reply(404)
        if not self.authorized(request.authorization):
            return Reply(401, stored=False)
        if request.method == "POST":
            return self._store(request)
        return self.queries(request) if self.queries is not None else self._find(request)

    def _store(self, request: Request) -> Reply:
        if request.path != f"{ROOT}/studies" or not request.whole:
            return Reply(404 if request.whole else 400)
        if request.headers["accept"] not in self.accepts:
            return Reply(406)
        reply = (self.script.popleft() if self.script else self.always)(request)
        if reply.stored and reply.status < 300:
            self.keep(request, _failed(reply))
        return reply

    def _find(self, request: Request) -> Reply:
        found = list(self.stored.values())
        if path := re.fullmatch(rf"{ROOT}/studies/([\d.]+)/series/([\d.]+)/instances", request.path):
            found = [each for each in found if (each.study_uid, each.series_uid) == path.groups()]
        elif request.path == f"{ROOT}/instances":
            found = [each for each in found if each.sop_instance_uid == request.query.get("SOPInstanceUID")]
        elif request.path != f"{ROOT}/studies":
            return Reply(404)
        first = int(request.query.get("offset", 0))
        most = min(int(request.query.get("limit", 1000)), self.page or 1000)
        rows = [
            {
                "0020000D": {"vr": "UI", "Value": [each.study_uid]},
                "00080018": {"vr": "UI", "Value": [each.sop_instance_uid]},
            }
            for each in found[first : first + most]
        ]
        return Reply(200, json.dumps(rows).encode()) if rows else Reply(204)


def _failed(reply: Reply) -> set[str]:
    if not reply.body.startswith(b"{"):
        return set()
    items = json.loads(reply.body).get("00081198", {}).get("Value", [])
    return {item["00081155"]["Value"][0] for item in items}


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], pacs: WebPacs, tls: ssl.SSLContext | None) -> None:
        self.pacs = pacs
        self._tls = tls
        self._open: set[socket.socket] = set()
        super().__init__(address, Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        sock.settimeout(20)
        self.pacs.connections += 1
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._open.add(sock)
        return sock, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a connection ends with is no matter of the server's."""


class _Served(Protocol):
    pacs: WebPacs


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Served  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._serve(b"", whole=True)

    def do_POST(self) -> None:
        if self._answered_early():
            return
        length = int(self.headers["Content-Length"])
        data = bytearray()
        with suppress(OSError):
            while len(data) < length and (piece := self.rfile.read1(min(_PIECE, length - len(data)))):
                data += piece
        self._serve(bytes(data), whole=len(data) == length)

    def _answered_early(self) -> bool:
        pacs = self.server.pacs
        request = received(self.command, urlsplit(self.path), dict(self.headers.items()), b"", whole=False)
        if (reply := pacs.early(request)) is None:
            return False
        if 100 <= reply.status < 200:
            self.wfile.write(f"HTTP/1.1 {reply.status} Wait\r\n\r\n".encode())
            return False
        pacs.requests.append(request)
        if reply.status:
            self._reply(reply)
        self.close_connection = True
        pacs.closing.wait(pacs.lingers)
        return True

    def _serve(self, body: bytes, *, whole: bool) -> None:
        request = received(self.command, urlsplit(self.path), dict(self.headers.items()), body, whole=whole)
        try:
            reply = self.server.pacs.answer(request)
        except HangUpError:
            self.close_connection = True
            return
        if not whole:
            self.close_connection = True
            return
        self._reply(reply)

    def _reply(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.body:
            self.send_header("Content-Type", reply.media_type)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body[: reply.cut])
        if reply.cut is not None:
            self.close_connection = True

    @classmethod
    def serve(cls, sock: socket.socket, pacs: WebPacs) -> None:
        """Serve one connection that somebody else accepted."""
        cls(sock, sock.getpeername(), SimpleNamespace(pacs=pacs))  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of who calls it
        """Nothing is logged."""


def received(method: str, at: SplitResult, headers: Mapping[str, str], body: bytes, *, whole: bool) -> Request:
    """A request, read as far as it is whole."""
    named = {name.lower(): value for name, value in headers.items()}
    query = {name: values[0] for name, values in parse_qs(at.query).items()}
    content_type = named.get("content-type", "")
    instances = tuple(_instances(content_type, body)) if whole and "multipart" in content_type else ()
    return Request(method, at.path, query, named, body, whole, time.monotonic(), instances)


def _instances(content_type: str, body: bytes) -> Iterable[Instance]:
    boundary = re.search(r"boundary=([^;\s]+)", content_type)
    assert boundary is not None
    assert 'type="application/dicom"' in content_type
    between = f"--{boundary[1]}".encode()
    assert body.startswith(between + b"\r\n")
    assert body.endswith(between + b"--\r\n")
    for part in body.split(between)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        assert b"Content-Type: application/dicom" in head
        file = content[:-2]
        given = part10_bytes(file)
        data = dcmread(BytesIO(file), stop_before_pixels=True)
        yield Instance(
            given.sop_class_uid,
            given.sop_instance_uid,
            str(data.StudyInstanceUID),
            str(data.SeriesInstanceUID),
            sha256([given.dataset], pad=False),
            file,
        )
