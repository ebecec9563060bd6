"""The rigs of `scripts/rig`, short; and the oracle that they believe, which must notice what it is there for."""

import argparse
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from scripts.rigs import disk, files, kill, oracle, power_cut, preflight, template
from scripts.rigs.__main__ import main
from scripts.rigs.ledger import Item, Ledger
from scripts.rigs.scenarios import SCENARIOS
from scripts.rigs.site import Site
from scripts.rigs.tracing import Point, points
from scripts.rigs.volume import Workshop
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import missing
from tests.peers.raw import RawReceiver, Received

ROOT: Final = Path(__file__).parent.parent


@pytest.fixture
def loops() -> None:
    try:
        preflight.loop_devices()
    except preflight.NoLoopDeviceError as e:  # not a tool: nothing that could be installed would help
        pytest.skip(f"NOT TESTED: {e}")
    except preflight.MissingError as e:
        missing(str(e))


@pytest.fixture
def strace() -> None:
    try:
        preflight.tracer()
    except preflight.MissingError as e:
        missing(str(e))


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def options(rig: object, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    rig.add_arguments(parser)  # type: ignore[attr-defined]
    return parser.parse_args(words)


# the rigs


@pytest.mark.rig
@pytest.mark.usefixtures("loops")
def test_five_power_cuts_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = options(power_cut, "--rounds", "5", "--image-rounds", "3", "--torn", "--image-dir", str(tmp_path))
    code = power_cut.run(asked)
    told = capsys.readouterr().err
    assert code == 0, told
    assert "5 power cuts on 2 images" in told
    assert "Verdict: nothing lost" in told
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


@pytest.mark.rig
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "both"])  # test_kill.py sweeps it
def test_a_few_kills_lose_nothing(tmp_path: Path, scenario: str, dice: random.Random) -> None:
    result = kill.sweep(SCENARIOS[scenario], tmp_path, dice, most=2, jobs=2)
    assert result.problems == []
    assert result.absent == ""
    assert len(result.recorded) > 20


@pytest.mark.rig
@pytest.mark.usefixtures("strace")
def test_work_that_does_not_end_even_without_a_kill_is_a_failure(
    tmp_path: Path, dice: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "THROUGH", 0.2)
    endless = SCENARIOS["receive"]._replace(done=lambda _: False)
    (problem,) = kill.sweep(endless, tmp_path, dice, most=1, jobs=1).problems
    assert problem.startswith("without any kill: one receive")


@pytest.mark.rig
@pytest.mark.usefixtures("strace")
def test_a_call_that_was_never_hit_is_a_failure_and_named(
    tmp_path: Path, dice: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    never: list[Point] = []

    def strike(_: kill._Sweep, number: int, point: Point) -> kill._Outcome:
        hit = number > 0
        never.extend([point] * (not hit))
        return kill._Outcome(point, hit=hit)

    monkeypatch.setattr(kill._Sweep, "strike", strike)
    result = kill.sweep(SCENARIOS["receive"], tmp_path, dice, most=None, jobs=1)
    (problem,) = result.problems
    assert problem.startswith(f"1 of {result.swept} calls did not come in {kill._TRIES} runs each")
    assert problem.endswith(str(never[0]))
    assert result.kills == result.swept - 1


@pytest.mark.rig
@pytest.mark.usefixtures("loops", "strace")
@pytest.mark.parametrize("case", ["full", "taken", "fsync", "read-only", "errors"])
def test_a_bad_disk_is_refused_and_told_and_loses_nothing(tmp_path: Path, case: str, dice: random.Random) -> None:
    problems, told = disk.attempt(case, tmp_path, dice, 3, quick=True)
    assert problems == [], told


@pytest.mark.rig
def test_many_files_and_one_that_grows_arrive_once(tmp_path: Path) -> None:
    did, problems = files.drop(tmp_path, 1500, 100, 4)
    assert problems == [], did


# the command


def test_a_rig_that_cannot_run_here_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["power-cut", "--rounds", "1"]) == 2
    assert "it needs root" in capsys.readouterr().err


def test_a_tool_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(preflight.MissingError, match="apt install e2fsprogs"):
        preflight.tool("mkfs.ext4")


@pytest.mark.parametrize("words", [["power-cut", "--rounds", "0"], ["kill", "--scenario", "none"], ["nonsense"]])
def test_a_wrong_word_is_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: scripts/rig" in capsys.readouterr().err


# the workshop


def test_what_a_killed_rig_left_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from scripts.rigs.volume import Workshop\n"
        "Workshop(Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / "edge-rig-notes").mkdir()
    with Workshop(tmp_path) as first, Workshop(tmp_path) as second:
        assert not left.exists()
        assert first.exists()
        assert second.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["edge-rig-notes"]


# the oracle


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ledger]:
    """A storage with a queue of four, and the ledger of who sent them."""
    with RawReceiver() as pacs:
        site = Site(tmp_path_factory.mktemp("sealed"), pacs)
        pacs.stop()
        with site.edge:
            site.send(mr(4))
            assert oracle.wait_matching(site.edge.storage) == []
    assert len(site.ledger.promised) == 4
    return site.edge.storage, site.ledger


@pytest.fixture
def storage(sealed: tuple[Path, Ledger], tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    copy = tmp_path / "storage"
    subprocess.run(["cp", "-a", sealed[0], copy], check=True)
    return copy


@pytest.fixture
def ledger(sealed: tuple[Path, Ledger]) -> Ledger:
    return sealed[1]


def stored(storage: Path) -> list[Path]:
    return sorted((storage / "spool" / "ready").glob("*/*.dcm"))


def receiver(*items: Item) -> RawReceiver:
    pacs = RawReceiver()
    pacs.received.extend(Received("", item.uid, "", item.digest, 0, "", 0.0) for item in items)
    return pacs


def test_the_oracle_is_content_with_a_whole_spool(storage: Path, ledger: Ledger) -> None:
    assert oracle.kept(ledger, receiver(), oracle.look(storage)) == []
    assert oracle.mismatch(storage) == []


def test_the_oracle_misses_a_deleted_file_until_it_is_at_the_receiver(storage: Path, ledger: Ledger) -> None:
    path = stored(storage)[1]
    item = oracle.read(path)
    path.unlink()
    (lost,) = oracle.kept(ledger, receiver(), oracle.look(storage))
    assert item.uid in lost
    assert oracle.kept(ledger, receiver(item), oracle.look(storage)) == []
    damaged = Item(item.uid, hashlib.sha256().digest())
    assert oracle.kept(ledger, receiver(damaged), oracle.look(storage)) == [lost]
    assert oracle.mismatch(storage) == [f"object {path.stem} has a row and no file"]


@pytest.mark.parametrize("harm", ["cut", "flipped", "renamed", "empty"])
def test_the_oracle_finds_a_partial_file(storage: Path, ledger: Ledger, harm: str) -> None:
    path = stored(storage)[0]
    data = bytearray(path.read_bytes())
    match harm:
        case "cut":
            path.write_bytes(data[:-1])
        case "flipped":
            data[-1] ^= 1
            path.write_bytes(data)
        case "renamed":
            path.rename(path.with_stem(f"{int(path.stem) + 100}"))
        case _:
            path.write_bytes(b"")
    found = oracle.kept(ledger, receiver(), oracle.look(storage))
    assert len(found) == 2
    assert found[0].startswith("LOST")
    assert found[1].startswith("a partial file is published")


def test_the_oracle_takes_a_sealed_part_for_kept_and_a_torn_one_for_lost(storage: Path, ledger: Ledger) -> None:
    path = stored(storage)[0]
    part = storage / "spool" / "incoming" / f"{path.stem}.part"
    path.rename(part)
    assert oracle.kept(ledger, receiver(), oracle.look(storage)) == []
    assert f"{part.name} is still in incoming/" in oracle.mismatch(storage)
    part.write_bytes(part.read_bytes()[:-2])
    (lost,) = oracle.kept(ledger, receiver(), oracle.look(storage))
    assert lost.startswith("LOST")


def test_the_oracle_finds_what_nobody_sent(storage: Path) -> None:
    strange = oracle.kept(Ledger(), receiver(), oracle.look(storage))
    assert len(strange) == 4
    assert all("nothing that was sent" in problem for problem in strange)


def test_the_oracle_finds_a_file_without_a_row(storage: Path) -> None:
    path = stored(storage)[0]
    with closing(sqlite3.connect(storage / "db" / "edge.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE instance SET state = 'lost' WHERE id = ?", (int(path.stem),))
    assert oracle.mismatch(storage) == [f"object {path.stem} has a file and its row says lost"]


def test_only_0000_is_a_promise() -> None:
    ledger = Ledger()
    first, second, third = (ledger.begin(obj) for obj in objects(3))
    ledger.answered(first, 0)
    ledger.answered(second, 0xB000)
    ledger.answered(third, 0xA700)
    assert ledger.promised == {first}
    assert ledger.sent == {first, second, third}
    assert ledger.answers == {"0000": 1, "B000": 1, "A700": 1}


def objects(count: int) -> list[DicomObject]:
    return mr(count)


# strace's log


def test_points_are_the_calls_that_change_the_storage(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '7 mkdir("/s/spool", 0700) = -1 EEXIST (File exists)\n'
        '7 write(2</tmp/edge.log>, "event=ready", 11) = 11\n'
        '7 openat(AT_FDCWD</>, "/s/a", O_RDONLY) = 3</s/a>\n'
        '7 openat(AT_FDCWD</>, "/s/b", O_WRONLY|O_CREAT, 0600) = 4</s/b>\n'
        '8 pwrite64(4</s/b>, "x", 1, 0 <unfinished ...>\n'
        '7 pwrite64(4</s/b>, "y", 1, 1) = 1\n'
        "8 <... pwrite64 resumed>) = 1\n"
        '7 pwrite64(4</s/b>, "y", 1, 2) = 1\n'
        '7 rename("/s/b", "/s/c") = 0\n'
        "7 fsync(5</s>) = 0\n"
        '7 unlink("/elsewhere") = 0\n'
    )
    expected = [
        Point("openat", "b", 1),
        Point("pwrite64", "b", 1),
        Point("pwrite64", "b", 2),
        Point("rename", "b", 1),
        Point("fsync", "", 1),
    ]
    assert points(log, Path("/s"), after="event=ready") == expected
