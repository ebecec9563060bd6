"""The closed list of commands: what each may be told, and who carries it out. No shell, no paths.

Each is a small frozen struct of arguments, unknown ones refused, and an act given by the app.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

import msgspec

from edge.updating.wanted import Version

Result = dict[str, str | int | bool]


class CommandFailed(Exception):
    """A command could not be carried out; ``reason`` is a key of `REASONS`."""

    def __init__(self, reason: str, result: Result | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.result = result or {}


class _Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Nothing(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No arguments."""


class Identify(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show which box it is, for so many seconds."""

    seconds: Annotated[int, msgspec.Meta(ge=1, le=60)] = 15


class Everything(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One destination, or all where none is named."""

    destination: str = ""


class Destination(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One destination."""

    destination: str


class Deliveries(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes to one destination, or one delivery of it."""

    destination: str
    delivery: int | None = None


class Update(_Arguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version; where it is fetched from stands in the configuration."""

    version: Version


ARGUMENTS: Final[Mapping[str, type[_Arguments]]] = {
    "identify": Identify,
    "rebirth": Nothing,
    "retry": Everything,
    "pause": Destination,
    "resume": Destination,
    "hold": Deliveries,
    "release": Deliveries,
    "diagnose": Destination,
    "restart": Nothing,
    "reboot": Nothing,
    "update": Update,
}
"""Every type of command."""

ENDS_HERE: Final = frozenset({"restart", "reboot"})
"""Commands that succeed by ending the program that was told."""

Act = Callable[[Any, str], Awaitable[Result]]
"""Carries out a command: its arguments, and who issued it. Raises `CommandFailed`, `StoreError`."""

REASONS: Final[Mapping[str, str]] = {
    "MALFORMED": "it is no command: not JSON, keys missing or unknown, or too long",
    "ID_MISMATCH": "the id in its topic and in its payload differ",
    "RETAINED": "it was retained: a command is for now",
    "UNSIGNED": "it has no signature",
    "UNKNOWN_SIGNER": "the configuration has no signer of that name",
    "BAD_SIGNATURE": "the signature is not the signer's, for this payload and this box",
    "CLOCK_UNTRUSTED": "the box does not know the time, so it cannot tell whether it has expired",
    "EXPIRED": "its time is over",
    "EXPIRES_TOO_LATE": "it would be valid for more than 31 days",
    "UNKNOWN_TYPE": "there is no command of that type",
    "UNSUPPORTED": "this box does not serve it",
    "BAD_ARGUMENTS": "its arguments are not those of its type",
    "REPLAYED": "a command of this id was taken before",
    "UNKNOWN_DESTINATION": "the configuration has no destination of that name",
    "NOTHING_APPLIES": "there was no delivery to which it applies",
    "NOT_PERMITTED": "the system does not let this program do it",
    "UNREACHABLE": "the destination does not answer; the result says why",
    "NO_UPDATE_URL": "the configuration names no server of updates",
    "UPDATE_UNDER_WAY": "another update is under way",
    "ROLLED_BACK_BEFORE": "this version was rolled back before; only a person at the box may force it",
    "SAME_VERSION": "this version runs already",
    "STORAGE": "the request could not be written",
    "STORE": "the database could not be written or read",
    "INTERRUPTED": "the program ended before it was done",
}
"""Why a command was rejected, or failed."""
