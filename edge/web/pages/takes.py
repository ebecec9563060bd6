"""What a destination takes and refuses, as it answered last: what `edge capabilities` shows. Asks nobody."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge.config import DimseDestination
from edge.web.connections import where
from edge.web.connections_takes import kinds
from edge.web.connections_trials import of_destination
from edge.web.page import Page, get
from edge.web.visit import Visit


async def _show(visit: Visit) -> Response:
    name = visit.query("destination")
    found = next((one for one in visit.box.config.destination if one.name == name), None)
    if not isinstance(found, DimseDestination):
        raise HTTPException(404)
    answers = await visit.box.reading.capabilities(name)
    return await visit.render(
        "connections/takes.html",
        name=name,
        where=where(found, visit.language),
        target=of_destination(name),
        kinds=kinds(answers, visit.box.clock.now()),
    )


PAGE: Final = Page(name="takes", endpoints=(get("/connections/takes", _show),))
