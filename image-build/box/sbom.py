"""What is inside: a CycloneDX list of Debian's packages and Python's."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from box import place
from box.rootfs import Arch
from box.toolbox import SUITE

LOCK: Final = place.ROOT / "requirements-box.lock"
_PIN: Final = re.compile(r"^([a-z0-9-]+)==([^ ;\\]+)", re.MULTILINE)
_NAMES: Final = UUID("5ed6e0a0-0000-4000-8000-0000000000b0")


def write(arch: Arch, version: str, manifest: Path, out: Path, *, epoch: int) -> Path:
    """Write the list for an image with the packages of ``manifest``; the same inputs give the same bytes."""
    bom = Bom()
    bom.serial_number = uuid5(_NAMES, f"{arch} {version} {manifest.read_text()}")
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    whole = Component(name="dicom-edge", version=version, type=ComponentType.FIRMWARE, bom_ref=f"dicom-edge@{version}")
    bom.metadata.component = whole
    parts = [*debian(manifest), *python(LOCK)]
    bom.components.update(parts)
    bom.register_dependency(whole, parts)
    out.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n")
    return out


def debian(manifest: Path) -> Iterator[Component]:
    """Packages of ``manifest``: a line each, with name, version and architecture."""
    for line in manifest.read_text().splitlines():
        name, version, arch = line.split()
        yield _component("deb", name, version, namespace="debian", qualifiers={"arch": arch, "distro": SUITE})


def python(lock: Path) -> Iterator[Component]:
    """Packages that ``lock`` pins."""
    for name, version in _PIN.findall(lock.read_text()):
        yield _component("pypi", name, version)


def _component(
    kind: str,
    name: str,
    version: str,
    *,
    namespace: str | None = None,
    qualifiers: dict[str, str] | None = None,
) -> Component:
    purl = PackageURL(kind, namespace, name, version, qualifiers)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
    )
