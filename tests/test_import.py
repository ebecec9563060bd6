"""`edge import` as a person runs it: with and without the appliance, again and again, on good and on odd media."""

import json
import os
import shutil
import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

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
        _, said = child.communicate(timeout=30)
        assert child.returncode == 1
        assert said.endswith("Run it again: it goes on where it stopped.\n")
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


def test_a_path_that_is_not_there_and_a_storage_in_use(tmp_path: Path, edge: Edge) -> None:
    missing = edge.command("import", str(tmp_path / "nothing"), check=False)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "is not there: check the name, or whether the medium is mounted." in missing.stderr
    assert edge.command("import", check=False).returncode == 2


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
