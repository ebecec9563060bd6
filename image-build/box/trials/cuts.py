"""Power cuts: while modalities send, the plug is pulled at a random moment, and the same card is started again.

`killed` ends QEMU by SIGKILL: the card has all that it was ever given. `unflushed` makes the card of the record of its
writes instead (`logwrites`): what was not flushed is gone, in part or wholly, and the cut may lie before the kill. An
object counts as acknowledged if its 0000 had been read before the cut: each answer is noted with the length that the
record had when it was read, and a cut further back does not bind the box to it. `forgetful` is the proof that this
finds something: its file system leaves the flushes out.

The PACS is down meanwhile. After each cut the data partition must be sound once its journal is replayed, and after the
next start the queue no shorter than what was acknowledged, no unit failed, the root read-only. The queue may be longer,
by objects whose answers the cut took, and so hide a loss until the end: then the PACS comes, and each acknowledged
object must arrive as it was sent.
"""

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from box import logwrites
from box.qemu import Machine, MachineError
from box.toolbox import Toolbox
from box.trials.stand import BOOT, BROKEN, Image, Stand, status, until
from box.trials.starts import healthy
from scripts.rigs.report import say
from tests.peers.objects import DicomObject, ct, mr, tiny
from tests.peers.raw import RawSender

HELP: Final = "cuts: the plug pulled under load; a card that loses what was not flushed"
_MODALITIES: Final[Sequence[Callable[[int], list[DicomObject]]]] = (ct, mr, mr, tiny)
_BATCH: Final = 10
"""Objects of an association."""
_MOST: Final = 400
"""Objects of a modality in a round, so that the card holds all rounds."""
_FIRST: Final = 180.0
_LONGEST: Final = 15.0
"""Seconds of sending, after the first answer, after which the plug is pulled at the latest."""
_COUNTED: Final = 120.0
"""Seconds in which the box must know what it has."""
_AT_END: Final = 0.5
"""How often the cut is at the end of the record, where all answers bind."""
_PLACES: Final = 4
"""Of so many places the one is taken where most is not flushed: mostly there is little."""
_LIKELY: Final = (0.0, 0.3, 0.7, 0.95)
_CORRECTED: Final = 1  # exit code of e2fsck


def killed(image: Image, toolbox: Toolbox, folder: Path, rounds: int, dice: random.Random) -> list[str]:
    """QEMU is killed under load, again and again."""
    return _Trial(Stand(image, toolbox, folder), dice).live(rounds)


def unflushed(image: Image, toolbox: Toolbox, folder: Path, rounds: int, dice: random.Random) -> list[str]:
    """The same, with a card that loses what was not flushed."""
    return _Trial(Stand(image, toolbox, folder), dice, logged=True).live(rounds)


def forgetful(image: Image, toolbox: Toolbox, folder: Path, rounds: int, dice: random.Random) -> list[str]:
    """Such a card, and a file system that does not flush: the trial must find that something was lost."""
    trial = _Trial(Stand(image, toolbox, folder), dice, logged=True, spoil="mount -o remount,nobarrier /data")
    found = trial.live(min(rounds, 3))
    for problem in found[:_SHOWN]:
        say(f"  found, as it must be: {problem}")
    say(f"  found, as it must be: {len(found)} in all")
    return [] if found else ["nothing was flushed, and the trial found nothing lost"]


TRIALS: Final = (killed, unflushed, forgetful)
_SHOWN: Final = 3
"""Losses that are named where there must be some."""


class Answer(NamedTuple):
    """An object that was answered 0000."""

    uid: str
    digest: bytes
    seen: int
    """What the record had grown to when the answer had been read, in bytes."""


class Load:
    """Modalities that send at once, from entering the context to leaving it, whether the box is there or not."""

    def __init__(self, port: int, grown: Callable[[], int]) -> None:
        self.answers: list[Answer] = []
        self._port = port
        self._grown = grown
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._modality, args=(make,), name=f"modality {number}")
            for number, make in enumerate(_MODALITIES)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _modality(self, make: Callable[[int], list[DicomObject]]) -> None:
        for _ in range(_MOST // _BATCH):
            with contextlib.suppress(*BROKEN):
                self._associate(make(_BATCH))
            if self._over.wait(0.05):
                return

    def _associate(self, objects: Sequence[DicomObject]) -> None:
        with RawSender(self._port, timeout=60) as sender:
            sender.associate([(objects[0].sop_class_uid, (objects[0].transfer_syntax_uid,))])
            for one in objects:
                if self._over.is_set():
                    return
                if sender.store(one) == 0:
                    self.answers.append(Answer(one.sop_instance_uid, one.wire_digest, self._grown()))


class _Trial:
    """The life of one card."""

    def __init__(self, stand: Stand, dice: random.Random, *, logged: bool = False, spoil: str = "") -> None:
        self.stand, self.dice, self.logged, self.spoil = stand, dice, logged, spoil
        self.longest = 0.0
        self.record = logwrites.log(stand.folder)

    def live(self, rounds: int) -> list[str]:
        """Cut ``rounds`` times, then let everything arrive; what was found. Raises `MachineError`."""
        self.stand.provision()
        try:
            for number in range(1, rounds + 1):
                if problems := self._round(number):
                    return [f"cut {number}: {problem}" for problem in problems]
        except logwrites.LogError as e:
            return [str(e)]
        finally:
            logwrites.forget(self.stand.folder)
        return self._arrive(rounds)

    def _round(self, number: int) -> list[str]:
        stand, begun = self.stand, time.monotonic()
        blockdevs = logwrites.devices(stand.card.path, stand.folder) if self.logged else []
        with stand.running(blockdevs=blockdevs) as machine:
            taken = self._serving(begun)
            if problems := self._look(machine):
                return [f"before it, {problem}" for problem in problems]
            if self.spoil and machine.run(self.spoil)[0]:
                raise MachineError(f"{self.spoil}: it cannot be done here")
            before = self._grown()
            with Load(stand.dicom, self._grown) as load:
                until(lambda: bool(load.answers), _FIRST, "nothing is answered 0000")
                time.sleep(self.dice.uniform(0, _LONGEST))
                machine.kill()
        how, reached = self._cut(before) if self.logged else ("all of its writes", 0)
        bound = [one for one in load.answers if one.seen <= reached]
        stand.acknowledged.update((one.uid, one.digest) for one in bound)
        say(
            f"  cut {number}: ready in {taken:.0f} s, {len(load.answers)} answered 0000, {len(bound)} of them before "
            f"the cut, {len(stand.acknowledged)} in all; the card has {how}; {time.monotonic() - begun:.0f} s"
        )
        return self._sound()

    def _serving(self, begun: float) -> float:
        self.stand.serving()
        taken = time.monotonic() - begun
        self.longest = max(self.longest, taken)
        return taken

    def _grown(self) -> int:
        return self.record.stat().st_size if self.logged else 0

    def _cut(self, before: int) -> tuple[str, int]:
        """Make the card of the record, cut after it had grown past ``before``; how, and where it was cut."""
        found = list(logwrites.entries(self.record))
        if not found:
            raise logwrites.LogError(f"{self.record} has no request")
        first = next((index for index, one in enumerate(found) if one.end > before), len(found) - 1)
        places = [self.dice.randrange(first, len(found)) + 1 for _ in range(_PLACES)]
        if self.spoil or self.dice.random() < _AT_END:
            places = [len(found)]
        cut = max(places, key=lambda place: place - logwrites.safe(found, place))
        likely = 0.0 if self.spoil else self.dice.choice(_LIKELY)
        left = logwrites.replay(self.record, self.stand.card.path, found, cut, self.dice, likely=likely)
        size, end = self._grown(), found[-1].end
        logwrites.forget(self.stand.folder)
        after = f"of {left.whole + left.torn + left.lost} after the last flush {left.whole}, and {left.torn} torn"
        where = f"cut {cut} of {len(found)}, {size >> 20} MiB, {size - end} bytes behind its end"
        return f"{left.safe} requests, {after} ({where})", found[cut - 1].end

    def _sound(self) -> list[str]:
        """Look at the data partition, in a copy: its journal is replayed, and then nothing may be wrong."""
        copy = self.stand.folder / "data.img"
        self.stand.card.copy("data", copy)
        try:
            for options, most in (("-p", _CORRECTED), ("-fn", 0)):
                argv = self.stand.toolbox.command(["e2fsck", options, copy], binds=[self.stand.folder])
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                if done.returncode > most:
                    return [f"e2fsck {options} of data ends with {done.returncode}: {done.stdout.strip()[-500:]}"]
        finally:
            copy.unlink()
        return []

    def _look(self, machine: Machine) -> list[str]:
        """Look at what a start made of the card."""
        machine.run("systemctl is-system-running --wait", seconds=BOOT)
        problems = healthy(machine)
        wanted, seen = len(self.stand.acknowledged), [0]

        def counted() -> bool:
            seen.append(_queued(machine))
            return seen[-1] >= wanted

        try:
            until(counted, _COUNTED, "the queue")
        except MachineError:
            problems.append(f"{wanted} objects were acknowledged, and the queue has {seen[-1]}")
        _, errors = machine.run("cat /sys/fs/ext4/*/errors_count")
        if set(errors.split()) != {"0"}:
            problems.append(f"a file system noted errors: {errors.split()}")
        if machine.run("grep -q '^[^ ]* /data ext4 rw' /proc/mounts")[0]:
            problems.append("data is not mounted for writing")
        return problems

    def _arrive(self, rounds: int) -> list[str]:
        """Start once more, and let the PACS come."""
        stand, begun = self.stand, time.monotonic()
        with stand.running() as machine:
            self._serving(begun)
            problems = self._look(machine)
            with stand.receiver() as pacs:
                machine.run("edge retry --all")
                with contextlib.suppress(MachineError):
                    # what is neither here nor there will not come
                    until(lambda: not stand.missing(pacs) or not _queued(machine), BOOT, "all arrives")
                missing = stand.missing(pacs)
        problems.extend(f"{uid} was acknowledged, and did not arrive as it was sent" for uid in missing)
        say(
            f"  {rounds} cuts, {len(stand.acknowledged)} objects acknowledged, {len(missing)} of them lost; "
            f"the longest start took {self.longest:.0f} s"
        )
        return problems


def _queued(machine: Machine) -> int:
    return int(status(machine)["queue"]["instances"])
