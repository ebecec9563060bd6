"""The data partition encrypted at the first start: nothing in the clear, and opened again, also by the recovery key."""

import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from box.qemu import MachineError
from box.toolbox import Toolbox
from box.trials.brought import ordered
from box.trials.stand import BOOT, PROVISION, Image, Stand, owes, until
from box.trials.starts import healthy
from scripts.rigs.report import say

HELP: Final = "at_rest: the data partition encrypted, with the key on the card and in a TPM"

_RECOVERY: Final = "the bench keeps this one in a drawer"
_CUTS: Final = 4
_SOONEST, _LATEST = 4.0, 40.0
"""Seconds after the kernel begins: where the encryption is being made, under emulation."""
_NUMBER: Final = 10
_CHUNK: Final = 1 << 22


def card(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """The key on the card: encrypted, though the plug is pulled meanwhile; nothing can be read without the key."""
    stand = Stand(image, toolbox, folder)
    stand.provision(provision=_wanting("card"))
    # as the boards that are meant: without instructions for AES, so that the cipher is another
    extra = ("-cpu", "max,-aes") if image.arch == "amd64" else ()
    dice = random.Random(_NUMBER)
    for _ in range(_CUTS):
        with stand.running(login=False, extra=extra) as machine:
            machine.expect("Linux version", BOOT)
            time.sleep(dice.uniform(_SOONEST, _LATEST))
    problems = _taken(stand, "card", extra)
    if stand.card.read("data.key") is None:
        problems.append("there is no key on the card")
    with stand.running(extra=extra) as machine:
        stand.serving()
        # and the plug is pulled: what is inside is found damaged
        ordered(machine, "dd if=/dev/zero of=/dev/mapper/data bs=4096 count=1 conv=notrunc,fsync")
    with stand.receiver() as pacs, stand.running(extra=extra):
        until(lambda: not stand.missing(pacs), BOOT, "the images do not arrive after the file system was damaged")
        say("at_rest: a damaged superblock inside was mended by the start")
    return problems


def tpm(image: Image, toolbox: Toolbox, folder: Path) -> list[str]:
    """The key in a TPM: the card alone is nothing in another box, until somebody brings the recovery key."""
    stand = Stand(image, toolbox, folder)
    stand.provision(provision=_wanting("tpm"))
    problems: list[str] = []
    with stand.running(login=False) as machine:
        machine.expect("login", BOOT)
        until(lambda: "has none that is known" in (_answer(stand) or ""), BOOT, "a box without a TPM does not say so")
    with _tpm(stand, "own") as extra:
        problems += _taken(stand, "tpm", extra)
    with _tpm(stand, "own") as extra, stand.running(extra=extra) as machine:
        stand.serving()
        problems += owes(stand, machine)
    if stand.card.read("data.key") is not None:
        problems.append("there is a key on the card, beside that in the TPM")
    with _tpm(stand, "another") as extra, stand.running(extra=extra) as machine:
        until(lambda: "recovery key" in (_answer(stand) or ""), BOOT, "another box does not say what it wants")
        if not ordered(machine, "findmnt /data || echo none").startswith("none"):
            problems.append("another box opened the card")
        say("at_rest: a card in another box is not opened, and its answer says what to do")
    stand.provision(provision=_wanting("tpm"))
    with _tpm(stand, "another") as extra, stand.running(extra=extra) as machine:
        stand.serving()
        problems += owes(stand, machine)
    with _tpm(stand, "another") as extra, stand.receiver() as pacs, stand.running(extra=extra):
        until(lambda: not stand.missing(pacs), BOOT, "the images do not arrive from another box")
        say("at_rest: with the recovery key another box opened it, and delivered what was on it")
    return problems


TRIALS: Final = (card, tpm)


def _wanting(encryption: str) -> str:
    return f'{PROVISION}\n[storage]\nencryption = "{encryption}"\nrecovery_key = "{_RECOVERY}"\n'


def _taken(stand: Stand, how: str, extra: Sequence[str] = ()) -> list[str]:
    """Start it, send images, and look for them and for the recovery key on the card in hand."""
    with stand.running(extra=extra) as machine:
        stand.serving()
        sent = stand.send(number=_NUMBER)
        problems = healthy(machine)
        problems += owes(stand, machine)
        if sent != _NUMBER:
            problems.append(f"{sent} of {_NUMBER} images were answered 0000")
        told = ordered(machine, "cat /run/edge-at-rest; blkid -p -s TYPE -o value /dev/disk/by-partlabel/data").split()
        if told[:2] != [how, "crypto_LUKS"]:
            problems.append(f"the data partition is {told}")
        cipher = ordered(machine, "cryptsetup status data | grep cipher:").split()[-1]
        say(f"at_rest: with {how}, by {cipher}")
        ordered(machine, "sync")
    clear = [uid for uid in (*stand.acknowledged, _RECOVERY) if _lies(stand.card.path, uid.encode())]
    if clear:
        problems.append(f"on the card in the clear: {clear}")
    if "encrypted" not in (_answer(stand) or ""):
        problems.append(f"the answer on the card does not tell of it: {_answer(stand)}")
    return problems


def _answer(stand: Stand) -> str | None:
    return stand.card.read("provision-result.txt")


def _lies(disk: Path, wanted: bytes) -> bool:
    with disk.open("rb") as file:
        end = b""
        while part := file.read(_CHUNK):
            if wanted in end + part:
                return True
            end = part[-len(wanted) :]
    return False


@contextmanager
def _tpm(stand: Stand, name: str) -> Iterator[tuple[str, ...]]:
    """A TPM that keeps its state in a folder of that name; what QEMU is told of it."""
    state, line = stand.folder / name, stand.folder / "swtpm"
    state.mkdir(exist_ok=True)
    line.unlink(missing_ok=True)
    told = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={line}"]
    with subprocess.Popen(stand.toolbox.command(told, binds=[stand.folder])) as running:
        until(line.exists, 20, "swtpm does not run")
        device = "tpm-tis-device" if stand.image.arch == "arm64" else "tpm-tis"
        try:
            yield (
                *("-chardev", f"socket,id=tpm,path={line}", "-tpmdev", "emulator,id=tpm,chardev=tpm"),
                *("-device", f"{device},tpmdev=tpm"),
            )
        finally:
            running.terminate()
            if running.wait(20) not in {0, -15, 143}:
                raise MachineError("swtpm ended badly")
