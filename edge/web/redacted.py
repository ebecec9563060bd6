"""The configuration without what is secret, for who looks at a box from afar.

Secrets are in files, so of a file of that kind its name alone is told, and only where it is there: who gave a secret
where its file belongs has written it into the configuration. Names for a login are told as set or not; addresses
without their query.
"""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from edge.config import Config

Told = str | int | float | bool | None | list["Told"] | dict[str, "Told"]

_FILE: Final = "_file"
_WITHHELD: Final = frozenset({"username", "client_id", "scope"})
_SET: Final = "(set)"
_MISSING: Final = "(no such file)"


def redacted(config: Config) -> dict[str, Told]:
    """Return ``config`` as it may leave the box; asks the disk which files there are."""
    return _table(config)


def _table(struct: msgspec.Struct) -> dict[str, Told]:
    found: dict[str, Told] = {}
    tag = struct.__struct_config__.tag
    if isinstance(tag, str):
        found["type"] = tag
    for name in struct.__struct_fields__:
        found[name] = _field(name, getattr(struct, name))
    return found


def _field(name: str, value: object) -> Told:
    if name in _WITHHELD:
        return _SET if value else ""
    if isinstance(value, Path):
        return _file(value) if name.endswith(_FILE) else str(value)
    if isinstance(value, msgspec.Struct):
        return _table(value)
    if isinstance(value, tuple | list):
        return [_field(name, item) for item in value]
    if isinstance(value, str):
        return _address(value) if "://" in value else value
    return value if isinstance(value, int | float) else None


def _file(path: Path) -> str:
    try:
        return path.name if path.is_file() else _MISSING
    except (OSError, ValueError):  # longer than any path, as a token is
        return _MISSING


def _address(text: str) -> str:
    parts = urlsplit(text)
    host = parts.hostname or ""
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"
