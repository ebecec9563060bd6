"""What an import is told to read: which files that means, and whether all are there that a DICOMDIR names."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from edge.dicom.dicomdir import DirectoryError, referenced
from edge.intake import tree
from edge.intake.tree import Entry
from edge.phrase import N_, say

_DICOMDIR: Final = "DICOMDIR"


class Place(NamedTuple):
    """What is walked."""

    root: Path
    only: str
    """The one file of it that is meant, if it is one."""
    spool: bool
    """Whether it is the spool of another box."""


def resolve(path: Path) -> Place:
    """Say what to walk. Raises OSError."""
    path = Path(os.path.realpath(path, strict=True))
    if path.is_dir():
        spool = path / "spool"
        return Place(spool, "", spool=True) if (spool / "ready").is_dir() else Place(path, "", spool=_in_spool(path))
    return Place(path.parent, "" if path.name.upper() == _DICOMDIR else path.name, spool=_in_spool(path))


def _in_spool(path: Path) -> bool:
    """Whether it is the ``spool`` of a box, one of its folders or a file in them."""
    return any((above / "ready").is_dir() and (above / "incoming").is_dir() for above in (path, *path.parents[:3]))


def entries(place: Place) -> Iterator[Entry]:
    """Give all that is to be read. Raises OSError where that ends before its end."""
    if place.only:
        yield tree.look(place.root / place.only)
    else:
        yield from tree.walk(place.root)


def lacking(root: Path) -> Iterator[tuple[Path, str]]:
    """Give what the medium's own directory names and what is not there, each with the reason. Raises OSError."""
    for directory in [path for path in root.iterdir() if path.name.upper() == _DICOMDIR and _regular(path)]:
        try:
            named = referenced(directory)
        except DirectoryError as e:
            yield directory, str(e)
            continue
        for name in named:
            if why := _absent(root, name):
                yield root / name, say("the DICOMDIR names it, but {why}", why=why)


def _regular(path: Path) -> bool:
    """Whether it is a file itself, and no link to one. Raises OSError."""
    return stat.S_ISREG(path.lstat().st_mode)


def _absent(root: Path, name: PurePath) -> str:
    """Say why a file is not there; empty where it is. A CD's names may be shown in lower case."""
    why = N_("it is not there")
    for path in (root / name, root / str(name).lower()):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as e:
            why = say("it cannot be looked at: {error}", error=e.strerror or e)
        except ValueError:
            why = N_("that is no name of a file")
        else:
            return ""
    return why
