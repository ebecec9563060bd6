"""The boot script in Debian's U-Boot: which slot starts, what a try costs, and that there is always one that starts."""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.uboot import COPIES, COPY, SLOT, SLOTS, Disk, first_disk, slot

pytestmark = pytest.mark.rig

IDENTITY: Final = "0123456789abcdef0123456789abcdef"
EMPTY: Final = bytes(SLOT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_disk(tmp_path_factory.mktemp("first"))


@pytest.fixture
def disk(whole: Path, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "card.img", whole)
    yield made
    made.path.unlink()


def state(disk: Disk) -> dict[str, str]:
    """What bootenv finds after a boot, but for the serial."""
    found = dict(line.split("=", 1) for line in disk.environment("get").splitlines())
    del found["SERIAL"]
    return found


def left(disk: Disk) -> tuple[str, str]:
    found = state(disk)
    return found["BOOT_A_LEFT"], found["BOOT_B_LEFT"]


def block(**fields: str) -> bytes:
    """A copy with a right checksum, whatever it says."""
    body = b"".join(f"{name}={value}".encode() + b"\0" for name, value in fields.items()).ljust(COPY - 4, b"\0")
    return zlib.crc32(body).to_bytes(4, "little") + body


def tear(disk: Disk, copy: int) -> None:
    disk.put(COPIES[copy] + 600, b"\xa5" * 512)


def test_a_new_box_starts_slot_a_and_each_boot_costs_a_try_until_b_has_its_turn(disk: Disk) -> None:
    disk.environment("set", f"MACHINE_ID={IDENTITY}", "BOOT_A_LEFT=2")
    first = disk.boot()
    assert first.slot == "A"
    assert first.arguments == [
        "root=PARTUUID=5ed6e0a0-0000-4000-8000-00000000000a",
        *("ro", "rootwait=10", "rauc.slot=A", "panic=10", "fsck.repair=yes", "console=ttyAMA0"),
        f"systemd.machine_id={IDENTITY}",
    ]
    assert first.lines[1:3] == [
        "order A B, tries left: A 2, B 3",
        "starting slot A, tries left after this one: 1",
    ]
    assert left(disk) == ("1", "3")
    assert disk.boot().slot == "A"
    assert left(disk) == ("0", "3")
    fallback = disk.boot()
    assert fallback.slot == "B"
    assert fallback.arguments[0] == "root=PARTUUID=5ed6e0a0-0000-4000-8000-00000000000b"
    assert "rauc.slot=B" in fallback.arguments
    assert "slot A has no tries left" in fallback.lines
    expected = {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "0", "BOOT_B_LEFT": "2", "MACHINE_ID": IDENTITY}
    assert state(disk) == expected


def test_an_update_has_two_tries_and_then_the_old_slot_runs_again(disk: Disk) -> None:
    disk.environment("set-primary", "B")
    assert [disk.boot().slot for _ in range(3)] == ["B", "B", "A"]
    assert left(disk) == ("2", "0")


def test_an_update_that_proved_good_stays(disk: Disk) -> None:
    disk.environment("set-primary", "B")
    assert disk.boot().slot == "B"
    disk.environment("set-state", "B", "good")
    assert disk.boot().slot == "B"
    assert state(disk)["BOOT_ORDER"] == "B A"
    assert left(disk) == ("3", "2")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("empty", "slot B has no kernel that can be read"),
        ("no kernel", "slot B has no kernel that can be read"),
        ("not a kernel", "slot B has a kernel that cannot be started"),
        ("no initrd", "slot B has no initrd that can be read"),
        ("initrd of no length", "slot B has no initrd that can be read"),
    ],
)
def test_a_slot_that_does_not_load_costs_its_try_and_the_other_starts(
    disk: Disk, tmp_path: Path, broken: str, said: str
) -> None:
    made = {
        "empty": lambda: EMPTY,
        "no kernel": lambda: slot(tmp_path, "B", image=b""),
        "not a kernel": lambda: slot(tmp_path, "B", image=bytes(4096)),
        "no initrd": lambda: slot(tmp_path, "B", initrd=None),
        "initrd of no length": lambda: slot(tmp_path, "B", initrd=b""),
    }
    disk.put(SLOTS["B"], made[broken]())
    disk.environment("set-primary", "B")
    boot = disk.boot()
    assert boot.slot == "A"
    assert said in boot.lines
    assert left(disk) == ("2", "1")


@pytest.mark.parametrize("copy", [0, 1])
def test_either_copy_may_be_torn(disk: Disk, copy: int) -> None:
    disk.environment("set", f"MACHINE_ID={IDENTITY}")
    disk.environment("set", "BOOT_ORDER=B A")  # both copies know the identity; the newer one says B
    newer = disk.path.read_bytes()[COPIES[0] :].find(b"BOOT_ORDER=B A") // (4 << 20)
    tear(disk, copy)
    boot = disk.boot()
    assert boot.slot == ("A" if copy == newer else "B")
    assert f"systemd.machine_id={IDENTITY}" in boot.arguments
    assert disk.boot().slot == boot.slot
    assert left(disk) == (("1", "3") if copy == newer else ("3", "1"))


def test_both_copies_torn_start_with_defaults_and_are_whole_after_two_boots(
    disk: Disk, capfd: pytest.CaptureFixture[str]
) -> None:
    disk.environment("set", "BOOT_ORDER=B A", f"MACHINE_ID={IDENTITY}")
    tear(disk, 0)
    tear(disk, 1)
    boot = disk.boot()
    assert boot.slot == "A"
    assert "both copies of the boot environment are damaged, going on with defaults" in boot.lines
    assert not re.search("machine_id", " ".join(boot.arguments))
    assert left(disk) == ("2", "3")
    assert disk.boot().slot == "A"
    tear(disk, 0)
    assert left(disk) in {("2", "3"), ("1", "3")}
    assert "no valid copy" not in capfd.readouterr().err


def test_with_no_tries_left_anywhere_what_loads_is_started(disk: Disk) -> None:
    disk.environment("set", "BOOT_A_LEFT=0", "BOOT_B_LEFT=0")
    boot = disk.boot()
    assert boot.slot == "A"
    assert "no slot with tries left starts, last resort: any that loads" in boot.lines
    disk.put(SLOTS["A"], EMPTY)
    assert disk.boot().slot == "B"
    assert left(disk) == ("0", "0")


def test_a_slot_without_tries_is_started_rather_than_one_that_does_not_load(disk: Disk) -> None:
    disk.put(SLOTS["B"], EMPTY)
    disk.environment("set", "BOOT_A_LEFT=0")
    assert disk.boot().slot == "A"
    assert left(disk) == ("0", "2")


def test_a_card_that_takes_no_writes_is_said_and_starts_all_the_same(disk: Disk) -> None:
    boot = disk.boot(locked=True)
    assert boot.slot == "A"
    assert "the try cannot be noted: the card does not take it. Starting all the same" in boot.lines
    assert left(disk) == ("3", "3")


def test_two_empty_slots_are_said_in_plain_words(disk: Disk) -> None:
    for offset in SLOTS.values():
        disk.put(offset, EMPTY)
    boot = disk.boot(until="Trying again in a minute")
    assert "neither slot starts. Put in a card with a working image. Trying again in a minute" in boot.lines


@pytest.mark.parametrize(
    ("copies", "slots", "after"),
    [
        pytest.param(
            [
                block(SERIAL="8", BOOT_ORDER="B A", BOOT_A_LEFT="1", BOOT_B_LEFT="1", MACHINE_ID=IDENTITY),
                block(SERIAL="9", BOOT_A_LEFT="lots", BOOT_B_LEFT="-1"),
            ],
            ["A"],
            ("2", "3"),
            id="nothing of the older copy stays",
        ),
        pytest.param(
            [
                block(SERIAL="a", BOOT_ORDER="; reset", BOOT_A_LEFT="*0", BOOT_B_LEFT="99999999", MACHINE_ID="x y"),
                block(SERIAL="9", BOOT_ORDER="B A"),
            ],
            ["A", "A", "A", "B"],
            ("0", "2"),
            id="no value is believed or run",
        ),
        pytest.param(
            [block(SERIAL="nonsense", BOOT_ORDER="B A"), block(SERIAL="*ffffffffffff", BOOT_ORDER="B A")],
            ["A"],
            ("2", "3"),
            id="a serial that is no number",
        ),
        pytest.param(
            [block(SERIAL="1" * 17, BOOT_ORDER="B A"), block(SERIAL="1", BOOT_ORDER="A B")],
            ["A"],
            ("2", "3"),
            id="a serial beyond all numbers",
        ),
        pytest.param(
            [block(SERIAL="f", BOOT_ORDER="B A"), block(SERIAL="10", BOOT_ORDER="A B")],
            ["A", "A"],
            ("1", "3"),
            id="a serial that gets longer",
        ),
    ],
)
def test_a_checksum_that_is_right_does_not_make_sense_of_nonsense(
    disk: Disk, copies: list[bytes], slots: list[str], after: tuple[str, str]
) -> None:
    for offset, data in zip(COPIES, copies, strict=True):
        disk.put(offset, data)
    boots = [disk.boot() for _ in slots]
    assert [boot.slot for boot in boots] == slots
    assert not any("machine_id" in " ".join(boot.arguments) for boot in boots)
    assert left(disk) == after
