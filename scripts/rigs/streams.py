"""What a peer sends without end: requests whose answers it never reads, and one value as long as a PDU can say.

Both go over an association that is made, with CT in context 1, and leave the connection open. They raise what a
`RawSender` meets: mostly that the other side has closed.
"""

import contextlib
from typing import Final

from tests.peers import wire
from tests.peers.objects import CT, uid
from tests.peers.raw import RawSender
from tests.peers.wire import Control, Field, Pdv, Verb

LONGEST_UID: Final = 64
ABSURD_UID: Final = 60_000
"""Characters of what is no UID; two of them fit a command set."""
_BLOCKED: Final = 1.0
"""Seconds after which a send counts as blocked."""
_BATCH: Final = 256 << 10
_VALUE: Final = 0xFFFFFFE0
"""Bytes of the value, as declared."""
_WHOLE: Final = Control.COMMAND | Control.LAST
_MIB: Final = 1 << 20


def echoes(uid_length: int) -> bytes:
    """C-ECHO requests with two UIDs of ``uid_length`` characters, as many as go in a quarter of a MiB."""
    named = "1." + "2" * (uid_length - 2)
    command = wire.Command.of(
        {
            Field.AFFECTED_CLASS: named,
            Field.COMMAND: Verb.C_ECHO,
            Field.MESSAGE_ID: 1,
            Field.DATASET_TYPE: wire.NO_DATASET,
            Field.AFFECTED_INSTANCE: named,
        }
    )
    one = wire.p_data(Pdv(1, _WHOLE, command.encode()))
    return one * max(1, _BATCH // len(one))


def unread(sender: RawSender, requests: bytes, most: int) -> int:
    """Send ``requests`` again and again and read no answer, until a send blocks for a second; the bytes that went.

    After ``most`` bytes it ends in any case.
    """
    sender.timeout = _BLOCKED
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            sender.send_bytes(requests)
            sent += len(requests)
    return sent


def begin_store(sender: RawSender) -> None:
    """Send the command of a C-STORE whose dataset is one value of nearly 4 GiB, and the head of that value."""
    command = wire.p_data(Pdv(1, _WHOLE, wire.c_store_rq(1, CT, uid()).encode()))
    head = wire.HEADER.pack(wire.Type.P_DATA, _VALUE + 6) + wire.PDV_HEADER.pack(_VALUE + 2, 1, Control.DATASET)
    sender.send_bytes(command + head)


def one_value(sender: RawSender, megabytes: int) -> int:
    """Begin such a C-STORE and really send so many MiB of its value; the bytes that went, with no end to follow."""
    begin_store(sender)
    piece = bytes(_MIB)
    for _ in range(megabytes):
        sender.send_bytes(piece)
    return megabytes * _MIB
