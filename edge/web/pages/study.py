"""One study: whether it may be deleted from the scanner, what is not through, and why."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge.safety import StudyView
from edge.states import DeliveryState
from edge.store import Reading, StudyFilter
from edge.web.box import Box
from edge.web.page import Fragment, Glance, Page, get
from edge.web.studies import proving, row, title
from edge.web.studies_acts import for_all
from edge.web.studies_name import writings
from edge.web.studies_stuck import Open, look, told
from edge.web.visit import Visit

_PATIENCE: Final = 10.0
"""Seconds for which what is not through is not asked anew where nothing moved."""
_MOST_KEPT: Final = 32


class Memory:
    """What was not through of studies that somebody looks at: asking reads every image of a study."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Reading, int], tuple[float, StudyView, Open]] = {}

    async def look(self, box: Box, study: StudyView) -> Open:
        """Return what is not through. Raises `StoreError`."""
        now, key = box.clock.monotonic(), (box.reading, study.id)
        kept = self._kept.pop(key, None)
        if kept is None or kept[1] != study or not 0 <= now - kept[0] < _PATIENCE:
            kept = (now, study, await look(box.reading, study.id))
        while len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = kept
        return kept[2]

    def forget(self, box: Box, study: int) -> None:
        """Ask anew next time: somebody has decided something that no count shows."""
        self._kept.pop((box.reading, study), None)


async def find(box: Box, number: int) -> StudyView:
    """Return the study of this number, or answer 404. Raises `StoreError`."""
    study = await _find(box, number)
    if study is None:
        raise HTTPException(404)
    return study


async def _find(box: Box, number: int) -> StudyView | None:
    found = await box.studies(StudyFilter(ids=(number,)), 1) if number < 1 << 63 else ()
    return found[0] if found else None


async def _looked_at(glance: Glance) -> StudyView | None:
    """Return the study that a screen shows; None where it is not kept any more."""
    return await _find(glance.box, int(glance.about)) if glance.about.isdecimal() else None


async def _show(visit: Visit) -> Response:
    study = await find(visit.box, visit.number("id"))
    said = ""
    if visit.session is not None:
        said, visit.session.said = visit.session.said, ""
    return await visit.render(
        "study.html",
        about=str(study.id),
        study=study,
        names=writings(study.patient_name),
        heading=title(study, visit.language),
        row=row(study, visit.language, visit.box.clock.now(), proving(visit.box.config)),
        said=said,
        pictures=visit.box.previews is not None,
    )


async def _answer(glance: Glance) -> Mapping[str, Any]:
    study = await _looked_at(glance)
    return {"row": None if study is None else row(study, glance.language, glance.now, proving(glance.box.config))}


async def _open(glance: Glance) -> Mapping[str, Any]:
    study = await _looked_at(glance)
    if study is None:
        return {"study": None}
    found = told(await memory.look(glance.box, study), glance.snapshot.destinations, glance.language, glance.now)
    several = len({one.destination for one in found if one.state is DeliveryState.QUEUED}) > 1
    acts = for_all(one.state for one in found) if several else ()
    return {"study": study.id, "groups": found, "acts": acts, "unrouted": study.unrouted}


memory: Final = Memory()

PAGE: Final = Page(
    name="study",
    under="studies",
    endpoints=(get("/studies/{id:int}", _show),),
    fragments=(
        Fragment(name="study-answer", template="study/answer.html", view=_answer),
        Fragment(name="study-open", template="study/open.html", view=_open),
    ),
    about=True,
)
