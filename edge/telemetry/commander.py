"""Takes commands: judges each, remembers it, carries it out, and tells what became of it.

Nothing is done before the command is on record, and nothing at all for one that is unsigned, forged, replayed, retained
or expired: it is rejected, and that is an event and on the trail. How many rejections are told is bounded, for anybody
who may publish can make them. A message that QoS 1 brought twice is a replay too, but what became of its command is
told once more: a rejection would belie it.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec
import structlog

from edge import events
from edge.clock import Clock, iso
from edge.config import Signer
from edge.messages import Command, CommandReport, CommandStatus, Topics, encode
from edge.mqtt import LostError, Message, Session
from edge.quota import MINUTE, Quota
from edge.signing import good, key_bytes
from edge.store import Store, StoreError
from edge.telemetry.commands import ARGUMENTS, ENDS_HERE, Act, CommandFailed, Result

log = structlog.get_logger()

_LONGEST: Final = 2 << 10
"""Bytes of a command, which has some 400: less than a millisecond for its signature."""
_AHEAD: Final = 31 * 86_400.0
"""Seconds for which a command may be valid, and so for which its id must be remembered."""
_MARGIN: Final = 86_400.0
_REJECTIONS: Final = 10
"""Rejections told in a minute; the rest are counted by nobody."""
MOST_KNOWN: Final = 64
"""Commands of this run whose content is known, so that a duplicate is told from another command of the same id."""
TIDY: Final = 3600.0
"""Seconds between two looks for what has expired."""
RETRY: Final = 5.0
"""Seconds after which a store that failed is tried again."""


class Rejected(Exception):
    """A command that is not carried out; the reason is a code."""

    def __init__(self, reason: str, status: CommandStatus = "rejected", *, same: bool = False) -> None:
        """``same``: it is the very message that was taken before."""
        super().__init__(reason)
        self.same = same
        self.reason = reason
        self.status: CommandStatus = status


class Commander:
    """For all connections; `attend` serves one."""

    def __init__(
        self,
        node: str,
        topics: Topics,
        signers: tuple[Signer, ...],
        acts: Mapping[str, Act],
        store: Store,
        clock: Clock,
        refusal: Callable[[object], str] = lambda _: "",
    ) -> None:
        """``refusal``: why a command with such arguments is not to be begun now, as a code; empty where it may be."""
        self._refusal = refusal
        self._node = node
        self._topics = topics
        self._signers = {signer.name: key_bytes(signer.public_key) for signer in signers}
        self._acts = acts
        self._store = store
        self._clock = clock
        self._session: Session | None = None
        self._rejections = Quota(_REJECTIONS, MINUTE, clock.monotonic)
        self._running: set[asyncio.Task[None]] = set()
        self._taken: dict[str, bytes] = {}
        """SHA-256 of what was taken, by its id; the oldest goes first."""
        self._unwritten: dict[str, tuple[CommandStatus, str, Result]] = {}
        """What became of commands while the store could not be written."""
        self._anew = asyncio.Event()

    @property
    def capabilities(self) -> list[str]:
        """The types that are served."""
        return [kind for kind in ARGUMENTS if kind in self._acts]

    async def recover(self) -> None:
        """Say of what the last run had begun what became of it. Raises `StoreError`."""
        for number, kind in await self._store.unfinished_commands():
            status: CommandStatus = "succeeded" if kind in ENDS_HERE else "failed"
            await self._store.finish_command(number, status, "" if kind in ENDS_HERE else "INTERRUPTED", {})

    def report_over(self, session: Session | None) -> None:
        """Report over ``session`` from now on."""
        self._session = session

    async def serve(self, session: Session) -> None:
        """Clear away what has expired until cancelled, and report again what was asked for. Raises `LostError`.

        A store that fails ends no connection: it is tried again.
        """
        self.report_over(session)
        while True:
            anew = self._anew.is_set()
            self._anew.clear()
            try:
                await (self.attend(session) if anew else self._tidy(session))
            except StoreError as e:
                log.warning("commands wait for the store", error=str(e))
                await asyncio.sleep(RETRY)
                if anew:
                    self._anew.set()
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._anew.wait(), TIDY)

    def tell_again(self) -> None:
        """Report once more, soon, what became of the last commands."""
        self._anew.set()

    async def attend(self, session: Session) -> None:
        """Report over ``session`` from now on: first what is over and was perhaps not heard of.

        Raises `LostError`, `StoreError`.
        """
        self.report_over(session)
        await self._tidy(session)
        for number, status, reason, result in await self._store.recent_commands():
            await self._report(number, status, reason, result)

    async def _tidy(self, session: Session) -> None:
        """Write what could not be written, and forget what has expired: first at the broker, then here."""
        for number, (status, reason, result) in list(self._unwritten.items()):
            row = await self._store.command(number)
            if row is not None and row.status in {"accepted", "running"}:
                await self._store.finish_command(number, status, reason, result)
            self._unwritten.pop(number, None)
        if not self._clock.trusted():
            return
        before = self._clock.now() - _MARGIN
        expired = await self._store.expired_commands(before)
        for number in expired:
            await session.publish(self._topics.command(number), b"", qos=1, retain=True)
        if expired:
            await self._store.forget_commands(before)

    async def take(self, message: Message) -> None:
        """Take what came on a topic of commands."""
        if not message.payload:
            return  # somebody clears a retained one away
        number = self._topics.command_id(message.topic)
        if number is None:
            await self._reject(None, "", "", Rejected("MALFORMED"))
            return
        command: Command | None = None
        try:
            command = self._decode(message, number)
            issuer = self._verify(command, message.payload)
            arguments = self._judge(command)
            expires = _seconds(command.expires_at)
            digest = hashlib.sha256(message.payload).digest()
            if not await self._store.begin_command(number, command.type, issuer, expires):
                raise Rejected("REPLAYED", same=self._taken.get(number) == digest)
        except Rejected as e:
            kind = command.type if command is not None and command.type in ARGUMENTS else ""
            by = command.issued_by if command is not None and e.reason not in _FORGED else ""
            await self._reject(number, kind, by, e)
            return
        except StoreError:
            await self._reject(number, command.type if command else "", "", Rejected("STORE"))
            return
        self._remember(number, digest)
        await self._report(number, "accepted")
        task = asyncio.ensure_future(self._carry_out(number, command.type, arguments, issuer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def finish(self) -> None:
        """Wait for what is being carried out."""
        if self._running:
            await asyncio.wait(self._running)

    def _decode(self, message: Message, number: str) -> Command:
        if message.retain:
            raise Rejected("RETAINED")
        if len(message.payload) > _LONGEST:
            raise Rejected("MALFORMED")
        try:
            command = msgspec.json.decode(message.payload, type=Command)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Rejected("MALFORMED") from None
        if command.id != number:
            raise Rejected("ID_MISMATCH")
        return command

    def _verify(self, command: Command, payload: bytes) -> str:
        if not command.signature:
            raise Rejected("UNSIGNED")
        key = self._signers.get(command.issued_by)
        if key is None:
            raise Rejected("UNKNOWN_SIGNER")
        if not good(payload, self._node, key):
            raise Rejected("BAD_SIGNATURE")
        return command.issued_by

    def _judge(self, command: Command) -> object:
        if not self._clock.trusted():
            raise Rejected("CLOCK_UNTRUSTED")
        left = _seconds(command.expires_at) - self._clock.now()
        if left <= 0:
            raise Rejected("EXPIRED", "expired")
        if left > _AHEAD:
            raise Rejected("EXPIRES_TOO_LATE")
        if command.type not in ARGUMENTS:
            raise Rejected("UNKNOWN_TYPE")
        if command.type not in self._acts:
            raise Rejected("UNSUPPORTED")
        try:
            arguments = msgspec.convert(command.args, type=ARGUMENTS[command.type])
        except msgspec.ValidationError:
            raise Rejected("BAD_ARGUMENTS") from None
        if reason := self._refusal(arguments):
            raise Rejected(reason)
        return arguments

    async def _carry_out(self, number: str, kind: str, arguments: object, issuer: str) -> None:
        await self._report(number, "running")
        status: CommandStatus = "succeeded"
        reason, result = "", Result()
        try:
            result = await self._acts[kind](arguments, issuer)
        except CommandFailed as e:
            status, reason, result = "failed", e.reason, e.result
        except StoreError:
            status, reason = "failed", "STORE"
        try:
            await self._store.finish_command(number, status, reason, result)
        except StoreError:
            self._unwritten[number] = (status, reason, result)
            self._anew.set()
        await self._report(number, status, reason, result)

    async def _reject(self, number: str | None, kind: str, issuer: str, why: Rejected) -> None:
        """Tell it as an event and, not retained, to whoever listens; unless there were too many."""
        if not self._rejections.take():
            return
        with contextlib.suppress(StoreError):
            await self._store.write_events([events.command(number or "", kind, issuer, why.status, why.reason)])
        if number is None:
            return
        if not why.same:
            await self._report(number, why.status, why.reason, retain=False)
            return
        with contextlib.suppress(StoreError):
            row = await self._store.command(number)
            if row is not None and row.status not in {"accepted", "running"}:  # else its end is told anyway
                await self._report(number, row.status, row.reason, row.result)

    def _remember(self, number: str, digest: bytes) -> None:
        self._taken[number] = digest
        if len(self._taken) > MOST_KNOWN:
            del self._taken[next(iter(self._taken))]

    async def _report(
        self,
        number: str,
        status: CommandStatus,
        reason: str = "",
        result: Result | None = None,
        *,
        retain: bool = True,
    ) -> None:
        report = CommandReport(id=number, status=status, reason=reason, result=result or {}, ts=iso(self._clock.now()))
        session = self._session
        if session is not None:
            with contextlib.suppress(LostError):  # the next connection hears of it
                await session.publish(self._topics.command(number), encode(report), qos=1, retain=retain)


_FORGED: Final = frozenset({"UNSIGNED", "UNKNOWN_SIGNER", "BAD_SIGNATURE"})


def _seconds(text: str) -> float:
    """RFC 3339 to seconds since 1970. Raises `Rejected`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise Rejected("MALFORMED") from None
