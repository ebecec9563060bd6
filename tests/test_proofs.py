"""Proofs: a row for each that is owed, asked about when a study is quiet, and every verdict of a destination."""

import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge.model import Failure, Reference
from edge.states import MOVES, DeliveryState
from edge.store import (
    Choice,
    Mended,
    Reported,
    Settlement,
    Verdict,
    deliver,
    people,
    proofs,
    record,
    retain,
    schema,
    verdicts,
)
from edge.store.connection import FILE
from edge.store.proofs import PATIENCE, REQUESTS_KEPT
from edge.store.repair import repair
from edge.store.verdicts import TWIN_UNPROVEN
from tests.fakes import evidence_of
from tests.stored import CT, JPEG, MR, Report, Stored, failures, instance, leg, references

S: Final = DeliveryState
REFUSALS: Final = (S.HELD, S.CANCELLED, S.DECLINED)


@pytest.fixture
def raw() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        schema.migrate(connection)
        yield connection


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        yield opened


def assert_rows_are_right(raw: sqlite3.Connection) -> None:
    """Exactly what is accepted and needs proof has a row, and so has what is refused; and nothing else."""
    owed = raw.execute(
        """SELECT d.id, d.destination, i.study FROM delivery d JOIN instance i ON i.id = d.instance
        WHERE d.state = 'accepted' AND d.needs_proof = 1 ORDER BY d.id"""
    )
    assert raw.execute("SELECT delivery, destination, study FROM proof ORDER BY 1").fetchall() == owed.fetchall()
    refused = raw.execute("SELECT id FROM delivery WHERE state IN ('held', 'cancelled', 'declined') ORDER BY id")
    assert raw.execute("SELECT delivery FROM refused ORDER BY 1").fetchall() == refused.fetchall()


# the rows


class Walk:
    """Everything that moves deliveries, in an order that chance decides."""

    def __init__(self, raw: sqlite3.Connection, seed: int) -> None:
        self.raw, self.random, self.session, self.last = raw, random.Random(seed), 1, 0
        self.steps = [self.receive, self.send, self.decide, self.restart, self.route, self.forget, self.hear]

    def receive(self) -> None:
        self.last += 1
        chance = self.random.random()
        uid = f"1.9.{self.random.randint(1, 4)}" if chance < 0.3 else ""
        legs = [] if chance > 0.9 else [leg("pacs", proof=chance < 0.7), leg("cloud", proof=chance > 0.4)]
        one = instance(self.last, uid=uid, study=f"1.{self.random.randint(1, 3)}")
        record.record(self.raw, [(one, legs)])

    def send(self) -> None:
        for destination in ("pacs", "cloud"):
            rows = deliver.claim(self.raw, destination, self.random.randint(1, 3), self.session, 0.0)
            for number, owner, *_ in rows:
                state = self.random.choice(sorted(MOVES[S.SENDING]))
                if self.random.random() < 0.2:
                    continue  # the program ends before it is settled
                one = Settlement(
                    delivery=number,
                    instance=owner,
                    destination=destination,
                    state=state,
                    evidence=evidence_of(state),
                )
                deliver.settle(self.raw, [one], self.session, 0.0, trusted=True)

    def decide(self) -> None:
        verb = self.random.choice(sorted(people._VERBS))
        choice = Choice(uid=str(self.random.randint(1, max(1, self.last))))
        people.decide(self.raw, verb, choice, who="test", reason="", now=0.0, trusted=True)

    def restart(self) -> None:
        self.session += 1
        deliver.recover(self.raw, self.session, 0.0, 0.0, trusted=True)
        deliver.ripen(self.raw, 1e9)

    def route(self) -> None:
        waiting = record.unrouted(self.raw, 0, 9)
        record.route(self.raw, [(number, [leg()]) for number, _, _ in waiting], 0.0, trusted=True)

    def forget(self) -> None:
        gone = retain.expire(self.raw, retain.settled(self.raw, 0.0, 2), "test", 0.0, trusted=True)
        assert retain.forget(self.raw, 0.0, 1) <= 1 + len(gone)

    def hear(self) -> None:
        batch = proofs.provable(self.raw, proofs.Calm(), "pacs", 1e12, 0.0, 0.0, 5)
        if batch is None:
            return
        uid = f"2.25.{self.random.random()}"
        proofs.begin_request(self.raw, "pacs", uid, batch.items, 0.0, 0.0, trusted=True)
        named = [Reference(item.sop_class_uid, item.sop_instance_uid) for item in batch.items]
        cut = self.random.randint(0, len(named))
        reasons = (0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213, 0x9999)
        failed = tuple(Failure(reference, self.random.choice(reasons)) for reference in named[cut:])
        verdicts.report(self.raw, Report(uid, tuple(named[:cut]), failed), 0.0, 0.0, trusted=True)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_moves_a_delivery_its_proof_is_there_exactly_while_it_is_owed(
    seed: int, raw: sqlite3.Connection
) -> None:
    walk, seen = Walk(raw, seed), set[str]()
    for _ in range(1500):
        walk.random.choice(walk.steps)()
        assert_rows_are_right(raw)
        seen |= {event for (event,) in raw.execute("SELECT DISTINCT event FROM trail")}
    assert seen >= {"verified", "not-committed", "sent-again", "held", "proof-asked", "given-back", "deleted"}


BEFORE: Final = (
    # how version 4 moves deliveries and forgets instances
    "UPDATE delivery SET state = 'sending', session = 9 WHERE id = 1",
    "UPDATE delivery SET state = 'accepted', session = NULL WHERE id = 1",
    "UPDATE delivery SET state = 'queued' WHERE id = 1",
    "UPDATE delivery SET state = 'held' WHERE id = 1",
    "UPDATE delivery SET state = 'cancelled' WHERE id IN (1, 2)",
    "UPDATE delivery SET state = 'queued' WHERE id = 2",
    "UPDATE delivery SET state = 'sending', session = 9 WHERE id = 2",
    "UPDATE delivery SET state = 'accepted', session = NULL WHERE id = 2",
    "DELETE FROM delivery WHERE instance = 1",
    "DELETE FROM instance WHERE id = 1",
    "DELETE FROM delivery WHERE instance = 2",
    "DELETE FROM instance WHERE id = 2",
    "DELETE FROM study WHERE id = 1",
)


def test_the_version_before_keeps_the_rows_right_without_knowing_of_them(raw: sqlite3.Connection) -> None:
    record.record(raw, [(instance(n), [leg()]) for n in (1, 2)])
    seen = set()
    for statement in BEFORE:
        raw.execute(statement)
        assert_rows_are_right(raw)
        seen.add(raw.execute("SELECT count(*) FROM proof").fetchone()[0])
    assert seen == {0, 1}


def test_what_was_accepted_before_the_update_is_owed_its_proof_after_it() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        schema.migrate(raw, 4)
        raw.execute("INSERT INTO study VALUES (1, '1.2', '', '', '', '', '')")
        for number, state in enumerate(S, 1):
            raw.execute(
                "INSERT INTO instance (id, study, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest, length,"
                " offset, series_uid, modality, series_number, series_description, instance_number, door, calling,"
                " called, address, received_at, clock_trusted, owed, unrouted) VALUES"
                " (?, 1, '1', '1', '1', zeroblob(32), 1, 1, '', '', '', '', '', 'dimse', '', '', '', 0, 1, 0, 0)",
                (number,),
            )
            for needs_proof in (0, 1):
                raw.execute(
                    "INSERT INTO delivery (instance, destination, state, session, priority, needs_proof, bytes,"
                    " changed_at) VALUES (?, ?, ?, ?, 1, ?, 1, 0)",
                    (number, f"d{needs_proof}", state, 1 if state is S.SENDING else None, needs_proof),
                )
        schema.migrate(raw)
        assert_rows_are_right(raw)
        assert raw.execute("SELECT count(*), min(ask_at) FROM proof").fetchone() == (1, None)
        assert raw.execute("SELECT count(*) FROM refused").fetchone() == (2 * len(REFUSALS),)
        assert raw.execute("SELECT latest FROM study").fetchone() == (len(S),)


async def test_a_delivery_that_needs_no_proof_is_never_asked_about(box: Stored) -> None:
    await box.accept(instance(1), to=[leg(proof=False)])
    assert await box.due() == []


# when a study is asked about


async def test_a_study_is_asked_about_when_it_has_been_quiet_and_one_at_a_time(box: Stored) -> None:
    await box.accept(instance(1), instance(2), instance(3, study="1.9"))
    assert await box.provable() is None
    box.clock.pass_time(4.9)
    assert await box.provable() is None
    box.clock.pass_time(0.1)
    batch = await box.provable()
    assert batch is not None
    assert (batch.destination, batch.study) == ("pacs", "1.2.3")
    assert [(item.instance, item.delivery, item.series_uid) for item in batch.items] == [
        (1, 1, "1.2.3.4"),
        (2, 2, "1.2.3.4"),
    ]
    assert {(item.sop_class_uid, item.study_uid, item.tries, item.missing) for item in batch.items} == {
        (CT, "1.2.3", 0, 0)
    }
    assert await box.provable(destination="cloud") is None


async def test_each_acceptance_begins_the_quiet_anew_until_the_longest_wait(box: Stored) -> None:
    for number in range(1, 21):
        await box.accept(instance(number))
        assert await box.provable() is None
        box.clock.pass_time(3.0)
    batch = await box.provable()
    assert batch is not None
    assert len(batch.items) == 20


@pytest.mark.parametrize(
    ("state", "more", "waits"),
    [
        ("queued", "", True),
        ("queued", ", not_before = 1e9", False),
        ("queued", ", behind = 1", False),
        ("sending", ", session = 1", True),
        ("held", "", False),
        ("cancelled", "", False),
        ("verified", "", False),
    ],
)
async def test_what_is_still_on_its_way_there_is_waited_for(*, state: str, more: str, waits: bool, box: Stored) -> None:
    await box.accept(instance(1))
    await box.receive(instance(2), to=[leg()])
    await box.run(f"UPDATE delivery SET state = '{state}'{more} WHERE instance = 2")
    assert await box.provable() is None
    box.clock.pass_time(59.0)
    assert (await box.provable() is None) == waits
    box.clock.pass_time(1.0)
    assert await box.provable() is not None, "but not for ever"


async def test_what_is_on_its_way_to_another_destination_is_not_waited_for(box: Stored) -> None:
    await box.accept(instance(1), to=[leg(), leg("cloud")])
    assert await box.provable() is None
    box.clock.pass_time(5.0)
    assert await box.provable() is not None


async def test_a_request_names_so_many_instances_and_the_next_one_goes_on(box: Stored) -> None:
    await box.accept(*(instance(n) for n in range(1, 6)))
    assert await box.due(most=3) == [1, 2, 3]
    batch = await box.provable(quiet=0.0, most=3)
    assert batch is not None
    await box.store.begin_request("pacs", "2.25.1", batch.items, box.clock.seconds + 600)
    assert await box.due(most=3) == [4, 5]


async def test_a_study_that_goes_on_coming_is_asked_about_now_and_then_and_holds_up_no_other(box: Stored) -> None:
    await box.accept(instance(1), instance(2, study="1.9"))
    await box.receive(instance(1000))
    assert await box.store.claim("pacs", 1) != []  # the first study is never quiet
    asked = list[tuple[float, str, int]]()
    for second in range(180):
        box.clock.pass_time(1.0)
        await box.accept(instance(10 + second))
        if second % 20 == 0:
            await box.accept(instance(500 + second, study=f"1.9.{second}"))
        if batch := await box.provable():
            asked.append((second, batch.study, len(batch.items)))
            await box.store.begin_request("pacs", f"2.25.{second}", batch.items, box.clock.seconds + 1e6)
    often = [(second, count) for second, study, count in asked if study == "1.2.3"]
    assert [second for second, _ in often] == [60, 120], "with what came in a minute, never one by one"
    assert all(count > 50 for _, count in often)
    others = [study for _, study, _ in asked if study != "1.2.3"]
    assert others == ["1.9", *(f"1.9.{second}" for second in range(0, 180, 20))], "each after it was quiet"


async def test_what_is_left_of_a_quiet_study_after_a_request_waits_for_no_more_quiet(box: Stored) -> None:
    await box.accept(*(instance(n) for n in range(1, 6)), instance(6, study="1.9"))
    assert await box.provable() is None
    box.clock.pass_time(5.0)
    asked = []
    while batch := await box.provable(most=3):
        asked.append([item.instance for item in batch.items])
        await box.store.begin_request("pacs", f"2.25.{len(asked)}", batch.items, box.clock.seconds + 600)
    assert asked == [[1, 2, 3], [6], [4, 5]]


async def test_what_is_asked_about_again_and_what_was_never_asked_about_take_turns(box: Stored) -> None:
    await box.accept(*(instance(n, study=f"1.{n}") for n in range(1, 9)))
    for _ in range(4):
        batch = await box.provable(quiet=0.0)
        assert batch is not None
        await box.store.postpone("pacs", batch.items, box.clock.seconds + 1)
    box.clock.pass_time(1.0)
    seen = []
    for _ in range(8):
        batch = await box.provable(quiet=0.0)
        assert batch is not None
        seen.append(batch.items[0].instance)
        await box.store.postpone("pacs", batch.items, box.clock.seconds + 60)
    assert seen == [5, 1, 6, 2, 7, 3, 8, 4]


async def test_an_object_without_a_study_is_asked_about_too(box: Stored) -> None:
    await box.accept(instance(1, study=""), instance(2, study=""))
    for expected in (1, 2):
        batch = await box.provable(quiet=0.0)
        assert batch is not None
        assert (batch.study, [item.instance for item in batch.items]) == ("", [expected])
        await box.store.postpone("pacs", batch.items, box.clock.seconds + 60)


async def test_what_was_asked_about_is_asked_about_again_in_its_time(box: Stored) -> None:
    await box.accept(instance(1))
    assert await box.ask(after=600.0) == [1]
    box.clock.pass_time(599.0)
    assert await box.due() == []
    box.clock.pass_time(1.0)
    batch = await box.provable(quiet=0.0)
    assert batch is not None
    assert [item.tries for item in batch.items] == [1]
    await box.store.postpone("pacs", batch.items, box.clock.seconds + 5, missing=True)
    assert await box.due() == []
    box.clock.pass_time(5.0)
    batch = await box.provable(quiet=0.0)
    assert batch is not None
    assert [(item.tries, item.missing) for item in batch.items] == [(1, 1)]


async def test_after_a_restart_what_was_asked_waits_for_its_report_and_what_was_not_goes_at_once(box: Stored) -> None:
    await box.accept(instance(1))
    await box.ask(after=86_400.0)
    await box.accept(instance(2, study="1.9"))
    await box.restart(ripe_in=8.0)
    assert await box.due() == [2]
    batch = await box.provable(quiet=0.0)
    assert batch is not None
    await box.store.postpone("pacs", batch.items, box.clock.seconds + 1e6)
    box.clock.pass_time(8.0 + PATIENCE - 1)
    assert await box.due() == []
    box.clock.pass_time(1.0)
    assert await box.due() == [1]


async def test_what_was_only_put_off_before_a_restart_is_asked_about_after_the_jitter(box: Stored) -> None:
    await box.accept(instance(1))
    batch = await box.provable(quiet=0.0)
    assert batch is not None
    await box.store.postpone("pacs", batch.items, box.clock.seconds + 1e6)
    await box.restart(ripe_in=8.0)
    assert await box.due() == []
    box.clock.pass_time(8.0)
    assert await box.due() == [1]


async def test_the_oldest_proof_has_an_age_that_no_wall_clock_moves(box: Stored) -> None:
    assert await box.store.oldest_proof("pacs") is None
    await box.accept(instance(1))
    box.clock.pass_time(100.0)
    await box.store.tick(100.0)
    await box.accept(instance(2))
    box.clock.pass_time(50.0)
    box.clock.wall = 0.0
    assert await box.store.oldest_proof("pacs") == 150.0
    assert await box.store.oldest_proof("cloud") is None


def plan(raw: sqlite3.Connection, asked: str, *values: object) -> list[str]:
    return [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {asked}", values)]


def test_no_question_reads_more_than_it_needs_however_many_deliveries_there_are(raw: sqlite3.Connection) -> None:
    questions = {
        "studies": (proofs._STUDIES, ("pacs",), "proof_unasked"),
        "marker": (proofs._MARKER, ("pacs", 1), "proof_unasked"),
        "coming": (proofs._COMING, ("pacs", 1), "instance_by_study"),
        "due": (proofs._DUE, ("pacs", 1.0), "proof_due"),
        "unasked of a study": (proofs._UNASKED_OF, ("pacs", 1, 500), "proof_unasked"),
        "due of a study": (proofs._DUE_OF, ("pacs", 1, 1.0, 500), "proof_due"),
        "twins": (verdicts._OTHER_THERE, (1, "pacs"), "instance_by_uid"),
        "resent": (verdicts._TIMES, (1, "pacs"), "trail_by_instance"),
    }
    known = {"SCAN one", "SCAN CONSTANT ROW"}
    for name, (asked, values, index) in questions.items():
        steps = plan(raw, asked, *values)
        assert any(index in step for step in steps), (name, steps)
        assert [step for step in steps if step.startswith("SCAN") and step not in known] == [], (name, steps)


def test_a_study_among_many_is_found_without_looking_at_the_others_deliveries(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute(
        """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
        INSERT INTO proof (delivery, destination, study, since, ask_at)
        SELECT i, 'pacs', i % 500, 0, iif(i % 500 < 490, 1e9 + i, NULL) FROM n"""
    )
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    raw.set_progress_handler(count, 1000)
    calm = proofs.Calm()
    assert proofs.provable(raw, calm, "pacs", 0.0, 5.0, 60.0, 500) is None
    assert steps < 100, "what was asked about already costs nothing"


# reports


async def test_what_a_report_commits_to_is_verified_and_the_trail_says_by_what(box: Stored) -> None:
    await box.accept(instance(1), instance(2))
    await box.ask("2.25.7")
    hint = box.store.hint("pacs")
    hint.clear()
    came = await box.store.report_arrived(Report("2.25.7", references(1, 2)))
    assert came == Reported(destination="pacs", verified=2)
    assert hint.is_set()
    assert await box.states() == {1: "verified", 2: "verified"}
    assert await box.trail(1) == [
        ("received", (1).to_bytes(32, "big").hex()),
        ("accepted", "0000"),
        ("proof-asked", "2.25.7"),
        ("verified", "2.25.7"),
    ]
    assert await box.store.settled(0.0, 9) == [1, 2]


async def test_a_trace_tells_the_proof_of_each_delivery(box: Stored) -> None:
    await box.receive(instance(1), to=[leg(), leg("archive", proof=False), leg("cloud")])
    await box.settle(S.ACCEPTED)
    await box.settle(S.ACCEPTED, destination="archive", code="B000")
    await box.ask("2.25.7")
    box.clock.pass_time(60.0)
    await box.store.report_arrived(Report("2.25.7", references(1)))
    (row,) = await box.store.reading.trace("1")
    assert [(p.destination, p.evidence, p.by, p.at) for p in row.proofs] == [
        ("pacs", "committed", "2.25.7", box.clock.wall),
        ("archive", "store-success", "B000", box.clock.wall - 60.0),
    ]


async def test_a_report_may_come_days_late_twice_and_in_parts(box: Stored) -> None:
    await box.accept(*(instance(n) for n in (1, 2, 3)))
    await box.ask("2.25.1", after=600.0)
    box.clock.pass_time(600.0)
    await box.ask("2.25.2", after=3600.0)
    await box.restart()
    assert (await box.store.report_arrived(Report("2.25.1", references(1)))).verified == 1
    assert (await box.store.report_arrived(Report("2.25.1", references(1)))) == Reported(destination="pacs")
    assert (await box.store.report_arrived(Report("2.25.2", references(1, 2)))).verified == 1
    assert await box.states() == {1: "verified", 2: "verified", 3: "accepted"}
    box.clock.pass_time(PATIENCE)
    assert await box.due() == [3]


async def test_a_report_that_nobody_asked_for_and_uids_that_nobody_asked_about_count_for_nothing(box: Stored) -> None:
    await box.accept(instance(1), instance(2, study="1.9"))
    assert await box.ask("2.25.1") == [1]
    assert await box.store.report_arrived(Report("2.25.9", references(1, 2))) == Reported(known=False)
    came = await box.store.report_arrived(Report("2.25.1", references(2, 8), failures(0x0112, 9)))
    assert came == Reported(destination="pacs", foreign=3)
    assert await box.states() == {1: "accepted", 2: "accepted"}


async def test_what_is_in_both_lists_has_failed(box: Stored) -> None:
    await box.accept(instance(1))
    await box.ask()
    came = await box.store.report_arrived(Report("2.25.1", references(1), failures(0x0119, 1)))
    assert (came.verified, came.held) == (0, 1)


@pytest.mark.parametrize(("named", "state"), [(MR, "held"), ("", "verified"), (CT, "verified")])
async def test_another_sop_class_is_another_object_but_none_named_is_no_contradiction(
    named: str, state: str, box: Stored
) -> None:
    await box.accept(instance(1))
    await box.ask()
    await box.store.report_arrived(Report("2.25.1", (Reference(named, "1.2.3.1"),)))
    assert (await box.states())[1] == state


@pytest.mark.parametrize("reason", [0x0110, 0x0213, 0x0117, 0xFFFF])
async def test_a_trouble_of_the_destinations_own_is_asked_about_again_ever_later(reason: int, box: Stored) -> None:
    await box.accept(instance(1))
    for attempt, wait in enumerate((60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 86_400.0)):
        uid = f"2.25.{attempt}"
        assert await box.ask(uid, after=1e6) == [1]
        came = await box.store.report_arrived(Report(uid, (), failures(reason, 1)))
        assert came == Reported(destination="pacs", again=1)
        box.clock.pass_time(wait - 1)
        assert await box.due() == []
        box.clock.pass_time(1.0)
    told = [code for event, code in await box.trail(1) if event == "not-committed"]
    assert set(told) == {f"{reason:04X}"}
    assert len(told) < 6, "what is asked every day for ever does not fill the trail"


async def test_a_transaction_uid_that_is_taken_is_replaced_at_once_but_not_for_ever(box: Stored) -> None:
    await box.accept(instance(1))
    for attempt in range(4):
        assert await box.due() == [1]
        await box.ask(f"2.25.{attempt}", after=1e6)
        await box.store.report_arrived(Report(f"2.25.{attempt}", (), failures(0x0131, 1)))
    assert await box.due() == []


@pytest.mark.parametrize("reason", [0x0119, 0x0122])
async def test_what_it_will_never_commit_to_is_held_for_a_person_and_told(reason: int, box: Stored) -> None:
    await box.accept(instance(1), instance(2))
    await box.ask()
    came = await box.store.report_arrived(Report("2.25.1", (), failures(reason, 1, 2)))
    assert (came.held, await box.state(1)) == (2, ("held", f"{reason:04X}"))
    (event,) = [e for e in await box.store.events_after(0, 9) if e.code == "DELIVERIES_REFUSED"]
    assert event.data == {"destination": "pacs", "reason": f"{reason:04X}", "instances": 2, "state": "held"}


async def test_what_the_destination_does_not_have_is_sent_again_at_once_and_then_ever_later(box: Stored) -> None:
    await box.accept(instance(1))
    for attempt, wait in enumerate((0.0, 300.0, 3600.0, 86_400.0, 86_400.0)):
        await box.ask(f"2.25.{attempt}")
        came = await box.store.report_arrived(Report(f"2.25.{attempt}", (), failures(0x0112, 1)))
        assert (came.resent, await box.state(1)) == (1, ("queued", "0112"))
        if wait:
            assert await box.store.claim("pacs", 1) == []
            box.clock.pass_time(wait)
            await box.store.ripen()
        await box.settle(S.ACCEPTED, 1)


async def test_a_failure_from_before_it_was_sent_again_does_not_send_it_once_more(box: Stored) -> None:
    await box.accept(instance(1))
    await box.ask("2.25.1")
    failed = Report("2.25.1", (), failures(0x0112, 1))
    await box.store.report_arrived(failed)
    assert (await box.store.report_arrived(failed)).resent == 0, "while it is queued"
    await box.settle(S.ACCEPTED, 1)
    assert (await box.store.report_arrived(failed)).resent == 0, "when it is accepted"
    assert (await box.store.report_arrived(Report("2.25.1", references(1)))).verified == 0, "it must be asked anew"
    await box.ask("2.25.2")
    assert (await box.store.report_arrived(Report("2.25.2", references(1)))).verified == 1


async def test_a_person_may_give_up_what_is_never_proven(box: Stored) -> None:
    await box.accept(instance(1))
    await box.ask()
    assert await box.store.decide("cancel", Choice(uid="1"), who="test") == 1
    assert await box.due() == []
    assert (await box.store.report_arrived(Report("2.25.1", references(1)))).verified == 0
    assert await box.states() == {1: "cancelled"}


async def test_requests_are_forgotten_when_no_report_is_expected_any_more(box: Stored) -> None:
    await box.accept(instance(1))
    await box.ask("2.25.1")
    await box.store.tick(REQUESTS_KEPT - 1)
    box.clock.pass_time(600.0)
    await box.ask("2.25.2")
    await box.store.tick(1.0)
    await box.store.forget(1e9, 9)
    assert await box.rows("SELECT uid FROM request") == [("2.25.2",)]
    assert await box.rows("SELECT count(*) FROM requested") == [(1,)]
    assert not (await box.store.report_arrived(Report("2.25.1", references(1)))).known
    assert (await box.store.report_arrived(Report("2.25.2", references(1)))).verified == 1


# queries


async def test_what_a_query_finds_is_verified_and_what_it_does_not_is_looked_for_then_sent_again(box: Stored) -> None:
    await box.accept(instance(1), instance(2))
    came = await box.store.prove("pacs", [Verdict(1, found=True), Verdict(2, found=False)])
    assert came == Reported(destination="pacs", verified=1, again=1)
    assert (await box.trail(1))[-1] == ("verified", "query")
    for wait in (30.0, 120.0, 600.0, 3600.0):
        box.clock.pass_time(wait - 1)
        assert await box.due() == []
        box.clock.pass_time(1.0)
        assert await box.due() == [2]
        came = await box.store.prove("pacs", [Verdict(2, found=False)])
    assert came == Reported(destination="pacs", resent=1)
    assert await box.state(2) == ("queued", "NOT_FOUND")
    assert [event for event, _ in await box.trail(2)][-2:] == ["not-found", "sent-again"]


async def test_a_verdict_about_what_is_over_or_elsewhere_changes_nothing(box: Stored) -> None:
    await box.accept(instance(1))
    assert await box.store.prove("cloud", [Verdict(1, found=True)]) == Reported(destination="cloud")
    await box.store.prove("pacs", [Verdict(1, found=True)])
    assert await box.store.prove("pacs", [Verdict(1, found=False), Verdict(9, found=True)]) == Reported(
        destination="pacs"
    )
    assert await box.states() == {1: "verified"}


# two contents of one UID


async def test_another_content_waits_until_the_first_is_proven_without_doubt(box: Stored) -> None:
    await box.receive(instance(1, uid="1.9"), instance(2, uid="1.9"))
    await box.settle(S.ACCEPTED, 1)
    assert await box.store.claim("pacs", 9) == []
    await box.ask()
    hint = box.store.hint("pacs")
    hint.clear()
    await box.store.report_arrived(Report("2.25.1", (Reference(CT, "1.9"),)))
    assert await box.states() == {1: "verified", 2: "queued"}
    assert hint.is_set()
    await box.settle(S.ACCEPTED, 2)


async def test_what_comes_while_the_first_is_unproven_waits_too(box: Stored) -> None:
    await box.accept(instance(1, uid="1.9"))
    await box.receive(instance(2, uid="1.9"))
    assert await box.store.claim("pacs", 9) == []
    await box.store.decide("cancel", Choice(uid="1"), who="test")
    await box.settle(S.ACCEPTED, 2)


async def test_another_content_waits_for_no_proof_where_none_is_asked_for(box: Stored) -> None:
    await box.receive(instance(1, uid="1.9"), instance(2, uid="1.9"), to=[leg(proof=False)])
    await box.settle(S.ACCEPTED, 1)
    await box.settle(S.ACCEPTED, 2)


async def test_what_is_sent_again_keeps_the_other_content_waiting(box: Stored) -> None:
    await box.receive(instance(1, uid="1.9"), instance(2, uid="1.9"))
    await box.settle(S.ACCEPTED, 1)
    await box.ask()
    await box.store.report_arrived(Report("2.25.1", (), (Failure(Reference(CT, "1.9"), 0x0112),)))
    await box.settle(S.ACCEPTED, 1)


@pytest.mark.parametrize("by_query", [True, False])
async def test_a_uid_proves_neither_of_two_contents_that_may_be_there(*, by_query: bool, box: Stored) -> None:
    await box.accept(instance(1, uid="1.9"))
    await box.store.prove("pacs", [Verdict(1, found=True)])
    await box.accept(instance(2, uid="1.9"))
    if by_query:
        came = await box.store.prove("pacs", [Verdict(2, found=True)])
    else:
        assert await box.ask() == [2]
        came = await box.store.report_arrived(Report("2.25.1", (Reference(CT, "1.9"),)))
    assert came.held == 1
    assert await box.state(2) == ("held", TWIN_UNPROVEN)
    assert (await box.states())[1] == "verified", "which was proven while it was alone"


@pytest.mark.parametrize(
    ("first", "held"),
    [
        ("was refused", False),
        ("was tried and given up", True),
        ("was accepted and is deleted", True),
        ("was held before it was tried", False),
    ],
)
async def test_what_the_destination_refused_leaves_no_doubt_and_what_it_may_have_does(
    *, first: str, held: bool, box: Stored
) -> None:
    await box.receive(instance(1, uid="1.9"))
    if first == "was refused":
        await box.settle(S.HELD, 1, code="A900")
    elif first == "was tried and given up":
        await box.settle(S.QUEUED, 1, code="NO_ANSWER")
        await box.store.decide("cancel", Choice(uid="1"), who="test")
    elif first == "was held before it was tried":
        await box.store.decide("hold", Choice(uid="1"), who="test")
    else:
        await box.settle(S.ACCEPTED, 1)
        await box.store.prove("pacs", [Verdict(1, found=True)])
        assert await box.store.expire([1], "test") == [1]
    await box.accept(instance(2, uid="1.9"))
    came = await box.store.prove("pacs", [Verdict(2, found=True)])
    assert (came.held, came.verified) == ((1, 0) if held else (0, 1))


async def test_another_rendering_of_the_instance_leaves_no_doubt(box: Stored) -> None:
    await box.receive(instance(1, uid="1.9"))
    await box.settle(S.HELD, 1, code="CONTEXT_REJECTED")
    await box.accept(instance(2, uid="1.9", syntax=JPEG))
    assert (await box.store.prove("pacs", [Verdict(2, found=True)])).verified == 1


async def test_the_same_bytes_again_after_a_loss_leave_no_doubt(box: Stored) -> None:
    await box.accept(instance(1, uid="1.9", content=5))
    await box.store.lose([1])
    await box.accept(instance(2, uid="1.9", content=5))
    assert (await box.store.prove("pacs", [Verdict(2, found=True)])).verified == 1


# a damaged database


@pytest.mark.parametrize("table", ["proof", "refused", "request", "requested"])
async def test_a_damage_to_what_follows_from_deliveries_costs_an_asking_and_no_delivery(
    table: str, tmp_path: Path
) -> None:
    async with Stored(tmp_path) as box:
        await box.accept(*(instance(n) for n in range(1, 6)))
        await box.ask("2.25.1")
        await box.receive(instance(6))
        await box.settle(S.HELD, 6)
    path = tmp_path / "db" / FILE
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(random.Random(1).randbytes(4096))
    assert repair(tmp_path) is Mended.WHOLE
    with closing(sqlite3.connect(path)) as raw:
        assert_rows_are_right(raw)
    async with Stored(tmp_path) as box:
        assert await box.states() == dict.fromkeys(range(1, 6), "accepted") | {6: "held"}
        assert await box.ask("2.25.2") == [1, 2, 3, 4, 5]
        assert (await box.store.report_arrived(Report("2.25.2", references(1)))).verified == 1


async def test_a_database_that_is_sound_is_mended_with_its_requests(tmp_path: Path) -> None:
    async with Stored(tmp_path) as box:
        await box.accept(instance(1))
        await box.ask("2.25.1")
    assert repair(tmp_path) is Mended.WHOLE
    async with Stored(tmp_path) as box:
        assert await box.due() == []
        assert (await box.store.report_arrived(Report("2.25.1", references(1)))).verified == 1
