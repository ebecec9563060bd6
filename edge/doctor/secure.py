"""The steps of TLS: our clock, and a handshake with the destination's name, authority and dates judged as ever."""

import asyncio
import contextlib
import ssl
from typing import Any, Final

from edge.clock import iso
from edge.doctor.network import Visit
from edge.doctor.step import Told, doubtful, failed, fine
from edge.doctor.words import TEXTS
from edge.forward.reach import about_tls
from edge.phrase import say
from edge.tls import date, failure

SOON: Final = 30 * 86_400.0
"""Seconds before the end of a certificate from which that is worth a word."""
_LAST_WORDS: Final = 0.3
"""Seconds for what TLS 1.3 says only after the handshake, such as that it wants a certificate of ours."""


async def clock(visit: Visit) -> Told:
    """See whether our clock is good enough to judge certificates."""
    now = iso(visit.clock.now())
    if visit.clock.trusted():
        return fine("clock", now=now)
    return doubtful("CLOCK_NOT_TRUSTED", TEXTS["clock_wrong"].format(now=now))


async def tls(visit: Visit) -> Told:
    """See whether the two agree on TLS, and whether it is the right one who answers."""
    credentials = visit.credentials
    context = None if credentials is None else credentials.context()
    if credentials is None or context is None:
        trouble = "there is no context" if credentials is None else credentials.trouble
        return failed("TLS_FILES", say("TLS cannot be used: {why}.", why=trouble))
    try:
        async with asyncio.timeout(visit.connect):
            version, certificate = await _shake_hands(visit, context)
    except TimeoutError:
        return failed("NO_ANSWER", TEXTS["tls_silent"].format(where=visit.where, seconds=f"{visit.connect:g}"))
    except OSError as e:
        if (why := failure(e)) is None:
            return failed("CONNECTION_LOST", TEXTS["tls_lost"].format(where=visit.where))
        key = "host" if visit.server == "PACS" else "url"
        said = about_tls(why, visit.where, key, trusted=visit.clock.trusted(), midway=False)
        return failed(said.code, said.detail)
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    values = {"version": version, "name": _subject(certificate) or visit.host, "ends": date(ends)}
    if visit.clock.trusted() and ends - visit.clock.now() < SOON:
        return doubtful("PEER_CERTIFICATE_ENDS", TEXTS["tls_ends"].format(**values))
    return fine("tls", **values)


async def _shake_hands(visit: Visit, context: ssl.SSLContext) -> tuple[str, dict[str, Any]]:
    reader, writer = await asyncio.open_connection(
        visit.reached,
        visit.port,
        ssl=context,
        server_hostname=visit.host,
        ssl_handshake_timeout=visit.connect + 1,  # the deadline around it is the one that counts
        ssl_shutdown_timeout=1.0,
    )
    try:
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        version, certificate = found.version() or "TLS", found.getpeercert() or {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await reader.read(1)
        return version.replace("TLSv", "TLS "), certificate
    finally:
        writer.transport.abort()


def _subject(certificate: dict[str, Any]) -> str:
    """The common name, else the first of the other names."""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return str(next(iter([*names, *(value for _, value in certificate.get("subjectAltName", ()))]), ""))
