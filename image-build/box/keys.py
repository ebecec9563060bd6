"""The key that signs updates, and what the box trusts.

A release is signed with a key that never lies on a build machine's disk unless its owner puts it there; for trying,
a key is made in the cache. A box takes updates of the key it was built with, and of no other.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS: Final = 20
"""A box in a village is not visited to renew what it trusts."""


class Signing(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the signer: its certificate, its key, and the certificates a box trusts (all PEM)."""

    certificate: Path
    key: Path
    keyring: Path


def trial(folder: Path) -> Signing:
    """A signer for trying, made in ``folder`` where there is none."""
    found = Signing(certificate=folder / "signer.pem", key=folder / "signer.key", keyring=folder / "signer.pem")
    if not found.certificate.exists():
        make(found, "dicom-edge, for trying")
    return found


def make(signing: Signing, name: str) -> None:
    """Make a key and a certificate that is signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # a box whose clock is behind must still take it
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(now + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    signing.key.parent.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(signing.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(private)
    signing.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
