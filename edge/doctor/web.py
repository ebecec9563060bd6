"""The steps with a DICOMweb server: what we log in with, whether it answers, and a query that finds nothing."""

import random
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from edge.clock import Clock
from edge.config import ClientTls, DicomwebDestination
from edge.dicomweb.answer import UnreadableError, instances
from edge.dicomweb.client import Answer, Client
from edge.dicomweb.errors import WebError
from edge.doctor.network import Look, Resolve, Visit, resolve
from edge.doctor.step import Told, doubtful, failed, fine, left_out
from edge.doctor.words import TEXTS
from edge.forward.links import interfaces
from edge.forward.outcome import Unreachable
from edge.forward.web import JSON, Web
from edge.tls import destination_credentials

_OK: Final = frozenset({200, 204})
_APART: Final = 300.0
"""Seconds by which two clocks may differ."""
_PORTS: Final = {"http": 80, "https": 443}


class WebVisit(Visit):
    """What is learnt of one DICOMweb server."""

    def __init__(
        self,
        destination: DicomwebDestination,
        clock: Clock,
        look: Look = interfaces,
        resolve: Resolve = resolve,
    ) -> None:
        parts = urlsplit(destination.url)
        credentials = None
        if destination.secure:
            credentials = destination_credentials(destination.name, destination.tls or ClientTls())
        super().__init__(
            parts.hostname or "",
            parts.port or _PORTS[parts.scheme.lower()],
            server="server",
            connect=destination.timeouts.connect,
            credentials=credentials,
            clock=clock,
            look=look,
            resolve=resolve,
        )
        self.destination = destination
        self.web = Web(destination, credentials, clock)
        self.answer: Answer | None = None
        self._client: Client | None = None

    async def client(self) -> Client | Unreachable:
        """Return the client, which has what it needs to log in."""
        if self._client is None:
            made = await self.web.client()
            if isinstance(made, Unreachable):
                return made
            self._client = made
        return self._client

    async def close(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def login(visit: WebVisit) -> Told:
    """See whether there is what we log in with: files that can be read, a token that is given out."""
    made = await visit.client()
    if isinstance(made, Unreachable):
        return failed(made.code, made.detail)
    kind = visit.destination.auth.type
    return left_out("login_none") if kind == "none" else fine("login", kind=kind)


async def answer(visit: WebVisit) -> Told:
    """Ask for a study that does not exist, and see whether HTTP is answered, be it with yes or no."""
    client = await visit.client()
    if isinstance(client, Unreachable):
        return failed(client.code, client.detail)
    nobody = f"2.25.{random.SystemRandom().getrandbits(120)}"
    try:
        found = await client.get(f"/studies?StudyInstanceUID={nobody}&limit=1", JSON)
    except WebError as e:
        said = visit.web.diagnose(e)
        return failed(said.code, said.detail)
    visit.answer = found
    values = {"version": found.version, "status": found.status}
    apart = _apart(found.headers.get("date", ""), visit.clock.now())
    if apart > _APART:
        return doubtful("CLOCKS_DIFFER", TEXTS["clock_differs"].format(**values, minutes=round(apart / 60)))
    return fine("answered_via" if "via" in found.headers else "answered", **values)


async def query(visit: WebVisit) -> Told:
    """Judge what was answered to the query."""
    found = visit.answer
    if found is None:
        raise RuntimeError("nothing was asked yet")
    if found.status not in _OK:
        said = visit.web.answered(found)
        return failed(said.code, said.detail)
    try:
        instances(found.media_type, found.body)
    except UnreadableError as e:
        said = visit.web.diagnose(e)
        return failed(said.code, said.detail)
    return fine("qido")


def _apart(theirs: str, ours: float) -> float:
    """Seconds between a Date header (RFC 9110 6.6.1) and ``ours``; 0 where it cannot be read."""
    try:
        return abs(parsedate_to_datetime(theirs).timestamp() - ours)
    except (ValueError, OverflowError):
        return 0.0
