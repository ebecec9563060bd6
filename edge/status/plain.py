"""Small files of the kernel, read within bounds: what cannot be read says nothing."""

from pathlib import Path
from typing import Final

_MOST: Final = 16 * 1024
"""Bytes of one file."""


def read(path: Path) -> str:
    """Return the text in ``path`` without blanks and zeros around it; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode("utf-8", "replace").strip(" \t\r\n\0")
    except OSError:
        return ""


def whole(path: Path) -> int | None:
    """Return the whole number in ``path``; None where there is none."""
    try:
        return int(read(path))
    except ValueError:
        return None
