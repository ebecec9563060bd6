"""What every request passes before a page sees it, and every answer before it leaves. Each is a small ASGI layer.

A request under a foreign name is refused, for a page elsewhere may have its own name point here (DNS rebinding); one
that changes something and comes from another site is refused; what goes wrong is said without its inside.
"""

import ipaddress
import socket
from email.utils import formatdate
from typing import Final
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.clock import Clock
from edge.config import Dashboard
from edge.quota import Lines
from edge.web.pace import Pace

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Content-Security-Policy: nothing inline, nothing from elsewhere."""
_FIXED: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not "no-referrer": with it browsers send the origin of a form as null, and ours is what tells it from a forged one
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_SAFE: Final = frozenset({"GET", "HEAD"})
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_LINES: Final = 20
"""Lines of the log in a minute about failed requests."""
_VERY_LONG: Final = 2048
"""Bytes of an address and its query."""
_MOST_HEADERS: Final = 16 * 1024
"""Bytes of all headers."""

log = structlog.get_logger()


class Hosts:
    """Lets requests pass that name this box."""

    def __init__(self, app: ASGIApp, dashboard: Dashboard) -> None:
        self._app = app
        own = socket.gethostname().lower()
        names = {*_LOOPBACK, own, f"{own}.local", own.partition(".")[0], *dashboard.hosts, dashboard.address}
        self._names = frozenset(name.lower().strip("[]") for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 421 (RFC 9110 15.5.20)."""
        if scope["type"] == "http" and not self._ours(scope):
            text = "This box is not known by that name. Use its address, or add the name to dashboard.hosts.\n"
            await PlainTextResponse(text, 421)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _ours(self, scope: Scope) -> bool:
        given = Headers(scope=scope).getlist("host")
        if len(given) != 1:
            return False
        try:
            parts = urlsplit(f"//{given[0]}")
            name, _ = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            return False
        # a name and a port, and nothing that would become a part of the address
        if parts.netloc != given[0] or "@" in parts.netloc:
            return False
        return name in self._names or _same_address(name, scope["server"])


def _same_address(name: str, server: tuple[str, int | None] | None) -> bool:
    """Whether ``name`` is the address at which the connection arrived: no name of anybody's leads there."""
    try:
        return server is not None and ipaddress.ip_address(name) == _plain(server[0])
    except ValueError:
        return False


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


class Origins:
    """Lets requests pass that only read, or that a page of ours sent; those without a word about it need its token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 403."""
        if scope["type"] == "http" and scope["method"] not in _SAFE and not _from_here(Headers(scope=scope)):
            await PlainTextResponse("This was sent by a page that is not of this box.\n", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _from_here(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in {"same-origin", "none"}:
        return False
    try:
        return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:
        return False


class Outermost:
    """Gives every answer its headers, and one to whatever fails; ``clock`` dates it where it may be believed."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._lines = Lines(_LINES, clock.monotonic, lambda n: log.info("failed requests were silenced", lines=n))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            return
        begun = False

        async def dressed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._dress(MutableHeaders(scope=message), secure=scope["scheme"] == "https")
            await send(message)

        try:
            if len(scope["raw_path"]) + len(scope["query_string"]) > _VERY_LONG:
                await PlainTextResponse("The address is too long.\n", 414)(scope, receive, dressed)
                return
            if sum(len(name) + len(value) for name, value in scope["headers"]) > _MOST_HEADERS:
                await PlainTextResponse("The headers are too long.\n", 431)(scope, receive, dressed)
                return
            await self._app(scope, receive, dressed)
        except Exception:
            if self._lines.take():
                log.exception("a request failed", method=scope["method"], route=_shown(scope))
            if not begun:
                await PlainTextResponse("This went wrong inside the box.\n", 500)(scope, receive, dressed)

    def _dress(self, headers: MutableHeaders, *, secure: bool) -> None:
        for name, value in _FIXED.items():
            headers[name] = value
        headers.setdefault("Cache-Control", "no-store")
        if secure:
            # for the port is a box's own: not for other names, and no longer than its certificate
            headers.setdefault("Strict-Transport-Security", "max-age=86400")
        if self._clock.trusted():
            headers["Date"] = formatdate(self._clock.now(), usegmt=True)


def _shown(scope: Scope) -> str:
    """The pattern that the address matched: what stands in its place may be a patient's."""
    route = scope.get("route")
    return str(getattr(route, "path", "none"))


def guarded(app: ASGIApp, dashboard: Dashboard, clock: Clock) -> ASGIApp:
    """Put the layers around ``app``."""
    return Outermost(Pace(Hosts(Origins(app), dashboard)), clock)
