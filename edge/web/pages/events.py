"""The stream that keeps a page current: server-sent events, one connection a screen."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from edge.web.page import Page, get
from edge.web.screens import Stream
from edge.web.visit import Visit

_TYPE: Final = "text/event-stream"


async def _events(visit: Visit) -> Response:
    """Stream the fragments of the page ``?page=NAME``; 503 where too many screens look already."""
    site = visit.site
    page = next((page for page in site.pages if page.name == (visit.query("page") or "now")), None)
    if page is None or not page.fragments:
        raise HTTPException(404)
    if visit.request.method == "HEAD":
        return Response(media_type=_TYPE)
    session = visit.session
    if page.login and session is None:
        raise HTTPException(403)
    if not site.screens.make_room(inside=session is not None):
        raise HTTPException(503, headers={"Retry-After": "10"})

    def alive() -> bool:
        # looking is no sign of life: a screen that was left alone logs itself out
        return session is None or site.sessions.find(session.id, touch=False) is session

    about = visit.query("about") if page.about and session is not None else ""
    stream = Stream(page, visit.language, alive, inside=session is not None, about=about)
    return StreamingResponse(site.screens.follow(stream), media_type=_TYPE, headers={"X-Accel-Buffering": "no"})


PAGE: Final = Page(name="events", endpoints=(get("/events", _events, login=False, passive=True),))
