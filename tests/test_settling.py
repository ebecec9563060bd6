"""When a file is finished: by the clock of this box, from what was seen of the file, and within bounds."""

import msgspec
import pytest

from edge.intake import settling
from edge.intake.settling import Settling
from edge.intake.taker import Fate
from edge.intake.tree import Entry

FILE = Entry("a", inode=1, size=10, mtime_ns=5, ctime_ns=5)


def look(known: Settling, now: float, *entries: Entry) -> list[str]:
    """One pass: which are ripe."""
    known.begin()
    ripe = [entry.path for entry in entries if known.ripe(entry, now)]
    known.end(now)
    return ripe


def test_a_file_is_ripe_when_nothing_about_it_has_changed_for_a_while() -> None:
    known = Settling(5)
    assert look(known, 0, FILE) == []
    assert look(known, 4.9, FILE) == []
    assert look(known, 5, FILE) == ["a"]
    assert look(known, 6, FILE) == ["a"]


@pytest.mark.parametrize("change", [{"size": 11}, {"mtime_ns": 6}, {"ctime_ns": 6}, {"inode": 2}])
def test_whatever_changes_the_rest_begins_anew(change: dict[str, int]) -> None:
    known = Settling(5)
    other = msgspec.structs.replace(FILE, **change)
    assert look(known, 0, FILE) == []
    assert look(known, 4, other) == []
    assert look(known, 8, other) == []
    assert look(known, 9, other) == ["a"]


def test_a_file_that_was_left_is_looked_at_less_and_less_until_it_changes() -> None:
    known = Settling(5)
    looks, now = [], 0.0
    while now < 300:
        for _ in look(known, now, FILE):
            looks.append(now)
            known.leave(FILE, Fate.UNFINISHED, "cut", now)
        now += 1
    assert looks == [5, 10, 20, 40, 80, 140, 200, 260]  # never less often than once a minute
    assert known.left_for(FILE, 300) == 295
    assert [(one.why, one.since) for one in known.left(300, 295)] == [("cut", 5)]
    assert known.left(300, 296) == []
    longer = Entry("a", inode=1, size=11, mtime_ns=7, ctime_ns=7)
    assert look(known, 300, longer) == []
    assert known.left(1e6, 0) == []
    assert look(known, 305, longer) == ["a"]


def test_what_is_not_dicom_is_looked_at_once_an_hour() -> None:
    known = Settling(5)
    look(known, 0, FILE)
    known.leave(FILE, Fate.NOT_DICOM, "words", 5)
    assert look(known, 3604, FILE) == []
    assert look(known, 3605, FILE) == ["a"]


def test_what_is_gone_is_forgotten() -> None:
    known = Settling(5)
    other = Entry("b")
    look(known, 0, FILE, other)
    known.leave(other, Fate.REFUSED, "x", 5)
    assert known.waiting() == 1
    look(known, 6)
    assert (known.waiting(), known.left(1e6, 0)) == (0, [])
    assert look(known, 20, FILE) == []


def test_a_pass_says_when_something_may_be_ripe() -> None:
    known = Settling(5)
    known.begin()
    known.ripe(FILE, 10)
    assert known.end(12) == 3
    known.begin()
    assert known.end(12) is None


def test_only_so_many_are_waited_for_and_the_others_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "MOST_WAITED_FOR", 2)
    known = Settling(5)
    entries = [Entry(name) for name in "abc"]
    look(known, 0, *entries)
    assert look(known, 5, *entries) == ["a", "b"]
    known.gone(entries[0])
    assert look(known, 6, *entries[1:]) == ["b"]
    assert look(known, 11, *entries[1:]) == ["b", "c"]


def test_only_so_many_are_remembered_as_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "MOST_LEFT", 1)
    known = Settling(5)
    entries = [Entry(name) for name in "ab"]
    look(known, 0, *entries)
    for entry in entries:
        known.leave(entry, Fate.NOT_DICOM, "x", 5)
    assert len(known.left(1e6, 0)) == 1
    assert look(known, 6, *entries) == []
    assert look(known, 11, *entries) == ["b"]
