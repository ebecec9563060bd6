"""One HTTP connection of a browser, on uvicorn's h11 protocol, with the deadlines that it does not have.

A whole request must arrive within `ARRIVAL` of the connection or of the answer before, however it drips; an answer
that its reader does not take for `STALLED` is cut. So no peer holds a connection, or memory, for longer for nothing.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

ARRIVAL: Final = 10.0
"""Seconds."""
STALLED: Final = 10.0
"""Seconds."""
_MOST_HEAD: Final = 16 * 1024
"""Bytes of a request without its body."""


def http_config(app: ASGIApp) -> Config:
    """Return what connections are made with that ``app`` answers."""
    # what is wrong with a request is the peer's affair: no stranger writes our log
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = Config(
        app,
        http=H11Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=math.ceil(ARRIVAL),
        h11_max_incomplete_event_size=_MOST_HEAD,
    )
    config.load()
    return config


class Connection(H11Protocol):
    """One connection; ``over`` hears of its end."""

    def __init__(self, config: Config, state: ServerState, over: Callable[["Connection"], None]) -> None:
        super().__init__(config, state, {})
        self._over = over
        self._arrival: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    @property
    def serving(self) -> bool:
        """Whether a whole request has come that is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        for timer in (self._arrival, self._stall):
            if timer is not None:
                timer.cancel()
        self._over(self)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the reader, but not for ever."""
        super().pause_writing()
        self._stall = self._stall or self.loop.call_later(STALLED, self.drop)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def drop(self) -> None:
        """Cut it."""
        if self.transport is not None:
            self.transport.abort()

    def _watch(self) -> None:
        """Have the deadline run while a request is on its way, and only then; what comes does not move it."""
        if self.serving:
            if self._arrival is not None:
                self._arrival.cancel()
                self._arrival = None
        elif self._arrival is None:
            self._arrival = self.loop.call_later(ARRIVAL, self.drop)
