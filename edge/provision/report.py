"""The answer that lies on the card afterwards, for a person with a text editor. Never a password."""

from collections.abc import Iterable

from edge.provision.faults import FaultsError

_WIPED = "The file and the private files beside it are removed from this card."


def taken(facts: Iterable[tuple[str, str]], notes: Iterable[str], request: str = "") -> str:
    """Say that everything was taken, with ``facts`` about the box and its ``request`` for a certificate (PEM)."""
    return _text("dicom-edge: provision.toml was taken.", _WIPED, facts, notes, request)


def first(facts: Iterable[tuple[str, str]], request: str = "") -> str:
    """Say that the box has started and was never told anything."""
    return _text(
        "dicom-edge: this box has started for the first time.",
        "Nobody has set it up yet: open its pages and give the first-start code, or put a provision.toml here.",
        facts,
        (),
        request,
    )


def refused(error: FaultsError) -> str:
    """Say what is wrong, and that nothing was changed."""
    count = len(error.faults)
    head = "dicom-edge: provision.toml was NOT taken. Nothing was changed."
    what = "There is 1 error" if count == 1 else f"There are {count} errors"
    lines = "\n".join(f"  {fault}" for fault in error.faults)
    return f"{head}\n\n{what}. Correct the file, and start the box with this card again.\n\n{lines}\n"


def failed(why: str) -> str:
    """Say that the file is good, and the box could not write it."""
    return (
        "dicom-edge: provision.toml is right, but this box could not store all of it.\n\n"
        f"  {why}\n\nIt tries again at each start. If that does not help, the card may be worn out.\n"
    )


def _text(head: str, then: str, facts: Iterable[tuple[str, str]], notes: Iterable[str], request: str) -> str:
    rows = "\n".join(f"  {what:<18}{value}" for what, value in facts if value)
    more = "".join(f"\nnote: {note}" for note in notes)
    signing = f"\nFor IT, who may sign it as the box's own certificate:\n\n{request}" if request else ""
    return f"{head}\n{then}\n\n{rows}\n{more}{signing}".rstrip("\n") + "\n"
