"""Studies: today's, by patient, or what was searched for; whether each is safe to delete from the scanner."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from edge.safety import StudyView
from edge.store import StudyFilter
from edge.web.box import Box
from edge.web.page import N_, Fragment, Glance, Page, get, post
from edge.web.studies import by_patient, proving
from edge.web.studies_safety import answer
from edge.web.studies_search import (
    ALL,
    TODAY,
    DateError,
    Found,
    Look,
    Search,
    Searches,
    look,
    search,
    which,
)
from edge.web.visit import Visit

MOST: Final = 20
"""Studies on one page."""

_searches: Final = Searches()


async def _show(visit: Visit) -> Response:
    before = visit.query("before")
    shown = Look(visit.query("show") or TODAY, int(before) if before.isdecimal() else None)
    if shown.show not in {TODAY, ALL} and _searches.find(shown.show) is None:
        return visit.redirect("/studies")  # it was forgotten
    return await _render(visit, shown, _searches.find(shown.show) or Search())


async def _search(visit: Visit) -> Response:
    form = visit.form
    try:
        wanted = search(*(form.get(name, "") for name in ("words", "modality", "from", "to")))
    except DateError:
        trouble = visit.language.gettext("That is no date: write it like 2026-11-27.")
        return await _render(visit, Look(ALL), Search(words=form.get("words", "")[:64]), trouble)
    if wanted == Search():
        return visit.redirect(f"/studies?show={ALL}")
    return visit.redirect(f"/studies?show={_searches.add(wanted)}")


async def _render(visit: Visit, shown: Look, searched: Search, trouble: str = "") -> Response:
    status = 400 if trouble else 200
    return await visit.render(
        "studies.html", status=status, about=str(shown), look=shown, search=searched, trouble=trouble
    )


async def _list(glance: Glance) -> Mapping[str, Any]:
    shown = look(glance.about)
    searched = _searches.find(shown.show)
    found, more = await _found(glance.box, shown, searched, glance.now)
    safe = sum(answer(study, glance.language).tone in {"yes", "compare"} for study in found)
    return {
        "look": shown,
        "searched": searched is not None,
        "patients": by_patient(found, glance.language, glance.now, proving(glance.box.config)),
        "total": len(found),
        "safe": safe,
        "older": found[-1].latest if found and more else None,
        "pictures": glance.box.previews is not None,
    }


async def _found(box: Box, shown: Look, searched: Search | None, now: float) -> tuple[list[StudyView], bool]:
    """What is on the page now, and whether there is more behind it."""
    monotonic = box.clock.monotonic()
    kept = _searches.found(shown, monotonic) if searched is not None else None
    if kept is not None:
        studies = list(await box.studies(StudyFilter(ids=kept.ids), MOST)) if kept.ids else []
        return studies, kept.more
    studies = list(await box.studies(which(shown, searched, now), MOST + 1))
    more, studies = len(studies) > MOST, studies[:MOST]
    if searched is not None:
        _searches.put(shown, Found(monotonic, tuple(study.id for study in studies), more))
    return studies, more


PAGE: Final = Page(
    name="studies",
    title=N_("Studies"),
    path="/studies",
    icon="studies",
    endpoints=(get("/studies", _show), post("/studies/search", _search)),
    fragments=(Fragment(name="studies-list", template="studies/list.html", view=_list),),
    about=True,
)
