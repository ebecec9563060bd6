"""What the box has now, as far as it can be read."""

from pathlib import Path

from edge.config import Config
from edge.configfile import ConfigError, load
from edge.provision.places import Places


def config(places: Places) -> Config:
    """Return the box's own configuration; where it has none that is good, what an appliance is by default."""
    try:
        return load(places.configuration).config
    except ConfigError:
        return Config()


def storage(places: Places) -> Path:
    """Return where the storage path is found."""
    return places.at(config(places).storage.path)


def line(path: Path) -> str:
    """Return the one line of a file; empty where there is none. Raises OSError."""
    try:
        return path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
