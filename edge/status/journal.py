"""The journal of the service, where this user may read it. The one program that is called; it is given ten seconds."""

import shutil
import subprocess
from typing import Final

_UNIT: Final = "edge"
_LINES: Final = 5000
_PATIENCE: Final = 10.0
_MOST: Final = 2 << 20
"""Characters, the latest."""


def journal() -> tuple[str, ...]:
    """Return the last lines, the oldest first; none where there is no journal, or this user may not read it.

    It waits for another program: not for the event loop.
    """
    program = shutil.which("journalctl")
    if program is None:
        return ()
    command = [program, "-u", _UNIT, "-o", "short-iso", "-n", str(_LINES), "-q", "--no-pager", "-a"]
    try:
        done = subprocess.run(  # noqa: S603 - our own words only
            command, capture_output=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    text = done.stdout.decode("utf-8", "replace")
    lines = text[-_MOST:].splitlines()
    return tuple(lines[1:] if len(text) > _MOST else lines)
