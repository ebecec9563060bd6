"""Why there is no connection: a code for machines, a sentence for people. Nothing in it is a broker's own text."""

import socket
from typing import Final, NamedTuple

from edge.phrase import N_, say
from edge.tls import Failure, failure


class Problem(NamedTuple):
    """Why there is no connection now."""

    code: str
    sentence: str


class UnreachableError(Exception):
    """A connection cannot be made, or is refused."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.sentence)
        self.problem = problem


class LostError(Exception):
    """The connection is gone; what was not acknowledged may or may not have arrived."""


class OverstepError(ConnectionError):
    """The broker sent what it may not. A ``ConnectionError``, for paho ends the connection on one."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


VERSION_REFUSED: Final = 0x84
REFUSED: Final = 0x80
"""Reason codes from here on say no (MQTT 5, 2.4)."""
_REASONS: Final = {
    VERSION_REFUSED: ("PROTOCOL", N_("{where} does not speak this version of MQTT: set mqtt.protocol.")),
    0x85: ("NOT_AUTHORIZED", N_("{where} does not accept our client id.")),
    0x86: (
        "NOT_AUTHORIZED",
        N_(
            "{where} refuses our user name or password: check username, password and certificate, "
            "and what the broker allows this box."
        ),
    ),
    0x87: (
        "NOT_AUTHORIZED",
        N_(
            "{where} says that we are not authorized: check username, password and certificate, "
            "and what the broker allows this box."
        ),
    ),
    0x88: ("BUSY", N_("{where} is not available now.")),
    0x89: ("BUSY", N_("{where} is busy.")),
    0x8A: ("NOT_AUTHORIZED", N_("{where} has banned this box.")),
    0x8B: ("LOST", N_("{where} is shutting down.")),
    0x8C: ("NOT_AUTHORIZED", N_("{where} wants another way to prove who we are.")),
    0x8D: ("LOST", N_("{where} has not heard of us for too long.")),
    0x8E: ("TAKEN_OVER", N_("{where} gave our place to another client with the same id: is there a copy of this box?")),
    0x95: ("PROTOCOL", N_("{where} found a message of ours too long.")),
    0x97: ("BUSY", N_("{where} says that our quota is used up.")),
    0x9A: ("PROTOCOL", N_("{where} keeps no retained messages: allow them there.")),
    0x9B: ("PROTOCOL", N_("{where} takes no messages of QoS 1: allow them there.")),
    0x9F: ("BUSY", N_("{where} gets too many connections.")),
}


def refused(code: int, where: str) -> Problem:
    """Say what the reason ``code`` of a CONNACK or DISCONNECT means."""
    if code in _REASONS:
        kind, text = _REASONS[code]
        return Problem(kind, text.format(where=where))
    return Problem("LOST", say("{where} ended the connection with reason {code}.", where=where, code=f"0x{code:02X}"))


def diagnose(error: OSError, where: str) -> Problem:
    """Say what a failure of the network means."""
    match error:
        case OverstepError():
            return Problem(error.code, say("{where}: {why}", where=where, why=error.text))
        case _ if (why := failure(error)) is not None:
            return Problem("TLS", _about_tls(why, where))
        case socket.gaierror():
            return Problem(
                "NO_ADDRESS", say("the name in {where} cannot be resolved: check DNS or the host.", where=where)
            )
        case ConnectionRefusedError():
            return Problem(
                "REFUSED_CONNECTION", say("{where} refuses connections: is the broker running?", where=where)
            )
        case TimeoutError():
            return timed_out(where)
        case ConnectionError():
            return lost(where)
        case _:
            return Problem(
                "NO_ROUTE", say("{where} cannot be reached: {error}.", where=where, error=error.strerror or error)
            )


def lost(where: str) -> Problem:
    """Say that the connection ended without a reason."""
    return Problem("LOST", say("{where} closed the connection.", where=where))


def timed_out(where: str) -> Problem:
    """Say that no answer came in time."""
    return Problem("TIMED_OUT", say("{where} does not answer in time.", where=where))


def _about_tls(why: Failure, where: str) -> str:
    match why.kind:
        case "dates":
            return say(
                "the certificate of {where} is not valid now ({said}): it must be renewed there.",
                where=where,
                said=why.text,
            )
        case "name":
            return say(
                "the certificate of {where} is for another machine ({said}): write its name in mqtt.url.",
                where=where,
                said=why.text,
            )
        case "authority":
            return say(
                "nobody we know signed the certificate of {where} ({said}): name who did with mqtt.ca_file.",
                where=where,
                said=why.text,
            )
        case "peer":
            return say("the certificate of {where} is bad: {said}.", where=where, said=why.text)
        case _:
            return say(
                "{where} and we cannot agree on TLS ({said}): does it speak TLS there, and know our certificate?",
                where=where,
                said=why.text,
            )
