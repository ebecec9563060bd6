"""The command line: `edge`. Each command is a thin face of a room; heavy imports wait until a command needs them."""

from edge.cli.main import main

__all__ = ["main"]
