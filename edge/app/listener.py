"""The DICOM listener as configured: its limits, its ports, and TLS on one of them."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from edge.app.errors import StartError
from edge.config import Config, Receive
from edge.dicom.acceptor import Acceptor, Capacity, Policy, Service
from edge.dicom.association import Limits
from edge.tls import Credentials


class Listener:
    """Listens until closed. ``ports`` and ``tls_ports`` are known once it does."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        services: Mapping[int, Service],
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        self.ports: list[int] = []
        self.tls_ports: list[int] = []
        self._receive = config.receive
        self._acceptor = Acceptor(
            policy, services, spawn=spawn, limits=_limits(self._receive), capacity=_capacity(self._receive)
        )

    async def open(self, credentials: Mapping[str, Credentials], trusted: Callable[[], bool]) -> None:
        """Listen on every port. ``trusted``: whether this box knows the time. Raises `StartError`."""
        receive = self._receive
        for port in receive.all_ports:
            try:
                self.ports.append(await self._acceptor.listen(receive.address, port))
            except OSError as e:
                raise _cannot_listen(receive.address, port, "receive.port", e) from e
        if receive.tls is None:
            return
        own = credentials["receive.tls"]
        try:
            port = await self._acceptor.listen(
                receive.address, receive.tls.port, lambda: own.judging_dates(trusted=trusted())
            )
        except OSError as e:
            raise _cannot_listen(receive.address, receive.tls.port, "receive.tls.port", e) from e
        self.tls_ports.append(port)

    async def close(self, grace: float) -> None:
        """Stop listening; let what is being received finish within ``grace`` seconds."""
        await self._acceptor.close(grace)


def _limits(receive: Receive) -> Limits:
    return Limits(
        handshake=receive.timeouts.handshake,
        request=receive.timeouts.request,
        idle=receive.timeouts.idle,
        least_rate=receive.least_rate,
        control=receive.max_control,
    )


def _capacity(receive: Receive) -> Capacity:
    return Capacity(
        associations=receive.max_associations,
        per_address=receive.max_associations_per_address,
        max_pdu=receive.max_pdu,
        waiting=4 * receive.max_associations,
        waiting_per_address=2 * receive.max_associations_per_address,
    )


def _cannot_listen(address: str, port: int, key: str, error: OSError) -> StartError:
    return StartError(
        f"Cannot listen on {address} port {port}: {error.strerror or error}; "
        f"stop the program that uses it, or set {key} to another."
    )
