"""The oracle: whether everything that was promised is still there, and nothing is there that is not whole.

It reads the files by itself, byte for byte, and never asks the appliance. Every check returns what is wrong, a sentence
each; nothing wrong is an empty list.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from edge.dicom import part10
from edge.intake import seal as seals
from scripts.rigs.ledger import Item, Ledger
from scripts.rigs.site import HALF
from tests.peers.ports import wait_for
from tests.peers.receiver import RawReceiver

READY_WITHIN: Final = 5.0
"""Seconds from the start of the process to the answer for an object."""
_HEAD: Final = 1 << 20
_CHUNK: Final = 1 << 20
_STORED: Final = "stored"


class Files(NamedTuple):
    """What the spool holds, by its own files alone."""

    ready: dict[int, Item]
    waiting: dict[int, Item]
    """Parts with a good seal and the bytes it names: they were, or may have been, answered."""
    partial: list[str]
    """Published files that are not whole, a sentence each."""

    @property
    def items(self) -> frozenset[Item]:
        """Every whole object."""
        return frozenset((*self.ready.values(), *self.waiting.values()))


def read(path: Path) -> Item:
    """Read a file of the spool to its last byte. Raises ValueError, OSError where it is not what its seal says."""
    with path.open("rb") as file:
        try:
            meta = part10.read_meta(file.read(_HEAD))
            seal = seals.decode(meta.private)
        except (part10.NotPart10Error, seals.BadSealError) as e:
            raise ValueError(f"{path.name}: {e}") from e
        file.seek(meta.offset)
        digest, length = hashlib.sha256(), 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            length += len(chunk)
    if (seal.length, seal.digest) != (length, digest.digest()):
        raise ValueError(f"{path.name}: its {length} bytes are not the {seal.length} that it is sealed over")
    if path.stem != str(seal.id):
        raise ValueError(f"{path.name}: it has the seal of object {seal.id}")
    return Item(meta.sop_instance_uid, digest.digest())


def look(storage: Path) -> Files:
    """Read the whole spool. The appliance must not be running: what it deletes meanwhile would look damaged."""
    files = Files({}, {}, [])
    for path in sorted((storage / "spool" / "ready").glob("*/*")):
        try:
            files.ready[int(path.stem)] = read(path)
        except (ValueError, OSError) as e:
            files.partial.append(f"a partial file is published: {e}")
    for path in sorted((storage / "spool" / "incoming").glob("*.part")):
        try:
            files.waiting[int(path.stem)] = read(path)
        except (ValueError, OSError):
            continue  # it was never answered
    return files


def kept(ledger: Ledger, pacs: RawReceiver, files: Files) -> list[str]:
    """O1, O2, O6: what was promised is delivered or here, what is here was sent and is whole.

    What is gone from the spool is at the receiver, or it is missed here.
    """
    sent = ledger.sent
    missing = ledger.promised - delivered(pacs) - files.items
    strange = [number for number, item in files.ready.items() if item not in sent]
    return [
        *(f"LOST: {item.uid} was answered 0000 and is neither in the spool nor delivered" for item in sorted(missing)),
        *files.partial,
        *(f"object {number} is published and is nothing that was sent" for number in strange),
    ]


def delivered(pacs: RawReceiver) -> frozenset[Item]:
    """What the receiver has, byte for byte, and said so."""
    return frozenset(Item(received.sop_instance_uid, received.digest) for received in pacs.accepted)


def wait_delivered(ledger: Ledger, pacs: RawReceiver, timeout: float) -> list[str]:
    """Wait until everything promised is at the receiver. Returns what is not there after ``timeout`` seconds."""
    try:
        wait_for(lambda: ledger.promised <= delivered(pacs), timeout, "what was promised arrives")
    except TimeoutError:
        missing = sorted(ledger.promised - delivered(pacs))
        return [f"{item.uid} was answered 0000 and is not delivered after {timeout:g} s" for item in missing]
    return []


def mismatch(storage: Path) -> list[str]:
    """O2: rows without a file, files without a row, parts that nobody took up."""
    rows = _rows(storage)
    if rows is None:
        return ["the database cannot be read"]
    stored = {number for number, state in rows.items() if state == _STORED}
    spool = storage / "spool"
    ready = {int(path.stem) for path in (spool / "ready").glob("*/*.dcm")}
    parts = [path.name for path in (spool / "incoming").glob("*.part")]
    return [
        *(f"object {number} has a row and no file" for number in sorted(stored - ready)),
        *(f"object {number} has a file and its row says {rows.get(number, 'nothing')}" for number in ready - stored),
        *(f"{name} is still in incoming/" for name in parts),
    ]


def wait_matching(storage: Path, timeout: float = 30.0) -> list[str]:
    """Wait until recovery is through and rows and files match. Returns what does not after ``timeout`` seconds."""
    try:
        wait_for(lambda: not mismatch(storage), timeout, "rows and files match")
    except TimeoutError:
        return mismatch(storage)
    return []


def wait_taken(export: Path, storage: Path, timeout: float = 30.0) -> list[str]:
    """Wait until only half copies are left in a watched folder. Says what is not taken, or was taken twice."""

    def left() -> set[str]:
        return {path.name for path in export.iterdir() if path.is_file()}

    try:
        wait_for(lambda: left() == {HALF}, timeout, "the files are taken")
    except TimeoutError:
        return [f"in the watched folder there is {', '.join(sorted(left())) or 'nothing'} after {timeout:g} s"]
    files = sum(1 for path in (export / "done").iterdir())
    rows = _ask(storage, "SELECT count(*) FROM instance WHERE door = 'watch'")
    if rows != [(files,)]:
        return [f"{files} files were taken, and {rows} objects are on record"]
    return []


def states(storage: Path) -> dict[str, int]:
    """How many instances the store has in which state."""
    counted: dict[str, int] = {}
    for state in (_rows(storage) or {}).values():
        counted[state] = counted.get(state, 0) + 1
    return counted


def late(seconds: Iterable[float]) -> list[str]:
    """Say which starts took longer than `READY_WITHIN`."""
    return [
        f"a start took {taken:.1f} s until an object was answered, more than {READY_WITHIN:g}"
        for taken in seconds
        if taken > READY_WITHIN
    ]


def _rows(storage: Path) -> dict[int, str] | None:
    """The state of every instance by id; None where the store cannot be read."""
    rows = _ask(storage, "SELECT id, state FROM instance")
    return None if rows is None else dict(rows)


def _ask(storage: Path, question: str) -> list[tuple[Any, ...]] | None:
    path = storage / "db" / "edge.sqlite"
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(question).fetchall()
    except sqlite3.Error:
        return None
