"""Which version of what this box runs: the program, what it is made of, and what it stands on."""

import platform
import re
import ssl
from importlib import metadata
from typing import Final

import msgspec

from edge import __version__

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_PACKAGE: Final = "dicom-edge"


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Versions, as each calls its own."""

    edge: str
    python: str
    openssl: str
    architecture: str
    libraries: dict[str, str]
    """Those that dicom-edge asks for, by name; one that is not installed is left out."""


def versions() -> Versions:
    """Read them; it takes some milliseconds and reads files."""
    try:
        asked = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        asked = []
    names = sorted({match[0] for text in asked if (match := _NAME.match(text))}, key=str.lower)
    return Versions(
        edge=__version__,
        python=platform.python_version(),
        openssl=ssl.OPENSSL_VERSION,
        architecture=platform.machine(),
        libraries={name: version for name in names if (version := _version(name))},
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
