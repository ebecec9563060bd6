"""Watched folders through the installed command: all that is finished is taken once, nothing is taken early."""

import contextlib
import fcntl
import os
import random
import shutil
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.appliance import Edge, dimse
from tests.peers.objects import DicomObject, ct, mr
from tests.peers.ports import require, wait_for
from tests.peers.raw import RawReceiver

pytestmark = pytest.mark.rig

SETTLE = 0.3


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


def watch(path: Path, *, name: str = "us", after: str = "move", more: str = "") -> str:
    path.mkdir(parents=True, exist_ok=True)
    return (
        f'[[watch]]\nname = "{name}"\npath = "{path}"\nsettle = "{int(SETTLE * 1000)}ms"\nafter = "{after}"\n'
        f'rescan = "1s"\npatience = "1s"\n{more}\n'
    )


def box(tmp_path: Path, pacs: RawReceiver, **keys: str) -> tuple[Edge, Path]:
    folder = tmp_path / "export"
    return Edge(tmp_path, dimse("pacs", pacs.port), more=watch(folder, **keys)), folder


def write(folder: Path, objects: list[DicomObject]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [one.write(folder / f"IMG{number:05}.dcm") for number, one in enumerate(objects)]


def digests(pacs: RawReceiver) -> Counter[bytes]:
    return Counter(received.digest for received in pacs.received)


def expected(objects: list[DicomObject]) -> Counter[bytes]:
    return Counter(one.wire_digest for one in objects)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def unprivileged() -> list[str]:
    """Wrap a command so that permissions count also for root."""
    if os.geteuid():
        return []
    return [require("setpriv"), "--bounding-set", "-dac_override,-dac_read_search,-fowner"]


def findings(edge: Edge) -> dict[str, str]:
    return {finding["code"]: finding["text"] for finding in edge.json("status")["findings"]}


def gauge(edge: Edge) -> dict[str, Any]:
    (shown,) = edge.json("status")["watches"]
    return dict(shown)


def test_files_of_nested_folders_are_delivered_and_moved_to_done(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs, more='ae_title = "US1"')
    objects = ct(3) + mr(20)
    with edge:
        write(folder, objects[:3])
        write(folder / "PAT1" / "STUDY 2", objects[3:])
        pacs.wait(23, 30)
        wait_for(lambda: len(files(folder / "done")) == 23, 10, "moved")
        assert files(folder) == {
            *(f"done/IMG{n:05}.dcm" for n in range(3)),
            *(f"done/PAT1/STUDY 2/IMG{n:05}.dcm" for n in range(20)),
        }
        told = edge.json("status")
        assert told["intake"]["instances"] == 23
        assert gauge(edge) == {"name": "us", "taken": 23, "waiting": 0, "left": 0}
        (row,) = edge.json("trace", objects[0].sop_instance_uid)
        assert row["trail"][0]["detail"] == "US1 at us"
    assert digests(pacs) == expected(objects)


def test_after_delete_nothing_is_left_and_after_keep_everything_is_taken_once(
    tmp_path: Path, pacs: RawReceiver
) -> None:
    away, stay = tmp_path / "away", tmp_path / "stay"
    more = watch(away, name="away", after="delete") + watch(stay, name="stay", after="keep")
    gone, kept = mr(5), mr(5)
    with Edge(tmp_path, dimse("pacs", pacs.port), more=more, store='keep_delivered = "0s"') as edge:
        write(away, gone)
        write(stay, kept)
        pacs.wait(10, 30)
        wait_for(lambda: not files(away), 10, "deleted")
        # delivered, and deleted from the spool: what stays in the folder must not come again
        wait_for(lambda: not edge.spooled(), 20, "nothing is kept here")
        edge.stop()
        edge.start()
        write(away, (fresh := mr(1)))
        pacs.wait(11, 30)
        assert len(files(stay)) == 5
        assert {w["name"]: w["taken"] for w in edge.json("status")["watches"]} == {"away": 1, "stay": 0}
    assert digests(pacs) == expected(gone + kept + fresh)


def test_a_kept_file_that_changes_is_taken_anew(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs, after="keep")
    first, second = mr(2)
    with edge:
        path = folder / "IMG"
        first.write(path)
        pacs.wait(1, 20)
        second.write(path)
        pacs.wait(2, 20)
    assert digests(pacs) == expected([first, second])


def test_a_file_that_grows_is_taken_when_it_is_whole_and_rests(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    (one,) = ct(1)
    whole = one.write(tmp_path / "whole").read_bytes()
    with edge, (folder / "growing").open("wb") as file:
        for at in range(0, len(whole), len(whole) // 20):
            file.write(whole[at : at + len(whole) // 20])
            file.flush()
            time.sleep(SETTLE / 3)  # the writer is slower than the loop, and never rests for as long as it must
            assert pacs.received == []
        file.close()
        pacs.wait(1, 20)
    assert digests(pacs) == expected([one])


@pytest.mark.parametrize("cut", [1, 100, 300, 5000, 300_000, -1])
def test_a_stalled_half_copy_is_never_taken_and_becomes_a_finding(tmp_path: Path, pacs: RawReceiver, cut: int) -> None:
    edge, folder = box(tmp_path, pacs)
    (one,) = ct(1)
    whole = one.write(tmp_path / "whole").read_bytes()
    with edge:
        (folder / "half.dcm").write_bytes(whole[:cut])
        wait_for(lambda: "WATCH_LEFT" in findings(edge), 20, "it is told")
        assert "half.dcm" in findings(edge)["WATCH_LEFT"]
        assert edge.json("status")["light"]["code"] == "Y2"
        assert edge.json("status")["intake"]["instances"] == 0
        with (folder / "half.dcm").open("ab") as file:
            file.write(whole[cut:])
        pacs.wait(1, 20)
        wait_for(lambda: "WATCH_LEFT" not in findings(edge), 20, "it is over")
    assert digests(pacs) == expected([one])


def test_a_file_that_somebody_writes_to_or_has_locked_waits(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    objects = mr(3)
    paths = write(folder.parent / "aside", objects)
    with edge:
        opened = (folder / "open").open("wb")
        opened.write(paths[0].read_bytes())
        opened.flush()
        for n, name in ((1, "flock"), (2, "lockf")):
            shutil.copy(paths[n], folder / name)
        flocked, posix = (folder / "flock").open("rb+"), (folder / "lockf").open("rb+")
        fcntl.flock(flocked, fcntl.LOCK_EX)
        fcntl.lockf(posix, fcntl.LOCK_EX)
        wait_for(lambda: gauge(edge)["left"] == 3, 20, "all three are left")
        text = findings(edge)["WATCH_LEFT"]
        assert "open: another program has it open for writing" in text
        assert text.count("locked by another program") == 2
        assert pacs.received == []
        for file in (opened, flocked, posix):
            file.close()
        pacs.wait(3, 90)
    assert digests(pacs) == expected(objects)


def test_a_file_renamed_into_place_is_taken_once_and_never_under_its_first_name(
    tmp_path: Path, pacs: RawReceiver
) -> None:
    edge, folder = box(tmp_path, pacs)
    objects = mr(7)
    names = ["IMG.dcm.part", ".IMG.dcm.Xy12", "IMG.tmp", "~IMG", ".~tmp~/IMG", "up.part/a/IMG", ".filepart/IMG"]
    with edge:
        for one, name in zip(objects, names, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            one.write(folder / name)
        wait_for(lambda: gauge(edge)["left"] == 7, 20, "they are told")
        assert pacs.received == []
        for number, name in enumerate(names):
            (folder / name).rename(folder / f"IMG{number}.dcm")
        pacs.wait(7, 20)
        wait_for(lambda: len(files(folder / "done")) == 7, 10, "moved")
    assert digests(pacs) == expected(objects)


def test_what_is_not_dicom_is_left_alone_and_nothing_is_followed(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    (outside, inside) = mr(2)
    (tmp_path / "secret").mkdir()
    outside.write(tmp_path / "secret" / "outside.dcm")
    (folder / "notes.txt").write_text("not an image")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40)
    (folder / "link.dcm").symlink_to(tmp_path / "secret" / "outside.dcm")
    (folder / "folder-link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    (folder / "empty").touch()
    with edge:
        inside.write(folder / "inside.dcm")
        pacs.wait(1, 20)
        wait_for(lambda: gauge(edge)["left"] == 6, 20, "six are left")
        left = findings(edge)["WATCH_LEFT"]
        assert left.startswith("Files in a watched folder are not taken: 6 files in us: ")
        assert left.endswith("; and 3 more")
        assert edge.json("status")["intake"]["instances"] == 1
    assert digests(pacs) == expected([inside])
    assert files(folder) - {"pipe"} == {
        "notes.txt", "photo.jpg", "link.dcm", "folder-link", "empty", "done/inside.dcm"
    }  # fmt: skip
    assert (tmp_path / "secret" / "outside.dcm").exists()


def test_a_file_that_may_not_be_read_is_told_and_taken_once_it_may(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    edge = Edge(tmp_path, dimse("pacs", pacs.port), more=watch(folder), wrapper=unprivileged())
    (one,) = mr(1)
    path = one.write(folder / "closed.dcm")
    path.chmod(0)
    with edge:
        wait_for(lambda: "WATCH_LEFT" in findings(edge), 20, "it is told")
        assert "closed.dcm: it cannot be read: Permission denied" in findings(edge)["WATCH_LEFT"]
        path.chmod(0o644)
        pacs.wait(1, 20)
    assert digests(pacs) == expected([one])


def test_what_cannot_be_moved_is_told_and_not_taken_again(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    edge = Edge(
        tmp_path,
        dimse("pacs", pacs.port),
        more=watch(folder),
        store='keep_delivered = "0s"',
        wrapper=unprivileged(),
    )
    objects = mr(2)
    write(folder, objects)
    folder.chmod(0o555)
    try:
        with edge:
            pacs.wait(2, 20)
            wait_for(lambda: "WATCH_STUCK" in findings(edge), 20, "it is told")
            wait_for(lambda: not edge.spooled(), 20, "nothing is kept here")
            edge.stop()
            edge.start()
            wait_for(lambda: "WATCH_STUCK" in findings(edge), 20, "it is told again")
            folder.chmod(0o755)
            wait_for(lambda: len(files(folder / "done")) == 2, 20, "moved")
            wait_for(lambda: "WATCH_STUCK" not in findings(edge), 20, "it is over")
            assert len(pacs.received) == 2
    finally:
        folder.chmod(0o755)


def test_a_name_that_is_there_already_in_done_is_not_overwritten(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    first, second = mr(2)
    with edge:
        first.write(folder / "IMG")
        pacs.wait(1, 20)
        wait_for(lambda: files(folder) == {"done/IMG"}, 10, "moved")
        second.write(folder / "IMG")
        pacs.wait(2, 20)
        wait_for(lambda: files(folder) == {"done/IMG", "done/IMG.1"}, 10, "moved beside it")


@pytest.mark.parametrize("after", ["delete", "keep"])
def test_what_was_moved_to_done_is_nobodys_any_more_whatever_the_configuration_says(
    tmp_path: Path, pacs: RawReceiver, after: str
) -> None:
    edge, folder = box(tmp_path, pacs)
    objects = mr(3)
    with edge:
        write(folder / "PAT1", objects[:2])
        pacs.wait(2, 20)
        wait_for(lambda: len(files(folder / "done")) == 2, 10, "moved")
        edge.stop()
        edge.configure(dimse("pacs", pacs.port), more=watch(folder, after=after))
        edge.start()
        objects[2].write(folder / "IMG")
        pacs.wait(3, 20)
        wait_for(lambda: (folder / "IMG").exists() == (after == "keep"), 20, "gone, unless it is kept")
        assert gauge(edge)["taken"] == 1
        assert len(files(folder / "done")) == 2
    assert digests(pacs) == expected(objects)


def test_kept_files_whose_names_are_no_utf_8_go_once(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    keep = watch(folder, after="keep")
    objects = mr(2)
    for one, name in zip(objects, (b"M\xfcller", b"caf\xe9/IMG"), strict=True):
        path = folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        one.write(tmp_path / "x").rename(path)
    with Edge(tmp_path, dimse("pacs", pacs.port), more=keep, store='keep_delivered = "0s"') as edge:
        pacs.wait(2, 20)
        wait_for(lambda: not edge.spooled(), 20, "nothing is kept here")
        for turn in range(2):
            edge.stop()
            edge.start()
            fresh = mr(1)
            objects += fresh
            write(folder / f"{turn}", fresh)
            pacs.wait(len(objects), 20)
            wait_for(lambda: not edge.spooled(), 20, "nothing is kept here")
    assert digests(pacs) == expected(objects)


def test_stuck_files_of_a_share_that_was_not_mounted_for_a_while_go_once(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    edge = Edge(
        tmp_path,
        dimse("pacs", pacs.port),
        more=watch(folder, after="delete"),
        store='keep_delivered = "0s"',
        wrapper=unprivileged(),
    )
    objects = mr(2)
    write(folder, objects)
    folder.chmod(0o555)
    with edge:
        wait_for(lambda: "WATCH_STUCK" in findings(edge), 20, "it is told")
        wait_for(lambda: not edge.spooled() and len(pacs.received) == 2, 20, "nothing is kept here")
        edge.stop()
        share = folder.rename(tmp_path / "share")
        folder.mkdir()
        edge.start()
        wait_for(lambda: "WATCH_STUCK" not in findings(edge), 20, "it is not there")
        time.sleep(3)  # some passes
        edge.stop()
        folder.rmdir()
        share.rename(folder)
        edge.start()
        wait_for(lambda: "WATCH_STUCK" in findings(edge), 20, "it is told again")
        folder.chmod(0o755)
        wait_for(lambda: not files(folder), 20, "deleted")
    assert digests(pacs) == expected(objects)


def test_what_a_kill_left_on_its_way_to_done_is_found_and_goes_once(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    more = watch(folder)
    edge = Edge(tmp_path, dimse("pacs", pacs.port), more=more, store='keep_delivered = "0s"', wrapper=unprivileged())
    taken, other = mr(2)
    taken.write(folder / "IMG")
    folder.chmod(0o555)
    with edge:
        wait_for(lambda: "WATCH_STUCK" in findings(edge) and not edge.spooled(), 20, "it is taken, and stays")
        pacs.wait(1, 20)
        edge.stop()
        folder.chmod(0o755)
        (folder / "IMG").rename(folder / ".edge~IMG")
        other.write(folder / ".edge~OTHER")  # one that came at the last moment, and was never taken
        edge.start()
        wait_for(lambda: files(folder) == {"done/IMG", "done/OTHER"}, 20, "both are moved")
        pacs.wait(2, 20)
        edge.wait_settled("pacs", {"accepted": 2})
    assert digests(pacs) == expected([taken, other])


def test_the_same_file_twice_goes_once(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    (one,) = mr(1)
    with edge:
        one.write(folder / "a.dcm")
        shutil.copy(folder / "a.dcm", folder / "b.dcm")
        wait_for(lambda: len(files(folder / "done")) == 2, 20, "both are taken")
        edge.wait_settled("pacs", {"accepted": 1})
    assert digests(pacs) == expected([one])


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_an_archive_is_taken_with_all_its_members(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    objects = mr(6)
    members = {f"../STUDY/{n}": one.write(tmp_path / "x").read_bytes() for n, one in enumerate(objects)}
    with edge:
        zipped(folder / "study.zip", {**members, "README.txt": b"words"})
        pacs.wait(6, 20)
        wait_for(lambda: files(folder) == {"done/study.zip"}, 10, "moved")
    assert digests(pacs) == expected(objects)


def test_an_archive_with_a_damaged_member_stays_and_its_others_go_once(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    good, bad = mr(2)
    with edge:
        data = [one.write(tmp_path / "x").read_bytes() for one in (good, bad)]
        zipped(folder / "study.zip", {"good": data[0], "bad": data[1][:-10]})
        pacs.wait(1, 20)
        wait_for(lambda: "WATCH_LEFT" in findings(edge), 20, "it is told")
        assert "study.zip: bad in it: " in findings(edge)["WATCH_LEFT"]
        assert files(folder) == {"study.zip"}
        zipped(folder / "study.zip", {"good": data[0], "bad": data[1]})
        pacs.wait(2, 20)
        wait_for(lambda: files(folder) == {"done/study.zip"}, 10, "moved")
    assert digests(pacs) == expected([good, bad])


def test_a_folder_that_is_not_there_is_told_and_served_when_it_comes(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    folder.rmdir()
    objects = mr(2)
    with edge:
        wait_for(lambda: "WATCH_MISSING" in findings(edge), 20, "it is told")
        write(folder, objects)
        pacs.wait(2, 30)
        wait_for(lambda: "WATCH_MISSING" not in findings(edge), 20, "it is over")


def test_without_news_from_the_file_system_the_folder_is_looked_through(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    # as where every instance of inotify is taken; a network share, which never tells anything, looks alike
    fault = ["-e", "trace=inotify_init,inotify_init1", "-e", "inject=inotify_init,inotify_init1:error=EMFILE"]
    wrapper = [require("strace"), "-D", "-f", "-qq", "-o", str(tmp_path / "strace"), *fault]
    edge = Edge(tmp_path, dimse("pacs", pacs.port), more=watch(folder), wrapper=wrapper)
    objects = mr(3)
    with edge:
        write(folder, objects)
        pacs.wait(3, 20)
    assert digests(pacs) == expected(objects)


BETWEEN = """
import os, runpy, sys
from edge.intake import news
target, begin = sys.argv[1], news.News.begin
def move_then_begin(self):
    if os.path.exists(target + ".later"):
        os.rename(target + ".later", target)
    return begin(self)
news.News.begin = move_then_begin
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A file that comes after the first look, and before the first news."""


def test_what_comes_before_the_first_news_is_not_left_until_the_folder_is_looked_through(
    tmp_path: Path, pacs: RawReceiver
) -> None:
    folder, (one,) = tmp_path / "export", mr(1)
    more = watch(folder).replace('rescan = "1s"', 'rescan = "1h"')
    target = folder / "IMG.dcm"
    one.write(tmp_path / "IMG.dcm.later")
    wrapper = [
        sys.executable,
        "-c",
        BETWEEN.replace('target + ".later"', repr(str(tmp_path / "IMG.dcm.later"))),
        str(target),
    ]
    with Edge(tmp_path, dimse("pacs", pacs.port), more=more, wrapper=wrapper):
        pacs.wait(1, 20)
    assert digests(pacs) == expected([one])


def test_watches_choose_routes_and_lend_their_names(tmp_path: Path, pacs: RawReceiver) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    first, second = mr(1), mr(1)
    with RawReceiver() as other:
        more = (
            watch(one, name="us-1", more='ae_title = "US1"')
            + watch(two, name="us-2", more='ae_title = "US2"')
            + '[[route]]\nwhen = { watch = "us-1" }\nto = ["pacs"]\n'
            + '[[route]]\nwhen = { watch = ["us-2", "*-2"] }\nto = ["other"]\n'
        )
        to = dimse("pacs", pacs.port, calling_ae_title="original") + dimse("other", other.port)
        with Edge(tmp_path, to, more=more):
            write(one, first)
            write(two, second)
            pacs.wait(1, 20)
            other.wait(1, 20)
        assert digests(pacs) == expected(first)
        assert digests(other) == expected(second)


def test_on_a_full_disk_files_wait_where_they_are(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    edge = Edge(tmp_path, dimse("pacs", pacs.port), more=watch(folder))
    objects = mr(3)
    write(folder, objects)
    free = shutil.disk_usage(tmp_path).free
    edge.configure(dimse("pacs", pacs.port), more=watch(folder))
    edge.config.write_text(edge.config.read_text().replace('reserve = "1MiB"', f'reserve = "{2 * free}B"'))
    with edge:
        wait_for(lambda: "INTAKE_CLOSED" in findings(edge), 20, "it is told")
        wait_for(lambda: gauge(edge)["waiting"] == 3, 20, "they wait")
        assert len(files(folder)) == 3
        edge.stop()
        edge.configure(dimse("pacs", pacs.port), more=watch(folder))
        edge.start()
        pacs.wait(3, 20)
    assert digests(pacs) == expected(objects)


def test_one_file_that_is_too_large_for_the_disk_keeps_no_other_waiting(tmp_path: Path, pacs: RawReceiver) -> None:
    folder = tmp_path / "export"
    edge = Edge(tmp_path, dimse("pacs", pacs.port), more=watch(folder))
    (large,) = ct(1)
    data = large.write(tmp_path / "x").read_bytes()
    at = data.rindex(b"\xe0\x7f\x10\x00") + 8
    length = 2 << 30
    path = folder / "0-large"
    with path.open("wb") as file:
        file.write(data[:at] + length.to_bytes(4, "little"))
        file.truncate(at + 4 + length)
    free = shutil.disk_usage(tmp_path).free
    edge.config.write_text(edge.config.read_text().replace('"1MiB"', f'"{free - (1 << 30)}B"'))
    objects = mr(40)
    with edge:
        wait_for(lambda: "WATCH_LEFT" in findings(edge), 20, "it is told")
        assert "0-large: there is no room on the disk for an object of this size" in findings(edge)["WATCH_LEFT"]
        for turn in range(2):
            write(folder / f"{turn}", objects[20 * turn : 20 * turn + 20])
            pacs.wait(20 * turn + 20, 10)
        assert "INTAKE_CLOSED" not in findings(edge)
        assert path.exists()
    assert digests(pacs) == expected(objects)


HANGS = """
import runpy, sys, time
from edge.intake import tree
def walk(*_):
    print("it hangs", file=sys.stderr, flush=True)
    time.sleep(1000)
    yield
tree.walk = walk
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""As where the server of a share has gone: no call comes back, and none can be interrupted."""


def test_a_share_that_hangs_does_not_hold_up_the_end(tmp_path: Path, pacs: RawReceiver) -> None:
    more = watch(tmp_path / "export")
    edge = Edge(tmp_path, dimse("pacs", pacs.port), more=more, wrapper=[sys.executable, "-c", HANGS])
    with edge:
        wait_for(lambda: "it hangs" in edge.output(), 20, "a thread hangs")
        begun = time.monotonic()
        edge.stop()
        assert time.monotonic() - begun < 5
    assert "event=stopped" in edge.output()
    assert "Traceback" not in edge.output()


def test_only_folders_that_are_watched_cost_the_kernel_a_watch(tmp_path: Path, pacs: RawReceiver) -> None:
    edge, folder = box(tmp_path, pacs)
    objects = mr(21)

    def watches() -> int:
        count = 0
        for info in Path(f"/proc/{edge.pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                count += info.read_text().count("inotify wd:")
        return count

    with edge:
        for number, one in enumerate(objects[:20]):
            write(folder / "PAT" / f"{number}", [one])
        pacs.wait(20, 20)
        wait_for(lambda: len(files(folder / "done")) == 20, 20, "moved")
        wait_for(lambda: watches() == 22, 20, "the folder, and 21 in it")
        shutil.rmtree(folder / "PAT")
        edge.stop()
        edge.start()
        wait_for(lambda: watches() == 1, 20, "the folder")
        write(folder, objects[20:])
        pacs.wait(21, 20)


def test_a_way_round_to_the_boxs_own_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "storage" / "spool" / "ready").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "storage" / "spool")
    (tmp_path / "real").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "real")
    roundabout = tmp_path / "export" / ".." / "storage" / "spool" / "ready"
    for path in (roundabout, tmp_path / "link", tmp_path / "link" / "ready"):
        more = f'[[watch]]\npath = "{path}"\n'
        done = Edge(tmp_path, more=more).command("check", check=False)
        assert done.returncode != 0
        assert "it would take the appliance's own files" in done.stdout + done.stderr
    more = f'[[watch]]\npath = "{tmp_path}/real"\n[[watch]]\nname = "b"\npath = "{tmp_path}/other"\n'
    done = Edge(tmp_path, more=more).command("check", check=False)
    assert "it lies in another watch" in done.stdout + done.stderr


def test_killed_while_it_takes_files_each_goes_exactly_once(tmp_path: Path, pacs: RawReceiver) -> None:
    dice = random.Random(seed := random.randrange(1 << 32))
    print(f"seed {seed}")
    folder = tmp_path / "export"
    edge = Edge(tmp_path, dimse("pacs", pacs.port), more=watch(folder), store='keep_delivered = "0s"')
    objects = mr(300)
    write(folder, objects)
    with edge:
        for _ in range(6):
            time.sleep(SETTLE + dice.uniform(0.1, 0.6))
            edge.kill()
            edge.start()
        wait_for(lambda: len(files(folder / "done")) == 300, 60, "all are taken")
        edge.wait_settled("pacs", {"accepted": 300})
    # what the PACS had answered when the process was killed may be sent again; a file is never taken twice
    assert set(digests(pacs)) == set(expected(objects))
    assert edge.tally("pacs") == {"accepted": 300}
