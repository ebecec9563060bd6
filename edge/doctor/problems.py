"""Problem codes: what each means, what to do, and whom to call. A closed list, documented in docs/problems.md.

The codes are those of a destination's problem in the snapshot, and a few that only a look at a single step can tell.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec


class Who(StrEnum):
    """Whom to call."""

    BOX = "whoever looks after this box"
    NETWORK = "IT, for the network"
    DESTINATION = "who runs the destination"
    VENDOR = "the vendor of the destination"
    MAINTAINER = "who maintains dicom-edge"


class Problem(msgspec.Struct, frozen=True):
    """One kind of problem."""

    code: str
    meaning: str
    advice: str
    who: Who


_B, _N, _D, _V, _M = Who.BOX, Who.NETWORK, Who.DESTINATION, Who.VENDOR, Who.MAINTAINER

STATUS: Final = "DICOM status"
"""Stands for every code of four hexadecimal digits that has no entry of its own."""

PROBLEMS: Final = {
    problem.code: problem
    for problem in (
        # this box and its network
        Problem("NO_LINK", "no network interface has a link", "Put the cable in at both ends; see the switch lit.", _N),
        Problem(
            "NO_OWN_ADDRESS",
            "there is a link, but nobody gave this box an address",
            "Ask for DHCP on this port of the switch, or set a fixed address.",
            _N,
        ),
        Problem(
            "NO_ADDRESS",
            "the name cannot be resolved: there is no such name, or no name server answers",
            "Check how the name is written and which name server this box has, or write an address instead.",
            _N,
        ),
        Problem(
            "NO_ROUTE",
            "this box, or a router, knows no way to the address",
            "Check the address, the gateway of this box, and the VLAN of this port.",
            _N,
        ),
        Problem(
            "FILTERED",
            "nothing comes back to a connection: the machine is off, or a firewall drops it",
            "See that the machine is on; have the way from this box to its port opened in every firewall.",
            _N,
        ),
        Problem(
            "REFUSED_CONNECTION",
            "the machine is there, but nothing listens on the port",
            "Start the program that should listen there; check the port and its firewall.",
            _D,
        ),
        Problem(
            "CONNECTION_LOST",
            "the connection is closed or reset",
            "Try again; if it stays, check the port and whether TLS is spoken there, then the log of the destination "
            "and firewalls between.",
            _D,
        ),
        Problem(
            "NO_ANSWER",
            "it takes connections, but does not go on in time",
            "Look whether the destination is overloaded or hangs; try again.",
            _D,
        ),
        Problem(
            "CLOCK_NOT_TRUSTED",
            "the clock of this box is wrong, so no certificate can be judged",
            "Give the box a way to a time server, or set its clock.",
            _B,
        ),
        # TLS
        Problem(
            "TLS_FILES",
            "our own files for TLS cannot be used",
            "Repair the file that the sentence names, then: systemctl reload edge.",
            _B,
        ),
        Problem(
            "TLS_REFUSED",
            "the two cannot agree on TLS",
            "Do what the sentence says; the two certificates must be known to each other.",
            _D,
        ),
        Problem(
            "PEER_CERTIFICATE_EXPIRED",
            "the destination's certificate ended, or is not valid yet",
            "Have it renewed there; first see that the clock of this box is right.",
            _D,
        ),
        Problem(
            "PEER_CERTIFICATE_ENDS",
            "the destination's certificate ends within 30 days",
            "Have it renewed there in time.",
            _D,
        ),
        Problem(
            "PEER_CERTIFICATE_NAME",
            "the destination's certificate is for another name or address",
            "Write the name that the certificate is for as host or url, or have one made for this name.",
            _B,
        ),
        Problem(
            "PEER_CERTIFICATE_UNKNOWN",
            "nobody we know signed the destination's certificate",
            "Ask for the certificate of who signed it, and name its file with tls.ca_file.",
            _D,
        ),
        Problem(
            "PEER_CERTIFICATE_BAD",
            "the destination's certificate has another fault",
            "Have a new one made there; the sentence says what is wrong with this one.",
            _D,
        ),
        # DIMSE
        Problem(
            "ASSOCIATION_REJECTED",
            "the PACS rejects the association",
            "Have our AE title and address entered at the PACS, and check ae_title.",
            _D,
        ),
        Problem("ABORTED", "the PACS aborts or releases instead of answering", "Look into the log of the PACS.", _D),
        Problem(
            "PROTOCOL_ERROR",
            "what comes is not DICOM, or not HTTP, as the standard asks",
            "Check that the port is that of DICOM, or of DICOMweb, and that no proxy answers in its place.",
            _D,
        ),
        Problem(
            "CONTEXT_REJECTED",
            "the PACS takes none of the usual kinds of images from us",
            "Have storing of images allowed for our AE title.",
            _D,
        ),
        Problem("NO_ECHO", "the PACS takes no C-ECHO", "Nothing, where images go; some systems have no C-ECHO.", _D),
        Problem("EMPTY_STATUS", "an answer has no status", "Tell the vendor; it proves nothing.", _V),
        Problem(
            "NOT_AUTHORIZED",
            "the destination answers 0124: we may not store there",
            "Have our AE title given the right to store.",
            _D,
        ),
        Problem(
            "A700",
            "the destination is full, or short of resources (every A7xx)",
            "Have room made there; images wait here meanwhile.",
            _D,
        ),
        Problem(STATUS, "the destination answers with this status", "Look into the log of the destination.", _D),
        Problem(
            "COMMITMENT_UNSUPPORTED",
            "the PACS takes no storage commitment, which verify asks for",
            'Have it set up there, or write verify = "query" or "none".',
            _D,
        ),
        Problem(
            "QUERY_UNSUPPORTED",
            "the PACS takes no queries, which verify asks for",
            'Have queries by our AE title allowed there, or write verify = "commitment" or "none".',
            _D,
        ),
        # DICOMweb
        Problem(
            "NO_CREDENTIALS",
            "there is nothing to log in with: a file cannot be used, or no token is given out",
            "Correct the file that the sentence names, or ask who runs the server of tokens.",
            _B,
        ),
        Problem(
            "LOGIN_REFUSED",
            "the server does not accept our login (401)",
            "Check auth and have the secret in its file renewed.",
            _D,
        ),
        Problem("FORBIDDEN", "the server knows us and does not let us (403)", "Have it give us the right.", _D),
        Problem("NO_SERVICE", "there is no such service at this address (404, 405, 410)", "Check url.", _B),
        Problem(
            "NO_COMMON_FORMAT", "the server answers neither in DICOM JSON nor in XML (406)", "Tell its vendor.", _V
        ),
        Problem(
            "TOO_MANY_REQUESTS",
            "the server has had too much of us (429)",
            "Wait; lower associations, or have the limit raised.",
            _D,
        ),
        Problem("UNAVAILABLE", "the server is busy or being maintained (503)", "Wait; if it stays, ask there.", _D),
        Problem(
            "SERVER_ERROR",
            "the server, or a proxy before it, has a trouble of its own (5xx)",
            "Have its log looked into.",
            _D,
        ),
        Problem(
            "UNEXPECTED_ANSWER",
            "a status that is no answer to what was asked",
            "Check url; look for a proxy on the way.",
            _D,
        ),
        Problem(
            "NOT_DICOMWEB",
            "a web page comes, or something else that is no answer of DICOMweb",
            "Check url; look for a login page (hotel or guest network) or a proxy before the server.",
            _N,
        ),
        Problem(
            "REDIRECTED",
            "the server sends us to another address, where nothing of ours goes",
            "If that address is right, write it as url; else look for a login page or proxy on the way.",
            _N,
        ),
        Problem(
            "CLOCKS_DIFFER",
            "the server's clock and ours differ by more than five minutes",
            "See which of the two is wrong and set it: logins and certificates depend on the time.",
            _B,
        ),
        # folders
        Problem(
            "FOLDER_MISSING",
            "the folder is not there, or does not answer",
            "Mount the disk or share; the appliance never makes the folder.",
            _B,
        ),
        Problem(
            "FOLDER_SILENT", "the folder's share or disk does not answer", "See that the share or disk is there.", _B
        ),
        Problem(
            "FOLDER_NOT_MOUNTED",
            "the folder lies on the system's own disk, below /mnt, /media or /srv",
            "Mount the disk or share there, unless it is meant so.",
            _B,
        ),
        Problem("FOLDER_FULL", "the folder's disk is full, or a quota is", "Make room there.", _D),
        Problem("FOLDER_SHORT", "the folder's disk has less than 1 GiB left", "Make room there soon.", _D),
        Problem(
            "FOLDER_FAILED",
            "the folder cannot be written",
            "Give the user of the service the right to write there; check disk and share.",
            _B,
        ),
        # this box
        Problem(
            "STORAGE_UNUSABLE",
            "the storage cannot be entered or written",
            "Run this as the user of the service (sudo -u edge); else check the disk and the rights of storage.path.",
            _B,
        ),
        Problem(
            "STORAGE_FULL",
            "room is as low as the reserve: no images are taken",
            "Repair the destination that is down, or enlarge the disk; keep the images on the modality.",
            _B,
        ),
        Problem(
            "STORAGE_SHORT",
            "room is near the reserve",
            "See in edge status what waits, and why; enlarge the disk.",
            _B,
        ),
        Problem(
            "CLOCK_WRONG",
            "the clock of this box is wrong",
            "Give the box a way to a time server, or set its clock.",
            _B,
        ),
        Problem("NOT_RUNNING", "the appliance does not run", "Start it: systemctl start edge, or edge run.", _B),
        Problem(
            "INTAKE_CLOSED",
            "the appliance runs, and takes no images",
            "Keep the images on the modality; edge status says why.",
            _B,
        ),
        Problem(
            "LISTENER_SILENT",
            "the appliance runs, and its own port does not answer C-ECHO",
            "Restart it: systemctl restart edge; if it stays, send the log.",
            _M,
        ),
        Problem(
            "PEER_REFUSED",
            "somebody who wanted to send images was refused",
            "Check the AE titles on the modality and under [[modality]] in the configuration.",
            _B,
        ),
        Problem("FAILED", "a failure of another kind", "Send the sentence to those who maintain the program.", _M),
    )
}

REJECTIONS: Final = {
    (1, 1): ("Look into the log of {called}: it gave no reason.", _D),
    (1, 2): ("Check that the port is that of DICOM; tell the vendor.", _V),
    (1, 3): ("Ask the administrator of {called} to add the AE title {calling} with the address {source}.", _D),
    (1, 7): ("Ask the administrator which AE title the PACS has, and write it as ae_title: {called} is not it.", _D),
    (2, 1): ("Look into the log of {called}: it gave no reason.", _D),
    (2, 2): ("Tell the vendor: it does not know version 1 of the DICOM protocol.", _V),
    (3, 1): ("Wait and try again; if it stays, have the load of {called} looked at.", _D),
    (3, 2): ("Lower associations, or have the limit raised for {calling}: the appliance may hold them itself.", _D),
}
"""(source, reason) of a rejection (PS3.8 Table 9-21): the advice, and whom to call."""


def problem(code: str) -> Problem:
    """Return what is known of ``code``; of a code that is new here, as little as can be said."""
    if found := PROBLEMS.get(code):
        return found
    if re.fullmatch(r"A7[0-9A-F]{2}", code):
        return PROBLEMS["A700"]
    return PROBLEMS[STATUS] if re.fullmatch(r"[0-9A-F]{4}", code) else PROBLEMS["FAILED"]
