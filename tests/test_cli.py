"""The installed command as a person meets it: what it prints, where, and with which exit code."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from edge import __version__
from edge.findings import CODES
from tests.appliance import COMMAND, Edge, dimse
from tests.peers.objects import DicomObject, tiny, uid
from tests.peers.ports import LOOPBACK, free_port, listening, wait_for
from tests.peers.raw import PeerClosedError, RawReceiver, RawSender
from tests.peers.wire import VERIFICATION

COMMANDS: Final = (
    *("run", "check", "status", "queue", "trace", "studies"),
    *("retry", "stat", "hold", "release", "cancel", "pause", "resume", "import", "echo", "doctor", "capabilities"),
    *("route", "light", "password", "provision", "update", "label", "logs", "demo"),
)
ACTS: Final = ("retry", "stat", "hold", "release", "cancel")

pytestmark = pytest.mark.rig


def edge(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, whatever that is."""
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environment or {})},
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr that a failure is allowed, and nothing on stdout."""
    assert done.stdout == ""
    assert done.stderr.startswith("edge: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("edge: ").rstrip("\n")


def send(appliance: Edge, count: int) -> list[DicomObject]:
    """Send a study of ``count`` objects as a modality would."""
    objects = tiny(count, uid())
    with RawSender(appliance.port) as modality:
        modality.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
        assert [modality.store(one) for one in objects] == [0] * count
    return objects


def deliveries(appliance: Edge, study: str, destination: str = "pacs") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = appliance.json("trace", study)
    return [delivery for row in rows for delivery in row["deliveries"] if delivery["destination"] == destination]


def trail(appliance: Edge, instance: str, destination: str = "pacs") -> list[tuple[str, str, str]]:
    (row,) = appliance.json("trace", instance)
    return [(s["event"], s["code"], s["detail"]) for s in row["trail"] if s["destination"] in ("", destination)]


@pytest.fixture(scope="module")
def live() -> Iterator[RawReceiver]:
    """A PACS that answers."""
    with RawReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory, live: RawReceiver) -> Iterator[Edge]:
    """One that runs for all of this module, between a PACS that answers and one, "pacs", that is gone."""
    destinations = dimse("pacs", free_port()) + dimse("live", live.port)
    with Edge(tmp_path_factory.mktemp("cli"), destinations) as running:
        yield running


@pytest.fixture
def study(appliance: Edge) -> list[DicomObject]:
    """Three objects, held for "pacs", so that nothing moves them but the test."""
    objects = send(appliance, 3)
    name = objects[0].study_uid
    wait_for(lambda: len(_traced(appliance, name)) == 3, 30, "three objects on record")
    appliance.command("hold", name, "--destination", "pacs")
    wait_for(lambda: {d["state"] for d in deliveries(appliance, name)} == {"held"}, 30, "three deliveries held")
    return objects


def _traced(appliance: Edge, name: str) -> list[Any]:
    done = appliance.command("trace", name, "--json", check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 else []


def written(folder: Path, text: str = "") -> Path:
    """A configuration with its storage below ``folder``."""
    path = folder / "edge.toml"
    path.write_text(f'[storage]\npath = "{folder / "storage"}"\n{text}')
    return path


# help and usage


def test_help_lists_every_command() -> None:
    for option in ("--help", "-h"):
        done = edge(option)
        assert done.returncode == 0
        assert done.stderr == ""
        listed = re.findall(r"^  ([a-z]+)  +\S", done.stdout.partition("Commands:")[2], re.MULTILINE)
        assert tuple(listed) == COMMANDS


def test_every_command_explains_itself_and_takes_a_configuration() -> None:
    running = {
        name: subprocess.Popen([COMMAND, name, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in COMMANDS
    }
    for name, process in running.items():
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert f"edge {name}" in out
        assert "--config" in out


def test_the_version_is_told_by_the_command_and_by_the_module() -> None:
    assert edge("--version").stdout == f"edge, version {__version__}\n"
    module = subprocess.run(
        [sys.executable, "-m", "edge", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert module.stdout == f"edge, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("fly",), "No such command 'fly'"),
        (("queue", "--state", "lost"), "'lost' is not one of"),
        (("trace",), "Missing argument 'UID'"),
        (("hold",), "say which: a UID, --delivery, --destination or --all"),
        (("cancel", "--all"), "Missing option '--reason'"),
        (("cancel", "--all", "--reason", "  "), "--reason cannot be empty"),
        (("demo", "--images", "0"), "0 is not in the range"),
    ],
)
def test_bad_usage_exits_with_2_and_says_what_is_wrong(tmp_path: Path, arguments: Sequence[str], word: str) -> None:
    done = edge(*arguments, environment={"EDGE_CONFIG": str(written(tmp_path))})
    assert done.returncode == 2
    assert done.stdout == ""
    assert word in done.stderr


# check


def test_check_prints_every_error_with_its_line_and_key(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        '[receive]\nport = "eleven"\nae_titel = "EDGE"\n\n[[destination]]\nname = "pacs"\ntype = "dimse"\n'
        'host = "10.0.0.1"\nae_title = "A TITLE MUCH TOO LONG"\n'
    )
    done = edge("check", "--config", str(config))
    assert done.returncode == 2
    assert done.stdout == ""
    problems = done.stderr.splitlines()
    begin = f"edge: {config}: line "
    assert [line.removeprefix(begin).split(": ", 2)[:2] for line in problems] == [
        ["2", "receive.port"],
        ["3", "receive.ae_titel"],
        ["9", "destination.pacs.ae_title"],
    ]
    assert 'did you mean "ae_title"?' in problems[1]


@pytest.mark.parametrize("command", [("check",), ("run",), ("status", "--json"), ("queue",), ("hold", "--all")])
def test_every_command_refuses_an_unknown_key_the_same_way(tmp_path: Path, command: Sequence[str]) -> None:
    done = edge(*command, "--config", str(written(tmp_path, "colour = 3\n")))
    assert done.returncode == 2
    assert said(done).startswith(f"{tmp_path / 'edge.toml'}: line 3: storage.colour: unknown key")


def test_check_says_ok_and_touches_nothing(tmp_path: Path) -> None:
    config = written(tmp_path, f'[device]\nlanguage = "es"\n{dimse("pacs", 104)}{dimse("cloud", 104)}')
    done = edge("check", "--config", str(config))
    assert (done.returncode, done.stderr) == (0, "")
    *doubts, verdict = done.stdout.splitlines()
    assert all("a power cut" in doubt for doubt in doubts), "where this file system has no journal"
    assert verdict == "ok; destinations: pacs, cloud"
    as_json = edge("check", "--json", "--config", str(config))
    printed = json.loads(as_json.stdout)
    assert len(printed.pop("doubts")) == len(doubts)
    assert printed == {"ok": True, "not_in_this_version": []}
    assert not (tmp_path / "storage").exists(), "checking touches nothing"


def test_check_notes_what_is_wrong_with_the_file_of_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    auth = f'auth = {{ type = "basic", username = "edge", password_file = "{secret}" }}'
    config = written(tmp_path, f'[[destination]]\nname = "c"\ntype = "dicomweb"\nurl = "https://c.invalid"\n{auth}\n')
    for content, mode, wrong in (
        (None, 0, f"{secret} cannot be read (No such file or directory)"),
        ("", 0o600, f"{secret} is empty"),
        ("one", 0o644, f"{secret} can be read by everyone: let nobody but the user of the appliance (chmod 600)"),
        ("one", 0o640, ""),
    ):
        if content is not None:
            secret.write_text(content)
            secret.chmod(mode)
        done = edge("check", "--config", str(config))
        assert (done.returncode, done.stderr) == (0, "")
        told = [line for line in done.stdout.splitlines() if "password_file" in line]
        assert told == ([f"note: destination.c.auth.password_file: {wrong}"] if wrong else [])
        assert "ok; destinations: c" in done.stdout


def test_the_configuration_is_found_by_option_then_by_environment(tmp_path: Path) -> None:
    good, other = tmp_path / "good", tmp_path / "other"
    good.mkdir()
    other.mkdir()
    path = written(good, dimse("pacs", 104))
    bad = written(other, "colour = 3\n")
    assert edge("check", environment={"EDGE_CONFIG": str(path)}).returncode == 0
    assert edge("check", environment={"EDGE_CONFIG": str(bad)}).returncode == 2
    assert edge("check", "--config", str(path), environment={"EDGE_CONFIG": str(bad)}).returncode == 0
    missing = edge("check", environment={"EDGE_CONFIG": str(tmp_path / "none.toml")})
    assert missing.returncode == 2
    told = "there is no such file; create it, or name another with --config"
    assert said(missing) == f"{tmp_path / 'none.toml'}: {told}"


# where it cannot start


def test_a_port_in_use_is_said_with_what_to_do(tmp_path: Path) -> None:
    with closing(socket.create_server((LOOPBACK, 0))) as taken:
        port = taken.getsockname()[1]
        config = written(tmp_path, f'[receive]\naddress = "{LOOPBACK}"\nport = {port}\n')
        done = edge("run", "--config", str(config))
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"edge: Cannot listen on {LOOPBACK} port {port}: ")
    assert last.endswith("stop the program that uses it, or set receive.port to another.")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "storage" / "control.sock").exists()


@pytest.mark.parametrize("storage", ["file", "file/storage", "file/deep/er"])
def test_a_storage_path_that_runs_through_a_file_is_said_with_what_to_do(tmp_path: Path, storage: str) -> None:
    (tmp_path / "file").touch()
    config = tmp_path / "edge.toml"
    config.write_text(f'[storage]\npath = "{tmp_path / storage}"\n[receive]\nport = {free_port()}\n')
    done = edge("run", "--config", str(config))
    assert done.returncode == 1
    assert said(done).endswith("a part of the path is a file: set storage.path to a folder.")


def test_a_storage_path_where_nothing_can_be_made_is_said(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'[storage]\npath = "/proc/edge"\n[receive]\nport = {free_port()}\n')
    done = edge("run", "--config", str(config))
    assert done.returncode == 1
    assert said(done).startswith("The storage path /proc/edge cannot be used: ")


def test_a_second_appliance_on_the_same_storage_is_refused_and_harms_nothing(appliance: Edge, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'[storage]\npath = "{appliance.storage}"\n[receive]\nport = {free_port()}\n')
    done = edge("run", "--config", str(config))
    assert done.returncode == 1
    assert said(done).startswith(f"Another appliance is running on {appliance.storage}: stop it, or ")
    assert appliance.json("status")["intake"]["open"]


def test_a_storage_path_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "storage" / "db").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "storage" / "db" / "edge.sqlite")) as database:
        database.execute("PRAGMA user_version = 999")
    done = edge("run", "--config", str(written(tmp_path, f"[receive]\nport = {free_port()}\n")))
    assert done.returncode == 1
    assert "newer than this program's" in said(done)


# with no appliance


def test_where_no_appliance_ever_ran_reads_fail_and_acts_say_it_is_not_running(tmp_path: Path) -> None:
    config = str(written(tmp_path, dimse("pacs", 104)))
    for read in (("status",), ("queue", "--json"), ("trace", "1.2.3")):
        done = edge(*read, "--config", config)
        assert done.returncode == 1
        assert "no appliance has run on this storage path yet" in said(done)
    for act in ACTS:
        reason = ("--reason", "test") if act == "cancel" else ()
        done = edge(act, "--all", *reason, "--config", config)
        assert done.returncode == 3
        assert said(done).endswith("Start it with systemctl start edge, or edge run.")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_reads_work_without_a_running_appliance_and_acts_do_not(tmp_path: Path, end: str) -> None:
    with Edge(tmp_path, dimse("pacs", free_port())) as running:
        objects = send(running, 3)
        running.wait_settled("pacs", {"queued": 3})
        assert running.json("status")["light"]["code"] != "R2"
        before = running.json("trace", objects[0].study_uid)
        getattr(running, end)()
        status = running.json("status")
        assert (status["light"]["code"], status["intake"]["open"]) == ("R2", False)
        assert [finding["code"] for finding in status["findings"]] == ["NOT_RUNNING"]
        assert status["queue"]["instances"] == 3
        assert [d["state"] for d in status["destinations"]] == ["down"]
        assert "R2 red" in running.command("status").stdout
        assert len(running.json("queue")) == 3
        after = running.json("trace", objects[0].study_uid)
        assert [row["sha256"] for row in after] == [row["sha256"] for row in before]
        assert {row["sha256"] for row in after} == {one.digest.hex() for one in objects}
        refused = running.command("hold", "--all", check=False)
        assert refused.returncode == 3
        assert said(refused).startswith(f"No appliance answers on {running.storage}.")
        assert sorted(row["state"] for row in running.json("queue")) in (["queued"] * 3, ["queued"] * 2 + ["sending"])
        if end == "kill":
            running.start()
            assert running.command("hold", "--all").stdout == "3 deliveries held\n"


# with one


def test_status_tells_light_counts_and_destinations(appliance: Edge, study: list[DicomObject]) -> None:
    assert study
    text = appliance.command("status").stdout
    assert re.match(r"[A-Z][0-9] (green|yellow|red|white), ", text)
    assert "test: received " in text
    assert re.search(r"^ ?live +up ", text, re.MULTILINE)
    snapshot = appliance.json("status")
    assert snapshot["device"] | {"id": ""} == {"id": "", "name": "test", "site": "", "version": __version__}
    assert re.fullmatch(r"[0-9a-f]{32}", snapshot["device"]["id"])
    assert snapshot["intake"]["open"]
    assert [d["name"] for d in snapshot["destinations"]] == ["pacs", "live"]
    assert snapshot["destinations"][0]["held"] >= 3


def test_queue_lists_what_is_owed_by_destination_and_state(appliance: Edge, study: list[DicomObject]) -> None:
    ours = {one.sop_instance_uid for one in study}
    held = appliance.json("queue", "--destination", "pacs", "--state", "held")
    assert ours <= {row["sop_instance_uid"] for row in held}
    assert {row["destination"] for row in held} == {"pacs"}
    assert {row["state"] for row in held} == {"held"}
    wait_for(
        lambda: {d["state"] for d in deliveries(appliance, study[0].study_uid, "live")} == {"accepted"}, 30, "live"
    )
    assert not ours & {row["sop_instance_uid"] for row in appliance.json("queue", "--destination", "live")}
    text = appliance.command("queue", "--destination", "pacs", "--state", "held").stdout
    assert all(name in text for name in ours)
    nobody = appliance.command("queue", "--destination", "nobody")
    assert nobody.stdout == "nothing\n"
    assert nobody.stderr == "edge: note: 'nobody' is no destination of the configuration (pacs, live)\n"


def test_what_a_scanner_wrote_breaks_no_list(appliance: Edge) -> None:
    (plain,) = tiny(1, uid())
    assert b"CS\2\0OT" in plain.dataset
    odd = replace(plain, dataset=plain.dataset.replace(b"CS\2\0OT", b"CS\4\0[/X]"))
    with RawSender(appliance.port) as modality:
        modality.associate([(odd.sop_class_uid, [odd.transfer_syntax_uid])])
        assert modality.store(odd) == 0
    wait_for(lambda: bool(_traced(appliance, odd.sop_instance_uid)), 30, "the object on record")
    for read in (("queue", "--destination", "pacs"), ("trace", odd.sop_instance_uid), ("studies",)):
        assert " [/X] " in appliance.command(*read).stdout


def test_on_a_narrow_terminal_no_uid_and_no_reason_is_left_out(appliance: Edge, study: list[DicomObject]) -> None:
    terminal = {"COLUMNS": "80", "FORCE_COLOR": "1"}
    done = edge("queue", "--state", "held", "--config", str(appliance.config), environment=terminal)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in done.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["id", "destination", "state", "priority", "modality", "size", "tries"]
    for one in study:
        at = lines.index(f"    {one.sop_instance_uid}")
        assert lines[at - 1].split()[1:5] == ["pacs", "held", "routine", "OT"]
        assert lines[at + 1].startswith("    HELD")


def test_status_for_a_file_has_each_sentence_on_one_line(appliance: Edge, study: list[DicomObject]) -> None:
    assert study
    advice = CODES["DELIVERIES_HELD"].advice
    assert len(advice) > 80, "longer than where no terminal says how wide it is"
    wait_for(lambda: f"  {advice}" in appliance.command("status").stdout.splitlines(), 30, "what is held is told")


def test_trace_is_the_receipt_of_an_instance(appliance: Edge, study: list[DicomObject], live: RawReceiver) -> None:
    one = study[0]
    wait_for(lambda: {d["state"] for d in deliveries(appliance, one.study_uid, "live")} == {"accepted"}, 30, "live")
    (row,) = appliance.json("trace", one.sop_instance_uid)
    assert row["sha256"] == one.digest.hex()
    assert row["bytes"] == one.length
    assert {d["destination"]: d["state"] for d in row["deliveries"]} == {"pacs": "held", "live": "accepted"}
    assert [s["event"] for s in row["trail"] if s["destination"] in ("", "live")] == ["received", "accepted"]
    assert one.digest in {received.digest for received in live.received}
    text = appliance.command("trace", one.sop_instance_uid).stdout
    assert one.digest.hex() in text
    assert "received  RAW at 127.0.0.1" in text
    assert len(appliance.json("trace", one.study_uid)) == 3
    unknown = appliance.command("trace", "1.2.3.4", check=False)
    assert unknown.returncode == 1
    assert said(unknown).startswith("Nothing is known of '1.2.3.4'")


def test_hold_release_and_cancel_move_deliveries_and_stand_on_the_trail(
    appliance: Edge, study: list[DicomObject]
) -> None:
    name, one = study[0].study_uid, study[0].sop_instance_uid
    release = appliance.command("release", one, "--destination", "pacs", "--reason", "try it")
    assert release.stdout == "1 delivery released\n"
    states = [d["state"] for d in deliveries(appliance, name)]
    assert states[0] in {"queued", "sending"}
    assert states[1:] == ["held", "held"]
    wait_for(
        lambda: appliance.command("hold", one, "--destination", "pacs", check=False).returncode == 0, 30, "held again"
    )
    cancel = appliance.command("cancel", name, "--destination", "pacs", "--reason", "wrong patient")
    assert cancel.stdout == "3 deliveries cancelled\n"
    assert [d["state"] for d in deliveries(appliance, name)] == ["cancelled"] * 3
    steps = trail(appliance, one)
    assert ("released", "command line", "try it") in steps
    assert steps[-1] == ("cancelled", "command line", "wrong patient")
    assert [step[0] for step in steps if step[1] == "command line"] == ["held", "released", "held", "cancelled"]


def test_retry_tries_what_is_held_and_by_force_what_is_over(
    appliance: Edge, study: list[DicomObject], live: RawReceiver
) -> None:
    one = study[1]
    wait_for(lambda: {d["state"] for d in deliveries(appliance, one.study_uid, "live")} == {"accepted"}, 30, "live")
    held = appliance.command("retry", one.sop_instance_uid, "--destination", "pacs")
    assert held.stdout.startswith("1 delivery ")
    over = appliance.command("retry", one.sop_instance_uid, "--destination", "live", check=False)
    assert over.returncode == 1
    assert said(over) == "No delivery was found that this applies to. See: edge queue"
    appliance.command("retry", one.sop_instance_uid, "--destination", "live", "--force")
    wait_for(lambda: [r.digest for r in list(live.received)].count(one.digest) == 2, 30, "a second delivery")
    wait_for(
        lambda: (
            [step[0] for step in trail(appliance, one.sop_instance_uid, "live")]
            == ["received", "accepted", "resend", "accepted"]
        ),
        30,
        "the second acceptance on the trail",
    )


def test_retry_where_nothing_waits_is_content_and_of_nothing_known_is_not(tmp_path: Path, live: RawReceiver) -> None:
    with Edge(tmp_path, dimse("live", live.port)) as edge:
        for which in (("--destination", "live"), ("--all",)):
            assert edge.command("retry", *which).stdout == "nothing was waiting\n"
            assert edge.json("retry", *which) == {"deliveries": 0}
        for unknown in ("--destination pax", "1.2.3", "--delivery 7", "1.2.3 --destination live"):
            assert edge.command("retry", *unknown.split(), check=False).returncode == 1
        assert edge.command("release", "--all", check=False).returncode == 1


def test_one_delivery_is_chosen_by_the_id_that_queue_shows(appliance: Edge, study: list[DicomObject]) -> None:
    chosen = deliveries(appliance, study[0].study_uid)[2]
    assert appliance.json("cancel", "--delivery", str(chosen["id"]), "--reason", "test") == {"deliveries": 1}
    states = {d["id"]: d["state"] for d in deliveries(appliance, study[0].study_uid)}
    assert [states[number] for number in sorted(states)].count("cancelled") == 1
    assert states[chosen["id"]] == "cancelled"


def test_an_act_that_applies_to_nothing_fails_and_names_the_destinations(appliance: Edge) -> None:
    done = appliance.command("hold", "--destination", "pax", check=False)
    assert done.returncode == 1
    assert "destinations are: live, pacs." in said(done)


def test_cancel_without_a_reason_changes_nothing(appliance: Edge, study: list[DicomObject]) -> None:
    for reason in ((), ("--reason", "")):
        done = appliance.command("cancel", study[0].study_uid, *reason, check=False)
        assert done.returncode == 2
    assert {d["state"] for d in deliveries(appliance, study[0].study_uid)} == {"held"}


def test_json_is_one_document_on_stdout_and_nothing_else(appliance: Edge, study: list[DicomObject]) -> None:
    name = study[0].study_uid
    for arguments in (
        *(("status",), ("queue",), ("trace", name), ("check",), ("echo", "live")),
        *(("hold", name), ("release", name, "--destination", "pacs"), ("retry", name, "--destination", "pacs")),
    ):
        done = appliance.command(*arguments, "--json", check=False)
        json.loads(done.stdout)
        assert done.stderr == ""
    failed = appliance.command("trace", "1.2.3.4", "--json", check=False)
    assert said(failed)


# echo


def test_echo_says_that_a_destination_answers(appliance: Edge, live: RawReceiver) -> None:
    before = live.echoes
    done = appliance.command("echo", "live")
    assert re.fullmatch(r"live answers \(\d+ ms\)\n", done.stdout)
    assert done.stderr == ""
    result = appliance.json("echo", "live")
    assert (result["destination"], result["ok"], result["problem"]) == ("live", True, "")
    assert live.echoes == before + 2


def test_echo_says_why_a_destination_does_not_answer(appliance: Edge) -> None:
    done = appliance.command("echo", "pacs", check=False)
    assert done.returncode == 1
    assert said(done).startswith("pacs: ")
    as_json = appliance.command("echo", "pacs", "--json", check=False)
    assert as_json.returncode == 1
    result = json.loads(as_json.stdout)
    assert (result["ok"], result["problem"]) == (False, said(done).removeprefix("pacs: "))


@pytest.mark.parametrize("reject", [(1, 1, 7), (2, 3, 1)])
def test_echo_says_that_a_destination_refuses_us(tmp_path: Path, reject: tuple[int, int, int]) -> None:
    with RawReceiver(reject=reject) as receiver:
        config = str(written(tmp_path, dimse("pacs", receiver.port)))
        done = edge("echo", "pacs", "--config", config)
    assert done.returncode == 1
    assert said(done).startswith("pacs: ")


def test_echo_says_that_a_destination_takes_no_echo(tmp_path: Path) -> None:
    with RawReceiver(negotiate=lambda _class, _syntaxes: 3) as receiver:
        done = edge("echo", "pacs", "--config", str(written(tmp_path, dimse("pacs", receiver.port))))
    assert done.returncode == 1
    assert said(done) == "pacs: it takes associations, but no C-ECHO"


def test_echo_of_an_unknown_destination_is_bad_usage(tmp_path: Path) -> None:
    done = edge("echo", "pax", "--config", str(written(tmp_path, dimse("pacs", 104))))
    assert done.returncode == 2
    assert said(done) == "There is no destination 'pax'; the configuration has: pacs."


def test_echo_of_a_folder_says_whether_it_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    config = str(written(tmp_path, f'[[destination]]\nname = "archive"\ntype = "folder"\npath = "{folder}"\n'))
    done = edge("echo", "archive", "--config", config)
    assert done.returncode == 1
    assert said(done) == f"archive: {folder} is not there: is it mounted?"
    folder.mkdir()
    assert edge("echo", "archive", "--config", config).returncode == 0


# signals


def test_sigterm_ends_it_in_time_whatever_is_open_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    running = Edge(tmp_path, dimse("pacs", free_port()))
    with running:
        objects = send(running, 5)
        idle, halfway = RawSender(running.port), RawSender(running.port)
        idle.connect()
        idle.associate([(VERIFICATION, ["1.2.840.10008.1.2"])])
        assert idle.echo() == 0
        halfway.connect()
        (one,) = tiny(1)
        halfway.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
        halfway.send_bytes(b"\x04\x00\x00\x00\x10\x00")
        process = running._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not listening(running.port)
        assert not (running.storage / "control.sock").exists()
        with pytest.raises((PeerClosedError, ConnectionError)):
            idle.echo()
        idle.close()
        halfway.close()
    assert "Traceback" not in running.output()
    assert "event=stopped" in running.output()
    assert {row["sop_instance_uid"] for row in running.json("queue")} == {one.sop_instance_uid for one in objects}
    assert running.parts() == []


def test_sighup_is_answered_and_ends_nothing(appliance: Edge) -> None:
    before = appliance.output().count("configuration read again")
    os.kill(appliance.pid, signal.SIGHUP)
    wait_for(lambda: appliance.output().count("configuration read again") > before, 10, "a word on SIGHUP")
    assert appliance.json("status")["intake"]["open"]


def test_it_says_where_it_receives(appliance: Edge) -> None:
    assert f"receiving as EDGE on {LOOPBACK} port {appliance.port}\n" in appliance.output()


# the demonstration


def test_the_demonstration_loses_nothing() -> None:
    done = edge("demo", "--once", "--images", "20", environment={"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout
    assert "the modality was answered: 0000 x 20" in done.stdout
    _, gone, again, _ = done.stdout.split("appliance: ")[1:]
    for told in (gone, again):
        assert told.startswith("Y1 yellow: ")
        assert "pacs down, " in told
