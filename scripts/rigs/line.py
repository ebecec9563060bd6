"""`scripts/rig line`: a thin and long line that is cut again and again, and what it does to a queue.

A modality sends images and multi-frames to an appliance whose PACS is behind a relay of 20 Mbit/s and 80 ms. Every 30
seconds the line is cut under everything; in between single associations are torn in the middle of a PDU, lose an
answer, or fall silent. The queue must drain, everything must arrive byte for byte, and nothing may be sent again
without a break since it was sent before. One object is too large for how long the line holds: it must become a
finding, hold nobody up, and go through once the line holds.
"""

import argparse
import random
import threading
import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.rigs.ledger import Item, Ledger
from scripts.rigs.oracle import delivered
from scripts.rigs.report import add_seed, conclude, dice, folder, positive, say
from scripts.rigs.volume import Workshop
from tests.appliance import Edge, dimse
from tests.peers import wire
from tests.peers.objects import CT, MR, MULTIFRAME, DicomObject, ct, mr, multiframe
from tests.peers.ports import wait_for
from tests.peers.raw import Behaviour, RawReceiver, RawSender, Received
from tests.peers.relay import Bounds, Fault, Line

HELP: Final = "a thin line, cut every 30 s, with objects up to 20 MB and one that is too large for it"
FINDING: Final = "OBJECT_TOO_BIG_FOR_LINK"
_MBIT: Final = 1e6 / 8
_MIB: Final = 1 << 20
_CONTEXTS: Final = [(abstract, [wire.EXPLICIT_LITTLE]) for abstract in (CT, MR, MULTIFRAME)]
_SLACK: Final = 0.05
"""Seconds by which the receiver may hear of something later than it came."""
_MORE: Final = 6
"""Cuts that are waited for, where the finding did not open before."""
_LOOK: Final = 1.0
_POLL: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done. Seconds; bytes a second; MiB; `backlog`: bytes that wait at the most, before more is sent."""

    seconds: float
    every: float
    lasting: float
    faults: float
    bounds: Bounds
    largest: int
    huge: int
    backlog: int
    drain: float
    response: int = 20


@dataclass
class Verdict:
    """What was done and what was wrong."""

    did: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Begun:
    """Every C-STORE that the PACS saw the beginning of, and when."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    def __call__(self, received: Received) -> int | Behaviour:
        """Note it, and say yes."""
        self.times[received.sop_instance_uid].append(time.monotonic())
        return 0

    def again(self) -> int:
        """How many were more than the first of their object."""
        return sum(len(times) - 1 for times in self.times.values())

    def needless(self, breaks: Sequence[float]) -> list[str]:
        """Say what was sent again though nothing broke since it was sent before."""
        at = sorted(breaks)
        found = []
        for uid, times in self.times.items():
            holds = [bisect(at, begun - _SLACK) for begun in times]
            if len(set(holds)) < len(holds):
                found.append(f"{uid} was sent again without a break in between: {len(times)} times in all")
        return found


class Modality:
    """Sends a mixture to the appliance, as much as keeps the queue filled, until told to stop."""

    def __init__(self, edge: Edge, pacs: RawReceiver, plan: Plan, chance: random.Random) -> None:
        self.ledger = Ledger()
        self.bytes = 0
        self._edge, self._pacs, self._plan, self._chance = edge, pacs, plan, chance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modality")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is being sent, and return."""
        self._stop.set()
        self._thread.join()

    def send(self, objects: Sequence[DicomObject]) -> list[Item]:
        """Send on one association."""
        items = []
        with RawSender(self._edge.port, timeout=60) as sender:
            sender.associate(_CONTEXTS)
            for obj in objects:
                item = self.ledger.begin(obj)
                self.ledger.answered(item, sender.store(obj))
                self.bytes += obj.length
                items.append(item)
            sender.release()
        return items

    def _run(self) -> None:
        mixture = self._mixture()
        while not self._stop.is_set():
            there = sum(received.length for received in self._pacs.accepted)
            if self.bytes - there - self._plan.huge * _MIB < self._plan.backlog:
                self.send(next(mixture))
            else:
                self._stop.wait(_POLL)

    def _mixture(self) -> Iterator[list[DicomObject]]:
        while True:
            match self._chance.randrange(4):
                case 0:
                    yield [multiframe(self._chance.randint(1, self._plan.largest))]
                case 1:
                    yield ct(4)
                case _:
                    yield mr(16)


def hold(below: Path, plan: Plan, chance: random.Random) -> Verdict:
    """Cut the line for so long, then let it hold, and look whether everything arrived."""
    verdict = Verdict()
    begun = Begun()
    with ExitStack() as stack:
        pacs = stack.enter_context(RawReceiver(reserve=True, status_for=begun))
        line = stack.enter_context(Line(pacs.port, plan.bounds))
        timeouts = f'timeouts = {{ connect = "5s", response = "{plan.response}s" }}\n'
        edge = stack.enter_context(Edge(below / "edge", dimse("pacs", line.port) + timeouts))
        modality = Modality(edge, pacs, plan, chance)
        (huge,) = modality.send([multiframe(plan.huge)])
        line.spoil(plan.every, plan.lasting)
        modality.start()
        try:
            opened = _disturb(edge, line, plan, chance)
        finally:
            modality.stop()
        early = huge in delivered(pacs)
        say(f"the line was cut for {plan.seconds:.0f} s; now what is left")
        carried, before = line.carried[0], len(pacs.accepted)
        unspoilt = time.monotonic()
        drained = _wait_small(modality, pacs, huge, plan.drain)
        rest = time.monotonic() - unspoilt
        opened = opened or _opens(edge, plan) * (plan.seconds + time.monotonic() - unspoilt)
        line.heal()
        verdict.did.append(
            f"{line.relay.cuts} connections broken in {plan.seconds:.0f} s; {before} objects delivered meanwhile, "
            f"{carried / plan.seconds / (plan.bounds.rate or 1):.0%} of the line used."
        )
        verdict.did.append(f"The rest came {rest:.0f} s after the last was sent, still cut.")
        verdict.problems += drained
        verdict.problems += _huge_goes(edge, pacs, modality, huge, plan)
        verdict.problems += begun.needless(line.relay.broken_at)
        sent = len(modality.ledger.promised)
        verdict.did.append(
            f"{sent} objects, {modality.bytes / 1e6:.0f} MB, answered 0000; {begun.again()} begun again after a break, "
            f"{len(pacs.accepted) - sent} accepted more than once."
        )
    verdict.did.append(f"The finding opened after {opened:.0f} s." if opened else "The finding did not open.")
    if early:
        verdict.problems.append(f"{plan.huge} MiB went through a line that does not hold so long: the rig itself")
    elif not opened:
        verdict.problems.append(f"no finding {FINDING} though an object was broken off again and again")
    return verdict


def _disturb(edge: Edge, line: Line, plan: Plan, chance: random.Random) -> float:
    """Break associations now and then, until the time is over; when the finding was first seen, seconds, or 0."""
    begin = time.monotonic()
    opened = 0.0
    next_fault = begin + plan.faults
    while (now := time.monotonic()) - begin < plan.seconds:
        # what befalls nobody now may not wait for whoever comes next
        if now >= next_fault and line.busy and not line.relay.faults:
            line.befall(chance.choice(list(Fault)))
            next_fault = now + plan.faults * (0.5 + chance.random())
        if not opened and shows(edge):
            opened = now - begin
        time.sleep(_LOOK)
    return opened


def _opens(edge: Edge, plan: Plan) -> bool:
    """Whether the finding opens while nothing but the large object is left: it is broken off a few times more."""
    try:
        wait_for(lambda: shows(edge), _MORE * (plan.every + plan.lasting) + plan.response, "the finding opens")
    except TimeoutError:
        return False
    return True


def shows(edge: Edge) -> bool:
    """Whether the finding is open."""
    return any(finding["code"] == FINDING for finding in edge.json("status")["findings"])


def _wait_small(modality: Modality, pacs: RawReceiver, huge: Item, timeout: float) -> list[str]:
    """Wait until all but the one object have arrived, over the line that is still cut."""
    rest = modality.ledger.promised - {huge}
    try:
        wait_for(lambda: rest <= delivered(pacs), timeout, "the queue drains")
    except TimeoutError:
        left = len(rest - delivered(pacs))
        return [f"{left} objects were not delivered {timeout:.0f} s after the last was sent"]
    return []


def _huge_goes(edge: Edge, pacs: RawReceiver, modality: Modality, huge: Item, plan: Plan) -> list[str]:
    """Wait until the one object has arrived over the line that holds, and the finding is closed."""
    rate = plan.bounds.rate or 1.0
    edge.command("retry", "--destination", "pacs")
    try:
        wait_for(lambda: huge in delivered(pacs), 60 + 4 * plan.huge * _MIB / rate, "the large object arrives")
        wait_for(lambda: modality.ledger.promised <= delivered(pacs), plan.drain, "everything arrives")
        wait_for(lambda: not shows(edge), 30, "the finding closes")
        wait_for(lambda: edge.json("status")["queue"]["instances"] == 0, 30, "the queue is empty")
    except TimeoutError as late:
        return [str(late)]
    return []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the rig's own arguments."""
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long it is cut (10)")
    parser.add_argument("--every", type=float, default=30.0, metavar="S", help="seconds from cut to cut (30)")
    parser.add_argument("--lasting", type=float, default=3.0, metavar="S", help="seconds that it is down each time (3)")
    parser.add_argument("--faults", type=float, default=10.0, metavar="S", help="seconds between single faults (10)")
    parser.add_argument("--mbit", type=float, default=20.0, metavar="N", help="of the line, each way (20)")
    parser.add_argument("--rtt", type=float, default=80.0, metavar="MS", help="there and back (80)")
    parser.add_argument("--largest", type=positive, default=20, metavar="N", help="MiB of what must pass at most (20)")
    parser.add_argument("--megabytes", type=positive, default=200, metavar="N", help="of the one large object (200)")
    parser.add_argument("--folder", type=folder, metavar="DIR", help="where to work (the system's temporary folder)")
    add_seed(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; 0 where everything arrived, 1 where something did not."""
    seed, chance = dice(options)
    plan = Plan(
        seconds=options.minutes * 60,
        every=options.every,
        lasting=options.lasting,
        faults=options.faults,
        bounds=Bounds(rate=options.mbit * _MBIT, delay=options.rtt / 2000),
        largest=options.largest,
        huge=options.megabytes,
        backlog=64 * _MIB,
        drain=600.0,
    )
    with Workshop(options.folder) as below:
        say(f"A line of {options.mbit:g} Mbit/s, cut every {options.every:g} s, in {below}, seed {seed}.")
        verdict = hold(below, plan, chance)
    return conclude("line", seed, verdict.did, verdict.problems)
