"""What a step says, and how steps are walked: one after the other, each with an end, until one fails.

`walk` gives each step as it is done, so that a terminal or a page can show it. Whatever the steps meet is an answer of
theirs, never an exception.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from enum import StrEnum
from time import monotonic
from typing import Any, Generic, TypeVar

import msgspec

from edge.doctor.problems import Who, problem
from edge.doctor.words import TEXTS, TITLES
from edge.findings import printable


class Result(StrEnum):
    """How a step ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step that was done, or passed over. ``code``, ``advice`` and ``who`` are empty where nothing is wrong."""

    name: str
    result: Result
    text: str
    """A sentence for a technician; may hold a peer's words, on one line."""
    advice: str = ""
    who: Who | None = None
    """Whom to call if the advice does not help."""
    code: str = ""
    """As a destination's problem in the snapshot; see docs/problems.md."""
    seconds: float = 0.0
    untried: bool = False
    """Whether it was passed over because a step before it failed."""


class Told(msgspec.Struct, frozen=True):
    """What a step found, before it is timed and named."""

    result: Result
    text: str
    code: str = ""
    advice: str = ""
    who: Who | None = None


def fine(key: str, **values: object) -> Told:
    """All is well, in the words of ``key``."""
    return Told(Result.OK, TEXTS[key].format(**values))


def left_out(key: str, **values: object) -> Told:
    """There is nothing to look at, for the reason of ``key``."""
    return Told(Result.SKIPPED, TEXTS[key].format(**values))


def failed(code: str, text: str) -> Told:
    """It is as bad as ``code`` says."""
    known = problem(code)
    return Told(Result.FAILED, text, code, known.advice, known.who)


def doubtful(code: str, text: str) -> Told:
    """Images may go all the same, but somebody should look."""
    known = problem(code)
    return Told(Result.WARNING, text, code, known.advice, known.who)


V_contra = TypeVar("V_contra", contravariant=True)


class Check(msgspec.Struct, Generic[V_contra], frozen=True, kw_only=True):
    """One step as it is declared."""

    name: str
    work: Callable[[V_contra], Awaitable[Told]]
    deadline: Callable[[V_contra], float] = lambda _: 10.0
    """Seconds within which it must have ended."""
    late: str = "NO_ANSWER"
    """The code where it has not."""
    when: Callable[[V_contra], bool] = lambda _: True
    """Whether there is such a step at all."""
    alone: bool = False
    """Whether the steps after it do not need it: they are done although it failed."""


async def walk(checks: Sequence[Check[Any]], visit: object) -> AsyncGenerator[Step]:
    """Do each of ``checks`` on ``visit``, and give what came of it."""
    stopped = ""
    for check in checks:
        if not check.when(visit):
            continue
        begun = monotonic()
        untried = bool(stopped)
        told = left_out("not_tried", step=TITLES[stopped]) if untried else await _done(check, visit)
        if told.result is Result.FAILED and not check.alone:
            stopped = check.name
        yield Step(
            name=check.name,
            result=told.result,
            text=printable(told.text, 500),
            advice=told.advice,
            who=told.who,
            code=told.code,
            seconds=round(monotonic() - begun, 4),
            untried=untried,
        )


async def _done(check: Check[Any], visit: object) -> Told:
    seconds = check.deadline(visit)
    try:
        async with asyncio.timeout(seconds):
            return await check.work(visit)
    except TimeoutError:
        return failed(check.late, TEXTS["late"].format(seconds=f"{seconds:g}"))
