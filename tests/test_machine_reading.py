"""What is read of the machine: from files made by hand, as a Raspberry Pi, a server and a bare container have them."""

import os
from pathlib import Path

import pytest

from edge.status.journal import journal
from edge.status.logbook import MOST_CHARACTERS, MOST_LINES, Logbook, leaving
from edge.status.machine import Machine, Memory, Temperature, Throttling, Timekeeping, look
from edge.status.medium import Medium
from edge.status.network import addresses, open_ports
from edge.status.versions import versions

MMC = "sys/block/mmcblk0"
FIB = """Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 192.168.10.0/24 2 0 2
        |-- 192.168.10.0
           /24 link UNICAST
        |-- 192.168.10.7
           /32 host LOCAL
        |-- 192.168.10.255
           /32 link BROADCAST
        |-- 169.254.3.4
           /32 host LOCAL
        |-- nonsense
           /32 host LOCAL
Local:
        |-- 192.168.10.7
           /32 host LOCAL
"""
IF_INET6 = """fd000000000000000000000000000007 02 40 00 80     eth0
fe8000000000000000fc00fffe000001 02 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
nonsense 01 80 00 80       lo
"""
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:2B68 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:A0D2 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
"""


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def seen(root: Path, **options: Path) -> Machine:
    return look(root, synchronised=lambda: False, **options)


def emmc(root: Path, **further: str) -> Medium:
    files = {"size": "61071360", "ro": "0", "device/type": "MMC", "device/name": "BJTD4R", "device/date": "03/2021"}
    for name, text in (files | {f"device/{key}": value for key, value in further.items()}).items():
        put(root, f"{MMC}/{name}", text + "\n")
    (medium,) = seen(root).media
    return medium


def test_a_machine_that_tells_nothing_is_told_as_such(tmp_path: Path) -> None:
    assert seen(tmp_path, storage=tmp_path) == Machine(
        model="",
        system="",
        kernel="",
        uptime=None,
        load=None,
        memory=None,
        temperatures=(),
        throttling=None,
        media=(),
        time=Timekeeping(zone="", synchronised=False, keeper="", battery=""),
    )
    assert addresses(tmp_path) == ()
    assert open_ports(tmp_path) is None


def test_a_raspberry_pi_is_read(tmp_path: Path) -> None:
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    put(tmp_path, "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n')
    put(tmp_path, "proc/sys/kernel/osrelease", "6.12.48+deb13-arm64\n")
    put(tmp_path, "proc/uptime", "950400.25 3700000.00\n")
    put(tmp_path, "proc/loadavg", "0.42 0.30 0.20 1/180 4711\n")
    put(
        tmp_path,
        "proc/meminfo",
        "MemTotal:  1900000 kB\nMemFree: 5 kB\nMemAvailable:  1100000 kB\nHugePages_Total: 0\n",
    )
    put(tmp_path, "proc/self/status", "Name:\tedge\nVmRSS:\t  210000 kB\n")
    machine = seen(tmp_path)
    assert machine.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine.system == "Debian GNU/Linux 13 (trixie)"
    assert machine.kernel == "6.12.48+deb13-arm64"
    assert (machine.uptime, machine.load) == (950400.25, 0.42)
    assert machine.memory == Memory(total=1900000 * 1024, available=1100000 * 1024, own=210000 * 1024)


def test_every_sensor_is_told_once_the_hottest_first_and_a_broken_one_is_not(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "51540\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", "51600\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "nvme\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", "63850\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/temp1_label", "Composite\n")
    put(tmp_path, "sys/class/hwmon/hwmon2/temp1_input", "65261850\n")
    put(tmp_path, "sys/class/hwmon/hwmon3/temp1_input", "hot\n")
    assert seen(tmp_path).temperatures == (Temperature("nvme Composite", 63.85), Temperature("cpu-thermal", 51.6))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("0", Throttling(low_voltage=False, was_low_voltage=False, slowed=False, was_slowed=False)),
        ("50005", Throttling(low_voltage=True, was_low_voltage=True, slowed=True, was_slowed=True)),
        ("80008", Throttling(low_voltage=False, was_low_voltage=False, slowed=True, was_slowed=True)),
        ("10000", Throttling(low_voltage=False, was_low_voltage=True, slowed=False, was_slowed=False)),
        ("", None),
        ("?", None),
    ],
)
def test_the_word_of_the_firmware_is_read(tmp_path: Path, word: str, told: Throttling | None) -> None:
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", word)
    assert seen(tmp_path).throttling == told


@pytest.mark.parametrize(
    ("life", "used"),
    [
        ("0x01 0x01", (0, 10)),
        ("0x02 0x09", (80, 90)),
        ("0x0B 0x01", (100, 110)),
        ("0x00 0x00", None),
        ("0x0C 0x0F", None),
        ("", None),
        ("worn", None),
    ],
)
def test_an_emmc_tells_how_much_of_its_life_is_used(tmp_path: Path, life: str, used: tuple[int, int] | None) -> None:
    medium = emmc(tmp_path, life_time=life)
    assert (medium.kind, medium.model, medium.made, medium.bytes) == ("emmc", "BJTD4R", "03/2021", 61071360 * 512)
    assert medium.life_used == used


@pytest.mark.parametrize(
    ("told", "spare"), [("0x01", "normal"), ("0x02", "low"), ("0x03", "used up"), ("0x00", ""), ("", ""), ("?", "")]
)
def test_an_emmc_tells_what_is_left_of_its_reserve(tmp_path: Path, told: str, spare: str) -> None:
    assert emmc(tmp_path, pre_eol_info=told).spare == spare


def test_a_card_tells_nothing_of_its_wear(tmp_path: Path) -> None:
    medium = emmc(tmp_path, type="SD")
    assert (medium.kind, medium.life_used, medium.spare) == ("card", None, "")


def test_only_real_disks_are_told(tmp_path: Path) -> None:
    for name in ("loop0", "zram0", "ram1", "dm-0", "sr0", "mmcblk0boot0", "mmcblk0boot1", "sdb"):
        put(tmp_path, f"sys/block/{name}/size", "0" if name == "sdb" else "100")
    put(tmp_path, "sys/block/sda/size", "100")
    put(tmp_path, "sys/block/sda/queue/rotational", "0")
    put(tmp_path, "sys/block/sdc/size", "100")
    put(tmp_path, "sys/block/sdc/queue/rotational", "1")
    put(tmp_path, "sys/block/nvme0n1/size", "100")
    put(tmp_path, "sys/block/nvme0n1/ro", "1")
    assert [(m.device, m.kind, m.read_only) for m in seen(tmp_path).media] == [
        ("nvme0n1", "nvme", True),
        ("sda", "ssd", False),
        ("sdc", "disk", False),
    ]


def test_what_was_written_and_what_went_wrong_is_told_for_the_whole_disk(tmp_path: Path) -> None:
    put(tmp_path, f"{MMC}/stat", "1 2 3 4 5 6 2000 8 9")
    for part, written, errors in (("mmcblk0p1", "1000", "0"), ("mmcblk0p2", "500", "3")):
        put(tmp_path, f"{MMC}/{part}/partition", part[-1])
        put(tmp_path, f"sys/fs/ext4/{part}/lifetime_write_kbytes", written)
        put(tmp_path, f"sys/fs/ext4/{part}/errors_count", errors)
    medium = emmc(tmp_path)
    assert (medium.written, medium.written_ever, medium.errors) == (2000 * 512, 1500 * 1024, 3)


def test_the_disk_that_holds_the_storage_is_found_below_partition_and_encryption_and_comes_first(
    tmp_path: Path,
) -> None:
    number = tmp_path.stat().st_dev
    devices = tmp_path / "sys/devices"
    put(tmp_path, "sys/devices/virtual/block/dm-0/size", "90")
    put(tmp_path, "sys/devices/nvme/nvme0n1/nvme0n1p3/partition", "3")
    put(tmp_path, "sys/devices/nvme/nvme0n1/size", "100")
    for link, target in (
        (f"sys/dev/block/{os.major(number)}:{os.minor(number)}", devices / "virtual/block/dm-0"),
        ("sys/devices/virtual/block/dm-0/slaves/nvme0n1p3", devices / "nvme/nvme0n1/nvme0n1p3"),
        ("sys/block/nvme0n1", devices / "nvme/nvme0n1"),
    ):
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(target)
    emmc(tmp_path / "other")
    put(tmp_path, f"{MMC}/size", "100")
    assert [(m.device, m.holds) for m in seen(tmp_path, storage=tmp_path).media] == [
        ("nvme0n1", True),
        ("mmcblk0", False),
    ]
    assert not any(m.holds for m in seen(tmp_path, storage=tmp_path / "nowhere").media)


def test_who_keeps_the_clock_is_told(tmp_path: Path) -> None:
    put(tmp_path, "run/chrony/chronyd.pid", "1")
    put(tmp_path, "sys/class/rtc/rtc0/name", "rtc-ds1307 1-0068\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/America/Santiago")
    time = look(tmp_path, synchronised=lambda: True).time
    assert time == Timekeeping(zone="America/Santiago", synchronised=True, keeper="chrony", battery="rtc-ds1307")


def test_the_addresses_are_those_that_others_can_use(tmp_path: Path) -> None:
    put(tmp_path, "proc/net/fib_trie", FIB)
    put(tmp_path, "proc/net/if_inet6", IF_INET6)
    assert addresses(tmp_path) == ("192.168.10.7", "fd00::7")


def test_a_port_is_open_where_something_listens_and_not_where_something_is_connected(tmp_path: Path) -> None:
    put(tmp_path, "proc/net/tcp", TCP)
    assert open_ports(tmp_path) == frozenset({11112})


def test_files_full_of_nonsense_end_nothing(tmp_path: Path) -> None:
    noise = bytes(range(256)) * 200
    for name in (
        *("proc/meminfo", "proc/uptime", "proc/loadavg", "proc/self/status", "proc/net/tcp", "proc/net/fib_trie"),
        *("proc/net/if_inet6", "etc/os-release", "proc/device-tree/model", f"{MMC}/size", f"{MMC}/stat"),
        *("sys/class/thermal/thermal_zone0/temp", "sys/devices/platform/soc/soc:firmware/get_throttled"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(noise)
    (tmp_path / "sys/class/rtc/rtc0/name").mkdir(parents=True)
    machine = seen(tmp_path, storage=tmp_path)
    assert (machine.uptime, machine.memory, machine.media) == (None, None, ())
    assert addresses(tmp_path) == ()
    assert open_ports(tmp_path) == frozenset()


def test_this_machine_is_read_without_root_or_any_program() -> None:
    machine = look(storage=Path("/"))
    assert machine.kernel
    assert machine.uptime is not None
    assert machine.memory is not None
    assert 0 < machine.memory.available <= machine.memory.total


def test_the_versions_of_what_it_is_made_of_are_known() -> None:
    told = versions()
    assert {"msgspec", "pydicom", "structlog"} <= set(told.libraries)
    assert told.openssl.startswith("OpenSSL")


# the log


def test_the_logbook_keeps_the_last_lines_within_bounds() -> None:
    book = Logbook()
    for number in range(MOST_LINES + 10):
        assert book(None, "info", f"line {number}") == f"line {number}"
    assert len(book.lines()) == MOST_LINES
    assert book.lines()[0] == "line 10"
    for _ in range(300):
        book(None, "info", "x" * 100_000)
    assert sum(map(len, book.lines())) <= MOST_CHARACTERS
    book(None, "info", "the last")
    assert book.lines()[-1] == "the last"


def test_of_an_exception_its_kind_and_its_places_leave_and_nothing_that_it_said() -> None:
    trace = (
        r'exception="Traceback (most recent call last):\n  File \"/opt/x/edge/web/app.py\", line 12, in serve\n'
        r"    x = y[name]\nKeyError: 'GARCIA^ANA \"x\"'\n\nDuring handling\n\n"
        r'  File \"/opt/x/edge/store/store.py\", line 7, in find\nedge.store.StoreError: no GARCIA\nGARCIA: x"'
    )
    (line,) = leaving([f'timestamp=2026-11-22T12:00:00Z level=error event="it failed" {trace} task=x'])
    assert "GARCIA" not in line
    assert "KeyError" in line
    assert 'at="store/store.py:7 find < web/app.py:12 serve"' in line
    assert line.endswith(" task=x")


def test_a_line_that_is_cut_in_its_exception_tells_nothing_of_it() -> None:
    (line,) = leaving(['timestamp=1 level=error event=x exception="Traceback\\nKeyError: GARCIA'])
    assert "GARCIA" not in line


def test_lines_that_are_not_ours_are_counted_and_left_out() -> None:
    lines = [
        "2026-11-22T12:00:00+0000 ct systemd[1]: Started edge.service - dicom-edge.",
        "2026-11-22T12:00:01+0000 ct edge[9]: timestamp=2026-11-22T12:00:01Z level=info event=ready",
        "2026-11-22T12:00:02+0000 ct edge[9]: KeyError: 'GARCIA^ANA'",
        "GARCIA^ANA",
    ]
    assert list(leaving(lines)) == [*lines[:2], "(2 lines of other forms are left out: they may hold anything)"]


def test_the_journal_is_read_by_its_own_program_and_its_silence_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert journal() == ()
    program = tmp_path / "journalctl"
    program.write_text('#!/bin/sh\nshift\necho "unit $1"\necho two\n', encoding="ascii")
    program.chmod(0o755)
    assert journal() == ("unit edge", "two")
    program.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    assert journal() == ()
    program.write_text("no program", encoding="ascii")
    assert journal() == ()
