"""bootenv: a torn write leaves the old state or the new one, writers take turns, and what is wrong is said."""

import fcntl
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs import loaded
from tests.uboot import BOOTENV, COPY, bootenv, tools

OFFSETS: Final = (0, 4 << 20)
SECTOR: Final = 512
SYSTEM: Final = BOOTENV.with_name("system.conf")
IDENTITY: Final = "0123456789abcdef0123456789abcdef"


PROGRAM: Final = loaded(BOOTENV)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    made = tmp_path / "BOOTENV"
    bootenv(made, "init")
    return made


def call(device: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, str(BOOTENV), "--device", str(device), *argv)
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def copies(device: Path) -> list[bytes]:
    data = device.read_bytes()
    return [data[offset : offset + COPY] for offset in OFFSETS]


def put(device: Path, copy: int, data: bytes) -> None:
    with device.open("r+b") as opened:
        opened.seek(OFFSETS[copy])
        opened.write(data)


def values(device: Path) -> dict[str, str]:
    with PROGRAM.opened(str(device), write=False) as store:
        return dict(store.read().values)


def block(text: bytes) -> bytes:
    """A copy with a right checksum, whatever it says."""
    body = text.ljust(COPY - 4, b"\0")[: COPY - 4]
    return zlib.crc32(body).to_bytes(4, "little") + body


def test_the_first_one_is_two_valid_copies_the_same_each_time(device: Path, tmp_path: Path) -> None:
    assert device.stat().st_size == 8 << 20
    assert all(PROGRAM.decode(copy).values == PROGRAM.DEFAULTS for copy in copies(device))
    bootenv(tmp_path / "again", "init")
    assert (tmp_path / "again").read_bytes() == device.read_bytes()


def test_only_the_copy_that_is_not_in_force_is_written(device: Path) -> None:
    for _ in range(4):
        before = copies(device)
        in_force = max((0, 1), key=lambda copy: PROGRAM.decode(before[copy]).serial)
        bootenv(device, "set", "BOOT_A_LEFT=1")
        after = copies(device)
        assert after[in_force] == before[in_force]
        assert PROGRAM.decode(after[1 - in_force]).serial == PROGRAM.decode(before[in_force]).serial + 1


def torn(old: bytes, new: bytes, cut: int) -> list[bytes]:
    """What a write may leave that ended at a byte, from the front or from the back."""
    return [new[:cut] + old[cut:], old[:cut] + new[cut:]]


@pytest.mark.parametrize("writes", [1, 2])
def test_a_write_that_is_cut_at_any_byte_leaves_the_old_state_or_the_new_one(device: Path, writes: int) -> None:
    for _ in range(writes):
        bootenv(device, "set-primary", "B")
    before, old = copies(device), values(device)
    bootenv(device, "set", "BOOT_ORDER=A B", "BOOT_A_LEFT=1", f"MACHINE_ID={IDENTITY}")
    after, new = copies(device), values(device)
    assert old != new
    written = next(copy for copy in (0, 1) if before[copy] != after[copy])
    cuts = [*range(260), *range(260, COPY, 509), COPY - 1, COPY]
    for cut in cuts:
        for left in torn(before[written], after[written], cut):
            put(device, written, left)
            found = values(device)
            assert found == (new if left == after[written] else old), cut


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(kept=st.sets(st.integers(0, COPY // SECTOR - 1)), noise=st.binary(max_size=SECTOR))
def test_sectors_written_in_any_order_or_as_noise_leave_one_of_the_two(
    device: Path, kept: set[int], noise: bytes
) -> None:
    state = PROGRAM.State(2, PROGRAM.DEFAULTS)
    older, new = PROGRAM.encode(PROGRAM.State(1, PROGRAM.DEFAULTS)), PROGRAM.encode(state.changed({"BOOT_B_LEFT": "0"}))
    left = bytearray(older)
    for sector in kept:
        left[sector * SECTOR : (sector + 1) * SECTOR] = new[sector * SECTOR : (sector + 1) * SECTOR]
    last = max(kept, default=0) * SECTOR
    left[last : last + len(noise)] = noise
    put(device, 0, PROGRAM.encode(state))
    put(device, 1, bytes(left))
    assert values(device)["BOOT_B_LEFT"] == ("0" if bytes(left) == new else "3")


@given(text=st.binary(max_size=300))
def test_no_text_with_a_right_checksum_is_more_than_defaults_or_sense(text: bytes) -> None:
    for said in (text, b"SERIAL=7\0" + text):
        found = PROGRAM.decode(block(said))
        if found is not None:
            assert PROGRAM.decode(PROGRAM.encode(found.changed({}))).values == found.values


@pytest.mark.parametrize(
    "serial", ["", "0", "07", "-1", "1g", "A", "8000000000000000", "1" * 17, "*4f", " 1", "nonsense"]
)
def test_a_copy_without_a_usable_serial_does_not_count(serial: str) -> None:
    assert PROGRAM.decode(block(f"SERIAL={serial}\0BOOT_ORDER=B A\0".encode())) is None


def test_nonsense_counts_as_its_default(device: Path) -> None:
    put(device, 0, block(b"SERIAL=ff\0BOOT_ORDER=B\0BOOT_A_LEFT=4\0BOOT_B_LEFT=\0MACHINE_ID=x\0novalue\0=\0"))
    assert values(device) == PROGRAM.DEFAULTS
    bootenv(device, "set", "BOOT_B_LEFT=1")
    assert bootenv(device, "get", "SERIAL") == "100"


def test_without_a_valid_copy_defaults_hold_and_it_says_so(device: Path) -> None:
    for copy in (0, 1):
        put(device, copy, b"\xff" * COPY)
    done = call(device, "get")
    assert done.stdout.splitlines() == ["SERIAL=0", "BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3", "MACHINE_ID="]
    assert "no valid copy" in done.stderr
    bootenv(device, "set-primary", "B")
    assert call(device, "get-primary").stderr == ""


def test_an_update_goes_through_the_verbs_of_rauc(device: Path) -> None:
    said = {verb: bootenv(device, *verb.split()) for verb in ("get-primary", "get-state A", "get-state B")}
    assert said == {"get-primary": "A", "get-state A": "good", "get-state B": "good"}
    bootenv(device, "set-state", "B", "bad")  # while it is written
    assert (bootenv(device, "get-state", "B"), bootenv(device, "get", "BOOT_B_LEFT")) == ("bad", "0")
    bootenv(device, "set-primary", "B")
    assert (bootenv(device, "get-primary"), bootenv(device, "get-state", "B")) == ("B", "good")
    assert (bootenv(device, "get", "BOOT_ORDER"), bootenv(device, "get", "BOOT_B_LEFT")) == ("B A", "2")
    bootenv(device, "set-state", "B", "good")
    assert bootenv(device, "get", "BOOT_B_LEFT") == "3"
    bootenv(device, "set-state", "B", "bad")
    assert bootenv(device, "get-primary") == "A"
    bootenv(device, "set-state", "A", "bad")
    assert bootenv(device, "get-primary") == "B"  # the last resort


def test_rauc_takes_its_configuration_and_keeps_what_starts_next_here(device: Path, tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text("rauc.slot=A\n")
    backend = tmp_path / "backend"
    backend.write_text(f'#!/bin/sh\nexec python3 {BOOTENV} --device {device} --cmdline {tmp_path / "cmdline"} "$@"\n')
    backend.chmod(0o755)
    (tmp_path / "keyring.pem").touch()
    (tmp_path / "data").mkdir()
    replaced = {
        "handlers:bootloader-custom-backend": backend,
        "keyring:path": tmp_path / "keyring.pem",
        "system:data-directory": tmp_path / "data",
    }
    options = " ".join(f"-C {name}={value}" for name, value in replaced.items())
    session = tmp_path / "session"
    session.write_text(f"""
        export DBUS_STARTER_BUS_TYPE=session
        rauc -c {SYSTEM} {options} service & service=$!
        asked="--session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner"
        until dbus-send $asked string:de.pengutronix.rauc | grep -q true; do kill -0 $service || exit 1; done
        rauc status mark-active other && rauc status mark-good booted && rauc status; ended=$?
        kill $service; exit $ended
    """)
    argv = tools().command(["dbus-run-session", "--", "sh", session], binds=[tmp_path, Path("/sys")])
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Booted from: rootfs.0 (A)" in done.stdout
    assert "Activated: rootfs.1 (B)" in done.stdout
    expected = {"BOOT_ORDER": "B A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "2", "MACHINE_ID": ""}
    assert values(device) == expected


def test_the_slot_that_runs_is_read_from_the_command_line_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text("root=PARTUUID=5e ro rauc.slot=B panic=10\n")
    (tmp_path / "other").write_text("root=/dev/sda1 xrauc.slot=B\n")
    nowhere = tmp_path / "nowhere"
    assert call(nowhere, "--cmdline", str(tmp_path / "cmdline"), "get-current").stdout == "B\n"
    done = call(nowhere, "--cmdline", str(tmp_path / "other"), "get-current")
    assert (done.returncode, done.stdout) == (1, "")
    assert "it was not boot.cmd that started this system" in done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("set", "BOOT_A_LEFT=4"), "BOOT_A_LEFT cannot be '4'. It must be 0 to 3."),
        (("set", "BOOT_A_LEFT=1\n"), "must be 0 to 3"),
        (("set", "BOOT_ORDER=B"), "It must be A B or B A."),
        (("set", f"MACHINE_ID={IDENTITY.upper()}"), "32 digits of 0-9 and a-f, or nothing"),
        (("set", f"MACHINE_ID={'0' * 20_000}"), "32 digits"),
        (("set", "SERIAL=9"), "'SERIAL' cannot be set"),
        (("set", "bootcmd=reset"), "'bootcmd' cannot be set. Use one of: BOOT_ORDER,"),
        (("set", "=x"), "'' cannot be set"),
        (("set", "BOOT_A_LEFT=1", "BOOT_B_LEFT"), "Write NAME=VALUE."),
        (("get", "bootcmd"), "There is no 'bootcmd'."),
    ],
)
def test_what_does_not_belong_is_refused_and_nothing_is_written(device: Path, argv: tuple[str, ...], said: str) -> None:
    before = device.read_bytes()
    done = call(device, *argv)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert device.read_bytes() == before


@pytest.mark.parametrize("argv", [(), ("set",), ("set-primary", "C"), ("set-state", "A", "fine"), ("get-state",)])
def test_a_wrong_call_ends_with_2(device: Path, argv: tuple[str, ...]) -> None:
    assert call(device, *argv).returncode == 2


def test_a_device_that_is_not_there_or_too_small_is_said(tmp_path: Path) -> None:
    done = call(tmp_path / "none", "get")
    assert done.returncode == 1
    assert "none: No such file or directory. This system was not started from the image's disk" in done.stderr
    assert call(tmp_path / "none", "set-primary", "A").returncode == 1
    assert not (tmp_path / "none").exists()
    (tmp_path / "small").write_bytes(bytes(COPY))
    assert "is too small for a boot environment" in call(tmp_path / "small", "get").stderr
    done = call(Path("/dev/full"), "init")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_card_that_keeps_nothing_is_said(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PROGRAM.opened(str(device), write=True) as store:
        monkeypatch.setattr(PROGRAM.os, "pwrite", lambda _fd, data, _offset: len(data))
        with pytest.raises(PROGRAM.BootenvError, match=r"does not keep what is written\. Replace the card"):
            store.write(store.read().changed({"BOOT_A_LEFT": "0"}))


def test_writers_take_turns(device: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda slot: call(device, "set-primary", slot), "ABABABAB"))
    assert [one.returncode for one in done] == [0] * 8
    assert bootenv(device, "get", "SERIAL") == "a"


def test_a_lock_that_is_never_let_go_of_is_said(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROGRAM, "_LOCK_PATIENCE", 0.0)
    with device.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(PROGRAM.BootenvError, match="held by another program"),
            PROGRAM.opened(str(device), write=True),
        ):
            pass
