"""The way in and out: login, the first password, logout."""

from typing import Final

import structlog
from starlette.responses import Response

from edge.web.gate import Attempt
from edge.web.page import N_, Page, get, post
from edge.web.secret import LONGEST, SHORTEST, PasswordError
from edge.web.visit import Visit
from edge.web.words import span

_WRONG: Final = N_("That is not the password.")
_NOT_THE_CODE: Final = N_("That is not the code of this box.")
_DIFFERENT: Final = N_("The two passwords are not the same.")

log = structlog.get_logger()


async def _login(visit: Visit) -> Response:
    if not await visit.site.gate.is_set():
        return visit.redirect("/setup")
    return await _login_form(visit, visit.query("next"))


async def _log_in(visit: Visit) -> Response:
    attempt = await visit.site.gate.log_in(visit.address, visit.form.get("password", ""))
    _note(visit, attempt)
    if attempt.result == "in":
        visit.log_in()
        return visit.redirect(visit.local(visit.form.get("next", "")))
    return await _login_form(visit, visit.form.get("next", ""), trouble=_why(visit, attempt, _WRONG), attempt=attempt)


async def _login_form(visit: Visit, target: str, trouble: str = "", attempt: Attempt | None = None) -> Response:
    response = await visit.render(
        "login.html", status=_status(attempt), target=visit.local(target), trouble=trouble, longest=LONGEST
    )
    return _patience(response, attempt)


async def _log_out(visit: Visit) -> Response:
    visit.log_out()
    return visit.redirect("/")


async def _setup(visit: Visit) -> Response:
    if await visit.site.gate.is_set():
        return visit.redirect("/login")
    return await _setup_form(visit)


async def _set_up(visit: Visit) -> Response:
    form = visit.form
    if form.get("password", "") != form.get("again", ""):
        return await _setup_form(visit, trouble=visit.language.say(_DIFFERENT))
    try:
        attempt = await visit.site.gate.first(visit.address, form.get("code", ""), form.get("password", ""))
    except PasswordError as e:
        return await _setup_form(visit, trouble=visit.language.say(str(e)))
    _note(visit, attempt)
    if attempt.result == "in":
        visit.log_in()
        return visit.redirect("/")
    return await _setup_form(visit, trouble=_why(visit, attempt, _NOT_THE_CODE), attempt=attempt)


async def _setup_form(visit: Visit, trouble: str = "", attempt: Attempt | None = None) -> Response:
    response = await visit.render(
        "setup.html", status=_status(attempt), trouble=trouble, shortest=SHORTEST, longest=LONGEST
    )
    return _patience(response, attempt)


def _why(visit: Visit, attempt: Attempt, wrong: str) -> str:
    if attempt.result == "wait":
        left = span(attempt.wait + 1, visit.language)
        return visit.language.gettext("Too many attempts: try again in %(span)s.", span=left)
    return visit.language.say(wrong)


def _status(attempt: Attempt | None) -> int:
    if attempt is None:
        return 200
    return 429 if attempt.result == "wait" else 403


def _patience(response: Response, attempt: Attempt | None) -> Response:
    if attempt is not None and attempt.result == "wait":
        response.headers["Retry-After"] = str(int(attempt.wait) + 1)
    return response


def _note(visit: Visit, attempt: Attempt) -> None:
    """What was tried is not logged, and what was turned away unread is not worth a line."""
    if attempt.result == "in":
        log.info("dashboard login", address=visit.address)
    elif attempt.result == "wrong":
        log.warning("dashboard login failed", address=visit.address)


PAGE: Final = Page(
    name="entry",
    endpoints=(
        get("/login", _login, login=False),
        post("/login", _log_in, login=False),
        post("/logout", _log_out),
        get("/setup", _setup, login=False),
        post("/setup", _set_up, login=False),
    ),
)
