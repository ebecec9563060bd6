"""`scripts/rig power-cut`, `kill`, `disk`, `siege`, `files` and `line`: see docs/durability.md."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn, Protocol, cast

from scripts.rigs.preflight import MissingError
from scripts.rigs.report import say

_RIGS: Final = {
    "power-cut": "scripts.rigs.power_cut",
    "kill": "scripts.rigs.kill",
    "disk": "scripts.rigs.disk",
    "siege": "scripts.rigs.siege",
    "files": "scripts.rigs.files",
    "line": "scripts.rigs.line",
}
_CANNOT: Final = 2


class _Rig(Protocol):
    """What a rig's module offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the rig's own arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Run it; 0 where nothing was lost, 1 where something was. Raises `MissingError`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rig: 0 nothing lost, 1 something was, 2 it cannot run here or was asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="scripts/rig", description="Harms an appliance on purpose, and looks whether it kept its word."
    )
    rigs = parser.add_subparsers(dest="rig", required=True, metavar="RIG")
    # only what was asked for is imported: a rig may need what another machine lacks
    wanted = [name for name in _RIGS if name in words[:1]] or list(_RIGS)
    for name in wanted:
        rig = _load(name)
        rig.add_arguments(rigs.add_parser(name, help=rig.HELP, description=rig.HELP))
    options = parser.parse_args(words)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return _load(options.rig).run(options)
    except MissingError as missing:
        say(f"scripts/rig {options.rig} cannot run here: {missing}")
        return _CANNOT


def _load(name: str) -> _Rig:
    return cast("_Rig", importlib.import_module(_RIGS[name]))


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
