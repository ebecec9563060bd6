"""What is done with a version on trial whose judge falls again and again: firmware-config/rauc/unjudged."""

import os
import subprocess
from pathlib import Path

import pytest

from edge.clock import SystemClock
from edge.updating.state import Phase, Record, State

_SCRIPT = Path(__file__).parents[1] / "firmware-config" / "rauc" / "unjudged"


class Bench:
    """The programs that it runs, which write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.state = folder / "state.json"
        self.marking, self.bootenv, self.outside = 0, 0, 0

    def run(self, *, result: str = "exit-code", restarts: str = "4", slot: str = "B") -> list[str]:
        """What was called, `systemctl show` left out."""
        stubs = {
            "systemctl": f'[ "$1" = show ] && echo {restarts} || echo systemctl "$@" >> {self.calls}',
            "busctl": f'echo busctl "$@" >> {self.calls}; exit {self.marking}',
            "bootenv": f'echo bootenv "$@" >> {self.calls}; exit {self.bootenv}',
            "systemd-run": f"echo systemd-run >> {self.calls}; exit {self.outside}",
        }
        for name, text in stubs.items():
            (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.folder / name).chmod(0o755)
        (self.folder / "cmdline").write_text(f"root=PARTUUID=1 ro rauc.slot={slot} panic=10\n")
        told = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "SERVICE_RESULT": result,
            "STATE": str(self.state),
            "BOOTENV": str(self.folder / "bootenv"),
            "CMDLINE": str(self.folder / "cmdline"),
        }
        subprocess.run([_SCRIPT], env=told, check=False, capture_output=True)
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def record(self, phase: Phase) -> None:
        """An update of slot B in ``phase``, after another that was done."""
        record = Record(self.folder, SystemClock(), "one")
        record.enter(State(from_="1.0.0", to="1.1.0", slot="B"), "done")
        record.enter(State(from_="1.1.0", to="1.2.0", slot="B"), phase)


_TAKEN_BACK = [
    "busctl call --timeout=60 de.pengutronix.rauc / de.pengutronix.rauc.Installer Mark ss bad booted",
    "systemctl reboot",
]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.record("waiting")
    return made


@pytest.mark.parametrize("phase", ["installing", "waiting", "trial"])
def test_a_version_on_trial_that_cannot_be_judged_is_taken_back(bench: Bench, phase: Phase) -> None:
    bench.record(phase)
    assert bench.run() == _TAKEN_BACK


def test_where_rauc_does_not_mark_it_the_boot_environment_is_written(bench: Bench) -> None:
    bench.marking = 1
    assert bench.run() == [_TAKEN_BACK[0], "bootenv set-state B bad", _TAKEN_BACK[1]]
    bench.calls.unlink()
    bench.bootenv = 1
    assert bench.run() == [_TAKEN_BACK[0], "bootenv set-state B bad", "systemd-run", _TAKEN_BACK[1]]


def test_where_nothing_marks_it_the_machine_is_not_started_anew(bench: Bench) -> None:
    bench.marking = bench.bootenv = bench.outside = 1
    assert bench.run()[-1] == "systemd-run"


@pytest.mark.parametrize("phase", ["none", "downloading", "done", "failed", "rolled-back"])
def test_what_was_good_before_is_left_as_it_is(bench: Bench, phase: Phase) -> None:
    bench.record(phase)
    assert bench.run() == []


def test_the_slot_that_is_not_on_trial_is_left_as_it_is(bench: Bench) -> None:
    assert bench.run(slot="A") == []


def test_a_judge_that_fell_three_times_or_ended_well_does_not_count(bench: Bench) -> None:
    assert bench.run(restarts="3") == []
    assert bench.run(restarts="") == []
    assert bench.run(result="success") == []


def test_without_a_record_nothing_is_done(bench: Bench) -> None:
    bench.state.unlink()
    assert bench.run() == []


def test_a_disk_that_takes_nothing_is_no_fault_of_the_version(bench: Bench) -> None:
    (bench.folder / "probe").mkdir()
    assert bench.run() == []
