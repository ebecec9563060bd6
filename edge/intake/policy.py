"""Who may send, and what is taken (PS3.8 9.3.4; the AE titles of the configuration).

A modality is an AE title and, where configured, an address. Destinations are known callers too: their reports must come
in. Every refusal is a finding that names who was refused and why.
"""

import ipaddress

from edge.board import Board
from edge.config import Config, DimseDestination
from edge.dicom.acceptor import CALLED_UNKNOWN, CALLING_UNKNOWN, LOCAL_LIMIT, Peer, describe
from edge.dicom.pdu import AssociateReject, AssociateRequest
from edge.dicom.uids import accepts_as_storage, valid_uid
from edge.findings import Journal
from edge.intake.admission import Admission


class ReceivePolicy:
    """The acceptor's policy, from the configuration."""

    def __init__(self, config: Config, admission: Admission, board: Board, journal: Journal) -> None:
        self._titles = frozenset(config.receive.titles)
        self._private = config.receive.private_storage
        self._modalities = [
            (m.ae_title, None if m.address is None else ipaddress.ip_network(m.address, strict=False))
            for m in config.modality
        ]
        self._destinations = frozenset(d.ae_title for d in config.destination if isinstance(d, DimseDestination))
        self._anyone = config.receive.accept == "any" or not config.modality
        self._admission = admission
        self._board = board
        self._journal = journal

    def admit(self, request: AssociateRequest, address: str) -> AssociateReject | None:
        """Check titles and address, and whether there is room for what would be sent."""
        peer = Peer(request.calling, request.called, address)
        if request.called not in self._titles:
            return self._refuse(peer, CALLED_UNKNOWN, f"this box is not called {request.called!r}")
        if not (self._anyone or self._known(request.calling, address)):
            return self._refuse(peer, CALLING_UNKNOWN, "it is not among the modalities")
        only_storage = bool(request.contexts) and all(self.offers(c.abstract_syntax) for c in request.contexts)
        if only_storage and self._admission.refusal() is not None:
            self._board.refused += 1
            return LOCAL_LIMIT
        return None

    def _known(self, calling: str, address: str) -> bool:
        if calling in self._destinations:
            return True
        at = ipaddress.ip_address(address)
        return any(calling == title and (network is None or at in network) for title, network in self._modalities)

    def _refuse(self, peer: Peer, reject: AssociateReject, why: str) -> AssociateReject:
        self._board.refused += 1
        self._journal.note("PEER_REFUSED", f"modality.{peer.address}", f"{describe(peer)} was refused: {why}.")
        return reject

    def offers(self, abstract_syntax: str) -> bool:
        """Every storage SOP class: known, retired or, where configured, private."""
        return accepts_as_storage(abstract_syntax, private=self._private)

    def knows(self, transfer_syntax: str) -> bool:
        """Every transfer syntax: what comes is kept as it comes."""
        return valid_uid(transfer_syntax)

    def report(self, peer: Peer, text: str) -> None:
        """Note a peer that broke the rules."""
        self._journal.note("PEER_MISBEHAVES", f"modality.{peer.address}", text)

    def count(self, associations: int) -> None:
        """Show how many associations are open."""
        self._board.associations = associations
