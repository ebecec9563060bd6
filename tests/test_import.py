"""`edge import` as a person runs it: with and without the appliance, again and again, on good and on odd media."""

import asyncio
import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NoReturn

import pytest
from pydicom.data import get_testdata_file

from edge.cli import importing as cli
from edge.dicom.dicomdir import DirectoryError, referenced
from edge.dicom.whole import Whole
from edge.intake import places, tree
from edge.intake.fate import Fate
from edge.intake.handover import Progress
from edge.intake.importing import Import
from edge.intake.receiver import TooLargeNowError
from edge.intake.tally import Tally
from edge.intake.tree import Readable
from edge.model import Origin, Source
from tests.appliance import COMMAND, Edge, dimse
from tests.peers.objects import DicomObject, ct, mr, write_multiframe
from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver, RawSender

pytestmark = pytest.mark.rig


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


@pytest.fixture
def edge(tmp_path: Path, pacs: RawReceiver) -> Edge:
    return Edge(tmp_path / "box", dimse("pacs", pacs.port))


def write(folder: Path, objects: list[DicomObject]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(objects):
        one.write(folder / f"IM{number:05}")
    return folder


def run(edge: Edge, *arguments: object, code: int = 0) -> dict[str, Any]:
    done = edge.command("import", *map(str, arguments), "--json", check=False)
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout))


def summary(*, taken: int = 0, already: int = 0, not_dicom: int = 0) -> dict[str, Any]:
    return {"taken": taken, "already_there": already, "not_dicom": not_dicom, "refused": 0, "reasons": []}


def digests(pacs: RawReceiver) -> Counter[bytes]:
    return Counter(received.digest for received in pacs.received)


def expected(objects: list[DicomObject]) -> Counter[bytes]:
    return Counter(one.wire_digest for one in objects)


def test_a_folder_goes_through_a_running_appliance_once(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    objects = ct(3) + mr(30)
    media = write(tmp_path / "media" / "DICOM", objects).parent
    (media / "README.TXT").write_text("viewer on this disk")
    with edge:
        assert run(edge, media) == summary(taken=33, not_dicom=1)
        pacs.wait(33, 20)
        assert run(edge, media) == summary(already=33, not_dicom=1)
        edge.wait_settled("pacs", {"accepted": 33})
        (row,) = edge.json("trace", objects[0].sop_instance_uid)
        assert row["trail"][0]["detail"] == "import at media"
    assert digests(pacs) == expected(objects)


def test_without_an_appliance_objects_wait_in_the_spool(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    objects = mr(10)
    media = write(tmp_path / "media", objects)
    assert run(edge, media) == summary(taken=10)
    assert len(edge.spooled()) == 10
    assert pacs.received == []
    assert edge.json("status")["queue"]["instances"] == 10
    assert run(edge, media) == summary(already=10)
    with edge:
        pacs.wait(10, 20)
        edge.wait_settled("pacs", {"accepted": 10})
    assert digests(pacs) == expected(objects)


def test_what_was_delivered_and_deleted_here_is_not_taken_again_unless_asked(
    tmp_path: Path, edge: Edge, pacs: RawReceiver
) -> None:
    objects = mr(4)
    media = write(tmp_path / "media", objects)
    edge.configure(dimse("pacs", pacs.port), store='keep_delivered = "0s"')
    with edge:
        assert run(edge, media) == summary(taken=4)
        wait_for(lambda: not edge.spooled() and edge.tally("pacs") == {"accepted": 4}, 30, "delivered and deleted")
        assert run(edge, media) == summary(already=4)
        assert len(pacs.received) == 4
        assert run(edge, media, "--again") == summary(taken=4)
        pacs.wait(8, 20)


def test_other_media_with_the_same_names_sizes_and_dates_are_read(
    tmp_path: Path, edge: Edge, pacs: RawReceiver
) -> None:
    """A modality whose clock is dead writes every stick alike: only the bytes tell."""
    first, second = mr(3), mr(3)
    media = tmp_path / "media"
    with edge:
        for objects in (first, second):
            write(media, objects)
            for path in media.iterdir():
                os.utime(path, (315_532_800, 315_532_800))
            assert run(edge, media) == summary(taken=3)
        pacs.wait(6, 20)
    assert digests(pacs) == expected(first + second)


def test_an_import_that_is_killed_goes_on_where_it_stopped(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    objects = mr(400)
    media = write(tmp_path / "media", objects)
    with edge:
        child = subprocess.Popen([COMMAND, "import", str(media), "--config", str(edge.config)], stdout=subprocess.PIPE)
        wait_for(lambda: edge.tally("pacs").get("accepted", 0) > 20, 30, "it has begun")
        child.kill()
        child.communicate()
        wait_for(lambda: "IMPORT_INCOMPLETE" in [f["code"] for f in edge.json("status")["findings"]], 10, "told")
        result = run(edge, media)
        assert result["taken"] + result["already_there"] == 400
        assert result["already_there"] >= 20
        edge.wait_settled("pacs", {"accepted": 400})
    assert digests(pacs) == expected(objects)


def test_an_appliance_that_is_killed_ends_the_import_with_the_next_step(
    tmp_path: Path, edge: Edge, pacs: RawReceiver
) -> None:
    one = write_multiframe(tmp_path / "large", 200)
    with edge:
        child = subprocess.Popen(
            [COMMAND, "import", str(tmp_path / "large"), "--config", str(edge.config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: bool(edge.parts()), 20, "it has begun")
        edge.kill()
        shown, said = child.communicate(timeout=30)
        assert child.returncode == 1
        assert said.endswith("Run it again: it goes on where it stopped.\n")
        assert shown.splitlines()[:2] == ["taken          0", "already there  0"]
        edge.start()
        assert run(edge, tmp_path / "large") == summary(taken=1)
        pacs.wait(1, 60)
    assert pacs.received[0].digest == one.wire_digest


def test_a_medium_with_a_directory_is_checked_against_it(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    source = Path(str(get_testdata_file("DICOMDIR"))).parent
    media = tmp_path / "cd"
    shutil.copytree(source, media, ignore=lambda _, names: [n for n in names if n.startswith("DICOMDIR-")])
    with edge:
        whole = run(edge, media / "DICOMDIR")
        assert whole["refused"] == 0
        assert whole["taken"] > 20
        pacs.wait(whole["taken"], 30)
        gone = min(path for path in media.rglob("*") if path.is_file() and path.name != "DICOMDIR")
        gone.unlink()
        again = run(edge, media, code=1)
        assert again["refused"] == 1
        assert again["reasons"] == [
            {"path": str(gone), "why": "the DICOMDIR names it, but it is not there"},
        ]
        assert again["already_there"] == whole["taken"] - 1


def test_archives_and_single_files(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    first, second = mr(3), mr(1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, one in enumerate(first):
            archive.writestr(f"IM{number}", one.write(tmp_path / "x").read_bytes())
        archive.writestr("notes.txt", "words")
    with edge:
        assert run(edge, tmp_path / "a.zip", second[0].write(tmp_path / "one")) == summary(taken=4, not_dicom=1)
        pacs.wait(4, 20)
        assert run(edge, tmp_path / "a.zip") == summary(already=3, not_dicom=1)
    assert digests(pacs) == expected(first + second)


def test_the_spool_of_a_dead_box_keeps_who_sent_it(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    objects = mr(12)
    dead = Edge(tmp_path / "dead", dimse("pacs", 1))
    with dead:
        with RawSender(dead.port, calling="MR7") as sender:
            sender.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
            assert [sender.store(one) for one in objects] == [0] * 12
            sender.release()
        wait_for(lambda: len(dead.spooled()) == 12, 10, "they wait")
        dead.kill()
    # one that was answered, and whose row was not written yet
    last = dead.spooled()[-1]
    last.rename(dead.storage / "spool" / "incoming" / f"{last.stem}.part")
    damaged = dead.spooled()[0]
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with edge:
        told = run(edge, dead.storage, code=1)
        assert (told["taken"], told["refused"]) == (11, 1)
        assert told["reasons"] == [{"path": str(damaged), "why": "it is not what its seal says: the file was damaged"}]
        pacs.wait(11, 20)
        rows = [edge.json("trace", one.sop_instance_uid) for one in objects[1:]]
        assert {row["trail"][0]["detail"] for (row,) in rows} == {"MR7 at 127.0.0.1"}


def test_what_cannot_be_taken_is_named_with_the_reason(tmp_path: Path, edge: Edge) -> None:
    good, cut = mr(2)
    media = write(tmp_path / "media", [good])
    (media / "cut").write_bytes(cut.write(tmp_path / "x").read_bytes()[:-7])
    (media / "link").symlink_to(tmp_path / "x")
    (media / "bad.zip").write_bytes(b"PK\3\4" + bytes(40))
    with edge:
        told = run(edge, media, code=1)
        assert (told["taken"], told["refused"]) == (1, 3)
        assert {Path(r["path"]).name: r["why"] for r in told["reasons"]} == {
            "cut": "an element is longer than the rest of the file",
            "link": "it is a link, and links are not followed",
            "bad.zip": "the archive has no end",
        }
        shown = edge.command("import", str(media), check=False)
        assert shown.returncode == 1
        assert shown.stdout.splitlines()[:4] == [
            "taken          0",
            "already there  1",
            "not DICOM      0",
            "refused        3",
        ]


def test_whatever_lies_on_a_medium_the_import_goes_on_to_its_end(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    (good, dated), (large, inner) = mr(2), ct(2)
    edge.configure(dimse("pacs", pacs.port), receive='max_object = "200KiB"')
    media = write(tmp_path / os.fsdecode(b"patient \xe9"), [good])
    os.utime(dated.write(media / "dated"), ns=(1 << 63, 1 << 63))
    large.write(media / "large")
    (media / os.fsdecode(b"cut \xff")).write_bytes(good.write(tmp_path / "x").read_bytes()[:-7])
    with zipfile.ZipFile(tmp_path / "inner", "w") as archive:
        archive.write(inner.write(tmp_path / "x"), "IM1")
    with zipfile.ZipFile(media / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner", "study.zip")
    (media / "DICOMDIR").symlink_to(tmp_path / "elsewhere")
    with edge:
        told = run(edge, media, code=1)
        assert (told["taken"], told["refused"]) == (2, 4)
        assert {one["path"].removeprefix(f"{tmp_path}/patient \\xe9/"): one["why"] for one in told["reasons"]} == {
            "large": "it is longer than receive.max_object",
            "cut \\xff": "an element is longer than the rest of the file",
            "outer.zip!study.zip": "an archive in an archive is not opened: unpack it",
            "DICOMDIR": "it is a link, and links are not followed",
        }
        pacs.wait(2, 20)
        shown = edge.command("import", str(media), check=False)
        assert shown.returncode == 1
        assert "/cut \\xff: an element" in shown.stdout
    assert digests(pacs) == expected([good, dated])


def test_a_directory_that_is_damaged_or_names_the_impossible_costs_no_summary(tmp_path: Path, edge: Edge) -> None:
    (good,) = mr(1)
    source = Path(str(get_testdata_file("DICOMDIR"))).read_bytes()
    media = write(tmp_path / "cd", [good])
    named = source.index(b"\x04\x00\x00\x15CS") + 8
    length = int.from_bytes(source[named - 2 : named], "little")
    for data, why in (
        (source[:named] + b"A" * length + source[named + length :], "the DICOMDIR names it, but it is not there"),
        (source.replace(b"\x04\x00\x00\x15CS", b"\x04\x00\x00\x15UL"), "it cannot be read: Expected total bytes"),
    ):
        (media / "DICOMDIR").write_bytes(data)
        told = run(edge, media, code=1)
        assert told["taken"] + told["already_there"] == 1
        assert [one for one in told["reasons"] if one["why"].startswith(why)], told


@pytest.mark.parametrize("name", ["N" * 300, "a\0b"])
def test_what_a_directory_names_and_no_file_can_be_called_is_missing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "DICOMDIR").write_bytes(b"DICM")
    monkeypatch.setattr(places, "referenced", lambda _: [PurePath(name)])
    checked = importing_by(tmp_path, [])
    checked._compare(tmp_path)
    assert [(one.path, one.why.partition(", but ")[0]) for one in checked.tally.refused] == [
        (str(tmp_path / name), "the DICOMDIR names it")
    ]


def test_a_directory_is_read_only_where_it_is_a_file(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(str(get_testdata_file("DICOMDIR")))
    os.mkfifo(pipe)
    for path in (link, pipe):
        with pytest.raises(DirectoryError):
            referenced(path)


BREAKS = """
import errno, itertools, os, runpy, sys
from edge.intake import tree
walk = tree.walk
def broken(root, *more):
    if root.name == "stick":
        yield from itertools.islice(walk(root, *more), 3)
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(root))
    yield from walk(root, *more)
tree.walk = broken
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""As where a medium is pulled out: its root folder gives a few names, and then an error."""


@pytest.mark.parametrize("running", [True, False])
def test_a_medium_that_fails_in_the_middle_is_summed_up_with_what_to_do_next(
    tmp_path: Path, edge: Edge, *, running: bool
) -> None:
    objects = mr(7)
    stick, other = write(tmp_path / "stick", objects[:5]), write(tmp_path / "other", objects[5:])

    def broken(*more: str) -> subprocess.CompletedProcess[str]:
        words = [COMMAND, "import", str(stick), str(other), "--config", str(edge.config), *more]
        return subprocess.run(
            [sys.executable, "-c", BREAKS, *words], capture_output=True, text=True, timeout=60, check=False
        )

    with edge if running else contextlib.nullcontext():
        done = broken()
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert lines[:5] == [
            "taken          5",
            "already there  0",
            "not DICOM      0",
            "refused        1",
            f"  {stick}: it could not be read to its end: Input/output error",
        ]
        assert done.stderr.splitlines()[-1] == (
            "edge: Not everything could be read. Put it back in, or mend what is wrong with it, and run the same "
            "command again: nothing is taken twice."
        )
        told = json.loads((done := broken("--json", "--again")).stdout)
        assert told["reasons"] == [{"path": str(stick), "why": "it could not be read to its end: Input/output error"}]
        assert "again, but without --again: nothing is taken twice." in done.stderr
        if running:
            assert "IMPORT_INCOMPLETE" in [one["code"] for one in edge.json("status")["findings"]]
        assert run(edge, stick, other) == summary(taken=2, already=5)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODEV])
async def test_what_came_before_an_error_is_taken_and_the_error_is_not_lost_among_others(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = write(tmp_path / "media", mr(5))
    walk = tree.walk

    def broken(root: Path) -> Iterator[tree.Entry]:
        for number, entry in enumerate(walk(root)):
            if number == 3:
                raise OSError(code, os.strerror(code))
            yield entry

    monkeypatch.setattr(tree, "walk", broken)
    monkeypatch.setattr("edge.intake.tally.MOST_REASONS", 0)
    running = importing_by(media, [Disk(mr(1)[0], fits=True)])
    await running.run()
    assert running.tally.objects[Fate.TAKEN] == 3
    assert [one.why for one in running.tally.broken] == [f"it could not be read to its end: {os.strerror(code)}"]


async def test_a_medium_that_went_after_its_last_name_was_read_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = write(tmp_path / "media", mr(2))

    def gone(_: Path) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "iterdir", gone)
    running = importing_by(media, [Disk(mr(1)[0], fits=True)])
    await running.run()
    assert (running.tally.objects[Fate.TAKEN], running.tally.failures()) == (2, 1)
    assert [one.path for one in running.tally.broken] == [str(media)]


def test_a_path_that_leads_in_a_circle_is_told_and_the_others_are_taken(tmp_path: Path, edge: Edge) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    media = write(tmp_path / "media", mr(1))
    with edge:
        told = run(edge, tmp_path / "circle", media, code=1)
    assert told["taken"] == 1
    assert [one["path"] for one in told["reasons"]] == [str(tmp_path / "circle")]


class Disk:
    """A receiver with room for what `fits` says, once the rest was taken; it keeps the order."""

    most: int | None = None

    def __init__(self, large: DicomObject, *, fits: bool) -> None:
        self.sent = 0
        self.asked: list[str] = []
        self._taken: set[str] = set()
        self._large = large
        self._fits = fits

    async def receive(self, whole: Whole, file: Readable, source: Source) -> bool:
        del file, source
        again = whole.sop_instance_uid in self.asked
        self.asked.append(whole.sop_instance_uid)
        if whole.sop_instance_uid == self._large.sop_instance_uid and not (self._fits and again):
            raise TooLargeNowError("there is no room on the disk")
        new = whole.sop_instance_uid not in self._taken
        self._taken.add(whole.sop_instance_uid)
        return new

    async def known(self, origins: Sequence[Origin]) -> list[bool]:
        return [False] * len(origins)

    async def remember(self, origin: Origin) -> None:
        del origin

    async def tell(self, progress: Progress) -> None:
        del progress


def importing_by(media: Path, receivers: list[Any]) -> Import:
    teller: Any = Disk(mr(1)[0], fits=True)
    source = Source(door="import", address="media")
    return Import(
        [media],
        receivers,
        teller,
        asyncio.to_thread,
        source,
        media=False,
        folder=media,
        room=lambda _: True,
        tally=Tally(),
    )


@pytest.mark.parametrize("fits", [True, False])
async def test_what_there_is_no_room_for_is_tried_again_at_the_end(tmp_path: Path, *, fits: bool) -> None:
    large, *small = mr(4)
    media = tmp_path / "media"
    media.mkdir()
    with zipfile.ZipFile(media / "a.zip", "w") as archive:
        for name, one in (("large", large), ("small", small[0])):
            archive.writestr(name, one.write(tmp_path / "x").read_bytes())
    for number, one in enumerate(small[1:]):
        one.write(media / f"IM{number}")
    disk = Disk(large, fits=fits)
    running = importing_by(media, [disk])
    await running.run()
    tally = running.tally
    assert disk.asked[-2] == large.sop_instance_uid
    assert (tally.files_done, tally.objects[Fate.TAKEN], tally.objects[Fate.ALREADY]) == (3, 3 + fits, 0)
    assert tally.failures() == (0 if fits else 1)
    assert [(one.path, one.why) for one in tally.refused] == (
        [] if fits else [(f"{media / 'a.zip'}!large", "there is no room on the disk")]
    )


@pytest.mark.parametrize("shape", ["storage", "spool", "shard", "file", "copied"])
def test_only_a_spool_is_believed_who_sent_an_object(tmp_path: Path, edge: Edge, pacs: RawReceiver, shape: str) -> None:
    """Anybody can write a seal into a file and put it on a stick."""
    (one,) = mr(1)
    dead = Edge(tmp_path / "dead", dimse("pacs", 1))
    with dead, RawSender(dead.port, calling="MR7") as sender:
        sender.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
        assert sender.store(one) == 0
        sender.release()
        wait_for(lambda: len(dead.spooled()) == 1, 10, "it waits")
    (file,) = dead.spooled()
    copied = tmp_path / "stick"
    copied.mkdir()
    shutil.copy(file, copied / "one")
    places = {
        "storage": dead.storage,
        "spool": dead.storage / "spool",
        "shard": file.parent,
        "file": file,
        "copied": copied,
    }
    with edge:
        assert run(edge, places[shape]) == summary(taken=1)
        pacs.wait(1, 20)
        (row,) = edge.json("trace", one.sop_instance_uid)
        assert row["trail"][0]["detail"] == ("import at stick" if shape == "copied" else "MR7 at 127.0.0.1")


def test_a_path_that_is_not_there_and_a_storage_in_use(tmp_path: Path, edge: Edge) -> None:
    missing = edge.command("import", str(tmp_path / "nothing"), check=False)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "is not there: check the name, or whether the medium is mounted." in missing.stderr
    assert edge.command("import", check=False).returncode == 2


async def test_progress_is_told_with_rate_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_LINE_EVERY", 0.02)
    running = importing_by(tmp_path, [])
    tally = running.tally
    tally.files, tally.files_done, tally.bytes, tally.bytes_done = 10, 3, 400 << 20, 100 << 20
    tally.waits = "the disk is full"
    showing = asyncio.create_task(cli._show(running))
    said = ""
    async with asyncio.timeout(10):
        while not said:
            await asyncio.sleep(0.01)
            said = capsys.readouterr().err
    showing.cancel()
    await asyncio.wait((showing,))
    found = re.match(r"3 of 10 files, ([0-9.]+) MB/s, ([0-9]+) s left, waiting: the disk is full\n", said)
    assert found is not None, said
    assert float(found[1]) > 100


def test_the_light_shows_a_medium_until_it_is_safe_to_remove(tmp_path: Path, edge: Edge, pacs: RawReceiver) -> None:
    pacs.stop()
    media = write(tmp_path / "media", ct(150))
    with edge:
        child = subprocess.Popen(
            [COMMAND, "import", "--media", "stick", str(media), "--config", str(edge.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: edge.json("status")["light"]["code"] == "B2", 20, "it is being read")
        (shown,) = edge.json("status")["imports"]
        assert (shown["name"], shown["media"], shown["over"], shown["files"]) == ("stick", True, False, 150)
        assert child.wait(60) == 0
        assert edge.json("status")["light"]["code"] == "B3"
        assert edge.json("status")["imports"][0]["files_done"] == 150
