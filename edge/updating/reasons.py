"""Why an update waits, failed or was taken back: codes for programs, and a sentence of each for people."""

from collections.abc import Mapping
from typing import Final

from edge.phrase import N_

REASONS: Final[Mapping[str, str]] = {
    "LINE": N_("the server is not reached; it is tried again without end"),
    "DOWNLOAD": N_("the server does not have it, or does not give it out"),
    "NO_ROOM": N_("the disk has too little room for it"),
    "BAD_SIGNATURE": N_("it is not signed by whom this box believes, or is damaged"),
    "INCOMPATIBLE": N_("it is made for other machines"),
    "WRONG_VERSION": N_("it holds another version than was asked for"),
    "RAUC": N_("it could not be installed"),
    "BAD_FILE": N_("the file cannot be read"),
    "ROLLED_BACK_BEFORE": N_("this version was rolled back before; only force takes it again"),
    "SAME_VERSION": N_("this version runs already"),
    "OLDER_VERSION": N_("this version is older than what runs; only force takes it"),
    "SCHEMA": N_("its database is too far from this one; install the version between first"),
    "INTERRUPTED": N_("it was broken off: the machine stopped three times meanwhile, or the request was lost"),
    "CANCELLED": N_("somebody called it off"),
    "REBOOT": N_("the machine could not be started anew; it is tried again"),
    "FELL_BACK": N_("it did not stay up long enough to be judged"),
    "SERVICE_DOWN": N_("the program did not run"),
    "STARTING": N_("the program did not get ready"),
    "NO_STATUS": N_("the program did not answer"),
    "NO_DATABASE": N_("the program could not read its database"),
    "NO_RECEIVER": N_("the program did not answer modalities"),
    "DISK": N_("the disk takes nothing, which is no fault of the version"),
}
"""Every reason of `edge.updating.state.State`."""

REFUSALS: Final[Mapping[str, str]] = {
    "UNSUPPORTED": N_("This system is not the image of the box, so it is not updated like this."),
    "NO_UPDATE_URL": N_("No server is configured: write url in the table update of the configuration."),
    "BAD_VERSION": N_("A version is written like 1.2.3."),
    "UPDATE_UNDER_WAY": N_("Another update is under way."),
    "ROLLED_BACK_BEFORE": N_("This version was rolled back before. With --force it is tried again."),
    "SAME_VERSION": N_("This version runs already. With --force it is installed once more."),
    "OLDER_VERSION": N_("This version is older than what runs. With --force it is installed all the same."),
    "NO_ROOM": N_("The disk has too little room for this file beside the reserve."),
    "BAD_FILE": N_("This file cannot be read."),
    "STORAGE": N_("The request could not be written."),
}
"""Why nothing was asked for."""


def sentence(code: str) -> str:
    """Say a reason, in English; a code that this version does not know is said as it is."""
    return REASONS.get(code, code)
