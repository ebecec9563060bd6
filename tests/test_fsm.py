from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE

from edge.dicom.fsm import NEXT, TRANSITIONS, Action, Evt, Machine, Sta, UnexpectedEvent

CELLS = [(event, state) for event in Evt for state in Sta]

DIFFERENCES: dict[tuple[Evt, Sta], str] = {}
"""Cells in which we differ from pynetdicom 3.0.4, with the reason. There are none."""


@pytest.mark.parametrize("event", Evt)
def test_each_cell_is_pynetdicoms(event: Evt) -> None:
    ours = {state: TRANSITIONS.get((event, state)) for state in Sta if (event, state) not in DIFFERENCES}
    theirs = {state: TRANSITION_TABLE.get((f"Evt{event:d}", f"Sta{state:d}")) for state in ours}
    assert ours == theirs


def test_a_difference_is_one() -> None:
    for event, state in DIFFERENCES:
        theirs = TRANSITION_TABLE.get((f"Evt{event:d}", f"Sta{state:d}"))
        assert TRANSITIONS.get((event, state)) != theirs


def test_no_cell_of_pynetdicom_is_outside_the_names() -> None:
    assert set(TRANSITION_TABLE) <= {(f"Evt{event:d}", f"Sta{state:d}") for event, state in CELLS}
    assert set(ACTIONS) == set(Action)


@pytest.mark.parametrize("action", Action)
def test_each_next_state_is_pynetdicoms(action: Action) -> None:
    ours = NEXT[action]
    named = tuple(f"Sta{state:d}" for state in ours) if isinstance(ours, tuple) else f"Sta{ours:d}"
    assert named == ACTIONS[action][2]


def test_every_action_is_reached() -> None:
    assert set(TRANSITIONS.values()) == set(Action) == set(NEXT)


@pytest.mark.parametrize(
    ("requestor", "events", "actions", "end"),
    [
        (True, (1, 2, 3, 9, 10, 11, 13), "AE-1 AE-2 AE-3 DT-1 DT-2 AR-1 AR-3", 1),
        (False, (5, 6, 7, 10, 9, 12, 14, 17), "AE-5 AE-6 AE-7 DT-2 DT-1 AR-2 AR-4 AR-5", 1),
        (True, (1, 2, 3, 11, 12, 14, 13), "AE-1 AE-2 AE-3 AR-1 AR-8 AR-9 AR-3", 1),
        (False, (5, 6, 7, 11, 12, 13, 14), "AE-5 AE-6 AE-7 AR-1 AR-8 AR-10 AR-4", 13),
        (True, (1, 2, 4), "AE-1 AE-2 AE-4", 1),
        (False, (5, 6, 8, 18), "AE-5 AE-6 AE-8 AA-2", 1),
        (False, (5, 18), "AE-5 AA-2", 1),
        (False, (5, 6, 7, 19, 10, 17), "AE-5 AE-6 AE-7 AA-8 AA-6 AR-5", 1),
    ],
)
def test_lives_of_an_association(*, requestor: bool, events: Sequence[int], actions: str, end: int) -> None:
    machine = Machine(requestor=requestor)
    assert [machine.fire(Evt(event)) for event in events] == actions.split()
    assert machine.state is Sta(end)


@pytest.mark.parametrize(("requestor", "state"), [(True, Sta.STA9), (False, Sta.STA10)])
def test_a_release_collision_depends_on_the_side(*, requestor: bool, state: Sta) -> None:
    machine = Machine(requestor=requestor, state=Sta.STA7)
    assert machine.fire(Evt.EVT12) is Action.AR_8
    assert machine.state is state


@pytest.mark.parametrize(("acceptable", "state"), [(True, Sta.STA3), (False, Sta.STA13)])
def test_a_request_is_taken_or_rejected(*, acceptable: bool, state: Sta) -> None:
    machine = Machine(requestor=False, state=Sta.STA2)
    assert machine.fire(Evt.EVT6, acceptable=acceptable) is Action.AE_6
    assert machine.state is state


def test_an_empty_cell_changes_nothing() -> None:
    machine = Machine(requestor=False)
    with pytest.raises(UnexpectedEvent, match=r"Evt9 has no action in Sta1 \(PS3\.8 Table 9-10\)\.") as caught:
        machine.fire(Evt.EVT9)
    assert (caught.value.event, caught.value.state, machine.state) == (Evt.EVT9, Sta.STA1, Sta.STA1)


@given(
    requestor=st.booleans(),
    start=st.sampled_from(Sta),
    walk=st.lists(st.tuples(st.sampled_from(Evt), st.booleans())),
)
def test_no_walk_leaves_the_table(*, requestor: bool, start: Sta, walk: list[tuple[Evt, bool]]) -> None:
    machine = Machine(requestor=requestor, state=start)
    for event, acceptable in walk:
        before = machine.state
        if (event, before) in TRANSITIONS:
            action = machine.fire(event, acceptable=acceptable)
            assert action is TRANSITIONS[event, before]
            after = NEXT[action]
            assert machine.state in (after if isinstance(after, tuple) else (after,))
        else:
            with pytest.raises(UnexpectedEvent):
                machine.fire(event, acceptable=acceptable)
            assert machine.state is before


@pytest.mark.parametrize("state", [state for state in Sta if state not in {Sta.STA1, Sta.STA4}])
def test_whatever_a_peer_sends_has_a_cell(state: Sta) -> None:
    pdus = (Evt.EVT3, Evt.EVT4, Evt.EVT6, Evt.EVT10, Evt.EVT12, Evt.EVT13, Evt.EVT16, Evt.EVT17, Evt.EVT19)
    assert all((event, state) in TRANSITIONS for event in pdus)
