"""`edge studies`, with the appliance running and without: what it lists, what it answers, and what it will not take."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.appliance import COMMAND, Edge, dimse
from tests.peers.objects import DicomObject, ct, mr, uid
from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.stored import Stored, instance, leg

pytestmark = pytest.mark.rig

HEAD: Final = ["date", "patient", "modality", "received", "where", "safe", "to", "delete?"]
STUDY: Final = uid()


def send(edge: Edge, objects: Sequence[DicomObject]) -> None:
    kinds = {(each.sop_class_uid, each.transfer_syntax_uid) for each in objects}
    with RawSender(edge.port) as modality:
        modality.associate([(sop_class, [syntax]) for sop_class, syntax in kinds])
        assert [modality.store(each) for each in objects] == [0] * len(objects)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """One that has delivered an MR study of three images and a CT study of one, and runs."""
    with RawReceiver() as pacs, Edge(tmp_path_factory.mktemp("studies"), dimse("pacs", pacs.port)) as running:
        send(running, mr(3, STUDY))
        running.wait_settled("pacs", {"accepted": 3}, 30)
        send(running, ct(1))
        running.wait_settled("pacs", {"accepted": 4}, 30)
        yield running


def listed(edge: Edge, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = edge.json("studies", *arguments)
    return found


def test_studies_are_listed_the_latest_first_with_where_they_are_and_the_answer(edge: Edge) -> None:
    head, first, second = edge.command("studies").stdout.splitlines()
    assert head.split() == HEAD
    assert "CT" in first.split()
    assert "pacs 1 of 1" in first
    assert "MR" in second.split()
    assert "pacs 3 of 3" in second
    for line, number in ((first, 1), (second, 3)):
        assert f"not yet: Images are still coming: {number} so far, all accepted by pacs." in line


def test_as_json_every_count_and_the_answer_with_its_code_are_there(edge: Edge) -> None:
    _, row = listed(edge)
    assert (row["study"]["uid"], row["study"]["received"], row["study"]["modalities"]) == (STUDY, 3, ["MR"])
    (pacs,) = row["study"]["destinations"]
    assert (pacs["destination"], pacs["received"], pacs["accepted"], pacs["unproven"]) == ("pacs", 3, 3, 0)
    safety = row["safe_to_delete"]
    assert (safety["answer"], safety["code"]) == ("no", "RECEIVING")
    assert safety["advice"].startswith("Keep the study")


def test_it_is_found_by_its_uid_its_modality_and_no_more_than_wanted(edge: Edge) -> None:
    assert [row["study"]["uid"] for row in listed(edge, "--uid", STUDY)] == [STUDY]
    assert [row["study"]["uid"] for row in listed(edge, "--modality", "MR")] == [STUDY]
    assert [row["study"]["modalities"] for row in listed(edge, "--most", "1")] == [["CT"]]


@pytest.mark.parametrize("arguments", [("--uid", "1.2.3"), ("--modality", "XA"), ("nobody",), ("--until", "19000101")])
def test_what_is_not_there_is_not_found(arguments: Sequence[str], edge: Edge) -> None:
    done = edge.command("studies", *arguments)
    assert (done.stdout, done.stderr) == ("no such study\n", "")
    assert listed(edge, *arguments) == []


def test_on_a_narrow_terminal_no_name_is_cut(edge: Edge) -> None:
    done = subprocess.run(
        [COMMAND, "studies", "--config", str(edge.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "COLUMNS": "76", "FORCE_COLOR": "1"},
    )
    assert "…" not in done.stdout
    assert "Synthetic" in done.stdout


# without an appliance


def written(folder: Path) -> Path:
    config = folder / "edge.toml"
    config.write_text(f'[storage]\npath = "{folder}"\n')
    return config


def studies(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "studies", *arguments, "--config", str(written(folder))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on which nothing runs, with the studies of three patients."""
    folder = tmp_path_factory.mktemp("store")
    people = [
        ("Doe^Jane", "P1", "A1", "20260101", "CT"),
        ("Doe^John", "P2", "A2", "20260102", "MR"),
        ("[/red]\x1b[2J", "[bold]", "B1", "[/]", "[/US]"),
    ]

    async def fill() -> None:
        async with Stored(folder) as box:
            for number, (name, patient, accession, date, modality) in enumerate(people, 1):
                one = instance(
                    number,
                    study=f"1.{number}",
                    patient_name=name,
                    patient_id=patient,
                    accession=accession,
                    study_date=date,
                    modality=modality,
                )
                await box.accept(one, to=[leg(proof=False)])
            await box.store.tick(1000.0)

    asyncio.run(fill())
    return folder


def test_without_an_appliance_the_store_answers(store: Path) -> None:
    done = studies(store, "doe")
    assert (done.returncode, done.stderr) == (0, "")
    head, john, jane = done.stdout.splitlines()
    assert head.split() == HEAD
    assert john.split()[:5] == ["20260102", "P2", "Doe^John", "MR", "1"]
    assert jane.split()[:5] == ["20260101", "P1", "Doe^Jane", "CT", "1"]
    assert "compare: All 1 received are safe: compare the number with the scanner." in john


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), ["1.3", "1.2", "1.1"]),
        (("jane doe",), ["1.1"]),
        (("--id", "P"), ["1.2", "1.1"]),
        (("--accession", "A2"), ["1.2"]),
        (("--modality", "CT"), ["1.1"]),
        (("--uid", "1.2"), ["1.2"]),
        (("--since", "20260102", "--until", "20260102"), ["1.2"]),
        (("--since", "20260103", "--until", "20261231"), []),
        (("doe", "--id", "P2"), ["1.2"]),
        (("--most", "2"), ["1.3", "1.2"]),
    ],
)
def test_filters_go_together(arguments: Sequence[str], found: list[str], store: Path) -> None:
    done = studies(store, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["study"]["uid"] for row in json.loads(done.stdout)] == found


def test_what_a_scanner_wrote_is_shown_and_not_obeyed(store: Path) -> None:
    done = studies(store, "--uid", "1.3")
    assert (done.returncode, done.stderr) == (0, "")
    _, line = done.stdout.splitlines()
    assert line.split()[:4] == ["[/]", "[bold]", "[/red]?[2J", "[/US]"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--since", "2026-01-02"), "'2026-01-02' is no date"),
        (("--until", "yesterday"), "'yesterday' is no date"),
        (("--most", "0"), "0 is not in the range"),
    ],
)
def test_what_makes_no_sense_is_refused_with_2(arguments: Sequence[str], word: str, store: Path) -> None:
    done = studies(store, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr


def test_where_no_appliance_ever_ran_it_says_so(tmp_path: Path) -> None:
    done = studies(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no appliance has run" in done.stderr


def test_it_answers_the_same_when_the_appliance_has_stopped(tmp_path: Path) -> None:
    with RawReceiver() as pacs, Edge(tmp_path, dimse("pacs", pacs.port)) as running:
        send(running, mr(2, STUDY))
        running.wait_settled("pacs", {"accepted": 2}, 30)
        (before,) = listed(running)
        running.stop()
        (after,) = wait_for(lambda: listed(running), 10, "the store to answer")
    assert after == before
