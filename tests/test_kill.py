"""SIGKILL at every file-system call of a receive and a forward, and at random under load: nothing acknowledged is lost.

The sweep is that of `scripts/rig kill`. EDGE_KILL_POINTS says how many calls it takes, evenly chosen by EDGE_KILL_SEED;
without it, all of a receive and its forward.
"""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from scripts.rigs import kill, oracle
from scripts.rigs.preflight import MissingError, tracer
from scripts.rigs.scenarios import SCENARIOS
from scripts.rigs.site import Site
from tests.peers.objects import mr
from tests.peers.ports import missing
from tests.peers.raw import RawReceiver

pytestmark = pytest.mark.rig


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("EDGE_KILL_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)


def test_killed_at_every_call_of_a_receive_and_a_forward_nothing_promised_is_lost(
    tmp_path: Path, dice: random.Random
) -> None:
    try:
        tracer()
    except MissingError as e:
        missing(str(e))
    most = int(os.environ["EDGE_KILL_POINTS"]) if "EDGE_KILL_POINTS" in os.environ else None
    result = kill.sweep(SCENARIOS["both"], tmp_path, dice, most=most, jobs=2)
    assert result.problems == []
    assert result.absent == ""
    assert {point.call for point in result.recorded} >= {"openat", "pwrite64", "fsync", "fdatasync", "rename"}
    assert result.kills == result.swept > 0
    print(result)


def test_killed_at_random_under_load_nothing_promised_is_lost(tmp_path: Path, dice: random.Random) -> None:
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
                assert oracle.kept(site.ledger, pacs, oracle.look(site.edge.storage)) == []
                site.edge.start()
            site.send(mr(5))
            assert oracle.wait_matching(site.edge.storage) == []
            assert oracle.wait_delivered(site.ledger, pacs, 30) == []
        assert oracle.kept(site.ledger, pacs, oracle.look(site.edge.storage)) == []
    assert len(site.ledger.promised) > 50
