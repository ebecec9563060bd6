"""Who the box is: its id, its key, and the request for a certificate that IT signs for the broker.

Made once, in ``identity`` of the storage path, and kept whatever else changes.
"""

import asyncio
import stat
from pathlib import Path
from typing import Final

from edge.fsync import replace_synced
from edge.provision.system import System
from edge.spool import Identity, Spool, Syncer

KEY: Final = "device.key"
REQUEST: Final = "device.csr"


def device(storage: Path) -> str:
    """Return the id of the box; empty where it has none yet."""
    try:
        return (storage / "identity" / "device").read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def ensure(storage: Path, system: System) -> str:
    """Return the id of the box, with all that it needs made, and the appliance its owner. Raises OSError."""
    identity = storage / "identity"
    storage.mkdir(mode=0o700, parents=True, exist_ok=True)
    _plain(identity)
    if not device(storage):
        # a spool that was brought from another box has numbers that must not come again
        if (storage / "spool").is_dir():
            asyncio.run(_number(storage))
        else:
            Identity(storage).open(lambda: 0)
    found = device(storage)
    key, request = identity / KEY, identity / REQUEST
    if not key.exists():
        _put(key, _new_key(), 0o600)
        request.unlink(missing_ok=True)
    if not request.exists():
        try:
            asked = _request(key.read_bytes(), found)
        except OSError:
            # nobody may be there to remove it, and nothing can be done with it
            key.replace(key.with_suffix(".broken"))
            _put(key, _new_key(), 0o600)
            asked = _request(key.read_bytes(), found)
        _put(request, asked, 0o644)
    # each time: a start that was cut short may have left something that is root's
    for path in (storage, identity, *identity.iterdir()):
        system.give(path)
    return found


def _plain(identity: Path) -> None:
    """Have it a folder of plain files: the appliance makes nothing else, and a link would lead root elsewhere."""
    if identity.is_symlink() or (identity.exists() and not identity.is_dir()):
        identity.unlink()
    identity.mkdir(mode=0o700, exist_ok=True)
    for path in identity.iterdir():
        at = path.lstat()
        if not stat.S_ISDIR(at.st_mode) and (not stat.S_ISREG(at.st_mode) or at.st_nlink != 1):
            path.unlink()


def request(storage: Path) -> str:
    """Return the request for a certificate (PEM); empty where there is none."""
    try:
        return (storage / "identity" / REQUEST).read_text("ascii")
    except FileNotFoundError:
        return ""


async def _number(storage: Path) -> None:
    """Make the id as the appliance would, which must know what lies in the spool."""
    syncer = Syncer()
    try:
        Identity(storage).open(Spool(storage, syncer).highest)
    finally:
        syncer.close()


def _put(path: Path, data: bytes, mode: int) -> None:
    replace_synced(path, data, mode)
    path.chmod(mode)


def _new_key() -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - large, and only at the first start
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _request(key: bytes, name: str) -> bytes:
    """Ask for a certificate of ``name`` (PKCS #10). Raises OSError where the key is none."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise OSError(f"{KEY} holds no key: remove it, and another is made") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise OSError(f"{KEY} holds no key of an elliptic curve: remove it, and another is made")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(private, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)
