"""Why there is no connection to a machine: our own cable or address, its name, the way to it, or the machine itself.

One classification for transports, probes and the doctor. What the system says is ambiguous without a cable: then
that is what is said.
"""

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Final

from edge.dicom.requestor import NoConnectionError
from edge.forward.links import Interface, interfaces
from edge.phrase import N_, say

_OUR_SIDE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
Look = Callable[[], tuple[Interface, ...] | None]


def unreached(
    error: Exception | None, host: str, where: str, server: str, look: Look = interfaces
) -> tuple[str, str] | None:
    """Give code and sentence for a connection to ``host`` that was not made; None where ``error`` is about else.

    ``where`` is how people call it, ``server`` what should run there.
    """
    if _may_be_ours(error) and not is_here(host) and (ours := own_trouble(look())) is not None:
        return ours
    match error:
        case socket.gaierror() | UnicodeError():  # the latter of a name that cannot even be asked for
            code, text = "NO_ADDRESS", unresolved(host, error)
        case ConnectionRefusedError():
            code, text = (
                "REFUSED_CONNECTION",
                say("{where} refuses connections: is the {server} running?", where=where, server=server),
            )
        case NoConnectionError() | TimeoutError():
            code = "FILTERED"
            text = say(
                "{where} does not react to connections: the machine is off, or a firewall on the way drops them.",
                where=where,
            )
        case ConnectionError():
            return None
        case OSError():
            code, text = (
                "NO_ROUTE",
                say("{where} cannot be reached: {error}.", where=where, error=error.strerror or error),
            )
        case _:
            return None
    return code, text


def own_trouble(found: tuple[Interface, ...] | None) -> tuple[str, str] | None:
    """Say what this machine itself lacks to reach others; None where nothing is known to be missing."""
    if not found:
        return None
    linked = [interface for interface in found if interface.linked]
    if not linked:
        names = ", ".join(interface.name for interface in found)
        code, text = (
            "NO_LINK",
            say("this box has no network link ({names}): is the cable in, and the switch on?", names=names),
        )
        return code, text
    if not any(interface.usable for interface in linked):
        names = ", ".join(interface.name for interface in linked)
        # of IPv6 every interface makes one up, which tells nobody anything
        made_up = ", ".join(address for i in linked for address in i.addresses if ":" not in address)
        has = N_("no address")
        if made_up:
            has = say("only {addresses}, which it made up itself", addresses=made_up)
        code, text = (
            "NO_OWN_ADDRESS",
            say("this box has a network link ({names}) and {has}: nobody gave it one.", names=names, has=has),
        )
        return code, text
    return None


def unresolved(host: str, error: OSError | UnicodeError) -> str:
    """Say why the name ``host`` has no address: no such name, or nobody there to ask (getaddrinfo(3))."""
    if isinstance(error, OSError) and error.errno == socket.EAI_AGAIN:
        return say(
            "the name {host} cannot be resolved: no name server answers; check DNS, or write an address instead.",
            host=host,
        )
    return say("the name {host} cannot be resolved: there is no such name; check DNS and how it is written.", host=host)


def is_here(host: str) -> bool:
    """Whether ``host`` is this machine, as far as its name tells."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _may_be_ours(error: Exception | None) -> bool:
    match error:
        case socket.gaierror():
            return error.errno == socket.EAI_AGAIN
        case NoConnectionError() | TimeoutError():
            return True
        case OSError():
            return error.errno in _OUR_SIDE
        case _:
            return False
