"""The label of the box, to be printed on a tape of 62 mm or on A6."""

import asyncio
from typing import Final

from markupsafe import Markup
from starlette.responses import Response

from edge.web import certificate, label_svg
from edge.web.label import Label, facts
from edge.web.label import label as label_of
from edge.web.page import Page, get
from edge.web.secret import Secrets
from edge.web.visit import Visit

_PAPERS: Final = ("62", "a6")


async def _show(visit: Visit) -> Response:
    paper = visit.query("paper")
    label = await asyncio.to_thread(_label, visit)
    # drawn with everything escaped, for SVG as for any markup
    drawn = Markup(label_svg.drawing(label, visit.language.say))  # noqa: S704
    return await visit.render(
        "system/label.html", label=label, facts=facts(label), drawn=drawn, paper=paper if paper in _PAPERS else "62"
    )


def _label(visit: Visit) -> Label:
    """Raises OSError."""
    box = visit.box
    own = box.config.dashboard.certificate_file or box.identity / certificate.NAME
    try:
        fingerprint = certificate.fingerprint(own)
    except (OSError, ValueError):
        fingerprint = ""
    return label_of(
        box.config,
        box.device,
        box.addresses(),
        port=visit.request.url.port or 0,
        code=Secrets(box.identity).waiting_code(),
        fingerprint=fingerprint,
    )


PAGE: Final = Page(name="label", under="system", endpoints=(get("/system/label", _show),))
