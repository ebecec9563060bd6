"""Commitment requests whose results are fetched: which of them are still waited for, and which came to nothing.

A request is waited for as long as it names something that was accepted before it and is not proven yet. Nothing here
proves anything: a result ends in `edge.store.verdicts`.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

LATEST: Final = 3
"""Requests that named one instance, of which the results are waited for after a restart: those before are let go."""

_NAMED: Final = """FROM request r JOIN requested q ON q.request = r.id
    JOIN delivery d ON d.instance = q.instance AND d.destination = r.destination
    JOIN proof p ON p.delivery = d.id AND p.asked <= r.id"""
_WAITED_FOR: Final = f"""SELECT DISTINCT id, uid FROM (
        SELECT r.id, r.uid, row_number() OVER (PARTITION BY p.delivery ORDER BY r.id DESC) AS age {_NAMED}
        WHERE r.destination = ?1 AND r.id >= (SELECT min(asked) FROM proof WHERE destination = ?1)
    ) WHERE age <= {LATEST} ORDER BY id"""
_WAITS: Final = f"SELECT EXISTS (SELECT 1 {_NAMED} WHERE r.uid = ?)"
_STUDY: Final = (
    """SELECT i.study FROM requested x JOIN instance i ON i.id = x.instance WHERE x.request = {}.id LIMIT 1"""
)
# a request is for one study, so that few others can name the same
_LEFT: Final = f"""WITH rival AS MATERIALIZED (
        SELECT o.id FROM json_each(?2) other JOIN request o ON o.uid = other.value, request r
        WHERE r.uid = ?1 AND ({_STUDY.format("o")}) = ({_STUDY.format("r")})
    ) SELECT p.delivery, p.tries {_NAMED} WHERE r.uid = ?1 AND NOT EXISTS (
        SELECT 1 FROM rival JOIN requested n ON n.request = rival.id AND n.instance = q.instance)"""
_ANEW: Final = "UPDATE proof SET ask_at = ?, heard = iif(?, tries, heard) WHERE delivery = ?"

AT_ONCE: Final = 3
"""Requests for one instance that may come to nothing before it is asked about less often."""
AGAIN: Final = (600.0, 3600.0, 6 * 3600.0, 86_400.0)
"""Seconds before it is asked about again from then on."""


def waited_for(raw: sqlite3.Connection, destination: str) -> list[str]:
    """Return the transaction UIDs of the requests whose results are waited for, the oldest first.

    Of those that nobody took it gives the last few too: whether one was taken is not on record.
    """
    return [uid for _, uid in raw.execute(_WAITED_FOR, (destination,)).fetchall()]


def waits(raw: sqlite3.Connection, uid: str) -> bool:
    """Whether anything is still waited for of the request ``uid``."""
    return bool(raw.execute(_WAITS, (uid,)).fetchone()[0])


def vanished(raw: sqlite3.Connection, uid: str, others: Sequence[str], monotonic: float) -> int:
    """Have what the request ``uid`` named asked about anew, for the destination knows it no more; how many.

    Not what is in one of ``others``, which are waited for too. After the third time in a row it is as a request without
    a report: asked about later, and by query where there is one.
    """
    left = raw.execute(_LEFT, (uid, msgspec.json.encode(list(others)).decode())).fetchall()
    rows = []
    for delivery, tries in left:
        beyond = tries - AT_ONCE
        wait = AGAIN[min(beyond, len(AGAIN)) - 1] if beyond > 0 else 0.0
        rows.append((monotonic + wait, beyond <= 0, delivery))
    raw.executemany(_ANEW, rows)
    return len(rows)
