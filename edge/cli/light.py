"""`edge light CODE`: shows a light while no appliance runs. For the service unit, and to try the wiring.

A light that cannot be shown never fails the unit: that is said in one line, and the exit code is 0. Of the box's own
file ``[lights]`` alone is read, so a service that an error elsewhere keeps from starting is shown too; and nothing that
was set over MQTT.
"""

import sys
from pathlib import Path

import click

from edge.cli.main import BAD_USAGE, chosen_config, config_option
from edge.clock import SystemClock
from edge.configfile import ConfigError, load_lights
from edge.lights.driver import LightError, driver_of
from edge.status.lights import LIGHTS


@click.command()
@click.argument("code", type=click.Choice(list(LIGHTS), case_sensitive=False))
@config_option
def light(code: str, config_path: Path | None) -> None:
    """Show a light by its code, such as R2. The running appliance shows its own again within seconds."""
    path = chosen_config(config_path)
    try:
        driver_of(load_lights(path), SystemClock()).turn(LIGHTS[code.upper()])
    except ConfigError as e:
        for problem in e.problems:
            click.echo(f"edge: {path}: {problem}", err=True)
        sys.exit(BAD_USAGE)
    except LightError as e:
        click.echo(f"edge: {path}: the light is not shown: {e}", err=True)
