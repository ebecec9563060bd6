"""The configuration that central IT wants, beside the one on the box: taken whole, tried, kept or taken back.

``twin/`` below the storage path holds the document in force, the last one before it that was proven, and a record of
which is which: replaced as a whole, so that the power may go at any moment. It holds until the box's own file is
changed by hand: somebody who stands before the box knows more. A document on trial that ends badly (`Trial`) is rolled
back to the one before; so is one with which the program cannot start.
"""

import contextlib
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
    "REVISION_TAKEN": "another document came under this revision",
    "INVALID": "the document has errors, listed by line and key",
    "NOT_PERMITTED": "it changes [mqtt] or storage.path, which only a hand on the box may",
    "START_FAILED": "the program could not start with it",
    "INTAKE_CLOSED": "images were not taken any more",
    "DESTINATION_DOWN": "a destination that was up before was down for five minutes",
    "BROKER_LOST": "the broker was not reached any more",
    "STORAGE": "the document could not be stored",
}
"""Why a configuration was rejected, or rolled back."""

Word = Literal["local", "trial", "applied", "rejected", "rolled-back"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered. ``in_force`` is 0 while the box's own file is."""

    desired: int = 0
    digest: str = ""
    """SHA-256 of the document that was desired."""
    in_force: int = 0
    before: int = 0
    """The revision that a roll-back returns to; 0: the box's own file."""
    trial: bool = False
    """Whether what is in force is on trial, whatever came later and was refused."""
    status: Word = "local"
    reason: str = ""
    errors: tuple[str, ...] = ()
    local: str = ""
    """SHA-256 of the box's own file when the document was taken."""
    were_up: tuple[str, ...] = ()
    """Destinations that were up before the trial."""
    starts: int = 0
    taken_back: int = 0
    """The revision that was rolled back, until that was told; else 0."""


class Refused(Exception):
    """A desired configuration that is not taken."""

    def __init__(self, revision: int, reason: str, errors: Sequence[str] = (), *, digest: str = "") -> None:
        super().__init__(reason)
        self.revision = revision
        self.reason = reason
        self.errors = tuple(errors)
        self.digest = digest


class Twin:
    """The files below ``storage``/twin. Its verbs raise OSError where these cannot be read or written."""

    def __init__(self, storage: Path, own_file: Path) -> None:
        self._folder = storage / "twin"
        self._own_file = own_file
        self.record = self._read()
        self._unreadable = False

    @property
    def untold(self) -> tuple[int, str] | None:
        """The revision that was rolled back, and why, where that was not told yet."""
        return (self.record.taken_back, self.record.reason) if self.record.taken_back else None

    def load(self, own: Loaded) -> Loaded:
        """Return the configuration in force, ``own`` being what the box's own file says."""
        record = self.record
        if record.in_force and self._digest(self._own_file) != record.local:
            by_hand = Record(desired=record.desired, digest=record.digest)
            with contextlib.suppress(OSError):  # then it is seen again at the next start
                self._remember(by_hand)
            self.record = by_hand
        self._unreadable = False
        if not self.record.in_force:
            return own
        loaded = self._loaded(own)
        self._unreadable = loaded is None
        if loaded is None and self.record.trial:
            with contextlib.suppress(OSError):
                self.roll_back("INVALID")
                return self.load(own)
        return loaded or own

    def _loaded(self, own: Loaded) -> Loaded | None:
        """Read the document in force; None where it is another version's, or damaged."""
        try:
            loaded = parse(self._document(self.record.in_force).read_bytes().decode("utf-8"))
        except (OSError, UnicodeDecodeError, ConfigError):
            return None
        return None if _locked(own.config, loaded.config) else loaded

    def consider(self, payload: bytes, node: str, signers: Sequence[Signer], config: Config) -> DesiredConfig | None:
        """Judge what came on ``down/config``; None where it says nothing new. Raises `Refused`."""
        if len(payload) > _LONGEST:
            raise Refused(0, "MALFORMED")
        try:
            desired = msgspec.json.decode(payload, type=DesiredConfig)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Refused(0, "MALFORMED") from None
        _verify(desired, payload, node, signers)
        digest = _sha256(desired.document.encode("utf-8"))
        if desired.revision == self.record.desired:
            if digest != self.record.digest:
                raise Refused(desired.revision, "REVISION_TAKEN")
            return None  # it is retained, and comes with every connection
        if desired.revision < self.record.desired:
            raise Refused(desired.revision, "OLD_REVISION")
        try:
            loaded = parse(desired.document)
        except ConfigError as e:
            places = [f"line {p.line}: {p.key}" if p.line is not None else p.key for p in e.problems]
            raise Refused(desired.revision, "INVALID", places[:_MOST_ERRORS], digest=digest) from None
        if locked := _locked(config, loaded.config):
            raise Refused(desired.revision, "NOT_PERMITTED", locked, digest=digest)
        return desired

    def take(self, desired: DesiredConfig, were_up: Sequence[str]) -> None:
        """Put ``desired`` in force, on trial, from the next start.

        Where another is on trial still, that was not proven: a roll-back returns to the one before it, and what was up
        before it counts too.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        current, document = self.record, desired.document.encode("utf-8")
        replace_synced(self._document(desired.revision), document, 0o600)
        self._remember(
            Record(
                desired=desired.revision,
                digest=_sha256(document),
                in_force=desired.revision,
                before=current.before if current.trial or self._unreadable else current.in_force,
                trial=True,
                status="trial",
                local=self._digest(self._own_file),
                were_up=tuple(dict.fromkeys([*(current.were_up if current.trial else ()), *were_up])),
            )
        )

    def refuse(self, why: Refused) -> None:
        """Remember that a revision was refused, so that it is not judged again at every connection."""
        if why.revision > self.record.desired:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._remember(
                msgspec.structs.replace(
                    self.record,
                    desired=why.revision,
                    digest=why.digest,
                    status="rejected",
                    reason=why.reason,
                    errors=why.errors,
                )
            )

    def count_start(self) -> bool:
        """Count a start on trial; False where there were too many, so that it must be rolled back."""
        if not self.record.trial:
            return True
        self._remember(msgspec.structs.replace(self.record, starts=self.record.starts + 1))
        return self.record.starts <= _MOST_STARTS

    def keep(self) -> None:
        """End the trial well."""
        record = msgspec.structs.replace(self.record, before=0, trial=False, starts=0)
        self._remember(msgspec.structs.replace(record, status="applied") if record.status == "trial" else record)

    def roll_back(self, reason: str) -> None:
        """End the trial badly: what was in force before is again, from the next start."""
        record = self.record
        self._remember(
            msgspec.structs.replace(
                record,
                in_force=record.before,
                before=0,
                trial=False,
                status="rolled-back",
                reason=reason,
                errors=(),
                starts=0,
                taken_back=record.in_force,
            )
        )

    def told(self) -> None:
        """Forget what was `untold`."""
        self._remember(msgspec.structs.replace(self.record, taken_back=0))

    def report(self, clock: Clock) -> ConfigReport:
        """Tell what is in force, and what became of the last that was desired."""
        record = self.record
        remote = bool(record.in_force) and not self._unreadable
        status, reason = record.status, record.reason
        if self._unreadable and status in {"trial", "applied"}:
            status, reason = "rolled-back", "INVALID"
        return ConfigReport(
            revision=record.in_force if remote else 0,
            hash=self._digest(self._document(record.in_force) if remote else self._own_file),
            desired=record.desired,
            status=status,
            reason=reason,
            errors=list(record.errors),
            ts=iso(clock.now()),
        )

    def _document(self, revision: int) -> Path:
        return self._folder / f"revision-{revision}.toml"

    def _digest(self, path: Path) -> str:
        try:
            return _sha256(path.read_bytes())
        except OSError:
            return ""

    def _read(self) -> Record:
        try:
            return msgspec.json.decode((self._folder / "record.json").read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError, ValueError):
            return Record()

    def _remember(self, record: Record) -> None:
        replace_synced(self._folder / "record.json", msgspec.json.encode(record), 0o600)
        self.record = record
        keep = {self._document(record.in_force), self._document(record.before)}
        for path in self._folder.glob("revision-*.toml"):
            if path not in keep:
                with contextlib.suppress(OSError):  # it is in nobody's way
                    path.unlink()


def _verify(desired: DesiredConfig, payload: bytes, node: str, signers: Sequence[Signer]) -> None:
    if not desired.signature:
        raise Refused(0, "UNSIGNED")
    key = next((s.public_key for s in signers if s.name == desired.issued_by), None)
    if key is None:
        raise Refused(0, "UNKNOWN_SIGNER")
    if not good(payload, node, key_bytes(key)):
        raise Refused(0, "BAD_SIGNATURE")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _locked(old: Config, new: Config) -> list[str]:
    """The keys that differ and may not."""
    found = differences(old, new)
    return sorted(key for key in found if any(key == only or key.startswith(f"{only}.") for only in _NOT_REMOTE))
