"""One appliance and many PACSs, each with a study and a fate of its own: proof takes seconds, so all goes on at once.

A case has a name: its study comes through a watched folder of that name, and is routed to the destination of that name,
whose PACS bears it in capitals. The appliance accepts the modality CT1 alone: no PACS is one of its modalities.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from tests.appliance import Edge, dimse
from tests.peers.committing import CommittingPacs
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import wait_for
from tests.peers.pushmodel import Reference
from tests.peers.raw import RawReceiver, RawSender
from tests.peers.script import Script, commits


@dataclass
class Case:
    """How a destination verifies, what its PACS makes of requests, and what is sent there."""

    verify: str
    script: Script = field(default_factory=commits)
    objects: list[DicomObject] = field(default_factory=lambda: mr(2))

    @property
    def uids(self) -> list[str]:
        return uids(self.objects)


class Rig:
    """The appliance and its PACSs, by the names of their cases."""

    def __init__(self, edge: Edge, cases: Mapping[str, Case], pacs: Mapping[str, CommittingPacs]) -> None:
        self.edge, self.cases, self.pacs = edge, cases, pacs
        self._numbers = count()

    def send(self, name: str) -> None:
        """Put the study of the case into its folder."""
        for made in self.cases[name].objects:
            self.put(name, made)

    def put(self, name: str, made: DicomObject) -> None:
        """Put one object into the folder of the case."""
        made.write(self.edge.folder / name / f"{next(self._numbers):05}.dcm")

    def sicken(self, name: str) -> None:
        """Take the PACS down once it has accepted the study, and bring it back when it has been called in vain."""
        self.settled(name, accepted=len(self.cases[name].objects))
        pacs = self.pacs[name]
        pacs.stop()
        with RawReceiver(pacs.port, reject=(2, 3, 1)) as starting:
            wait_for(lambda: starting.requests, 20, f"{name} is called while it starts")
        assert self.tally(name) == {"accepted": len(self.cases[name].objects)}
        pacs.start()

    def settled(self, name: str, **expected: int) -> None:
        """Wait until the deliveries of the case are exactly these, by state."""
        self.edge.wait_settled(name, expected, 40)

    def tally(self, name: str) -> dict[str, int]:
        return self.edge.tally(name)

    def states(self, name: str) -> dict[str, tuple[str, str]]:
        """SOP Instance UID to state and code of its delivery."""
        rows = [self.edge.json("trace", uid)[0] for uid in self.cases[name].uids]
        return {row["sop_instance_uid"]: (_delivery(row)["state"], _delivery(row)["code"]) for row in rows}

    def trail(self, uid: str) -> list[dict[str, Any]]:
        """Of the only instance with this UID."""
        (row,) = self.edge.json("trace", uid)
        trail: list[dict[str, Any]] = row["trail"]
        return trail

    def finding(self, code: str, name: str) -> str:
        """Wait for the finding about the destination; what it says."""
        return finding(self.edge, code, f"destination.{name}")

    def codes(self, name: str) -> set[str]:
        """Of the findings about the destination now."""
        return {each["code"] for each in findings(self.edge) if each["component"] == f"destination.{name}"}


@contextmanager
def running(folder: Path, cases: Mapping[str, Case], *, more: str = "", store: str = "") -> Iterator[Rig]:
    """Start all of it; nothing is sent yet. `more` goes into the configuration, `store` into its [storage]."""
    with ExitStack() as stack:
        pacs = {
            name: stack.enter_context(CommittingPacs(name.upper(), script=case.script)) for name, case in cases.items()
        }
        sections = ['[[modality]]\nname = "CT 1"\nae_title = "CT1"\n']
        for name, peer in pacs.items():
            (folder / name).mkdir(parents=True)
            watch = f'[[watch]]\nname = "{name}"\npath = "{folder / name}"\nsettle = "100ms"\nrescan = "1s"\n'
            route = f'[[route]]\nwhen = {{ watch = "{name}" }}\nto = ["{name}"]\n'
            to = dimse(name, peer.port, title=peer.title, verify=cases[name].verify, associations=1)
            sections += [watch, route, to]
        edge = stack.enter_context(
            Edge(folder, "".join(sections), more=more, receive='accept = "known"', store=store),
        )
        for peer in pacs.values():
            peer.home = (edge.port, "EDGE")
        yield Rig(edge, cases, pacs)


def send(port: int, objects: Sequence[DicomObject], calling: str) -> list[int]:
    """C-STORE objects to the appliance; the statuses."""
    kinds = {(each.sop_class_uid, each.transfer_syntax_uid) for each in objects}
    with RawSender(port, calling=calling) as sender:
        sender.associate([(sop_class, [syntax]) for sop_class, syntax in kinds])
        return [sender.store(each) for each in objects]


def finding(edge: Edge, code: str, component: str) -> str:
    """Wait until the finding is open; what it says."""

    def text() -> str:
        found = [each for each in findings(edge) if (each["code"], each["component"]) == (code, component)]
        return str(found[0]["text"]) if found else ""

    return wait_for(text, 20, f"{code} of {component}")


def findings(edge: Edge) -> list[dict[str, Any]]:
    """Those that are open."""
    found: list[dict[str, Any]] = edge.json("status")["findings"]
    return found


def _delivery(row: dict[str, Any]) -> dict[str, Any]:
    (delivery,) = row["deliveries"]
    found: dict[str, Any] = delivery
    return found


def uids(objects: Sequence[DicomObject]) -> list[str]:
    """Their SOP Instance UIDs, sorted."""
    return sorted(each.sop_instance_uid for each in objects)


def reference(made: DicomObject) -> Reference:
    """What a request names it by."""
    return Reference(made.sop_class_uid, made.sop_instance_uid)


def twin_of(made: DicomObject) -> DicomObject:
    """Another content under the same UIDs."""
    assert b"PHANTOM" in made.dataset
    return replace(made, dataset=made.dataset.replace(b"PHANTOM", b"ANOTHER"))
