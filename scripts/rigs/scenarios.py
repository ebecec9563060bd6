"""What the appliance is doing while the kill rig ends it: how its storage is made beforehand, and when it is through.

A scenario makes its storage once; every kill gets a copy. Where nobody kills, it must come to its end.
"""

import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from typing import Final, NamedTuple

from edge.store import schema
from scripts.rigs import oracle
from scripts.rigs.site import HALF, Site
from tests.peers.objects import ct, mr
from tests.peers.ports import wait_for

READY: Final = "event=ready"
"""What the appliance logs once images can be sent."""
_SETTLE: Final = 30.0
_FILES: Final = 3
_HEADER: Final = 100
"""Bytes of a database's header (SQLite's file format, 1.3)."""


class NotHereError(Exception):
    """This version of the appliance has nothing that the scenario could interrupt."""


class Scenario(NamedTuple):
    """One thing to be interrupted at."""

    name: str
    what: str
    prepare: Callable[[Site], None]
    """Makes the storage; the appliance is not running before and after."""
    drive: Callable[[Site], None]
    """Gives the started appliance its work."""
    done: Callable[[Site], bool]
    """Whether the work is through."""
    after: str = ""
    """What the appliance logs before the calls that count; empty: all do."""
    store: str = ""
    """Lines of [storage] for the interrupted run."""
    pacs: bool = True
    """Whether the PACS is up in the interrupted run."""
    watched: bool = False
    """Whether it takes files from a folder."""


def _nothing(_site: Site) -> None:
    """Nothing is to be done."""


def _empty(site: Site) -> None:
    """Make a storage that has been used once and holds nothing."""
    with site.edge:
        pass


def _queue(site: Site, count: int) -> None:
    """Leave ``count`` objects that wait for the PACS."""
    site.pacs.stop()
    with site.edge:
        site.send(mr(count))
        _wait(site, lambda: not oracle.mismatch(site.edge.storage), "the queue is indexed")
    site.pacs.start()


def _delivered(site: Site, count: int) -> None:
    """Leave ``count`` objects that the PACS has."""
    with site.edge:
        site.send(mr(count))
        _wait(site, lambda: _all_delivered(site), "the objects are delivered")


def _left_over(site: Site) -> None:
    """Leave two rows, two files without rows, two sealed parts and one torn one."""
    storage = site.edge.storage
    _queue(site, 2)
    shutil.copytree(storage / "db", storage.parent / "db.before")
    _queue(site, 4)
    shutil.rmtree(storage / "db")
    (storage.parent / "db.before").rename(storage / "db")
    newest = sorted(site.edge.spooled(), key=lambda path: int(path.stem))[-2:]
    incoming = storage / "spool" / "incoming"
    for path in newest:
        path.rename(incoming / f"{path.stem}.part")
    torn = (incoming / f"{newest[0].stem}.part").read_bytes()[:-1]
    (incoming / f"{int(newest[-1].stem) + 1}.part").write_bytes(torn)


def _older(site: Site) -> None:
    """Leave a queue in a database of the previous version."""
    if schema.VERSION < 2:  # noqa: PLR2004 - the first version had none before it
        raise NotHereError("there is no earlier version of the database")
    _queue(site, 2)
    _delivered(site, 2)
    path = site.edge.storage / "db" / "edge.sqlite"
    older = site.edge.storage.parent / "older.sqlite"
    with closing(sqlite3.connect(older, isolation_level=None)) as connection:
        schema.migrate(connection, schema.VERSION - 1)
        connection.execute("ATTACH ? AS newer", (str(path),))
        _copy(connection)
    for old in path.parent.iterdir():
        old.unlink()
    older.rename(path)


def _copy(connection: sqlite3.Connection) -> None:
    """Fill the tables of the main database from those of the attached one."""
    triggers = connection.execute("SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger'").fetchall()
    tables = connection.execute(
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for (table,) in tables:
        columns = ", ".join(f'"{row[1]}"' for row in connection.execute(f"PRAGMA main.table_info({table})"))
        connection.execute(f"INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
    for _, sql in triggers:
        connection.execute(sql)


def _damaged(site: Site) -> None:
    """Leave a queue, and a database whose header is overwritten."""
    _delivered(site, 2)
    _queue(site, 2)
    path = site.edge.storage / "db" / "edge.sqlite"
    with path.open("r+b") as file:
        file.write(b"\xff" * _HEADER)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _files(site: Site) -> None:
    """Leave files in the watched folder: two images, an archive with a third, and half a copy."""
    _empty(site)
    site.drop(ct(1) + mr(1))
    packed, half = mr(2)
    site.ledger.begin(packed)
    with zipfile.ZipFile(site.export / "archive.zip", "w") as archive:
        archive.writestr("IM", packed.write(site.edge.folder / "packed").read_bytes())
    whole = half.write(site.edge.folder / "whole").read_bytes()
    (site.export / HALF).write_bytes(whole[: len(whole) // 2])


def _taken(site: Site) -> bool:
    """Whether nothing is left in the watched folder but the half copy, and all is delivered."""
    done = site.export / "done"
    left = {path.name for path in site.export.iterdir()}
    if left != {HALF, "done"} or len(list(done.iterdir())) < _FILES:
        return False
    states = site.edge.tally("pacs")
    return sum(states.values()) == _FILES and not states.keys() & {"queued", "sending"} and _indexed(site)


def _send_one(site: Site) -> None:
    site.send(mr(1), timeout=10.0)


def _indexed(site: Site) -> bool:
    return not oracle.mismatch(site.edge.storage)


def _received(site: Site) -> bool:
    return bool(site.ledger.promised) and _indexed(site)


def _all_delivered(site: Site) -> bool:
    """Whether the PACS has everything, and the rows say so."""
    if not site.ledger.promised <= oracle.delivered(site.pacs) or not _received(site):
        return False
    states = site.edge.tally("pacs")
    return bool(states) and not states.keys() & {"queued", "sending"}


def _deleted(site: Site) -> bool:
    return not site.edge.spooled()


def _wait(site: Site, done: Callable[[], bool], what: str) -> None:
    wait_for(done, _SETTLE, f"{what} below {site.edge.folder}")


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("start", "the first start on an empty disk", _nothing, _nothing, _indexed),
        Scenario("receive", "one receive, the PACS down", _empty, _send_one, _received, after=READY, pacs=False),
        Scenario("forward", "one forward", lambda site: _queue(site, 1), _nothing, _all_delivered),
        Scenario("both", "one receive and its forward", _empty, _send_one, _all_delivered, after=READY),
        Scenario("recovery", "recovery of parts and of files without rows", _left_over, _nothing, _all_delivered),
        Scenario("migration", "the database brought to the next version", _older, _nothing, _all_delivered),
        Scenario(
            "retention",
            "deletion of what was delivered",
            lambda site: _delivered(site, 4),
            _nothing,
            _deleted,
            after=READY,
            store='keep_delivered = "0s"',
        ),
        Scenario("files", "files taken from a watched folder", _files, _nothing, _taken, after=READY, watched=True),
        Scenario("rebuild", "a damaged database made anew", _damaged, _nothing, _all_delivered),
    )
}


def names(text: str) -> list[str]:
    """Read a list of scenarios for argparse."""
    chosen = [name.strip() for name in text.split(",")]
    unknown = [name for name in chosen if name not in SCENARIOS]
    if unknown:
        raise ValueError(", ".join(unknown))
    return chosen
