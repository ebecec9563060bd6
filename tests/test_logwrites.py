"""A card made of the record of its writes: what must be there after a cut, and what may be."""

import random
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import pytest
from box.card import Card
from box.logwrites import (
    SECTOR,
    Entry,
    LogError,
    devices,
    entries,
    forget,
    log,
    overlay,
    replay,
    safe,
    write_overlay,
)
from box.toolbox import Toolbox
from box.trials.cuts import Load, _Trial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
CARD: Final = 16
"""Sectors."""


class Request(NamedTuple):
    """One entry of a hand-made log; a write's data are its number in every byte."""

    flags: int
    sector: int = 0
    sectors: int = 0


def write(sector: int, sectors: int = 1, flags: int = 0) -> Request:
    return Request(flags, sector, sectors)


FLUSHED = Request(FLUSH)


def make_log(path: Path, requests: Sequence[Request], *, count: int = 0, size: int = SECTOR) -> Path:
    parts = [struct.pack("<QQQI", 0x6A736677736872, 1, count, size).ljust(SECTOR, b"\0")]
    for number, one in enumerate(requests, 1):
        name = b"a name" if one.flags & MARK else b""
        head = struct.pack("<QQQQ", one.sector, one.sectors, one.flags, len(name)) + name
        parts.append(head.ljust(SECTOR, b"\0"))
        if not one.flags & DISCARD:
            parts.append(bytes([number]) * (one.sectors * SECTOR))
    path.write_bytes(b"".join(parts))
    return path


def make_card(folder: Path) -> Path:
    path = folder / "card.img"
    path.write_bytes(b"\xff" * (CARD * SECTOR))
    return path


def sectors(card: Path) -> list[int]:
    """What each sector holds: the number of a request, 255 for what was there before."""
    data = card.read_bytes()
    found = [set(data[at : at + SECTOR]) for at in range(0, len(data), SECTOR)]
    assert all(len(one) == 1 for one in found), "a sector is neither old nor new"
    return [one.pop() for one in found]


def cut(folder: Path, requests: Sequence[Request], at: int | None = None, **more: float) -> list[int]:
    path, card = make_log(folder / "log", requests), make_card(folder)
    found = list(entries(path))
    assert len(found) == len(requests)
    likely = more.get("likely", 0.0)
    heed = bool(more.get("heed", True))
    replay(path, card, found, len(found) if at is None else at, random.Random(1), likely=likely, heed=heed)
    return sectors(card)


# Reading the log


def test_requests_are_read_as_they_were_noted(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [write(3, 2), FLUSHED, Request(DISCARD, 8, 4), Request(MARK), write(1, 1, FUA)])
    found = list(entries(path))
    assert [(one.sector, one.sectors, one.flags) for one in found] == [
        (3, 2, 0),
        (0, 0, FLUSH),
        (8, 4, DISCARD),
        (0, 0, MARK),
        (1, 1, FUA),
    ]
    assert [one.end // SECTOR for one in found] == [4, 5, 6, 7, 9]
    assert found[-1].end == path.stat().st_size


def test_requests_after_the_last_flush_are_read_though_the_log_does_not_count_them(tmp_path: Path) -> None:
    assert len(list(entries(make_log(tmp_path / "log", [write(0), FLUSHED, write(1)], count=2)))) == 3


@pytest.mark.parametrize("gone", [1, SECTOR, SECTOR + 1, 2 * SECTOR + 1])
def test_a_request_whose_end_is_missing_is_not_there(tmp_path: Path, gone: int) -> None:
    path = make_log(tmp_path / "log", [write(0), write(1, 2)])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - gone)
    assert [one.sector for one in entries(path)] == [0]


def test_the_log_ends_at_a_request_that_was_in_the_air(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [write(0), write(1), FLUSHED])
    with path.open("r+b") as file:
        file.seek(3 * SECTOR)
        file.write(bytes(2 * SECTOR))
    assert [one.sector for one in entries(path)] == [0]


@pytest.mark.parametrize("head", [struct.pack("<QQQQ", 1, 1, 16, 0), b"DICM" * 8, struct.pack("<4QB", 1, 1, 0, 0, 1)])
def test_data_are_not_taken_for_a_request(tmp_path: Path, head: bytes) -> None:
    path = make_log(tmp_path / "log", [write(0)])
    with path.open("ab") as file:
        file.write(head.ljust(SECTOR, b"\0") + bytes(SECTOR))
    assert len(list(entries(path))) == 1


@pytest.mark.parametrize("content", [b"", b"short", bytes(SECTOR), b"x" * SECTOR])
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(LogError, match="is no log"):
        list(entries(tmp_path / "log"))


def test_a_log_with_other_sectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="4096"):
        list(entries(make_log(tmp_path / "log", [], size=4096)))


def test_a_log_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read"):
        list(entries(tmp_path / "log"))


# What is there after a cut


def test_what_was_flushed_is_there_and_what_was_not_may_be_lost(tmp_path: Path) -> None:
    after = cut(tmp_path, [write(0), write(1), FLUSHED, write(2), write(0)])
    assert after == [1, 2] + [255] * 14


def test_what_was_not_flushed_may_be_there_too(tmp_path: Path) -> None:
    after = cut(tmp_path, [write(0), write(1), FLUSHED, write(2), write(0)], likely=1.0)
    assert after == [5, 2, 4] + [255] * 13


def test_nothing_behind_the_cut_is_there(tmp_path: Path) -> None:
    assert cut(tmp_path, [write(0), write(1), FLUSHED], 2, likely=1.0) == [1, 2] + [255] * 14
    assert cut(tmp_path, [write(0), write(1), FLUSHED], 2) == [255] * 16


def test_a_write_with_fua_is_there_without_a_flush_and_alone(tmp_path: Path) -> None:
    assert cut(tmp_path, [write(0), write(1, 1, FUA)]) == [255, 2] + [255] * 14


def test_a_flush_with_data_makes_safe_what_was_before_it_and_not_its_own(tmp_path: Path) -> None:
    assert cut(tmp_path, [write(0), write(1, 1, FLUSH)]) == [1] + [255] * 15
    assert cut(tmp_path, [write(0), write(1, 1, FLUSH | FUA)]) == [1, 2] + [255] * 14


def test_what_was_given_up_reads_as_zeros(tmp_path: Path) -> None:
    assert cut(tmp_path, [write(0, 3), Request(DISCARD, 1, 1), FLUSHED]) == [1, 0, 1] + [255] * 13


def test_a_mark_changes_nothing(tmp_path: Path) -> None:
    assert cut(tmp_path, [write(0), Request(MARK), FLUSHED]) == [1] + [255] * 15


def test_with_flushes_that_count_for_nothing_all_may_be_lost(tmp_path: Path) -> None:
    assert cut(tmp_path, [write(0), write(1), FLUSHED, FLUSHED], heed=False) == [255] * 16


def test_a_write_that_was_not_flushed_is_torn_in_every_way(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [write(4, 4)])
    found = list(entries(path))
    seen = set()
    for seed in range(200):
        card = make_card(tmp_path)
        replay(path, card, found, 1, random.Random(seed), likely=0.2)
        seen.add(tuple(one == 1 for one in sectors(card)[4:8]))
    assert len(seen) == 2**4


def test_what_became_of_the_requests_is_told(tmp_path: Path) -> None:
    path, card = make_log(tmp_path / "log", [write(0), FLUSHED, *[write(4, 4)] * 100]), make_card(tmp_path)
    found = list(entries(path))
    left = replay(path, card, found, len(found), random.Random(1), likely=0.5)
    assert left.safe == 1
    assert left.whole + left.torn + left.lost == 100
    assert min(left.whole, left.torn, left.lost) > 5


def test_a_card_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log", [write(0)])
    with pytest.raises(LogError, match="could not be replayed"):
        replay(path, tmp_path / "none", list(entries(path)), 1, random.Random(1), likely=1)


REQUESTS = st.lists(
    st.one_of(
        st.builds(
            write,
            st.integers(0, CARD - 4),
            st.integers(1, 4),
            st.sampled_from([0, 0, 0, FUA, FLUSH, FLUSH | FUA]),
        ),
        st.just(FLUSHED),
        st.just(Request(MARK)),
        st.builds(Request, st.just(DISCARD), st.integers(0, CARD - 4), st.integers(1, 4)),
    ),
    max_size=30,
)


def may_hold(requests: Sequence[Request]) -> list[set[int]]:
    """What each sector may hold after a cut behind ``requests``, said the other way round: sector by sector."""
    last = max((index for index, one in enumerate(requests) if one.flags & FLUSH), default=0)
    found = []
    for sector in range(CARD):
        allowed = {255}
        for index, one in enumerate(requests):
            if one.flags & MARK or not one.sector <= sector < one.sector + one.sectors:
                continue
            value = 0 if one.flags & DISCARD else index + 1
            sure = index < last or bool(one.flags & FUA)
            allowed = {value} if sure else allowed | {value}
        found.append(allowed)
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=REQUESTS,
    part=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    likely=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_each_sector_holds_what_it_may_hold(
    tmp_path: Path, requests: list[Request], part: float, seed: int, likely: float
) -> None:
    path, card = make_log(tmp_path / "log", requests), make_card(tmp_path)
    found = list(entries(path))
    at = round(part * len(found))
    replay(path, card, found, at, random.Random(seed), likely=likely)
    after = sectors(card)
    assert all(value in allowed for value, allowed in zip(after, may_hold(requests[:at]), strict=True))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=4 * SECTOR))
def test_a_log_of_anything_is_read_to_its_end_or_refused(tmp_path: Path, content: bytes) -> None:
    path = make_log(tmp_path / "log", [])
    with path.open("ab") as file:
        file.write(content)
    ends = [one.end for one in entries(path)]
    assert ends == sorted(set(ends))
    assert all(SECTOR < end <= path.stat().st_size for end in ends)


def test_the_last_flush_before_the_cut_counts() -> None:
    found = [Entry(0, 0, flags, 0, 0) for flags in (0, FLUSH, 0, FLUSH, 0)]
    assert [safe(found, at) for at in range(6)] == [0, 0, 1, 1, 3, 3]


# The devices of a run


def test_a_run_gets_an_empty_log_and_an_overlay_of_the_size_of_the_card(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    log(tmp_path).write_bytes(b"of the last run")
    told = devices(card, tmp_path)
    assert log(tmp_path).stat().st_size == 0
    assert f"filename={card},read-only=on" in told[0]
    assert "node-name=disk," in told[-1]
    magic, version, size = struct.unpack_from(">4sI16xQ", overlay(tmp_path).read_bytes())
    assert (magic, version, size) == (b"QFI\xfb", 2, CARD * SECTOR)
    forget(tmp_path)
    assert not log(tmp_path).exists()
    assert not overlay(tmp_path).exists()


def test_an_overlay_describes_no_more_than_it_can(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than one cluster"):
        write_overlay(tmp_path / "overlay", 1 << 43)


# Which answers bind the box


def test_an_answer_is_noted_with_what_the_record_had_grown_to_when_it_had_been_read() -> None:
    with RawReceiver() as box, Load(box.port, lambda: len(box.received)) as load:
        wait_for(lambda: len(load.answers) >= 30, 60, "objects are answered")
    assert len({one.uid for one in load.answers}) == len(load.answers)
    for one in load.answers:
        assert one.digest in {had.digest for had in box.received[: one.seen]}


def test_modalities_end_where_there_is_no_box() -> None:
    with RawReceiver() as box:
        port = box.port
    with Load(port, lambda: 0) as load:
        pass
    assert load.answers == []


def test_a_cut_lies_behind_the_first_request_of_the_load_and_its_place_is_told(tmp_path: Path) -> None:
    requests = [write(0), FLUSHED, write(1), FLUSHED, write(2), FLUSHED]
    places = set()
    for seed in range(60):
        make_log(log(tmp_path), requests)
        card = Card(make_card(tmp_path), Toolbox(tmp_path))
        stand = SimpleNamespace(folder=tmp_path, card=card)
        _, reached = _Trial(cast("Any", stand), random.Random(seed), logged=True)._cut(4 * SECTOR)
        place = reached // SECTOR
        places.add(place)
        sure = {number for number, end in ((1, 4), (3, 7), (5, 10)) if end <= place}
        may = {number for number, end in ((1, 3), (3, 6), (5, 9)) if end <= place}
        assert sure <= set(sectors(card.path)) - {255} <= may
        assert not log(tmp_path).exists()
    assert places == {6, 7, 9, 10}


def test_a_partition_is_copied_with_its_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 1 << 20
    path = tmp_path / "card.img"
    with path.open("wb") as file:
        file.write(b"before" * 1000)
        file.truncate(64 * mib)
        for at, data in ((10 * mib, b"first"), (30 * mib, b"x" * (5 * mib)), (46 * mib, b"beyond" * mib)):
            file.seek(at)
            file.write(data)
    card = Card(path, Toolbox(tmp_path))
    monkeypatch.setattr(card, "part", lambda name: {"data": (8 * mib, 40 * mib)}[name])
    card.copy("data", tmp_path / "data.img")
    assert (tmp_path / "data.img").read_bytes() == path.read_bytes()[8 * mib : 48 * mib]
    assert (tmp_path / "data.img").stat().st_blocks * 512 < 8 * mib
