"""When a file is finished: by the clock of this box, from what was seen of the file, and within bounds."""

import tracemalloc
from collections.abc import Iterator

import msgspec
import pytest

from edge.intake import settling
from edge.intake.fate import Fate
from edge.intake.settling import Settling
from edge.intake.tree import Entry

PATIENCE = 295
FILE = Entry("a", inode=1, size=10, mtime_ns=5, ctime_ns=5)


def look(known: Settling, now: float, *entries: Entry) -> list[str]:
    """One pass: which are ripe."""
    known.begin(now)
    ripe = [entry.path for entry in entries if known.ripe(entry, now)]
    known.end(now)
    return ripe


def test_a_file_is_ripe_when_nothing_about_it_has_changed_for_a_while() -> None:
    known = Settling(5, PATIENCE)
    assert look(known, 0, FILE) == []
    assert look(known, 4.9, FILE) == []
    assert look(known, 5, FILE) == ["a"]
    assert look(known, 6, FILE) == ["a"]


@pytest.mark.parametrize("change", [{"size": 11}, {"mtime_ns": 6}, {"ctime_ns": 6}, {"inode": 2}])
def test_whatever_changes_the_rest_begins_anew(change: dict[str, int]) -> None:
    known = Settling(5, PATIENCE)
    other = msgspec.structs.replace(FILE, **change)
    assert look(known, 0, FILE) == []
    assert look(known, 4, other) == []
    assert look(known, 8, other) == []
    assert look(known, 9, other) == ["a"]


def test_a_file_that_was_left_is_looked_at_less_and_less_until_it_changes() -> None:
    known = Settling(5, PATIENCE)
    looks, now = [], 0.0
    while now < 300:
        for _ in look(known, now, FILE):
            looks.append(now)
            known.leave(FILE, Fate.UNFINISHED, "cut", now)
        now += 1
    assert looks == [5, 10, 20, 40, 80, 140, 200, 260]  # never less often than once a minute
    assert known.left_for(FILE, 300) == 295
    assert (known.told, known.named) == (0, [])
    look(known, 300, FILE)
    assert (known.told, known.named) == (1, [("a", "cut")])
    longer = Entry("a", inode=1, size=11, mtime_ns=7, ctime_ns=7)
    assert look(known, 300, longer) == []
    assert (known.told, known.named, known.left_for(longer, 300)) == (0, [], 0)
    assert look(known, 305, longer) == ["a"]


def test_what_is_not_dicom_is_looked_at_once_an_hour() -> None:
    known = Settling(5, PATIENCE)
    look(known, 0, FILE)
    known.leave(FILE, Fate.NOT_DICOM, "words", 5)
    assert look(known, 3604, FILE) == []
    assert look(known, 3605, FILE) == ["a"]


def test_what_is_gone_is_forgotten() -> None:
    known = Settling(5, PATIENCE)
    other = Entry("b")
    look(known, 0, FILE, other)
    known.leave(other, Fate.REFUSED, "x", 5)
    assert known.waiting() == 1
    look(known, 6)
    assert (known.waiting(), known.left_for(other, 1e6)) == (0, 0)
    assert look(known, 20, FILE) == []


def test_a_pass_says_when_something_may_be_ripe() -> None:
    known = Settling(5, PATIENCE)
    known.begin(10)
    known.ripe(FILE, 10)
    assert known.end(12) == 3
    known.begin(12)
    assert known.end(12) is None


def test_only_so_many_are_waited_for_and_the_others_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "MOST_WAITED_FOR", 2)
    known = Settling(5, PATIENCE)
    entries = [Entry(name) for name in "abc"]
    look(known, 0, *entries)
    assert look(known, 5, *entries) == ["a", "b"]
    known.gone(entries[0])
    assert look(known, 6, *entries[1:]) == ["b"]
    assert look(known, 11, *entries[1:]) == ["b", "c"]


def test_a_pass_that_was_given_up_forgets_nothing() -> None:
    known = Settling(5, PATIENCE)
    entries = [Entry(name) for name in "abc"]
    look(known, 0, *entries)
    known.leave(entries[2], Fate.REFUSED, "x", 5)
    known.begin(6)
    assert known.ripe(entries[0], 6)
    known.gone(entries[0])
    assert known.waiting() == 1
    assert look(known, 7, *entries[1:]) == ["b"]
    assert known.left_for(entries[2], 15) == 10


def test_the_first_few_that_were_left_for_long_are_named_and_all_are_counted() -> None:
    known = Settling(5, PATIENCE)
    entries = [Entry(f"{number}", inode=number) for number in range(200)]
    look(known, 0, *entries)
    for number, entry in enumerate(entries):
        known.leave(entry, Fate.NOT_DICOM, "words" if number else "", 5)
    assert known.told == 0
    look(known, 300, *entries)
    assert (known.told, known.named) == (199, [("1", "words"), ("2", "words"), ("3", "words")])
    look(known, 301, *entries[:2], *entries[50:])
    assert (known.told, known.named) == (151, [("1", "words"), ("50", "words"), ("51", "words")])


def test_what_took_long_to_look_at_rests_longer() -> None:
    known = Settling(5, PATIENCE)
    look(known, 0, FILE)
    known.leave(FILE, Fate.REFUSED, "x", 5, took=90)
    assert look(known, 1804, FILE) == []
    assert look(known, 1805, FILE) == ["a"]


def test_a_hundred_thousand_files_that_stay_cost_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "MOST_WAITED_FOR", settling.MOST_LEFT // 40)
    count, known, now = settling.MOST_LEFT // 4, Settling(5, PATIENCE), 0.0

    def entries() -> Iterator[Entry]:
        for number in range(count):
            yield Entry(
                f"PATIENT{number // 500}/STUDY/IM{number:08}.jpg", 1 << 40 | number, 1 << 20, number << 30, 1 << 60
            )

    tracemalloc.start()
    try:
        for _ in range(13):
            known.begin(now)
            for entry in entries():
                if known.ripe(entry, now):
                    known.leave(entry, Fate.NOT_DICOM, "it is not DICOM", now + 0.001)
                now += 0.0005
            known.end(now)
            now += 200
        assert known.told == count
        assert tracemalloc.get_traced_memory()[1] < 5 << 20, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_only_so_many_are_remembered_as_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "MOST_LEFT", 1)
    known = Settling(5, PATIENCE)
    entries = [Entry(name) for name in "ab"]
    look(known, 0, *entries)
    for entry in entries:
        known.leave(entry, Fate.NOT_DICOM, "x", 5)
    assert [known.left_for(entry, 15) for entry in entries] == [10, 0]
    assert look(known, 6, *entries) == []
    assert look(known, 11, *entries) == ["b"]
