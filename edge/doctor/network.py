"""The steps to a machine: link, own address, name, way, connection. Connects once and closes; sends nothing."""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Final

from edge.clock import Clock
from edge.doctor.step import Told, failed, fine, left_out
from edge.doctor.words import TEXTS
from edge.forward.links import Interface, interfaces
from edge.forward.unreached import is_here, own_trouble, unreached, unresolved
from edge.threads import aside
from edge.tls import Credentials

RESOLVING: Final = 10.0
"""Seconds for a name."""
_MOST: Final = 4
"""Addresses of one name that are tried."""

_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")

Look = Callable[[], tuple[Interface, ...] | None]
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of ``host``, each once. Blocks. Raises OSError, UnicodeError for what is no name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Visit:
    """What is learnt of one machine on the way to it."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        server: str,
        connect: float,
        credentials: Credentials | None,
        clock: Clock,
        look: Look = interfaces,
        resolve: Resolve = resolve,
    ) -> None:
        """``connect``: seconds for a connection; ``server``: what should run there."""
        self.host, self.port, self.server, self.connect = host, port, server, connect
        self.credentials, self.clock = credentials, clock
        self.look, self.resolve = look, resolve
        self.addresses: list[str] = []
        self.source = "of this box"
        """Our own address towards it."""
        self.reached = host
        """The address that took a connection."""

    @property
    def where(self) -> str:
        """How people call it."""
        return f"{self.host} port {self.port}"

    async def close(self) -> None:
        """Let go of whatever is open."""


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def link(visit: Visit) -> Told:
    """See whether a cable is in."""
    if is_here(visit.host):
        return left_out("here")
    found = visit.look()
    if not found:
        return left_out("link_unknown")
    names = ", ".join(interface.name for interface in found if interface.linked)
    trouble = own_trouble(found)
    return failed(*trouble) if not names and trouble is not None else fine("link", names=names)


async def address(visit: Visit) -> Told:
    """See whether this box has an address of the kind that is needed."""
    if is_here(visit.host):
        return left_out("here")
    found = visit.look()
    if not found:
        return left_out("link_unknown")
    if (trouble := own_trouble(found)) is not None:
        return failed(*trouble)
    usable = {a: interface.name for interface in found if interface.linked for a in interface.usable}
    wanted = _literal(visit.host)
    has = ", ".join(f"{a} on {name}" for a, name in usable.items())
    if wanted is not None and wanted.version not in {ipaddress.ip_address(a).version for a in usable}:
        text = TEXTS["address_family"].format(version=wanted.version, host=visit.host, has=has)
        return failed("NO_OWN_ADDRESS", text)
    return fine("addressed", addresses=has)


async def name(visit: Visit) -> Told:
    """Ask which addresses it has."""
    if _literal(visit.host) is not None:
        visit.addresses = [visit.host]
        return left_out("name_literal", host=visit.host)
    try:
        async with asyncio.timeout(RESOLVING):
            visit.addresses = await aside(lambda: visit.resolve(visit.host, visit.port))
    except TimeoutError:
        return failed("NO_ADDRESS", TEXTS["name_late"].format(host=visit.host, seconds=f"{RESOLVING:g}"))
    except (OSError, UnicodeError) as e:
        return failed("NO_ADDRESS", unresolved(visit.host, e if isinstance(e, OSError) else OSError()))
    return fine("name", host=visit.host, addresses=", ".join(visit.addresses[:_MOST]))


async def route(visit: Visit) -> Told:
    """See whether this box knows a way to one of its addresses; nothing is sent."""
    why = ""
    for at in visit.addresses:
        family = socket.AF_INET6 if ":" in at else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            try:
                asked.connect((at, visit.port))
            except OSError as e:
                why = e.strerror or str(e)
                continue
            visit.source = str(asked.getsockname()[0])
            visit.addresses = [at, *(other for other in visit.addresses if other != at)]
            return fine("route", source=visit.source, address=at)
    return failed("NO_ROUTE", TEXTS["no_route"].format(address=visit.host, why=why))


async def connection(visit: Visit) -> Told:
    """Connect to one of its addresses, and close."""
    tried = visit.addresses[:_MOST]
    problem: OSError = TimeoutError()
    for at in tried:
        try:
            async with asyncio.timeout(visit.connect / len(tried)):
                await _knock(at, visit.port)
        except OSError as e:
            problem = e
            continue
        visit.reached = at
        return fine("connected", where=visit.where)
    # the error of a refused address would hide that another one is silent, but somebody said it
    found = unreached(problem, visit.host, visit.where, visit.server, visit.look)
    code, text = found or ("CONNECTION_LOST", TEXTS["connection_lost"].format(where=visit.where))
    return failed(code, text + _about_proxies() if visit.server == "server" else text)


async def _knock(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(0)
        await asyncio.get_running_loop().sock_connect(knocking, (address, port))


def _about_proxies() -> str:
    """Say that a proxy is not used, where the environment names one."""
    named = [variable for variable in _PROXIES if os.environ.get(variable)]
    return TEXTS["proxy"].format(variable=named[0]) if named else ""
