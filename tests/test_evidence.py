"""The table of evidence, whole: what it does not list for a state never leads there, and so deletes no file."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge.evidence import PROVES, WORDS, Evidence, proves, told
from edge.forward.outcome import Accepted, from_status
from edge.model import Failure, Instance, Reference
from edge.states import DeliveryState, is_settled
from edge.store import Settlement, Verdict, deliver, proofs, record, retain, schema, verdicts
from tests.fakes import evidence_of
from tests.stored import CT, Report, Stored, instance, leg

S: Final = DeliveryState
STATES: Final = (S.ACCEPTED, S.VERIFIED)


@pytest.fixture
def raw() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        schema.migrate(connection)
        connection.execute("INSERT INTO log VALUES (1, 1, 0)")
        yield connection


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as opened:
        yield opened


def sent(raw: sqlite3.Connection, *, proof: bool) -> Instance:
    """One instance on its way to the PACS."""
    one = instance(1)
    record.record(raw, [(one, [leg(proof=proof)])])
    assert len(deliver.claim(raw, "pacs", 1, 1, 0.0)) == 1
    return one


def settlement(state: DeliveryState, evidence: Evidence | None) -> Settlement:
    return Settlement(delivery=1, instance=1, destination="pacs", state=state, code="0000", evidence=evidence)


def deletable(raw: sqlite3.Connection) -> bool:
    return retain.settled(raw, 0.0, 9) == [1]


def test_the_table_has_every_kind_of_evidence() -> None:
    assert set(PROVES) == set(Evidence)
    assert set(WORDS) == {evidence for evidence, state in PROVES.items() if state is not None}
    assert {state for state in PROVES.values() if state is not None} == set(STATES)


@pytest.mark.parametrize("proof", [True, False])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("evidence", [*Evidence, None])
def test_a_settlement_needs_the_evidence_that_the_table_lists_and_nothing_else_makes_deletable(
    *, evidence: Evidence | None, state: DeliveryState, proof: bool, raw: sqlite3.Connection
) -> None:
    sent(raw, proof=proof)
    one = settlement(state, evidence)
    listed = evidence is not None and PROVES[evidence] is state
    assert proves(evidence, state) == listed
    if not listed:
        with pytest.raises(ValueError, match="does not prove"):
            deliver.settle(raw, [one], 1, 0.0, trusted=True)
        assert not deletable(raw)
        return
    deliver.settle(raw, [one], 1, 0.0, trusted=True)
    assert deletable(raw) == is_settled(state, needs_proof=proof)


@pytest.mark.parametrize("evidence", Evidence)
def test_only_what_proves_verification_verifies_what_was_accepted(evidence: Evidence, raw: sqlite3.Connection) -> None:
    sent(raw, proof=True)
    deliver.settle(raw, [settlement(S.ACCEPTED, Evidence.STORE_SUCCESS)], 1, 0.0, trusted=True)
    judge = verdicts._Judge(raw, "pacs", "2.25.1", 0.0, 0.0, trusted=True)
    (one,) = filter(None, [verdicts._accepted(raw, "pacs", 1)])
    if PROVES[evidence] is S.VERIFIED:
        judge.prove(one, evidence)
        assert (judge.result().verified, deletable(raw)) == (1, True)
    else:
        with pytest.raises(ValueError, match="verifies nothing"):
            judge.prove(one, evidence)
        assert not deletable(raw)


REFERENCE: Final = Reference(CT, "1.2.3.1")
REPORTS: Final = {
    Evidence.COMMITTED: Report("2.25.1", (REFERENCE,)),
    Evidence.NOT_COMMITTED: Report("2.25.1", (REFERENCE,), (Failure(REFERENCE, 0x0110),)),
    Evidence.UNLISTED: Report("2.25.1", (Reference(CT, "1.2.3.2"),)),
    Evidence.FOREIGN_REPORT: Report("2.25.9", (REFERENCE,)),
}


@pytest.mark.parametrize("evidence", REPORTS)
def test_a_report_makes_deletable_what_the_table_says_it_proves(evidence: Evidence, raw: sqlite3.Connection) -> None:
    sent(raw, proof=True)
    deliver.settle(raw, [settlement(S.ACCEPTED, Evidence.STORE_SUCCESS)], 1, 0.0, trusted=True)
    batch = proofs.provable(raw, proofs.Calm(), "pacs", 0.0, 0.0, 0.0, 9)
    assert batch is not None
    proofs.begin_request(raw, "pacs", "2.25.1", batch.items, 600.0, 0.0, trusted=True)
    assert not deletable(raw)
    verdicts.report(raw, REPORTS[evidence], 0.0, 0.0, trusted=True)
    assert deletable(raw) == (PROVES[evidence] is S.VERIFIED)


@pytest.mark.parametrize("evidence", [Evidence.FOUND, Evidence.NOT_FOUND])
def test_a_query_makes_deletable_what_the_table_says_it_proves(evidence: Evidence, raw: sqlite3.Connection) -> None:
    sent(raw, proof=True)
    deliver.settle(raw, [settlement(S.ACCEPTED, Evidence.STORE_SUCCESS)], 1, 0.0, trusted=True)
    verdicts.prove(raw, "pacs", [Verdict(1, evidence is Evidence.FOUND)], 0.0, 0.0, trusted=True)
    assert deletable(raw) == (PROVES[evidence] is S.VERIFIED)


def test_every_status_that_is_taken_for_a_yes_has_evidence_that_proves_it() -> None:
    taken = [outcome for outcome in map(from_status, range(0x10000)) if isinstance(outcome, Accepted)]
    assert len(taken) > 4000
    assert all(proves(outcome.evidence, S.ACCEPTED) for outcome in taken)
    assert [outcome.code for outcome in taken if outcome.evidence is Evidence.STORE_SUCCESS] == ["0000"]
    assert not isinstance(from_status(None), Accepted)


@pytest.mark.parametrize("evidence", WORDS)
@pytest.mark.parametrize("more", ["", ": It says: too dark"])
def test_the_trail_tells_which_evidence_it_was(evidence: Evidence, more: str) -> None:
    assert told(WORDS[evidence] + more) is evidence


def test_a_trail_of_the_version_before_tells_of_no_evidence() -> None:
    assert told("") is None
    assert told("Stored, but the receiver changed values in its copy (status B000).") is None


async def test_a_bug_that_would_settle_without_evidence_fails_alone_and_changes_nothing(stored: Stored) -> None:
    store = stored.store
    await store.record([(instance(n), [leg()]) for n in (1, 2)])
    one, two = await store.claim("pacs", 2)
    wrong, right = (
        Settlement(delivery=p.delivery, instance=p.instance, destination="pacs", state=S.ACCEPTED, evidence=evidence)
        for p, evidence in ((one, None), (two, evidence_of(S.ACCEPTED)))
    )
    with pytest.raises(ValueError, match="does not prove"):
        await store.settle([wrong])
    await store.settle([right])
    assert await stored.states() == {1: "sending", 2: "accepted"}
