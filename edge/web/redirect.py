"""Where to go, for who came without TLS to a port that has it."""

from typing import Final

from starlette.datastructures import URL
from starlette.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

_SCHEME: Final = "https"


async def to_https(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the same address under TLS."""
    url = URL(scope=scope).replace(scheme=_SCHEME)
    await RedirectResponse(str(url), 307, headers={"Connection": "close"})(scope, receive, send)
