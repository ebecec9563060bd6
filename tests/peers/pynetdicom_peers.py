"""pynetdicom as people run it, in a process of its own.

    python -m tests.peers.pynetdicom_peers scp --port N [--directory D] [--fsync] [--nodelay | --nagle]
    python -m tests.peers.pynetdicom_peers scu --port N FILE...

Both move datasets in chunks, verbatim. Without ``--nodelay`` or ``--nagle`` the socket is as the
system makes it.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pynetdicom import ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.presentation import AllStoragePresentationContexts

from tests.peers import wire
from tests.peers.part10 import part10
from tests.peers.ports import LOOPBACK, free_port
from tests.peers.program import Program, run

_MODULE: Final = "tests.peers.pynetdicom_peers"
_ROOT: Final = Path(__file__).parents[2]
_TIMEOUT: Final = 60.0
_OUT_OF_RESOURCES: Final = 0xA700


class PynetdicomScp(Program):
    """The ``scp`` command on a free port. With a `directory`, a received object becomes a file there, named
    by its SOP Instance UID; without, it is forgotten.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        log: Path,
        port: int | None = None,
        fsync: bool = False,
        nodelay: bool | None = None,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        arguments = [sys.executable, "-m", _MODULE, "scp", "--port", str(self.port)]
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            arguments += ["--directory", str(directory)]
        if fsync:
            arguments.append("--fsync")
        if nodelay is not None:
            arguments.append("--nodelay" if nodelay else "--nagle")
        super().__init__(arguments, ports=[self.port], log=log, environment=_environment())

    def received(self) -> list[Path]:
        return [] if self.directory is None else sorted(self.directory.glob("*.dcm"))


def pynetdicom_scu(
    port: int,
    files: Sequence[Path],
    *,
    calling: str = "PYNETDICOM",
    called: str = "EDGE",
    nodelay: bool | None = None,
    timeout: float = _TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """The ``scu`` command, to its end. Raises PeerFailedError unless every status was 0000."""
    arguments = [sys.executable, "-m", _MODULE, "scu", "--port", str(port)]
    arguments += ["--calling", calling, "--called", called]
    if nodelay is not None:
        arguments.append("--nodelay" if nodelay else "--nagle")
    return run([*arguments, *map(str, files)], environment=_environment(), timeout=timeout)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=_MODULE)
    commands = parser.add_subparsers(dest="command", required=True)
    scp, scu = commands.add_parser("scp"), commands.add_parser("scu")
    for command in (scp, scu):
        command.add_argument("--port", type=int, required=True)
        nagle = command.add_mutually_exclusive_group()
        nagle.add_argument("--nodelay", dest="nodelay", action="store_true", default=None)
        nagle.add_argument("--nagle", dest="nodelay", action="store_false")
    scp.add_argument("--directory", type=Path)
    scp.add_argument("--fsync", action="store_true")
    scu.add_argument("--calling", default="PYNETDICOM")
    scu.add_argument("--called", default="EDGE")
    scu.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    if options.command == "scp":
        return _serve(options.port, options.directory, fsync=options.fsync, nodelay=options.nodelay)
    return _send(options.port, options.files, options.calling, options.called, nodelay=options.nodelay)


def _serve(port: int, directory: Path | None, *, fsync: bool, nodelay: bool | None) -> int:
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def store(event: Event) -> int:
        if directory is None:
            return 0
        request = event.request
        if not isinstance(request, C_STORE):
            raise TypeError(f"{type(request).__name__} where a C-STORE belongs")
        target = directory / f"{request.AffectedSOPInstanceUID}.dcm".replace("/", "_")
        try:
            _keep(event.dataset_path, target, fsync=fsync)
        except OSError as failed:
            print(f"cannot keep {target.name}: {failed}", file=sys.stderr)
            return _OUT_OF_RESOURCES
        return 0

    entity = ApplicationEntity("PYNETDICOM")
    entity.add_supported_context(wire.VERIFICATION)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    server = entity.start_server(
        (LOOPBACK, port),
        block=False,
        evt_handlers=[
            (evt.EVT_C_STORE, store),
            (evt.EVT_C_ECHO, lambda _event: 0),
            *_connection_handlers(nodelay=nodelay),
        ],
    )
    stop.wait()
    if server is not None:
        server.shutdown()
    return 0


def _keep(source: Path, target: Path, *, fsync: bool) -> None:
    shutil.copyfile(source, target)
    if fsync:
        for path in (target, target.parent):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _send(port: int, files: Sequence[Path], calling: str, called: str, *, nodelay: bool | None) -> int:
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = ApplicationEntity(calling)
    for abstract, syntax in sorted({(o.sop_class_uid, o.transfer_syntax_uid) for o in map(part10, files)}):
        entity.add_requested_context(abstract, syntax)
    association = entity.associate(LOOPBACK, port, ae_title=called, evt_handlers=_connection_handlers(nodelay=nodelay))
    if not association.is_established:
        print("no association", file=sys.stderr)
        return 1
    failed = 0
    for path in files:
        answer = association.send_c_store(path)
        if answer.get("Status") != 0:
            failed += 1
            print(f"{path.name}: {answer.get('Status', 'no status')}", file=sys.stderr)
    association.release()
    return 1 if failed else 0


def _connection_handlers(*, nodelay: bool | None) -> list[Any]:
    if nodelay is None:
        return []

    def opened(event: Event) -> None:
        transport = event.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)

    return [(evt.EVT_CONN_OPEN, opened)]


def _environment() -> dict[str, str]:
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


if __name__ == "__main__":
    sys.exit(main())
