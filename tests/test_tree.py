"""Folders that others write to: nothing is followed, nothing but the very file that was seen is opened or moved."""

import os
import socket
from pathlib import Path

import pytest

from edge.intake import tree
from edge.intake.tree import ChangedError, Entry, delete, move, open_file, walk


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
