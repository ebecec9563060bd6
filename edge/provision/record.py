"""What was taken and is not wiped yet: written once everything else is, so that a wiping that was cut short goes on.

Whether what lies on the card is still that is told by what it holds. A file that is being overwritten holds zeros,
which no text has; one that holds something else was put there by a person since.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.fsync import replace_synced, sync_path

if TYPE_CHECKING:
    from edge.provision.judge import Judged


class Taken(msgspec.Struct, frozen=True):
    """A file on the card, and the SHA-256 of what it held."""

    name: str
    digest: str
    removed: bool


class Record(msgspec.Struct, frozen=True):
    """What was taken; the file itself is the last."""

    files: tuple[Taken, ...]
    answer: str

    @property
    def removed(self) -> tuple[str, ...]:
        """The names that are to be removed, in their order."""
        return tuple(one.name for one in self.files if one.removed)

    def lies_in(self, folder: Path) -> bool:
        """Whether nothing in ``folder`` is newer than what was taken. Raises OSError."""
        return all(_is(folder / one.name, one.digest) for one in self.files)


def made(judged: "Judged", answer: str) -> Record:
    """Make the record of ``judged``."""
    given = [*judged.files, *([judged.configuration] if judged.configuration else []), judged.source]
    return Record(
        tuple(
            # the configuration too: it must not be taken again with another file
            Taken(one.lies, hashlib.sha256(one.data).hexdigest(), one.private or one is judged.configuration)
            for one in given
        ),
        answer,
    )


def read(path: Path) -> Record | None:
    """Return the record; None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def write(path: Path, record: Record) -> None:
    """Keep ``record``, synced. Raises OSError."""
    replace_synced(path, msgspec.json.encode(record), 0o600)


def drop(path: Path) -> None:
    """Forget it. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_path(path.parent)


def _is(path: Path, digest: str) -> bool:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return True
    return hashlib.sha256(data).hexdigest() == digest or 0 in data
