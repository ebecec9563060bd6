"""Connections: who sends, where images go, and a test of each way whose steps show as they are done."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from edge.doctor import Step, examine, examine_box, examine_broker
from edge.snapshot import Destination, ModalityStatus
from edge.store import Choice
from edge.web.connections import latest_news, links, own_tests
from edge.web.connections_senders import senders, strangers
from edge.web.connections_trials import BOX, BROKER, of_destination
from edge.web.label import label
from edge.web.page import N_, Fragment, Glance, Page, get, post
from edge.web.trials import Trial
from edge.web.visit import Visit

_FAST: Final = 2
_SLOW: Final = 15
"""Seconds after which a page without scripts loads itself anew, while a test runs and otherwise."""
_JSON: Final = "application/json"
_DONE: Final[Mapping[str, str]] = {
    "running": N_("It is being tested already."),
    "full": N_("Other tests are still going on: wait until one of them has ended."),
    "pause": N_("The destination is paused: images for it are stored and wait."),
    "resume": N_("The destination goes on."),
    "same": N_("Nothing was changed: it was so already."),
}

log = structlog.get_logger()


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/connections``."""

    modalities: list[ModalityStatus]
    destinations: list[Destination]
    tests: dict[str, Trial]


async def _show(visit: Visit) -> Response:
    box = visit.box
    said = ""
    if visit.session is not None:
        said, visit.session.said = visit.session.said, ""
    own = label(box.config, box.device, await asyncio.to_thread(box.addresses))
    return await visit.render("connections.html", said=said, own=own, again=_again(visit))


def _again(visit: Visit) -> str:
    """When, and where, a page without scripts loads itself anew: at what was clicked, to keep its steps in view."""
    at = visit.query("at")
    seconds = _FAST if visit.box.trials.running else _SLOW
    if at not in {BOX, BROKER, *(of_destination(one.name) for one in visit.box.config.destination)}:
        return str(seconds)
    # an address that differs in nothing but its fragment would not be loaded at all
    turn = "2" if visit.query("turn") == "1" else "1"
    return f"{seconds}; url=/connections?at={at}&turn={turn}#{at}"


async def _places(glance: Glance) -> Mapping[str, Any]:
    glance.box.trials.look()
    return {"links": links(glance)}


async def _senders(glance: Glance) -> Mapping[str, Any]:
    others, more = strangers(glance)
    return {"senders": senders(glance), "strangers": others, "more": more}


async def _own(glance: Glance) -> Mapping[str, Any]:
    box, broker = own_tests(glance)
    mqtt = glance.box.config.mqtt
    return {"box": box, "broker": broker, "url": "" if mqtt is None else mqtt.url}


async def _news(glance: Glance) -> Mapping[str, Any]:
    return {"news": latest_news(glance)}


async def _test(visit: Visit) -> Response:
    target = visit.form.get("target", "")
    box = visit.box
    started = box.trials.start(target, await _walk(visit, target), box.clock, box.spawn)
    if started == "started":
        log.info("connection test", target=target, address=visit.address)
    said = visit.language.say(_DONE.get(started, ""))
    if visit.request.headers.get("accept") == _JSON:
        return JSONResponse({"said": said})
    return _back(visit, target, said)


async def _walk(visit: Visit, target: str) -> Callable[[], AsyncGenerator[Step]]:
    """Return what tests ``target``, or answer 404. Raises `StoreError`."""
    config, clock = visit.box.config, visit.box.clock
    if target == BOX:
        return partial(examine_box, config, await visit.site.glimpse.now(inside=True), clock)
    if target == BROKER and config.mqtt is not None:
        return partial(examine_broker, config.mqtt, clock)
    found = next((one for one in config.destination if of_destination(one.name) == target), None)
    if found is None:
        raise HTTPException(404)
    titles = [modality.ae_title for modality in config.modality]
    return partial(examine, found, clock, *titles[:1])


async def _pause(visit: Visit) -> Response:
    return await _stop_or_go(visit, "pause")


async def _resume(visit: Visit) -> Response:
    return await _stop_or_go(visit, "resume")


async def _stop_or_go(visit: Visit, verb: str) -> Response:
    target, name = _destination(visit)
    changed = await visit.act(verb, Choice(destination=name))
    return _back(visit, target, visit.language.say(_DONE[verb if changed else "same"]))


async def _send(visit: Visit) -> Response:
    """Try at once what waits, without any pause that a failure had brought, and what is held."""
    target, name = _destination(visit)
    number = await visit.act("retry", Choice(destination=name))
    language = visit.language
    said = language.gettext("Nothing waits for %(name)s.", name=name)
    if number:
        said = language.ngettext(
            "%(n)s image for %(name)s is tried now.", "%(n)s images for %(name)s are tried now.", number, name=name
        )
    return _back(visit, target, said)


def _destination(visit: Visit) -> tuple[str, str]:
    """Return the destination of a form, as a target and by its name; or answer 404."""
    target = visit.form.get("target", "")
    name = next((one.name for one in visit.box.config.destination if of_destination(one.name) == target), None)
    if name is None:
        raise HTTPException(404)
    return target, name


def _back(visit: Visit, target: str, said: str) -> Response:
    """Show the page again, at what was clicked."""
    if visit.session is not None:
        visit.session.said = said
    return visit.redirect(f"/connections?at={target}#{target}")


async def _api(visit: Visit) -> Response:
    """Who sends, where images go, and how the last test of each went."""
    snapshot = await visit.site.glimpse.now(inside=True)
    found = Connections(modalities=snapshot.modalities, destinations=snapshot.destinations, tests=visit.box.trials.all)
    return Response(msgspec.json.encode(found), media_type=_JSON)


PAGE: Final = Page(
    name="connections",
    title=N_("Connections"),
    path="/connections",
    icon="links",
    endpoints=(
        get("/connections", _show),
        post("/connections/test", _test),
        post("/connections/send", _send),
        post("/connections/pause", _pause),
        post("/connections/resume", _resume),
        get("/api/connections", _api),
    ),
    fragments=(
        Fragment(name="connections-news", template="connections/news.html", view=_news),
        Fragment(name="connections-places", template="connections/places.html", view=_places),
        Fragment(name="connections-own", template="connections/own.html", view=_own),
        Fragment(name="connections-senders", template="connections/senders.html", view=_senders),
    ),
)
