"""A database that the disk has damaged, page by page: all that is owed arrives, decisions stand, and it is said."""

import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from edge.store.connection import FILE
from edge.store.repair import Mended, repair
from edge.store.schema import MIGRATIONS, VERSION, migrate
from tests.appliance import Edge, dimse
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import require, wait_for
from tests.peers.raw import RawReceiver, RawSender

PAGE: Final = 4096
TABLES: Final = ("study", "instance", "delivery", "trail")
INDEXES: Final = ("delivery_claim", "instance_by_uid", "sqlite_autoindex_delivery_1", "trail_by_instance")
CANCELLED, HELD = range(2)
"""Which of the objects a person has decided about."""


@dataclass(frozen=True)
class Queue:
    """A storage path with objects that wait, as an appliance left it."""

    storage: Path
    study: list[DicomObject]


def enqueue(edge: Edge, study: list[DicomObject]) -> None:
    """Send everything, and wait until all of it is queued."""
    with RawSender(edge.port) as sender:
        sender.associate([(study[0].sop_class_uid, [study[0].transfer_syntax_uid])])
        assert [sender.store(o) for o in study] == [0] * len(study)
        sender.release()
    wait_for(lambda: edge.tally("pacs").get("queued") == len(study), 20, "all indexed")


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    """120 objects for a PACS that is away: one cancelled, one held; and free pages in the database."""
    folder = tmp_path_factory.mktemp("waiting")
    study = mr(120)
    with RawReceiver() as away:
        away.stop()
        with Edge(folder, dimse("pacs", away.port)) as edge:
            enqueue(edge, study)
            edge.command("cancel", study[CANCELLED].sop_instance_uid, "--reason", "sent by hand")
            edge.command("hold", study[HELD].sop_instance_uid)
            edge.stop()
    with closing(sqlite3.connect(edge.storage / "db" / FILE, isolation_level=None)) as raw:
        raw.execute("CREATE TABLE gone AS SELECT randomblob(3000) AS a FROM trail")
        raw.execute("DROP TABLE gone")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert raw.execute("PRAGMA freelist_count").fetchone()[0] > 20
    return Queue(edge.storage, study)


def spoil(path: Path, page: int) -> None:
    """Write nonsense over a page, counted from 1."""
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(random.Random(page).randbytes(PAGE))


def page_of(path: Path, what: str) -> int:
    """Where a table or index begins, or the list of free pages."""
    with closing(sqlite3.connect(path)) as raw:
        if what == "header":
            return 1
        if what == "freelist":
            return int.from_bytes(path.read_bytes()[32:36], "big")
        return int(raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (what,)).fetchone()[0])


def leaf_of(path: Path, table: str) -> int:
    """Some leaf below a table's root: the last child but one."""
    root = page_of(path, table)
    data = path.read_bytes()
    page = data[(root - 1) * PAGE : root * PAGE]
    if page[0] != 5:
        return root
    cells = int.from_bytes(page[3:5], "big")
    at = int.from_bytes(page[12 + 2 * (cells - 1) : 14 + 2 * (cells - 1)], "big")
    return int.from_bytes(page[at : at + 4], "big")


def delivered_again(
    queue: Queue, folder: Path, *, environment: dict[str, str] | None = None, findings: set[str]
) -> None:
    """Start on the storage path of ``queue`` below ``folder`` with the PACS there, and see that all is well."""
    wanted = Counter(o.wire_digest for o in queue.study[2:])
    with RawReceiver() as pacs, Edge(folder, dimse("pacs", pacs.port), environment=environment) as edge:
        assert edge.storage.exists()
        wait_for(lambda: {r.digest for r in pacs.accepted} >= set(wanted), 40, "all that is owed arrives")
        wait_for(lambda: edge.tally("pacs").get("accepted", 0) == len(wanted), 20, "all is settled")
        # what nothing has touched is found by the check of the whole database, some seconds after the start
        wait_for(lambda: findings <= {f["code"] for f in edge.json("status")["findings"]}, 40, "it is said")
        assert edge.tally("pacs") == {"accepted": len(wanted), "cancelled": 1, "held": 1}
        (trace,) = edge.json("trace", queue.study[CANCELLED].sop_instance_uid)
        assert (trace["deliveries"][0]["state"], trace["deliveries"][0]["detail"]) == ("cancelled", "sent by hand")
        edge.command("release", queue.study[HELD].sop_instance_uid)
        wait_for(lambda: queue.study[HELD].wire_digest in {r.digest for r in pacs.accepted}, 20, "the held one goes")
    assert queue.study[CANCELLED].wire_digest not in {r.digest for r in pacs.accepted}


@pytest.mark.rig
@pytest.mark.parametrize(
    ("what", "finding"),
    [
        ("header", "DATABASE_MENDED"),
        ("delivery", "DATABASE_REBUILT"),
        ("instance_by_uid", "DATABASE_MENDED"),
        ("freelist", "DATABASE_MENDED"),
    ],
)
def test_whatever_page_is_damaged_all_that_was_acknowledged_arrives(
    what: str, finding: str, waiting: Queue, tmp_path: Path
) -> None:
    shutil.copytree(waiting.storage, tmp_path / "edge" / "storage")
    path = tmp_path / "edge" / "storage" / "db" / FILE
    spoil(path, page_of(path, what))
    delivered_again(waiting, tmp_path / "edge", findings={finding})


@pytest.mark.rig
def test_a_database_that_is_gone_is_made_again_from_the_files(waiting: Queue, tmp_path: Path) -> None:
    shutil.copytree(waiting.storage, tmp_path / "edge" / "storage")
    shutil.rmtree(tmp_path / "edge" / "storage" / "db")
    with RawReceiver() as pacs, Edge(tmp_path / "edge", dimse("pacs", pacs.port)) as edge:
        edge.wait_settled("pacs", {"accepted": len(waiting.study)})
        assert Counter(r.digest for r in pacs.accepted) == Counter(o.wire_digest for o in waiting.study)


@pytest.mark.rig
def test_a_log_that_was_removed_costs_decisions_and_no_object(tmp_path: Path) -> None:
    study = mr(30)
    with RawReceiver() as pacs:
        pacs.stop()
        with Edge(tmp_path, dimse("pacs", pacs.port)) as edge:
            enqueue(edge, study)
            edge.kill()
            (edge.storage / "db" / f"{FILE}-wal").unlink()
            pacs.start()
            edge.start()
            edge.wait_settled("pacs", {"accepted": len(study)})
        assert Counter(r.digest for r in pacs.accepted) == Counter(o.wire_digest for o in study)


def in_1970() -> dict[str, str]:
    """What makes a process believe that it is 1970."""
    require("faketime")
    (library,) = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": "@1970-01-01 00:00:10",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.rig
@pytest.mark.parametrize(
    ("what", "then", "findings"),
    [
        ("header", False, {"DATABASE_MENDED"}),
        ("delivery", False, {"DATABASE_REBUILT"}),
        ("", True, {"CLOCK_WRONG"}),
        ("trail_by_instance", True, {"DATABASE_MENDED", "CLOCK_WRONG"}),
    ],
)
def test_a_removed_log_and_other_damage_at_once_cost_no_object_and_no_older_decision(
    what: str,
    then: bool,  # noqa: FBT001 - a column of the table
    findings: set[str],
    waiting: Queue,
    tmp_path: Path,
) -> None:
    environment = in_1970() if then else None
    folder, newer = tmp_path / "edge", mr(10)
    shutil.copytree(waiting.storage, folder / "storage")
    with RawReceiver() as away:
        away.stop()
        with Edge(folder, dimse("pacs", away.port)) as edge, RawSender(edge.port) as sender:
            sender.associate([(newer[0].sop_class_uid, [newer[0].transfer_syntax_uid])])
            assert [sender.store(o) for o in newer] == [0] * len(newer)
            expected = len(waiting.study) - 2 + len(newer)
            wait_for(lambda: edge.tally("pacs").get("queued") == expected, 20, "all indexed")
            sender.close()
            edge.kill()
    path = folder / "storage" / "db" / FILE
    log = path.with_name(f"{FILE}-wal")
    assert log.stat().st_size > 0
    log.unlink()
    if what:
        spoil(path, page_of(path, what))
    delivered_again(Queue(waiting.storage, waiting.study + newer), folder, environment=environment, findings=findings)


@pytest.mark.rig
def test_a_box_that_believes_in_1970_delivers_and_says_that_its_clock_is_wrong(waiting: Queue, tmp_path: Path) -> None:
    shutil.copytree(waiting.storage, tmp_path / "edge" / "storage")
    path = tmp_path / "edge" / "storage" / "db" / FILE
    spoil(path, leaf_of(path, "delivery"))
    delivered_again(waiting, tmp_path / "edge", environment=in_1970(), findings={"CLOCK_WRONG"})


@pytest.mark.parametrize("what", ["header", "tally", *INDEXES, "freelist"])
def test_what_is_no_table_is_mended_with_nothing_missing(what: str, waiting: Queue, tmp_path: Path) -> None:
    before = waiting.storage / "db" / FILE
    damaged = tmp_path / "damaged"
    shutil.copytree(waiting.storage / "db", damaged / "db")
    spoil(damaged / "db" / FILE, page_of(before, what))
    assert repair(damaged) is Mended.WHOLE
    for table in (*TABLES, "tally"):
        assert rows(damaged / "db" / FILE, table) == rows(before, table), table
    assert (damaged / "db.damaged" / FILE).exists()


@pytest.mark.parametrize("part", ["root", "leaf"])
@pytest.mark.parametrize("table", TABLES)
def test_decisions_survive_the_loss_of_any_table(table: str, part: str, waiting: Queue, tmp_path: Path) -> None:
    before = waiting.storage / "db" / FILE
    shutil.copytree(waiting.storage / "db", tmp_path / "db")
    path = tmp_path / "db" / FILE
    spoil(path, page_of(before, table) if part == "root" else leaf_of(before, table))
    assert repair(tmp_path) is Mended.ANEW
    found = {(state, detail) for _, _, state, _, detail in rows(path, "salvaged")}
    assert found == {("cancelled", "sent by hand"), ("held", "")}


def test_numbers_of_the_trail_never_come_twice(waiting: Queue, tmp_path: Path) -> None:
    before = waiting.storage / "db" / FILE
    shutil.copytree(waiting.storage / "db", tmp_path / "db")
    spoil(tmp_path / "db" / FILE, page_of(before, "delivery"))
    repair(tmp_path)
    with closing(sqlite3.connect(before)) as raw:
        last = int(raw.execute("SELECT max(seq) FROM trail").fetchone()[0])
    with closing(sqlite3.connect(tmp_path / "db" / FILE)) as raw:
        raw.execute(
            "INSERT INTO trail (instance, destination, at, clock_trusted, event, code, detail) "
            "VALUES (1, '', 0, 1, 'x', '', '')"
        )
        assert raw.execute("SELECT max(seq) FROM trail").fetchone()[0] > last + 1


def test_a_database_of_the_version_before_is_migrated_with_its_settled_instances(tmp_path: Path) -> None:
    assert len(MIGRATIONS) == VERSION
    with closing(sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)) as raw:
        migrate(raw, 1)
        raw.execute("INSERT INTO study VALUES (1, '1.2', '', '', '', '', '')")
        for number, states in enumerate((("accepted",), ("accepted", "queued"), ("cancelled",), ()), start=1):
            raw.execute(
                "INSERT INTO instance VALUES (?, 1, '1', '1', '1', zeroblob(32), 1, 1, '', '', '', '', '', "
                "'dimse', '', '', '', 0, 1, 'stored', ?, ?)",
                (number, sum(s == "queued" for s in states), not states),
            )
            for at, state in enumerate(states):
                raw.execute(
                    "INSERT INTO delivery (instance, destination, state, priority, needs_proof, bytes, changed_at) "
                    "VALUES (?, ?, ?, 1, 0, 1, 0)",
                    (number, f"d{at}", state),
                )
        migrate(raw)
        assert raw.execute("SELECT id FROM instance WHERE settled_at IS NOT NULL").fetchall() == [(1,), (3,)]


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as raw:
        return sorted(raw.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
