"""Studies as people look at them: what was received, where it is, whether it is complete. Only reads.

Copies count once: what was lost and came again is what came again, and a delivery that another rendering of the
instance made needless is none.
"""

import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from edge.safety import StudyView
from edge.store import counting, retain
from edge.store.counting import Count, Counts
from edge.store.reading import Reading

QUIET: Final = 300.0
"""Seconds without a new image after which a study is taken for complete."""
MOST: Final = 200
"""Studies on one page, at most."""
_NEWEST: Final = 1_000
"""Studies, the last that something came for, among which those of a time are looked for."""


class StudyFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which studies are meant: those to which every given part applies."""

    ids: tuple[int, ...] = ()
    """`StudyView.id`, one of these."""
    uid: str = ""
    """Study Instance UID."""
    words: str = ""
    """Each somewhere in the name, whatever its accents and capitals, or how the id or the accession begins."""
    patient_name: str = ""
    """Words, each somewhere in the name; capitals are the same as small letters from A to Z."""
    patient_id: str = ""
    """How it begins."""
    accession: str = ""
    """How it begins."""
    modality: str = ""
    """As in the objects, such as CT."""
    first_date: str = ""
    """YYYYMMDD, the first and the last Study Date (0008,0020) that is meant."""
    last_date: str = ""
    since: float | None = None
    """Wall time from which on something came for it; asked of the `_NEWEST` only."""
    before: int | None = None
    """Where the last page ended: ``latest`` of its last study."""


_LAST: Final = (1 << 63) - 1
_PAGE: Final = """SELECT s.id, s.latest, coalesce(s.uid, ''), s.patient_id, s.patient_name, s.accession, s.date,
    s.description, max(s.came, coalesce(s.arrived, 0)), s.gap FROM study s"""
_WORD: Final = """(folded(s.patient_name) LIKE ? ESCAPE '\\' OR s.patient_id LIKE ? ESCAPE '\\'
    OR s.accession LIKE ? ESCAPE '\\')"""
# by the clock of the wall, which may have jumped: ids do not tell, so a look has a bound
_SINCE: Final = """s.id IN (SELECT id FROM study WHERE latest < ? ORDER BY latest DESC LIMIT ?)
    AND (SELECT received_at FROM instance WHERE id = s.latest) >= ?"""

_ARRIVED: Final = """UPDATE study SET gap = max(gap, (SELECT seconds FROM uptime) + ?1 - coalesce(arrived, 1e300)),
    arrived = (SELECT seconds FROM uptime) + ?1 WHERE id = ?2"""


def page(
    raw: sqlite3.Connection, which: StudyFilter, quiet: float, uptime: float, most: int, count: Count = counting.count
) -> list[StudyView]:
    """Return studies, the one that something came for last first; complete is what is quiet for ``quiet`` seconds."""
    if which.words:
        raw.create_function("folded", 1, _folded, deterministic=True)
    where, values = _condition(which)
    asked = f"{_PAGE} WHERE {where} ORDER BY s.latest DESC LIMIT ?"
    rows = raw.execute(asked, (*values, min(most, MOST))).fetchall()
    return [_view(row, count(raw, row[0], row[1]), quiet, uptime) for row in rows]


async def read_studies(reading: Reading, which: StudyFilter, most: int, quiet: float = QUIET) -> list[StudyView]:
    """Return studies from a store on which no appliance need run. Raises `StoreError`."""
    return await reading.run(lambda raw: page(raw, which, quiet, retain.uptime(raw), most))


def one(raw: sqlite3.Connection, uid: str, quiet: float, uptime: float) -> StudyView | None:
    """Return the study of this Study Instance UID."""
    row = raw.execute(f"{_PAGE} WHERE s.uid = ? AND s.latest IS NOT NULL", (uid,)).fetchone()
    return None if row is None else _view(row, counting.count(raw, row[0], row[1]), quiet, uptime)


def arrived(raw: sqlite3.Connection, ids: Iterable[int], lag: float) -> None:
    """Put down more exactly when instances ``ids`` came: the uptime on record is ``lag`` seconds behind."""
    asked = "SELECT study FROM instance WHERE id = ?"
    studies = {raw.execute(asked, (number,)).fetchone() for number in ids}
    raw.executemany(_ARRIVED, [(lag, *study) for study in studies])


def _condition(which: StudyFilter) -> tuple[str, tuple[object, ...]]:
    parts, values = ["s.latest IS NOT NULL"], list[object]()
    for part, given in (*_said(which), *_when(which)):
        parts.append(part)
        values += given
    return " AND ".join(parts), tuple(values)


def _said(which: StudyFilter) -> Iterator[tuple[str, Sequence[object]]]:
    """Conditions on what a study is called, each with its values."""
    if which.ids:
        yield f"s.id IN ({', '.join('?' * len(which.ids))})", which.ids
    for word in _folded(which.words).replace("^", " ").replace("=", " ").split():
        yield _WORD, (f"%{_literal(word)}%", f"{_literal(word)}%", f"{_literal(word)}%")
    for word in which.patient_name.replace("^", " ").split():
        yield "s.patient_name LIKE ? ESCAPE '\\'", (f"%{_literal(word)}%",)
    for column, begin in (("patient_id", which.patient_id), ("accession", which.accession)):
        if begin:
            yield f"s.{column} LIKE ? ESCAPE '\\'", (f"{_literal(begin)}%",)
    if which.uid:
        yield "s.uid = ?", (which.uid,)
    if which.modality:
        yield "EXISTS (SELECT 1 FROM instance i WHERE i.study = s.id AND i.modality = ?)", (which.modality,)


def _when(which: StudyFilter) -> Iterator[tuple[str, Sequence[object]]]:
    for sign, date in ((">=", which.first_date), ("<=", which.last_date)):
        if date:
            yield f"s.date {sign} ?", (date,)
    if which.since is not None:
        yield _SINCE, (_LAST if which.before is None else which.before, _NEWEST, which.since)
    if which.before is not None:
        yield "s.latest < ?", (which.before,)


def _literal(text: str) -> str:
    """Escape what LIKE would take for a pattern."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _folded(text: str) -> str:
    """Write ``text`` without what a keyboard may lack or a scanner leave out: capitals, accents, widths of letters."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(c for c in apart if not unicodedata.combining(c)).casefold()


def _view(row: tuple[Any, ...], counts: Counts, quiet: float, uptime: float) -> StudyView:
    number, latest, uid, patient_id, patient_name, accession, date, description, arrived_at, gap = row
    return StudyView(
        id=number,
        latest=latest,
        uid=uid,
        patient_id=patient_id,
        patient_name=patient_name,
        accession=accession,
        date=date,
        description=description,
        complete=uptime - arrived_at >= quiet,
        reopened=gap >= quiet,
        **msgspec.structs.asdict(counts),
    )
