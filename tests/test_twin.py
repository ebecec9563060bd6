"""The configuration over the broker: what is taken, what is refused, and what a trial comes to."""

import contextlib
import errno
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import fsync
from edge.configfile import load, parse
from edge.signing import sign
from edge.snapshot import Snapshot
from edge.telemetry import twin as keeping
from edge.telemetry.trial import LENGTH, Trial
from edge.telemetry.twin import REASONS, Refused, Twin
from tests.fakes import ManualClock
from tests.signer import KEY, SIGNER
from tests.snapshots import snapshot

NODE = "0123456789abcdef"
OWN = """[device]
name = "CT room"
[storage]
path = "{storage}"
[[destination]]
name = "pacs"
type = "dimse"
host = "127.0.0.1"
ae_title = "PACS"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "edge.toml"
    (tmp_path / "storage").mkdir()
    path.write_text(OWN.format(storage=tmp_path / "storage"))
    return path


@pytest.fixture
def twin(tmp_path: Path, own: Path) -> Twin:
    return Twin(tmp_path / "storage", own)


def again(own: Path) -> Twin:
    return Twin(own.parent / "storage", own)


def wanted(own: Path, **changes: str) -> str:
    text = own.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def signed(
    document: str, revision: int = 1, *, node: str = NODE, key: Ed25519PrivateKey = KEY, **more: object
) -> bytes:
    payload = {"v": 1, "revision": revision, "document": document, "issued_by": "monitor-1"} | more
    return json.dumps(payload | {"signature": sign(payload, node, key)}).encode()


def take(twin: Twin, own: Path, payload: bytes) -> None:
    desired = twin.consider(payload, NODE, [SIGNER], load(own).config)
    assert desired is not None
    twin.take(desired, ["pacs"])


def test_a_document_is_on_trial_from_the_next_start_and_then_kept(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "MR room"})))
    started = again(own)
    assert started.record.status == "trial"
    assert started.load(load(own)).config.device.name == "MR room"
    started.keep()
    kept = again(own)
    assert kept.record.status == "applied"
    assert kept.load(load(own)).config.device.name == "MR room"
    report = kept.report(ManualClock())
    assert (report.revision, report.desired, report.status) == (1, 1, "applied")


def test_a_roll_back_returns_to_what_was_before(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "first"})))
    twin.keep()
    take(twin, own, signed(wanted(own, **{"CT room": "second"}), 2))
    twin.roll_back("DESTINATION_DOWN")
    back = again(own)
    assert back.load(load(own)).config.device.name == "first"
    report = back.report(ManualClock())
    assert (report.revision, report.desired, report.status, report.reason) == (1, 2, "rolled-back", "DESTINATION_DOWN")


def test_a_roll_back_of_the_first_returns_to_the_boxs_own_file(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "first"})))
    twin.roll_back("INTAKE_CLOSED")
    back = again(own)
    assert back.load(load(own)).config.device.name == "CT room"
    assert back.report(ManualClock()).revision == 0


def test_a_hand_on_the_boxs_own_file_wins(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "from afar"})))
    twin.keep()
    own.write_text(wanted(own, **{"CT room": "by hand"}))
    assert again(own).load(load(own)).config.device.name == "by hand"
    assert again(own).report(ManualClock()).revision == 0


def test_the_same_revision_says_nothing_new(twin: Twin, own: Path) -> None:
    payload = signed(own.read_text())
    take(twin, own, payload)
    assert again(own).consider(payload, NODE, [SIGNER], load(own).config) is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "MALFORMED"),
        (b"[" * 100_000, "MALFORMED"),
        (b'{"v":1,"revision":1,"document":"","issued_by":"monitor-1"}', "UNSIGNED"),
        (signed("", issued_by="monitor-1", extra=1), "MALFORMED"),
        (signed("", revision=0), "MALFORMED"),
        (signed("", issued_by="nobody"), "UNKNOWN_SIGNER"),
        (signed("", node="another"), "BAD_SIGNATURE"),
        (signed("", key=Ed25519PrivateKey.generate()), "BAD_SIGNATURE"),
        (signed("nonsense = 1"), "INVALID"),
        (signed("x" * (257 << 10)), "MALFORMED"),
    ],
)
def test_what_is_not_a_signed_whole_configuration_is_refused(
    twin: Twin, own: Path, payload: bytes, reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        twin.consider(payload, NODE, [SIGNER], load(own).config)
    assert refused.value.reason == reason
    assert reason in REASONS


def test_errors_name_line_and_key_and_never_a_value(twin: Twin, own: Path) -> None:
    document = wanted(own, **{"127.0.0.1": "Hunter2 Meier"})
    with pytest.raises(Refused) as refused:
        twin.consider(signed(document), NODE, [SIGNER], load(own).config)
    assert refused.value.errors == ("line 8: destination.pacs.host",)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [("[device]", '[mqtt]\nurl = "mqtt://elsewhere"\n[device]', "mqtt"), ('/storage"', '/elsewhere"', "storage.path")],
)
def test_neither_broker_nor_storage_path_can_be_changed_from_afar(
    twin: Twin, own: Path, old: str, new: str, key: str
) -> None:
    with pytest.raises(Refused) as refused:
        twin.consider(signed(own.read_text().replace(old, new)), NODE, [SIGNER], load(own).config)
    assert refused.value.reason == "NOT_PERMITTED"
    assert refused.value.errors == (key,)


def test_an_old_revision_is_refused_and_a_refused_one_is_not_judged_again(twin: Twin, own: Path) -> None:
    take(twin, own, signed(own.read_text(), 5))
    with pytest.raises(Refused, match="OLD_REVISION"):
        twin.consider(signed(own.read_text(), 4), NODE, [SIGNER], load(own).config)
    bad = signed("nonsense = 1", 6)
    with pytest.raises(Refused) as refused:
        twin.consider(bad, NODE, [SIGNER], load(own).config)
    twin.refuse(refused.value)
    assert again(own).consider(bad, NODE, [SIGNER], load(own).config) is None
    assert again(own).report(ManualClock()).status == "rejected"


def test_a_document_with_which_the_program_does_not_start_is_given_up(twin: Twin, own: Path) -> None:
    take(twin, own, signed(own.read_text()))
    assert [again(own).count_start() for _ in range(4)] == [True, True, True, False]


def test_a_damaged_record_or_document_leaves_the_boxs_own_file_in_force(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "from afar"})))
    folder = own.parent / "storage" / "twin"
    (folder / "revision-1.toml").write_bytes(b"\xff nonsense")
    assert again(own).load(load(own)).config.device.name == "CT room"
    (folder / "record.json").write_bytes(b"{")
    assert again(own).load(load(own)).config.device.name == "CT room"


def test_a_cut_while_a_document_is_taken_leaves_what_was_in_force(
    twin: Twin, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "first"})))
    twin.keep()
    for steps in range(4):
        with monkeypatch.context() as cut:
            cut_after(cut, steps)
            with contextlib.suppress(OSError):
                take(twin, own, signed(wanted(own, **{"CT room": "second"}), 2))
        started = again(own)
        name, record = started.load(load(own)).config.device.name, started.record
        assert (name, record.in_force, record.status) in {("first", 1, "applied"), ("second", 2, "trial")}
        twin = started
        if record.in_force == 2:
            return
    pytest.fail("it was never taken")


def test_a_cut_while_it_is_rolled_back_leaves_it_on_trial_or_what_was_before(
    twin: Twin, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "first"})))
    twin.keep()
    take(twin, own, signed(wanted(own, **{"CT room": "second"}), 2))
    for steps in range(4):
        with monkeypatch.context() as cut:
            cut_after(cut, steps)
            with contextlib.suppress(OSError):
                twin.roll_back("INTAKE_CLOSED")
        started = again(own)
        name, record = started.load(load(own)).config.device.name, started.record
        assert (name, record.in_force, record.status) in {("first", 1, "rolled-back"), ("second", 2, "trial")}
        twin = started
        if record.in_force == 1:
            return
    pytest.fail("it was never rolled back")


def cut_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the power go after so many files were written."""
    left = iter([None] * steps)

    def write(path: Path, data: bytes, mode: int = 0o666) -> None:
        if next(left, 0) == 0:
            raise OSError(errno.EIO, "the power is gone")
        fsync.replace_synced(path, data, mode)

    patch.setattr(keeping, "replace_synced", write)


def test_one_that_comes_while_another_is_on_trial_falls_back_to_what_was_proven(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "proven"})))
    twin.keep()
    take(twin, own, signed(wanted(own, **{"CT room": "on trial"}), 2))
    started = again(own)
    started.load(load(own))
    desired = started.consider(signed(wanted(own, **{"CT room": "on trial too"}), 3), NODE, [SIGNER], load(own).config)
    assert desired is not None
    started.take(desired, ["archive"])
    assert set(started.record.were_up) == {"pacs", "archive"}, "what the one before broke is to be seen too"
    started.roll_back("DESTINATION_DOWN")
    back = again(own)
    assert back.load(load(own)).config.device.name == "proven"
    assert back.report(ManualClock()).revision == 1


def test_a_roll_back_does_not_bring_back_what_a_hand_had_replaced(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "from afar"})))
    twin.keep()
    own.write_text(wanted(own, **{"CT room": "by hand"}))
    started = again(own)
    started.load(load(own))
    take(started, own, signed(wanted(own, **{"by hand": "from afar again"}), 2))
    started.roll_back("DESTINATION_DOWN")
    assert again(own).load(load(own)).config.device.name == "by hand"


def test_a_hand_ends_a_trial_and_is_told_as_the_boxs_own(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "from afar"})))
    before = own.read_text()
    own.write_text(wanted(own, **{"CT room": "by hand"}))
    started = again(own)
    assert started.load(load(own)).config.device.name == "by hand"
    report = started.report(ManualClock())
    assert (report.status, report.revision, report.desired) == ("local", 0, 1)
    own.write_text(before)
    assert again(own).load(load(own)).config.device.name == "CT room", "it does not come back by itself"


def test_a_document_that_cannot_be_read_any_more_is_not_told_to_be_in_force(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "from afar"})))
    twin.keep()
    for path in (own.parent / "storage" / "twin").glob("*.toml"):
        path.write_bytes(b"\xff nonsense")
    started = again(own)
    assert started.load(load(own)).config.device.name == "CT room"
    report = started.report(ManualClock())
    assert (report.revision, report.status, report.reason) == (0, "rolled-back", "INVALID")
    assert report.hash == hashlib.sha256(own.read_bytes()).hexdigest()


def test_another_document_under_the_same_revision_is_refused(twin: Twin, own: Path) -> None:
    take(twin, own, signed(own.read_text(), 5))
    with pytest.raises(Refused, match="REVISION_TAKEN"):
        twin.consider(signed(wanted(own, **{"CT room": "other"}), 5), NODE, [SIGNER], load(own).config)
    bad = signed("nonsense = 1", 6)
    with pytest.raises(Refused) as refused:
        twin.consider(bad, NODE, [SIGNER], load(own).config)
    twin.refuse(refused.value)
    assert twin.consider(bad, NODE, [SIGNER], load(own).config) is None
    with pytest.raises(Refused, match="REVISION_TAKEN"):
        twin.consider(signed(own.read_text(), 6), NODE, [SIGNER], load(own).config)


def test_a_refused_one_does_not_end_the_trial_of_another(twin: Twin, own: Path) -> None:
    take(twin, own, signed(wanted(own, **{"CT room": "on trial"})))
    twin.refuse(Refused(2, "INVALID"))
    started = again(own)
    assert started.record.trial
    assert [again(own).count_start() for _ in range(4)][-1] is False
    report = started.report(ManualClock())
    assert (report.revision, report.desired, report.status, report.reason) == (1, 2, "rejected", "INVALID")
    started.keep()
    assert again(own).report(ManualClock()).status == "rejected", "of the one that came last"


def test_what_was_rolled_back_is_kept_until_it_was_told(twin: Twin, own: Path) -> None:
    take(twin, own, signed(own.read_text()))
    twin.roll_back("START_FAILED")
    started = again(own)
    assert started.untold == (1, "START_FAILED")
    started.told()
    assert again(own).untold is None


# the trial


class Answers:
    def __init__(self) -> None:
        self.there = True

    async def __call__(self, name: str) -> bool:
        assert name == "pacs"
        return self.there


@pytest.fixture
def answers() -> Answers:
    return Answers()


async def outcome(trial: Trial, clock: ManualClock, seconds: float, shown: Snapshot) -> str | None:
    for _ in range(int(seconds / 5)):
        verdict = await trial.judge(shown)
        if verdict is not None:
            return verdict
        clock.pass_time(5)
    return await trial.judge(shown)


async def test_a_trial_that_goes_well_passes_after_its_time(answers: Answers) -> None:
    clock = ManualClock()
    trial = Trial(["pacs"], clock, answers)
    trial.reached = True
    assert await outcome(trial, clock, LENGTH - 10, snapshot(destinations=["pacs"])) is None
    assert await outcome(trial, clock, 15, snapshot(destinations=["pacs"])) == ""


async def test_a_destination_that_is_down_for_all_of_the_trial_fails_it(answers: Answers) -> None:
    clock = ManualClock()
    answers.there = False
    trial = Trial(["pacs"], clock, answers)
    trial.reached = True
    assert await outcome(trial, clock, LENGTH + 10, snapshot(destinations=["pacs"])) == "DESTINATION_DOWN"


async def test_a_destination_that_comes_back_does_not(answers: Answers) -> None:
    clock = ManualClock()
    trial = Trial(["pacs"], clock, answers)
    trial.reached = True
    answers.there = False
    assert await outcome(trial, clock, LENGTH - 20, snapshot(destinations=["pacs"])) is None
    answers.there = True
    assert await outcome(trial, clock, 60, snapshot(destinations=["pacs"])) == ""


async def test_intake_that_stays_closed_fails_it_at_once(answers: Answers) -> None:
    clock = ManualClock()
    trial = Trial(["pacs"], clock, answers)
    shut = snapshot(destinations=["pacs"], intake_open=False)
    assert await outcome(trial, clock, 15, shut) is None
    assert await outcome(trial, clock, 15, shut) == "INTAKE_CLOSED"


async def test_a_broker_that_is_not_reached_any_more_fails_it(answers: Answers) -> None:
    clock = ManualClock()
    trial = Trial(["pacs"], clock, answers)
    assert await outcome(trial, clock, LENGTH + 10, snapshot(destinations=["pacs"])) == "BROKER_LOST"


async def test_what_was_down_before_or_is_gone_from_the_configuration_is_not_asked(answers: Answers) -> None:
    clock = ManualClock()
    answers.there = False
    trial = Trial(["gone"], clock, answers)
    trial.reached = True
    assert await outcome(trial, clock, LENGTH + 10, snapshot(destinations=["pacs"])) == ""


def test_the_boxs_own_configuration_can_be_parsed(own: Path) -> None:
    assert parse(own.read_text()).config.destination[0].name == "pacs"
