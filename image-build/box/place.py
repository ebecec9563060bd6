"""Where the build reads and writes: the checkout, what is kept between builds, what comes out."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
"""The checkout."""
FIRMWARE: Final = ROOT / "firmware-config"
OUT: Final = ROOT / "image-build" / "out"
"""What was built."""


def cache() -> Path:
    """What is kept between builds and may be deleted: tools, wheels, packages."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = Path(base) / "dicom-edge"
    found.mkdir(parents=True, exist_ok=True)
    return found
