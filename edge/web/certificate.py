"""The certificate that the box makes for itself, where none is configured: ``identity/dashboard.pem``, key and all.

Nobody signed it, so browsers warn once; its fingerprint is what a person compares with the label. It is kept until it
ends, whatever the box is called meanwhile: another certificate is another fingerprint.
"""

import contextlib
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from edge.clock import Clock
from edge.fsync import replace_synced
from edge.tls import validity

NAME: Final = "dashboard.pem"
_DAYS: Final = 820
"""As long as every browser believes one (825 days), less some slack."""
_RENEWED: Final = 30 * 86_400.0
"""Seconds before its end at which another is made."""
_BORN: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""It begins no later than this program, for boxes that do not know the time."""


def ensure(identity: Path, names: Iterable[str], clock: Clock) -> Path:
    """Return the file with certificate and key, made where there is none that lasts.

    Raises OSError where there is none and none can be made.
    """
    path = identity / NAME
    there = validity(path)
    # one that begins in time to come was made by a clock that was wrong
    if there is None or (clock.trusted() and not there.begins <= clock.now() <= there.ends - _RENEWED):
        now = datetime.fromtimestamp(clock.now(), UTC) if clock.trusted() else _BORN
        try:
            identity.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_synced(path, _make(tuple(dict.fromkeys(names)), max(now, _BORN)), 0o600)
        except OSError:
            if there is None:
                raise
            # a disk that takes nothing now: one near its end is better than no dashboard
    return path


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of the first certificate in ``path``, in pairs of digits as browsers show it.

    Raises OSError, ValueError.
    """
    text = path.read_text("ascii")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = text[text.index(begin) : text.index(end) + len(end)]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).digest().hex(":").upper()


def own_names(address: str, further: Iterable[str]) -> list[str]:
    """Every name and address by which this box may be reached, as far as it knows."""
    host = socket.gethostname()
    found = [host, f"{host}.local", "localhost", "127.0.0.1", "::1", *further]
    try:
        listed = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        listed = []
    found += [*listed, *_outward()]
    unspecified = {"0.0.0.0", "::"}  # noqa: S104 - names no interface
    return found + ([address] if address not in unspecified else [])


def _outward() -> list[str]:
    """The address from which the box would leave its network; nothing is sent."""
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((somewhere, 9))
                return [str(probe.getsockname()[0])]
            except OSError:
                continue
    return []


def _make(names: tuple[str, ...], begins: datetime) -> bytes:
    from cryptography import x509  # noqa: PLC0415 - large, and only for who uses TLS
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    def general(name: str) -> x509.GeneralName | None:
        with contextlib.suppress(ValueError):
            return x509.IPAddress(ipaddress.ip_address(name.partition("%")[0]))
        # what no certificate can hold, such as letters beyond ASCII, is left out
        with contextlib.suppress(ValueError):
            return x509.DNSName(name) if name else None
        return None

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64] or "dicom-edge")])
    alternatives = filter(None, dict.fromkeys(map(general, names)))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - timedelta(days=1))
        .not_valid_after(begins + timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(list(alternatives)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private
