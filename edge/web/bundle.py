"""The logs bundle: a ZIP archive for IT, without patient data, made in memory so that a full disk keeps nobody from it.

What is in it is what MQTT may be told, the configuration without secrets, the machine, and the last lines of the log.
Sentences that a peer, a file or a medium had a part in are replaced by what the code of the finding says in general.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from edge.config import Config
from edge.snapshot import Snapshot
from edge.status.logbook import leaving
from edge.status.machine import Machine
from edge.status.versions import Versions
from edge.web.public import public_snapshot
from edge.web.redacted import redacted

TYPE: Final = "application/zip"
_MOST_LOG: Final = 4 << 20
"""Bytes of the log, uncompressed: the latest."""
_OLDEST: Final = 315532800.0
"""1980-01-01, before which a ZIP archive knows no time."""
_README: Final = """\
Logs bundle of a dicom-edge appliance, for those who look after it.

snapshot.json       the whole status, as it may be told over MQTT; null where the database did not answer
configuration.json  the configuration in force; of files with secrets their names only
machine.json        the machine: clock, temperature, memory, disks and their wear
versions.json       what runs
log.txt             the last lines of the log, from {source}

There is nothing of a patient in it: no names, no ids, no UIDs, no AE titles of senders that are not configured.
Sentences that a peer or a file had a part in are left out; `edge status` on the box has them.
"""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What goes into an archive."""

    device: str
    taken_at: float
    """Wall time."""
    config: Config
    snapshot: Snapshot | None
    machine: Machine
    versions: Versions
    lines: tuple[str, ...]
    """Of the log, as they were written."""
    source: str
    """Where they come from."""

    @property
    def name(self) -> str:
        """What the file may be called."""
        moment = datetime.fromtimestamp(max(self.taken_at, _OLDEST), UTC)
        return f"edge-logs-{self.device[:8] or 'box'}-{moment:%Y%m%dT%H%M%SZ}.zip"


def lines_of(journal: tuple[str, ...], kept: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Choose where the log comes from: the ``journal`` reaches back beyond this start, what is ``kept`` does not."""
    if journal:
        return journal, "the journal of the service"
    if kept:
        return kept, "the memory of the running program"
    return (), "nowhere: neither the journal nor a running program tells it"


def archive(bundle: Bundle) -> bytes:
    """Make the archive; it takes a moment, and reads which files of the configuration there are."""
    files = {
        "README.txt": _README.format(source=bundle.source).encode(),
        "snapshot.json": _json(None if bundle.snapshot is None else public_snapshot(bundle.snapshot)),
        "configuration.json": _json(redacted(bundle.config)),
        "machine.json": _json(bundle.machine),
        "versions.json": _json(bundle.versions),
        "log.txt": _log(bundle.lines),
    }
    return _zip(files, bundle.taken_at)


def _json(document: object) -> bytes:
    return json.dumps(msgspec.to_builtins(document), indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _log(lines: Iterable[str]) -> bytes:
    text = "".join(f"{line}\n" for line in leaving(lines)).encode("utf-8", "replace")
    return text if len(text) <= _MOST_LOG else text[-_MOST_LOG:].partition(b"\n")[2]


def _zip(files: Mapping[str, bytes], taken_at: float) -> bytes:
    stamp = datetime.fromtimestamp(max(taken_at, _OLDEST), UTC).timetuple()[:6]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archived:
        for name, body in files.items():
            entry = zipfile.ZipInfo(name, stamp)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archived.writestr(entry, body)
    return out.getvalue()
