"""The dashboard as a service of the appliance: started when images are taken, restarted alone, missed by nobody else.

What it is made of is imported in a thread, and only where it is enabled. A port that is taken or a certificate that
cannot be used is a finding, and tried again; it ends nothing.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from edge.phrase import say
from edge.tls import Credentials, TlsError, dashboard_credentials
from edge.web import certificate
from edge.web.box import Box

if TYPE_CHECKING:
    from edge.web.listening import Listener
    from edge.web.site import Site

_AGAIN: Final = 10.0
"""Seconds between two attempts to listen."""
_LOOK_EVERY: Final = 2.0
"""Seconds after which another password is noticed."""
_RENEW_EVERY: Final = 3600.0
"""Seconds between two looks at the end of the certificate that the box made for itself."""
_BACKLOG: Final = 64

log = structlog.get_logger()


class Dashboard:
    """Serves the pages of ``box``. ``credentials`` are those of the configuration, if it names any."""

    def __init__(self, box: Box, credentials: Credentials | None = None) -> None:
        self._box = box
        self._config = box.config.dashboard
        self._credentials = credentials
        if credentials is None and self._config.certificate_file is not None:
            self._credentials = dashboard_credentials(self._config.certificate_file, self._config.key_file)
        self.url = ""
        """Where it is; empty while it is not served."""
        self.site: Site | None = None
        """What its pages share, once it was loaded."""

    async def run(self) -> None:
        """Serve until cancelled."""
        site, listener = await asyncio.to_thread(self._load)
        self.site = site
        sockets, secure = await self._opened()
        port = sockets[0].getsockname()[1]
        self.url = f"{'https' if secure else 'http'}://{_in_url(self._config.address)}:{port}/"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(listener.serve(sockets, self._context))
                group.create_task(site.screens.run())
                group.create_task(self._watch_password(site))
                if secure and self._config.certificate_file is None:
                    group.create_task(self._renew())
        finally:
            self.url = ""
            self._box.trials.end()

    def _load(self) -> tuple["Site", "Listener"]:
        from edge.web.app import build, site_of  # noqa: PLC0415 - large, and nobody waits for it
        from edge.web.guards import Hosts  # noqa: PLC0415
        from edge.web.listening import Listener  # noqa: PLC0415

        site = site_of(self._box)
        site.renderer.warm()
        return site, Listener(build(site), lambda app: Hosts(app, self._config))

    async def _opened(self) -> tuple[list[socket.socket], bool]:
        """Listen, however long it takes until that is possible; and tell whether by TLS."""
        journal, config = self._box.journal, self._config
        while True:
            trouble = ""
            try:
                sockets, secure = await self._open()
            except OSError as e:
                trouble = say(
                    "{host} port {port}: {error}.", host=config.address, port=config.port, error=e.strerror or e
                )
            except TlsError as e:
                trouble = say("dashboard.{key}: {error}.", key=e.key, error=e)
            else:
                journal.clear("DASHBOARD_DOWN", "dashboard")
                return sockets, secure
            journal.state("DASHBOARD_DOWN", "dashboard", trouble)
            await asyncio.sleep(_AGAIN)

    async def _open(self) -> tuple[list[socket.socket], bool]:
        """Raises OSError, `TlsError`."""
        config = self._config
        addresses = await _addresses(config.address, config.port)
        secure = self._credentials is not None or not all(_is_loopback(name[0]) for _, name in addresses)
        shown = ""
        if secure:
            if self._credentials is None:
                self._credentials = await asyncio.to_thread(self._own_certificate)
            if self._credentials.context() is None and not self._credentials.reload():
                raise TlsError("certificate_file", self._credentials.trouble)
            own = config.certificate_file or self._box.identity / certificate.NAME
            shown = await asyncio.to_thread(certificate.fingerprint, own)
        sockets = _listen(addresses)
        log.info("dashboard", address=config.address, port=sockets[0].getsockname()[1], fingerprint=shown or "no TLS")
        return sockets, secure

    def _own_certificate(self) -> Credentials:
        return dashboard_credentials(self._ensure(), None)

    def _ensure(self) -> Path:
        """Raises OSError."""
        names = certificate.own_names(self._config.address, self._config.hosts)
        return certificate.ensure(self._box.identity, names, self._box.clock)

    async def _renew(self) -> None:
        """Have another certificate of our own in force before this one ends, however long the box runs."""
        own = self._box.identity / certificate.NAME

        def work() -> str:
            before = certificate.fingerprint(own) if own.exists() else ""
            after = certificate.fingerprint(self._ensure())
            return after if before != after and self._credentials is not None and self._credentials.reload() else ""

        while True:
            await asyncio.sleep(_RENEW_EVERY)
            try:
                made = await asyncio.to_thread(work)
            except (OSError, ValueError) as e:
                log.warning("the certificate of the dashboard cannot be made anew", error=str(e))
            else:
                if made:
                    log.info("the certificate of the dashboard was made anew", fingerprint=made)

    def _context(self) -> ssl.SSLContext | None:
        return None if self._credentials is None else self._credentials.context()

    async def _watch_password(self, site: "Site") -> None:
        """See that there is a way in, and log everybody out once the password is another."""
        before: str | None = None
        while True:
            try:
                stamp = await site.gate.stamp()
            except OSError as e:
                log.warning("the password of the dashboard cannot be read", error=e.strerror or str(e))
            else:
                if before and stamp != before:
                    site.sessions.end_all()
                before = stamp
            await asyncio.sleep(_LOOK_EVERY)


_Address = tuple[int, tuple[str, int]]
"""Family, and what is bound."""


async def _addresses(host: str, port: int) -> list[_Address]:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), name) for family, _, _, _, name in found))  # type: ignore[misc]


def _listen(addresses: Sequence[_Address]) -> list[socket.socket]:
    """Raises OSError."""
    sockets: list[socket.socket] = []
    try:
        for family, name in addresses:
            one = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.settimeout(0.0)
            one.bind(name)
            one.listen(_BACKLOG)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
