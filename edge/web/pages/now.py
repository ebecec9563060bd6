"""Now: the light, a sentence, where images go, how long there is room, what is read, and what a person should know."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from edge.web.overview import advised, places, room, told, tone, work
from edge.web.page import N_, Fragment, Glance, Page, get
from edge.web.visit import Visit


async def _show(visit: Visit) -> Response:
    return await visit.render("now.html")


async def _light(glance: Glance) -> Mapping[str, Any]:
    return {"light": glance.snapshot.light, "tone": tone(glance.snapshot.light), "told": told(glance)}


async def _places(glance: Glance) -> Mapping[str, Any]:
    return {"places": places(glance)}


async def _numbers(glance: Glance) -> Mapping[str, Any]:
    return {"room": room(glance)}


async def _work(glance: Glance) -> Mapping[str, Any]:
    return {"work": work(glance)}


async def _findings(glance: Glance) -> Mapping[str, Any]:
    return {"findings": advised(glance)}


PAGE: Final = Page(
    name="now",
    title=N_("Now"),
    path="/",
    icon="pulse",
    login=False,
    endpoints=(get("/", _show, login=False),),
    fragments=(
        Fragment(name="now-light", template="now/light.html", view=_light),
        Fragment(name="now-places", template="now/places.html", view=_places),
        Fragment(name="now-numbers", template="now/numbers.html", view=_numbers),
        Fragment(name="now-work", template="now/work.html", view=_work),
        Fragment(name="now-findings", template="now/findings.html", view=_findings),
    ),
)
