"""`edge password`: the password of the dashboard, and the code with which a browser sets the first one."""

import sys
from pathlib import Path

import click

from edge.cli.main import config_option, fail, read_config
from edge.config import Config
from edge.web import certificate
from edge.web.secret import PasswordError, Secrets


@click.command()
@config_option
@click.option("--stdin", "from_stdin", is_flag=True, help="Read it from standard input, one line, instead of asking.")
@click.option("--show-code", is_flag=True, help="Print the code with which a browser sets the first password.")
@click.option("--fingerprint", is_flag=True, help="Print the fingerprint of the dashboard's certificate (SHA-256).")
def password(config_path: Path | None, *, from_stdin: bool, show_code: bool, fingerprint: bool) -> None:
    """Set the password of the dashboard; an appliance that runs takes it within seconds."""
    config = read_config(config_path).config
    identity = config.storage.path / "identity"
    if not config.storage.path.is_dir():
        fail(f"There is no folder {config.storage.path}: start the appliance once, or correct storage.path.")
    try:
        if show_code:
            click.echo(_code(identity))
        elif fingerprint:
            click.echo(_fingerprint(config, identity))
        else:
            Secrets(identity).set(_typed(from_stdin=from_stdin))
            click.echo("the password is set; whoever was logged in is logged out")
    except PasswordError as e:
        fail(str(e))
    except OSError as e:
        fail(f"{identity} cannot be used ({e.strerror or e}): run this as root, or as the user of the service.")


def _typed(*, from_stdin: bool) -> str:
    if from_stdin:
        # more than any password, and no more than that of what never ends
        return sys.stdin.readline(4096).rstrip("\r\n")
    return str(click.prompt("New password", hide_input=True, confirmation_prompt="The same again"))


def _code(identity: Path) -> str:
    code = Secrets(identity).code()
    if not code:
        fail("A password is set, so there is no code. Set another password with: edge password")
    return code


def _fingerprint(config: Config, identity: Path) -> str:
    own = config.dashboard.certificate_file or identity / certificate.NAME
    if not own.exists():
        fail(f"There is no certificate {own}: one is made when the dashboard is first served on a network.")
    try:
        return certificate.fingerprint(own)
    except ValueError:
        fail(f"{own} holds no certificate.")
