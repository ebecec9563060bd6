"""What programs read: `/healthz`, `/metrics`, `/api/status` without a login, `/api/studies` with one."""

from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from edge.safety import safe_to_delete
from edge.store import StoreError, StudyFilter
from edge.web.metrics import TYPE, exposition
from edge.web.page import Page, get
from edge.web.visit import Visit

_JSON: Final = "application/json"
_MOST: Final = 100
"""Studies in one answer."""
_DIGITS: Final = 18
"""Of a number that the store can have."""


async def _healthz(visit: Visit) -> Response:
    """200 while images are accepted, else 503."""
    try:
        snapshot = await visit.site.glimpse.now(inside=False)
    except StoreError:
        return JSONResponse({"serving": False, "light": None}, 503)
    serving = snapshot.intake.open
    return JSONResponse({"serving": serving, "light": snapshot.light.code}, 200 if serving else 503)


async def _metrics(visit: Visit) -> Response:
    """Numbers in the text format of Prometheus; 503 while the box does not know them."""
    return Response(exposition(await visit.site.glimpse.now(inside=False)), headers={"Content-Type": TYPE})


async def _status(visit: Visit) -> Response:
    """The snapshot; without a login no sentence that a peer had a part in."""
    snapshot = await visit.site.glimpse.now(inside=visit.session is not None)
    return Response(msgspec.json.encode(snapshot), media_type=_JSON)


async def _studies(visit: Visit) -> Response:
    """Studies, the latest first, each with whether it may be deleted from the scanner; ``before`` is the next page."""
    before = visit.query("before")
    if before and not (before.isdecimal() and len(before) <= _DIGITS):
        raise HTTPException(400)
    which = StudyFilter(
        uid=visit.query("uid"),
        patient_name=visit.query("name"),
        patient_id=visit.query("id"),
        accession=visit.query("accession"),
        modality=visit.query("modality"),
        first_date=visit.query("from"),
        last_date=visit.query("to"),
        before=int(before) if before else None,
    )
    found = await visit.box.studies(which, _MOST)
    shown = [msgspec.to_builtins(study) | {"safe": msgspec.to_builtins(safe_to_delete(study))} for study in found]
    return Response(msgspec.json.encode({"studies": shown}), media_type=_JSON)


PAGE: Final = Page(
    name="api",
    endpoints=(
        get("/healthz", _healthz, login=False),
        get("/metrics", _metrics, login=False),
        get("/api/status", _status, login=False),
        get("/api/studies", _studies),
    ),
)
