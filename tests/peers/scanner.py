"""A modality of pynetdicom: sends objects, asks for storage commitment, and hears the reports where it listens."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context

from tests.peers.entity import Entity, titles
from tests.peers.objects import DicomObject, uid
from tests.peers.ports import LOOPBACK, wait_for
from tests.peers.pushmodel import (
    INSTANCE,
    PUSH_MODEL,
    REQUEST,
    Reference,
    Report,
    Roles,
    action_information,
    asked_roles,
    read_event,
)
from tests.peers.raw import RawSender


class Asked(NamedTuple):
    """An N-ACTION; status None: no association, no context, or no answer."""

    transaction_uid: str
    status: int | None


@dataclass(frozen=True)
class Heard:
    """A report that came. `anew`: on an association of its own; `roles`: those asked for on it, None without a role
    item.
    """

    report: Report
    anew: bool
    roles: Roles | None
    calling: str
    called: str
    answer: int


class Scanner(Entity):
    """Sends to `edge_port`; listens for reports inside its context, and between `start` and `stop`.

    `answer`: the status of every answer to a report. `grants_roles`: whether a role item is answered; False is a peer
    that does not know role selection. Both may be changed while it runs.
    """

    def __init__(
        self, title: str = "CT1", edge_port: int = 0, *, called: str = "EDGE", port: int | None = None
    ) -> None:
        super().__init__(title, port)
        self.edge_port, self.called = edge_port, called
        self.answer = 0
        self.grants_roles = True
        self.heard: list[Heard] = []

    def toml(self, address: str = "") -> str:
        """The [[modality]] that names it, with where its reports go."""
        lines = [f'name = "{self.title}"', f'ae_title = "{self.title}"']
        lines += [f'address = "{address}"'] if address else []
        lines += [f'commitment = {{ host = "{LOOPBACK}", port = {self.port}, ae_title = "{self.title}" }}']
        return "\n".join(["[[modality]]", *lines]) + "\n"

    def send(self, objects: Sequence[DicomObject]) -> list[int]:
        """C-STORE them; the statuses."""
        kinds = {(each.sop_class_uid, each.transfer_syntax_uid) for each in objects}
        with RawSender(self.edge_port, calling=self.title, called=self.called) as sender:
            sender.associate([(sop_class, [syntax]) for sop_class, syntax in kinds])
            return [sender.store(each) for each in objects]

    def ask(
        self,
        objects: Sequence[DicomObject | Reference],
        transaction: str = "",
        *,
        stay: float = 0.0,
    ) -> Asked:
        """Ask for commitment, and keep the association for `stay` seconds after the answer, or until a report came."""
        transaction = transaction or uid()
        references = [Reference(each.sop_class_uid, each.sop_instance_uid) for each in objects]
        handlers = [(evt.EVT_N_EVENT_REPORT, self._on_report, [False])]
        with self.association(self.edge_port, self.called, PUSH_MODEL, handlers=handlers) as association:
            if association is None:
                return Asked(transaction, None)
            information = action_information(transaction, references)
            answer, _ = association.send_n_action(information, REQUEST, PUSH_MODEL, INSTANCE)
            with contextlib.suppress(TimeoutError):
                wait_for(lambda: self.reports(transaction), stay, "a report on the association of its request")
            return Asked(transaction, answer.get("Status"))

    def reports(self, transaction: str) -> list[Heard]:
        """What came of a transaction."""
        return [each for each in self.heard if each.report.transaction_uid == transaction]

    def wait_report(self, transaction: str, timeout: float = 30.0) -> Heard:
        """Until the first report of a transaction has come."""
        return wait_for(lambda: self.reports(transaction), timeout, f"a report to {self.title}")[0]

    def contexts(self) -> list[PresentationContext]:
        context = build_context(PUSH_MODEL)
        if self.grants_roles:
            context.scu_role, context.scp_role = False, True
        return [context]

    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self._on_report, [True]), (evt.EVT_C_ECHO, lambda _event: 0)]

    def _on_report(self, event: Event, anew: bool) -> tuple[int, None]:  # noqa: FBT001 - pynetdicom hands it over
        report = read_event(event.event_information, event.event_type or 0)
        calling, called = titles(event.assoc)
        self.heard.append(
            Heard(
                report,
                anew=anew,
                roles=asked_roles(event.assoc),
                calling=calling,
                called=called,
                answer=self.answer,
            )
        )
        return self.answer, None
