"""Another password, for who knows the present one. Whoever is logged in is logged out by it, here too."""

import asyncio
from typing import Final

import structlog
from starlette.responses import Response

from edge.web.page import N_, Page, get, post
from edge.web.secret import LONGEST, SHORTEST, PasswordError, Secrets, check
from edge.web.visit import Visit
from edge.web.words import span

_DIFFERENT: Final = N_("The two passwords are not the same.")
_WRONG: Final = N_("That is not the present password.")

log = structlog.get_logger()


async def _ask(visit: Visit) -> Response:
    return await _form(visit)


async def _change(visit: Visit) -> Response:
    password = visit.form.get("password", "")
    if password != visit.form.get("again", ""):
        return await _form(visit, visit.language.say(_DIFFERENT), 400)
    try:
        check(password)
    except PasswordError as e:
        return await _form(visit, visit.language.say(str(e)), 400)
    attempt = await visit.site.gate.log_in(visit.address, visit.form.get("present", ""))
    if attempt.result == "wait":
        left = span(attempt.wait + 1, visit.language)
        response = await _form(
            visit, visit.language.gettext("Too many attempts: try again in %(span)s.", span=left), 429
        )
        response.headers["Retry-After"] = str(int(attempt.wait) + 1)
        return response
    if attempt.result == "wrong":
        log.warning("a change of the dashboard's password failed", address=visit.address)
        return await _form(visit, visit.language.say(_WRONG), 403)
    await asyncio.to_thread(Secrets(visit.box.identity).set, password)
    log.warning("the password of the dashboard was changed", address=visit.address)
    visit.site.sessions.end_all()
    return visit.redirect("/login?next=/system")


async def _form(visit: Visit, trouble: str = "", status: int = 200) -> Response:
    return await visit.render(
        "system/password.html", status=status, trouble=trouble, shortest=SHORTEST, longest=LONGEST
    )


PAGE: Final = Page(
    name="password", under="system", endpoints=(get("/system/password", _ask), post("/system/password", _change))
)
