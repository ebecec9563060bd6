"""The state table against everything that mirrors it: the database's own constraints, people's verbs, the documents."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.states import FINAL, MOVES, WAITING, DeliveryState, is_settled, may_move, sources
from edge.store import people, schema, turns

ARCHITECTURE = Path(__file__).parents[1] / "ARCHITECTURE.md"
EVERY = set(DeliveryState)


@pytest.fixture
def made() -> Iterator[dict[str, str]]:
    """The schema as the database itself has it: the SQL of each table, index and trigger by its name."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        yield dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())


def states_in(listed: str) -> set[DeliveryState]:
    return {DeliveryState(word) for word in re.findall(r"'(\w+)'", listed)}


def test_the_database_allows_exactly_the_states_of_the_table(made: dict[str, str]) -> None:
    (listed,) = re.findall(r"state TEXT NOT NULL CHECK \(state IN \(([^)]*)\)\)", made["delivery"])
    assert states_in(listed) == EVERY
    assert len(re.findall(r"'", listed)) == 2 * len(EVERY)


def test_the_triggers_count_as_owed_what_the_table_calls_waiting(made: dict[str, str]) -> None:
    listed = re.findall(r"(?:NEW|OLD)\.state IN \(([^)]*)\)", made["delivery_moved"])
    assert len(listed) == 4
    assert all(states_in(states) == WAITING for states in listed)


def test_a_predecessor_is_what_still_waits_and_is_not_held() -> None:
    (listed,) = re.findall(r"state IN \(([^)]*)\)", turns._AHEAD)
    assert states_in(listed) == WAITING - {DeliveryState.HELD}


@pytest.mark.parametrize("state", [*DeliveryState, "", "QUEUED", "done"])
def test_the_database_itself_refuses_any_other_state(state: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        row = "INSERT INTO delivery VALUES (1, 1, 'pacs', ?, 1, 0, 1, NULL, NULL, ?, 0, 0, '', '', 0)"
        values = (state, 1 if state == DeliveryState.SENDING else None)
        if state in EVERY:
            connection.execute(row, values)
        else:
            with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed: state IN"):
                connection.execute(row, values)


@pytest.mark.parametrize("state", DeliveryState)
def test_only_what_is_being_sent_has_a_session_and_all_of_that_has(state: DeliveryState) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        row = "INSERT INTO delivery VALUES (1, 1, 'pacs', ?, 1, 0, 1, NULL, NULL, ?, 0, 0, '', '', 0)"
        wrong = None if state is DeliveryState.SENDING else 7
        with pytest.raises(sqlite3.IntegrityError, match="session IS NOT NULL"):
            connection.execute(row, (state, wrong))


def test_the_moves_are_closed_over_the_states() -> None:
    assert set(MOVES) == EVERY
    assert set().union(*MOVES.values()) <= EVERY
    assert all(state not in targets for state, targets in MOVES.items())


def test_every_state_can_be_reached_from_queued_and_leads_back_to_it() -> None:
    for start in DeliveryState:
        reached = {start}
        while more := set().union(*(MOVES[state] for state in reached)) - reached:
            reached |= more
        assert reached == EVERY


def test_may_move_and_sources_say_what_the_table_says() -> None:
    for old in DeliveryState:
        for new in DeliveryState:
            assert may_move(old, new) == (new in MOVES[old])
            assert (old in sources(new)) == may_move(old, new)


def test_only_a_claim_leads_to_sending_and_nothing_is_sent_twice_at_once() -> None:
    assert sources(DeliveryState.SENDING) == (DeliveryState.QUEUED,)


def test_final_and_waiting_states_never_overlap_and_leave_only_accepted() -> None:
    assert not FINAL & WAITING
    neither = EVERY - FINAL - WAITING
    assert neither == {DeliveryState.ACCEPTED}


def test_what_is_final_goes_nowhere_but_back_to_the_queue() -> None:
    assert {MOVES[state] for state in FINAL} == {frozenset({DeliveryState.QUEUED})}


@pytest.mark.parametrize("needs_proof", [True, False])
def test_a_delivery_is_over_when_final_or_accepted_where_no_proof_is_asked_for(*, needs_proof: bool) -> None:
    over = {state for state in DeliveryState if is_settled(state, needs_proof=needs_proof)}
    assert over == (FINAL if needs_proof else FINAL | {DeliveryState.ACCEPTED})


@pytest.mark.parametrize("verb", people._VERBS)
def test_what_people_can_do_stays_within_the_table(verb: str) -> None:
    new, olds = people._VERBS[verb]
    assert olds
    assert all(may_move(old, new) for old in olds)
    assert DeliveryState.SENDING not in olds, "what is on the wire belongs to the dispatcher"
    assert verb in people._EVENTS


def test_people_can_bring_back_whatever_is_over() -> None:
    back = {old for new, olds in people._VERBS.values() for old in olds if new is DeliveryState.QUEUED}
    assert back == EVERY - {DeliveryState.QUEUED, DeliveryState.SENDING}


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="there is no ARCHITECTURE.md yet")
def test_the_architecture_page_has_the_same_states_and_moves_in_the_same_order() -> None:
    rows = re.findall(r"^\|\s*`(\w+)`\s*\|.*\|([^|]*)\|\s*$", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    documented = {state: set(re.findall(r"`(\w+)`", moves)) for state, moves in rows if state in EVERY}
    assert list(documented) == [str(state) for state in DeliveryState]
    assert documented == {str(old): {str(new) for new in targets} for old, targets in MOVES.items()}
