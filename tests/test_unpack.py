"""ZIP archives: what they may cost is bounded before it is paid."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.intake import unpack
from edge.intake.unpack import Archive, ArchiveError, NoRoomToUnpackError, UnfinishedArchiveError


class Memory:
    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.first = data[: 1 << 20]
        self._data = data

    def read(self, offset: int, count: int, /) -> bytes:
        return self._data[offset : offset + count]

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.mkdir("folder")
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def opened(data: bytes, tmp_path: Path, *, room: bool = True) -> Archive:
    return Archive(Memory(data), tmp_path, lambda _: room)


def content(archive: Archive, index: int = 0) -> bytes:
    member = archive.unpack(archive.members[index])
    data = member.read(0, member.size + 1)
    assert member.first == data[: 1 << 20]
    assert member.read(3, 5) == data[3:8]
    member.close()
    return data


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_come_out_as_they_went_in(tmp_path: Path, method: int) -> None:
    members = {"a": b"x" * 100, "folder/b": bytes(range(256)) * 50_000}
    archive = opened(packed(members, method), tmp_path)
    assert [info.filename for info in archive.members] == ["a", "folder/b"]
    assert [content(archive, n) for n in range(2)] == list(members.values())
    assert list(tmp_path.iterdir()) == []
    archive.close()


def test_an_archive_that_is_still_written_has_no_end(tmp_path: Path) -> None:
    data = packed({"a": b"x" * 1000, "b": b"y" * 1000})
    for length in range(len(data)):
        with pytest.raises(ArchiveError):
            opened(data[:length], tmp_path)
    with pytest.raises(UnfinishedArchiveError):
        opened(data[:-30], tmp_path)


def test_a_password_and_a_damaged_member_are_refused_alone(tmp_path: Path) -> None:
    data = bytearray(packed({"locked": b"x" * 100, "damaged": b"y" * 100, "good": b"z" * 100}, zipfile.ZIP_STORED))
    central = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)  # the first is the folder's
    data[central + 8] |= 1
    data[data.index(b"y" * 100) + 50] ^= 1
    archive = opened(bytes(data), tmp_path)
    with pytest.raises(ArchiveError, match="protected by a password"):
        content(archive, 0)
    with pytest.raises(ArchiveError, match="it cannot be unpacked: Bad CRC-32"):
        content(archive, 1)
    assert content(archive, 2) == b"z" * 100


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "ALWAYS", 1 << 20)
    bomb = packed({"a": bytes(8 << 20)})
    with pytest.raises(ArchiveError, match="more than 200 times its size would come out"):
        opened(bomb, tmp_path)
    monkeypatch.setattr(unpack, "ALWAYS", 16 << 20)
    assert content(opened(bomb, tmp_path)) == bytes(8 << 20)
    monkeypatch.setattr(unpack, "MOST_TOTAL", 1 << 20)
    with pytest.raises(ArchiveError, match="unpack it, or split it"):
        opened(bomb, tmp_path)


def test_a_member_that_says_less_than_comes_out_is_refused(tmp_path: Path) -> None:
    data = bytearray(packed({"a": bytes(1 << 20)}))
    central = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    struct.pack_into("<L", data, central + 24, 1000)
    with pytest.raises(ArchiveError, match="cannot be unpacked"):
        content(opened(bytes(data), tmp_path))


def test_a_directory_without_end_is_not_read(tmp_path: Path) -> None:
    data = bytearray(packed({"a": b"x"}))
    struct.pack_into("<L", data, len(data) - 10, unpack.MOST_DIRECTORY + 1)
    with pytest.raises(ArchiveError, match="its directory is longer than 16 MiB"):
        opened(bytes(data), tmp_path)


def test_a_large_member_waits_for_room(tmp_path: Path) -> None:
    archive = opened(packed({"small": bytes(100), "large": bytes(9 << 20)}), tmp_path, room=False)
    assert content(archive, 0) == bytes(100)
    with pytest.raises(NoRoomToUnpackError):
        content(archive, 1)


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_whatever_the_bytes_are_there_is_an_answer(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, at: int, value: int
) -> None:
    data = bytearray(packed({"a": b"words" * 20}) + tail)
    data[at % len(data)] = value
    folder = tmp_path_factory.getbasetemp()
    try:
        archive = opened(bytes(data), folder)
        for info in archive.members:
            archive.unpack(info).close()
    except ArchiveError:
        pass
