"""The receipt of a study: what came, from whom, what became of it, and the proof; a piece at a time.

It is what ``edge trace`` prints, in words and for paper; the same as JSON is streamed whole.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from edge.clock import iso
from edge.evidence import WORDS, Evidence
from edge.store import InstanceRow, ProofRow, Reading, TrailRow
from edge.web.language import Language
from edge.web.page import N_
from edge.web.studies import shown

PIECE: Final = 50
"""Instances on one page."""
_BATCH: Final = 100
"""Instances that are asked for at a time."""
_LONGEST: Final = 40
"""Steps of one instance that are shown on the page; the JSON has them all."""
_EVENTS: Final = {
    "received": N_("received"),
    "received-again": N_("received again"),
    "attempted": N_("attempted"),
    "accepted": N_("accepted"),
    "verified": N_("verified"),
    "held": N_("held"),
    "released": N_("released"),
    "cancelled": N_("given up"),
    "declined": N_("not taken"),
    "resend": N_("to be sent again"),
    "hurried": N_("made STAT"),
    "given-back": N_("given back"),
    "promised": N_("the scanner asked for commitment"),
    "answered": N_("commitment decided"),
    "report-taken": N_("the scanner took the report"),
    "not-needed": N_("not needed"),
    "not-sent-back": N_("not sent back"),
    "lost": N_("file lost"),
    "found": N_("file found again"),
    "quarantined": N_("file damaged"),
    "amended": N_("record corrected"),
    "deleted": N_("deleted here"),
}


class Step(msgspec.Struct, frozen=True):
    """One step of an instance."""

    at: str
    """RFC 3339, in UTC."""
    doubt: bool
    """Whether the clock was not to be trusted."""
    event: str
    destination: str
    words: str


class Proof(msgspec.Struct, frozen=True):
    """Why a destination counts as having it."""

    destination: str
    words: str
    by: str
    at: str


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of the receipt."""

    id: int
    uid: str
    modality: str
    bytes: int
    sha256: str
    sender: str
    received: str
    states: tuple[tuple[str, str], ...]
    """Destination and state."""
    proofs: tuple[Proof, ...]
    steps: tuple[Step, ...]
    left_out: int
    """Steps in the middle that are not shown."""


def pieces(found: Sequence[InstanceRow], language: Language) -> list[Piece]:
    """Say instances."""
    return [_piece(one, language) for one in found]


async def whole(reading: Reading, study: int) -> AsyncIterator[bytes]:
    """Give the receipt as the JSON that ``edge trace --json`` prints, however many instances there are.

    Raises `StoreError`; what was given until then is no JSON, so nobody takes it for all.
    """
    after, first = 0, True
    yield b"["
    while found := await reading.trace_study(study, after, _BATCH):
        after = found[-1].id
        for one in found:
            yield (b"\n" if first else b",\n") + msgspec.json.encode(one)
            first = False
    yield b"\n]\n"


def _piece(one: InstanceRow, language: Language) -> Piece:
    steps = [_step(step, one.sha256, language) for step in one.trail]
    over = max(0, len(steps) - _LONGEST)
    if over:  # how it began and how it stands
        steps = [*steps[: _LONGEST // 2], *steps[-_LONGEST // 2 :]]
    return Piece(
        id=one.id,
        uid=shown(one.sop_instance_uid),
        modality=shown(one.modality),
        bytes=one.bytes,
        sha256=one.sha256,
        sender=" ".join(filter(None, (shown(one.calling), shown(one.address)))),
        received=iso(one.received_at),
        states=tuple((d.destination, _event(d.state, language)) for d in one.deliveries),
        proofs=tuple(_proof(proof, language) for proof in one.proofs),
        steps=tuple(steps),
        left_out=over,
    )


def _step(step: TrailRow, digest: str, language: Language) -> Step:
    code = "" if step.code == digest else step.code
    words = " ".join(filter(None, (shown(code), shown(language.say(step.detail)))))
    return Step(iso(step.at), not step.clock_trusted, _event(step.event, language), step.destination, words)


def _proof(proof: ProofRow, language: Language) -> Proof:
    words = WORDS.get(Evidence(proof.evidence), "") if proof.evidence else ""
    return Proof(proof.destination, language.say(words), shown(proof.by), iso(proof.at))


def _event(event: str, language: Language) -> str:
    return language.say(_EVENTS[event]) if event in _EVENTS else shown(event)
