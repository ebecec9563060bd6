"""Routing: which rules fire, where an object goes, and that it never goes back to where it came from."""

import json
import subprocess
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom.dataset import Dataset

from edge.config import Config, DimseDestination, FolderDestination, Modality, Route, Watch, When
from edge.configfile import ConfigError, parse
from edge.dicom.header import read_header
from edge.dicom.uids import class_names
from edge.forward.whereabouts import Whereabouts
from edge.intake.recovery import Recovery
from edge.model import BACKGROUND, ROUTINE, STAT, Header, Source
from edge.patterns import Pattern
from edge.routing import Leg, Miss, Routing
from edge.states import DeliveryState
from edge.store import Choice
from edge.store.record import CAME_FROM_IT
from tests.appliance import COMMAND
from tests.peers.objects import tiny
from tests.peers.part10 import file_meta
from tests.stored import Stored, instance, leg
from tests.test_intake import Box, box

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
PACS: Final = DimseDestination(name="pacs", host="10.0.0.1", ae_title="PACS", verify="query")
CLOUD: Final = FolderDestination(name="cloud", path=Path("/mnt/cloud"))
SCANNERS: Final = (
    Modality(name="CT room", ae_title="CT1", address="10.0.0.7"),
    Modality(name="CT net", ae_title="CT1", address="10.0.1.0/24"),
    Modality(name="anywhere", ae_title="US"),
)
WATCH: Final = Watch(path=Path("/srv/import"), ae_title="US")
HEADER: Final = Header(
    sop_class_uid=CT,
    modality="CT",
    study_description="TÓRAX [C/CONTRASTE]",
    station="CT-ROOM-2",
    body_part="CHEST",
)
SOURCE: Final = Source(door="dimse", calling="CT1", called="EDGE", address="10.0.0.7")


def routing(*routes: Route, destinations: Sequence[Any] = (PACS, CLOUD), **more: Any) -> Routing:
    config = Config(modality=SCANNERS, watch=(WATCH,), destination=tuple(destinations), route=routes)
    return Routing(config, class_names, **more)


def takes(when: dict[str, tuple[str, ...]], header: Header = HEADER, source: Source = SOURCE) -> bool:
    return bool(routing(Route(when=When(**when), to=("cloud",))).legs(header, source))


# keys


@pytest.mark.parametrize(
    ("key", "yes", "no"),
    [
        ("modality", ("CT", "ct", "C?", "[*", "*"), ("MR", "C", "T", "[CM]T", "")),
        ("calling", ("CT1", "CT*"), ("ct1", "CT", "EDGE")),
        ("called", ("EDGE", "E*"), ("edge", "CT1")),
        ("sop_class", (CT, "1.2.840.*", "CT Image Storage", "ctimagestorage", "*image*"), ("1.2.840", "MR*")),
        ("study_description", ("*torax*", "*TÓRAX*", "T?RAX*", "*[c/contraste]", "tórax [*"), ("torax", "*abdomen*")),
        ("station", ("ct-room-?", "CT-ROOM-2"), ("CT-ROOM", "ct-room-??")),
        ("source", ("CT room", "CT*"), ("ct room", "CT net", "anywhere", "10.0.0.7", "CT1")),
        ("body_part", ("chest", "CH*"), ("HEAD", "")),
    ],
)
def test_a_rule_looks_at_every_key_of_the_contract(key: str, yes: tuple[str, ...], no: tuple[str, ...]) -> None:
    expected = {glob: True for glob in yes if glob != "[*"} | {glob: False for glob in no if glob}
    assert {glob: takes({key: (glob,)}) for glob in expected} == expected
    some = next(glob for glob in no if glob)
    assert takes({key: (some, yes[0])}), "any pattern of a list is enough"


def test_everything_that_a_rule_asks_must_match() -> None:
    assert takes({"modality": ("CT",), "calling": ("CT1",)})
    assert not takes({"modality": ("CT",), "calling": ("CT2",)})


def test_what_an_object_does_not_say_is_empty_and_matches_only_what_matches_everything() -> None:
    assert takes({"body_part": ("*",)}, Header())
    assert not takes({"body_part": ("?*",)}, Header())
    assert not takes({"watch": ("*",)}), "it came from no watch at all"


def test_a_source_is_a_modality_by_title_and_address_or_a_watch() -> None:
    def names(source: Source) -> set[str]:
        asked = ("CT room", "CT net", "anywhere", "import")
        return {name for name in asked if takes({"source": (name,)}, source=source)}

    assert names(SOURCE) == {"CT room"}
    assert names(Source(door="dimse", calling="CT1", address="::ffff:10.0.1.9")) == {"CT net"}
    assert names(Source(door="dimse", calling="US", address="192.0.2.1")) == {"anywhere"}
    assert names(Source(door="dimse", calling="MR", address="10.0.0.7")) == set()
    assert names(Source(door="watch", calling="US", address="import")) == {"anywhere", "import"}
    assert names(Source(door="import", calling="CT1", address="import")) == set()


@pytest.mark.parametrize(
    ("pattern", "text", "exact", "matches"),
    [
        ("a*b*c", "a1b2c", True, True),
        ("a\nb", "a\nb", True, True),
        ("*", "line\nline", False, True),
        ("[ab]", "a", True, False),
        ("[ab]", "[ab]", True, True),
        ("!x", "!x", True, True),
        ("?", "é", False, True),
        ("?", "e\u0301", False, True),
        ("strasse", "STRASSE", False, True),
        ("straße", "STRASSE", False, True),
        ("ct", "CT", False, True),
        ("か", "が", False, False),
        ("*" * 40 + "x", "a" * 4000, False, False),
    ],
)
def test_patterns(pattern: str, text: str, *, exact: bool, matches: bool) -> None:
    assert Pattern(pattern, exact=exact).matches(text) is matches


@pytest.mark.parametrize(
    ("charset", "raw"),
    [(b"", b"T\xd3RAX"), (b"ISO_IR 100", b"T\xd3RAX"), (b"ISO_IR 192", "TÓRAX".encode()), (b"NONSENSE", b"T\xd3RAX")],
)
def test_what_a_rule_looks_at_is_decoded_whatever_the_character_set_says(charset: bytes, raw: bytes) -> None:
    data = b""
    for tag, vr, value in ((b"\x08\0\x05\0", b"CS", charset), (b"\x08\0\x30\x10", b"LO", raw)):
        padded = value + b" " * (len(value) & 1)
        data += tag + vr + len(padded).to_bytes(2, "little") + padded
    header = read_header(lambda *_: b"", len(data), EXPLICIT, data)
    assert takes({"study_description": ("torax",)}, header)


# rules together


def test_rules_add_up_and_the_most_urgent_priority_wins() -> None:
    rules = (
        Route(when=When(modality=("CT",)), to=("pacs",), priority="background"),
        Route(to=("pacs", "cloud")),
        Route(when=When(body_part=("HEAD",)), to=("cloud",), priority="stat"),
        Route(when=When(body_part=("CHEST",)), to=("pacs",), priority="stat"),
    )
    legs = routing(*rules).legs(HEADER, SOURCE)
    assert legs == (Leg("pacs", STAT, needs_proof=True), Leg("cloud", ROUTINE, needs_proof=False))


def test_without_a_rule_everything_goes_everywhere_and_with_rules_only_where_they_say() -> None:
    assert [leg.destination for leg in routing().legs(HEADER, SOURCE)] == ["pacs", "cloud"]
    assert routing(Route(when=When(modality=("MR",)), to=("pacs",))).legs(HEADER, SOURCE) == ()


def test_an_explanation_names_what_did_not_match_and_what_the_object_has() -> None:
    rules = (
        Route(when=When(modality=("MR", "US"), source=("CT*",), watch=("x",)), to=("pacs",)),
        Route(when=When(sop_class=("MR*",)), to=("pacs",), priority="stat"),
        Route(to=("cloud",)),
    )
    first, second, third = routing(*rules).explain(HEADER, SOURCE)
    assert (first.number, first.fires) == (1, False)
    assert first.misses == (Miss("modality", ("MR", "US"), ("CT",)), Miss("watch", ("x",), ()))
    assert second.misses == (Miss("sop_class", ("MR*",), (CT, "CT Image Storage", "CTImageStorage")),)
    assert (third.number, third.fires, third.to, third.priority, third.misses) == (3, True, ("cloud",), "routine", ())


# priority that the sender asks for


@pytest.mark.parametrize(
    ("asked", "rule", "honored", "given"),
    [
        (STAT, "routine", True, STAT),
        (STAT, "background", True, STAT),
        (BACKGROUND, "routine", True, BACKGROUND),
        (BACKGROUND, "stat", True, STAT),
        (None, "background", True, BACKGROUND),
        (STAT, "routine", False, ROUTINE),
        (BACKGROUND, "routine", False, ROUTINE),
    ],
)
def test_what_a_sender_asks_for_counts_only_where_so_configured(
    asked: int | None, rule: Any, given: int, *, honored: bool
) -> None:
    config = Config(
        modality=(Modality(name="a", ae_title="CT1", honor_priority=honored), Modality(name="b", ae_title="MR1")),
        destination=(PACS,),
        route=(Route(to=("pacs",), priority=rule),),
    )
    (only,) = Routing(config, class_names).legs(HEADER, Source(door="dimse", calling="CT1", priority=asked))
    assert only.priority == given


# never back


@pytest.mark.parametrize(
    ("source", "back"),
    [
        (Source(door="dimse", calling="PACS", address="10.0.0.1"), True),
        (Source(door="dimse", calling="PACS", address="::ffff:10.0.0.1"), True),
        (Source(door="dimse", calling="PACS", address="10.0.0.2"), False),
        (Source(door="dimse", calling="PACS2", address="10.0.0.1"), False),
        (Source(door="watch", calling="PACS", address="10.0.0.1"), False),
    ],
)
def test_an_object_is_not_routed_back_to_where_it_came_from(source: Source, *, back: bool) -> None:
    assert routing().legs(HEADER, source) == (
        Leg("pacs", ROUTINE, needs_proof=True, back=back),
        Leg("cloud", ROUTINE, needs_proof=False),
    )


async def test_a_destination_that_is_named_is_known_by_the_addresses_of_its_name() -> None:
    answers: list[frozenset[str] | OSError] = [frozenset({"10.0.0.1", "10.0.0.2"}), OSError("no such name")]

    async def resolve(host: str) -> frozenset[str]:
        assert host == "pacs.example.org"
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    named = DimseDestination(name="pacs", host="pacs.example.org", ae_title="PACS")
    where = Whereabouts([named.host], resolve)
    routes = routing(destinations=[named], addresses=where.of)

    def back() -> bool:
        (only,) = routes.legs(HEADER, Source(door="dimse", calling="PACS", address="10.0.0.2"))
        return only.back

    assert not back(), "until the name is resolved nobody can tell"
    await where.ask()
    assert back()
    await where.ask()
    assert back(), "a name that is not resolved any more keeps what it had"


async def test_what_came_from_a_destination_is_not_sent_there_and_the_trail_says_so(tmp_path: Path) -> None:
    back = Leg("pacs", ROUTINE, needs_proof=True, back=True)
    async with Stored(tmp_path) as box:
        await box.receive(instance(1), to=[back, leg("cloud", proof=False)])
        (row,) = await box.store.reading.trace("1")
        assert [(d.destination, d.state, d.code) for d in row.deliveries] == [
            ("pacs", "cancelled", CAME_FROM_IT),
            ("cloud", "queued", ""),
        ]
        ended = [(t.event, t.destination, t.detail) for t in row.trail][1:]
        assert ended == [("not-sent-back", "pacs", "it came from there")]
        assert await box.store.claim("pacs", 9) == []
        assert (await box.store.reading.tallies())["", "owed"].instances == 1
        assert await box.store.unrouted(0, 9) == []


async def test_what_a_scanner_sent_goes_to_the_pacs_though_the_pacs_sends_it_too(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(instance(1))
        await box.receive(instance(2, uid="1.2.3.1", content=1), to=[Leg("pacs", 1, needs_proof=True, back=True)])
        assert [p.instance for p in await box.store.claim("pacs", 9)] == [1]


async def test_what_the_pacs_sent_goes_to_it_all_the_same_once_a_scanner_sends_it_too(tmp_path: Path) -> None:
    back = Leg("pacs", ROUTINE, needs_proof=True, back=True)
    again = instance(3, uid="1.2.3.1", content=1), instance(4, uid="1.2.3.2", content=2)
    async with Stored(tmp_path) as box:
        await box.receive(instance(1), to=[back])
        await box.receive(instance(2), to=[back, leg("cloud", proof=False)])
        await box.receive(*again, to=[Leg("pacs", STAT, needs_proof=True)])
        assert [(p.instance, p.priority) for p in await box.store.claim("pacs", 9)] == [(1, STAT), (2, STAT)]
        assert (await box.store.reading.tallies())["", "owed"].instances == 2
        await box.restart()
        await box.settle(DeliveryState.ACCEPTED, 1, 2)
        assert (await box.store.reading.tallies())["", "owed"].instances == 1, "the cloud lacks one"


async def test_an_object_that_came_from_its_only_destination_is_never_deleted_for_that_alone(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(instance(1), to=[Leg("pacs", ROUTINE, needs_proof=True, back=True)])
        box.clock.pass_time(1e9)
        assert await box.store.settled(0, 9) == []
        assert await box.store.claim("pacs", 9) == []
        (held,) = await box.store.reading.queue(state=DeliveryState.HELD)
        assert (held.destination, held.code) == ("pacs", CAME_FROM_IT)
        assert held.detail == "it came from there, and no rule sends it anywhere else"
        assert await box.store.decide("cancel", Choice(uid="1"), who="command line", reason="it is there") == 1
        assert await box.store.settled(0, 9) == [1], "a person gave it up"


async def test_what_is_routed_meanwhile_is_not_routed_again(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(instance(1), to=[])
        assert [number for number, *_ in await box.store.unrouted(0, 9)] == [1]
        await box.receive(instance(2, uid="1.2.3.1", content=1), to=[leg("cloud", proof=False)])
        await box.settle(DeliveryState.ACCEPTED, 1, destination="cloud")
        await box.store.route([(1, [leg("cloud", proof=False)])])
        assert (await box.store.reading.tallies())["", "owed"].instances == 0


# routed later


async def test_what_no_rule_took_is_routed_at_the_next_start_by_what_its_file_says(tmp_path: Path) -> None:
    nothing = Routing(
        Config(destination=(PACS,), route=(Route(when=When(modality=("XX",)), to=("pacs",)),)), class_names
    )
    rules = [
        Route(when=When(station=("peer",), body_part=("phantom",), sop_class=("*",)), to=("pacs",), priority="stat")
    ]

    async def recover(here: Box, routes: Sequence[Route]) -> list[tuple[int, int]]:
        now = Routing(Config(destination=(PACS,), route=tuple(routes)), class_names)
        first = here.identity.first_id
        await Recovery(here.spool, here.syncer, here.store, here.index, now, here.journal, first).run()
        asked = "SELECT instance, priority FROM delivery"
        return await here.store.reading.run(lambda raw: raw.execute(asked).fetchall())

    async with box(tmp_path) as before:
        before.door._routing = nothing
        one = await before.receive(tiny(1)[0])
        await before.indexed()
        assert await before.queued() == []
    async with box(tmp_path) as after:
        assert await recover(after, [Route(when=When(station=("other",)), to=("pacs",))]) == []
        assert await recover(after, rules) == [(one.id, STAT)]


async def test_an_unrouted_object_whose_file_cannot_be_read_holds_up_no_other(tmp_path: Path) -> None:
    async with box(tmp_path) as before:
        before.door._routing = Routing(
            Config(destination=(PACS,), route=(Route(when=When(modality=("XX",)), to=("pacs",)),)), class_names
        )
        bad, good = [await before.receive(each) for each in tiny(2)]
        await before.indexed()
    async with box(tmp_path) as after:
        after.spool.path(bad.id).write_bytes(b"nothing of what it was")
        wanted = Routing(
            Config(destination=(PACS,), route=(Route(when=When(station=("*",)), to=("pacs",)),)), class_names
        )
        first = after.identity.first_id
        await Recovery(after.spool, after.syncer, after.store, after.index, wanted, after.journal, first).run()
        assert await after.queued() == [good.id]


def test_rows_are_enough_where_no_rule_looks_at_more() -> None:
    assert not routing(Route(when=When(modality=("CT",), calling=("*",)), to=("pacs",))).reads_files
    assert routing(Route(when=When(study_description=("CT",)), to=("pacs",))).reads_files


# the configuration


def test_a_source_that_cannot_be_meant_is_refused() -> None:
    text = (
        '[[modality]]\nname = "CT room"\nae_title = "CT1"\n[[watch]]\npath = "/srv/usb"\n[[destination]]\nname = "a"\n'
        'type = "folder"\npath = "/mnt/a"\n[[route]]\nto = ["a"]\nwhen = {{ source = "{}" }}\n'
    )
    assert parse(text.format("CT*")).config.route[0].when.source == ("CT*",)
    assert parse(text.format("usb")).config.route[0].when.source == ("usb",)
    with pytest.raises(ConfigError) as refused:
        parse(text.format("CT rom"))
    assert str(refused.value) == (
        'line 12: route[1].when.source: no modality or watch is called "CT rom"; did you mean "CT room"?'
    )


# edge route

CONFIGURATION: Final = """
[storage]
path = "{folder}/storage"
[[modality]]
name = "CT room"
ae_title = "CT1"
address = "10.0.0.7"
[[watch]]
path = "/srv/usb"
[[destination]]
name = "pacs"
type = "dimse"
host = "10.0.0.1"
ae_title = "PACS"
[[destination]]
name = "archive"
type = "folder"
path = "/mnt/archive"
[[route]]
to = ["archive"]
priority = "background"
[[route]]
to = ["pacs"]
when = {{ modality = ["CT", "MR"], source = "CT room" }}
priority = "stat"
[[route]]
to = ["pacs"]
when = {{ watch = "usb", study_description = "*torax*" }}
"""


def edge(folder: Path, *arguments: str, configuration: str = CONFIGURATION) -> subprocess.CompletedProcess[str]:
    config = folder / "edge.toml"
    config.write_text(configuration.format(folder=folder), encoding="utf-8")
    return subprocess.run(
        [COMMAND, "route", *arguments, "--config", str(config)], capture_output=True, text=True, timeout=60, check=False
    )


def dataset(**more: str) -> bytes:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = CT, "1.2.3", "CT"
    for key, value in more.items():
        setattr(made, key, value)
    out = BytesIO()
    made.save_as(out, implicit_vr=False, little_endian=True)
    # an image without pixel data may be a copy that was cut
    return out.getvalue() + b"\xe0\x7f\x10\0OW\0\0\x02\0\0\0\0\0"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A Part 10 file, and a bare dataset."""
    whole, bare = tmp_path / "whole.dcm", tmp_path / "bare"
    whole.write_bytes(file_meta(CT, "1.2.3", EXPLICIT) + dataset())
    bare.write_bytes(dataset(StudyDescription="TORAX PA", Modality="CR"))
    return str(whole), str(bare)


@pytest.mark.rig
def test_it_says_where_files_would_go_and_why(tmp_path: Path, files: tuple[str, str]) -> None:
    whole, bare = files
    said = edge(tmp_path, "--explain", whole, bare, "--calling", "CT1", "--address", "10.0.0.7")
    assert (said.returncode, said.stderr) == (0, "")
    assert (
        said.stdout
        == f"""\
{whole}  -> archive (background), pacs (stat)
  rule 1 to archive, background: fires
  rule 2 to pacs, stat: fires
  rule 3 to pacs, routine: does not fire
    study description is empty, and not "*torax*"
    watch is none, and not "usb"
{bare}  -> archive (background)
  rule 1 to archive, background: fires
  rule 2 to pacs, stat: does not fire
    modality is "CR", and not "CT" or "MR"
  rule 3 to pacs, routine: does not fire
    watch is none, and not "usb"
"""
    )
    assert edge(tmp_path, bare, "--watch", "usb").stdout == f"{bare}  -> archive (background), pacs (routine)\n"


@pytest.mark.rig
def test_it_says_the_same_in_json(tmp_path: Path, files: tuple[str, str]) -> None:
    whole, bare = files
    said = edge(
        tmp_path,
        "--explain",
        "--json",
        whole,
        bare,
        str(tmp_path / "gone"),
        "--calling",
        "PACS",
        "--address",
        "10.0.0.1",
    )
    assert said.returncode == 1
    first, second, third = json.loads(said.stdout)
    assert first["header"]["modality"] == "CT"
    assert first["source"]["calling"] == "PACS"
    assert [rule["fires"] for rule in first["rules"]] == [True, False, False]
    assert first["rules"][1]["misses"] == [{"key": "source", "wanted": ["CT room"], "found": []}]
    assert second["to"] == [{"destination": "archive", "priority": "background", "sent": True}]
    assert (third["file"], third["error"]) == (str(tmp_path / "gone"), "cannot be read: No such file or directory")


@pytest.mark.rig
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"hello, world " * 90, "it is not DICOM"),
        (b"", "it is empty"),
        (b"PK\3\4" + b"x" * 200, "it is an archive; unpack it first"),
        (file_meta(CT, "1.2.3", EXPLICIT) + dataset()[:-5], "it ends in the middle of an element"),
    ],
)
def test_what_is_no_object_is_an_error_that_says_so(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "odd"
    path.write_bytes(content)
    said = edge(tmp_path, "--explain", str(path))
    assert said.returncode == 1
    assert said.stdout == ""
    assert said.stderr == f"edge: {path} is no DICOM object that can be routed: {why}.\n"


@pytest.mark.rig
def test_a_watch_that_is_not_there_is_bad_usage(tmp_path: Path, files: tuple[str, str]) -> None:
    said = edge(tmp_path, "--explain", files[0], "--watch", "ubs")
    assert said.returncode == 2
    assert said.stderr == "edge: There is no watch 'ubs'; the configuration has: usb.\n"


def test_it_says_that_what_came_from_its_only_destination_is_held(tmp_path: Path, files: tuple[str, str]) -> None:
    only = CONFIGURATION.replace('to = ["archive"]', 'to = ["pacs"]')
    said = edge(tmp_path, files[0], "--calling", "PACS", "--address", "10.0.0.1", configuration=only)
    held = "not back to pacs, where it came from, and nowhere else: it is held until a person decides"
    assert said.stdout == f"{files[0]}  -> {held}\n"


async def test_a_file_of_our_own_spool_tells_whom_it_came_from(tmp_path: Path) -> None:
    async with box(tmp_path) as here:
        kept = await here.receive(tiny(1)[0])
        await here.indexed()
        path = here.spool.path(kept.id)
        (said,) = json.loads(edge(tmp_path, "--explain", "--json", str(path)).stdout)
        told = {"door": "dimse", "calling": "CT1", "called": "EDGE", "address": "10.0.0.7"}
        assert said["source"] == told | {"file": None, "priority": None}
