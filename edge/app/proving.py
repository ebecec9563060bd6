"""Proof put together: who asks the destinations, who answers the modalities, and what the listener serves of it."""

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping

from edge.app.lanes import Lanes
from edge.board import Board
from edge.clock import Clock
from edge.config import Config, DicomwebDestination, DimseDestination, FolderDestination
from edge.dicom.acceptor import Service
from edge.dicom.command import CommandField
from edge.findings import Journal
from edge.forward.answers import Answers
from edge.forward.commitment import Asking, Commitment
from edge.forward.query import Looking, Query
from edge.forward.reach import Caller
from edge.forward.reports import Reports
from edge.forward.verifier import Verifier
from edge.forward.web import Web
from edge.forward.webcommitment import WebCommitment
from edge.forward.webquery import WebQuery
from edge.intake.promises import PromiseService
from edge.store import Store
from edge.supervise import Supervisor
from edge.tls import Credentials


class Proving:
    """Storage commitment in both roles, and queries; ``credentials`` by the key of the configuration that has them."""

    def __init__(
        self,
        config: Config,
        credentials: Mapping[str, Credentials],
        store: Store,
        lanes: Lanes,
        *,
        board: Board,
        journal: Journal,
        clock: Clock,
        on_record: Callable[[], bool],
    ) -> None:
        """``on_record``: whether every file that lies here is on record."""
        self._config = config
        self._credentials = credentials
        self._store = store
        self._lanes = lanes
        self._board = board
        self._journal = journal
        self._clock = clock
        self._on_record = on_record
        self._reports = Reports(store, journal)
        self.services: Mapping[int, Service] = {
            CommandField.N_ACTION_RQ: PromiseService(config.modality, store, journal),
            CommandField.N_EVENT_REPORT_RQ: self._reports,
        }
        """What the listener serves of it, by command field."""

    def start(self, supervisor: Supervisor) -> list[asyncio.Task[None]]:
        """Start asking and answering."""
        config = self._config
        tasks = [
            supervisor.service(f"proof {d.name}", self._verifier(d).run)
            for d in config.destination
            if not isinstance(d, FolderDestination) and d.verify != "none" and self._lanes.has(d.name)
        ]
        answers = Answers(
            config.modality,
            config.commitment.answer,
            config.commitment.refuse_after,
            self._store,
            self._journal,
            self._clock,
            random.random,
            self._on_record,
        )
        return [*tasks, supervisor.service("answers", answers.run)]

    def _verifier(self, destination: DimseDestination | DicomwebDestination) -> Verifier:
        name, verify = destination.name, destination.verify
        credentials = self._credentials.get(f"destination.{name}.tls")
        commitment: Asking | None = None
        query: Looking | None = None
        if isinstance(destination, DimseDestination):
            caller = Caller(destination, credentials, self._clock.trusted)
            commitment = Commitment(caller, self._reports) if "commitment" in verify else None
            query = Query(caller) if "query" in verify else None
        else:
            web = Web(destination, credentials, self._clock)
            commitment = self._by_web(name, web) if "commitment" in verify else None
            query = WebQuery(web) if "query" in verify else None
        return Verifier(
            name,
            self._store,
            self._lanes.gate(name),
            commitment=commitment,
            query=query,
            new_uid=transaction_uid,
            gauge=self._board.destination(name),
            journal=self._journal,
            clock=self._clock,
            random=random.random,
        )

    def _by_web(self, name: str, web: Web) -> WebCommitment:
        return WebCommitment(name, web, self._store, journal=self._journal, clock=self._clock, random=random.random)


def transaction_uid() -> str:
    """Make a UID that nobody can guess (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"
