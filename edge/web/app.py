"""The application: every page's addresses behind the guards, and what an error looks like.

A page is added to `PAGES`; see `edge.web.page` for what it is made of. An address is closed to who is not logged in
unless its page says otherwise, and a form is looked at only with its token.
"""

from typing import Final
from urllib.parse import parse_qsl, quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from edge.store import StoreError
from edge.web.box import Box
from edge.web.guards import guarded
from edge.web.page import Endpoint, Page
from edge.web.pages import (
    api,
    connections,
    deciding,
    entry,
    events,
    label,
    now,
    password,
    pictures,
    receipt,
    statics,
    studies,
    study,
    system,
    takes,
)
from edge.web.site import Site
from edge.web.visit import Visit

PAGES: Final[tuple[Page, ...]] = (
    now.PAGE,
    studies.PAGE,
    study.PAGE,
    deciding.PAGE,
    receipt.PAGE,
    pictures.PAGE,
    connections.PAGE,
    takes.PAGE,
    system.PAGE,
    label.PAGE,
    password.PAGE,
    entry.PAGE,
    api.PAGE,
    events.PAGE,
    statics.PAGE,
)
"""In the order of the navigation."""
MOST_FORM: Final = 16 * 1024
"""Bytes of a form."""
_MOST_UNREAD: Final = 1024 * 1024
"""Bytes of a form too large that are let pass by, so that its sender, who sends first, still hears the answer."""
_MOST_FIELDS: Final = 100
_FORM: Final = "application/x-www-form-urlencoded"


def build(site: Site) -> ASGIApp:
    """Return what answers every request."""
    routes = [_route(site, page, endpoint) for page in site.pages for endpoint in page.endpoints]

    async def failed(request: Request, error: Exception) -> Response:
        return await _failed(site, request, error)

    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: failed, StoreError: failed, OSError: failed, Exception: failed},
    )
    app.router.redirect_slashes = False
    return guarded(app, site.box.config.dashboard, site.box.clock)


def site_of(box: Box) -> Site:
    """Put together what the pages share."""
    return Site(box, PAGES)


def _route(site: Site, page: Page, endpoint: Endpoint) -> Route:
    async def serve(request: Request) -> Response:
        visit = Visit(request, site, page, passive=endpoint.passive)
        if endpoint.login and visit.session is None:
            return _closed(visit)
        if endpoint.method == "POST":
            visit.form = await _form(request)
            if not visit.is_ours(visit.form.get("token", "")):
                raise HTTPException(403, "stale")
        return await endpoint.handle(visit)

    return Route(endpoint.path, serve, methods=[endpoint.method], name=f"{page.name} {endpoint.path}")


def _closed(visit: Visit) -> Response:
    """Answer who is not logged in: the login, then back; a program is told plainly."""
    if visit.request.url.path.startswith("/api/"):
        return JSONResponse({"error": "Log in first."}, 401)
    if visit.request.method == "POST":
        raise HTTPException(403, "stale")
    return visit.redirect(f"/login?next={quote(visit.here())}")


async def _form(request: Request) -> dict[str, str]:
    """Read a form of bounded size. Raises HTTPException."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(415)
    body, length = bytearray(), 0
    try:
        async for chunk in request.stream():
            length += len(chunk)
            if length <= MOST_FORM:
                body += chunk
            elif length > _MOST_UNREAD:
                break
    except ClientDisconnect:
        raise HTTPException(400) from None
    if length > MOST_FORM:
        # what is still to come is not read
        raise HTTPException(413, headers={"Connection": "close"})
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise HTTPException(400) from None
    return dict(pairs)


async def _failed(site: Site, request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 503
    if not isinstance(error, HTTPException | StoreError | OSError):
        status = 500
    stale = isinstance(error, HTTPException) and error.detail == "stale"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": f"{status}"}, status, headers)
    response = await Visit(request, site).render("error.html", status=status, code=status, stale=stale)
    response.headers.update(headers)
    return response
