"""HTTP/2 in front of a scripted DICOMweb server, for one connection after another, in TLS with ALPN (RFC 9113)."""

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.peers.dicomweb import Handler, HangUpError, Reply, WebPacs, received
from tests.peers.ports import LOOPBACK

_PIECE = 1 << 16
_LATER = 0.3
"""Seconds after which what is garbled follows the head, which is read by then."""


@dataclass
class _Taken:
    """A request, as far as it came."""

    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)


class Http2:
    """Answers as `pacs`, which is not started, does; on the port that is its. `context` offers h2, then HTTP/1.1.

    An early answer of `pacs` comes before its body is taken. `resets`: the rest is refused then, else just never asked
    for. `garbled`: frames that are none follow the head of an answer. `leaves`: after how many requests of a connection
    it says GOAWAY to the next one.
    """

    def __init__(self, pacs: WebPacs, context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["h2", "http/1.1"])
        self.resets = False
        self.garbled = False
        self.status = ""
        """What stands for the status instead of a number; empty: the number."""
        self.leaves: int | None = None
        self.connections = 0
        self.pacs = pacs
        self._context = context
        self._listener = socket.create_server((LOOPBACK, pacs.port))
        self._open: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="http2")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._open is not None:
            with suppress(OSError):
                self._open.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                self.connections += 1
                with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as sock:
                    self._open = sock
                    self._serve(sock)

    def _serve(self, sock: ssl.SSLSocket) -> None:
        if sock.selected_alpn_protocol() != "h2":
            Handler.serve(sock, self.pacs)
            return
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        peer.initiate_connection()
        sock.sendall(peer.data_to_send())
        taken: dict[int, _Taken] = {}
        while data := sock.recv(_PIECE):
            try:
                for event in peer.receive_data(data):
                    self._take(peer, event, taken)
            except h2.exceptions.ProtocolError:
                return
            sock.sendall(peer.data_to_send())

    def _take(self, peer: h2.connection.H2Connection, event: h2.events.Event, taken: dict[int, "_Taken"]) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = {str(name): str(value) for name, value in event.headers}
            if self.leaves == len(taken):
                peer.close_connection(last_stream_id=event.stream_id - 2)
            elif not self._answered_early(peer, event.stream_id, headers):
                taken[event.stream_id] = _Taken(headers)
        elif isinstance(event, h2.events.DataReceived) and event.stream_id in taken:
            taken[event.stream_id].body += event.data
            peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id in taken:
            self._answer(peer, event.stream_id, taken[event.stream_id].headers, bytes(taken[event.stream_id].body))

    def _answer(self, peer: h2.connection.H2Connection, stream: int, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(headers[":path"])
        try:
            reply = self.pacs.answer(received(headers[":method"], parts, headers, body, whole=True))
        except HangUpError:
            peer.reset_stream(stream)
            return
        self._reply(peer, stream, reply)

    def _answered_early(self, peer: h2.connection.H2Connection, stream: int, headers: dict[str, str]) -> bool:
        request = received(headers[":method"], urlsplit(headers[":path"]), headers, b"", whole=False)
        if headers[":method"] != "POST" or (reply := self.pacs.early(request)) is None:
            return False
        self.pacs.requests.append(request)
        self._reply(peer, stream, reply)
        if self.resets:
            peer.reset_stream(stream)
        return True

    def _reply(self, peer: h2.connection.H2Connection, stream: int, reply: Reply) -> None:
        status = self.status or str(reply.status)
        fields = [(":status", status), ("content-type", reply.media_type), *reply.headers.items()]
        peer.send_headers(stream, fields, end_stream=not reply.body)
        if self.garbled:
            assert self._open is not None
            self._open.sendall(peer.data_to_send())
            threading.Event().wait(_LATER)
            self._open.sendall(b"\0\0\x05\0\0\0\0\0\0HELLO")
        if reply.body:
            peer.send_data(stream, reply.body, end_stream=True)
