"""SIGKILL at every file-system call of a receive and a forward, and at random under load: nothing acknowledged is lost.

The sweep first counts, thread by thread, the calls that one object costs; then it ends the appliance at each of them in
turn with strace's injection, starts it again, and looks: what was answered 0000 is delivered, and every published
file is whole.
"""

import hashlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.appliance import Edge, dimse
from tests.peers.objects import DicomObject, mr, part10_split
from tests.peers.ports import require, wait_for
from tests.peers.raw import RawReceiver, RawSender

pytestmark = pytest.mark.rig

CALLS: Final = (
    "openat",
    "write",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "rename",
    "unlink",
    "close",
)
TRIES: Final = 5
LOST: Final = (ConnectionError, TimeoutError, OSError)
_LINE: Final = re.compile(r"^(\d+) +(\w+)\(")


class Point(NamedTuple):
    """Where to kill: the how-manieth thread of the process, the call, and which of them."""

    thread: int
    call: str
    nth: int


class Site:
    """An appliance and a PACS; `promised` is the sender's own ledger."""

    def __init__(self, folder: Path, pacs: RawReceiver) -> None:
        self.pacs = pacs
        self.edge = Edge(folder, dimse("pacs", pacs.port, associations=1))
        self.sent: set[bytes] = set()
        self.promised: set[bytes] = set()

    def send(self, objects: list[DicomObject]) -> None:
        """Send until the appliance is gone, and remember what was answered 0000."""
        try:
            with RawSender(self.edge.port, timeout=10) as sender:
                sender.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
                for obj in objects:
                    self.sent.add(obj.digest)
                    if sender.store(obj) == 0:
                        self.promised.add(obj.wire_digest)
                sender.release()
        except LOST:
            return

    def threads(self) -> list[int]:
        return sorted(int(t.name) for t in Path(f"/proc/{self.edge.pid}/task").iterdir())

    def verify(self) -> None:
        """Nothing promised is missing, nothing partial is published, nothing is left over."""
        wait_for(self._settled, 30, f"{len(self.promised)} promised objects at the PACS")
        for path in self.edge.spooled():
            *_, dataset = part10_split(path)
            assert hashlib.sha256(dataset).digest() in self.sent, f"{path.name} is no object that was sent"

    def _settled(self) -> bool:
        """Every promise is kept, and every file has its row and is delivered: recovery is through."""
        if self.edge.parts() or not self.promised <= {r.digest for r in self.pacs.accepted}:
            return False
        return self.edge.tally("pacs") == {"accepted": len(self.edge.spooled())}


def count_calls(site: Site, trace: Path) -> list[Point]:
    """Every call that one receive and one forward make, by thread, from the tracer's own log."""
    threads = site.threads()
    tracer = attach(["-f", "-o", str(trace), "-e", f"trace={','.join(CALLS)}", "-p", str(site.edge.pid)])
    before = len(site.pacs.accepted)
    site.send(mr(1))
    wait_for(lambda: len(site.pacs.accepted) > before, 20, "the counted object arrives")
    wait_for(lambda: set(site.edge.tally("pacs")) == {"accepted"}, 20, "the counted object is settled")
    tracer.send_signal(signal.SIGINT)
    detach(tracer)
    seen: Counter[tuple[int, str]] = Counter()
    points = []
    for line in trace.read_text(errors="replace").splitlines():
        if (found := _LINE.match(line)) and int(found[1]) in threads:
            key = (threads.index(int(found[1])), found[2])
            seen[key] += 1
            points.append(Point(*key, seen[key]))
    return points


def attach(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start strace and wait until it traces."""
    tracer = subprocess.Popen(
        [require("strace"), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    pid = arguments[-1]
    wait_for(lambda: _traced(int(pid)) or tracer.poll() is not None, 10, "strace attaches")
    if tracer.poll() is not None:
        complaint = tracer.stderr.read().decode() if tracer.stderr else ""
        pytest.fail(f"strace cannot attach: {complaint}")
    return tracer


def detach(tracer: subprocess.Popen[bytes]) -> None:
    tracer.wait(10)
    if tracer.stderr:
        tracer.stderr.close()


def _traced(thread: int) -> bool:
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return False
    return "TracerPid:\t0\n" not in status


def dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def kill_at(site: Site, point: Point) -> bool:
    """Let one object through an appliance that dies at `point`; whether it did."""
    threads = site.threads()
    if point.thread >= len(threads):
        return False
    inject = f"inject={point.call}:signal=KILL:when={point.nth}"
    target = str(threads[point.thread])
    tracer = attach(["-o", os.devnull, "-e", f"trace={point.call}", "-e", inject, "-p", target])
    pid = site.edge.pid
    before = len(site.pacs.accepted)
    site.send(mr(1))
    through = False
    deadline = time.monotonic() + 3
    while not dead(pid) and time.monotonic() < deadline and not through:
        through = len(site.pacs.accepted) > before and set(site.edge.tally("pacs")) == {"accepted"}
        time.sleep(0.005)
    if through and not dead(pid):
        time.sleep(0.05)  # the last calls come after the row
    died = dead(pid)
    tracer.kill()
    detach(tracer)
    return died


def spread(points: list[Point], most: int) -> list[Point]:
    """At most `most` points, evenly over all, the first and the last among them."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def test_killed_at_every_call_of_a_receive_and_a_forward_nothing_promised_is_lost(tmp_path: Path) -> None:
    require("strace")
    most = int(os.environ.get("EDGE_KILL_POINTS", "200"))
    with RawReceiver() as pacs:
        site = Site(tmp_path, pacs)
        with site.edge:
            site.send(mr(3))  # so that every thread is there
            site.verify()
            points = count_calls(site, tmp_path / "trace")
            assert {p.call for p in points} >= {"openat", "pwrite64", "fsync", "fdatasync", "rename"}
            killed = 0
            for point in spread(points, most):
                # which of the syncing threads takes a job is chance: a miss costs nothing and is tried again
                died = any(kill_at(site, point) for _ in range(TRIES))
                killed += died
                if died:
                    site.edge.kill()
                    site.edge.start()
                    site.verify()
                    site.send(mr(3))
                    site.verify()
            assert killed >= min(len(points), most) * 0.7, f"only {killed} kills hit"
            print(f"{len(points)} calls, {killed} kills")


def test_killed_at_random_under_load_nothing_promised_is_lost(tmp_path: Path) -> None:
    seed = int(os.environ.get("EDGE_KILL_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    dice = random.Random(seed)
    with RawReceiver() as pacs:
        site = Site(tmp_path, pacs)
        with site.edge:
            for _ in range(10):
                batches = [mr(60) for _ in range(4)]
                senders = [threading.Thread(target=site.send, args=(batch,)) for batch in batches]
                for sender in senders:
                    sender.start()
                time.sleep(dice.uniform(0.02, 0.4))
                site.edge.kill()
                for sender in senders:
                    sender.join()
                site.edge.start()
            site.send(mr(5))
            site.verify()
    assert len(site.promised) > 50
