"""A server program as a child process: started until it listens, stopped for certain, its output kept."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.peers.ports import listening, wait_for

_START: Final = 30.0
_STOP: Final = 15.0
_TAIL: Final = 4000


class PeerFailedError(AssertionError):
    """A peer program did not do what the test needs; the message carries what it printed."""


def run(
    arguments: Sequence[str], *, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a client program to its end. A failure, or a run past `timeout` s, raises with its output."""
    try:
        done = subprocess.run(
            arguments,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode(errors="replace")[-_TAIL:]
        raise PeerFailedError(f"{arguments[0]}: still running after {timeout:g} s\n{output}") from expired
    if done.returncode != 0:
        raise PeerFailedError(f"{arguments[0]}: exit status {done.returncode}\n{done.stdout[-_TAIL:]}")
    return done


class Program:
    """One server program. `start` and `stop` may alternate; leaving the context stops it.

    A subclass says in `ready` when the program serves, beyond listening on its ports.
    """

    def __init__(
        self, arguments: Sequence[str], *, ports: Sequence[int], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.arguments = list(arguments)
        self.ports = tuple(ports)
        self.log = log
        self.environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise PeerFailedError(f"{self.arguments[0]} is not running")
        return self._process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ready(self) -> bool:
        return True

    def start(self) -> None:
        if self._process is not None:
            raise PeerFailedError(f"{self.arguments[0]} is running already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(self._up, _START, f"{self.arguments[0]} to listen on {self.ports}")
        except TimeoutError as late:
            self.stop()
            raise PeerFailedError(f"{late}\n{self.output()[-_TAIL:]}") from late
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to end (SIGTERM), then make it (SIGKILL). Does nothing to one that is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Let it do nothing more (SIGSTOP): what it was about to say is not said."""
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """As a crash ends it: no chance to tidy up."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _up(self) -> bool:
        status = self._process.poll() if self._process is not None else None
        if status is not None:
            raise PeerFailedError(f"{self.arguments[0]}: exit status {status}\n{self.output()[-_TAIL:]}")
        return all(listening(port) for port in self.ports) and self.ready()
