"""The commands' common ground: options, exit codes, and errors in one line that says what to do next."""

import asyncio
import json
import keyword
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click
import msgspec

from edge import __version__
from edge.config import Config, Destination
from edge.configfile import ConfigError, Loaded, load

T = TypeVar("T")

FAILED: Final = 1
BAD_USAGE: Final = 2
NOT_RUNNING: Final = 3
DEFAULT_CONFIG: Final = Path("/etc/edge/edge.toml")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file; else EDGE_CONFIG, else /etc/edge/edge.toml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used."""

    modules: Final = {
        "run": "run",
        "check": "run",
        "status": "reads",
        "queue": "queue",
        "trace": "reads",
        "studies": "studies",
        "retry": "acts",
        "stat": "acts",
        "hold": "acts",
        "release": "acts",
        "cancel": "acts",
        "pause": "acts",
        "resume": "acts",
        "import": "importing",
        "echo": "echo",
        "doctor": "doctor",
        "capabilities": "capabilities",
        "route": "route",
        "light": "light",
        "password": "password",
        "provision": "provision",
        "update": "update",
        "label": "label",
        "logs": "logs",
        "demo": "demo",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every command, in the order of the documentation."""
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module and return its command."""
        if cmd_name not in self.modules:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = __import__(f"edge.cli.{self.modules[cmd_name]}", fromlist=[name])
        command: click.Command = getattr(module, name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edge")
def main() -> None:
    """dicom-edge: receives DICOM, keeps it safe, delivers it, and proves it."""


def fail(text: str, code: int = FAILED) -> NoReturn:
    """Say in one line on stderr why and what to do, and exit."""
    click.echo(f"edge: {text}", err=True)
    sys.exit(code)


def chosen_config(path: Path | None) -> Path:
    """Return the configuration file that is meant."""
    return path or Path(os.environ.get("EDGE_CONFIG") or DEFAULT_CONFIG)


def read_config(path: Path | None) -> Loaded:
    """Load the configuration in force: that of the file, unless another was set over MQTT. Exit 2 with every error."""
    own = read_own_config(path)
    storage = own.config.storage.path
    try:
        remote = (storage / "twin").is_dir()
    except OSError:  # whoever may not look into it cannot do more than read the file
        remote = False
    if not remote:
        return own
    from edge.telemetry.twin import Twin  # noqa: PLC0415 - most boxes have none, and no command shall wait for it

    return Twin(storage, chosen_config(path)).load(own)


def read_own_config(path: Path | None) -> Loaded:
    """Load the configuration file that is meant; exit 2 with every error in it."""
    chosen = chosen_config(path)
    try:
        return load(chosen)
    except ConfigError as e:
        for problem in e.problems:
            whole = problem.line is None and problem.key == str(chosen)
            click.echo(f"edge: {problem}" if whole else f"edge: {chosen}: {problem}", err=True)
        sys.exit(BAD_USAGE)


def destination_named(config: Config, name: str) -> Destination:
    """Return the destination ``name``; exit 2 where there is none."""
    found = next((d for d in config.destination if d.name == name), None)
    if found is None:
        known = ", ".join(d.name for d in config.destination) or "none"
        fail(f"There is no destination {name!r}; the configuration has: {known}.", BAD_USAGE)
    return found


def print_json(document: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(msgspec.to_builtins(document), indent=2, ensure_ascii=False))


def run_async(main_coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine; Ctrl-C ends it quietly."""
    try:
        return asyncio.run(main_coroutine())
    except KeyboardInterrupt:
        sys.exit(130)
