"""Folders that others write to: nothing is followed, nothing but the very file that was seen is opened or moved."""

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.intake import clearing, tree
from edge.intake.clearing import delete, move
from edge.intake.tree import ChangedError, Entry, open_file, walk
from tests.peers.ports import missing, require


def entries(root: Path, skip: str = "") -> dict[str, Entry]:
    return {entry.path: entry for entry in walk(root, skip)}


def test_everything_below_is_found_and_nothing_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "done").mkdir()
    (tmp_path / "outside").mkdir()
    for path in (root / "one", root / "a" / "b" / "two", root / "done" / "three", tmp_path / "outside" / "four"):
        path.write_bytes(b"12345")
    (root / "file-link").symlink_to(tmp_path / "outside" / "four")
    (root / "folder-link").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    found = entries(root, "done")
    assert set(found) == {"one", "a/b/two", "file-link", "folder-link", "pipe", "socket"}
    link = "it is a link, and links are not followed"
    assert {path: entry.odd for path, entry in found.items() if entry.odd} == {
        "file-link": link,
        "folder-link": link,
        "pipe": "it is no regular file",
        "socket": "it is no regular file",
    }
    assert found["one"].size == 5
    assert set(entries(root)) - set(found) == {"done/three"}


def test_folders_inside_one_another_end_somewhere(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(tree.MOST_DEEP + 2):
        deep /= "d"
        deep.mkdir()
    (deep / "file").touch()
    (only,) = entries(tmp_path).values()
    assert only.odd == f"it lies more than {tree.MOST_DEEP} folders deep"


def test_a_walk_that_is_given_up_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    going = walk(tmp_path)
    assert next(going).path == "a/b/file"
    going.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_that_became_a_link_since_leads_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a", outside):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"12345")
    (entry,) = entries(root).values()
    (root / "a").rename(root / "b")
    (root / "a").symlink_to(outside)
    for act in (open_file, delete):
        with pytest.raises(NotADirectoryError):
            act(root, entry)
    with pytest.raises(NotADirectoryError):
        move(root, entry, "done")
    assert (outside / "file").exists()


def test_a_file_that_became_a_link_or_another_is_not_touched(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"12345")
    (entry,) = entries(tmp_path).values()
    path.rename(other)
    path.symlink_to(other)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_file(tmp_path, entry)
    path.unlink()
    path.write_bytes(b"12345")
    for act in (open_file, delete):
        with pytest.raises(ChangedError):
            act(tmp_path, entry)
    with pytest.raises(ChangedError):
        move(tmp_path, entry, "done")
    assert path.exists()


def test_what_is_open_tells_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    (entry,) = entries(tmp_path).values()
    file = open_file(tmp_path, entry)
    file.load()
    assert (file.first, file.read(1, 3), file.read(3, 100)) == (b"12345", b"234", b"45")
    file.check()
    with path.open("ab") as more:
        more.write(b"6")
    with pytest.raises(ChangedError):
        file.check()
    file.close()


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    (entry,) = entries(tmp_path).values()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ChangedError):
        open_file(tmp_path, entry)


def test_moving_makes_folders_and_never_overwrites(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / "file").write_text(text)
        (entry,) = entries(tmp_path, "done").values()
        move(tmp_path, entry, "done")
        move(tmp_path, entry, "done")  # a second time is fine
    done = tmp_path / "done" / "a"
    assert {path.name: path.read_text() for path in done.iterdir()} == {
        "file": "first",
        "file.1": "second",
        "file.2": "third",
    }


def test_a_name_of_any_bytes_has_an_origin_of_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"M\xfcller \xe4")
    (tmp_path / name).touch()
    (entry,) = entries(tmp_path).values()
    assert entry.path == name
    assert entry.origin("watch us").path == "M\\xfcller \\xe4"
    open_file(tmp_path, entry).close()


def test_the_folder_that_is_left_out_is_the_one_of_that_name_in_capitals_too_where_these_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Done").mkdir()
    (tmp_path / "Done" / "IM1").touch()
    assert set(entries(tmp_path, "done")) == {"Done/IM1"}
    looking = os.stat

    def folding(path: Any, **more: Any) -> os.stat_result:
        return looking("Done" if path == "done" else path, **more)

    monkeypatch.setattr(os, "stat", folding)
    assert entries(tmp_path, "done") == {}


def test_only_what_is_certain_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    assert not tree.gone(tmp_path, "a/file")
    assert tree.gone(tmp_path, "a/other")
    assert tree.gone(tmp_path, "a/file/below")
    assert tree.gone(tmp_path, "a/" + "n" * 300)
    for number in (errno.EACCES, errno.ESTALE, errno.EIO):
        monkeypatch.setattr(os, "stat", failing(number))
        assert not tree.gone(tmp_path, "a/other")


def test_numbers_of_files_fit_into_rows() -> None:
    assert Entry("a", inode=(1 << 64) - 1).origin("watch us").inode == -1
    assert Entry("a", inode=1 << 63).origin("watch us").inode == -(1 << 63)
    assert Entry("a", inode=(1 << 63) - 1).origin("watch us").inode == (1 << 63) - 1


# clearing


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture(params=["renameat2", "links", "neither"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system can do."""
    if request.param != "renameat2":
        monkeypatch.setattr(clearing, "_renameat2", lambda: None)
    if request.param == "neither":
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_many_that_move_to_one_name_at_once_overwrite_nothing(tmp_path: Path) -> None:
    folders = [tmp_path / f"{number}" for number in range(8)]
    for turn in range(60):
        found = []
        for folder in folders:
            folder.mkdir(exist_ok=True)
            (folder / "IM").write_text(f"{turn} {folder.name}")
            (entry,) = walk(folder)
            found.append((folder, entry))
        start = threading.Barrier(len(folders))

        def go(folder: Path, entry: Entry, start: threading.Barrier = start) -> None:
            start.wait()
            with tree.parent(folder, entry.path) as (source, name), tree.parent(tmp_path, "done/IM", make=True) as to:
                clearing._move(tmp_path, source, name, to[0], lambda number: f"IM.{number}")

        with ThreadPoolExecutor(len(folders)) as pool:
            list(pool.map(go, *zip(*found, strict=True)))
    assert len({path.read_text() for path in (tmp_path / "done").iterdir()}) == 60 * len(folders)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("act", [delete, lambda root, entry: move(root, entry, "done")])
def test_a_file_that_comes_at_the_last_moment_is_neither_deleted_nor_moved(
    tmp_path: Path, act: Callable[[Path, Entry], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "IM", tmp_path / "aside"
    path.write_text("taken")
    entry = entries(tmp_path, "done")["IM"]
    other.write_text("never seen")
    renaming = clearing._rename

    def late(root: Path, folder: int, name: str, target: int, new: str) -> None:
        if other.exists():
            other.replace(path)
        renaming(root, folder, name, target, new)

    monkeypatch.setattr(clearing, "_rename", late)
    with pytest.raises(ChangedError):
        act(tmp_path, entry)
    assert path.read_text() == "never seen"
    assert set(entries(tmp_path)) == {"IM"}


@pytest.mark.usefixtures("way")
def test_what_is_left_on_its_way_is_found_and_gets_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "IM").write_text("taken")
    (entry,) = entries(tmp_path).values()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed)
        patch.setattr(os, "link", failing(errno.EPERM))
        with pytest.raises(KilledError):
            delete_and_die(tmp_path, entry, patch)
    (left,) = entries(tmp_path).values()
    assert left.path == "a/.edge~IM"
    assert clearing.hidden(left)
    (tmp_path / "a" / "IM").write_text("new")
    assert not clearing.put_back(tmp_path, left)
    # the new one can go all the same
    delete(tmp_path, entries(tmp_path)["a/IM"])
    assert clearing.put_back(tmp_path, left)
    assert (tmp_path / "a" / "IM").read_text() == "taken"


class KilledError(BaseException):
    """The process ends here."""


def killed(*_: Any, **__: Any) -> None:
    raise KilledError


def delete_and_die(root: Path, entry: Entry, patch: pytest.MonkeyPatch) -> None:
    """Delete, and be killed before the hidden name is gone: nothing is put back either."""
    renaming = clearing._rename

    def once(*arguments: Any) -> None:
        renaming(*arguments)
        patch.setattr(clearing, "_rename", killed)

    patch.setattr(clearing, "_rename", once)
    delete(root, entry)


def test_a_long_name_that_is_there_already_is_shortened_at_its_stem(tmp_path: Path) -> None:
    name = "ü" * 125 + ".dcm"
    for text in ("first", "second", "third"):
        (tmp_path / name).write_text(text)
        move(tmp_path, entries(tmp_path, "done")[name], "done")
    found = {path.name: path.read_text() for path in (tmp_path / "done").iterdir()}
    assert found == {name: "first", "ü" * 124 + ".dcm.1": "second", "ü" * 124 + ".dcm.2": "third"}


def test_a_free_name_is_found_without_a_look_at_each_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "done").mkdir()
    for name in ("IM", *(f"IM.{number}" for number in range(1, 3000))):
        (tmp_path / "done" / name).touch()
    (tmp_path / "IM").touch()
    entry = entries(tmp_path, "done")["IM"]
    looks = 0
    looking = os.stat

    def counting(*arguments: Any, **more: Any) -> os.stat_result:
        nonlocal looks
        looks += 1
        return looking(*arguments, **more)

    monkeypatch.setattr(os, "stat", counting)
    move(tmp_path, entry, "done")
    assert looks < 40
    assert (tmp_path / "done" / "IM.3000").exists()


def test_where_nothing_can_be_moved_to_the_file_is_not_even_renamed(tmp_path: Path) -> None:
    (tmp_path / "IM").touch()
    (tmp_path / "done").touch()
    entry = entries(tmp_path)["IM"]
    with pytest.raises(NotADirectoryError):
        move(tmp_path, entry, "done")
    assert entries(tmp_path)["IM"] == entry


# who has it open


LOOK = """
import sys
from pathlib import Path
from edge.intake.tree import open_file, walk
(entry,) = walk(Path(sys.argv[1]))
print(open_file(Path(sys.argv[1]), entry).busy())
"""


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ("+lease", "another program has it open for writing"),
        ("-all", ""),
    ],
)
def test_a_writer_to_the_file_of_another_user_is_seen_with_the_right_to_lease(rights: str, said: str) -> None:
    if os.geteuid():
        missing("root, to be two users")
    tool = require("setpriv")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        path = folder / "IM"
        path.write_bytes(b"12345")
        path.chmod(0o644)
        os.chown(path, 1234, 1234)
        with path.open("ab"):
            done = subprocess.run(
                [
                    *(tool, "--reuid", "2345", "--regid", "2345", "--clear-groups"),
                    *("--inh-caps", rights, "--ambient-caps", rights),
                    *(sys.executable, "-c", LOOK, place),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.stdout == f"{said}\n", done.stderr


def test_a_file_dated_beyond_what_a_row_holds_has_an_origin_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "late"
    path.write_bytes(b"x")
    entry = msgspec.structs.replace(tree.look(path), mtime_ns=13_569_465_600 * 10**9, ctime_ns=-(1 << 70))
    origin = entry.origin("watch us")
    assert (origin.mtime_ns, origin.ctime_ns) == ((1 << 63) - 1, -((1 << 63) - 1))
