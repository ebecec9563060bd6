"""Which presentation contexts an acceptor takes (PS3.8 9.3.3.2, PS3.7 annex D).

Pure: proposals and two predicates in, answers out. The sender's first transfer syntax that we know wins, so an
object stays as the modality has it; what no context can carry is answered with the reason that PS3.8 gives.
"""

from collections.abc import Callable

import msgspec

from edge.dicom.pdu import (
    AnsweredContext,
    AssociateRequest,
    ContextResult,
    ProposedContext,
    Role,
)
from edge.dicom.uids import STORAGE_COMMITMENT


class Context(msgspec.Struct, frozen=True):
    """An accepted presentation context."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


def answer(
    proposed: ProposedContext,
    *,
    offers: Callable[[str], bool],
    knows: Callable[[str, str], bool],
) -> AnsweredContext:
    """Answer one proposal.

    ``offers`` tells which abstract syntaxes are taken, ``knows`` which transfer syntaxes for an abstract syntax.
    """
    if not offers(proposed.abstract_syntax):
        first = proposed.transfer_syntaxes[0] if proposed.transfer_syntaxes else ""
        return AnsweredContext(proposed.id, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, first)
    for syntax in proposed.transfer_syntaxes:
        if knows(syntax, proposed.abstract_syntax):
            return AnsweredContext(proposed.id, ContextResult.ACCEPTANCE, syntax)
    return AnsweredContext(proposed.id, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, "")


def accepted(request: AssociateRequest, answers: tuple[AnsweredContext, ...]) -> dict[int, Context]:
    """Pair what was proposed with what was accepted, by presentation context id."""
    abstract = {context.id: context.abstract_syntax for context in request.contexts}
    return {
        a.id: Context(a.id, abstract[a.id], a.transfer_syntax)
        for a in answers
        if a.result == ContextResult.ACCEPTANCE and a.id in abstract
    }


def roles(request: AssociateRequest, contexts: dict[int, Context]) -> tuple[Role, ...]:
    """Answer role selection for what was accepted (PS3.7 D.3.3.4).

    The requestor stays SCU and never becomes SCP, except of storage commitment: whoever opens an association only to
    report is SCP there (PS3.4 J.3.3), and gets the roles that it asks for.
    """
    taken = {context.abstract_syntax for context in contexts.values()}
    # once each, however often it was asked: the answer must fit its item
    asked = {role.sop_class_uid: role for role in request.user.roles if role.sop_class_uid in taken}
    return tuple(Role(uid, scu=role.scu, scp=role.scp and uid == STORAGE_COMMITMENT) for uid, role in asked.items())
