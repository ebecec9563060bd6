"""What is to be written for what was judged good, in the order in which it is written. Pure."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from edge.provision import network
from edge.provision.places import SETTINGS, Places

if TYPE_CHECKING:
    from edge.provision.judge import Judged

Owner = Literal["root", "group", "edge"]
"""``group``: root's, and the appliance's to read."""

_STARTING: Final = """\
# Written by edge provision at the first start of this box. It receives, and shows its pages; see docs/configuration.md
# for what it can be told.
[device]
name = "{name}"

[dashboard]
address = "0.0.0.0"                 # with a certificate of its own, and the first-start code
port = 443
"""


class Write(msgspec.Struct, frozen=True):
    """A file that is replaced as a whole, or removed where ``data`` is None."""

    path: Path
    data: bytes | None
    mode: int = 0o644
    owner: Owner = "root"


def writes(judged: "Judged", places: Places) -> tuple[Write, ...]:
    """Return everything but the password. The configuration is last: it names the others."""
    found = [
        Write(
            places.at(SETTINGS / one.name),
            one.data,
            0o640 if one.private else 0o644,
            "group" if one.private else "root",
        )
        for one in judged.files
    ]
    wanted = judged.profile.network
    if wanted is not None:
        sources = network.chrony(wanted)
        found.append(Write(places.network, network.networkd(wanted).encode()))
        found.append(Write(places.sources, sources.encode() if sources else None))
    box = judged.profile.box
    found += [
        Write(path, f"{text}\n".encode())
        for path, text in ((places.hostname, box.hostname), (places.timezone, box.timezone))
        if text
    ]
    if judged.configuration is not None:
        found.append(Write(places.configuration, judged.configuration.data, 0o640, "group"))
    return tuple(found)


def starting(places: Places, name: str) -> Write:
    """Return the configuration of a box that nobody has set up."""
    return Write(places.configuration, _STARTING.format(name=name).encode(), 0o640, "group")
