"""Asking one server: logged in, once more where the login was refused, redirected on the same host only.

Nothing but the server that is configured gets anything of ours: other hosts that it names are refused.
"""

from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from edge.dicomweb.connection import Answer, Body, Connection, Settings
from edge.dicomweb.errors import RedirectError
from edge.dicomweb.login import Login
from edge.phrase import N_, say

__all__ = ["Answer", "Body", "Client", "Settings"]

_MOST_REDIRECTS: Final = 3
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_SAME_REQUEST: Final = frozenset({307, 308})
_UNAUTHORIZED: Final = 401


class Client:
    """Speaks to one server; what fails closes the connection, and the next request makes another."""

    def __init__(self, settings: Settings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self._connection = Connection(settings)

    @property
    def answered(self) -> int:
        """Answers that came over the connection that stands."""
        return self._connection.answered

    async def get(self, path: str, accept: str) -> Answer:
        """Ask for ``path``, which begins with a slash and may have a query. Raises `WebError`."""
        return await self._follow("GET", path, None, accept)

    async def post(self, path: str, body: Body, accept: str) -> Answer:
        """Send ``body`` to ``path``. Raises `WebError`, and what ``body`` raises."""
        return await self._follow("POST", path, body, accept)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _follow(self, method: str, path: str, body: Body | None, accept: str) -> Answer:
        url = self._settings.url + path
        for _ in range(_MOST_REDIRECTS + 1):
            answer = await self._logged_in(method, url, body, accept)
            if answer.status not in _MOVED:
                return answer
            url = _moved(url, answer, same_request=method != "GET")
        raise RedirectError(N_("it sends us from one address to the next without end"))

    async def _logged_in(self, method: str, url: str, body: Body | None, accept: str) -> Answer:
        header = await self._login.header()
        answer = await self._exchange(method, url, body, accept, header)
        if answer.status == _UNAUTHORIZED and header and await self._login.renew(header):
            answer = await self._exchange(method, url, body, accept, await self._login.header())
        return answer

    async def _exchange(self, method: str, url: str, body: Body | None, accept: str, authorization: str) -> Answer:
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        if authorization:
            headers["Authorization"] = authorization
        if body is not None:
            headers |= {"Content-Type": body.content_type, "Content-Length": str(body.length)}
        return await self._connection.exchange(method, url, body, headers)


def _moved(url: str, answer: Answer, *, same_request: bool) -> str:
    """Return where a redirect leads, if it may be followed. Raises `RedirectError`."""
    to = answer.headers.get("location", "")
    try:
        target = urlsplit(urljoin(url, to))
        here, there = _origin(urlsplit(url)), _origin(target)
    except ValueError:
        target, here, there = urlsplit(""), ("", "", 0), ("", "", None)
    if not to or here != there:
        shown = f"{there[0]}://{there[1]}" if there[1] else "nowhere"
        raise RedirectError(say("it sends us to {address}: if that is right, write it as url", address=shown[:100]))
    if same_request and answer.status not in _SAME_REQUEST:
        raise RedirectError(
            say("it answered {status} and would have us ask for a page: check url", status=answer.status)
        )
    # whom we ask is ours to say, down to the last sign
    return urlunsplit(urlsplit(url)._replace(path=target.path, query=target.query))


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, (parts.hostname or ""), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
