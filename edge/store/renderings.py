"""What the trail says of an instance that was not sent as it is stored: from what, to what, and which bytes.

The step stands right before the one that says that they were accepted, and was written with it.
"""

import re
from collections.abc import Iterable
from typing import Final

from edge.model import Rendering
from edge.states import DeliveryState
from edge.store.trail import Mark

REENCODED: Final = "re-encoded"
DECOMPRESSED: Final = "decompressed"
_WORDS: Final = "from {} to {}, with this SHA-256"
_TOLD: Final = re.compile(r"from \S+ to (\S+), with this SHA-256")


def mark(instance: int, destination: str, sent: Rendering, at: float, *, trusted: bool) -> Mark:
    """Return the step that tells of ``sent``."""
    return Mark(
        instance=instance,
        destination=destination,
        at=at,
        clock_trusted=trusted,
        event=DECOMPRESSED if sent.decompressed else REENCODED,
        code=sent.digest.hex(),
        detail=_WORDS.format(sent.stored_as, sent.sent_as),
    )


def accepted(steps: Iterable[tuple[str, str, str, str]]) -> dict[str, tuple[str, str]]:
    """Return transfer syntax and SHA-256 of what each destination accepted last, where that is not what is stored.

    ``steps`` are destination, event, code and detail of each, in order.
    """
    found: dict[str, tuple[str, str]] = {}
    coming: dict[str, tuple[str, str]] = {}
    for destination, event, code, detail in steps:
        if event in (REENCODED, DECOMPRESSED) and (told := _TOLD.fullmatch(detail)):
            coming[destination] = (told[1], code)
        elif event == DeliveryState.ACCEPTED:
            found.pop(destination, None)
            if destination in coming:
                found[destination] = coming.pop(destination)
    return found
