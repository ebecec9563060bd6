"""TCP and TLS to the broker. Blocks: for threads only."""

import socket
from collections.abc import Callable
from typing import Final

from edge.mqtt.problem import Problem, UnreachableError
from edge.mqtt.settings import Settings
from edge.mqtt.stream import Stream

_TIMEOUT: Final = 10.0
"""Seconds for one address of the broker, and for one step of TLS."""


def dial(settings: Settings, hold: Callable[[socket.socket], None], *, trusted: bool) -> Stream:
    """Connect. ``hold`` gets each socket as soon as it is there; ``trusted``: whether this box knows the time.

    Raises `UnreachableError`, OSError.
    """
    settings.password()  # a file that cannot be read is said before the broker is troubled
    try:
        plain = socket.create_connection((settings.host, settings.port), timeout=_TIMEOUT)
    except UnicodeError as e:  # no name of a machine has such a part
        raise socket.gaierror(str(e)) from e
    hold(plain)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.tls is None:
        return Stream(plain)
    settings.tls.reload()
    context = settings.tls.judging_dates(trusted=trusted)
    if context is None:
        raise UnreachableError(Problem("TLS_FILES", f"TLS cannot be used: {settings.tls.trouble}."))
    secure = context.wrap_socket(plain, server_hostname=settings.host, do_handshake_on_connect=False)
    hold(secure)
    secure.do_handshake()
    return Stream(secure)
