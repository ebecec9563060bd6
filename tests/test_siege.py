"""The siege in short: `scripts/rig siege` and `scripts/rig siege --memory` run long."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import pytest

from scripts.rigs import streams, surroundings
from scripts.rigs.hostile import HOSTILE, ODD
from scripts.rigs.siege import Fortress, confined, siege
from tests.peers import wire
from tests.peers.objects import CT, RAW_DATA, tiny
from tests.peers.ports import wait_for
from tests.peers.raw import RawSender, Rejected
from tests.peers.secure import TlsSender

FEW: Final = 6 << 20
"""Bytes by which memory may grow for one peer, whatever it does."""
STREAM: Final = "127.0.9.1"


@contextmanager
def hostile(fortress: Fortress) -> Iterator[RawSender]:
    """An association of one who is let in and means harm; it ends without a word."""
    sender = RawSender(fortress.edge.port, calling=HOSTILE, timeout=20, source=STREAM)
    try:
        sender.connect()
        sender.associate([(CT, [wire.EXPLICIT_LITTLE])])
        yield sender
    finally:
        sender.close()


@pytest.mark.rig
@pytest.mark.timeout(240)
def test_a_modality_is_served_while_others_attack(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    verdict = siege(tmp_path, 20.0, random.Random(seed), associations=16)
    print(f"seed {seed}", *verdict.did, sep="\n")
    assert verdict.problems == []


@pytest.mark.rig
@pytest.mark.timeout(240)
def test_a_large_object_arrives_within_little_memory(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    # were they held, they would show in the peak, if not at the wall itself
    verdict = confined(tmp_path, 64, random.Random(seed), streamed=320)
    print(f"seed {seed}", *verdict.did, sep="\n")
    assert verdict.problems == []


@pytest.mark.rig
def test_odd_uids_and_titles_change_nothing_outside_the_storage_path(tmp_path: Path) -> None:
    fortress = Fortress(tmp_path, associations=32)
    try:
        around = fortress.outside()
        statuses = {}
        for odd in ODD:
            with RawSender(fortress.edge.port, calling=HOSTILE, timeout=10) as sender:
                sender.associate([(RAW_DATA, [wire.EXPLICIT_LITTLE])])
                (made,) = tiny(1)
                statuses[odd] = sender.store(replace(made, sop_instance_uid=odd))
            for calling, called in ((odd[:16], "EDGE"), (HOSTILE, odd[:16])):
                with (
                    RawSender(fortress.edge.port, calling=calling, called=called, timeout=10) as sender,
                    pytest.raises(Rejected),
                ):
                    sender.associate([(RAW_DATA, [wire.EXPLICIT_LITTLE])])
        assert statuses["1." + "2" * 63] == statuses["1" * 5000] == statuses[""] == 0xC000
        assert all(status & 0xF000 in {0xA000, 0xC000} for status in statuses.values()), statuses
        assert fortress.probe(encrypted=False) == ""
        assert fortress.outside() == around
        assert fortress.foreign_names() == []
        log = fortress.edge.output()
        assert "peer refused" in log
        assert all(character.isprintable() or character == "\n" for character in log)
        findings = fortress.edge.json("status")["findings"]
        assert all(finding["text"].isprintable() and len(finding["text"]) < 700 for finding in findings)
    finally:
        fortress.close()


@pytest.mark.rig
def test_an_association_in_the_middle_of_an_object_costs_less_than_two_mebibytes(tmp_path: Path) -> None:
    fortress = Fortress(tmp_path, associations=32)
    begun = wire.c_store_rq(1, CT, "1.2.3").encode()
    whole = wire.Control.COMMAND | wire.Control.LAST
    fragment = wire.p_data(wire.Pdv(1, wire.Control.DATASET, bytes(200_000)))
    try:
        before = fortress.warm().resident
        with ExitStack() as stack:
            for n in range(24):
                sender = TlsSender(fortress.tls_port, fortress.trust, HOSTILE, timeout=20, source=f"127.0.0.{10 + n}")
                stack.callback(sender.close)
                sender.connect()
                sender.associate([(CT, [wire.EXPLICIT_LITTLE])])
                sender.send_bytes(wire.p_data(wire.Pdv(1, whole, begun)))
                for _ in range(20):
                    sender.send_bytes(fragment)
            wait_for(lambda: len(fortress.edge.parts()) == 24, 20, "24 objects on their way")
            assert fortress.footprint().resident - before < 24 * (2 << 20)
    finally:
        fortress.close()


def most_while(fortress: Fortress, attack: Callable[[], int]) -> tuple[int, int]:
    """Run ``attack`` while a probe is answered again and again; what it gives, and the most memory meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        over: Future[int] = pool.submit(attack)
        most = 0
        while not over.done():
            assert fortress.probe(encrypted=False) == ""
            most = max(most, fortress.footprint().resident)
        return over.result(), max(most, fortress.footprint().resident)


def largest_part(fortress: Fortress) -> int:
    """Bytes of the largest object on its way."""
    sizes = [0]
    for part in fortress.edge.parts():
        with suppress(FileNotFoundError):  # a probe's, which has arrived
            sizes.append(part.stat().st_size)
    return max(sizes)


@pytest.mark.rig
@pytest.mark.parametrize(("length", "most"), [(streams.LONGEST_UID, 1 << 30), (streams.ABSURD_UID, 256 << 20)])
def test_a_peer_that_never_reads_makes_nothing_grow(tmp_path: Path, length: int, most: int) -> None:
    fortress = Fortress(tmp_path, associations=32)
    requests = streams.echoes(length)
    try:
        before = fortress.warm().resident
        with hostile(fortress) as sender:
            sent, resident = most_while(fortress, lambda: streams.unread(sender, requests, most))
            assert sent > 4 << 20
            # what is short is answered as briefly as it came, and blocks; of what is absurd nothing is sent back
            assert (sent < most) is (length == streams.LONGEST_UID)
            assert resident - before < FEW
            assert fortress.probe(encrypted=True) == ""
    finally:
        fortress.close()


@pytest.mark.rig
def test_one_value_of_gigabytes_makes_nothing_grow(tmp_path: Path) -> None:
    fortress = Fortress(tmp_path, associations=32)
    try:
        before = fortress.warm().resident
        with hostile(fortress) as sender:
            sent, resident = most_while(fortress, lambda: streams.one_value(sender, 256))
            assert sent == 256 << 20
            wait_for(lambda: largest_part(fortress) > 255 << 20, 20, "the value in a part")
            assert resident - before < FEW
        wait_for(lambda: fortress.edge.parts() == [], 20, "nothing is left of it")
    finally:
        fortress.close()


class Echoes:
    """A C-ECHO every 20 ms on an association of its own, in a thread, and how long each took."""

    def __init__(self, fortress: Fortress) -> None:
        self._sender = RawSender(fortress.edge.port, calling=HOSTILE, timeout=20)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echoes")
        self._taken: list[float] = []

    def __enter__(self) -> Self:
        self._sender.connect()
        self._sender.associate([(wire.VERIFICATION, [wire.EXPLICIT_LITTLE])])
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self._sender.close()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            begun = time.monotonic()
            assert self._sender.echo() == 0
            self._taken.append(time.monotonic() - begun)

    def worst_of_next(self, count: int) -> float:
        """Wait for so many more; how long the slowest took, seconds."""
        at = len(self._taken)
        wait_for(lambda: len(self._taken) >= at + count, 60, f"{count} echoes")
        return max(self._taken[at:])


@pytest.mark.rig
def test_to_let_go_of_a_large_object_that_was_broken_off_holds_nobody_up(tmp_path: Path) -> None:
    fortress = Fortress(tmp_path, associations=32)
    try:
        with hostile(fortress) as sender:
            streams.one_value(sender, 512)
            wait_for(lambda: largest_part(fortress) > 511 << 20, 30, "the value in a part")
            with Echoes(fortress) as echoes:
                before = echoes.worst_of_next(50)
                sender.close()
                meanwhile = echoes.worst_of_next(50)
                wait_for(lambda: fortress.edge.parts() == [], 20, "nothing is left of it")
        print(f"the slowest echo: {before:.3f} s before, {meanwhile:.3f} s while it goes")
        assert meanwhile < 0.3 + 3 * before
    finally:
        fortress.close()


def test_a_change_is_noticed_wherever_an_odd_name_points(tmp_path: Path) -> None:
    below = tmp_path / "rig"
    storage, log = below / "edge" / "storage", below / "edge" / "log"
    incoming = storage / "spool" / "incoming"
    incoming.mkdir(parents=True)
    log.touch()
    assert {Path("/", "tmp", "x"), Path("/", "etc", "passwd")} <= surroundings.places(storage, ODD)

    def look() -> dict[str, surroundings.Facts]:
        return surroundings.look(below, storage, log, ODD)

    before = look()
    assert str(Path("/", "etc", "passwd")) in before
    (incoming / "1.part").touch()
    log.write_text("a line")
    assert look() == before
    # incoming/../../../../tmp/x lies in the rig's folder, spool/../../../../tmp/x outside it
    for place in (incoming / ODD[0], incoming.parent / ODD[0]):
        written = place.resolve()
        written.parent.mkdir(exist_ok=True)
        written.touch()
        assert str(written) in look()
        written.write_text("more")
        changed = look()
        written.unlink()
        assert look() != changed
