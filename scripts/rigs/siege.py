"""`scripts/rig siege`: hostile peers at three times the limits, while a modality goes on sending.

The appliance runs with a plain and a TLS port. A probe stores an object every two seconds, by turns over both, and must
have its 0000 within five; afterwards memory, descriptors and threads must be where they were, every probe must have
arrived at the PACS byte for byte, and outside the storage path nothing may have changed, neither around it nor where
odd UIDs and titles point.

With `--memory` the question is another one: within 512 MiB a large multi-frame arrives whole while others declare PDUs
of 4 GiB, stream more than the limit as one value, read no answers, send deflate bombs and sequences 10 000 deep.
"""

import argparse
import random
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from scripts.rigs import hostile, surroundings
from scripts.rigs.hostile import Attacker, Besiegers, Target
from scripts.rigs.preflight import tool
from scripts.rigs.report import add_seed, conclude, dice, folder, positive, say
from scripts.rigs.volume import Workshop
from tests.appliance import Edge, dimse
from tests.peers import wire
from tests.peers.certificates import Authority
from tests.peers.objects import CT, FileObject, ct, write_multiframe
from tests.peers.ports import free_port, wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.peers.secure import TlsSender

HELP: Final = "hostile peers at three times the limits, while a modality goes on sending"
_PROBE: Final = "PROBE"
_PROBE_ADDRESS: Final = "127.0.0.2"
_EVERY: Final = 2.0
_WITHIN: Final = 5.0
_SETTLE: Final = 60.0
"""Seconds within which the process must be back where it was."""
_GROWTH: Final = 32 << 20
"""Bytes of memory that it may keep: the allocator gives back what it likes."""
_WALL: Final = 512 << 20
"""Bytes of data in which the large object must arrive: heap, stacks and all else that is the process's own."""
_RESIDENT: Final = 256 << 20
"""Bytes that it may hold at the most, of which it needs a fifth."""
_STREAMED: Final = 640
"""MiB of one value: more than the wall, were they held."""
_STREAMER: Final = "127.0.9.1"
_THREADS: Final = 15
"""Threads of the appliance once its pools are grown: itself, two for the database, eight that sync, four for files."""
_HOLDING: Final = 300
"""Associations wanted at once by peers that do nothing good with them."""
_MIB: Final = 1 << 20


@dataclass
class Verdict:
    """What was done and what was wrong."""

    did: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Footprint:
    """What the process holds."""

    resident: int
    descriptors: int
    threads: int

    def __str__(self) -> str:
        """In words."""
        return f"{self.resident / _MIB:.0f} MiB, {self.descriptors} descriptors, {self.threads} threads"


class Fortress:
    """The appliance under siege, its PACS, and its probe."""

    def __init__(self, below: Path, *, associations: int, wrapper: Sequence[str] = ()) -> None:
        self.below = below
        authority = Authority(below / "authority")
        own = authority.issue("edge")
        self.trust = ssl.create_default_context(cafile=str(authority.path))
        self.pacs = RawReceiver(reserve=True)
        self.pacs.start()
        self.tls_port = free_port()
        per_address = max(2, associations // 4)
        self.edge = Edge(
            below / "edge",
            dimse("pacs", self.pacs.port),
            receive=f"max_associations = {associations}\nmax_associations_per_address = {per_address}",
            more=(
                f'[receive.tls]\nport = {self.tls_port}\ncertificate_file = "{own.certificate}"\n'
                f'key_file = "{own.key}"\n'
                f'[[modality]]\nname = "probe"\nae_title = "{_PROBE}"\naddress = "{_PROBE_ADDRESS}"\n'
                f'[[modality]]\nname = "hostile"\nae_title = "{hostile.HOSTILE}"\naddress = "127.0.0.0/8"\n'
            ),
            wrapper=wrapper,
        )
        self.edge.start()
        process = self.edge._process  # noqa: SLF001 - the rig looks at it from outside
        self.process = psutil.Process(process.pid if process is not None else 0)
        self.sent: list[bytes] = []
        self.slowest = 0.0

    @property
    def target(self) -> Target:
        """Where it listens."""
        return Target(self.edge.port, self.tls_port)

    def close(self) -> None:
        """Stop both."""
        self.edge.stop()
        self.pacs.close()

    def probe(self, *, encrypted: bool) -> str:
        """Store one object as the modality does. Return what was wrong, or nothing."""
        (obj,) = ct(1)
        begun = time.monotonic()
        try:
            with self._sender(encrypted=encrypted) as sender:
                sender.associate([(CT, [wire.EXPLICIT_LITTLE])])
                status = sender.store(obj)
        except (OSError, LookupError, wire.MalformedError) as e:
            return f"{type(e).__name__}: {e} after {time.monotonic() - begun:.1f} s"
        taken = time.monotonic() - begun
        self.slowest = max(self.slowest, taken)
        if status != 0:
            return f"answered {status:04X}"
        self.sent.append(obj.digest)
        return "" if taken <= _WITHIN else f"answered only after {taken:.1f} s"

    def _sender(self, *, encrypted: bool) -> RawSender:
        if encrypted:
            return TlsSender(self.tls_port, self.trust, _PROBE, timeout=_WITHIN, source=_PROBE_ADDRESS)
        return RawSender(self.edge.port, calling=_PROBE, timeout=_WITHIN, source=_PROBE_ADDRESS)

    def warm(self) -> Footprint:
        """Use all that is made at its first use, and look at what the process holds then."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: self.probe(encrypted=n % 2 == 0), range(32)))
        self._await_delivery()
        return self.footprint()

    def footprint(self) -> Footprint:
        """Look at the process."""
        return Footprint(self.process.memory_info().rss, self.process.num_fds(), self.process.num_threads())

    def peak(self) -> int:
        """Give the most memory that it ever held, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def arrived(self) -> list[bytes]:
        """Digests of what the PACS said yes to."""
        return [received.digest for received in self.pacs.accepted]

    def _await_delivery(self) -> None:
        wait_for(lambda: set(self.sent) <= set(self.arrived()), _SETTLE, "all probes at the PACS")

    def missing(self) -> int:
        """Wait for the probes at the PACS; how many did not come."""
        try:
            self._await_delivery()
        except TimeoutError:
            return len(set(self.sent) - set(self.arrived()))
        return 0

    def outside(self) -> dict[str, surroundings.Facts]:
        """List all that lies around the storage path, the log aside, and at every place that an odd name means."""
        return surroundings.look(self.below, self.edge.storage, self.edge.log, hostile.ODD)

    def foreign_names(self) -> list[str]:
        """Names below the storage path that a peer may have chosen."""
        return [
            str(path)
            for path in self.edge.storage.rglob("*")
            if not all(c.isalnum() or c in "._-" for c in path.name) or path.is_symlink()
        ]


def siege(
    below: Path, seconds: float, chance: random.Random, *, associations: int = 32, holding: int | None = None
) -> Verdict:
    """Lay siege for ``seconds`` to an appliance that takes ``associations``; ``holding`` (thrice that) want one."""
    verdict = Verdict()
    fortress = Fortress(below, associations=associations)
    try:
        before = fortress.warm()
        around = fortress.outside()
        verdict.did.append(f"Before: {before}.")
        besiegers = Besiegers(
            fortress.target,
            chance,
            crowd=3 * 4 * associations,
            holding=holding or 3 * associations,
            attackers=6,
            pause=0.3,
        )
        verdict.problems += _stand(fortress, besiegers, seconds, verdict)
        _aftermath(fortress, before, around, verdict)
    finally:
        fortress.close()
    return verdict


def _stand(fortress: Fortress, besiegers: Besiegers, seconds: float, verdict: Verdict) -> list[str]:
    """Probe while they attack."""
    problems: list[str] = []
    besiegers.begin()
    begun = time.monotonic()
    probes = most = 0
    resident: list[int] = []
    try:
        while (now := time.monotonic()) - begun < seconds:
            wrong = fortress.probe(encrypted=probes % 2 == 1)
            probes += 1
            if wrong:
                problems.append(f"probe {probes}, {now - begun:.0f} s after the beginning: {wrong}")
            most = max(most, fortress.process.num_fds())
            resident.append(fortress.process.memory_info().rss // _MIB)
            time.sleep(max(0.0, _EVERY - (time.monotonic() - now)))
    finally:
        besiegers.lift()
    made = ", ".join(f"{name} {count}" for name, count in sorted(besiegers.made.items()))
    verdict.did.append(f"Attacks in {seconds:.0f} s: {made}.")
    verdict.did.append(
        f"Probes: {probes}, the slowest {fortress.slowest:.2f} s; at most {most} descriptors and "
        f"{fortress.peak() / _MIB:.0f} MiB in use, over time {resident[:: max(1, len(resident) // 8)]}."
    )
    return problems + [f"the rig itself: {surprise}" for surprise in besiegers.surprises]


def _aftermath(fortress: Fortress, before: Footprint, around: dict[str, surroundings.Facts], verdict: Verdict) -> None:
    """Look whether all is as it was."""

    def back() -> bool:
        now = fortress.footprint()
        return (
            now.resident <= before.resident + _GROWTH
            and now.descriptors <= before.descriptors
            and now.threads <= max(before.threads, _THREADS)
        )

    try:
        wait_for(back, _SETTLE, "the process back where it was")
    except TimeoutError:
        verdict.problems.append(f"it held {before} before and holds {fortress.footprint()} now")
    verdict.did.append(f"After: {fortress.footprint()}.")
    if missing := fortress.missing():
        verdict.problems.append(f"{missing} probes were answered 0000 and never came to the PACS")
    if fortress.outside() != around:
        changed = sorted(set(fortress.outside().items()) ^ set(around.items()))
        verdict.problems.append(f"outside the storage path this changed: {changed[:5]}")
    verdict.problems += [
        f"a name below the storage path that is none of ours: {name}" for name in fortress.foreign_names()
    ]


def confined(below: Path, megabytes: int, chance: random.Random, *, streamed: int = _STREAMED) -> Verdict:
    """Send one object of ``megabytes`` MiB to an appliance with 512 MiB, while others waste memory.

    One of them sends ``streamed`` MiB of one value without an end.
    """
    verdict = Verdict()
    source = write_multiframe(below / "large.dcm", megabytes)
    fortress = Fortress(below, associations=32, wrapper=[tool("prlimit"), f"--data={_WALL}"])
    try:
        besiegers = Besiegers(
            fortress.target, chance, crowd=0, holding=8, attackers=8, pause=0.1, attacks=hostile.HEAVY
        )
        besiegers.begin()
        try:
            with ThreadPoolExecutor(1) as pool:
                value = pool.submit(_stream, fortress.target, streamed)
                verdict.problems += _store_large(fortress, source, verdict)
                verdict.problems += value.result()
        finally:
            besiegers.lift()
        made = ", ".join(f"{name} {count}" for name, count in sorted(besiegers.made.items()))
        verdict.did.append(f"Beside: {streamed} MiB of one value; {made}.")
        try:
            wait_for(lambda: source.wire_digest in fortress.arrived(), 600, "the object at the PACS")
        except TimeoutError as late:
            verdict.problems.append(str(late))
        peak = fortress.peak()
        verdict.did.append(f"At most {peak / _MIB:.0f} MiB in memory, of {_WALL / _MIB:.0f} MiB.")
        if peak > _RESIDENT:
            verdict.problems.append(f"{peak / _MIB:.0f} MiB is more than {_RESIDENT / _MIB:.0f}")
        verdict.problems += [f"the rig itself: {surprise}" for surprise in besiegers.surprises]
    finally:
        fortress.close()
    return verdict


def _stream(target: Target, megabytes: int) -> list[str]:
    """Send so much of one value; what was wrong, where not all of it was taken."""
    try:
        Attacker(target, _STREAMER, threading.Event(), random.Random(0)).huge_value(megabytes)
    except hostile.EXPECTED as e:
        return [f"{megabytes} MiB of one value could not be sent, which would have tried the wall: {e}"]
    return []


def _store_large(fortress: Fortress, source: FileObject, verdict: Verdict) -> list[str]:
    with RawSender(fortress.edge.port, calling=_PROBE, timeout=3600, source=_PROBE_ADDRESS) as sender:
        sender.associate([(source.sop_class_uid, [source.transfer_syntax_uid])])
        begun = time.monotonic()
        status = sender.store(source)
        taken = time.monotonic() - begun
    verdict.did.append(f"{source.length / _MIB:.0f} MiB in {taken:.0f} s, answered {status:04X}.")
    return [] if status == 0 else [f"the object was answered {status:04X}"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the rig's own arguments."""
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N", help="how long (3)")
    parser.add_argument(
        "--memory", action="store_true", help="instead: a large object within 512 MiB, beside bombs and huge PDUs"
    )
    parser.add_argument("--megabytes", type=positive, default=1024, metavar="N", help="its size, with --memory (1024)")
    parser.add_argument("--folder", type=folder, metavar="DIR", help="where to work (the system's temporary folder)")
    add_seed(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; 0 where it held, 1 where it did not."""
    seed, chance = dice(options)
    with Workshop(options.folder) as below:
        say(f"Siege in {below}, seed {seed}.")
        if options.memory:
            verdict = confined(below, options.megabytes, chance)
        else:
            verdict = siege(below, options.minutes * 60, chance, holding=_HOLDING)
    return conclude("siege", seed, verdict.did, verdict.problems)
