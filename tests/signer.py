"""Somebody whose commands are obeyed, in tests; the key lives no longer than they do."""

import base64
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.config import Signer

KEY: Final = Ed25519PrivateKey.generate()
SIGNER: Final = Signer(
    name="monitor-1", public_key=base64.b64encode(KEY.public_key().public_bytes_raw()).decode("ascii")
)
