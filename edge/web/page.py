"""What a page is made of: its addresses, its place in the navigation, and the parts of it that stay current."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from starlette.responses import Response

from edge.snapshot import Snapshot
from edge.web.box import Box
from edge.web.language import Language

if TYPE_CHECKING:
    from edge.web.visit import Visit

Handler = Callable[["Visit"], Awaitable[Response]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One address. Without a login it is open to everybody: nothing of a patient may be behind it."""

    path: str
    """As starlette writes it: ``/studies/{id:int}``."""
    handle: Handler
    method: Literal["GET", "POST"] = "GET"
    login: bool = True
    passive: bool = False
    """Whether a browser asks for it by itself, so that it is no sign that somebody is there."""


def get(path: str, handle: Handler, *, login: bool = True, passive: bool = False) -> Endpoint:
    """Read. It must change nothing."""
    return Endpoint(path=path, handle=handle, login=login, passive=passive)


def post(path: str, handle: Handler, *, login: bool = True) -> Endpoint:
    """Change something. The form's token has been checked when ``handle`` is called."""
    return Endpoint(path=path, handle=handle, method="POST", login=login)


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """What a fragment is rendered from, for everybody who sees the same."""

    snapshot: Snapshot
    """Whole where ``inside``, else without what may name somebody."""
    box: Box
    language: Language
    inside: bool
    """Whether it is for who is logged in."""
    about: str
    """What the page is about, such as the number of a study; empty unless its `Page` has ``about``."""
    now: float
    """Wall time."""
    paces: Mapping[str, float]
    """Bytes a second at which each destination was last seen to take images; only those that were seen."""


class Fragment(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a page that is sent again whenever it looks different: rendered once for all who look at it."""

    name: str
    """Unique among all pages; the element that holds it has the id ``f-NAME``."""
    template: str
    view: Callable[[Glance], Awaitable[Mapping[str, Any]]]
    """What the template is given. It is called at most once a second for each language; it must be quick."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page, or a few that belong together."""

    name: str
    title: str = ""
    """In the navigation; a page without one is not in it."""
    path: str = ""
    """Where the navigation leads."""
    under: str = ""
    """Name of the page of the navigation that leads to this one, which has no place of its own there."""
    icon: str = ""
    """A name of ``templates/icons.html``."""
    login: bool = True
    """Whether the navigation shows it only to who is logged in."""
    endpoints: tuple[Endpoint, ...]
    fragments: tuple[Fragment, ...] = ()
    about: bool = False
    """Whether its fragments depend on what `Visit.render` was given as ``about``; for pages behind the login only."""


def N_(text: str) -> str:  # noqa: N802 - the name that gettext's tools look for
    """Mark a text that is translated where it is shown."""
    return text
