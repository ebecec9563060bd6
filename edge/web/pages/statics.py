"""Styles, scripts and pictures of the pages: the same for everybody, kept by browsers by a digest of their content."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from edge.web.page import Page, get
from edge.web.visit import Visit

_FOR_EVER: Final = "public, max-age=31536000, immutable"


async def _static(visit: Visit) -> Response:
    name = visit.request.path_params["name"]
    file = visit.site.static.find(name)
    if file is None:
        raise HTTPException(404)
    current = visit.request.url.query == file.digest
    return Response(file.body, media_type=file.type, headers={"Cache-Control": _FOR_EVER if current else "no-cache"})


async def _icon(visit: Visit) -> Response:
    return RedirectResponse(visit.site.static.url("logo.svg"), 301)


PAGE: Final = Page(
    name="statics",
    endpoints=(get("/static/{name}", _static, login=False), get("/favicon.ico", _icon, login=False)),
)
