"""Where things lie on a box, below one root, so that a test or an image has a box in a folder."""

from pathlib import Path
from typing import Final

import msgspec

CONFIGURATION: Final = Path("/etc/edge/edge.toml")
SETTINGS: Final = CONFIGURATION.parent
STORAGE: Final = Path("/var/lib/edge")


class Places(msgspec.Struct, frozen=True):
    """The paths of the box whose file system begins at ``root``."""

    root: Path = Path("/")
    configured: Path = CONFIGURATION
    """The configuration of the box, an absolute path of its own."""

    def at(self, path: Path | str) -> Path:
        """Return where the absolute ``path`` of the box is found."""
        return self.root / str(path).lstrip("/")

    @property
    def real(self) -> bool:
        """Whether it is the box that this program runs on."""
        return self.root == Path("/")

    @property
    def firmware(self) -> Path:
        """The part of the card that any computer shows."""
        return self.at("/boot/firmware")

    @property
    def settings(self) -> Path:
        """What the appliance is told: its configuration, certificates, secrets."""
        return self.at(SETTINGS)

    @property
    def configuration(self) -> Path:
        """The box's own configuration."""
        return self.at(self.configured)

    @property
    def kept(self) -> Path:
        """What the system is told, on the partition that lasts; root's."""
        return self.at("/var/lib/edge-system")

    @property
    def hostname(self) -> Path:
        """One line."""
        return self.kept / "hostname"

    @property
    def timezone(self) -> Path:
        """One line, a name of the time zone database."""
        return self.kept / "timezone"

    @property
    def network(self) -> Path:
        """For systemd-networkd."""
        return self.kept / "network" / "10-edge.network"

    @property
    def sources(self) -> Path:
        """For chrony."""
        return self.kept / "chrony" / "edge.sources"

    @property
    def machine_id(self) -> Path:
        """The id that systemd gave the box first."""
        return self.kept / "machine-id"

    @property
    def at_rest(self) -> Path:
        """What the data partition is, as `at-rest` found it or made it at this start."""
        return self.at("/run/edge-at-rest")

    @property
    def record(self) -> Path:
        """What was taken and is not wiped yet."""
        return self.kept / "provision.json"
