"""What opens the data partition of a box, and encrypts it at the first start: `at-rest` of firmware-config/image.

Its programs are stand-ins that keep keys in the header in the clear, so that every one can fail in turn; the real ones
run in `image-build/test --only at_rest`.
"""

import errno
import json
from pathlib import Path
from typing import Final

import pytest

from tests.programs import loaded

_PROGRAM: Final = Path(__file__).parents[1] / "firmware-config" / "image" / "usr" / "lib" / "edge" / "at-rest"
_MADE: Final = 1_700_000_000
_TPMS: Final = (b"one", b"another")
_RECOVERY: Final = "a recovery key of many words"


PROGRAM: Final = loaded(_PROGRAM)


class Programs:
    """What `cryptsetup`, `systemd-cryptenroll` and others do, as far as it is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails = 0
        """Which of them fails, counted from 1."""
        self.tpm: bytes | None = None
        self.opened = False
        self.writable = False

    def do(self, *argv: str | Path, given: bytes = b"") -> None:
        words = [str(word) for word in argv]
        self.calls.append(" ".join(words))
        if len(self.calls) == self.fails:
            raise PROGRAM.AtRestError("it fails")
        known = {
            "udevadm wait": self._waits,
            "mount -o": self._mount,
            "cryptsetup close": self._close,
            "cryptsetup luksKillSlot": self._kill,
            "cryptsetup luksFormat": self._format,
            "cryptsetup luksAddKey": self._add,
            "cryptsetup luksRemoveKey": self._remove,
            "cryptsetup config": self._rename,
            "cryptsetup open": self._open,
            "systemd-cryptenroll --tpm2-device=auto": self._enroll,
            "systemd-cryptenroll --wipe-slot=tpm2": self._wipe,
            "mke2fs -q": self._file_system,
        }
        known[" ".join(words[:2])](words, given)

    def _file_system(self, words: list[str], _: bytes) -> None:
        assert words[-1] == "/dev/mapper/data"

    def _rename(self, words: list[str], _: bytes) -> None:
        _label(words[-1], _after(words, "--label"))

    def _mount(self, words: list[str], _: bytes) -> None:
        self.writable = words[2] == "remount,rw"

    def _close(self, words: list[str], _: bytes) -> None:
        assert words[-1] == "data"
        self.opened = False

    def _waits(self, words: list[str], _: bytes) -> None:
        if words[-1] == "/dev/edge/data":
            assert self.opened
        else:
            assert words[-1] == "/dev/tpmrm0"
            if self.tpm is None:
                raise PROGRAM.AtRestError("there is none")

    def _kill(self, words: list[str], _: bytes) -> None:
        kept = _kept(words[-2])
        _opened(words[-2], _key(words))
        if int(words[-1]) >= len(kept):
            raise PROGRAM.AtRestError("it is not active")
        kept[int(words[-1])] = b""
        _keep(words[-2], kept)

    def _format(self, words: list[str], _: bytes) -> None:
        with Path(words[-1]).open("r+b") as file:
            file.write(bytes(16384))
        _keep(words[-1], [_key(words)])
        _label(words[-1], _after(words, "--label"))

    def _add(self, words: list[str], _: bytes) -> None:
        _opened(words[-1], _key(words))
        _add(words[-1], Path(_after(words, "--new-keyfile")).read_bytes())

    def _remove(self, words: list[str], _: bytes) -> None:
        removed = Path(words[-1]).read_bytes()
        _opened(words[-2], removed)
        _keep(words[-2], [one if one != removed else b"" for one in _kept(words[-2])])

    def _open(self, words: list[str], given: bytes) -> None:
        tried = "--test-passphrase" in words
        _opened(words[-1 if tried else -2], self.tpm if "--token-only" in words else _key(words, given))
        if not tried:
            assert not self.opened
            self.opened = True

    def _enroll(self, words: list[str], _: bytes) -> None:
        if self.tpm is None:
            raise PROGRAM.AtRestError("there is none")
        key = next(word for word in words if word.startswith("--unlock-key-file="))
        _opened(words[-1], Path(key.partition("=")[2]).read_bytes())
        # as the real one does, whosever it is
        if not self._sealed(words[-1]):
            _add(words[-1], self.tpm)
            with Path(words[-1]).open("r+b") as file:
                file.seek(4096)
                file.write(b'"systemd-tpm2"')

    def _wipe(self, words: list[str], _: bytes) -> None:
        sealed = self._sealed(words[-1])
        _keep(words[-1], [one if one not in sealed else b"" for one in _kept(words[-1])])
        with Path(words[-1]).open("r+b") as file:
            file.seek(4096)
            file.write(bytes(20))

    def _sealed(self, path: str) -> list[bytes]:
        return [one for one in _kept(path) if one in _TPMS]


def _after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def _key(words: list[str], given: bytes = b"") -> bytes:
    name = _after(words, "--key-file")
    return given if name == "-" else Path(name).read_bytes()


def _kept(path: str | Path) -> list[bytes]:
    """The keys that open it."""
    with Path(path).open("rb") as file:
        file.seek(8192)
        return [bytes.fromhex(one) for one in json.loads(file.read(8192).rstrip(b"\0"))]


def _keep(path: str, keys: list[bytes]) -> None:
    with Path(path).open("r+b") as file:
        file.seek(8192)
        file.write(json.dumps([one.hex() for one in keys]).encode().ljust(8192, b"\0"))


def _add(path: str, key: bytes) -> None:
    """Into the first slot that is free."""
    kept = _kept(path)
    at = kept.index(b"") if b"" in kept else len(kept)
    _keep(path, [*kept[:at], key, *kept[at + 1 :]])


def _label(path: str, text: str) -> None:
    with Path(path).open("r+b") as file:
        file.write(b"LUKS\xba\xbe".ljust(24, b"\0") + text.encode().ljust(48, b"\0"))


def _opened(path: str, key: bytes | None) -> None:
    if not key or key not in _kept(path):
        raise PROGRAM.AtRestError("no key available with this passphrase")


class Bench:
    """A card in a folder: its data partition a file, FIRMWARE a folder, and programs that stand in for others."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self.partition = folder / "partition"
        self.card = folder / "card"
        self.told = folder / "run" / "edge-at-rest"
        self.card.mkdir()
        self.told.parent.mkdir()
        self.mounted = True
        self.programs = programs
        self.fresh()

    def fresh(self, *, mounts: int = 0, mounted: int = 0, written: int = _MADE, files: int = 0) -> None:
        """A plain ext4, by what its superblock says."""
        block = bytearray(1024)
        numbers = {0: 65536, 16: 65536 - 11 - files, 44: mounted, 48: written, 264: _MADE}
        for at, number in numbers.items():
            block[at : at + 4] = number.to_bytes(4, "little")
        block[52:54] = mounts.to_bytes(2, "little")
        block[56:58] = b"\x53\xef"
        with self.partition.open("wb") as file:
            file.write(bytes(1024) + block)
            file.truncate(32 << 20)

    def ask(self, encryption: str = "card", recovery: str = _RECOVERY) -> None:
        text = f'[storage]\nencryption = "{encryption}"\nrecovery_key = "{recovery}"\n'
        (self.card / "provision.toml").write_text(text)

    def forget(self) -> None:
        """What `edge provision` does when it has taken it."""
        (self.card / "provision.toml").unlink()

    def start(self, *, fails: int = 0) -> int:
        """Start; the ``fails``-th program fails. Its exit code."""
        self.told.unlink(missing_ok=True)
        self.programs.calls.clear()
        self.programs.opened = False
        self.programs.fails = fails
        given = ["--partition", str(self.partition), "--card", str(self.card), "--told", str(self.told)]
        code: int = PROGRAM.main(given)
        # keys are nowhere but on the card
        assert [path.name for path in self.told.parent.iterdir()] in ([], ["edge-at-rest"])
        assert not self.programs.writable
        assert self.programs.opened == (self.state not in {"", "none"})
        return code

    @property
    def state(self) -> str:
        return self.told.read_text().strip() if self.told.exists() else ""

    @property
    def answer(self) -> str:
        path = self.card / "provision-result.txt"
        return path.read_text("utf-8-sig") if path.exists() else ""

    @property
    def label(self) -> str:
        with self.partition.open("rb") as file:
            head = file.read(72)
        return head[24:].rstrip(b"\0").decode() if head.startswith(b"LUKS") else ""

    @property
    def keys(self) -> list[bytes]:
        return _kept(self.partition)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    programs = Programs()
    monkeypatch.setattr(PROGRAM, "do", programs.do)
    bench = Bench(tmp_path, programs)
    monkeypatch.setattr(PROGRAM.os.path, "ismount", lambda path: path == bench.card and bench.mounted)
    return bench


def test_a_box_that_is_not_asked_is_left_as_it_is(bench: Bench) -> None:
    before = bench.partition.read_bytes()
    assert bench.start() == 0
    assert (bench.state, bench.programs.calls, bench.answer) == ("none", [], "")
    assert bench.partition.read_bytes() == before


_USED: Final[dict[str, dict[str, int]]] = {
    "mounted": {"mounts": 1, "mounted": _MADE, "written": _MADE},
    "got back from another superblock": {"written": _MADE + 1},
    "got back, and with a file": {"files": 1},
}


@pytest.mark.parametrize("used", _USED)
@pytest.mark.parametrize(
    "text", ["[storage]\nencryption = 1\n", "[storage", "\xff storage", f"a = {'[' * 100_000}", f"a = {'9' * 5000}"]
)
def test_a_partition_in_use_is_opened_whatever_lies_on_the_card(bench: Bench, used: str, text: str) -> None:
    bench.fresh(**_USED[used])
    before = bench.partition.read_bytes()
    (bench.card / "provision.toml").write_text(text, encoding="latin-1")
    assert bench.start() == 0
    bench.ask()
    assert bench.start() == 0
    bench.mounted = False
    assert bench.start() == 0
    assert (bench.state, bench.programs.calls, bench.answer) == ("none", [], "")
    assert bench.partition.read_bytes() == before


def test_a_card_that_is_not_there_could_have_asked(bench: Bench) -> None:
    bench.mounted = False
    assert bench.start() == 1
    assert bench.state == ""
    bench.mounted = True
    assert bench.start() == 0
    assert bench.state == "none"


@pytest.mark.parametrize("damaged", [b"", b"LUKS\xba\xbe\0\1", b"LUKS\xba\xbe\0\2" + bytes(16) + b"dicom-edgf-making"])
def test_an_encrypted_partition_is_never_begun_anew_for_its_header_is_damaged(bench: Bench, damaged: bytes) -> None:
    bench.ask()
    assert bench.start() == 0
    with bench.partition.open("r+b") as file:
        file.write(damaged.ljust(72, b"\0"))
        file.seek(0x4000)
        file.write(b"SKUL\xba\xbe".ljust(24, b"\0") + b"dicom-edge-data".ljust(48, b"\0"))
    before = bench.partition.read_bytes()
    assert bench.start() == 0
    assert bench.partition.read_bytes() == before


def test_a_damaged_partition_is_not_taken_for_a_new_one(bench: Bench) -> None:
    bench.ask()
    bench.partition.write_bytes(bytes(1 << 20))
    assert bench.start() == 0
    assert (bench.state, bench.programs.calls) == ("none", [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[storage]\nencryption = "disk"\nrecovery_key = "a recovery key of many words"\n', '"card" or "tpm"'),
        ('[storage]\nencryption = "card"\nrecovery_key = "short"\n', "20 to 512"),
        ('[storage]\nencryption = "card"\n', "20 to 512"),
        ("storage = 3\n", '"card" or "tpm"'),
        ('[storage]\nencryption = "card"\nrecovery_key = """\na recovery key of many words\n"""\n', "20 to 512"),
        ("[storage\n", "cannot be read"),
        ("[Storage]\n", "has no table"),
        ('[storge]\n"encryption" = "card"\n', "has no table"),
        ('encryption = "card"\n[box]\n', "has no table"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_cannot_be_understood_is_not_stored_in_the_clear(
    bench: Bench, text: str, said: str, encoding: str
) -> None:
    (bench.card / "provision.toml").write_text(text, encoding)
    assert bench.start() == 1
    assert (said if encoding == "utf-8-sig" else "cannot be read") in bench.answer
    assert (bench.state, bench.label) == ("", "")
    bench.ask()
    assert bench.start() == 0
    assert bench.state == "card"


def test_a_file_that_asks_for_nothing_of_the_kind_is_for_another_to_judge(bench: Bench) -> None:
    (bench.card / "provision.toml").write_text('[box]\nhostname = "storage-1"\n# [storage]\n[dashboard\n')
    assert bench.start() == 0
    assert bench.state == "none"


def test_with_the_key_on_the_card_it_opens_by_itself(bench: Bench) -> None:
    bench.ask()
    (bench.card / "provision.toml").rename(bench.card / "provision.toml.txt")
    assert bench.start() == 0
    assert (bench.state, bench.label) == ("card", "dicom-edge-data")
    (bench.card / "provision.toml.txt").unlink()
    assert bench.start() == 0
    assert bench.state == "card"
    assert [call.split()[1] for call in bench.programs.calls] == ["open", "wait"]
    assert _RECOVERY.encode() in bench.keys


def test_with_a_tpm_the_key_is_nowhere_else(bench: Bench) -> None:
    bench.ask("tpm")
    bench.programs.tpm = b"one"
    assert bench.start() == 0
    assert bench.state == "tpm"
    assert sorted(filter(None, bench.keys)) == sorted([_RECOVERY.encode(), b"one"])
    assert not (bench.card / "data.key").exists()
    bench.forget()
    assert bench.start() == 0
    assert bench.state == "tpm"


def test_a_box_without_the_tpm_that_is_asked_stores_nothing(bench: Bench) -> None:
    bench.ask("tpm")
    assert bench.start() == 1
    assert "has none that is known" in bench.answer
    assert bench.label == ""


@pytest.mark.parametrize("encryption", ["card", "tpm"])
def test_what_is_cut_short_begins_anew(bench: Bench, encryption: str) -> None:
    bench.ask(encryption)
    bench.programs.tpm = b"one"
    assert bench.start() == 0
    # the last waits for what is made
    steps = len(bench.programs.calls) - 1
    assert steps > 6
    for fails in range(1, steps + 1):
        bench.fresh()
        (bench.card / "data.key").unlink(missing_ok=True)
        assert bench.start(fails=fails) == 1, bench.programs.calls
        assert bench.state == ""
        assert bench.label in {"", "dicom-edge-making"}
        assert bench.start() == 0
        assert (bench.state, bench.label) == (encryption, "dicom-edge-data")
        assert bench.start() == 0
        assert bench.state == encryption


def test_a_card_that_takes_no_key_is_said_and_left_for_the_next_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ask()
    with monkeypatch.context() as full:
        full.setattr(PROGRAM.Card, "write", _refuse)
        assert bench.start() == 1
    assert (bench.state, bench.label) == ("", "dicom-edge-making")
    assert bench.start() == 0
    assert bench.state == "card"


def _refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_was_begun_waits_for_its_file(bench: Bench) -> None:
    bench.ask()
    assert bench.start() == 0
    count = len(bench.programs.calls) - 1
    bench.fresh()
    assert bench.start(fails=count) == 1
    bench.forget()
    assert bench.start() == 1
    assert "Nothing was ever stored" in bench.answer
    assert bench.label == "dicom-edge-making"


@pytest.mark.parametrize("encryption", ["card", "tpm"])
def test_another_box_opens_it_with_the_recovery_key_alone(bench: Bench, encryption: str) -> None:
    bench.ask(encryption)
    bench.programs.tpm = b"one"
    assert bench.start() == 0
    before = bench.keys
    bench.forget()
    bench.programs.tpm = b"another"
    (bench.card / "data.key").unlink(missing_ok=True)
    assert bench.start() == 1
    assert "It is not lost" in bench.answer
    bench.ask(encryption, "not the recovery key of it")
    assert bench.start() == 1
    assert "the recovery key of provision.toml does not open" in bench.answer
    bench.ask(encryption)
    assert bench.start() == 0
    assert bench.state == encryption
    assert bench.answer == "dicom-edge: the data partition is open again.\n"
    assert not set(filter(None, before)) & set(bench.keys) - {_RECOVERY.encode()}
    bench.forget()
    assert bench.start() == 0
    assert bench.state == encryption


def test_a_key_on_the_card_that_is_of_no_use_does_not_keep_the_tpm_from_opening_it(bench: Bench) -> None:
    bench.ask("tpm")
    bench.programs.tpm = b"one"
    assert bench.start() == 0
    bench.forget()
    (bench.card / "data.key").write_bytes(bytes(64))
    assert bench.start() == 0
    assert bench.state == "tpm"


def test_where_the_recovery_key_is_right_and_no_tpm_is_there_it_is_said(bench: Bench) -> None:
    bench.ask()
    assert bench.start() == 0
    (bench.card / "data.key").unlink()
    bench.ask("tpm")
    assert bench.start() == 1
    assert "the recovery key is right" in bench.answer
    bench.ask("card")
    assert bench.start() == 0


def test_where_the_key_of_a_card_is_damaged_a_tpm_may_take_over(bench: Bench) -> None:
    bench.ask()
    assert bench.start() == 0
    (bench.card / "data.key").write_bytes(bytes(64))
    bench.ask("tpm")
    bench.programs.tpm = b"one"
    assert bench.start() == 0
    assert bench.state == "tpm"
    assert not (bench.card / "data.key").exists()
    bench.forget()
    assert bench.start() == 0
    assert bench.state == "tpm"


def test_a_recovery_key_that_is_another_is_told(bench: Bench) -> None:
    bench.ask()
    assert bench.start() == 0
    bench.ask(recovery="a recovery key of other words")
    assert bench.start() == 0
    assert bench.state == "card another recovery key"
    assert _RECOVERY.encode() in bench.keys
