"""Why there is no connection: a code for machines, a sentence for people. Nothing in it is a broker's own text."""

import socket
from typing import Final, NamedTuple

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
_AUTHORIZATION: Final = "check username, password and certificate, and what the broker allows this box"
_REASONS: Final = {
    VERSION_REFUSED: ("PROTOCOL", "does not speak this version of MQTT: set mqtt.protocol"),
    0x85: ("NOT_AUTHORIZED", "does not accept our client id"),
    0x86: ("NOT_AUTHORIZED", f"refuses our user name or password: {_AUTHORIZATION}"),
    0x87: ("NOT_AUTHORIZED", f"says that we are not authorized: {_AUTHORIZATION}"),
    0x88: ("BUSY", "is not available now"),
    0x89: ("BUSY", "is busy"),
    0x8A: ("NOT_AUTHORIZED", "has banned this box"),
    0x8B: ("LOST", "is shutting down"),
    0x8C: ("NOT_AUTHORIZED", "wants another way to prove who we are"),
    0x8D: ("LOST", "has not heard of us for too long"),
    0x8E: ("TAKEN_OVER", "gave our place to another client with the same id: is there a copy of this box?"),
    0x95: ("PROTOCOL", "found a message of ours too long"),
    0x97: ("BUSY", "says that our quota is used up"),
    0x9A: ("PROTOCOL", "keeps no retained messages: allow them there"),
    0x9B: ("PROTOCOL", "takes no messages of QoS 1: allow them there"),
    0x9F: ("BUSY", "gets too many connections"),
}


def refused(code: int, where: str) -> Problem:
    """Say what the reason ``code`` of a CONNACK or DISCONNECT means."""
    kind, text = _REASONS.get(code, ("LOST", f"ended the connection with reason 0x{code:02X}"))
    return Problem(kind, _sentence(f"{where} {text}"))


def diagnose(error: OSError, where: str) -> Problem:
    """Say what a failure of the network means."""
    match error:
        case OverstepError():
            return Problem(error.code, _sentence(f"{where} {error.text}"))
        case _ if (why := failure(error)) is not None:
            return Problem("TLS", _sentence(_about_tls(why, where)))
        case socket.gaierror():
            return Problem("NO_ADDRESS", f"the name in {where} cannot be resolved: check DNS or the host.")
        case ConnectionRefusedError():
            return Problem("REFUSED_CONNECTION", f"{where} refuses connections: is the broker running?")
        case TimeoutError():
            return timed_out(where)
        case ConnectionError():
            return lost(where)
        case _:
            return Problem("NO_ROUTE", _sentence(f"{where} cannot be reached: {error.strerror or error}"))


def lost(where: str) -> Problem:
    """Say that the connection ended without a reason."""
    return Problem("LOST", f"{where} closed the connection.")


def timed_out(where: str) -> Problem:
    """Say that no answer came in time."""
    return Problem("TIMED_OUT", f"{where} does not answer in time.")


def _about_tls(why: Failure, where: str) -> str:
    match why.kind:
        case "dates":
            return f"the certificate of {where} is not valid now ({why.text}): it must be renewed there"
        case "name":
            return f"the certificate of {where} is for another machine ({why.text}): write its name in mqtt.url"
        case "authority":
            return f"nobody we know signed the certificate of {where} ({why.text}): name who did with mqtt.ca_file"
        case "peer":
            return f"the certificate of {where} is bad: {why.text}"
        case _:
            hint = "does it speak TLS there, and know our certificate?"
            return f"{where} and we cannot agree on TLS ({why.text}): {hint}"


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."
