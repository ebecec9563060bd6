"""One request as a page sees it: who asks, in which language, with which form; and the answers that a page gives."""

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from edge.store import Choice
from edge.web.box import WHO, Box
from edge.web.language import Language
from edge.web.page import Page
from edge.web.sessions import LONGEST, Session

if TYPE_CHECKING:
    from edge.web.site import Site

_THEMES: Final = ("light", "dark", "auto")
_YEAR: Final = 365 * 86_400
_NO_FORM: Final[Mapping[str, str]] = {}


class Visit:
    """A request, and what answers it."""

    def __init__(self, request: Request, site: "Site", page: Page | None = None, *, passive: bool = False) -> None:
        self.request = request
        self.site = site
        self.page = page
        self.form: Mapping[str, str] = _NO_FORM
        """The fields of a POST; of a field that came twice, the last."""
        self.secure = request.url.scheme == "https"
        self._cookies: dict[str, tuple[str, int]] = {}
        self.session: Session | None = site.sessions.find(
            request.cookies.get(self._name("session"), ""), touch=not passive
        )
        self.language = self._language()
        self.theme = self._chosen("theme", _THEMES) or "auto"
        self.wall = request.query_params.get("wall") == "1"
        self._visitor = request.cookies.get(self._name("visit"), "")

    @property
    def box(self) -> Box:
        """The appliance."""
        return self.site.box

    @property
    def address(self) -> str:
        """Who asks."""
        return self.request.client.host if self.request.client else ""

    @property
    def token(self) -> str:
        """What a form of this visitor must bring."""
        if self.session is not None:
            return self.session.token
        if not self._visitor:
            self._visitor = secrets.token_urlsafe(32)
            self.set_cookie("visit", self._visitor, 3600)
        return self.site.token(self._visitor)

    def is_ours(self, token: str) -> bool:
        """Whether ``token`` came from a form that this visitor was given."""
        known = self.session is not None or bool(self._visitor)
        return known and secrets.compare_digest(self.token.encode(), token.encode())

    def number(self, name: str) -> int:
        """Return a number of the path."""
        return int(self.request.path_params[name])

    def query(self, name: str) -> str:
        """Return a word of the query, at most 200 characters; empty where there is none."""
        return self.request.query_params.get(name, "")[:200]

    async def render(self, template: str, *, status: int = 200, about: str = "", **values: Any) -> Response:
        """Answer with a page. Its fragments are rendered for what it is ``about``, at most 200 characters.

        Raises `StoreError`.
        """
        site, clock = self.site, self.box.clock
        parts = {}
        if self.page is not None and self.page.fragments:
            parts = await site.screens.whole(self.page, self.language, inside=self.session is not None, about=about)
        html = site.renderer.render(
            template,
            self.language,
            clock.now(),
            {
                "about": about,
                "device": self.box.config.device,
                "inside": self.session is not None,
                "languages": site.languages.all,
                "page": self.page,
                "pages": [page for page in site.pages if page.title and (self.session is not None or not page.login)],
                "theme": self.theme,
                "token": lambda: self.token,
                "wall": self.wall,
                "here": self.here,
                "fragment": lambda name: Markup(parts[name]),  # noqa: S704 - rendered with escaping
                **values,
            },
        )
        return self.finish(HTMLResponse(html, status))

    def redirect(self, path: str) -> Response:
        """Answer a POST: look at ``path`` now."""
        return self.finish(RedirectResponse(path, 303))

    def finish(self, response: Response) -> Response:
        """Give ``response`` the cookies that this visit sets."""
        for name, (value, age) in self._cookies.items():
            response.set_cookie(
                self._name(name),
                value,
                max_age=age,
                path="/",
                secure=self.secure,
                httponly=True,
                samesite="strict",
            )
        return response

    def set_cookie(self, name: str, value: str, age: int) -> None:
        """Have the browser keep ``value`` for ``age`` seconds; 0: forget it."""
        self._cookies[name] = (value, age)

    def log_in(self) -> None:
        """Begin a session, under a name that nobody knew before; one that was there ends."""
        self.log_out()
        self.session = self.site.sessions.begin()
        self.set_cookie("session", self.session.id, int(LONGEST))

    def log_out(self) -> None:
        """End the session."""
        if self.session is not None:
            self.site.sessions.end(self.session.id)
            self.session = None
        self.set_cookie("session", "", 0)

    async def act(self, verb: str, choice: Choice, *, reason: str = "", force: bool = False) -> int:
        """Decide about deliveries, in the name of the dashboard; how many it concerned. Raises `StoreError`."""
        if self.session is None:
            raise HTTPException(403)
        return await self.box.control.act(verb, choice, who=WHO, reason=reason, force=force)

    def local(self, path: str) -> str:
        """Return ``path`` where it is one of this site, else ``/``: nobody is led elsewhere."""
        try:
            parts = urlsplit(path)
        except ValueError:
            return "/"
        plain = path.isprintable() and "\\" not in path and not parts.scheme and not parts.netloc
        return path if plain and path.startswith("/") and not path.startswith("//") else "/"

    def here(self, **changes: str) -> str:
        """Return the address of this page with other words in its query; an empty one is left out."""
        query = {key: self.query(key) for key in self.request.query_params if key not in {"lang", "theme"}}
        url = self.request.url.replace(query="").include_query_params(
            **{key: value for key, value in (query | changes).items() if value}
        )
        return f"{url.path}?{url.query}" if url.query else url.path

    def _language(self) -> Language:
        chosen = self._chosen("lang", tuple(language.code for language in self.site.languages.all))
        return self.site.languages.choose(chosen, self.request.headers.get("accept-language", ""))

    def _chosen(self, name: str, known: tuple[str, ...]) -> str:
        """What the reader chose now, and is kept, or had chosen before."""
        now = self.request.query_params.get(name, "")
        if now in known:
            self.set_cookie(name, now, _YEAR)
            return now
        before = self.request.cookies.get(self._name(name), "")
        return before if before in known else ""

    def _name(self, name: str) -> str:
        """A cookie of this host alone, where the browser can promise that (RFC 6265bis 4.1.3.2)."""
        return f"__Host-edge-{name}" if self.secure else f"edge-{name}"
