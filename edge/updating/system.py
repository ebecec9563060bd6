"""The programs that root's side runs: rauc, busctl and systemctl. What they say becomes a code and a line."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

_SECONDS: Final = 300.0
"""For anything but an installation, which takes as long as it takes."""
_MARK: Final = (
    *("busctl", "call", f"--timeout={_SECONDS:.0f}", "de.pengutronix.rauc", "/", "de.pengutronix.rauc.Installer"),
    *("Mark", "ss"),
)
"""As `rauc status mark-…` does, which asks for much else before and gives a busy machine no more than 25 s for it."""
_MOST_TEXT: Final = 300
_SIGNS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("NO_ROOM", re.compile(r"no space left|not enough (free )?space|larger than|too large", re.IGNORECASE)),
    ("INCOMPATIBLE", re.compile(r"compatible mismatch|not compatible", re.IGNORECASE)),
    ("BAD_SIGNATURE", re.compile(r"signature|invalid bundle|verif|certificate", re.IGNORECASE)),
)
"""What rauc says, from the most to the least certain."""
_LOG: Final = ("rauc-Message", "rauc-DEBUG", "rauc-INFO")
_ERROR: Final = "LastError: "
_BOOTENV: Final = "/usr/lib/edge/bootenv"
_PORTS: Final = re.compile(r"receiving on \[([0-9, ]{1,200})\]")


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a program came to. ``code`` is 127 where there is none."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """What it said last, for people."""
        lines = self.said.splitlines()
        # after this one rauc says only that it failed
        errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        lines = errors or lines
        return lines[-1][:_MOST_TEXT] if lines else f"it ended with {self.code}"

    @property
    def said(self) -> str:
        """All that it said but for the lines of its log, which name every step, also those that went well."""
        lines = (line.strip() for line in f"{self.out}\n{self.err}".splitlines())
        return "\n".join(line for line in lines if line and not line.startswith(_LOG))


Run = Callable[[Sequence[str], float | None], Ran]
"""Runs a program for at most so many seconds."""


def run(argv: Sequence[str], seconds: float | None) -> Ran:
    """Run a program to its end."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as e:
        return Ran(code=127, out="", err=f"{argv[0]}: {e.strerror or e}")
    except subprocess.TimeoutExpired:
        return Ran(code=124, out="", err=f"{argv[0]} took longer than {seconds:.0f} s")
    return Ran(
        code=done.returncode, out=done.stdout.decode("utf-8", "replace"), err=done.stderr.decode("utf-8", "replace")
    )


class ToolError(Exception):
    """A program failed; ``code`` is one of `edge.updating.reasons.REASONS`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Bundle(msgspec.Struct, frozen=True):
    """What is signed in a bundle."""

    version: str
    schema: int | None
    """Version of the database that its program has; None where it does not say."""


class _Update(msgspec.Struct, frozen=True):
    version: str = ""


class _Own(msgspec.Struct, frozen=True):
    schema: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,6})?$(?!\n)")] = ""


class _Meta(msgspec.Struct, frozen=True):
    own: _Own = msgspec.field(name="dicom-edge", default=_Own())


class _Info(msgspec.Struct, frozen=True):
    """As rauc says it, without what is of no matter here."""

    update: _Update
    meta: _Meta = _Meta()


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """How edge.service is."""

    active: str
    """As systemd calls it: ``active``, ``activating``, ``failed``…"""
    queued: bool = False
    """Whether it is about to be started, once what comes before it is."""
    restarts: int
    ports: tuple[int, ...]
    """On which it says that it receives; empty where it says none."""


class System:
    """rauc, busctl and systemctl."""

    def __init__(self, run: Run = run) -> None:
        self._run = run

    def bundle(self, path: Path) -> Bundle:
        """Read a bundle whose signature is good. Raises `ToolError`."""
        # the older format, json, leaves out what a bundle says beyond RAUC's own
        done = self._rauc("info", "--output-format=json-2", str(path))
        try:
            info = msgspec.convert(json.loads(done.out), _Info)
        except (ValueError, RecursionError):
            raise ToolError("RAUC", "it does not say what is in the bundle") from None
        schema = info.meta.own.schema
        return Bundle(info.update.version, int(schema) if schema else None)

    def install(self, path: Path) -> None:
        """Install a bundle into the slot that does not run. Raises `ToolError`."""
        self._rauc("install", str(path), seconds=None)

    def mark_good(self) -> None:
        """Have the running slot started from now on. Raises `ToolError`."""
        self._mark("good")

    def mark_bad(self, slot: str) -> None:
        """Have ``slot``, which runs, not started any more. Raises `ToolError`."""
        try:
            self._mark("bad")
        except ToolError:
            # the service that judges sees no disks, so systemd is asked to run it
            done = self._run(("systemd-run", "--quiet", "--wait", _BOOTENV, "set-state", slot, "bad"), _SECONDS)
            if done.code:
                raise

    def reboot(self) -> None:
        """Start the machine anew. Raises `ToolError`."""
        done = self._run(("systemctl", "reboot"), _SECONDS)
        if done.code:
            raise ToolError("REBOOT", done.last_line)

    def unit(self) -> Unit:
        """Look at edge.service."""
        done = self._run(
            ("systemctl", "show", "edge.service", "--property=ActiveState,Job,NRestarts,StatusText"), _SECONDS
        )
        found = dict(line.partition("=")[::2] for line in done.out.splitlines())
        restarts, ports = found.get("NRestarts", ""), _PORTS.search(found.get("StatusText", ""))
        return Unit(
            active=found.get("ActiveState", ""),
            queued=found.get("Job", "") not in {"", "0"},
            restarts=int(restarts) if restarts.isdecimal() else 0,
            ports=tuple(int(one) for one in ports[1].split(",") if one.strip().isdecimal()) if ports else (),
        )

    def _mark(self, state: str) -> None:
        done = self._run((*_MARK, state, "booted"), _SECONDS)
        if done.code:
            raise ToolError("RAUC", done.last_line)

    def _rauc(self, *words: str, seconds: float | None = _SECONDS) -> Ran:
        done = self._run(("rauc", *words), seconds)
        if done.code:
            code = next((code for code, sign in _SIGNS if sign.search(done.said)), "RAUC")
            raise ToolError(code, done.last_line)
        return done
