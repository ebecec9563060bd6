"""The siege in short: `scripts/rig siege` and `scripts/rig siege --memory` run long."""

import random
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.rigs.hostile import HOSTILE, ODD
from scripts.rigs.siege import Fortress, confined, siege
from tests.peers import wire
from tests.peers.objects import CT, RAW_DATA, tiny
from tests.peers.ports import wait_for
from tests.peers.raw import RawSender, Rejected
from tests.peers.secure import TlsSender


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
    verdict = confined(tmp_path, 64, random.Random(seed))
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
