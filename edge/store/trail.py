"""The trail: one append-only row for every step of every instance, written in the step's own transaction."""

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

_INSERT: Final = """INSERT INTO trail (instance, destination, at, clock_trusted, event, code, detail)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """One step. ``code`` is a word or number for machines, ``detail`` a sentence for people."""

    instance: int
    at: float
    clock_trusted: bool
    event: str
    destination: str = ""
    code: str = ""
    detail: str = ""


def write(raw: sqlite3.Connection, marks: Iterable[Mark]) -> None:
    """Append ``marks``."""
    raw.executemany(
        _INSERT,
        [(m.instance, m.destination, m.at, m.clock_trusted, m.event, m.code, m.detail) for m in marks],
    )
