"""The raw sender, within TLS."""

import socket
import ssl

from tests.peers.line import Line
from tests.peers.ports import LOOPBACK
from tests.peers.sender import RawSender


class TlsSender(RawSender):
    """As `RawSender`, in the `context` given; `certificate` is the peer's, as `SSLSocket.getpeercert` has it."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        calling: str = "RAW",
        *,
        timeout: float = 30.0,
        source: str = "",
    ) -> None:
        super().__init__(port, calling=calling, timeout=timeout, source=source)
        self.context = context
        self.certificate: dict[str, object] = {}

    def connect(self) -> None:
        source = (self.source, 0) if self.source else None
        plain = socket.create_connection(self.address, self.timeout, source_address=source)
        try:
            sock = self.context.wrap_socket(plain, server_hostname=LOOPBACK)
        except BaseException:
            plain.close()
            raise
        self.certificate = dict(sock.getpeercert() or {})
        self._line = Line(sock)
