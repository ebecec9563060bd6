"""``provision.toml`` as values: frozen structs whose names are those of the file, with the rules of each value.

Read by the same reader as the configuration (`edge.provision.reading`), so a field added here needs no change there.
A secret is never repeated in an error.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from edge.config import Host, Rule

_ZONES: Final = Path("/usr/share/zoneinfo")
_HASH: Final = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,6}),t=([0-9]{1,2}),p=1\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}"
)
_MOST_MEMORY: Final = 1 << 17
"""KiB of one computation that a small box can spare."""
_STARTS_THE_BOX: Final = frozenset({".bin", ".dat", ".dtb", ".dtbo", ".elf", ".img", ".scr"})
_RESERVED: Final = frozenset(
    {"cmdline.txt", "config.txt", "data.key", "edge.toml", "provision.toml", "provision-result.txt"}
)


def _hostname(text: str) -> str:
    # RFC 1123 2.1, one label: systemd, DHCP and mDNS take it as it is
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", text):
        raise ValueError("a host name is 1 to 63 letters, digits and dashes, without a dash at either end")
    if text.isdecimal():
        raise ValueError("a host name of digits alone would be taken for an address; add a letter")
    return text.lower()


def _timezone(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*", text):
        # a computer without the database cannot know better
        if not _ZONES.is_dir() or (_ZONES / text).is_file():
            return text
        import zoneinfo  # noqa: PLC0415 - only for who mistypes

        close = difflib.get_close_matches(text, zoneinfo.available_timezones(), n=1)
        hint = f'; did you mean "{close[0]}"?' if close else '; write one such as "America/Lima"'
        raise ValueError(f'"{text[:64]}" is no time zone{hint}')
    raise ValueError('a time zone is written as "America/Lima"')


def _interface(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,15}", text):
        raise ValueError('a network interface is called like "eth0"')
    return text


def _address(text: str) -> str:
    try:
        found = ipaddress.ip_interface(text) if "/" in text else None
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f'"{text[:64]}" is no address with the length of its network; write "192.168.10.5/24"')
    network = found.network
    edges = {network.network_address, network.broadcast_address} if network.num_addresses > 2 else set()  # noqa: PLR2004 - /31
    if found.ip in edges or found.is_multicast or found.is_loopback or found.is_unspecified:
        raise ValueError(f'"{text[:64]}" is not the address of one machine')
    return str(found)


def _plain_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f'"{text[:64]}" is no address; write one such as "192.168.10.1"') from None


def _server(text: str) -> str:
    rule: Rule = get_args(Host)[1]
    return str(rule.read(text))


def _password(text: str) -> str:
    from edge.web.secret import PasswordError, check  # noqa: PLC0415 - only where there is one

    try:
        check(text)
    except PasswordError as e:
        raise ValueError(str(e)) from None
    return text


def _hash(text: str) -> str:
    found = _HASH.fullmatch(text)
    if found is None or not 8 <= int(found[1]) <= _MOST_MEMORY or not 1 <= int(found[2]) <= 20:  # noqa: PLR2004
        raise ValueError("this is no hash by Argon2id with one thread and at most 128 MiB, as identity/password has it")
    return text


def _recovery_key(text: str) -> str:
    if not 20 <= len(text) <= 512 or not text.isascii() or not text.isprintable():  # noqa: PLR2004 - as at-rest has it
        raise ValueError("a recovery key has 20 to 512 characters that any keyboard has")
    return text


def _file_name(text: str) -> str:
    # the text is not repeated: it may be the secret itself, given where its file belongs
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", text) or text.lower().endswith(".new"):
        raise ValueError(
            "write the name of a file that lies beside provision.toml: letters, digits, dots, dashes and underscores, "
            "no folder"
        )
    return text


def _given_file(text: str) -> str:
    name = _file_name(text).lower()
    if name in _RESERVED or Path(name).suffix in _STARTS_THE_BOX:
        raise ValueError(f'"{name}" has a meaning of its own on the card; give the file another name')
    return text


def _configuration(text: str) -> str:
    name = _file_name(text).lower()
    if not name.endswith(".toml") or name == "provision.toml":
        raise ValueError('the configuration is a file of its own whose name ends with ".toml", such as "edge.toml"')
    return text


def _text(expected: str, read: Callable[[str], str]) -> Rule:
    return Rule((str,), expected, read)


def _many(example: str, read: Callable[[str], str]) -> Rule:
    def each(given: str | list[Any]) -> tuple[str, ...]:
        found = [given] if isinstance(given, str) else given
        if not found or not all(isinstance(one, str) for one in found):
            raise ValueError(f"write {example}, or a list of them")
        values = tuple(read(one) for one in found)
        if len(set(values)) < len(values):
            raise ValueError("one is given twice")
        return values

    return Rule((str, list), f"{example}, or a list of them", each)


HostName = Annotated[str, _text('a host name such as "edge-ct1"', _hostname)]
TimeZone = Annotated[str, _text('a time zone such as "America/Lima"', _timezone)]
Interface = Annotated[str, _text('a network interface such as "eth0"', _interface)]
Addresses = Annotated[tuple[str, ...], _many('an address such as "192.168.10.5/24"', _address)]
PlainAddresses = Annotated[tuple[str, ...], _many('an address such as "192.168.10.1"', _plain_address)]
Servers = Annotated[tuple[str, ...], _many('a server such as "pool.ntp.org"', _server)]
Password = Annotated[str, _text("a password", _password)]
PasswordHash = Annotated[str, _text("the hash of a password", _hash)]
ConfigurationFile = Annotated[str, _text('the name of a file such as "edge.toml"', _configuration)]
RecoveryKey = Annotated[str, _text("a recovery key of 20 characters or more", _recovery_key)]
GivenFile = Annotated[str, _text('the name of a file such as "hospital-ca.pem"', _given_file)]


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine is called, and where it stands."""

    hostname: HostName | None = None
    timezone: TimeZone | None = None


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The cable. Without ``address`` everything comes by DHCP; the table replaces what the box had, whole."""

    interface: Interface | None = None
    """None: every wired one."""
    address: Addresses = ()
    """With the length of its network; at most one IPv4 and one IPv6."""
    gateway: PlainAddresses = ()
    dns: PlainAddresses = ()
    """With DHCP: instead of those that it gives."""
    ntp: Servers = ()


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """The password of the pages, or what is kept of it."""

    password: Password | None = None
    password_hash: PasswordHash | None = None


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """The data partition at rest: whether a card that was never used is encrypted, and what opens it in the end."""

    encryption: Literal["card", "tpm"] | None = None
    """Where the key is: beside the data on the card, or sealed by the box's TPM."""
    recovery_key: RecoveryKey | None = None


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """What the appliance is told."""

    configuration: ConfigurationFile | None = None
    """None: ``edge.toml`` where it lies beside the file, else the box keeps what it has."""


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside the file and goes to /etc/edge under its own name."""

    public: tuple[GivenFile, ...] = ()
    private: tuple[GivenFile, ...] = ()
    """Readable by root and the appliance only, and wiped from the card."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the file may say; what it does not say stays as it is on the box."""

    box: Box = Box()
    network: Network | None = None
    dashboard: Dashboard = Dashboard()
    storage: Storage = Storage()
    edge: Edge = Edge()
    files: Files = Files()
