"""What the dashboard says: languages, quantities, times, and the snapshot in words."""

import gettext
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
import pytest
from markupsafe import Markup

from edge.clock import iso
from edge.snapshot import ImportStatus, Problem, Snapshot, Storage, WatchStatus
from edge.status.lights import LIGHTS
from edge.web import words
from edge.web.box import Box
from edge.web.language import Language, Languages
from edge.web.overview import advised, places, room, told, tone, work
from edge.web.page import Glance
from tests.snapshots import destination, finding, snapshot

ENGLISH = Language("en", gettext.NullTranslations())
NOW = 1_800_000_000.0


def glance(shown: Snapshot, *, inside: bool = True, paces: Mapping[str, float] | None = None) -> Glance:
    return Glance(
        snapshot=shown,
        box=cast("Box", None),
        language=ENGLISH,
        inside=inside,
        about="",
        now=NOW,
        paces=paces or {},
    )


def catalogue(folder: Path, code: str, texts: Mapping[str, str]) -> None:
    """Write a compiled catalogue, as msgfmt does."""
    path = folder / code / "LC_MESSAGES" / "edge.mo"
    path.parent.mkdir(parents=True)
    texts = {"": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n", **texts}
    pairs = [(key.encode(), value.encode()) for key, value in sorted(texts.items())]
    at, table, data = 28 + 16 * len(pairs), [], b""
    for index in (0, 1):
        for pair in pairs:
            table += [len(pair[index]), at + len(data)]
            data += pair[index] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    path.write_bytes(head + struct.pack(f"<{len(table)}I", *table) + data)


# languages


@pytest.mark.parametrize(
    ("default", "wanted", "accepted", "chosen"),
    [
        ("en", "", "", "en"),
        ("es", "", "", "es"),
        ("fr", "", "", "en"),
        ("es", "", "fr, de", "es"),
        ("es", "", "en-US,en;q=0.9", "en"),
        ("en", "", "fr;q=0.9,es-CL;q=0.8,en;q=0.1", "es"),
        ("en", "", "en;q=0,es;q=0.1", "es"),
        ("en", "es", "en", "es"),
        ("en", "../../etc", "es", "es"),
        ("en", "", "es;q=nan, en;q=2, ;, x" + ",y" * 500, "en"),
    ],
)
def test_the_reader_chooses_then_the_browser_then_the_box(
    tmp_path: Path, default: str, wanted: str, accepted: str, chosen: str
) -> None:
    catalogue(tmp_path, "es", {"Now": "Ahora"})
    assert Languages(default, tmp_path).choose(wanted, accepted).code == chosen


def test_a_language_says_what_its_catalogue_has_and_english_for_the_rest(tmp_path: Path) -> None:
    plural = {"%(n)s image\0%(n)s images": "%(n)s imagen\0%(n)s imágenes"}
    catalogue(tmp_path, "es", {"Now": "Ahora", "%(name)s since %(time)s.": "Desde %(time)s: %(name)s.", **plural})
    spanish = Languages("es", tmp_path).choose("", "")
    assert spanish.name == "Español"
    assert spanish.gettext("Now") == "Ahora"
    assert spanish.gettext("%(name)s since %(time)s.", name="pacs", time="09:12") == "Desde 09:12: pacs."
    assert [spanish.ngettext("%(n)s image", "%(n)s images", n) for n in (1, 2)] == ["1 imagen", "2 imágenes"]
    assert spanish.say("Ready.") == "Ready."
    assert spanish.say("") == ""


def test_a_value_that_is_markup_makes_the_rest_safe() -> None:
    said = ENGLISH.gettext("<b> %(one)s %(two)s", one=Markup("<code>x</code>"), two="<i>")
    assert isinstance(said, Markup)
    assert said == "&lt;b&gt; <code>x</code> &lt;i&gt;"
    assert not isinstance(ENGLISH.gettext("%(one)s", one="<i>"), Markup)


# quantities


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (21_000_000, "21 MB"),
        (967e6, "967 MB"),
        (5.4e10, "54 GB"),
        (2e15, "2000.0 TB"),
    ],
)
def test_sizes(number: float, said: str) -> None:
    assert words.size(number) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "1 second"),
        (59, "59 seconds"),
        (95, "2 min"),
        (1500, "25 min"),
        (7300, "2 hours"),
        (190_000, "2 days"),
        (9e5, "10 days"),
    ],
)
def test_spans(seconds: float, said: str) -> None:
    assert words.span(seconds, ENGLISH) == said


def test_numbers_have_their_thousands_apart_from_five_digits_on() -> None:
    space = "\N{NARROW NO-BREAK SPACE}"
    assert [words.count(n) for n in (0, 1840, 10_000, 1_234_567)] == [
        "0",
        "1840",
        f"10{space}000",
        f"1{space}234{space}567",
    ]


def test_a_moment_of_today_is_its_time_and_another_has_its_day() -> None:
    noon = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))
    assert words.moment(iso(noon - 60), noon) == "11:59"
    assert words.moment(iso(noon - 86_400), noon) == "2026-11-21 12:00"


# the snapshot in words


def test_every_light_has_a_family() -> None:
    assert {code: tone(light) for code, light in LIGHTS.items()} == {
        "I1": "identify",
        "W1": "white",
        "R2": "red",
        "R1": "red",
        "B2": "blue",
        "B3": "blue",
        "Y2": "yellow",
        "Y1": "yellow",
        "G2": "green",
        "G1": "green",
    }


def test_an_outage_is_told_with_its_time_its_backlog_and_how_long_that_takes() -> None:
    down = finding("DESTINATION_DOWN", "destination.pacs", since=iso(NOW - 3000))
    shown = snapshot(destinations=[destination("pacs", problem="REFUSED", queued=3)], findings=[down])
    when = words.moment(down.since, NOW)
    assert told(glance(shown)) == [f"pacs unreachable since {when}.", "3 images waiting."]
    known = told(glance(shown, paces={"pacs": 1.0}))
    assert known[1] == "3 images waiting, about 5 min once it is back."


def test_of_many_that_are_down_two_are_named() -> None:
    shown = snapshot(destinations=[destination(name, problem="REFUSED") for name in ("a", "b", "c", "d")])
    assert told(glance(shown))[:3] == ["a unreachable.", "b unreachable.", "2 more destinations unreachable."]


def test_what_is_on_its_way_is_told_with_how_long_it_takes() -> None:
    going = msgspec.structs.replace(destination("pacs"), sending=1, rate_bytes_per_second=100, drain_seconds=95)
    assert told(glance(snapshot(destinations=[going]))) == ["3 images on their way, about 2 min."]
    (place,) = places(glance(snapshot(destinations=[going])))
    assert (place.state, place.word, place.pace) == ("busy", "Sending", "100 B/s, about 2 min left")


def test_a_quiet_box_tells_when_something_came_last() -> None:
    quiet = msgspec.structs.replace(
        snapshot(),
        queue=msgspec.structs.replace(snapshot().queue, instances=0),
        intake=msgspec.structs.replace(snapshot().intake, last_at=iso(NOW)),
    )
    assert told(glance(quiet)) == [f"Last image received {words.moment(iso(NOW), NOW)}."]


def test_why_a_destination_is_down_is_for_who_may_know() -> None:
    shown = snapshot(destinations=[destination("pacs", problem="REFUSED")])
    assert places(glance(shown))[0].problem == "it said REFUSED"
    silent = msgspec.structs.replace(shown.destinations[0], problem=Problem(code="REFUSED", text=""))
    assert "Log in" in places(glance(snapshot(destinations=[silent])))[0].problem


@pytest.mark.parametrize(
    ("storage", "headline", "short"),
    [
        (Storage(free_bytes=54 * 10**9, reserve_bytes=2 * 10**9, autonomy_seconds=9 * 86_400), "9 days", "no"),
        (
            Storage(free_bytes=54 * 10**9, reserve_bytes=2 * 10**9, autonomy_seconds=400 * 86_400),
            "More than 60 days",
            "no",
        ),
        (Storage(free_bytes=54 * 10**9, reserve_bytes=2 * 10**9, autonomy_seconds=None), "52 GB", "no"),
        (Storage(free_bytes=3 * 10**9, reserve_bytes=2 * 10**9, autonomy_seconds=30 * 3600), "30 hours", "soon"),
        (Storage(free_bytes=3 * 10**9, reserve_bytes=2 * 10**9, autonomy_seconds=3600), "60 min", "now"),
        (Storage(free_bytes=10**9, reserve_bytes=2 * 10**9, autonomy_seconds=None), "No room", "now"),
    ],
)
def test_room_is_time(storage: Storage, headline: str, short: str) -> None:
    found = room(glance(msgspec.structs.replace(snapshot(), storage=storage)))
    assert (found.headline, found.short) == (headline, short)


@pytest.mark.parametrize(
    ("changes", "text", "done"),
    [
        ({"files_done": 4}, "4 of 10 files read", 40),
        ({"files_done": 4, "bytes": 100, "bytes_done": 99}, "4 of 10 files read", 99),
        ({"files_done": 10, "over": True}, "Read: it is safe to remove.", 100),
        ({"files_done": 10, "over": True, "refused": 2}, "Read; 2 files not taken.", 100),
        ({"files": 0}, "0 of 0 files read", 0),
    ],
)
def test_a_medium_is_told_until_it_may_be_removed(changes: dict[str, int], text: str, done: int) -> None:
    one = ImportStatus(name="", media=True, over=False, files=10, files_done=0, bytes=0, bytes_done=0, refused=0)
    shown = msgspec.structs.replace(snapshot(), imports=[msgspec.structs.replace(one, **changes)])
    (found,) = work(glance(shown))
    assert (found.name, found.text, found.done, found.icon) == ("Medium", text, done, "disc")


@pytest.mark.parametrize(
    ("waiting", "left", "text"),
    [(0, 0, "36 images taken"), (2, 0, "2 files not finished yet"), (2, 1, "1 file left alone")],
)
def test_a_watched_folder_is_told(waiting: int, left: int, text: str) -> None:
    watch = WatchStatus(name="us", taken=36, waiting=waiting, left=left)
    (found,) = work(glance(snapshot(watches=[watch])))
    assert (found.name, found.text, found.done) == ("us", text, None)


def test_a_finding_is_told_with_how_bad_since_when_and_how_often() -> None:
    shown = snapshot(findings=[finding("LOST", "storage", "error", count=3), finding("TWIN", "x", "info")])
    one, two = advised(glance(shown))
    assert (one.word, one.times) == ("Fault", "3 times")
    assert (two.word, two.times) == ("Note", "")


def test_what_went_a_moment_ago_says_nothing_of_a_destination_that_is_down() -> None:
    gone = msgspec.structs.replace(
        destination("pacs", problem="REFUSED_CONNECTION", queued=41), rate_bytes_per_second=79_000, drain_seconds=60
    )
    (place,) = places(glance(snapshot(destinations=[gone])))
    assert (place.state, place.pace) == ("down", "")
