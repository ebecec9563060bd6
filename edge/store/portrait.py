"""Which object stands for a study where only one picture of it is shown. Only reads.

The middle image, by Instance Number, of the series with the most images: scouts and captured screens are few, and the
first image of a series shows little.
"""

import sqlite3
from collections.abc import Callable
from typing import Final

from edge.store.reading import Reading

_MOST: Final = 5_000
"""Instances of a study that are looked at."""
_STORED: Final = f"""SELECT id, series_uid, sop_class_uid, instance_number FROM instance
    WHERE study = ?1 AND state = 'stored' LIMIT {_MOST}"""
_PARTS: Final = f"""SELECT series_uid, sop_class_uid FROM ({_STORED}) GROUP BY series_uid, sop_class_uid
    ORDER BY count(*) DESC, min(id)"""
_MIDDLE: Final = f"""WITH part AS (SELECT * FROM ({_STORED}) WHERE series_uid = ?2 AND sop_class_uid = ?3)
    SELECT id FROM part ORDER BY CAST(instance_number AS INTEGER), id LIMIT 1 OFFSET (SELECT count(*) / 2 FROM part)"""


async def portrait(reading: Reading, study: int, is_image: Callable[[str], bool]) -> int | None:
    """Return the id of the object that stands for ``study`` (`StudyView.id`), None where nothing of it lies here.

    ``is_image`` tells whether a SOP class is one of images; a study without any is represented by what it has. Raises
    `StoreError`.
    """

    def work(raw: sqlite3.Connection) -> int | None:
        parts = raw.execute(_PARTS, (study,)).fetchall()
        chosen = next((part for part in parts if is_image(part[1])), parts[0] if parts else None)
        if chosen is None:
            return None
        row = raw.execute(_MIDDLE, (study, *chosen)).fetchone()
        return None if row is None else int(row[0])

    return await reading.run(work)
