"""What is done at each start of a box, in its order; quick where there is nothing new.

Whatever goes wrong with the card, the running system is told what the box has: it must be on the network to be helped.
"""

import contextlib
from pathlib import Path

import msgspec

from edge.fsync import replace_synced
from edge.provision import live, node, record, report, standing, taking
from edge.provision.card import Card
from edge.provision.faults import FaultsError
from edge.provision.places import Places
from edge.provision.standing import line
from edge.provision.system import System

_NOBODYS = frozenset(
    {"", "(none)", "debian", "dicom-edge", "edge", "localhost", "localhost.localdomain", "raspberrypi"}
)
"""Host names that say nothing, so that two boxes would have the same."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of a start."""

    said: tuple[str, ...] = ()
    """For the log, one line each."""
    refused: tuple[str, ...] = ()
    """What is wrong with the file on the card; nothing of it was taken."""
    failed: tuple[str, ...] = ()
    """What the box could not do."""


def start(places: Places, system: System, folder: Path | None = None) -> Outcome:
    """Do all that a start needs; the card is ``folder``, else where the box has it."""
    said: list[str] = []
    refused: list[str] = []
    failed: list[str] = []
    # a box that is on the network can be helped, whatever comes next
    live.apply(places, system)
    try:
        said += _set_up(Card(folder or places.firmware, system), places, system)
    except FaultsError as e:
        refused += map(str, e.faults)
    except OSError as e:
        failed.append(_why(e))
    finally:
        # also where this program itself is wrong
        failed += live.apply(places, system)
    return Outcome(tuple(said), tuple(refused), tuple(failed))


def _set_up(card: Card, places: Places, system: System) -> list[str]:
    """Do what is new. Raises `FaultsError`, OSError."""
    said: list[str] = []
    kept = record.read(places.record)
    if kept is not None:
        taking.finish(card, kept, places)
        said.append("what was taken from the card before is wiped")
    source = card.source
    try:
        _name(places, system, node.ensure(standing.storage(places), system))
    except OSError:
        # what lies on the card may be what mends it
        if source is None:
            raise
    had_none = not places.configuration.exists()
    if source is not None:
        _take(card, source, places, system)
        said.append(f"{source.name} was taken from the card")
    elif had_none:
        taking.start(places, system)
        _answer(card, report.first(taking.facts(None, places, system), node.request(standing.storage(places))))
        said.append(f"{places.configuration} was written, for a box that nobody has set up")
    return said


def _take(card: Card, source: Path, places: Places, system: System) -> None:
    """Take what was put on the card, and answer there whatever comes of it. Raises `FaultsError`, OSError."""
    try:
        taking.take(card, source, places, system)
    except FaultsError as e:
        # it runs with what it has, or so that it can be found
        taking.start(places, system)
        _answer(card, report.refused(e))
        raise
    except OSError as e:
        if places.record.exists():
            raise OSError(f"everything was taken, but the card is not wiped: {_why(e)}") from e
        _answer(card, report.failed(_why(e)))
        raise


def _answer(card: Card, text: str) -> None:
    # the log has it too
    with contextlib.suppress(OSError):
        card.answer(text)


def _name(places: Places, system: System, device: str) -> None:
    """Give a box a host name of its own where it has none. Raises OSError."""
    if not line(places.hostname) and system.hostname().lower() in _NOBODYS:
        places.kept.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_synced(places.hostname, f"edge-{device[:6]}\n".encode("ascii"))


def _why(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
