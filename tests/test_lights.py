"""The status light: steady, true on each kind of hardware, and nobody's trouble where the hardware fails."""

import asyncio
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import pytest

from edge.board import Board, ImportGauge
from edge.config import Lights
from edge.configfile import parse
from edge.findings import Journal
from edge.lights.driver import LightError, NoDriver, driver_of
from edge.lights.file import FileDriver
from edge.lights.gpio import GpioDriver, Lines, open_lines
from edge.lights.leds import LedDriver
from edge.lights.phases import COLORS, PATTERNS, phases
from edge.lights.service import LightService
from edge.snapshot import Light
from edge.status.lamp import Lamp
from edge.status.lights import LIGHTS, TABLE, Facts, Steady
from tests.fakes import ManualClock
from tests.leds import CONFIG, NAMES, ON, TOLD, Panel

PAGE: Final = (Path(__file__).parents[1] / "docs" / "lights.md").read_text()


class Watched:
    """A steadied light and the facts that it is asked about, a second at a time."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.steady = Steady(self.clock)

    def see(self, facts: Facts, *, after: float = 0.0) -> str:
        self.clock.pass_time(after)
        return self.steady.choose(facts).code


# steadiness


@pytest.mark.parametrize("row", TABLE[:-1], ids=lambda row: row.light.code)
def test_a_worse_light_shows_at_once_and_goes_when_its_cause_was_gone_long_enough(row: object) -> None:
    seen = Watched()
    code, lingers, fact = row.light.code, row.lingers, row.fact  # type: ignore[attr-defined]
    assert seen.see(Facts()) == "G1"
    assert seen.see(Facts(**{fact: True}), after=3.0) == code
    assert seen.see(Facts(**{fact: True}), after=60.0) == code
    if lingers:
        assert seen.see(Facts(), after=lingers - 0.1) == code
    assert seen.see(Facts(), after=0.2) == "G1"


def test_which_lights_linger() -> None:
    assert {row.light.code: row.lingers for row in TABLE if row.lingers} == {
        **dict.fromkeys(("R2", "R1", "Y2", "Y1"), 5.0),
        "G2": 2.0,
    }


def test_a_cause_that_comes_and_goes_shows_one_steady_light() -> None:
    seen = Watched()
    shown = [seen.see(Facts(down=second % 4 == 0), after=1.0) for second in range(40)]
    assert set(shown) == {"Y1"}


def test_transferring_does_not_flicker_either() -> None:
    seen = Watched()
    assert seen.see(Facts()) == "G1"
    assert seen.see(Facts(moving=True), after=1.0) == "G1", "two seconds at least"
    assert seen.see(Facts(moving=True), after=1.0) == "G2"
    assert seen.see(Facts(), after=1.9) == "G2"
    assert seen.see(Facts(), after=0.1) == "G1"
    assert seen.see(Facts(down=True), after=0.1) == "Y1", "what is worse waits for nothing"


def test_what_lingers_gives_way_to_what_is_worse_and_stays_behind_it() -> None:
    seen = Watched()
    assert seen.see(Facts(down=True)) == "Y1"
    assert seen.see(Facts(closed=True), after=1.0) == "R2"
    assert seen.see(Facts(), after=4.5) == "R2"
    assert seen.see(Facts(), after=1.0) == "G1", "the older cause had gone before"
    assert seen.see(Facts(attention=True, closed=True), after=1.0) == "R2"
    assert seen.see(Facts(attention=True), after=5.0) == "Y2"


def test_a_start_ends_at_once() -> None:
    seen = Watched()
    assert seen.see(Facts(starting=True)) == "W1"
    assert seen.see(Facts(), after=0.1) == "G1"


# what it looks at


@pytest.fixture
def board() -> Board:
    made = Board(ManualClock())
    made.intake_open, made.intake_closed_because = True, ""
    return made


@pytest.fixture
def journal(board: Board) -> Journal:
    return Journal(board.clock)


def test_gauges_and_findings_become_facts(board: Board, journal: Journal) -> None:
    lamp = Lamp(board, journal, board.clock)
    assert lamp.facts() == Facts()
    journal.note("ACCEPTS_ANYONE", "config.modality")
    journal.note("DESTINATION_DOWN", "destination.pacs", "it is silent.")
    assert lamp.facts() == Facts(), "one informs, the other has a light of its own"
    board.destination("pacs").problem_code = "NO_ANSWER"
    assert lamp.facts() == Facts(down=True)
    board.destination("pacs").problem_code = ""
    board.destination("pacs").sending = 1
    assert lamp.facts() == Facts(moving=True)
    board.destination("pacs").sending = 0
    board.associations = 1
    assert lamp.facts() == Facts(moving=True)
    board.associations = 0
    board.imports[1] = ImportGauge("folder", media=False)
    assert lamp.facts() == Facts()
    journal.note("QUARANTINED", "receive", "odd")
    assert lamp.facts() == Facts(attention=True)
    journal.note("LOST", "storage", "object 1")
    assert lamp.facts() == Facts(attention=True, fault=True)
    board.identify_until = board.clock.monotonic() + 15
    assert lamp.look().code == "I1"


def test_a_start_that_does_not_get_on_is_not_shown_as_one(journal: Journal) -> None:
    clock = ManualClock()
    board = Board(clock)
    lamp = Lamp(board, journal, clock)
    assert lamp.look().code == "W1"
    board.cannot_start("the disk can only be read.")
    assert lamp.look().code == "R2"


def test_an_object_that_came_between_two_looks_was_a_transfer(board: Board, journal: Journal) -> None:
    clock = board.clock
    assert isinstance(clock, ManualClock)
    lamp = Lamp(board, journal, clock)
    assert lamp.look().code == "G1"
    clock.pass_time(5)
    board.received(100)
    assert lamp.look().code == "G2"
    clock.pass_time(3)
    assert lamp.look().code == "G1"


# colours and patterns


def test_every_light_has_a_colour_and_a_pattern_that_hardware_knows() -> None:
    for light in LIGHTS.values():
        assert set(light.color.split(" and ")) <= set(COLORS)
        assert light.pattern in PATTERNS
    assert set(TOLD) == set(LIGHTS)


@pytest.mark.parametrize("code", LIGHTS)
@pytest.mark.parametrize("there", [{"red"}, {"green"}, {"red", "green"}, {"blue"}])
def test_a_box_with_fewer_colours_is_dark_in_no_light(code: str, there: set[str]) -> None:
    shown = phases(LIGHTS[code], frozenset(there))
    assert any(phase.on for phase in shown)
    assert all(phase.on <= there for phase in shown)


def test_the_page_has_the_table() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.splitlines()
        if re.match(r"\| `[A-Z]\d` \|", line)
    ]
    assert [row[0].strip("` ") for row in rows] == [row.light.code for row in TABLE]
    for (_, shown, times, *_), row in zip(rows, TABLE, strict=True):
        on, off = PATTERNS[row.light.pattern]
        assert shown == f"{row.light.color}, {row.light.pattern}"
        assert times == (f"{on}, {off}" if off else "always on")
    assert "It is not a medical alarm system" in PAGE


# LEDs of the kernel


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    return Panel(tmp_path / "leds")


def leds(panel: Panel, clock: ManualClock | None = None, **keys: str) -> LedDriver:
    return LedDriver(Lights(driver="leds", **(keys or NAMES)), clock or ManualClock(), panel.folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("before", ["W1", "R2", "G1"])
@pytest.mark.parametrize("code", LIGHTS)
def test_leds_are_told_each_light_whatever_they_showed_before(panel: Panel, before: str, code: str) -> None:
    driver = leds(panel)
    driver.turn(LIGHTS[before])
    driver.turn(LIGHTS[code])
    assert panel.told() == TOLD[code]
    assert panel.code() == code


def test_a_kernel_without_fading_blinks_instead(panel: Panel) -> None:
    for name in NAMES.values():
        (panel.folder / name / "trigger").write_text("[none] timer\n")
    leds(panel).turn(LIGHTS["W1"])
    assert panel.told() == ("1500/1500",) * 3


def test_a_kernel_that_cannot_blink_shows_the_colour_and_says_so(panel: Panel) -> None:
    for name in NAMES.values():
        (panel.folder / name / "trigger").write_text("[none] mmc0\n")
    with pytest.raises(LightError, match="modprobe ledtrig-timer"):
        leds(panel).turn(LIGHTS["R2"])
    assert panel.told()[0] == ON


def test_an_led_that_is_not_there_is_named_with_those_that_are(panel: Panel) -> None:
    driver = leds(panel, red="edge:rot", green="edge:green")
    with pytest.raises(LightError) as said:
        driver.turn(LIGHTS["R1"])
    assert str(said.value) == (
        "There is no LED edge:rot; this machine has: edge:blue, edge:green, edge:red. "
        "Correct [lights] in the configuration."
    )


def test_an_led_that_went_and_came_back_shows_the_light_again(panel: Panel, tmp_path: Path) -> None:
    clock = ManualClock()
    driver = leds(panel, clock)
    driver.turn(LIGHTS["Y1"])
    (panel.folder / "edge:red").rename(tmp_path / "gone")
    driver.turn(LIGHTS["Y1"])
    clock.pass_time(6)
    for _ in range(3):
        with pytest.raises(LightError, match="There is no LED edge:red"):
            driver.turn(LIGHTS["Y1"])
    panel.plug("edge:red")
    driver.turn(LIGHTS["Y1"])
    assert panel.code() == "Y1"


@pytest.mark.parametrize("code", ["Y1", "R2", "W1"])
def test_an_led_that_somebody_else_set_is_set_again(panel: Panel, code: str) -> None:
    clock = ManualClock()
    driver = leds(panel, clock)
    driver.turn(LIGHTS[code])
    (panel.folder / "edge:red" / "trigger").write_text("none timer pattern [heartbeat]\n")
    clock.pass_time(6)
    driver.turn(LIGHTS[code])
    assert panel.code() == code


def test_a_light_that_stays_is_not_written_again(panel: Panel) -> None:
    clock = ManualClock()
    driver = leds(panel, clock)
    driver.turn(LIGHTS["R2"])
    written = {path: path.stat().st_mtime_ns for path in panel.folder.rglob("*")}
    for _ in range(20):
        clock.pass_time(1)
        driver.turn(LIGHTS["R2"])
    assert {path: path.stat().st_mtime_ns for path in panel.folder.rglob("*")} == written, "it would blink unevenly"


def test_files_of_a_trigger_are_waited_for_until_udev_has_given_them(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = Path.write_text, [3]

    def write_text(self: Path, text: str) -> int:
        if self.name == "delay_on" and refused[0]:
            refused[0] -= 1
            raise PermissionError(13, "Permission denied")
        return real(self, text)

    monkeypatch.setattr(Path, "write_text", write_text)
    leds(panel).turn(LIGHTS["R2"])
    assert panel.code() == "R2"
    refused[0] = 10**6
    with pytest.raises(LightError, match=r"may not write to the LED edge:green: install udev/71-edge-lights.rules"):
        leds(panel).turn(LIGHTS["G2"])


def test_an_led_of_many_colours_shows_each_light(panel: Panel) -> None:
    led = panel.plug("rgb:status", most=100)
    (led / "multi_index").write_text("green red blue\n")
    clock = ManualClock()
    driver = leds(panel, clock, multicolor="rgb:status")

    def mixed() -> str:
        return (led / "multi_intensity").read_text()

    driver.turn(LIGHTS["Y2"])
    assert (mixed(), (led / "trigger").read_text(), (led / "delay_on").read_text()) == ("100 100 0", "timer", "1000")
    driver.turn(LIGHTS["R1"])
    assert (mixed(), (led / "trigger").read_text(), (led / "brightness").read_text()) == ("0 100 0", "none", "100")
    driver.turn(LIGHTS["I1"])
    assert (mixed(), (led / "trigger").read_text()) == ("100 100 100", "none")
    shown = []
    for _ in range(4):
        clock.pass_time(driver.turn(LIGHTS["I1"]))
        driver.turn(LIGHTS["I1"])
        shown.append(mixed())
    assert shown == ["0 0 100", "100 100 100"] * 2


# GPIO


class FakeLines:
    """Lines of a chip in memory."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...], bool]] = []
        self.values: dict[int, bool] = {}
        self.error: Exception | None = None
        self.closed = 0

    def open(self, chip: str, numbers: tuple[int, ...], active_low: bool) -> Lines:  # noqa: FBT001
        if self.error is not None:
            raise self.error
        self.asked.append((chip, numbers, active_low))
        return self

    def set(self, values: Mapping[int, bool]) -> None:
        if self.error is not None:
            raise self.error
        self.values = dict(values)

    def close(self) -> None:
        self.closed += 1


PINS: Final = Lights(driver="gpio", red_line=17, green_line=27, blue_line=22, active_low=True)


def test_lines_blink_by_the_clock() -> None:
    clock, lines = ManualClock(), FakeLines()
    driver = GpioDriver(PINS, clock, lines.open)
    shown = []
    for _ in range(4):
        clock.pass_time(driver.turn(LIGHTS["R2"]))
        shown.append(dict(lines.values))
    on, off = {17: True, 27: False, 22: False}, {17: False, 27: False, 22: False}
    assert shown == [on, off, on, off]
    assert lines.asked == [("/dev/gpiochip0", (17, 27, 22), True)]
    assert driver.turn(LIGHTS["Y1"]) == pytest.approx(1.0)
    assert lines.values == {17: True, 27: True, 22: False}


def test_lines_that_fail_are_asked_for_again() -> None:
    lines = FakeLines()
    driver = GpioDriver(PINS, ManualClock(), lines.open)
    driver.turn(LIGHTS["G1"])
    lines.error = OSError(19, "No such device")
    with pytest.raises(LightError, match=r"/dev/gpiochip0 cannot be switched \(No such device\)"):
        driver.turn(LIGHTS["R1"])
    lines.error = None
    driver.turn(LIGHTS["R1"])
    assert (len(lines.asked), lines.closed, lines.values[17]) == (2, 1, True)


def test_without_the_package_or_the_chip_it_says_what_to_do(tmp_path: Path) -> None:
    no_package = FakeLines()
    no_package.error = ModuleNotFoundError("No module named 'gpiod'")
    with pytest.raises(LightError, match=r"pip install dicom-edge\[gpio\]"):
        GpioDriver(PINS, ManualClock(), no_package.open).turn(LIGHTS["G1"])
    nowhere = msgspec.structs.replace(PINS, chip=tmp_path / "gpiochip9")
    with pytest.raises(LightError):
        GpioDriver(nowhere, ManualClock(), open_lines).turn(LIGHTS["G1"])


# a file


def test_the_file_is_replaced_whole_and_says_since_when(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "light.json"
    driver = FileDriver(Lights(driver="file", path=path), clock)
    driver.turn(LIGHTS["Y1"])
    light = LIGHTS["Y1"]
    assert json.loads(path.read_text()) == {
        "code": "Y1",
        "color": "yellow",
        "pattern": "steady",
        "text": light.text,
        "since": "2027-01-15T08:00:00.000Z",
    }
    before = path.stat().st_ino
    clock.pass_time(60)
    driver.turn(LIGHTS["Y1"])
    assert path.stat().st_ino == before, "nothing changed"
    path.unlink()
    driver.turn(LIGHTS["Y1"])
    assert json.loads(path.read_text())["code"] == "Y1", "it is written again"
    driver.turn(LIGHTS["R2"])
    assert json.loads(path.read_text())["since"] == "2027-01-15T08:01:00.000Z"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    driver = FileDriver(Lights(driver="file", path=tmp_path / "none" / "light.json"), ManualClock())
    with pytest.raises(LightError, match=r"cannot be written \(No such file or directory\): make its folder"):
        driver.turn(LIGHTS["G1"])
    (tmp_path / "none").mkdir()
    driver.turn(LIGHTS["G1"])
    assert (tmp_path / "none" / "light.json").exists()


def test_the_driver_is_the_one_that_is_configured(tmp_path: Path) -> None:
    clock = ManualClock()
    assert isinstance(driver_of(Lights(), clock), NoDriver)
    assert isinstance(driver_of(Lights(driver="leds", red="x"), clock), LedDriver)
    assert isinstance(driver_of(PINS, clock), GpioDriver)
    assert isinstance(driver_of(Lights(driver="file", path=tmp_path), clock), FileDriver)


# the service


class FakeDriver:
    """Hardware in memory, which may fail or never answer."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.trouble = ""
        self.turns = 0
        self.began = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def turn(self, light: Light) -> float:
        self._loop.call_soon_threadsafe(self.began.set)
        self.turns += 1
        if self.trouble:
            raise LightError(self.trouble)
        if self.shown[-1:] != [light.code]:
            self.shown.append(light.code)
        return 5.0


class Served:
    """The service with a driver that is a fake and a clock that is a test's."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = Journal(self.clock)
        self.driver = FakeDriver()
        self.light = LIGHTS["G1"]
        self.service = LightService(lambda: self.light, lambda: LIGHTS["R2"], self.driver, self.journal, self.clock)

    async def turn(self, after: float = 1.0) -> None:
        self.clock.pass_time(after)
        await self.service.turn()


@pytest.fixture
async def served() -> Served:
    return Served()


async def test_the_hardware_follows_the_light_and_is_otherwise_left_alone(served: Served) -> None:
    for _ in range(5):
        await served.turn()
    assert (served.driver.shown, served.driver.turns) == (["G1"], 1)
    served.light = LIGHTS["R2"]
    await served.turn(0.1)
    assert served.driver.shown == ["G1", "R2"]
    await served.turn(5.0)
    assert served.driver.turns == 3, "it is looked at now and then"


async def test_a_light_that_cannot_be_shown_is_a_finding_until_it_can(served: Served) -> None:
    served.driver.trouble = "There is no LED x."
    for _ in range(12):
        await served.turn()
    (found,) = served.journal.open()
    assert (found.code, found.component, found.count) == ("LIGHT_UNUSABLE", "lights", 1)
    assert found.text == "The status light cannot be trusted: There is no LED x."
    assert 2 <= served.driver.turns <= 4
    served.driver.trouble = ""
    await served.turn(5.0)
    assert served.journal.open() == ()
    assert served.driver.shown == ["G1"]


async def test_what_is_left_behind_at_the_end_is_that_nothing_is_taken(served: Served) -> None:
    running = asyncio.create_task(served.service.run())
    async with asyncio.timeout(10):
        await served.driver.began.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert served.driver.shown == ["G1", "R2"]


async def test_a_light_that_never_answers_holds_up_nobody(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.lights.service._PATIENCE", 0.05)
    monkeypatch.setattr("edge.lights.service._EVERY", 0.05)
    hangs = threading.Event()
    monkeypatch.setattr(served.driver, "turn", lambda _: hangs.wait(30))
    await served.turn()
    assert "does not answer" in served.journal.open()[0].text
    served.service.leave()
    hangs.set()


async def test_a_driver_that_breaks_does_not_say_that_the_box_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: Light) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(served.driver, "turn", breaks)
    with pytest.raises(ZeroDivisionError):
        await served.service.run()
    assert served.driver.shown == []


# the configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('driver = "leds"', "lights.driver: name at least one LED: red, green and blue, or multicolor; see "),
        ('driver = "leds"\nred = "../../x"', "lights.red: this is no name of an LED"),
        ('driver = "leds"\nred = "a"\nblue = "a"', "lights.blue: it is red already"),
        ('driver = "leds"\nred = "a"\nmulticolor = "b"', "lights.multicolor: name one LED of many colours, or"),
        ('driver = "leds"\nred = "a"\nred_line = 1', 'lights.red_line: it does nothing with driver "leds"'),
        ('driver = "gpio"', "lights.driver: name at least one line: red_line, green_line, blue_line"),
        ('driver = "gpio"\nred_line = 4\ngreen_line = 4', "lights.green_line: it is red_line already"),
        ('driver = "gpio"\nred_line = -1', "lights.red_line: expected a whole number from 0 to 1023, not -1"),
        ('driver = "file"', 'lights.path: missing; driver "file" needs it'),
        ('red = "a"', 'lights.red: it does nothing with driver "none"'),
        ('driver = "laser"', 'lights.driver: expected "none", "leds", "gpio" or "file", not "laser"'),
    ],
)
def test_lights_that_cannot_be_meant_are_refused(text: str, said: str) -> None:
    with pytest.raises(Exception, match=r"line \d+: " + re.escape(said)):
        parse(f"[lights]\n{text}\n")


def test_lights_that_are_meant_are_taken() -> None:
    assert parse(CONFIG).config.lights == Lights(driver="leds", **NAMES)  # type: ignore[arg-type]
    assert parse('[lights]\ndriver = "gpio"\nred_line = 0\nactive_low = true').config.lights.red_line == 0
    assert parse('[lights]\ndriver = "leds"\nmulticolor = "rgb:status"').notices == ()
