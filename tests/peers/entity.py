"""An application entity of pynetdicom in this process: a server on a port of its own that comes and goes."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context, build_role

from tests.peers.ports import LOOPBACK, free_port, listening, wait_for

if TYPE_CHECKING:
    from pynetdicom.transport import ThreadedAssociationServer

_TIMEOUT: Final = 10.0
"""Seconds for each answer of a peer."""
_JOIN: Final = 20.0


class Entity:
    """Listens on `port` between `start` and `stop`, and inside its context. A subclass names what it serves.

    `refuses`: whether every association is rejected (result 1, source 1, reason 3). It may be changed while it runs.
    """

    def __init__(self, title: str, port: int | None = None) -> None:
        self.title, self.port = title, port or free_port()
        self.entity = ApplicationEntity(title)
        self.entity.acse_timeout = self.entity.dimse_timeout = self.entity.connection_timeout = _TIMEOUT
        self.entity.maximum_associations = 100
        self._server: ThreadedAssociationServer | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def contexts(self) -> list[PresentationContext]:
        """What is offered to who asks for an association."""
        raise NotImplementedError

    def handlers(self) -> list[Any]:
        """Of pynetdicom's events."""
        raise NotImplementedError

    @property
    def refuses(self) -> bool:
        return bool(self.entity.require_calling_aet)

    @refuses.setter
    def refuses(self, refuses: bool) -> None:
        self.entity.require_calling_aet = ["NOBODY"] if refuses else []

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def start(self) -> None:
        if self._server is not None:
            raise RuntimeError(f"{self.title} is running already")
        self._server = self.entity.start_server(
            (LOOPBACK, self.port), block=False, contexts=self.contexts(), evt_handlers=self.handlers()
        )

    def stop(self) -> None:
        """Close the port and abort every association; returns when all threads have ended."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
        for association in self.entity.active_associations:
            association.abort()
        wait_for(lambda: not self.entity.active_associations, _JOIN, f"the associations of {self.title} to end")
        while self._threads:
            thread = self._threads.pop()
            thread.join(_JOIN)
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} did not end within {_JOIN:g} s")

    @contextmanager
    def association(
        self, port: int, title: str, abstract: str, *, scp: bool = False, handlers: Sequence[Any] = ()
    ) -> Iterator[Association | None]:
        """One with a peer on the loopback, released at the end; None where there is none, or not in that context.

        `scp`: with the role item SCU=0, SCP=1.
        """
        if not listening(port):
            # pynetdicom forgets to close the socket of a connection that was refused
            yield None
            return
        items: list[Any] = [build_role(abstract, scp_role=True)] if scp else []
        association = self.entity.associate(
            LOOPBACK,
            port,
            contexts=[build_context(abstract)],
            ae_title=title,
            ext_neg=items,
            evt_handlers=list(handlers),
        )
        try:
            yield association if association.is_established and association.accepted_contexts else None
        finally:
            if association.is_established:
                association.release()

    def aside(self, work: Callable[[], object]) -> None:
        """Do it in a thread of its own, for which `stop` waits."""
        thread = threading.Thread(target=work, name=f"{self.title} aside")
        self._threads.append(thread)
        thread.start()


def titles(association: Association) -> tuple[str, str]:
    """Calling and called AE title of one that a peer made."""
    request = association.requestor.primitive
    if request is None:
        raise RuntimeError("nobody has asked for this association")
    return str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
