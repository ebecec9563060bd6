"""Ports, waiting and tools: what every test that starts a server needs.

Nothing here waits for luck: a wait has a deadline, and says what did not happen.
"""

import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import pytest

LOOPBACK: Final = "127.0.0.1"
_LISTEN: Final = "0A"
_POLL: Final = 0.01
_PORTS: Final = range(15_000, 32_000)

T = TypeVar("T")


def free_port() -> int:
    """A TCP port that nothing used a moment ago.

    Below those that the system gives to connections: of them a siege leaves thousands behind, and a server that binds
    all addresses cannot have one of theirs.
    """
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")


def listening(port: int) -> bool:
    """Whether anything on this machine listens on the port. Read from the kernel: a trial connection would be
    an association to the server under test.
    """
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """The first true value of `predicate`, asked every 10 ms; TimeoutError on `what` after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s (last seen: {value!r})")
        time.sleep(_POLL)
    return value


def require(tool: str) -> str:
    """The tool's path. Where it is missing the test is skipped, or fails with EDGE_TEST_REQUIRE_ALL=1."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(tool, path=path)
    if found is None:
        missing(f"{tool} is not installed")
    return found


def missing(what: str) -> NoReturn:
    """The machine lacks something: the test is skipped, or fails with EDGE_TEST_REQUIRE_ALL=1."""
    if os.environ.get("EDGE_TEST_REQUIRE_ALL") == "1":
        pytest.fail(f"{what}, and EDGE_TEST_REQUIRE_ALL=1 asks for every tool")
    pytest.skip(f"NOT TESTED: {what}")
