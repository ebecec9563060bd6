"""What the box must never forget or repeat: its own id, and numbers that are used once.

``identity/device`` is made once. ``identity/session`` counts the starts and is synced before its value is used; ids of
objects are the session's block of 2^20 numbers, so they grow, sort by arrival and never come twice, whatever becomes of
the database. Other numbers that grow and never come twice have a count of their own each.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge.fsync import replace_synced

BLOCK_BITS: Final = 20


class Identity:
    """The numbers below ``root``/identity. Not shared between processes: the holder of the storage lock owns it."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "identity"
        self.device = ""
        self.session = 0
        self.first_id = 0
        self._next = 0
        self._end = 0

    def open(self, highest: Callable[[], int]) -> None:
        """Count one start. Raises OSError.

        ``highest`` finds the highest object id there is, for a count that was lost.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.device = self._read("device")
        if not self.device:
            self.device = uuid.uuid4().hex
            self._write("device", self.device)
        self._new_block(0 if self._read("session").isdecimal() else highest() >> BLOCK_BITS)
        self.session = self._next >> BLOCK_BITS
        self.first_id = self._next

    def rise_above(self, highest: int) -> None:
        """Make sure that no id up to ``highest`` comes again, for a count that was lost. Raises OSError."""
        if highest >= self._next:
            self._new_block(highest >> BLOCK_BITS)
            self.first_id = self._next

    def next_id(self) -> int:
        """Return the next object id. Raises OSError where a new block is needed and cannot be written."""
        if self._next == self._end:
            self._new_block(0)
        number = self._next
        self._next += 1
        return number

    def next_number(self, name: str) -> int:
        """Return the next number of the count ``name``, from 1, synced before it is used. Raises OSError."""
        number = self._count(name) + 1
        self._write(name, str(number))
        return number

    def at_least(self, name: str, value: int) -> None:
        """Make sure that the count ``name`` goes on above ``value``, for one that was lost. Raises OSError."""
        if self._count(name) < value:
            self._write(name, str(value))

    def keep_time(self, text: str) -> None:
        """Store the time for the next start. Raises OSError."""
        self._write("time", text)

    def _new_block(self, at_least: int) -> None:
        block = max(self._count("session"), at_least) + 1
        self._write("session", str(block))
        self._next = block << BLOCK_BITS
        self._end = (block + 1) << BLOCK_BITS

    def _count(self, name: str) -> int:
        text = self._read(name)
        return int(text) if text.isdecimal() else 0

    def _read(self, name: str) -> str:
        try:
            return (self._folder / name).read_text("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def _write(self, name: str, text: str) -> None:
        replace_synced(self._folder / name, f"{text}\n".encode("ascii"))
