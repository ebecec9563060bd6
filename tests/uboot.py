"""Debian's U-Boot in QEMU with the boot script, on a disk as small as can be.

The disk has the partitions of the image. The kernels in its slots are a few instructions: each says which slot it was
put into and the command line that it finds in the device tree, and switches the machine off. So a boot takes seconds,
and what it says is what a kernel got, not what the script believes.
"""

import os
import re
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from box.toolbox import BuildError, Toolbox, toolbox

from tests.peers.ports import missing, require

_FIRMWARE: Final = Path(__file__).parents[1] / "firmware-config"
BOOTENV: Final = _FIRMWARE / "rauc" / "bootenv"
SCRIPT: Final = _FIRMWARE / "boot" / "boot.cmd"
MIB: Final = 1 << 20
COPY: Final = 16 << 10
COPIES: Final = (5 * MIB, 9 * MIB)
"""Where the copies of the boot environment begin on the disk, in bytes."""
ENVIRONMENT: Final = 8 * MIB
SLOTS: Final = {"A": 13 * MIB, "B": 15 * MIB}
"""Where the slots begin, in bytes."""
SLOT: Final = 2 * MIB
_PATIENCE: Final = 60.0
PL011: Final = 0x0900_0000
"""The UART of QEMU's virt."""
_ANYWHERE: Final = 0xA
"""Flags of an Image that runs wherever it is loaded, as all of today do."""
_LAYOUT: Final = """
image firmware.vfat { size = 4M
  vfat { files = { "boot.scr" } } }
image disk.img {
  hdimage { partition-table-type = gpt }
  partition FIRMWARE { image = "firmware.vfat"
    offset = 1M }
  partition BOOTENV { image = "bootenv.img"
    offset = 5M }
  partition rootfs_a { image = "A.ext4"
    offset = 13M
    partition-uuid = 5ed6e0a0-0000-4000-8000-00000000000a }
  partition rootfs_b { image = "B.ext4"
    offset = 15M
    partition-uuid = 5ed6e0a0-0000-4000-8000-00000000000b }
}
"""


def tools() -> Toolbox:
    """The toolbox of the image; where it cannot be made the test is skipped."""
    require("bwrap")
    try:
        return toolbox()
    except BuildError as e:
        missing(str(e))


def kernel(slot: str, uart: int = PL011) -> bytes:
    """An arm64 Image that names ``slot`` and its command line on the UART, and switches off by PSCI."""
    print_x1 = [0x38401424, 0x34000064, 0x390000A4, 0x17FFFFFD]  # ldrb w4, [x1], #1; cbz w4, out; strb w4, [x5]; b
    code = [*_word(5, uart.to_bytes(4, "little"))]
    code += [_adr_x1(32 - len(code)), *print_x1]
    code += [*_word(2, b"root"), *_word(3, b"=PAR"), 0xAA0003E1]  # mov x1, x0: the device tree
    code += [0xB8404424, 0x6B02009F, 0x54FFFFC1]  # ldr w4, [x1], #4; cmp w4, w2; b.ne
    code += [0xB9400024, 0x6B03009F, 0x54FFFF61, 0xD1001021]  # ldr w4, [x1]; cmp w4, w3; b.ne; sub x1, x1, #4
    code += print_x1
    code += [_adr_x1(34 - len(code)), *print_x1]
    code += [*_word(0, (0x84000008).to_bytes(4, "little")), 0xD4000002, 0x14000000]  # PSCI SYSTEM_OFF by hvc
    text = f"<{slot}: ".encode().ljust(8, b"\0") + b">\n\0"
    body = struct.pack(f"<{len(code)}I", *code) + text
    header = struct.pack("<IIQQQQQQ4sI", 0x14000010, 0, 0, 64 + len(body), _ANYWHERE, 0, 0, 0, b"ARM\x64", 0)
    return header + body


def _word(register: int, word: bytes) -> tuple[int, int]:
    """Movz and movk of four bytes."""
    low, high = struct.unpack("<HH", word)
    return 0x52800000 | low << 5 | register, 0x72A00000 | high << 5 | register


def _adr_x1(ahead: int) -> int:
    """Address of what lies so many instructions ahead, into x1."""
    return 0x10000001 | ahead << 5


def slot(folder: Path, name: str, *, image: bytes | None = None, initrd: bytes | None = b"initrd") -> bytes:
    """A slot as ext4, with the link to the kernel that Debian makes.

    With ``image`` another kernel; with b"" a link that leads nowhere. With None as ``initrd`` there is none.
    """
    root = folder / f"{name}.root"
    shutil.rmtree(root, ignore_errors=True)
    (root / "boot").mkdir(parents=True)
    if image != b"":
        (root / "boot" / "vmlinuz-6.12").write_bytes(image or kernel(name))
    (root / "boot" / "vmlinuz").symlink_to("vmlinuz-6.12")
    if initrd is not None:
        (root / "boot" / "initrd.img").write_bytes(initrd)
    made = folder / f"{name}.ext4"
    made.unlink(missing_ok=True)
    _inside(folder, "mke2fs", "-q", "-t", "ext4", "-b", "1024", "-d", root, made, str(SLOT // 1024))
    return made.read_bytes()


def _inside(folder: Path, *argv: str | Path) -> None:
    """Run a tool of the image on what is in ``folder``. Fails the test with what it said."""
    done = subprocess.run(
        tools().command(argv, binds=[folder]), capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"


def bootenv(device: Path, *argv: str) -> str:
    """What the program says about a file. Fails the test where it fails."""
    argv = (sys.executable, str(BOOTENV), "--device", str(device), *argv)
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def first_disk(folder: Path) -> Path:
    """The disk with both slots whole, and a boot environment of defaults."""
    (folder / "layout").write_text(_LAYOUT)
    _inside(folder, "mkimage", "-A", "arm64", "-T", "script", "-d", SCRIPT, folder / "boot.scr")
    bootenv(folder / "bootenv.img", "init")
    for name in SLOTS:
        slot(folder, name)
    places = {"config": "layout", "inputpath": ".", "outputpath": ".", "rootpath": "A.root", "tmppath": "tmp"}
    _inside(folder, "genimage", *(f"--{name}={folder / place}" for name, place in places.items()))
    return folder / "disk.img"


class Disk:
    """A disk that a test may break."""

    def __init__(self, path: Path, first: Path) -> None:
        self.path = path
        shutil.copyfile(first, path)

    def put(self, offset: int, data: bytes) -> None:
        """Write there, as a torn write, a bad card or an update would."""
        with self.path.open("r+b") as disk:
            disk.seek(offset)
            disk.write(data)

    def environment(self, *argv: str) -> str:
        """Call bootenv on the partition, as the system in a slot would."""
        image = self.path.with_suffix(".bootenv")
        with self.path.open("rb") as disk:
            disk.seek(COPIES[0])
            image.write_bytes(disk.read(ENVIRONMENT))
        said = bootenv(image, *argv)
        self.put(COPIES[0], image.read_bytes())
        return said

    def boot(self, *, until: str | None = None, locked: bool = False) -> "Boot":
        """Start U-Boot, until the machine is off or ``until`` was said; ``locked`` takes no writes.

        Raises TimeoutError after a minute.
        """
        here, locking = tools(), "on" if locked else "off"
        argv = [
            *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-m", "256M", "-display", "none"),
            *("-serial", "stdio", "-monitor", "none", "-nic", "none", "-no-reboot"),
            *("-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"),
            *("-drive", f"file={self.path},format=raw,if=none,id=card,readonly={locking}"),
            *("-device", "virtio-blk-device,drive=card"),
        ]
        return Boot(_talk(here.command(argv, binds=[self.path.parent]), until))


class Boot:
    """What a boot said."""

    def __init__(self, said: str) -> None:
        self.said = said

    @property
    def lines(self) -> list[str]:
        """What the script said, for people."""
        return re.findall("^dicom-edge: (.*)$", self.said, re.MULTILINE)

    @property
    def slot(self) -> str:
        """Whose kernel ran. Fails the test where none did."""
        found = re.findall("<(.): ", self.said)
        assert len(found) == 1, self.said
        return str(found[0])

    @property
    def arguments(self) -> list[str]:
        """The command line that the kernel found."""
        found = re.search("<.: ([^>]*)>", self.said)
        assert found is not None, self.said
        return found[1].split()


def _talk(argv: list[str], until: str | None) -> str:
    """Start the machine, skip U-Boot's wait for a key; what it said until then, or until it was off."""
    said, answers = b"", [("stop autoboot", b"\r"), ("\n(?:=|U-Boot)> ", b"boot\r")]
    deadline = time.monotonic() + _PATIENCE
    machine = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
    assert machine.stdin is not None
    assert machine.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(machine.stdout, selectors.EVENT_READ)
            while until is None or until.encode() not in said:
                if not selector.select(deadline - time.monotonic()):
                    raise TimeoutError(f"not over after {_PATIENCE:g} s: {said.decode(errors='replace')}")
                heard = os.read(machine.stdout.fileno(), 65536)
                if not heard:
                    break
                said += heard.replace(b"\r", b"")
                if answers and re.search(answers[0][0].encode(), said):
                    machine.stdin.write(answers.pop(0)[1])
    finally:
        os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()
        machine.stdin.close()
        machine.stdout.close()
    return said.decode(errors="replace")
