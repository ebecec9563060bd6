"""Who may send, and what is taken (PS3.8 9.3.4; the AE titles of the configuration).

A modality is an AE title and, where configured, an address. Destinations are known callers too: their reports must come
in, also under the name with which we call them, and whoever else is there. Every refusal is a finding that names who
was refused and why.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from edge.board import Board
from edge.config import Config, DimseDestination
from edge.dicom.acceptor import CALLED_UNKNOWN, CALLING_UNKNOWN, LOCAL_LIMIT, Peer, describe
from edge.dicom.dataset import SYNTAXES
from edge.dicom.pdu import AssociateReject, AssociateRequest
from edge.dicom.uids import STORAGE_COMMITMENT, VERIFICATION, accepts_as_storage, valid_uid
from edge.findings import Journal, printable
from edge.intake.admission import Admission
from edge.intake.callers import Callers
from edge.phrase import N_, say
from edge.quota import Lines

log = structlog.get_logger()

_LONGEST_TITLE: Final = 64
"""Characters that are remembered of an AE title, four times as many as one has."""
_MOST_KEPT: Final = 256
"""Addresses and titles of which something is remembered; the one longest without news is forgotten."""
_MEMORY: Final = 3600.0
"""Seconds within which a limit met again is worth a finding."""
_SAME_DAY: Final = 86_400.0
_ORIGINAL: Final = "original"
"""As ``calling_ae_title``: we call as the modality did whose object is sent."""
_UNNAMED: Final = "EDGE"
"""As which we call where no object is sent."""
_LINES: Final = 60
"""Lines in the log about peers, a minute."""


class ReceivePolicy:
    """The acceptor's policy, from the configuration."""

    def __init__(
        self,
        config: Config,
        admission: Admission,
        board: Board,
        journal: Journal,
        *,
        forgiven: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``forgiven``: so many times an address may meet a limit within an hour before that is a finding."""
        self._titles = frozenset(config.receive.titles)
        self._address = config.receive.address
        self._private = config.receive.private_storage
        self._callers = Callers(config, board)
        reached = [d for d in config.destination if isinstance(d, DimseDestination)]
        self._destinations = frozenset(d.ae_title for d in reached)
        self._ours = frozenset((d.ae_title, title) for d in reached for title in _titles_towards(d, config))
        self._anyone = config.receive.accept == "any" or not config.modality
        self._admission = admission
        self._board = board
        self._journal = journal
        self._forgiven = forgiven
        self._now = now
        self._met: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._titles_seen: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lines = Lines(_LINES, now, lambda silenced: log.info("peers were silenced", lines=silenced))

    def admit(self, request: AssociateRequest, address: str) -> AssociateReject | None:
        """Check titles and address, and whether there is room for what would be sent."""
        peer = Peer(request.calling, request.called, address)
        if self._is_ourselves(request, address):
            return None
        if request.called not in self._titles and (request.calling, request.called) not in self._ours:
            return self._refuse(peer, CALLED_UNKNOWN, N_("it calls this box by another name"), repr(request.called))
        if not (self._anyone or self._known(request.calling, address)):
            return self._refuse(peer, CALLING_UNKNOWN, N_("it is not among the modalities"))
        only_storage = bool(request.contexts) and all(self._stores(c.abstract_syntax) for c in request.contexts)
        if only_storage and self._admission.refusal() is not None:
            self._board.refused += 1
            self._callers.refused(peer.calling, address, N_("this box takes no images now"))
            return LOCAL_LIMIT
        self._notice_twin(peer)
        self._callers.let_in(request.calling, address)
        return None

    def _is_ourselves(self, request: AssociateRequest, address: str) -> bool:
        """Whether it is this box asking itself whether it hears (`edge doctor`): C-ECHO and no more."""
        ours = request.called in self._titles and request.calling == request.called
        only_echo = bool(request.contexts) and all(c.abstract_syntax == VERIFICATION for c in request.contexts)
        return ours and only_echo and (address == self._address or ipaddress.ip_address(address).is_loopback)

    def received(self, peer: Peer) -> None:
        """Hear of an object that was answered with success."""
        self._callers.gave(peer)

    def _notice_twin(self, peer: Peer) -> None:
        """Two senders that share a title are often one that was copied: what comes from which cannot be told."""
        now, title = self._now(), peer.calling[:_LONGEST_TITLE]
        address, at = self._titles_seen.pop(title, (peer.address, now))
        if address != peer.address and now - at < _SAME_DAY:
            self._journal.note(
                "TITLE_SHARED",
                f"title.{title}",
                say(
                    "{title} is used at {address} and at {other}.",
                    title=title or N_("No AE title"),
                    address=address,
                    other=peer.address,
                ),
            )
        self._titles_seen[title] = (peer.address, now)
        if len(self._titles_seen) > _MOST_KEPT:
            self._titles_seen.popitem(last=False)

    def _known(self, calling: str, address: str) -> bool:
        return calling in self._destinations or self._callers.known(calling, address)

    def _refuse(self, peer: Peer, reject: AssociateReject, why: str, detail: str = "") -> AssociateReject:
        self._board.refused += 1
        self._callers.refused(peer.calling, peer.address, why)
        self._say("peer refused", peer, why)
        if detail:
            text = say("{who} was refused: {why}: {called}.", who=describe(peer), why=why, called=detail)
        else:
            text = say("{who} was refused: {why}.", who=describe(peer), why=why)
        self._journal.note("PEER_REFUSED", f"modality.{peer.address}", text)
        return reject

    def offers(self, abstract_syntax: str) -> bool:
        """Every storage SOP class: known, retired or, where configured, private; and storage commitment."""
        return abstract_syntax == STORAGE_COMMITMENT or self._stores(abstract_syntax)

    def knows(self, transfer_syntax: str, abstract_syntax: str) -> bool:
        """Every transfer syntax for storage, where what comes is kept as it comes; elsewhere those that are read."""
        if abstract_syntax == STORAGE_COMMITMENT:
            return transfer_syntax in SYNTAXES
        return valid_uid(transfer_syntax)

    def privileged(self, request: AssociateRequest, address: str) -> bool:  # noqa: ARG002 - its host may be a name
        """Whether it is a destination that calls for storage commitment and nothing else."""
        commitment = bool(request.contexts) and all(c.abstract_syntax == STORAGE_COMMITMENT for c in request.contexts)
        return commitment and request.calling in self._destinations

    def _stores(self, abstract_syntax: str) -> bool:
        return accepts_as_storage(abstract_syntax, private=self._private)

    def report(self, peer: Peer, text: str) -> None:
        """Note a peer that broke the rules."""
        self._say("peer broke the rules", peer, text)
        self._journal.note("PEER_MISBEHAVES", f"modality.{peer.address}", text)

    def limit(self, peer: Peer, text: str) -> None:
        """Note a peer that met a limit: in the log, and as a finding where it happens again."""
        now = self._now()
        since, times = self._met.pop(peer.address, (now, 0))
        if now - since > _MEMORY:
            since, times = now, 0
        self._met[peer.address] = (since, times + 1)
        if len(self._met) > _MOST_KEPT:
            self._met.popitem(last=False)
        self._say("peer met a limit", peer, text)
        if times >= self._forgiven:
            self._journal.note("PEER_MISBEHAVES", f"modality.{peer.address}", text)

    def _say(self, event: str, peer: Peer, text: str) -> None:
        """Log it, unless a flood has had its share of lines this minute."""
        if self._lines.take():
            # titles stay out of the log, which leaves the box: who is unknown may send anything as one
            log.info(event, address=peer.address, why=printable(text.removeprefix(describe(peer)).strip()))

    def count(self, associations: int) -> None:
        """Show how many associations are open."""
        self._board.associations = associations


def _titles_towards(destination: DimseDestination, config: Config) -> frozenset[str]:
    """Every name with which we call ``destination``, and by which it may call us back."""
    if destination.calling_ae_title != _ORIGINAL:
        return frozenset({destination.calling_ae_title})
    return frozenset({_UNNAMED, *(modality.ae_title for modality in config.modality)})
