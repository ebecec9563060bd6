"""DCMTK's tools as peers. They re-encode what they read and write unless told otherwise, so the
senders are no oracle for bytes on the wire; `Storescp` writes what came, with ``--bit-preserving``.

Nagle's algorithm: DCMTK 3.6.7 as Debian builds it leaves it on. The environment variable TCP_NODELAY
with a whole number other than 0 turns it off, in the client and in the server; 0, an empty value or a word
leaves it on.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from tests.peers.ports import LOOPBACK, free_port, require
from tests.peers.program import PeerFailedError, Program, run

_TIMEOUT: Final = 60.0
_SUMMARY: Final = re.compile(r"^I: (?:  \* with status )?([A-Z][\w ]*?) *: (\d+)", re.MULTILINE)


class Send(Protocol):
    """What the functions that send files have in common."""

    def __call__(
        self, port: int, files: Sequence[Path], *, called: str = ..., timeout: float = ...
    ) -> subprocess.CompletedProcess[str]: ...


class Storescp(Program):
    """`storescp` on a free port of its own, for any SOP class and transfer syntax, one association at a time
    (``--fork`` in `extra` for more). Received files go to `directory`, which is made.
    """

    def __init__(self, directory: Path, *, nodelay: bool, port: int | None = None, extra: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = port or free_port()
        super().__init__(
            [
                *(require("storescp"), "--accept-all", "--promiscuous", "--bit-preserving"),
                *("--disable-host-lookup", "--output-directory", str(directory)),
                *(*extra, str(self.port)),
            ],
            ports=[self.port],
            log=directory.with_name(f"{directory.name}.log"),
            environment=_environment(nodelay=nodelay),
        )

    def received(self) -> list[Path]:
        """The files, by name. One may still be on its way: DCMTK writes in place."""
        return sorted(path for path in self.directory.iterdir() if path.is_file())


def storescu(
    port: int,
    files: Sequence[Path],
    *,
    nodelay: bool = True,
    calling: str = "STORESCU",
    called: str = "EDGE",
    extra: Sequence[str] = (),
    timeout: float = _TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Send on one association. It proposes what `extra` says, by default the uncompressed syntaxes of every
    class it knows. Raises PeerFailedError.
    """
    return _client(
        "storescu", port, files, nodelay=nodelay, calling=calling, called=called, extra=extra, timeout=timeout
    )


def dcmsend(
    port: int,
    files: Sequence[Path],
    *,
    nodelay: bool = True,
    calling: str = "DCMSEND",
    called: str = "EDGE",
    extra: Sequence[str] = (),
    timeout: float = _TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Send, proposing what the files are; associations are split where needed. Raises PeerFailedError, also
    where a status is neither success nor warning: dcmsend 3.6.7 exits then as if all were well.
    """
    extra = ["--verbose", *extra]
    done = _client(
        "dcmsend", port, files, nodelay=nodelay, calling=calling, called=called, extra=extra, timeout=timeout
    )
    summary = {name: int(count) for name, count in _SUMMARY.findall(done.stdout)}
    if summary.get("Number of SOP instances") != summary.get("SUCCESS", 0) + summary.get("WARNING", 0):
        raise PeerFailedError(f"dcmsend: not every instance was taken\n{done.stdout}")
    return done


def echoscu(
    port: int,
    *,
    calling: str = "ECHOSCU",
    called: str = "EDGE",
    extra: Sequence[str] = (),
    timeout: float = _TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """C-ECHO. Raises PeerFailedError."""
    return _client("echoscu", port, (), nodelay=True, calling=calling, called=called, extra=extra, timeout=timeout)


def _client(
    tool: str,
    port: int,
    files: Sequence[Path],
    *,
    nodelay: bool,
    calling: str,
    called: str,
    extra: Sequence[str],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    titles = ["--aetitle", calling, "--call", called]
    arguments = [require(tool), *titles, *extra, LOOPBACK, str(port), *map(str, files)]
    return run(arguments, environment=_environment(nodelay=nodelay), timeout=timeout)


def _environment(*, nodelay: bool) -> dict[str, str]:
    return {**os.environ, "TCP_NODELAY": "1" if nodelay else "0"}
