"""`edge label`: the label of the box, to read or to print. It needs no running appliance, and changes nothing."""

from pathlib import Path

import click

from edge.cli.main import config_option, fail, read_config
from edge.config import Config
from edge.status.network import addresses
from edge.web import certificate, label_svg
from edge.web.label import Label, facts
from edge.web.label import label as label_of
from edge.web.secret import Secrets


@click.command()
@config_option
@click.option("--svg", "as_svg", is_flag=True, help="Print a drawing for a 62 mm tape, as SVG.")
@click.option("--text", "as_text", is_flag=True, help="Print lines of text without a QR code.")
def label(config_path: Path | None, *, as_svg: bool, as_text: bool) -> None:
    """Print the label of the box: names, addresses, AE titles, ports, the dashboard's address and fingerprint."""
    config = read_config(config_path).config
    identity = config.storage.path / "identity"
    try:
        made = _label(config, identity)
    except OSError as e:
        fail(f"{identity} cannot be read ({e.strerror or e}): run this as root, or as the user of the service.")
    if as_svg:
        click.echo(label_svg.drawing(made))
        return
    width = max(len(word) for word, _ in facts(made))
    for word, lines in facts(made):
        for number, line in enumerate(lines):
            click.echo(f"{word if not number else '':{width}}  {line}")
    if made.url and not as_text:
        click.echo()
        for line in label_svg.terminal(made.url):
            click.echo(line)


def _label(config: Config, identity: Path) -> Label:
    """Raises OSError."""
    device = _read(identity / "device")
    if not device:
        fail(f"There is no {identity / 'device'}: start the appliance once, or correct storage.path.")
    own = config.dashboard.certificate_file or identity / certificate.NAME
    fingerprint = ""
    if config.dashboard.enabled and own.exists():
        try:
            fingerprint = certificate.fingerprint(own)
        except ValueError:
            fail(f"{own} holds no certificate.")
    return label_of(
        config,
        device,
        addresses(),
        code=Secrets(identity).waiting_code() if config.dashboard.enabled else "",
        fingerprint=fingerprint,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
