"""Whether the machine has had enough voltage, where it can tell."""

from pathlib import Path

import pytest

from edge.status.power import REMEMBERED, Power
from tests.fakes import ManualClock


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def alarm(tmp_path: Path) -> Path:
    for number, name in enumerate(["cpu_thermal", "rpi_volt"]):
        folder = tmp_path / f"class/hwmon/hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
    return tmp_path / "class/hwmon/hwmon1/in0_lcrit_alarm"


def test_a_machine_that_does_not_tell_is_not_known(tmp_path: Path) -> None:
    power = Power(ManualClock(), tmp_path)
    assert not power.known
    assert power.good() is None


def test_under_voltage_is_told_for_a_day(tmp_path: Path, alarm: Path) -> None:
    clock = ManualClock()
    alarm.write_text("0\n")
    power = Power(clock, tmp_path)
    assert power.known
    assert power.good() is True
    alarm.write_text("1\n")
    assert power.good() is False
    alarm.write_text("0\n")
    assert power.good() is False
    clock.pass_time(REMEMBERED)
    assert power.good() is True


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["0", "0"], [True, True]),
        (["0", "50005"], [True, False]),
        (["0", "50000"], [True, False]),
        (["50000"], [False]),
        (["e0008"], [True]),
        (["nonsense"], [None]),
        (["0", "nonsense"], [True, True]),
    ],
)
def test_what_the_firmware_says_of_now_and_before(
    tmp_path: Path, firmware: Path, words: list[str], told: list[bool | None]
) -> None:
    firmware.write_text("0\n")
    power = Power(ManualClock(), tmp_path)
    said = []
    for word in words:
        firmware.write_text(f"{word}\n")
        said.append(power.good())
    assert said == told


def test_what_the_firmware_keeps_saying_of_before_is_told_once(tmp_path: Path, firmware: Path) -> None:
    clock = ManualClock()
    firmware.write_text("50000\n")
    power = Power(clock, tmp_path)
    assert power.good() is False
    clock.pass_time(REMEMBERED)
    assert power.good() is True
