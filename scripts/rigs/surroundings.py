"""What lies around a storage path and must stay as it is, whatever peers call their objects and themselves.

That is everything in the rig's own folder; and outside it every place that an odd name means, read from the root, from
the working directory, or from any folder on the way to the storage path and in it.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

Facts = tuple[int, int, int]
"""Size, time of change in ns, mode."""

_ENDINGS: Final = ("", ".part", ".dcm", ".json", ".new")
"""What the appliance appends to names."""
_LONGEST_NAME: Final = 255


def look(below: Path, storage: Path, log: Path, odd: Iterable[str]) -> dict[str, Facts]:
    """List what there is in ``below`` but for the storage and the log, and at the ``places`` of odd names.

    Folders outside ``below`` belong to others too: of them no more is asked than that they are there.
    """
    found = {str(path): _facts(path) for path in _around(below, storage) if path != log}
    for place in places(storage, odd):
        if place.is_dir():
            found.setdefault(str(place), (0, 0, 0))
        elif place.is_symlink() or place.exists():
            found[str(place)] = _facts(place)
    return found


def places(storage: Path, odd: Iterable[str]) -> frozenset[Path]:
    """Where each of the ``odd`` names would lie outside the storage, and the folders above it."""
    inside = (path for path in storage.rglob("*") if path.is_dir())
    bases = (Path.cwd(), storage, *storage.parents, *inside)
    names = [f"{name}{ending}" for name in odd if _possible(name) for ending in _ENDINGS]
    meant = {Path(os.path.normpath(base / name)) for base in bases for name in names}
    return frozenset(path for path in meant.union(storage.parents) if storage not in (path, *path.parents))


def _around(below: Path, storage: Path) -> Iterator[Path]:
    yield below
    for path in below.rglob("*"):
        if storage not in (path, *path.parents) and (path.is_symlink() or path.exists()):
            yield path


def _possible(name: str) -> bool:
    """Whether a file can have the name."""
    return "\0" not in name and all(len(part.encode()) < _LONGEST_NAME - 8 for part in name.split("/"))


def _facts(path: Path) -> Facts:
    stat = path.lstat()
    return stat.st_size, stat.st_mtime_ns, stat.st_mode
