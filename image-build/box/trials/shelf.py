"""The server that boxes fetch updates from: https, answers ranges, and its line may break once on purpose."""

import datetime as dt
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_CHUNK: Final = 1 << 20


class Shelf:
    """Gives out the files of ``folder`` on loopback, inside its context, by the name ``host``, an IP address.

    ``break_at``: bytes after which the connection is dropped, once; None: never. ``asked``: what was asked for, as path
    and offset.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self.break_at: int | None = None
        self.asked: list[tuple[str, int]] = []
        self.certificate = folder / "shelf.pem"
        """What whoever asks must believe."""
        key = folder / "shelf.key"
        _certify(self.certificate, key, host)
        shelf = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shelf.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"https://{host}:{self._http.server_port}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        """Answer a GET."""
        path = self._folder / Path(to.path).name
        if not path.is_file() or path.suffix == ".key":
            to.send_error(404)
            return
        size, tag = path.stat().st_size, f'"{path.stat().st_mtime_ns:x}"'
        wanted = to.headers.get("Range", "") if to.headers.get("If-Range", tag) == tag else ""
        offset = int(wanted[6:-1]) if wanted else 0
        self.asked.append((path.name, offset))
        to.send_response(206 if offset else 200)
        if offset:
            to.send_header("Content-Range", f"bytes {offset}-{size - 1}/{size}")
        to.send_header("ETag", tag)
        to.send_header("Content-Length", str(size - offset))
        to.end_headers()
        to.close_connection = True
        with path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(_CHUNK):
                to.wfile.write(piece)
                if self.break_at is not None and file.tell() >= self.break_at:
                    self.break_at = None
                    return


def _certify(certificate: Path, key: Path, host: str) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "updates of the bench")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
