"""Under which addresses the machine is reached, and which ports are open on it, as the kernel tells it.

Nothing is sent and nothing raises: a table that cannot be read is empty, or None where that would say too much.
"""

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge.status.machine import ROOT

_LISTEN: Final = "0A"
"""TCP_LISTEN of the kernel."""
_GLOBAL: Final = "00"
"""Scope of an address that is good beyond its link."""
_MOST: Final = 512 * 1024
"""Characters of a table."""
_MOST_ADDRESSES: Final = 8


def addresses(root: Path = ROOT) -> tuple[str, ...]:
    """Return the addresses of this machine, those of IPv4 first; none that only it itself or its link can use."""
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    found += _ipv4(root / "proc/net/fib_trie")
    found += _ipv6(root / "proc/net/if_inet6")
    useful = dict.fromkeys(str(one) for one in found if not one.is_loopback and not one.is_link_local)
    return tuple(useful)[:_MOST_ADDRESSES]


def open_ports(root: Path = ROOT) -> frozenset[int] | None:
    """Return the TCP ports on which anything on this machine listens; None where that is not told."""
    tables = [text for name in ("tcp", "tcp6") if (text := _table(root / "proc/net" / name))]
    if not tables:
        return None
    rows = [line.split() for text in tables for line in text.splitlines()[1:]]
    found = (row[1].rpartition(":")[2] for row in rows if len(row) > 3 and row[3] == _LISTEN)  # noqa: PLR2004
    return frozenset(int(port, 16) for port in found)


def _ipv4(path: Path) -> Iterator[ipaddress.IPv4Address]:
    before = ""
    for line in _table(path).splitlines():
        text = line.strip()
        if text.startswith("|--"):
            before = text.removeprefix("|--").strip()
        elif text == "/32 host LOCAL":
            try:
                yield ipaddress.IPv4Address(before)
            except ValueError:
                continue


def _ipv6(path: Path) -> Iterator[ipaddress.IPv6Address]:
    for line in _table(path).splitlines():
        words = line.split()
        if len(words) >= 4 and words[3] == _GLOBAL:  # noqa: PLR2004 - address, interface, length of prefix, scope
            try:
                yield ipaddress.IPv6Address(int(words[0], 16))
            except ValueError:
                continue


def _table(path: Path) -> str:
    try:
        with path.open("r", encoding="ascii", errors="replace") as file:
            return file.read(_MOST)
    except OSError:
        return ""
