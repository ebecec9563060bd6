"""TLS: contexts from the configuration's files, kept current, and what the certificates in them say.

TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only, no renegotiation, no compression, no resumption,
as BCP 195 asks (RFC 9325; DICOM PS3.15 B.12). What a file lacks is a `TlsError` whose text says what, why and
what to do; the content of a key is never repeated, and a key with a passphrase is refused, for nobody is there to type.
"""

import contextlib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from edge.config import ClientTls, Config, Destination, DicomwebDestination, DimseDestination, Mqtt, ReceiveTls
from edge.phrase import N_, say

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all good (RFC 9325 4.2)."""
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, for which Python has no name."""
_WRONG_DATES: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""
_WRONG_NAME: Final = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
"""Issuer not found, self-signed, signature of a leaf not verifiable."""


class TlsError(Exception):
    """A certificate or key cannot be used. ``key`` is the field of the configuration that names the file."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Validity(msgspec.Struct, frozen=True):
    """Whose certificate, and between which times it is valid (seconds since 1970)."""

    name: str
    begins: float
    ends: float


def server_context(config: ReceiveTls) -> ssl.SSLContext:
    """Make the listener's context; with ``client_ca_file`` a peer must show a certificate. Raises `TlsError`."""
    context = _hardened(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _load_own(context, config.certificate_file, config.key_file)
    if config.client_ca_file is not None:
        _load_authorities(context, "client_ca_file", config.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(config: ClientTls) -> ssl.SSLContext:
    """Make a destination's context: its name or address is verified, always. Raises `TlsError`."""
    context = _hardened(ssl.PROTOCOL_TLS_CLIENT)
    if config.ca_file is not None:
        _load_authorities(context, "ca_file", config.ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if config.certificate_file is not None:
        _load_own(context, config.certificate_file, config.key_file)
    elif config.key_file is not None:
        raise TlsError("key_file", N_("there is a key, but no certificate_file: name both, or neither"))
    return context


def token_context(config: ClientTls) -> ssl.SSLContext:
    """Make the context for a server that gives out tokens: the system's authorities and those of ``ca_file``.

    It may be anybody's, so it is shown no certificate of ours. Raises `TlsError`.
    """
    context = client_context(ClientTls())
    if config.ca_file is not None:
        _load_authorities(context, "ca_file", config.ca_file)
    return context


def _hardened(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    # a peer's own certificate may be trusted by itself, without those above it
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    _readable("certificate_file", certificate)
    _readable("key_file", key or certificate)
    if not _has_certificate(certificate):
        raise TlsError(
            "certificate_file",
            say("{path} holds no certificate in PEM form: give one that begins with BEGIN", path=certificate),
        )
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _PassphraseError:
        raise TlsError(
            "key_file",
            say(
                "the key in {path} has a passphrase: store it without one, readable by edge only",
                path=key or certificate,
            ),
        ) from None
    except ssl.SSLError as e:
        if e.reason == "KEY_VALUES_MISMATCH":
            text = say(
                "the key in {key} does not belong to the certificate in {path}: give its own",
                key=key or certificate,
                path=certificate,
            )
            raise TlsError("key_file", text) from None
        if e.reason and ("TOO_SMALL" in e.reason or "TOO_WEAK" in e.reason):
            text = say(
                "the certificate in {path} is too weak ({said}): have a stronger one made",
                path=certificate,
                said=e.reason.lower(),
            )
            raise TlsError("certificate_file", text) from None
        raise TlsError(
            "key_file", say("{path} holds no usable key in PEM form: give the right file", path=key or certificate)
        ) from None


class _PassphraseError(Exception):
    pass


def _no_passphrase() -> str:
    raise _PassphraseError


def _load_authorities(context: ssl.SSLContext, key: str, path: Path) -> None:
    _readable(key, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise TlsError(
            key, say("{path} holds no certificates in PEM form: give those of who signs", path=path)
        ) from None


def _readable(key: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as e:
        text = say(
            "{path} cannot be read ({error}): it must be a file that this user may read",
            path=path,
            error=e.strerror or e,
        )
        raise TlsError(key, text) from None


def _has_certificate(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return b"-----BEGIN" in path.read_bytes() and b"CERTIFICATE-----" in path.read_bytes()
    return False


def validity(path: Path) -> Validity | None:
    """Read whose certificate is the first in ``path`` and when it is valid; None where there is none to be read."""
    from cryptography import x509  # noqa: PLC0415 - large, and only for who uses TLS

    try:
        first = x509.load_pem_x509_certificate(path.read_bytes())
        begins, ends = first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
        return Validity(first.subject.rfc4514_string()[:100], begins, ends)
    except (OSError, ValueError):
        return None


class Credentials:
    """The context of one side, made anew by `reload`; a file that cannot be used leaves the old one in force."""

    def __init__(self, where: str, certificate: Path | None, make: Callable[[], ssl.SSLContext]) -> None:
        self.where = where
        """The table of the configuration, such as ``receive.tls``."""
        self.trouble = ""
        """What is wrong with the files; empty where nothing is."""
        self._certificate = certificate
        self._make = make
        self._context: ssl.SSLContext | None = None
        self._validity: Validity | None = None
        self.reload()

    def reload(self) -> bool:
        """Read the files again. Tell whether they are in force now; if not, `trouble` says why."""
        try:
            context = self._make()
        except TlsError as e:
            self.trouble = f"{self.where}.{e.key}: {e}"
            return False
        self._context, self.trouble = context, ""
        self._validity = validity(self._certificate) if self._certificate is not None else None
        return True

    @property
    def validity(self) -> Validity | None:
        """When the certificate in force is valid; None where there is none."""
        return self._validity

    def context(self) -> ssl.SSLContext | None:
        """The context in force; None while there was never one."""
        return self._context

    def judging_dates(self, *, trusted: bool) -> ssl.SSLContext | None:
        """Return the context in force, which looks at the dates of peers only where the clock can be ``trusted``.

        A box whose clock was lost still knows who holds which key; it would refuse every modality for nothing else.
        """
        if self._context is not None:
            flags = self._context.verify_flags
            self._context.verify_flags = flags & ~_NO_CHECK_TIME if trusted else flags | _NO_CHECK_TIME
        return self._context


def receive_credentials(config: ReceiveTls) -> Credentials:
    """Return the listener's."""
    return Credentials("receive.tls", config.certificate_file, lambda: server_context(config))


def destination_credentials(name: str, config: ClientTls) -> Credentials:
    """Return those of the destination ``name``."""
    return Credentials(f"destination.{name}.tls", config.certificate_file, lambda: client_context(config))


def _of(destination: Destination) -> ClientTls | None:
    match destination:
        case DimseDestination():
            return destination.tls
        case DicomwebDestination() if destination.secure:
            return destination.tls or ClientTls()
        case _:
            return None


def every(config: Config) -> tuple[Credentials, ...]:
    """Return all that ``config`` names, the listener's first."""
    found = [] if config.receive.tls is None else [receive_credentials(config.receive.tls)]
    found += [
        destination_credentials(destination.name, tls)
        for destination in config.destination
        if (tls := _of(destination)) is not None
    ]
    if config.mqtt is not None and config.mqtt.url.startswith("mqtts:"):
        found.append(broker_credentials(config.mqtt))
    if config.dashboard.enabled and config.dashboard.certificate_file is not None:
        found.append(dashboard_credentials(config.dashboard.certificate_file, config.dashboard.key_file))
    return tuple(found)


def broker_credentials(mqtt: Mqtt) -> Credentials:
    """Return those of the MQTT broker."""
    files = ClientTls(ca_file=mqtt.ca_file, certificate_file=mqtt.certificate_file, key_file=mqtt.key_file)
    return Credentials("mqtt", mqtt.certificate_file, lambda: client_context(files))


def dashboard_credentials(certificate: Path, key: Path | None) -> Credentials:
    """Return those of the dashboard; without ``key`` it is in the file of the certificate."""
    files = ReceiveTls(certificate_file=certificate, key_file=key or certificate)
    return Credentials("dashboard", certificate, lambda: server_context(files))


def date(timestamp: float) -> str:
    """Write the day of ``timestamp`` (seconds since 1970)."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")


class Failure(msgspec.Struct, frozen=True):
    """Why a TLS connection to a server was not made: ``kind`` is one of ``dates name authority peer refused``."""

    kind: str
    text: str


def failure(error: BaseException | None) -> Failure | None:
    """Tell what ``error``, or what caused it, says of TLS; None where it says nothing."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__
    if error is None:
        return None
    if not isinstance(error, ssl.SSLCertVerificationError):
        return Failure("refused", (error.reason or str(error)).replace("_", " ").lower())
    code = error.verify_code
    if code in _WRONG_DATES:
        kind = "dates"
    elif code in _WRONG_NAME:
        kind = "name"
    elif code in _UNKNOWN_AUTHORITY:
        kind = "authority"
    else:
        kind = "peer"
    return Failure(kind, error.verify_message.rstrip("."))
