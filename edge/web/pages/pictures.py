"""Pictures of studies: a small one for a list, a larger one for a study's own page.

There is always a picture: where nothing can be shown, one that says so. None is kept by browsers.
"""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge.dicom.uids import is_image
from edge.preview import SIDES, NoPicture, Picture, Reason
from edge.store.portrait import portrait
from edge.web.page import N_, Page, get
from edge.web.visit import Visit

_SIGNS: Final = {
    Reason.REPORT: N_("Report"),
    Reason.DOCUMENT: N_("Document"),
    Reason.PRESENTATION: N_("Presentation"),
    Reason.WAVEFORM: N_("Curves"),
    Reason.RADIOTHERAPY: N_("Radiotherapy"),
    Reason.VIDEO: N_("Video"),
}
_NONE: Final = N_("No preview")
_SVG: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><rect width="96" height="96" rx="6" fill="#3b4a53"/>'
    '<path d="M30 24h26l12 12v26H30z M56 24v12h12" fill="none" stroke="#b9c6ce" stroke-width="3" '
    'stroke-linejoin="round"/><text x="48" y="83" text-anchor="middle" font-family="sans-serif" font-size="12" '
    'fill="#ffffff">{word}</text></svg>'
)


async def _picture(visit: Visit) -> Response:
    side, study = visit.number("side"), visit.number("id")
    previews = visit.box.previews
    if side not in SIDES or previews is None or study >= 1 << 63:
        raise HTTPException(404)
    number = await portrait(visit.box.reading, study, is_image)
    answer: Picture | NoPicture = NoPicture(Reason.GONE)
    if number is not None:
        answer = await previews.of_object(number, side, visit.session.id if visit.session is not None else "")
    if isinstance(answer, NoPicture):
        word = visit.language.say(_SIGNS.get(answer.reason, _NONE))
        return Response(_SVG.format(word=word), media_type="image/svg+xml")
    return Response(answer.data, media_type=answer.media)


PAGE: Final = Page(name="pictures", endpoints=(get("/studies/{id:int}/picture/{side:int}", _picture),))
