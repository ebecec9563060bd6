"""What is not through of a study, image by image, and what a person does about it: asked first where it is grave."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge.states import DeliveryState
from edge.store.stuck import MOST, chosen, rows
from edge.web.page import Page, get, post
from edge.web.pages.study import find, memory
from edge.web.studies import title
from edge.web.studies_acts import Act, UnknownActError, act, done, reason
from edge.web.studies_name import writings
from edge.web.studies_stuck import items, trouble, word
from edge.web.visit import Visit


async def _images(visit: Visit) -> Response:
    """List what is in one state at one destination, a piece at a time."""
    study = await find(visit.box, visit.number("id"))
    try:
        state = DeliveryState(visit.query("state"))
    except ValueError:
        raise HTTPException(404) from None
    if state in (DeliveryState.SENDING, DeliveryState.VERIFIED):
        raise HTTPException(404)
    after, destination = visit.query("after"), visit.query("destination")
    number = int(after) if after.isdecimal() else 0
    found = await rows(visit.box.reading, study.id, destination, state, min(number, 1 << 62))
    snapshot = await visit.site.glimpse.now(inside=True)
    troubles = {d.name: trouble(d, visit.language) for d in snapshot.destinations}
    return await visit.render(
        "study/images.html",
        study=study,
        heading=title(study, visit.language),
        names=writings(study.patient_name),
        destination=destination,
        word=word(state, visit.language),
        items=items(found, troubles, visit.language, visit.box.clock.now()),
        after=found[-1].id if len(found) == MOST else None,
        begun=number > 0,
    )


async def _ask(visit: Visit) -> Response:
    """Ask for a reason, and whether it is meant."""
    what = _read(visit.request.url.query[:1000])
    return await _question(visit, what)


async def _question(visit: Visit, what: Act, trouble: str = "") -> Response:
    study = await find(visit.box, visit.number("id"))
    concerned = await chosen(visit.box.reading, study.id, what.destination, what.state, what.delivery)
    return await visit.render(
        "study/decide.html",
        status=400 if trouble else 200,
        study=study,
        heading=title(study, visit.language),
        names=writings(study.patient_name),
        act=what,
        concerned=[(word(one.state, visit.language), one.images) for one in concerned],
        trouble=trouble,
    )


async def _act(visit: Visit) -> Response:
    study = await find(visit.box, visit.number("id"))
    what, why = _read(visit.form.get("what", "")), reason(visit.form.get("reason", ""))
    if what.reasoned and not why:
        return await _question(visit, what, visit.language.gettext("Say why: it goes on the record."))
    resend = what.verb == "resend"
    number = await visit.act("retry" if resend else what.verb, what.choice(study.id), reason=why, force=resend)
    memory.forget(visit.box, study.id)
    if visit.session is not None:
        visit.session.said = done(what, number, visit.language)
    return visit.redirect(f"/studies/{study.id}")


def _read(text: str) -> Act:
    try:
        return act(text)
    except UnknownActError:
        raise HTTPException(400) from None


PAGE: Final = Page(
    name="deciding",
    under="studies",
    endpoints=(
        get("/studies/{id:int}/images", _images),
        get("/studies/{id:int}/decide", _ask),
        post("/studies/{id:int}/act", _act),
    ),
)
