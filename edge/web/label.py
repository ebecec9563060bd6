"""The label of a box: what stands on it, for who sets up a modality, opens the dashboard or calls IT.

Never the password. The first-start code stands on it only while it waits for somebody to use it. Pure: what the box
knows is handed in.
"""

import ipaddress
import unicodedata
from collections.abc import Sequence
from typing import Final

import msgspec

from edge.config import Config
from edge.web.page import N_

NAME: Final = N_("Name")
SITE: Final = N_("Site")
DEVICE: Final = N_("Device")
ADDRESS: Final = N_("Address")
TITLE: Final = N_("AE title")
PORT: Final = N_("Port")
TLS_PORT: Final = N_("Port with TLS")
DASHBOARD: Final = N_("Dashboard")
CODE: Final = N_("First-start code")
FINGERPRINT: Final = N_("Certificate (SHA-256)")

_PAIRS: Final = 8
"""Pairs of digits of a fingerprint on one line."""
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - names every interface
_MOST_ADDRESSES: Final = 3
"""On a label: more than these nobody types."""


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What stands on a label."""

    name: str
    site: str
    device: str
    addresses: tuple[str, ...]
    """Where modalities reach the box; empty: not known, such as without a network."""
    titles: tuple[str, ...]
    ports: tuple[int, ...]
    tls_ports: tuple[int, ...]
    url: str
    """Of the dashboard as a phone in the network has it; empty where it is only for the box itself, or for nobody."""
    code: str
    """The first-start code; empty where there is none."""
    fingerprint: tuple[str, ...]
    """Of the dashboard's certificate, in lines of pairs of digits; empty where it has none."""


def label(
    config: Config, device: str, addresses: Sequence[str], *, port: int = 0, code: str = "", fingerprint: str = ""
) -> Label:
    """Put a label together. ``port`` is that of the dashboard where the configuration leaves it open."""
    receive, dashboard = config.receive, config.dashboard
    url = ""
    if dashboard.enabled and not _is_loopback(dashboard.address):
        host = next(iter((*dashboard.hosts, *_reached(dashboard.address, addresses))), "")
        number = dashboard.port or port
        url = f"https://{_in_url(host)}{'' if number == 443 else f':{number}'}/" if host else ""  # noqa: PLR2004
    return Label(
        name=config.device.name,
        site=config.device.site,
        device=device,
        addresses=tuple(_reached(receive.address, addresses)[:_MOST_ADDRESSES]),
        titles=receive.titles,
        ports=receive.all_ports,
        tls_ports=() if receive.tls is None else (receive.tls.port,),
        url=url,
        code=code,
        fingerprint=in_lines(fingerprint),
    )


def in_lines(fingerprint: str) -> tuple[str, ...]:
    """Break a fingerprint into lines that a person can compare."""
    pairs = fingerprint.split(":") if fingerprint else []
    return tuple(":".join(pairs[at : at + _PAIRS]) for at in range(0, len(pairs), _PAIRS))


def facts(label: Label) -> list[tuple[str, tuple[str, ...]]]:
    """Return what a label says, each with the word before it: one that says nothing is left out."""
    every = (
        (NAME, (label.name,)),
        (SITE, (label.site,)),
        (ADDRESS, label.addresses),
        (TITLE, label.titles),
        (PORT, tuple(map(str, label.ports))),
        (TLS_PORT, tuple(map(str, label.tls_ports))),
        (DASHBOARD, (label.url,)),
        (CODE, (label.code,)),
        (FINGERPRINT, label.fingerprint),
        (DEVICE, (label.device,)),
    )
    return [(word, told) for word, lines in every if (told := tuple(filter(None, lines)))]


def wrapped(text: str, most: int) -> list[str]:
    """Break ``text`` into lines of ``most`` columns, at blanks where it has any; a wide character takes two."""
    lines: list[str] = []
    for word in text.split():
        if lines and columns(f"{lines[-1]} {word}") <= most:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for character in word:
            if columns(lines[-1] + character) > most:
                lines.append("")
            lines[-1] += character
    return lines or [""]


def columns(text: str) -> int:
    """How wide ``text`` is, in columns."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _reached(address: str, own: Sequence[str]) -> list[str]:
    return list(own) if address in _EVERYWHERE else [address]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
