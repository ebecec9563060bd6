"""The cases of `scripts/rig disk`, each a function on a `Bench`."""

import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from scripts.rigs import oracle
from scripts.rigs.scenarios import SCENARIOS
from scripts.rigs.site import STORAGE, Site
from scripts.rigs.template import Template
from scripts.rigs.tracing import Point, Traced, dead, injected, injecting, once, striking
from scripts.rigs.volume import Volume
from tests.peers import wire
from tests.peers.objects import DicomObject, iterate_ct, mr
from tests.peers.ports import wait_for
from tests.peers.program import PeerFailedError
from tests.peers.raw import RawReceiver, RawSender

_ARRIVAL: Final = 180.0
_TOLD: Final = 10.0
"""Seconds within which the status must tell what is."""
_RESUMED: Final = 30.0
"""Seconds within which intake must open again by itself."""
_ANSWER: Final = 20.0
"""Seconds that an answer may take at the most."""
_ASSOCIATION: Final = 10
"""Objects on one association."""
_LONG: Final = (64, 400)
"""MiB of a small disk, and CT images sent to it: 200 MB."""
_QUICK: Final = (32, 80)
_MORE_THAN_BALLAST: Final = "6MiB"
"""A reserve that the room of the ballast does not make up for, so that nothing is taken until somebody makes room."""
_SENT_MR: Final = 600
_SLOW_SENDERS: Final = 2
_SLOW_OBJECTS: Final = 6
_SYNC_SECONDS: Final = 2
_COUNTS: Final = ("device", "session", "epoch", "time")
"""What is kept in identity/."""
_OTHERS: Final = 1.0
"""Seconds within which a C-ECHO is answered while objects wait for a slow disk."""
_NEED_NO_ROOM: Final = frozenset({"rename", "unlink", "fsync", "fdatasync"})
_DISK_FINDINGS: Final = frozenset({"STORAGE_ERROR", "INTAKE_CLOSED"})
_BROKEN: Final = (TimeoutError, PeerFailedError, OSError, subprocess.SubprocessError)


class Bench:
    """What a case works with, and what it found."""

    def __init__(self, place: Path, chance: random.Random, most: int | None, *, quick: bool = False) -> None:
        self.place, self.chance, self.most = place, chance, most
        self.megabytes, self.ct = _QUICK if quick else _LONG
        self.problems: list[str] = []
        self.facts: list[str] = []
        self.open_again: list[float] = []

    def expect(self, what: str, *, that: bool) -> None:
        """Note a problem where ``that`` is false; ``what`` says what must be."""
        if not that:
            self.problems.append(f"not so: {what}")

    def eventually(self, what: str, predicate: Callable[[], bool], timeout: float) -> None:
        """Note a problem where ``predicate`` does not become true."""
        try:
            wait_for(lambda: _answered(predicate), timeout, what)
        except TimeoutError:
            self.problems.append(f"not so within {timeout:g} s: {what}")

    @contextmanager
    def disk(self, *options: str) -> Iterator[tuple[Site, Volume]]:
        """Give an appliance on a small disk, not yet started, and a PACS."""
        with ExitStack() as stack:
            pacs = stack.enter_context(RawReceiver(reserve=True))
            site = Site(self.place, pacs)
            volume = stack.enter_context(Volume(self.place / "disk.img", site.edge.storage, self.megabytes, options))
            stack.callback(site.edge.kill)
            yield site, volume

    def polite(self, site: Site) -> None:
        """Every answer so far was 0000, A7xx or a transient rejection."""
        wrong = {how: count for how, count in site.ledger.answers.items() if not _polite(how)}
        self.expect(f"only 0000, A7xx and transient rejections are answered, but also {wrong}", that=not wrong)

    def arrives(self, site: Site) -> None:
        """Everything promised is delivered with no hand on it."""
        self.problems += oracle.wait_delivered(site.ledger, site.pacs, _ARRIVAL)

    def resumes(self, site: Site) -> None:
        """Intake is open again."""
        begun = time.monotonic()
        try:
            site.probe(_RESUMED)
            self.open_again.append(time.monotonic() - begun)
        except TimeoutError:
            self.problems.append(f"not so within {_RESUMED:g} s: intake opens again by itself")

    def told(self, site: Site) -> None:
        """The status says that objects are refused, with a red light."""

        def tells() -> bool:
            status = _status(site)
            errors = [finding for finding in status["findings"] if finding["severity"] == "error"]
            return bool(errors) and status["light"]["color"] == "red"

        self.eventually("the status says in red that objects are refused", tells, _TOLD)

    def ends(self, site: Site) -> None:
        """Stop, and read what is left."""
        site.edge.stop()
        self.problems += oracle.kept(site.ledger, site.pacs, oracle.look(site.edge.storage))
        answers = ", ".join(f"{how} {count}" for how, count in sorted(site.ledger.answers.items()))
        self.facts.append(f"answers {answers}")

    def sample(self, points: list[Point]) -> list[Point]:
        """As many of ``points`` as were asked for."""
        if self.most is None or self.most >= len(points):
            return points
        return sorted(self.chance.sample(points, self.most), key=points.index)


class Case(NamedTuple):
    """One case."""

    what: str
    run: Callable[[Bench], None]


def _answered(predicate: Callable[[], bool]) -> bool:
    """Ask; a status that cannot be told at the moment at which the database is opened anew is asked again."""
    try:
        return predicate()
    except subprocess.CalledProcessError:
        return False


def _status(site: Site) -> Any:
    return site.edge.json("status")


def _polite(how: str) -> bool:
    return how == "0000" or how.startswith(("A7", "RJ 2/3/"))


def _push(site: Site, objects: Iterable[DicomObject]) -> None:
    """Send all of ``objects``, a few on each association, whatever is answered."""
    stream = iter(objects)
    while chunk := list(islice(stream, _ASSOCIATION)):
        site.send(chunk)


def _full(bench: Bench) -> None:
    """64 MB, the PACS down, 200 MB sent."""
    with bench.disk() as (site, _):
        site.pacs.stop()
        site.edge.start()
        _push(site, iterate_ct(bench.ct))
        bench.polite(site)
        bench.expect("some are refused", that=len(site.ledger.promised) < bench.ct)
        bench.expect("some are taken", that=bool(site.ledger.promised))
        bench.told(site)
        site.pacs.start()
        bench.arrives(site)
        bench.resumes(site)
        bench.arrives(site)
        bench.ends(site)


def _taken(bench: Bench) -> None:
    """Somebody else fills the disk to the last byte, and frees it again; then once more, with a crash between."""
    with bench.disk() as (site, _):
        _reserve(site, _MORE_THAN_BALLAST)
        site.edge.start()
        _push(site, mr(20))
        theirs = site.edge.storage / "of-somebody-else"
        _fill(theirs)
        _refuses(bench, site)
        theirs.unlink()
        bench.resumes(site)
        _push(site, mr(20))
        bench.arrives(site)
        # what it threw overboard it must have again, or nothing that needs a byte can begin on a disk without one
        bench.eventually("it has its ballast again", (site.edge.storage / "ballast").exists, _RESUMED)
        site.edge.kill()
        _fill(theirs)
        begun = time.monotonic()
        site.edge.start()
        took = time.monotonic() - begun
        bench.problems += oracle.late([took])
        bench.facts.append(f"started on the full disk within {took:.1f} s")
        _refuses(bench, site)
        theirs.unlink()
        bench.resumes(site)
        _push(site, mr(20))
        bench.arrives(site)
        bench.ends(site)


def _reserve(site: Site, reserve: str) -> None:
    """Have it leave so much of the disk alone."""
    text = site.edge.config.read_text()
    site.edge.config.write_text(re.sub(r'(?m)^reserve = ".*"$', f'reserve = "{reserve}"', text))


def _refuses(bench: Bench, site: Site) -> None:
    """It takes nothing, politely, and says so in red."""
    before = len(site.ledger.promised)
    _push(site, mr(20))
    bench.expect("nothing is taken on a full disk", that=len(site.ledger.promised) == before)
    bench.polite(site)
    bench.told(site)


def _fill(theirs: Path) -> None:
    """Take what is left, to the last byte."""
    with theirs.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def _inodes(bench: Bench) -> None:
    """No inode is left while there are bytes enough."""
    with bench.disk("-N", "700") as (site, _):
        site.pacs.stop()
        site.edge.start()
        _push(site, mr(_SENT_MR))
        bench.polite(site)
        bench.expect("some are refused", that=len(site.ledger.promised) < _SENT_MR)
        bench.expect("some are taken", that=bool(site.ledger.promised))
        site.pacs.start()
        bench.arrives(site)
        bench.resumes(site)
        bench.arrives(site)
        bench.ends(site)


def _fsync(bench: Bench) -> None:
    """EIO on the fsync of one object, then of a second one."""
    template = Template(SCENARIOS["receive"], bench.place)
    first = _first_id(template)
    for count in (1, 2):
        place = bench.place / f"{count}"
        parts = [place / STORAGE / "spool" / "incoming" / f"{first + i}.part" for i in range(count)]
        log = bench.place / f"{count}.log"
        with RawReceiver(reserve=True) as pacs:
            site = template.site(place, pacs, injecting(parts, "fsync", "error=EIO:when=1+", log))
            try:
                _fail_syncs(bench, site, count)
            finally:
                site.edge.kill()
        bench.expect("the fsync failed", that=injected(log))
        _restart(bench, site, place)


def _fail_syncs(bench: Bench, site: Site, count: int) -> None:
    site.edge.start()
    statuses = [_one(site) for _ in range(count)]
    bench.expect(f"what could not be synced is answered A700, not {statuses}", that=statuses == ["A700"] * count)
    codes = {finding["code"] for finding in _status(site)["findings"]}
    bench.expect(f"a finding says that the disk failed; there are {sorted(codes)}", that=bool(codes & _DISK_FINDINGS))
    if count == 1:
        bench.expect("the next object is taken", that=_one(site) == "0000")
        bench.arrives(site)
    else:
        bench.told(site)
        bench.expect("nothing is taken after a second failure", that=_one(site) != "0000")


def _one(site: Site) -> str:
    """Send one object; what the sender met."""
    before = site.ledger.answers
    site.send(mr(1))
    (met,) = site.ledger.answers - before
    return met


def _restart(bench: Bench, site: Site, place: Path) -> None:
    """Start without a tracer on what is left; everything arrives."""
    storage = place / STORAGE
    bench.problems += oracle.kept(site.ledger, site.pacs, oracle.look(storage))
    with site.pacs:
        again = Site(place, site.pacs, ledger=site.ledger)
        try:
            bench.problems += oracle.late([again.start()])
            bench.arrives(again)
            bench.problems += oracle.wait_matching(storage)
        finally:
            again.edge.kill()
        bench.problems += oracle.kept(site.ledger, site.pacs, oracle.look(storage))


def _errors(bench: Bench) -> None:
    """Every call of a receive and a forward fails once, for want of room or because the disk is broken."""
    template = Template(SCENARIOS["both"], bench.place)
    found = template.record()
    strikes = [(point, "ENOSPC") for point in found if point.call not in _NEED_NO_ROOM]
    strikes += [(point, "EIO") for point in found]
    chosen = strikes if bench.most is None else bench.chance.sample(strikes, min(bench.most, len(strikes)))
    hit = 0
    for number, (point, error) in enumerate(chosen):
        log = bench.place / f"{number}.log"
        place = bench.place / f"{number}"
        before = len(bench.problems)
        with RawReceiver(reserve=True) as pacs:
            site = template.site(place, pacs, striking(place / STORAGE, point, log, f"error={error}"))
            edge = cast("Traced", site.edge)
            try:
                _one_error(bench, site, edge, log)
            finally:
                edge.kill()
            bench.problems += oracle.kept(site.ledger, pacs, oracle.look(place / STORAGE))
        hit += injected(log)
        bench.problems[before:] = [f"{error} at {point}: {problem}" for problem in bench.problems[before:]]
    bench.facts.append(f"{len(found)} calls, {len(chosen)} failed in turn, {hit} of them happened")


def _one_error(bench: Bench, site: Site, edge: Traced, log: Path) -> None:
    try:
        if not _starts(bench, site, edge):
            return
        with once(edge, log):
            met = _one(site)
            bench.expect(f"the object is answered 0000 or A7xx, not {met}", that=_polite(met))
            bench.resumes(site)
            bench.expect("it is still the same process", that=edge.alive)
            bench.problems += oracle.wait_delivered(site.ledger, site.pacs, _RESUMED)
            bench.problems += oracle.wait_matching(site.edge.storage)
    except _BROKEN as e:
        bench.problems.append(str(e).splitlines()[0])


def _starts(bench: Bench, site: Site, edge: Traced) -> bool:
    """Start; where the call that fails is one of the start's own, it ends with a reason, and the next one works."""
    try:
        edge.start()
    except PeerFailedError:
        bench.expect("it says why it does not start", that="cannot be used" in edge.output())
        again = Site(edge.folder, site.pacs, ledger=site.ledger)
        try:
            bench.problems += oracle.late([again.start()])
            bench.expect("the next start takes an object", that=_one(again) == "0000")
        finally:
            again.edge.kill()
        return False
    return True


def _read_only(bench: Bench) -> None:
    """The kernel finds an error in the file system and makes it read-only."""
    with bench.disk("-e", "remount-ro") as (site, volume):
        site.pacs.stop()
        site.edge.start()
        _push(site, mr(20))
        bench.eventually("the queue is indexed", lambda: not oracle.mismatch(site.edge.storage), _TOLD)
        before = len(site.ledger.promised)
        volume.fail()
        _push(site, mr(20))
        bench.expect("nothing is taken", that=len(site.ledger.promised) == before)
        bench.polite(site)
        bench.told(site)
        site.pacs.start()
        bench.arrives(site)
        bench.expect("it is still the same process", that=not dead(site.edge.pid))
        site.edge.stop()
        volume.unmount()
        volume.repair()
        volume.mount()
        bench.problems += oracle.kept(site.ledger, site.pacs, oracle.look(site.edge.storage))
        bench.problems += oracle.late([site.start()])
        bench.arrives(site)
        bench.problems += oracle.wait_matching(site.edge.storage)
        bench.ends(site)


def _slow(bench: Bench) -> None:
    """Every sync of an object, of its folder, of the database and of what is kept in identity/ takes two seconds."""
    template = Template(SCENARIOS["receive"], bench.place)
    place, log = bench.place / "slow", bench.place / "slow.log"
    storage = place / STORAGE
    first = _first_id(template)
    spool = storage / "spool" / "incoming"
    files = [
        spool,
        storage / "db" / "edge.sqlite-wal",
        *(spool / f"{first + i}.part" for i in range(_SLOW_OBJECTS)),
        storage / "identity",
        *(storage / "identity" / f"{name}.new" for name in _COUNTS),
    ]
    with RawReceiver(reserve=True) as pacs:
        site = template.site(place, pacs, injecting(files, "fsync,fdatasync", f"delay_exit={_SYNC_SECONDS}000000", log))
        try:
            site.edge.start()
            _send_slowly(bench, site)
            bench.arrives(site)
        finally:
            site.edge.kill()
        bench.problems += oracle.kept(site.ledger, pacs, oracle.look(storage))
    bench.expect("the syncs were slow", that=injected(log))


def _send_slowly(bench: Bench, site: Site) -> None:
    answers: list[float] = []
    senders = [threading.Thread(target=_timed, args=(site, answers)) for _ in range(_SLOW_SENDERS)]
    for sender in senders:
        sender.start()
    echoes = []
    while any(sender.is_alive() for sender in senders):
        begun = time.monotonic()
        with RawSender(site.edge.port, calling="PROBE") as probe:
            probe.associate([(wire.VERIFICATION, [wire.IMPLICIT_LITTLE])])
            bench.expect("a C-ECHO is answered 0000", that=probe.echo() == 0)
        echoes.append(time.monotonic() - begun)
        time.sleep(0.2)
    for sender in senders:
        sender.join()
    bench.expect(f"every object is taken, not {dict(site.ledger.answers)}", that=set(site.ledger.answers) == {"0000"})
    bench.expect(f"every answer comes within {_ANSWER:g} s, not {max(answers):.1f}", that=max(answers) <= _ANSWER)
    bench.expect(f"others are not held up, not {max(echoes):.1f} s", that=max(echoes) <= _OTHERS)
    bench.expect("the disk was slow", that=min(answers) >= _SYNC_SECONDS)
    bench.facts.append(f"answers within {max(answers):.1f} s, C-ECHO meanwhile within {max(echoes):.2f} s")


def _timed(site: Site, answers: list[float]) -> None:
    for _ in range(_SLOW_OBJECTS // _SLOW_SENDERS):
        begun = time.monotonic()
        site.send(mr(1))
        answers.append(time.monotonic() - begun)


def _first_id(template: Template) -> int:
    """The id that the first object of a run gets."""
    part = next(point.file for point in template.record() if point.file.endswith(".part"))
    return int(Path(part).stem)


CASES: Final = {
    "full": Case("64 MB, the PACS down, 200 MB sent; then the PACS returns", _full),
    "taken": Case("somebody else fills the disk, and frees it; again, and it starts on the full disk", _taken),
    "inodes": Case("no inode left; then the PACS returns", _inodes),
    "fsync": Case("EIO from the fsync of one object, then of two", _fsync),
    "read-only": Case("the file system turns read-only", _read_only),
    "slow": Case("every sync takes 2 s", _slow),
    "errors": Case("each call of a receive and a forward fails once", _errors),
}
