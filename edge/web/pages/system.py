"""System: the box itself, for who looks after it: what is wrong with it, what it is made of, its label, its log.

Every change is a form of its own; what stops images for a while is behind a second click that says so.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge.status.journal import journal
from edge.status.versions import versions
from edge.store import Choice, StoreError
from edge.web.bundle import TYPE, Bundle, archive, lines_of
from edge.web.page import N_, Fragment, Glance, Page, get, post
from edge.web.system import found, groups
from edge.web.system_facts import facts
from edge.web.visit import Visit

_SECONDS: Final = 15.0
"""For which the light says "this one"."""
_LATER: Final = 1.0
"""Seconds after which the box begins anew, so that its answer is out before."""
_DONE: Final[Mapping[str, str]] = {
    "identify": N_("For 15 seconds the light says that it is this box."),
    "pause": N_("The destination is paused: images for it are stored and wait."),
    "resume": N_("The destination goes on."),
    "same": N_("Nothing was changed: it was so already."),
}
"""What is said after a form, by a word in the address."""

log = structlog.get_logger()


async def _show(visit: Visit) -> Response:
    box = visit.box
    snapshot = await visit.site.glimpse.now(inside=True)

    def read() -> dict[str, Any]:
        return {"facts": facts(box, visit.language, box.machine(), versions())}

    return await visit.render(
        "system.html",
        destinations=snapshot.destinations,
        done=visit.language.say(_DONE.get(visit.query("done"), "")),
        can_identify=box.identify is not None,
        can_restart=box.restart is not None,
        **await asyncio.to_thread(read),
    )


async def _findings(glance: Glance) -> Mapping[str, Any]:
    return {"findings": found(glance)}


async def _health(glance: Glance) -> Mapping[str, Any]:
    machine = await asyncio.to_thread(glance.box.machine)
    power = await asyncio.to_thread(glance.box.power)
    return {"groups": groups(glance, machine, power=power)}


async def _identify(visit: Visit) -> Response:
    if visit.box.identify is None:
        raise HTTPException(404)
    visit.box.identify(_SECONDS)
    return visit.redirect("/system?done=identify")


async def _pause(visit: Visit) -> Response:
    return await _stop_or_go(visit, "pause")


async def _resume(visit: Visit) -> Response:
    return await _stop_or_go(visit, "resume")


async def _stop_or_go(visit: Visit, verb: str) -> Response:
    name = visit.form.get("destination", "")
    if name not in {destination.name for destination in visit.box.config.destination}:
        raise HTTPException(404)
    changed = await visit.act(verb, Choice(destination=name))
    return visit.redirect(f"/system?done={verb if changed else 'same'}")


async def _restart(visit: Visit) -> Response:
    restart = visit.box.restart
    if restart is None:
        raise HTTPException(404)
    log.warning("the dashboard asks for a restart", address=visit.address)
    asyncio.get_running_loop().call_later(_LATER, restart)
    return await visit.render("system/restarting.html")


async def _logs(visit: Visit) -> Response:
    box = visit.box
    try:
        snapshot = await visit.site.glimpse.now(inside=True)
    except StoreError:
        snapshot = None  # a box that is broken is one whose log is wanted

    def make() -> tuple[str, bytes]:
        lines, source = lines_of(journal(), tuple(box.lines()))
        bundle = Bundle(
            device=box.device,
            taken_at=box.clock.now(),
            config=box.config,
            snapshot=snapshot,
            machine=box.machine(),
            versions=versions(),
            lines=lines,
            source=source,
        )
        return bundle.name, archive(bundle)

    name, body = await asyncio.to_thread(make)
    log.info("the logs bundle was taken", address=visit.address, bytes=len(body))
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return visit.finish(Response(body, media_type=TYPE, headers=headers))


PAGE: Final = Page(
    name="system",
    title=N_("System"),
    path="/system",
    icon="system",
    endpoints=(
        get("/system", _show),
        post("/system/identify", _identify),
        post("/system/pause", _pause),
        post("/system/resume", _resume),
        post("/system/restart", _restart),
        post("/system/logs", _logs),
    ),
    fragments=(
        Fragment(name="system-findings", template="system/findings.html", view=_findings),
        Fragment(name="system-health", template="system/health.html", view=_health),
    ),
)
