"""The configuration that central IT wants, beside the one on the box: taken whole, tried, kept or taken back.

``twin/`` below the storage path holds the document in force, the one before it, and what became of the last. It holds
until the box's own file is changed by hand: somebody who stands before the box knows more. A document on trial that
ends badly (`Trial`) is rolled back to the one before; so is one with which the program cannot start.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from edge.clock import Clock, iso
from edge.config import Config, Signer, differences
from edge.configfile import ConfigError, Loaded, parse
from edge.fsync import replace_synced
from edge.messages import ConfigReport, DesiredConfig
from edge.signing import good, key_bytes

_LONGEST: Final = 256 << 10
_MOST_STARTS: Final = 3
"""Starts on trial after which the document is held to be what keeps the program from running."""
_MOST_ERRORS: Final = 20
_NOT_REMOTE: Final = ("mqtt", "storage.path")
"""Keys that only a hand on the box may change: with the wrong ones nobody could correct it from afar."""

REASONS: Final = {
    "MALFORMED": "it is no such message: not JSON, keys missing or unknown, or too long",
    "UNSIGNED": "it has no signature",
    "UNKNOWN_SIGNER": "the configuration has no signer of that name",
    "BAD_SIGNATURE": "the signature is not the signer's, for this payload and this box",
    "OLD_REVISION": "a higher revision came before",
    "INVALID": "the document has errors, listed by line and key",
    "NOT_PERMITTED": "it changes [mqtt] or storage.path, which only a hand on the box may",
    "START_FAILED": "the program could not start with it",
    "INTAKE_CLOSED": "images were not taken any more",
    "DESTINATION_DOWN": "a destination that was up before was down for five minutes",
    "BROKER_LOST": "the broker was not reached any more",
    "STORAGE": "the document could not be stored",
}
"""Why a configuration was rejected, or rolled back."""

Word = Literal["trial", "applied", "rejected", "rolled-back"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered. ``in_force`` is 0 while the box's own file is."""

    desired: int = 0
    in_force: int = 0
    before: int = 0
    """The revision that a roll-back returns to; 0: the box's own file."""
    status: Word = "applied"
    reason: str = ""
    errors: tuple[str, ...] = ()
    local: str = ""
    """SHA-256 of the box's own file when the document was taken."""
    were_up: tuple[str, ...] = ()
    """Destinations that were up before the trial."""
    starts: int = 0


class Refused(Exception):
    """A desired configuration that is not taken."""

    def __init__(self, revision: int, reason: str, errors: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.revision = revision
        self.reason = reason
        self.errors = tuple(errors)


class Twin:
    """The files below ``storage``/twin. Its verbs raise OSError where these cannot be read or written."""

    def __init__(self, storage: Path, own_file: Path) -> None:
        self._folder = storage / "twin"
        self._own_file = own_file
        self.record = self._read()

    def load(self, own: Loaded) -> Loaded:
        """Return the configuration in force, ``own`` being what the box's own file says."""
        if not self.record.in_force or self._digest(self._own_file) != self.record.local:
            return own
        try:
            loaded = parse(self._document("document").decode("utf-8"))
        except (OSError, UnicodeDecodeError, ConfigError):
            return own  # another version's, or damaged: the box's own is what there is
        return own if _locked(own.config, loaded.config) else loaded

    def consider(self, payload: bytes, node: str, signers: Sequence[Signer], config: Config) -> DesiredConfig | None:
        """Judge what came on ``down/config``; None where it says nothing new. Raises `Refused`."""
        if len(payload) > _LONGEST:
            raise Refused(0, "MALFORMED")
        try:
            desired = msgspec.json.decode(payload, type=DesiredConfig)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Refused(0, "MALFORMED") from None
        if not desired.signature:
            raise Refused(0, "UNSIGNED")
        key = next((s.public_key for s in signers if s.name == desired.issued_by), None)
        if key is None:
            raise Refused(0, "UNKNOWN_SIGNER")
        if not good(payload, node, key_bytes(key)):
            raise Refused(0, "BAD_SIGNATURE")
        if desired.revision == self.record.desired:
            return None  # it is retained, and comes with every connection
        if desired.revision < self.record.desired:
            raise Refused(desired.revision, "OLD_REVISION")
        try:
            loaded = parse(desired.document)
        except ConfigError as e:
            places = [f"line {p.line}: {p.key}" if p.line is not None else p.key for p in e.problems]
            raise Refused(desired.revision, "INVALID", places[:_MOST_ERRORS]) from None
        if locked := _locked(config, loaded.config):
            raise Refused(desired.revision, "NOT_PERMITTED", locked)
        return desired

    def take(self, desired: DesiredConfig, were_up: Sequence[str]) -> None:
        """Put ``desired`` in force, on trial, from the next start."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        current = self.record
        if current.in_force:
            self._write("previous", self._document("document"))
        self._write("document", desired.document.encode("utf-8"))
        self._remember(
            Record(
                desired=desired.revision,
                in_force=desired.revision,
                before=current.in_force,
                status="trial",
                local=self._digest(self._own_file),
                were_up=tuple(were_up),
            )
        )

    def refuse(self, why: Refused) -> None:
        """Remember that a revision was refused, so that it is not judged again at every connection."""
        if why.revision > self.record.desired:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._remember(
                msgspec.structs.replace(
                    self.record, desired=why.revision, status="rejected", reason=why.reason, errors=why.errors
                )
            )

    def count_start(self) -> bool:
        """Count a start on trial; False where there were too many, so that it must be rolled back."""
        if self.record.status != "trial":
            return True
        self._remember(msgspec.structs.replace(self.record, starts=self.record.starts + 1))
        return self.record.starts <= _MOST_STARTS

    def keep(self) -> None:
        """End the trial well."""
        self._remember(msgspec.structs.replace(self.record, status="applied", reason="", errors=(), starts=0))

    def roll_back(self, reason: str) -> None:
        """End the trial badly: what was in force before is again, from the next start."""
        if self.record.before:
            self._write("document", self._document("previous"))
        self._remember(
            msgspec.structs.replace(
                self.record, in_force=self.record.before, before=0, status="rolled-back", reason=reason, starts=0
            )
        )

    def report(self, clock: Clock) -> ConfigReport:
        """Tell what is in force, and what became of the last that was desired."""
        record = self.record
        remote = record.in_force and self._digest(self._own_file) == record.local
        path = self._folder / "document.toml" if remote else self._own_file
        return ConfigReport(
            revision=record.in_force if remote else 0,
            hash=self._digest(path),
            desired=record.desired,
            status=record.status if record.desired else "local",
            reason=record.reason,
            errors=list(record.errors),
            ts=iso(clock.now()),
        )

    def _document(self, name: str) -> bytes:
        return (self._folder / f"{name}.toml").read_bytes()

    def _digest(self, path: Path) -> str:
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return ""

    def _read(self) -> Record:
        try:
            return msgspec.json.decode((self._folder / "record.json").read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError, ValueError):
            return Record()

    def _remember(self, record: Record) -> None:
        self._write("record", msgspec.json.encode(record), "json")
        self.record = record

    def _write(self, name: str, data: bytes, suffix: str = "toml") -> None:
        replace_synced(self._folder / f"{name}.{suffix}", data, 0o600)


def _locked(old: Config, new: Config) -> list[str]:
    """The keys that differ and may not."""
    found = differences(old, new)
    return sorted(key for key in found if any(key == only or key.startswith(f"{only}.") for only in _NOT_REMOTE))
