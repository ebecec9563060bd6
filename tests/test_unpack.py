"""ZIP archives: what they may cost is bounded before it is paid."""

import contextlib
import io
import struct
import tracemalloc
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


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_come_out_as_they_went_in(tmp_path: Path, method: int) -> None:
    members = {"a": b"x" * 100, "folder/b": bytes(range(256)) * 50_000}
    archive = opened(packed(members, method), tmp_path)
    assert [info.filename for info in archive.members] == ["a", "folder/b"]
    assert [content(archive, n) for n in range(2)] == list(members.values())
    assert list(tmp_path.iterdir()) == []
    archive.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_may_ask_for_gigabytes_of_memory_is_not_opened(tmp_path: Path, method: int) -> None:
    data = bytearray(packed({"a": bytes(1 << 20)}, method))
    if method == zipfile.ZIP_LZMA:
        # its dictionary, in the properties that follow name, version and length
        struct.pack_into("<L", data, data.index(b"PK\3\4", 30) + 30 + 1 + 4 + 1, 0xFFFFFFF0)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=f"it is packed by method {method}, and only Deflate is opened"):
            content(opened(bytes(data), tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_member_without_a_name_is_a_member(tmp_path: Path) -> None:
    data = packed({"a": b"x" * 100}, zipfile.ZIP_STORED)
    local, central = data.index(b"PK\3\4", 30), data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    end = data.index(b"PK\5\6")
    changed = bytearray(data[: end - 1])
    changed[central + 28 : central + 30] = b"\0\0"
    del changed[central + 46 : central + 47]
    changed += data[end - 1 + 1 :] if len(changed) == end - 1 else data[end:]
    struct.pack_into("<L", changed, len(changed) - 10, end - data.index(b"PK\1\2") - 1)
    changed[local + 26 : local + 28] = b"\0\0"
    archive = opened(bytes(changed), tmp_path)
    assert [info.filename for info in archive.members] == [""]
    with pytest.raises(ArchiveError):  # its data now begins with what was its name
        content(archive)


@pytest.mark.parametrize("at", [6, 8, 14, 18, 22, 26, 28])
def test_a_member_whose_own_header_is_damaged_is_refused_or_comes_out_whole(tmp_path: Path, at: int) -> None:
    whole = packed({"a": bytes(range(256)) * 100})
    for value in (0, 1, 0x7F, 0xFF):
        data = bytearray(whole)
        data[data.index(b"PK\3\4", 30) + at] ^= value
        with contextlib.suppress(ArchiveError):
            assert content(opened(bytes(data), tmp_path)) == bytes(range(256)) * 100


def test_damage_anywhere_in_a_deflated_member_is_refused(tmp_path: Path) -> None:
    whole = packed({"a": bytes(range(256)) * 4})
    begins = whole.index(b"PK\3\4", 30) + 31
    ends = whole.index(b"PK\1\2")
    for at in range(begins, ends):
        data = bytearray(whole)
        data[at] ^= 0xFF
        with pytest.raises(ArchiveError):
            content(opened(bytes(data), tmp_path))


def test_a_place_no_file_can_have_is_refused(tmp_path: Path) -> None:
    class Strict(Memory):
        def read(self, offset: int, count: int, /) -> bytes:
            assert 0 <= offset < 1 << 63, "a system call takes no more"
            return super().read(offset, count)

    extra = struct.pack("<HHQ", 1, 8, (1 << 64) - 1)
    data = bytearray(packed({"a": b"x" * 100}))
    central = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    data[central + 42 : central + 46] = b"\xff" * 4
    struct.pack_into("<H", data, central + 30, len(extra))
    data[central + 47 : central + 47] = extra
    struct.pack_into("<L", data, len(data) - 10, struct.unpack_from("<L", data, len(data) - 10)[0] + len(extra))
    archive = Archive(Strict(bytes(data)), tmp_path, lambda _: True)
    with pytest.raises(ArchiveError):
        content(archive)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A bomb whose every member is packed into the same bytes seems to hold as much as goes in."""
    data = bytearray(packed({"a": bytes(10_000), "b": b"x"}))
    first = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    second = data.index(b"PK\1\2", first + 1)
    struct.pack_into("<L", data, second + 20, len(data))
    with pytest.raises(ArchiveError, match="its members overlap"):
        opened(bytes(data), tmp_path)


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


def zip64(data: bytes, *, length: int | None = None, points: int | None = None) -> bytes:
    """The same archive with a ZIP64 end record, and nothing but all ones in the other."""
    end = len(data) - 22
    real, at = struct.unpack_from("<LL", data, end + 12)
    members = struct.unpack_from("<H", data, end + 10)[0]
    size = real if length is None else length
    record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, members, members, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end if points is None else points, 1)
    ones = struct.pack("<4sHHHHLLH", b"PK\5\6", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:end] + record + locator + ones


def test_an_honest_zip64_archive_is_opened(tmp_path: Path) -> None:
    assert content(opened(zip64(packed({"a": b"x" * 100})), tmp_path)) == b"x" * 100


def test_a_zip64_end_record_does_not_get_round_the_bounds(tmp_path: Path) -> None:
    data = packed({"a": b"x"})
    with pytest.raises(ArchiveError, match="its directory is longer than 16 MiB"):
        opened(zip64(data, length=unpack.MOST_DIRECTORY + 1), tmp_path)
    with pytest.raises(ArchiveError, match="its directory is longer than the archive"):
        opened(zip64(data, length=len(data) + 1), tmp_path)
    with pytest.raises(ArchiveError, match="its ZIP64 end record is not where it should be"):
        opened(zip64(data, points=0), tmp_path)


@pytest.mark.parametrize("wide", [False, True])
def test_members_are_counted_before_the_directory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, wide: bool
) -> None:
    data = packed({f"{n:030}": b"" for n in range(199)})  # and a folder
    struct.pack_into("<HH", changed := bytearray(data), len(data) - 14, 1, 1)
    data = zip64(bytes(changed)) if wide else bytes(changed)
    monkeypatch.setattr(unpack, "_PIECE", 100)  # less than two members
    monkeypatch.setattr(unpack, "MOST_MEMBERS", 200)
    assert len(opened(data, tmp_path).members) == 199
    monkeypatch.setattr(unpack, "MOST_MEMBERS", 199)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(ArchiveError, match="it has more than 199 members; unpack it, or split it"):
        opened(data, tmp_path)


def test_a_member_that_says_more_than_comes_out_is_refused(tmp_path: Path) -> None:
    data = bytearray(packed({"a": bytes(1000)}))
    central = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    struct.pack_into("<L", data, central + 24, 2000)
    with pytest.raises(ArchiveError, match="it is shorter than the archive says"):
        content(opened(bytes(data), tmp_path))


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
