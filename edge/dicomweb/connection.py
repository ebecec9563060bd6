"""HTTP on one connection at a time (RFC 9110): HTTP/2 where it is offered, every wait with an end, answers bounded.

An answer that comes before its request is whole is heard (`edge.dicomweb.early`). By HTTP/2 the library cannot: what
breaks off there in the middle of a request is sent once more, and from then on by HTTP/1.1. What the environment says
of proxies and passwords does not count. The library is loaded by the first request.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from edge.dicomweb.errors import GarbledError, LostError, SilentError, TooLongError, UnreachedError
from edge.phrase import N_, say

if TYPE_CHECKING:
    import httpx

    from edge.dicomweb.early import Network

_MOST_FOUND: Final = 8 << 20
"""Bytes of an answer to a query."""
_MOST_SAID: Final = 1 << 20
"""Bytes of any other: a few dozen instances of a request, or a token."""
_IDLE: Final = 30.0
"""Seconds for which a connection without requests is kept."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call, and for how long to wait."""

    url: str
    """Where the service begins, without a slash at its end."""
    connect: float
    """Seconds to connect, and again for TLS."""
    response: float
    """Seconds for each piece of a request to be taken, and for the whole answer."""
    tls: ssl.SSLContext | None = None
    """What ``https`` needs."""


class Body(Protocol):
    """What a request carries."""

    @property
    def length(self) -> int:
        """Bytes in all."""
        ...

    @property
    def content_type(self) -> str:
        """Its media type, with parameters."""
        ...

    def stream(self) -> AsyncGenerator[bytes]:
        """Give it, from its beginning each time. What it raises passes through whoever sends it."""
        ...


class Answer(msgspec.Struct, frozen=True):
    """What a server said."""

    status: int
    media_type: str
    """In small letters, without parameters; empty where absent."""
    body: bytes
    headers: Mapping[str, str]
    """By their names in small letters."""
    version: str
    """Such as ``HTTP/1.1``."""


class Connection:
    """Carries one request after another; what fails closes it, and the next request makes another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http: httpx.AsyncClient | None = None
        self._network: Network | None = None
        self._two = True
        """Whether HTTP/2 is offered."""
        self.answered = 0
        """Answers that came over the connection that stands."""

    async def exchange(self, method: str, url: str, body: Body | None, headers: Mapping[str, str]) -> Answer:
        """Send a request and return its answer. Raises `WebError`, and what ``body`` raises."""
        answer = await self._once(method, url, body, headers) or await self._once(method, url, body, headers)
        if answer is None:
            raise AssertionError("what goes by HTTP/1.1 is answered or fails")
        self.answered += 1
        return answer

    async def close(self) -> None:
        """Close it."""
        http, self._http, self.answered = self._http, None, 0
        if http is not None:
            with contextlib.suppress(Exception):  # it is thrown away, whatever it says to that
                await http.aclose()

    async def _once(self, method: str, url: str, body: Body | None, headers: Mapping[str, str]) -> Answer | None:
        """Send a request; None: its answer may have been missed, as HTTP/2 was spoken, and is not any more."""
        content = _Timed(body, self._settings.response)
        try:
            return await self._send(method, url, content, headers)
        except (SilentError, LostError, GarbledError):
            missed = self._network is not None and self._network.two and content.midway
            await self.close()
            if not missed:
                raise
            self._two = False
            return None
        except BaseException:
            await self.close()
            raise

    async def _send(self, method: str, url: str, body: "_Timed", headers: Mapping[str, str]) -> Answer:
        import h2.exceptions  # noqa: PLC0415 - as what follows
        import httpx  # noqa: PLC0415 - large, and only for who speaks DICOMweb

        http = self._open()
        settings = self._settings
        try:
            async with asyncio.timeout(2 * settings.connect + settings.response) as deadline:
                async with contextlib.aclosing(body.pieces(deadline)) as pieces:
                    given = pieces if body.given else None
                    async with http.stream(method, url, headers=headers, content=given) as response:
                        return await _read(response, deadline, settings.response, _MOST_SAID if given else _MOST_FOUND)
        except httpx.ConnectTimeout:
            raise UnreachedError(None) from None
        except httpx.ConnectError as e:
            raise UnreachedError(_reason(e)) from None
        except ssl.SSLError as e:
            # such as that it wants a certificate of ours, which TLS 1.3 says after the handshake
            raise UnreachedError(e) from None
        except (TimeoutError, httpx.TimeoutException):
            raise SilentError(N_("it does not go on in time")) from None
        except (httpx.NetworkError, httpx.StreamConsumed):
            # the latter where it takes no more requests on this connection (RFC 9113 6.8)
            raise LostError(N_("it closed the connection")) from None
        except httpx.RemoteProtocolError as e:
            # a peer that sends back what it got would have us repeat it
            text = str(e)
            if "disconnected" in text or "closed" in text or "Terminated" in text or "Reset" in text:
                raise LostError(N_("it closed the connection before its answer was whole")) from None
            raise GarbledError(N_("it does not speak HTTP as it should")) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as e:
            # its text may hold headers
            raise GarbledError(say("the exchange failed ({kind})", kind=type(e).__name__)) from None
        except (h2.exceptions.H2Error, ValueError, KeyError):
            # which the library lets through: frames that are none in the middle of an answer, a status that is none
            raise GarbledError(N_("it does not speak HTTP/2 as it should")) from None

    def _open(self) -> "httpx.AsyncClient":
        if self._http is None:
            import httpx  # noqa: PLC0415 - large, and only for who speaks DICOMweb

            for name in ("httpx", "httpcore", "hpack"):
                # they log addresses, and headers with what is secret
                logging.getLogger(name).setLevel(logging.ERROR)
            settings = self._settings
            self._network, transport = _transport(settings.tls, two=self._two)
            self._http = httpx.AsyncClient(
                transport=transport,
                timeout=httpx.Timeout(settings.response, connect=settings.connect),
                follow_redirects=False,
                trust_env=False,
                headers={"User-Agent": "dicom-edge"},
            )
        return self._http


def _transport(tls: ssl.SSLContext | None, *, two: bool) -> "tuple[Network, httpx.AsyncHTTPTransport]":
    """Make what carries requests: one connection at a time, and how it is made."""
    import httpcore  # noqa: PLC0415 - as what follows
    import httpx  # noqa: PLC0415 - large, and only for who speaks DICOMweb

    from edge.dicomweb.early import Network  # noqa: PLC0415 - as it imports these

    # without a context nobody is believed
    context = tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    transport, network = httpx.AsyncHTTPTransport(verify=context, trust_env=False), Network()
    # it takes no network by itself
    transport._pool = httpcore.AsyncConnectionPool(  # noqa: SLF001
        ssl_context=context,
        max_connections=1,
        keepalive_expiry=_IDLE,
        http1=True,
        http2=two,
        network_backend=network,
    )
    return network, transport


class _Timed:
    """A body that puts off a deadline with each piece of it that was taken."""

    def __init__(self, body: Body | None, seconds: float) -> None:
        self.given = body is not None
        self.midway = False
        """Whether it was begun and did not come to its end."""
        self._body = body
        self._seconds = seconds

    async def pieces(self, deadline: asyncio.Timeout) -> AsyncGenerator[bytes]:
        """Give it, to be taken ``seconds`` a piece."""
        if self._body is None:
            return
        loop = asyncio.get_running_loop()
        self.midway = True
        deadline.reschedule(None)
        async with contextlib.aclosing(self._body.stream()) as pieces:
            async for piece in pieces:
                deadline.reschedule(loop.time() + self._seconds)
                yield piece
                deadline.reschedule(None)  # what it waits for now is ours
        deadline.reschedule(loop.time() + self._seconds)
        self.midway = False


async def _read(response: "httpx.Response", deadline: asyncio.Timeout, seconds: float, most: int) -> Answer:
    deadline.reschedule(asyncio.get_running_loop().time() + seconds)
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > most:
            raise TooLongError(say("its answer is longer than {most} MiB", most=most >> 20))
    headers = {name.lower(): value for name, value in response.headers.items()}
    if headers.get("content-encoding", "identity") != "identity":
        raise GarbledError(N_("it answered in an encoding that was not asked for"))
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return Answer(response.status_code, media_type, bytes(data), headers, response.http_version)


def _reason(error: BaseException) -> Exception | None:
    """Find what the system or TLS said, below what the library makes of it."""

    def find(one: BaseException | None) -> Exception | None:
        if isinstance(one, BaseExceptionGroup):
            return next(filter(None, map(find, one.exceptions)), None)
        if isinstance(one, ssl.SSLError):
            return one
        if one is None:
            return None
        deeper = find(one.__cause__ or one.__context__)
        return deeper or (one if isinstance(one, OSError) else None)

    return find(error)
