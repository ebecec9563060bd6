"""The steps with a PACS: one association for everything, what it takes, C-ECHO, and what ``verify`` needs.

Nothing of a patient is sent: contexts are proposed and not used, and the query is for a study that does not exist.
"""

import random
from contextlib import aclosing
from typing import Final

import msgspec

from edge.clock import Clock
from edge.config import DimseDestination
from edge.dicom import status
from edge.dicom.dataset import SYNTAXES
from edge.dicom.find import FindError, image_query
from edge.dicom.requestor import NoContextError, RejectedError, Requestor, connect
from edge.dicom.uids import EXPLICIT_LITTLE, IMPLICIT_LITTLE, STORAGE_COMMITMENT, STUDY_ROOT_FIND, VERIFICATION
from edge.doctor.network import Look, Resolve, Visit, resolve
from edge.doctor.problems import REJECTIONS
from edge.doctor.step import Result, Told, doubtful, failed, fine
from edge.doctor.words import TEXTS
from edge.forward.links import interfaces
from edge.forward.reach import FAILURES, ORIGINAL, OWN_TITLE, address_of, diagnose
from edge.phrase import N_
from edge.tls import destination_credentials

LONGEST: Final = 20.0
"""Seconds for one answer; a delivery may wait longer."""
_KIB: Final = 1024
_FOUND: Final = 10
"""Answers after which a query has shown that it is answered."""
_NO_SERVICE: Final = frozenset({status.SOP_CLASS_NOT_SUPPORTED, status.UNRECOGNIZED_OPERATION})
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
USUAL: Final = {
    "CR": f"{_STORAGE}1",
    "DX": f"{_STORAGE}1.1",
    "MG": f"{_STORAGE}1.2",
    "CT": f"{_STORAGE}2",
    "MR": f"{_STORAGE}4",
    "US": f"{_STORAGE}6.1",
    "SC": f"{_STORAGE}7",
    "XA": f"{_STORAGE}12.1",
    "NM": f"{_STORAGE}20",
    N_("dose reports"): f"{_STORAGE}88.67",
}
"""Kinds of images that a PACS mostly takes, as people call them, and their storage SOP classes."""


class DimseVisit(Visit):
    """What is learnt of one PACS."""

    def __init__(
        self,
        destination: DimseDestination,
        clock: Clock,
        look: Look = interfaces,
        resolve: Resolve = resolve,
        *,
        original: str = OWN_TITLE,
    ) -> None:
        """``original`` is as whom we call where we call as the modality did."""
        tls = destination.tls
        super().__init__(
            destination.host,
            destination.port,
            server="PACS",
            connect=destination.timeouts.connect,
            credentials=None if tls is None else destination_credentials(destination.name, tls),
            clock=clock,
            look=look,
            resolve=resolve,
        )
        self.destination = destination
        title = destination.calling_ae_title
        self.calling = original if title == ORIGINAL else title
        self.response = min(destination.timeouts.response, LONGEST)
        self._requestor: Requestor | None = None

    @property
    def proves(self) -> str:
        """How it is to prove what it has."""
        return self.destination.verify

    @property
    def requestor(self) -> Requestor:
        """The association. RuntimeError before `associate`."""
        if self._requestor is None:
            raise RuntimeError("there is no association yet")
        return self._requestor

    async def associate(self) -> Requestor:
        """Make the association. Raises what `connect` raises."""
        context = None if self.credentials is None else self.credentials.context()
        address = address_of(self.destination, self.calling, context)
        proposals: list[tuple[str, tuple[str, ...]]] = [(VERIFICATION, (IMPLICIT_LITTLE,))]
        proposals += [(uid, (EXPLICIT_LITTLE, IMPLICIT_LITTLE)) for uid in USUAL.values()]
        proposals += [(uid, SYNTAXES) for uid in (STORAGE_COMMITMENT, STUDY_ROOT_FIND)]
        address = msgspec.structs.replace(address, response=self.response)
        self._requestor = await connect(address, proposals)
        return self._requestor

    async def close(self) -> None:
        """Release the association, if there is one."""
        requestor, self._requestor = self._requestor, None
        if requestor is not None:
            await requestor.release()


def _trouble(visit: DimseVisit, error: Exception) -> Told:
    found = diagnose(error, visit.destination, trusted=visit.clock.trusted())
    told = failed(found.code, found.detail)
    if isinstance(error, RejectedError):
        reject = error.reject
        known = REJECTIONS.get((reject.source, reject.reason))
        if known is not None:
            values = {"called": visit.destination.ae_title, "calling": visit.calling, "source": visit.source}
            return Told(Result.FAILED, told.text, told.code, known[0].format(**values), known[1])
    return told


async def association(visit: DimseVisit) -> Told:
    """Ask for an association with everything that we may want of it."""
    try:
        requestor = await visit.associate()
    except FAILURES as e:
        return _trouble(visit, e)
    most = requestor.peer_max_pdu
    long = TEXTS["pdu"].format(kib=f"{round(most / _KIB, 1):g}") if most else TEXTS["pdu_any"]
    return fine("associated", called=visit.destination.ae_title, calling=visit.calling, long=long)


async def images(visit: DimseVisit) -> Told:
    """See which of the usual kinds of images it takes."""
    taken = [name for name, uid in USUAL.items() if _takes(visit.requestor, uid)]
    refused = ", ".join(name for name in USUAL if name not in taken)
    if not taken:
        values = {"called": visit.destination.ae_title, "refused": refused, "calling": visit.calling}
        return failed("CONTEXT_REJECTED", TEXTS["images_none"].format(**values))
    return fine("images_some" if refused else "images", taken=", ".join(taken), refused=refused)


async def echo(visit: DimseVisit) -> Told:
    """C-ECHO."""
    try:
        code = await visit.requestor.echo()
    except NoContextError:
        return doubtful("NO_ECHO", TEXTS["no_echo"])
    except FAILURES as e:
        return _trouble(visit, e)
    if code is None:
        return failed("EMPTY_STATUS", TEXTS["empty_status"])
    if code != status.SUCCESS:
        return failed(f"{code:04X}", TEXTS["echo_status"].format(meaning=status.meaning(code)))
    return fine("echo")


async def commitment(visit: DimseVisit) -> Told:
    """See whether it takes requests for storage commitment."""
    if _takes(visit.requestor, STORAGE_COMMITMENT):
        return fine("commitment")
    text = TEXTS["commitment_refused"].format(verify=visit.proves)
    tell = doubtful if visit.proves == "commitment-or-query" else failed
    return tell("COMMITMENT_UNSUPPORTED", text)


async def query(visit: DimseVisit) -> Told:
    """Ask for a study that does not exist."""
    requestor, verify = visit.requestor, visit.proves
    # one of the two ways to prove it is enough where either may do
    either = verify == "commitment-or-query" and _takes(requestor, STORAGE_COMMITMENT)
    tell = doubtful if either else failed
    try:
        nobody = f"2.25.{random.SystemRandom().getrandbits(120)}"
        identifier = image_query(nobody, nobody, requestor.syntax_of(STUDY_ROOT_FIND))
        count = 0
        async with aclosing(requestor.find(STUDY_ROOT_FIND, identifier)) as matches:
            async for _ in matches:
                count += 1
                if count == _FOUND:
                    break
    except NoContextError:
        return tell("QUERY_UNSUPPORTED", TEXTS["query_refused"].format(verify=verify))
    except FindError as e:
        code = "QUERY_UNSUPPORTED" if e.status in _NO_SERVICE else f"{e.status:04X}"
        return tell(code, TEXTS["query_failed"].format(verify=verify, why=e))
    except FAILURES as e:
        return _trouble(visit, e)
    return fine("query", count=count)


def _takes(requestor: Requestor, uid: str) -> bool:
    try:
        requestor.syntax_of(uid)
    except NoContextError:
        return False
    return True
