"""Who may command: Ed25519 over the canonical JSON (RFC 8785) of a payload without its signature, and with the node.

The node is part of what is signed, so a command for one box is worth nothing at another. What is verified must
be what is read: text in another encoding than UTF-8, or with a key twice, is never good, for two readers may see two
things in it.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_SIGNATURE: Final = "signature"


def signed_bytes(payload: Mapping[str, Any], node: str) -> bytes:
    """Return what is signed of ``payload`` for ``node``. Raises ValueError where it has no canonical form."""
    bare = {key: value for key, value in payload.items() if key != _SIGNATURE}
    try:
        return rfc8785.dumps({**bare, "node": node})
    except (rfc8785.CanonicalizationError, RecursionError) as e:
        raise ValueError(f"it has no canonical form: {e}") from e


def sign(payload: Mapping[str, Any], node: str, key: Ed25519PrivateKey) -> str:
    """Sign ``payload`` for ``node``: the signature in base64."""
    return base64.b64encode(key.sign(signed_bytes(payload, node))).decode("ascii")


def good(payload: bytes, node: str, key: bytes) -> bool:
    """Whether ``payload`` (JSON) carries a signature for ``node`` by the owner of ``key`` (32 bytes)."""
    try:
        document = json.loads(payload.decode("utf-8"), object_pairs_hook=_once)
        if not isinstance(document, dict) or "node" in document:
            return False
        signature = base64.b64decode(str(document.get(_SIGNATURE, "")), validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed_bytes(document, node))
    except (ValueError, RecursionError, InvalidSignature):
        return False
    return True


def key_bytes(text: str) -> bytes:
    """Read a public key as the configuration has it, which has checked it: base64."""
    return base64.b64decode(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    return found
