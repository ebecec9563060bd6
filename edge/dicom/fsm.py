"""The state machine of the DICOM upper layer, as data (PS3.8 9.2, Tables 9-1 to 9-10).

Names are the standard's own. The machine says what is to be done and where that leads; whoever fires the
event carries the action out. A cell that the standard leaves empty is a fault of the caller, never of the
peer: every PDU has a cell in every state in which one can be read.
"""

from enum import IntEnum, StrEnum
from typing import Final


class Sta(IntEnum):
    """States (PS3.8 Tables 9-1 to 9-5)."""

    STA1 = 1
    """Idle."""
    STA2 = 2
    """Transport connection open; awaiting A-ASSOCIATE-RQ PDU."""
    STA3 = 3
    """Awaiting local A-ASSOCIATE response primitive."""
    STA4 = 4
    """Awaiting transport connection opening to complete."""
    STA5 = 5
    """Awaiting A-ASSOCIATE-AC or A-ASSOCIATE-RJ PDU."""
    STA6 = 6
    """Association established, ready for data transfer."""
    STA7 = 7
    """Awaiting A-RELEASE-RP PDU."""
    STA8 = 8
    """Awaiting local A-RELEASE response primitive."""
    STA9 = 9
    """Release collision, requestor side; awaiting A-RELEASE response primitive."""
    STA10 = 10
    """Release collision, acceptor side; awaiting A-RELEASE-RP PDU."""
    STA11 = 11
    """Release collision, requestor side; awaiting A-RELEASE-RP PDU."""
    STA12 = 12
    """Release collision, acceptor side; awaiting A-RELEASE response primitive."""
    STA13 = 13
    """Awaiting transport connection close indication; the association no longer exists."""


class Evt(IntEnum):
    """Events (PS3.8 Table 9-10, first column)."""

    EVT1 = 1
    """A-ASSOCIATE request (local user)."""
    EVT2 = 2
    """Transport connection confirmed."""
    EVT3 = 3
    """A-ASSOCIATE-AC PDU received."""
    EVT4 = 4
    """A-ASSOCIATE-RJ PDU received."""
    EVT5 = 5
    """Transport connection indication."""
    EVT6 = 6
    """A-ASSOCIATE-RQ PDU received."""
    EVT7 = 7
    """A-ASSOCIATE response (accept)."""
    EVT8 = 8
    """A-ASSOCIATE response (reject)."""
    EVT9 = 9
    """P-DATA request."""
    EVT10 = 10
    """P-DATA-TF PDU received."""
    EVT11 = 11
    """A-RELEASE request."""
    EVT12 = 12
    """A-RELEASE-RQ PDU received."""
    EVT13 = 13
    """A-RELEASE-RP PDU received."""
    EVT14 = 14
    """A-RELEASE response."""
    EVT15 = 15
    """A-ABORT request."""
    EVT16 = 16
    """A-ABORT PDU received."""
    EVT17 = 17
    """Transport connection closed."""
    EVT18 = 18
    """ARTIM timer expired."""
    EVT19 = 19
    """Unrecognized or invalid PDU received."""


class Action(StrEnum):
    """Actions (PS3.8 Tables 9-6 to 9-9)."""

    AE_1 = "AE-1"
    """Issue TRANSPORT CONNECT request."""
    AE_2 = "AE-2"
    """Send A-ASSOCIATE-RQ PDU."""
    AE_3 = "AE-3"
    """Issue A-ASSOCIATE confirmation (accept)."""
    AE_4 = "AE-4"
    """Issue A-ASSOCIATE confirmation (reject), close the connection."""
    AE_5 = "AE-5"
    """Issue TRANSPORT CONNECT response, start ARTIM."""
    AE_6 = "AE-6"
    """Stop ARTIM; acceptable: issue A-ASSOCIATE indication, else send A-ASSOCIATE-RJ PDU and start ARTIM."""
    AE_7 = "AE-7"
    """Send A-ASSOCIATE-AC PDU."""
    AE_8 = "AE-8"
    """Send A-ASSOCIATE-RJ PDU, start ARTIM."""
    DT_1 = "DT-1"
    """Send P-DATA-TF PDU."""
    DT_2 = "DT-2"
    """Issue P-DATA indication."""
    AR_1 = "AR-1"
    """Send A-RELEASE-RQ PDU."""
    AR_2 = "AR-2"
    """Issue A-RELEASE indication."""
    AR_3 = "AR-3"
    """Issue A-RELEASE confirmation, close the connection."""
    AR_4 = "AR-4"
    """Send A-RELEASE-RP PDU, start ARTIM."""
    AR_5 = "AR-5"
    """Stop ARTIM."""
    AR_6 = "AR-6"
    """Issue P-DATA indication."""
    AR_7 = "AR-7"
    """Send P-DATA-TF PDU."""
    AR_8 = "AR-8"
    """Issue A-RELEASE indication (release collision)."""
    AR_9 = "AR-9"
    """Send A-RELEASE-RP PDU."""
    AR_10 = "AR-10"
    """Issue A-RELEASE confirmation."""
    AA_1 = "AA-1"
    """Send A-ABORT PDU (service-user source), (re)start ARTIM."""
    AA_2 = "AA-2"
    """Stop ARTIM if running, close the connection."""
    AA_3 = "AA-3"
    """Issue A-ABORT or A-P-ABORT indication as the peer's source says, close the connection."""
    AA_4 = "AA-4"
    """Issue A-P-ABORT indication."""
    AA_5 = "AA-5"
    """Stop ARTIM."""
    AA_6 = "AA-6"
    """Ignore the PDU."""
    AA_7 = "AA-7"
    """Send A-ABORT PDU."""
    AA_8 = "AA-8"
    """Send A-ABORT PDU (service-provider source), issue A-P-ABORT indication, start ARTIM."""


_TABLE_9_10: Final = """
       Sta1 Sta2 Sta3 Sta4 Sta5 Sta6 Sta7 Sta8 Sta9 Sta10 Sta11 Sta12 Sta13
Evt1   AE-1 .    .    .    .    .    .    .    .    .     .     .     .
Evt2   .    .    .    AE-2 .    .    .    .    .    .     .     .     .
Evt3   .    AA-1 AA-8 .    AE-3 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8  AA-8  AA-6
Evt4   .    AA-1 AA-8 .    AE-4 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8  AA-8  AA-6
Evt5   AE-5 .    .    .    .    .    .    .    .    .     .     .     .
Evt6   .    AE-6 AA-8 .    AA-8 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8  AA-8  AA-7
Evt7   .    .    AE-7 .    .    .    .    .    .    .     .     .     .
Evt8   .    .    AE-8 .    .    .    .    .    .    .     .     .     .
Evt9   .    .    .    .    .    DT-1 .    AR-7 .    .     .     .     .
Evt10  .    AA-1 AA-8 .    AA-8 DT-2 AR-6 AA-8 AA-8 AA-8  AA-8  AA-8  AA-6
Evt11  .    .    .    .    .    AR-1 .    .    .    .     .     .     .
Evt12  .    AA-1 AA-8 .    AA-8 AR-2 AR-8 AA-8 AA-8 AA-8  AA-8  AA-8  AA-6
Evt13  .    AA-1 AA-8 .    AA-8 AA-8 AR-3 AA-8 AA-8 AR-10 AR-3  AA-8  AA-6
Evt14  .    .    .    .    .    .    .    AR-4 AR-9 .     .     AR-4  .
Evt15  .    .    AA-1 AA-2 AA-1 AA-1 AA-1 AA-1 AA-1 AA-1  AA-1  AA-1  .
Evt16  .    AA-2 AA-3 .    AA-3 AA-3 AA-3 AA-3 AA-3 AA-3  AA-3  AA-3  AA-2
Evt17  .    AA-5 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4 AA-4  AA-4  AA-4  AR-5
Evt18  .    AA-2 .    .    .    .    .    .    .    .     .     .     AA-2
Evt19  .    AA-1 AA-8 .    AA-8 AA-8 AA-8 AA-8 AA-8 AA-8  AA-8  AA-8  AA-7
"""

TRANSITIONS: Final[dict[tuple[Evt, Sta], Action]] = {
    (event, state): Action(cell)
    for event, row in zip(Evt, _TABLE_9_10.splitlines()[2:], strict=True)
    for state, cell in zip(Sta, row.split()[1:], strict=True)
    if cell != "."
}
"""PS3.8 Table 9-10; an empty cell is absent."""

NEXT: Final[dict[Action, Sta | tuple[Sta, Sta]]] = {
    Action.AE_1: Sta.STA4,
    Action.AE_2: Sta.STA5,
    Action.AE_3: Sta.STA6,
    Action.AE_4: Sta.STA1,
    Action.AE_5: Sta.STA2,
    # acceptable, or not
    Action.AE_6: (Sta.STA3, Sta.STA13),
    Action.AE_7: Sta.STA6,
    Action.AE_8: Sta.STA13,
    Action.DT_1: Sta.STA6,
    Action.DT_2: Sta.STA6,
    Action.AR_1: Sta.STA7,
    Action.AR_2: Sta.STA8,
    Action.AR_3: Sta.STA1,
    Action.AR_4: Sta.STA13,
    Action.AR_5: Sta.STA1,
    Action.AR_6: Sta.STA7,
    Action.AR_7: Sta.STA8,
    # association requestor, or acceptor
    Action.AR_8: (Sta.STA9, Sta.STA10),
    Action.AR_9: Sta.STA11,
    Action.AR_10: Sta.STA12,
    Action.AA_1: Sta.STA13,
    Action.AA_2: Sta.STA1,
    Action.AA_3: Sta.STA1,
    Action.AA_4: Sta.STA1,
    Action.AA_5: Sta.STA1,
    Action.AA_6: Sta.STA13,
    Action.AA_7: Sta.STA13,
    Action.AA_8: Sta.STA13,
}
"""The state after each action (PS3.8 Tables 9-6 to 9-9); AE-6 and AR-8 have two."""


def _moves(*, requestor: bool, acceptable: bool) -> dict[tuple[Evt, Sta], tuple[Action, Sta]]:
    first = {Action.AE_6: acceptable, Action.AR_8: requestor}
    moves = {}
    for cell, action in TRANSITIONS.items():
        after = NEXT[action]
        if isinstance(after, tuple):
            after = after[0] if first[action] else after[1]
        moves[cell] = (action, after)
    return moves


_MOVES: Final = {
    requestor: tuple(_moves(requestor=requestor, acceptable=acceptable) for acceptable in (False, True))
    for requestor in (False, True)
}


class UnexpectedEvent(RuntimeError):
    """An event for which PS3.8 Table 9-10 has an empty cell; the state stays as it was."""

    def __init__(self, event: Evt, state: Sta) -> None:
        super().__init__(f"Evt{event:d} has no action in Sta{state:d} (PS3.8 Table 9-10).")
        self.event = event
        self.state = state


class Machine:
    """Where one association stands."""

    __slots__ = ("_refusing", "_usual", "state")

    def __init__(self, *, requestor: bool, state: Sta = Sta.STA1) -> None:
        """Start in ``state``; ``requestor`` decides where AR-8 leads: Sta9 for the requestor, else Sta10."""
        self.state = state
        self._refusing, self._usual = _MOVES[requestor]

    def fire(self, event: Evt, *, acceptable: bool = True) -> Action:
        """Say what ``event`` asks for and move on; ``acceptable=False`` makes AE-6 a rejection (Sta13).

        Raises `UnexpectedEvent` where the table has no cell.
        """
        try:
            action, self.state = (self._usual if acceptable else self._refusing)[event, self.state]
        except KeyError:
            raise UnexpectedEvent(event, self.state) from None
        return action
