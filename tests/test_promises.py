"""Promises: a modality asks whether its images are safe, and gets one report that names each of them, however late."""

import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

import pytest

from edge.model import Reference
from edge.states import DeliveryState
from edge.store import Answer, Choice, Mended, StoreError, TooManyError, Verdict
from edge.store import promises as promising
from edge.store.connection import FILE
from edge.store.deciding import Rule, _Judge
from edge.store.repair import repair
from tests.stored import CT, JPEG, MR, Request, Stored, failures, instance, leg, references

S: Final = DeliveryState
GRACE: Final = 60.0
REFUSE_AFTER: Final = 86_400.0
Basis = Literal["stored", "delivered"]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        yield opened


async def promise(box: Stored, *wanted: int, uid: str = "1.7", calling: str = "CT1", sop_class: str = CT) -> bool:
    asked = tuple(Reference(sop_class, reference.sop_instance_uid) for reference in references(*wanted))
    return await box.store.promise(calling, "EDGE", "10.0.0.7", Request(uid, asked))


async def decide(box: Stored, basis: Basis = "delivered") -> list[int]:
    """After a moment: an image that could not be decided is not looked at again at once."""
    await let_pass(box, 30.0)
    return await box.store.decide_promises(basis, GRACE, REFUSE_AFTER)


async def let_pass(box: Stored, seconds: float) -> None:
    """Let time pass, as retention does."""
    box.clock.pass_time(seconds)
    await box.store.tick(seconds)


async def answer(box: Stored) -> Answer:
    """The only report that is due."""
    (only,) = await box.store.due_answers(9)
    return only


async def said(box: Stored, basis: Basis = "delivered") -> int | None:
    """What is reported of the only image of the only promise: 0, a reason, or None for nothing yet."""
    if not await decide(box, basis):
        return None
    due = await answer(box)
    return due.failed[0].reason if due.failed else 0


# the request


async def test_a_promise_is_kept_and_its_report_names_every_image_once_in_order(box: Stored) -> None:
    await box.receive(*(instance(n) for n in (1, 2, 3)))
    assert await promise(box, 2, 1, 3)
    assert await decide(box, "stored") == [1]
    assert await answer(box) == Answer(
        promise=1,
        transaction_uid="1.7",
        calling="CT1",
        called="EDGE",
        address="10.0.0.7",
        committed=references(2, 1, 3),
        failed=(),
        tries=0,
        age=0.0,
    )
    assert [step for step in await box.trail(1) if step[0] != "received"] == [("promised", "1.7"), ("answered", "0000")]


async def test_the_same_request_again_changes_nothing_while_its_report_is_owed(box: Stored) -> None:
    await box.receive(instance(1))
    assert await promise(box, 1)
    assert not await promise(box, 1)
    await decide(box, "stored")
    await box.store.answer_failed(1, box.clock.seconds + 1e6, "nobody listens")
    assert await box.store.due_answers(9) == []
    assert not await promise(box, 1)
    assert (await answer(box)).tries == 1, "it asks, so it listens: it is called at once"


async def test_the_same_transaction_of_another_modality_is_another_promise(box: Stored) -> None:
    await box.receive(instance(1), instance(2))
    assert await promise(box, 1)
    assert await promise(box, 2, calling="CT2")
    assert await decide(box, "stored") == [1, 2]
    assert {a.calling: a.committed for a in await box.store.due_answers(9)} == {
        "CT1": references(1),
        "CT2": references(2),
    }


async def test_a_request_that_comes_again_after_its_report_was_taken_is_reported_again(box: Stored) -> None:
    await box.receive(instance(1))
    await promise(box, 1, 2)
    await decide(box, "stored")
    await decide(box, "stored")
    await decide(box, "stored")
    due = await answer(box)
    assert due.failed == failures(0x0112, 2)
    await box.store.answered(due.promise)
    assert await box.store.due_answers(9) == []
    await box.receive(instance(2))
    assert await promise(box, 1, 2)
    assert await decide(box, "stored") == [due.promise]
    assert (await answer(box)).committed == references(1, 2), "and by what is true now"


async def test_a_request_that_names_other_images_replaces_what_it_named_before(box: Stored) -> None:
    await box.receive(instance(1), instance(2))
    await promise(box, 1)
    await decide(box, "stored")
    assert await promise(box, 2)
    assert await box.store.due_answers(9) == []
    await decide(box, "stored")
    assert (await answer(box)).committed == references(2)


async def test_a_modality_that_asks_without_end_is_refused_and_others_are_not(
    box: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promising, "_MOST_OPEN", 2)
    for uid in ("1.1", "1.2"):
        await promise(box, 1, uid=uid)
    with pytest.raises(TooManyError):
        await promise(box, 1, uid="1.3")
    assert isinstance(TooManyError("x"), StoreError)
    assert not await promise(box, 1, uid="1.1")
    assert await promise(box, 1, uid="1.3", calling="CT2")
    monkeypatch.setattr(promising, "_MOST_NAMED", 2)
    with pytest.raises(TooManyError):
        await promise(box, 1, 2, uid="1.1")
    await box.receive(instance(1))
    await decide(box, "stored")
    assert {a.transaction_uid for a in await box.store.due_answers(9)} == {"1.1", "1.3"}, "they stand as they were"


# what is answered


async def test_an_image_that_is_not_here_may_still_come_for_a_while(box: Stored) -> None:
    await promise(box, 1)
    assert await said(box, "stored") is None
    await box.receive(instance(1))
    assert await said(box, "stored") == 0


async def test_an_image_that_never_comes_is_unknown(box: Stored) -> None:
    await promise(box, 1)
    assert await said(box, "stored") is None
    assert await said(box, "stored") is None
    assert await said(box, "stored") == 0x0112


@pytest.mark.parametrize(
    ("state", "reason"), [("stored", 0), ("expired", 0), ("lost", 0x0112), ("quarantined", 0x0112)]
)
async def test_stored_is_what_is_here_or_was_deleted_after_it_was_delivered(
    state: str, reason: int, box: Stored
) -> None:
    await box.receive(instance(1))
    await box.run(f"UPDATE instance SET state = '{state}'")
    await promise(box, 1)
    assert await said(box, "stored") == reason


@pytest.mark.parametrize("basis", ["stored", "delivered"])
async def test_an_image_of_another_sop_class_is_a_conflict(basis: Basis, box: Stored) -> None:
    await box.receive(instance(1))
    await promise(box, 1, sop_class=MR)
    assert await said(box, basis) == 0x0119


async def test_delivered_waits_for_every_destination_and_for_proof_where_it_is_asked_for(box: Stored) -> None:
    await box.receive(instance(1), to=[leg(), leg("archive", proof=False)])
    await promise(box, 1)
    assert await said(box) is None
    await box.settle(S.ACCEPTED)
    assert await said(box) is None
    await box.settle(S.ACCEPTED, destination="archive")
    assert await said(box) is None
    await box.store.prove("pacs", [Verdict(1, found=True)])
    assert await said(box) == 0


async def test_an_image_that_goes_nowhere_is_never_delivered(box: Stored) -> None:
    await box.receive(instance(1), to=[])
    await promise(box, 1)
    for _ in range(5):
        assert await said(box) is None
        await let_pass(box, REFUSE_AFTER)
    await box.store.route([(1, [leg(proof=False)])])
    await box.settle(S.ACCEPTED)
    assert await said(box) == 0


@pytest.mark.parametrize("state", ["held", "cancelled", "declined"])
async def test_what_the_destination_is_not_going_to_get_fails_after_the_time_given(state: str, box: Stored) -> None:
    await box.receive(instance(1))
    await promise(box, 1)
    if state == "cancelled":
        await box.store.decide("cancel", Choice(uid="1"), who="test")
    else:
        await box.settle(DeliveryState(state), 1, code="A900")
    assert await said(box) is None
    await let_pass(box, REFUSE_AFTER - 90.0)
    assert await said(box) is None
    await let_pass(box, 30.0)
    assert await said(box) == 0x0110


async def test_the_time_for_which_it_is_held_survives_restarts_and_a_wall_clock_that_jumps(box: Stored) -> None:
    await box.receive(instance(1))
    await promise(box, 1)
    await box.settle(S.HELD, 1)
    for _ in range(4):
        await let_pass(box, REFUSE_AFTER / 4 - 40.0)
        await box.restart()
        box.clock.wall = random.Random(1).random() * 1e10
        assert await said(box) is None
    await let_pass(box, 160.0)
    assert await said(box) == 0x0110


async def test_what_was_lost_before_it_went_anywhere_is_not_waited_for(box: Stored) -> None:
    await box.receive(instance(1), to=[])
    await promise(box, 1)
    assert await said(box) is None
    await box.store.lose([1])
    assert await said(box) == 0x0112


async def test_a_person_who_releases_it_begins_the_time_anew(box: Stored) -> None:
    await box.receive(instance(1))
    await promise(box, 1)
    await box.settle(S.HELD, 1)
    await let_pass(box, REFUSE_AFTER - 100.0)
    await box.store.decide("release", Choice(uid="1"), who="test")
    assert await said(box) is None
    await box.settle(S.HELD, 1)
    await let_pass(box, 1000.0)
    assert await said(box) is None


@pytest.mark.parametrize("sent", [True, False])
async def test_what_was_given_up_for_one_destination_is_refused_whoever_else_has_it(*, sent: bool, box: Stored) -> None:
    await box.receive(instance(1), to=[leg(proof=False), leg("cloud")])
    await promise(box, 1)
    await box.store.decide("cancel", Choice(destination="cloud"), who="test")
    if sent:
        await box.settle(S.ACCEPTED, 1)
    assert await said(box) is None
    await let_pass(box, 2 * REFUSE_AFTER)
    assert await said(box) == 0x0110


async def test_one_destination_that_has_it_does_not_outweigh_one_for_which_it_is_held(box: Stored) -> None:
    await box.receive(instance(1), to=[leg(proof=False), leg("cloud")])
    await promise(box, 1)
    await box.settle(S.ACCEPTED, 1)
    await box.settle(S.HELD, 1, destination="cloud")
    assert await said(box) is None
    await let_pass(box, REFUSE_AFTER)
    assert await said(box) == 0x0110


async def test_every_content_of_the_uid_must_be_delivered(box: Stored) -> None:
    uid = "1.2.3.1"
    await box.receive(instance(1, uid=uid), instance(2, uid=uid), to=[leg(proof=False)])
    await promise(box, 1)
    await box.settle(S.ACCEPTED, 1)
    assert await said(box) is None
    await box.settle(S.ACCEPTED, 2)
    assert await said(box) == 0


async def test_one_rendering_that_is_delivered_is_the_instance_delivered(box: Stored) -> None:
    uid = "1.2.3.1"
    await box.receive(instance(1, uid=uid), instance(2, uid=uid, syntax=JPEG), to=[leg(proof=False)])
    await promise(box, 1)
    await box.settle(S.HELD, 1, code="CONTEXT_REJECTED")
    assert await said(box) is None
    await box.settle(S.ACCEPTED, 2)
    assert await said(box) == 0


async def test_a_rendering_that_was_not_needed_is_no_obstacle(box: Stored) -> None:
    uid = "1.2.3.1"
    await box.receive(instance(1, uid=uid), instance(2, uid=uid, syntax=JPEG), to=[leg(proof=False)])
    await promise(box, 1)
    await box.settle(S.ACCEPTED, 1)
    assert (await box.states())[2] == "cancelled"
    assert await said(box) == 0


async def test_what_was_lost_and_came_again_counts_as_it_came_again(box: Stored) -> None:
    await box.receive(instance(1, content=5), to=[leg(proof=False)])
    await promise(box, 1)
    await box.store.lose([1])
    assert await said(box) == 0x0112
    await box.store.answered(1)
    await promise(box, 1)
    await box.receive(instance(2, uid="1.2.3.1", content=5), to=[leg(proof=False)])
    assert await said(box) is None
    await box.store.decide("hold", Choice(uid="1"), who="test")
    await box.settle(S.ACCEPTED, 2)
    assert await said(box) == 0


async def test_one_report_lists_what_is_safe_and_what_is_not(box: Stored) -> None:
    await box.receive(instance(1), instance(2), to=[leg(proof=False)])
    await promise(box, 1, 2, 3)
    await box.store.decide("hold", Choice(uid="2"), who="test")
    await box.settle(S.ACCEPTED, 1)
    assert await decide(box) == []
    await let_pass(box, REFUSE_AFTER)
    assert await decide(box) == [1]
    due = await answer(box)
    assert (due.committed, due.failed) == (references(1), failures(0x0110, 2) + failures(0x0112, 3))


async def test_what_had_failed_is_looked_at_once_more_when_the_last_image_is_decided(box: Stored) -> None:
    await box.receive(instance(2), to=[leg(proof=False)])
    await promise(box, 1, 2)
    for _ in range(4):
        assert await decide(box) == []
    await box.receive(instance(1), to=[leg(proof=False)])
    await box.settle(S.ACCEPTED, 1, 2)
    assert await decide(box) == [1]
    assert (await answer(box)).failed == ()


# waiting


async def test_a_report_waits_for_days_over_restarts_and_then_comes(box: Stored) -> None:
    await box.receive(*(instance(n) for n in range(1, 6)))
    await promise(box, *range(1, 6))
    for _ in range(5):
        await let_pass(box, 86_400.0)
        assert await decide(box) == []
        await box.restart()
    await box.settle(S.ACCEPTED)
    assert await decide(box) == []
    await box.store.prove("pacs", [Verdict(n, found=True) for n in range(1, 6)])
    assert await decide(box) == [1]
    await box.restart(ripe_in=3.0)
    assert (await answer(box)).committed == references(*range(1, 6))


async def test_a_report_that_cannot_be_delivered_is_tried_again_in_its_time_for_ever(box: Stored) -> None:
    await box.receive(instance(1))
    await promise(box, 1)
    await decide(box, "stored")
    for tries in range(1, 4):
        await box.store.answer_failed(1, box.clock.seconds + 100, "nobody listens")
        assert await box.store.due_answers(9) == []
        await let_pass(box, 100.0)
        assert ((await answer(box)).tries, (await answer(box)).age) == (tries, tries * 100.0)
    await box.store.answer_failed(1, box.clock.seconds + 1e6, "nobody listens")
    await box.restart(ripe_in=3.0)
    assert await box.store.due_answers(9) == []
    box.clock.pass_time(3.0)
    assert (await answer(box)).tries == 4
    await box.store.answered(1, "it knew it already")
    assert await box.store.due_answers(9) == []
    assert (await box.trail(1))[-1] == ("report-taken", "1.7")


async def test_a_modality_gets_one_report_at_a_time_and_one_that_is_away_holds_up_nobody(box: Stored) -> None:
    await box.receive(instance(1))
    for uid in ("1.1", "1.2", "1.3"):
        await promise(box, 1, uid=uid)
        await promise(box, 1, uid=uid, calling="CT2")
    assert len(await decide(box, "stored")) == 6
    assert [(a.calling, a.transaction_uid) for a in await box.store.due_answers(9)] == [("CT1", "1.1"), ("CT2", "1.1")]
    assert len(await box.store.due_answers(1)) == 1
    assert [a.calling for a in await box.store.due_answers(1, ["CT1"])] == ["CT2"]
    assert await box.store.due_answers(9, ["CT1", "CT2"]) == []
    await box.store.answer_failed(1, box.clock.seconds + 100, "away")
    assert {a.transaction_uid for a in await box.store.due_answers(9)} == {"1.1", "1.2"}


async def test_a_promise_of_many_images_that_waits_is_looked_at_seldom_and_then_at_one_image(
    box: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.receive(*(instance(n) for n in range(1, 3)), to=[leg(proof=False)])
    await box.settle(S.ACCEPTED, 1, 2)
    await box.receive(instance(3), to=[leg(proof=False)])
    await promise(box, *[1, 2] * 2500, 3, *[1, 2] * 2500)
    looked: list[str] = []
    real = _Judge.reason

    def counted(self: _Judge, sop_class: str, uid: str) -> int | None:
        looked.append(uid)
        return real(self, sop_class, uid)

    monkeypatch.setattr(_Judge, "reason", counted)
    for _ in range(4):
        assert await box.store.decide_promises("delivered", GRACE, REFUSE_AFTER) == []
    assert len(looked) == 5001, "some at a time, up to the first that is not decided"
    looked.clear()
    for _ in range(600):
        box.clock.pass_time(1.0)
        assert await box.store.decide_promises("delivered", GRACE, REFUSE_AFTER) == []
    assert set(looked) == {"1.2.3.3"}
    assert len(looked) < 30
    await box.settle(S.ACCEPTED, 3)
    decided = []
    for _ in range(40):
        box.clock.pass_time(1.0)
        decided += await box.store.decide_promises("delivered", GRACE, REFUSE_AFTER)
    assert decided == [1]
    assert len((await answer(box)).committed) == 10_001


async def test_what_was_asked_anew_while_it_was_decided_is_decided_anew(box: Stored) -> None:
    await box.receive(instance(1), instance(2))
    await promise(box, 1)
    decision = await box.store.reading.run(
        lambda raw: box.store._deciding.look(raw, Rule("stored", GRACE, REFUSE_AFTER), box.clock.seconds + 100, 0.0)
    )
    await promise(box, 2)
    (one,) = decision
    assert not await box.store._commit(lambda raw: promising.decide(raw, one, 0.0, 0.0, trusted=True))
    assert await decide(box, "stored") == [1]
    assert (await answer(box)).committed == references(2)


async def test_promises_are_forgotten_with_the_trail_but_never_before_their_report_was_taken(box: Stored) -> None:
    await box.receive(instance(1))
    await promise(box, 1, uid="1.1")
    await promise(box, 1, uid="1.2", calling="CT2")
    await decide(box, "stored")
    await box.store.answered(1)
    await box.store.tick(1000.0)
    await box.store.forget(1030.5, 9)
    assert await box.rows("SELECT count(*) FROM promise") == [(2,)]
    await box.store.tick(1.0)
    await box.store.forget(1030.5, 9)
    assert await box.rows("SELECT transaction_uid FROM promise") == [("1.2",)]
    assert await box.rows("SELECT count(*) FROM promised") == [(1,)]


# a damaged database


@pytest.mark.parametrize("table", ["delivery", "instance", "promised"])
async def test_promises_outlive_the_loss_of_other_tables(table: str, tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.receive(*(instance(n) for n in range(1, 200)), to=[leg(proof=False)])
        for number in range(1, 21):
            await promise(box, *range(1, 200), uid=f"1.{number}", calling=f"CT{number}")
        await box.run("UPDATE promise SET state = 'ready', ready_since = 0 WHERE id = 3")
        await box.run("UPDATE promised SET reason = 0 WHERE promise = 3")
        await box.run("UPDATE promise SET state = 'ready', ready_since = 0 WHERE id = 4")
    path = tmp_path / "db" / FILE
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        if table == "promised":  # one leaf of it only
            page = _leaf(path, page)
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(random.Random(1).randbytes(4096))
    assert repair(tmp_path) is Mended.ANEW
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*), max(since) FROM promise").fetchone() == (20, 0.0)
        states = dict(raw.execute("SELECT id, state FROM promise WHERE id IN (3, 4, 5)").fetchall())
        (named,) = raw.execute("SELECT count(*) FROM promised").fetchone()
        assert states == {3: "ready", 4: "waiting", 5: "waiting"}
        assert named == 20 * 199 if table != "promised" else 20 * 199 - 200 < named < 20 * 199
    shutil.rmtree(tmp_path / "db.damaged")


def _leaf(path: Path, root: int) -> int:
    """The second child of a table's root."""
    data = path.read_bytes()
    page = data[(root - 1) * 4096 : root * 4096]
    assert page[0] == 5
    at = int.from_bytes(page[14:16], "big")
    return int.from_bytes(page[at : at + 4], "big")
