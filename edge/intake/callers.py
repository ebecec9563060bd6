"""Who calls: each modality of the configuration, and strangers, on the board for people at the box.

It decides nothing. Strangers are bounded, for anybody may call as anything; the one longest without news is forgotten.
"""

import ipaddress
from typing import Final

from edge.board import Board, ModalityGauge
from edge.config import Config, DimseDestination
from edge.dicom.acceptor import Peer
from edge.findings import printable

MOST_STRANGERS: Final = 64
_LONGEST_TITLE: Final = 16


class Callers:
    """Writes down who was heard of."""

    def __init__(self, config: Config, board: Board) -> None:
        self._board = board
        self._modalities = [
            (m.name, m.ae_title, None if m.address is None else ipaddress.ip_network(m.address, strict=False))
            for m in config.modality
        ]
        self._destinations = {d.ae_title for d in config.destination if isinstance(d, DimseDestination)}
        for m in config.modality:
            board.modalities.setdefault(m.name, ModalityGauge(m.name, m.ae_title, m.address or ""))

    def known(self, calling: str, address: str) -> bool:
        """Whether it is a modality of the configuration."""
        return self.modality(calling, address) is not None

    def modality(self, calling: str, address: str) -> ModalityGauge | None:
        """Return the gauge of the modality of the configuration that calls so, and from there; None: there is none."""
        called_so = [(name, network) for name, title, network in self._modalities if title == calling]
        if not called_so:
            return None
        at = ipaddress.ip_address(address)
        name = next((name for name, network in called_so if network is None or at in network), None)
        return None if name is None else self._board.modalities[name]

    def let_in(self, calling: str, address: str) -> None:
        """Hear of an association that was accepted."""
        gauge, clock = self._gauge(calling, address), self._board.clock
        if gauge is not None:
            gauge.heard, gauge.heard_at, gauge.address = clock.monotonic(), clock.now(), address

    def refused(self, calling: str, address: str, why: str) -> None:
        """Hear of an association that was refused."""
        gauge = self._gauge(calling, address)
        if gauge is not None:
            gauge.refused += 1
            gauge.refused_because = why

    def gave(self, peer: Peer) -> None:
        """Hear of an object that was answered with success."""
        gauge, clock = self._gauge(peer.calling, peer.address), self._board.clock
        if gauge is not None:
            gauge.heard = clock.monotonic()
            gauge.heard_at = gauge.object_at = clock.now()

    def _gauge(self, calling: str, address: str) -> ModalityGauge | None:
        """Return whose it is; None for a destination that calls, which is shown as one."""
        known = self.modality(calling, address)
        if known is not None or calling in self._destinations:
            return known
        strangers, title = self._board.strangers, printable(calling, _LONGEST_TITLE)
        gauge = strangers.pop((title, address), None) or ModalityGauge("", title, address)
        strangers[title, address] = gauge
        if len(strangers) > MOST_STRANGERS:
            del strangers[next(iter(strangers))]
        return gauge
