"""A machine made by QEMU that runs the image: for a person to try, and for the tests to torment.

Ports of the box are reached on loopback. The console of the box is a socket; whoever is at it is root without a
password, since QEMU says so to systemd (its credentials agetty.autologin and login.noauth): on a real board nobody can.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from box.rootfs import Arch
from box.toolbox import Toolbox

_CREDENTIALS: Final = {"agetty.autologin": "root", "login.noauth": "yes"}
_ENDING: Final = 10.0
"""Seconds."""


class MachineError(Exception):
    """The machine did not do what was waited for; the end of its console is in the text."""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What machine: by U-Boot from the disk as a board does it, or with a kernel given (``kernel``, ``initrd``)."""

    arch: Arch
    disk: Path
    format: Literal["raw", "qcow2"] = "raw"
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    memory: int = 1024
    """MiB."""
    ports: Mapping[int, int] = {}
    """Port on loopback of the host: port of the box."""
    clock: str = "utc"
    """As QEMU's ``-rtc base=``."""
    network: bool = True
    terminal: bool = False
    """Its console is this terminal instead of a socket."""
    blockdevs: Sequence[str] = ()
    """As QEMU's ``-blockdev``, instead of ``disk`` by itself; one of them has the node name ``disk``."""
    extra: Sequence[str] = ()
    board: Path | None = None
    """A Raspberry Pi 3 instead, whose firmware lies in this folder; it has a console and a card, and no network."""


def command(hardware: Hardware, toolbox: Toolbox, *, folder: Path) -> list[str]:
    """The command line; sockets of console and monitor lie in ``folder``."""
    given = [f"{host}-:{guest}" for host, guest in hardware.ports.items()]
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{one}" for one in given)
    if hardware.arch == "arm64":
        machine = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2"]
    else:
        machine = ["qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-smp", "2"]
    if hardware.kernel:
        start = ["-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd), "-append", hardware.append]
    else:
        start = ["-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"]
    network = f"user,id=net{forwards}" if hardware.network else f"user,id=net,restrict=on{forwards}"
    socket_of = f"socket,id=console,path={folder / 'console'},server=on,wait=off,logfile={folder / 'console.log'}"
    console = "stdio,id=console,mux=on,signal=off" if hardware.terminal else socket_of
    told = [f"name=opt/io.systemd.credentials/{name},string={value}" for name, value in _CREDENTIALS.items()]
    if hardware.board:
        return toolbox.command(
            _raspberry(hardware, hardware.board, console, folder), binds=[folder, hardware.disk.parent]
        )
    argv = [
        *(*machine, "-m", str(hardware.memory), "-nodefaults", "-no-user-config", "-nographic", *start),
        *_disk(hardware),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-rtc", f"base={hardware.clock}", "-device", "i6300esb", "-action", "watchdog=reset"),
        *("-device", "virtio-rng-pci"),
        *("-chardev", console, "-serial", "chardev:console"),
        *("-qmp", f"unix:{folder / 'monitor'},server=on,wait=off"),
        *(part for one in told for part in ("-fw_cfg", one)),
        *hardware.extra,
    ]
    return toolbox.command(argv, binds=[folder, hardware.disk.parent])


def _raspberry(hardware: Hardware, board: Path, console: str, folder: Path) -> list[str]:
    # what the board's own firmware would do, QEMU does: it loads U-Boot and the device tree
    return [
        *("qemu-system-aarch64", "-M", "raspi3b", "-nodefaults", "-no-user-config", "-nographic"),
        *("-kernel", str(board / "u-boot.bin"), "-dtb", str(board / "bcm2837-rpi-3-b.dtb")),
        *("-drive", f"if=sd,file={hardware.disk},format={hardware.format},cache=writeback"),
        # the second is the one on the pins
        *("-serial", "null", "-chardev", console, "-serial", "chardev:console"),
        *("-qmp", f"unix:{folder / 'monitor'},server=on,wait=off"),
        *hardware.extra,
    ]


def _disk(hardware: Hardware) -> list[str]:
    if hardware.blockdevs:
        return [part for one in hardware.blockdevs for part in ("-blockdev", one)]
    return ["-drive", f"if=none,id=disk,file={hardware.disk},format={hardware.format},cache=writeback"]


class Machine:
    """A machine that runs, from entering to leaving the context."""

    def __init__(self, hardware: Hardware, toolbox: Toolbox, folder: Path) -> None:
        self._argv = command(hardware, toolbox, folder=folder)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._console: socket.socket | None = None
        self._told = bytearray()
        self._ended = False
        self._changed = threading.Condition()
        self._number = 0

    def __enter__(self) -> Self:
        for name in ("console", "monitor"):
            (self._folder / name).unlink(missing_ok=True)
        output = (self._folder / "qemu.log").open("wb")
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        output.close()
        self._console = self._connect("console")
        self._reader = threading.Thread(target=self._read, args=(self._console,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """The plug is pulled: SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._console is not None:
            # what QEMU held, the lock of the disk among it, is free once its console has ended
            self._reader.join(_ENDING)
            self._console.close()
            self._console = None

    def wait(self, seconds: float) -> None:
        """Wait until the machine is switched off. Raises `MachineError`."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise MachineError(f"it did not switch off within {seconds:.0f} s{self._end()}") from None

    @property
    def console(self) -> str:
        """What the console said since the start."""
        return self._told.decode(errors="replace")

    def expect(self, text: str, seconds: float, *, after: int = 0) -> int:
        """Wait until the console says ``text`` at or past ``after``; where it stands ends. Raises `MachineError`."""
        assert self._console is not None
        until = time.monotonic() + seconds
        wanted = text.encode()
        with self._changed:
            while (at := self._told.find(wanted, after)) < 0:
                after = max(after, len(self._told) - len(wanted))
                left = until - time.monotonic()
                if self._ended or left <= 0:
                    why = (
                        f"the machine ended before it said {text!r}"
                        if self._ended
                        else f"the console did not say {text!r} within {seconds:.0f} s"
                    )
                    raise MachineError(f"{why}{self._end()}")
                self._changed.wait(left)
        return at + len(wanted)

    @property
    def said(self) -> int:
        """How much the console said so far: ``after`` for what comes next."""
        return len(self._told)

    def login(self, seconds: float, *, after: int = 0) -> None:
        """Wait for a shell, one of a later start ``after`` it, and make it quiet. Raises `MachineError`."""
        assert self._console is not None
        at = self.expect("root@", seconds, after=after)
        self._console.sendall(b"stty -echo; PS1=; export PAGER=cat SYSTEMD_COLORS=0; dmesg -n 1; echo rea''dy\n")
        self.expect("ready", 60, after=at)

    def type(self, line: str) -> None:
        """Type a line at the console, and wait for nothing."""
        assert self._console is not None
        self._console.sendall(f"{line}\n".encode())

    def run(self, line: str, *, seconds: float = 60) -> tuple[int, str]:
        """Run a shell command at the console: its exit code and what it said. Raises `MachineError`."""
        assert self._console is not None
        self._number += 1
        start, end = f"<<{self._number}", f"{self._number}>>"
        at = len(self._told)
        # what is said may end in the middle of a line
        ending = f"code=$?; echo; echo $code '{self._number}>''>'"
        self._console.sendall(f"echo '<''<{self._number}'; ( {line} ) 2>&1 </dev/null; {ending}\n".encode())
        begun = self.expect(f"{start}\r\n", seconds, after=at)
        finish = self.expect(f" {end}", seconds, after=begun)
        said = self._told[begun : finish - len(end) - 1].decode(errors="replace").replace("\r\n", "\n")
        text, _, code = said.rpartition("\n") if "\n" in said else ("", "", said)
        return int(code), text.removesuffix("\n")

    def monitor(self, execute: str, **arguments: object) -> Any:
        """Tell QEMU (QMP); what it answers."""
        with self._connect("monitor") as line, line.makefile("rw") as stream:
            json.loads(stream.readline())
            answer: dict[str, Any] = {}
            for told in ({"execute": "qmp_capabilities"}, {"execute": execute, "arguments": arguments}):
                stream.write(json.dumps(told) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
            return answer.get("return")

    def _read(self, console: socket.socket) -> None:
        # at all times, whoever waits for what: QEMU halts a machine whose console nobody takes
        got = b"nothing yet"
        while got:
            try:
                got = console.recv(65536)
            except OSError:
                got = b""
            with self._changed:
                self._told += got
                self._ended = not got
                self._changed.notify_all()

    def _connect(self, name: str) -> socket.socket:
        assert self._process is not None
        until = time.monotonic() + 20
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self._folder / name))
            except OSError:
                line.close()
                if self._process.poll() is not None or time.monotonic() > until:
                    said = (self._folder / "qemu.log").read_text(errors="replace")
                    raise MachineError(f"QEMU does not run: {said.strip() or 'it said nothing'}") from None
                time.sleep(0.05)
            else:
                return line

    def _end(self) -> str:
        return "; the end of its console:\n" + "\n".join(self.console.splitlines()[-25:])
