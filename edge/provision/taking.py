"""Takes what lies on the card: judges it, writes it, remembers that, and wipes it. All or nothing, at any power cut.

Everything is written before the record is, and nothing is wiped before. Without a record the next start begins anew
with a card that is whole; with one it goes on wiping.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.fsync import replace_synced, sync_path
from edge.provision import network, node, record, report
from edge.provision.card import Card
from edge.provision.places import Places
from edge.provision.plan import Write, starting, writes
from edge.provision.standing import config, line, storage
from edge.provision.system import System

if TYPE_CHECKING:
    from edge.provision.judge import Judged

_AT_REST: Final = {"card": "encrypted, the key on this card", "tpm": "encrypted, the key in the TPM"}


def take(card: Card, source: Path, places: Places, system: System) -> str:
    """Take what lies in ``card``; the answer, which lies there now. Raises `FaultsError`, OSError."""
    from edge.provision.judge import judge  # noqa: PLC0415 - large, and only where something is to be taken

    judged = judge(card.folder, source, places)
    _write(judged, places, system)
    kept = record.made(judged, report.taken(facts(judged, places, system), judged.notes, node.request(storage(places))))
    system.sync()
    record.write(places.record, kept)
    finish(card, kept, places)
    return kept.answer


def finish(card: Card, kept: record.Record, places: Places) -> None:
    """Wipe what was taken, and answer. Raises OSError, and goes on at the next start."""
    if kept.lies_in(card.folder):
        card.wipe(kept.removed)
        card.answer(kept.answer)
    record.drop(places.record)


def start(places: Places, system: System) -> None:
    """Give a box that has no configuration one to start with. Raises OSError."""
    if not places.configuration.exists():
        put(starting(places, line(places.hostname) or system.hostname()), system)


def facts(judged: "Judged | None", places: Places, system: System) -> tuple[tuple[str, str], ...]:
    """Return what a person wants to know of the box. Raises OSError."""
    from edge.web.secret import Secrets  # noqa: PLC0415 - only where somebody is told

    at = storage(places)
    dashboard = config(places).dashboard
    host = line(places.hostname) or system.hostname()
    wanted = judged.profile.network if judged else None
    local = dashboard.address in {"127.0.0.1", "::1", "localhost"}
    port = "" if dashboard.port == 443 else f":{dashboard.port}"  # noqa: PLR2004 - of https
    code = Secrets(at / "identity").code() if dashboard.enabled else ""
    return (
        ("host name", host),
        ("device id", node.device(at)),
        ("address", network.described(wanted) if wanted else "" if judged else "by DHCP"),
        ("time zone", line(places.timezone)),
        ("at rest", _AT_REST.get(line(places.at_rest), "")),
        ("configuration", "taken" if judged and judged.configuration else ""),
        ("pages", "" if not dashboard.enabled or local else f"https://{host}.local{port}/"),
        ("first-start code", code),
    )


def put(one: Write, system: System) -> None:
    """Write or remove one file, synced, with its owner. Raises OSError."""
    one.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if one.data is None:
        if one.path.exists():
            one.path.unlink()
            sync_path(one.path.parent)
        return
    replace_synced(one.path, one.data, one.mode)
    one.path.chmod(one.mode)
    if one.owner == "group":
        system.let_read(one.path)


def _write(judged: "Judged", places: Places, system: System) -> None:
    # first: a storage path that cannot be written must not become that of the box
    at = places.at(judged.config.storage.path) if judged.config is not None else storage(places)
    node.ensure(at, system)
    for one in writes(judged, places):
        put(one, system)
    start(places, system)
    dashboard = judged.profile.dashboard
    if dashboard.password is not None or dashboard.password_hash is not None:
        _password(at / "identity", dashboard.password, dashboard.password_hash, system)


def _password(identity: Path, password: str | None, hashed: str | None, system: System) -> None:
    from edge.web.secret import Secrets  # noqa: PLC0415 - only where there is one

    secrets = Secrets(identity)
    if password is not None:
        secrets.set(password)
    elif hashed is not None:
        # as `Secrets` keeps it
        path = identity / "password"
        replace_synced(path, f"{hashed}\n".encode("ascii"), 0o600)
        secrets.drop_code()
        system.give(path)
