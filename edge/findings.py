"""Findings: what a person should know, each once, with a code, a sentence and an advice.

The journal is bounded in number and in length, so no peer can make it grow, nor push out what others have to say. A
finding opens when it is first observed, counts while it is observed again, and closes when its cause is gone.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

import msgspec
import structlog

from edge.clock import Clock
from edge.quota import Lines

log = structlog.get_logger()

EVENT_SECONDS: Final = 86_400.0
"""How long an event is shown after it was last seen."""
MOST_OPEN: Final = 256
"""Findings kept open at once; the oldest of the code that has most gives way."""
MOST_OF_A_CODE: Final = 64
"""Findings of one code kept open at once; the oldest gives way."""
_MOST_COMPONENT: Final = 100
"""Characters of a component."""
_STRANGERS: Final = frozenset({"title", "import"})
"""Components whose second word is an AE title or the name of a file or medium: kept out of the log."""
_LINES: Final = 60
"""Lines of the log in a minute."""


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Code(msgspec.Struct, frozen=True):
    """One kind of finding. ``text`` and ``advice`` are for a technician; ``{detail}`` is filled in.

    An event happened and is over: it closes by itself a day after it was last seen. Other findings stand until their
    cause is gone.
    """

    name: str
    severity: Severity
    text: str
    advice: str
    event: bool = False


def _code(name: str, severity: Severity, text: str, advice: str) -> Code:
    return Code(name, severity, text, advice)


def _event(name: str, severity: Severity, text: str, advice: str) -> Code:
    return Code(name, severity, text, advice, event=True)


_I, _W, _E = Severity.INFO, Severity.WARNING, Severity.ERROR

CODES: Final[dict[str, Code]] = {
    code.name: code
    for code in (
        _code(
            "NO_DESTINATION",
            _W,
            "No destination is configured: images are stored here and go nowhere.",
            "Add a [[destination]] to the configuration and restart.",
        ),
        _code(
            "ACCEPTS_ANYONE",
            _I,
            "No [[modality]] is configured, so images are taken from any sender.",
            "List the modalities in the configuration to refuse everyone else.",
        ),
        _code(
            "UNROUTED",
            _W,
            "{detail}",
            "Add a [[route]] that takes them, or leave out the rules that keep them back, and restart.",
        ),
        _code(
            "NOT_IN_THIS_VERSION",
            _I,
            "The configuration uses {detail}, on which this version does not act yet.",
            "Nothing; or remove it until an update brings it.",
        ),
        _code(
            "DESTINATION_DOWN",
            _W,
            "{detail}",
            "Images are stored safely and go on as soon as it takes them. If it stays, tell IT.",
        ),
        _code(
            "OBJECT_TOO_BIG_FOR_LINK",
            _W,
            "{detail}",
            "It is stored safely here and is tried again when nothing else waits. Give the box a better line for a "
            "while; if the line holds and it stays, ask who runs the destination whether it breaks off.",
        ),
        _code(
            "DELIVERIES_HELD",
            _W,
            "{detail}",
            "See `edge queue --state held`; mend the cause, then `edge release`. Or give them up: "
            "`edge cancel --reason`.",
        ),
        _code(
            "PROOF_OVERDUE",
            _W,
            "{detail}",
            "Images are stored safely here and are kept. Ask who runs the destination whether its storage commitment "
            "works and knows this box.",
        ),
        _code(
            "PROOF_DECLINED",
            _W,
            "{detail}",
            "It is asked again by itself. If it stays, tell who runs the destination.",
        ),
        _code(
            "COMMITMENT_UNSUPPORTED",
            _W,
            "{detail}",
            'Have storage commitment set up there, or write verify = "query" or "none" for this destination.',
        ),
        _code(
            "QUERY_UNSUPPORTED",
            _W,
            "{detail}",
            'Have queries by this box allowed there, or write verify = "commitment" or "none" for this destination.',
        ),
        _event(
            "REPORT_UNUSABLE",
            _W,
            "{detail}",
            "Nothing was verified by it. If it stays, tell who runs the destination.",
        ),
        _event(
            "COMMITMENT_UNKNOWN_REQUESTER",
            _W,
            "{detail}",
            "Add commitment = { port = …, ae_title = … } to this modality in the configuration.",
        ),
        _code(
            "REPORT_UNDELIVERED",
            _W,
            "{detail}",
            "Images are safe here. Switch the modality on, or correct where its reports go in the configuration.",
        ),
        _code(
            "DESTINATION_REMOVED",
            _W,
            "{detail}",
            "Put the destination back into the configuration, or give them up: edge cancel --destination … --reason …",
        ),
        _code(
            "BACKLOG_OLD",
            _W,
            "Images have waited for more than a day: {detail}",
            "They are stored safely here. Tell IT: the destination needs somebody.",
        ),
        _event(
            "TWIN",
            _W,
            "Two different objects came with one SOP Instance UID; neither stands for the other, each is delivered in "
            "its turn. {detail}",
            "Tell IT: the modality, or something before it, uses a UID twice.",
        ),
        _code(
            "INTAKE_CLOSED",
            _E,
            "Not accepting images: {detail}",
            "Keep the images on the modality and call IT now.",
        ),
        _code(
            "DISK_FILLING",
            _W,
            "The disk is filling: {detail}",
            "Go on scanning. Tell IT today: repair what keeps images from being delivered, or enlarge the disk.",
        ),
        _code(
            "MODALITY_SILENT",
            _W,
            "{detail}",
            "Where it was used: see that it is connected, and that it sends to this box. Else nothing.",
        ),
        _event(
            "PEER_REFUSED",
            _W,
            "{detail}",
            "Check the AE titles on the modality and under [[modality]] in the configuration.",
        ),
        _event(
            "PEER_MISBEHAVES",
            _W,
            "{detail}",
            "Check what is connected at this address.",
        ),
        _event(
            "TITLE_SHARED",
            _I,
            "Two senders use one AE title: {detail}",
            "Give each modality an AE title of its own, unless it is one machine whose address changed.",
        ),
        _code(
            "CERTIFICATE_EXPIRES",
            _W,
            "A certificate of this box ends soon: {detail}",
            "Put a new certificate and key into the same files, then: systemctl reload edge.",
        ),
        _code(
            "CERTIFICATE_EXPIRED",
            _E,
            "A certificate of this box is not valid now: {detail}",
            "Put a new certificate and key into the same files, then: systemctl reload edge.",
        ),
        _code(
            "CERTIFICATE_UNUSABLE",
            _E,
            "A certificate or key of this box cannot be used: {detail}",
            "Repair the file, then: systemctl reload edge. One that was read before stays in force until then.",
        ),
        _code(
            "BROKER_DOWN",
            _I,
            "IT does not see this box: the broker cannot be reached: {detail}",
            "Nothing for the images. What happens meanwhile is kept and told later.",
        ),
        _code(
            "DASHBOARD_DOWN",
            _I,
            "The dashboard cannot be reached: {detail}",
            "Nothing for the images. Stop the program that uses the port, or correct [dashboard] in the configuration.",
        ),
        _code(
            "RESTART_NEEDED",
            _I,
            "The configuration changed in what needs a restart: {detail}",
            "Restart when no modality is sending: systemctl restart edge.",
        ),
        _code(
            "RELOAD_FAILED",
            _W,
            "The configuration was not read again, because it has errors: {detail}",
            "Correct it until `edge check` is content, then: systemctl reload edge.",
        ),
        _code(
            "WATCH_MISSING",
            _W,
            "A watched folder cannot be read: {detail}",
            "See that the share or disk is mounted, and that the service may read it. What is in it is safe there.",
        ),
        _code(
            "WATCH_LEFT",
            _W,
            "Files in a watched folder are not taken: {detail}",
            "Export what is damaged again; move away what is no DICOM. None of these files was touched.",
        ),
        _code(
            "WATCH_STUCK",
            _W,
            "Files were taken from a watched folder, but cannot be moved or deleted there: {detail}",
            "Give the service the right to write in that folder. The images are safe and are not sent twice.",
        ),
        _event(
            "IMPORT_INCOMPLETE",
            _W,
            "An import did not take everything: {detail}",
            "Insert the medium again, or run edge import again: nothing is taken twice, and it says what is wrong.",
        ),
        _event(
            "ODD_OBJECT",
            _I,
            "An object was stored as it came, although {detail}",
            "Nothing: it is forwarded byte for byte.",
        ),
        _event(
            "NONCONFORMING_UID",
            _I,
            "Objects were stored as they came, although a UID in them is not as the standard asks: {detail}",
            "Nothing: they are forwarded byte for byte. A destination may refuse them: tell the modality's vendor.",
        ),
        _event(
            "QUARANTINED",
            _W,
            "An object was set aside in quarantine/: {detail}",
            "Send it again from the modality, and tell IT.",
        ),
        _event(
            "STORAGE_ERROR",
            _E,
            "The disk reports an error: {detail}",
            "Images that were not acknowledged are still on the modality. Have IT check the card or disk.",
        ),
        _code(
            "LOST",
            _E,
            "A stored object has no file any more: {detail}",
            "Send the study again from the modality, and tell IT.",
        ),
        _event(
            "DAMAGED_FILE",
            _E,
            "A stored object is not what was received and was set aside in quarantine/: {detail}",
            "Send it again from the modality, and have IT check the card or disk.",
        ),
        _event(
            "ROW_AMENDED",
            _I,
            "The database said something else of a file than the file itself, and was corrected: {detail}",
            "Nothing; if it comes again, have IT check the card or disk.",
        ),
        _event(
            "DATABASE_MENDED",
            _W,
            "The database was damaged and has been mended; nothing is missing.",
            "Have IT check the card or disk: it has damaged what was written.",
        ),
        _event(
            "DATABASE_REBUILT",
            _W,
            "The database was damaged and has been made again from the stored files: images may be sent "
            "twice, none is lost.",
            "Have IT check the card or disk, and look for studies that were held or cancelled.",
        ),
        _code(
            "CLOCK_WRONG",
            _W,
            "The clock of this box is wrong. {detail}",
            "Nothing for the images. Give the box a way to a time server, or set its clock.",
        ),
        _event(
            "CLOCK_JUMPED",
            _I,
            "The clock of this box was changed while it ran: {detail}",
            "Nothing, where somebody set it.",
        ),
        _code(
            "LIGHT_UNUSABLE",
            _W,
            "The status light cannot be trusted: {detail}",
            'Nothing for the images; look at `edge status`. Have IT repair the light, or write driver = "none".',
        ),
        _code(
            "NOT_DURABLE",
            _I,
            "What is stored may not survive a power cut: {detail}.",
            "Put storage.path on a disk with a journalled file system, such as ext4.",
        ),
        _code(
            "UPDATE_ROLLED_BACK",
            _W,
            "The last update did not do well and was taken back. {detail}",
            "Nothing for the images: the version before runs. Send the log to IT; they decide whether to try it again.",
        ),
        _event(
            "SERVICE_RESTARTED",
            _W,
            "A part of the program failed and was started again: {detail}",
            "Nothing while it is rare. If it repeats, send the log to IT.",
        ),
        _code(
            "NOT_RUNNING",
            _E,
            "The appliance is not running; this is what its store says.",
            "Start it: systemctl start edge, or edge run.",
        ),
    )
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One open finding."""

    code: str
    severity: Severity
    component: str
    since: float
    count: int
    text: str
    advice: str


Listener = Callable[[str, str, bool, int], None]
"""Hears of an opening (True) or a closing: code, component, which of the two, and the count."""


class Journal:
    """The open findings, by (code, component)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listener: Listener | None = None
        self._open: dict[tuple[str, str], Finding] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._lines = Lines(
            _LINES, clock.monotonic, lambda silenced: log.info("findings were silenced", lines=silenced)
        )

    def listen(self, listener: Listener) -> None:
        """Let ``listener`` hear of every opening and closing, and now of what is open. One that fails is passed over.

        It is called where the finding was noted, so it may not wait.
        """
        self._listener = listener
        for finding in list(self._open.values()):
            self._tell(finding, is_open=True)

    def _tell(self, finding: Finding, *, is_open: bool) -> None:
        if self._listener is None:
            return
        try:
            self._listener(finding.code, finding.component, is_open, finding.count)
        except Exception:
            # whoever has a finding to note has nothing to do with who hears of it
            log.exception("a finding was not told")

    def note(self, code: str, component: str, detail: str = "") -> None:
        """Open the finding, or count it once more. ``detail`` is cut at 300 characters."""
        component = printable(component, _MOST_COMPONENT)
        old = self._open.get((code, component))
        self._put(code, component, detail, count=old.count + 1 if old else 1)

    def state(self, code: str, component: str, detail: str = "") -> None:
        """Open the finding, or bring its text up to date: what is looked at again and again is not counted."""
        component = printable(component, _MOST_COMPONENT)
        old = self._open.get((code, component))
        self._put(code, component, detail, count=old.count if old else 1)

    def clear(self, code: str, component: str) -> None:
        """Close the finding, if it is open."""
        component = printable(component, _MOST_COMPONENT)
        self._seen.pop((code, component), None)
        closed = self._open.pop((code, component), None)
        if closed is not None:
            self._say("finding closed", code, component)
            self._tell(closed, is_open=False)

    def _put(self, code: str, component: str, detail: str, *, count: int) -> None:
        kind = CODES[code]
        key = (code, component)
        old = self._open.pop(key, None)
        if old is None:
            self._make_room(code)
            # what is said of it stays out of the log, which leaves the box
            self._say("finding", code, component)
        self._seen[key] = self._clock.monotonic()
        self._open[key] = Finding(
            code=code,
            severity=kind.severity,
            component=component,
            since=old.since if old else self._clock.now(),
            count=count,
            text=kind.text.format(detail=printable(detail)),
            advice=kind.advice,
        )
        if old is None:
            self._tell(self._open[key], is_open=True)

    def _say(self, event: str, code: str, component: str) -> None:
        """Log it, unless a flood has had its share of lines this minute."""
        if self._lines.take():
            head, _, _ = component.partition(".")
            shown = head if head in _STRANGERS else component
            log.warning(event, code=code, component=shown, severity=str(CODES[code].severity))

    def _make_room(self, code: str) -> None:
        codes = Counter(name for name, _ in self._open)
        if codes[code] >= MOST_OF_A_CODE:
            crowd = code
        elif len(self._open) >= MOST_OPEN:
            crowd = codes.most_common(1)[0][0]
        else:
            return
        oldest = next(key for key in self._open if key[0] == crowd)
        del self._seen[oldest]
        self._tell(self._open.pop(oldest), is_open=False)

    def open(self) -> tuple[Finding, ...]:
        """Every open finding, the worst first, then the oldest."""
        now = self._clock.monotonic()
        for (code, component), at in list(self._seen.items()):
            if CODES[code].event and now - at > EVENT_SECONDS:
                self.clear(code, component)
        rank = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
        return tuple(sorted(self._open.values(), key=lambda f: (rank[f.severity], f.since)))


def printable(text: str, most: int = 300) -> str:
    """``text`` on one line, without control characters, cut at ``most``: safe to log and to show."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The worst severity among ``findings``; None for none."""
    order = [Severity.INFO, Severity.WARNING, Severity.ERROR]
    return max((f.severity for f in findings), key=order.index, default=None)
