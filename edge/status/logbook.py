"""The last lines of the log, kept in memory for who cannot read the journal, and what of a line may leave the box.

Lines are free of patient data by rule; but the text of an exception is whatever went wrong, so of an exception only
its kind and its places in the program leave. A line that this program did not write in its own form leaves not at all.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

MOST_LINES: Final = 2000
MOST_CHARACTERS: Final = 1 << 20
"""Of all lines together."""
_MOST_LINE: Final = 8192
_TRACE: Final = re.compile(r'\bexception="((?:[^"\\]|\\.)*)"?')
_PLACE: Final = re.compile(r'File \\?"[^"\\]*?([^"\\/]+/[^"\\/]+)\\?", line (\d+), in (\w+|<\w+>)')
_KIND: Final = re.compile(r"(?:^|\\n|\n)(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?=:|\\n|\n|$)")
_OURS: Final = re.compile(r"(?:^|\s)timestamp=\S+ level=\w+ event=")
_SYSTEMD: Final = re.compile(r"^\S+ \S+ systemd\[1\]: ")


class Logbook:
    """A processor of structlog, to stand behind what makes a line of an event."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._length = 0

    def __call__(self, _logger: Any, _method: str, line: Any) -> str:
        """Keep ``line``, and pass it on."""
        kept = str(line)[:_MOST_LINE]
        if len(self._lines) == MOST_LINES:
            self._length -= len(self._lines[0])
        self._lines.append(kept)
        self._length += len(kept)
        while self._length > MOST_CHARACTERS:
            self._length -= len(self._lines.popleft())
        return str(line)

    def lines(self) -> tuple[str, ...]:
        """Return what is kept, the oldest first."""
        return tuple(self._lines)


def leaving(lines: Iterable[str]) -> Iterator[str]:
    """Give what may leave of ``lines``, and in the end how many others there were."""
    others = 0
    for line in lines:
        if _OURS.search(line[:200]) or _SYSTEMD.match(line):
            yield _TRACE.sub(_without_text, line[:_MOST_LINE].rstrip("\n"))
        else:
            others += 1
    if others:
        yield f"({others} lines of other forms are left out: they may hold anything)"


def _without_text(match: re.Match[str]) -> str:
    places = " < ".join(f"{path}:{line} {name}" for path, line, name in reversed(_PLACE.findall(match[1])))
    known = _kinds(BaseException)
    kinds = ", ".join(dict.fromkeys(name for name in _KIND.findall(match[1]) if name in known))
    return f'exception="{kinds or "not told"}" at="{places}"'


def _kinds(kind: type[BaseException]) -> set[str]:
    """The names of every exception that this program knows: a text may look like one, and name somebody."""
    return {kind.__name__}.union(*(_kinds(child) for child in kind.__subclasses__()))
