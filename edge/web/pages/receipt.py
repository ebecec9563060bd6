"""The receipt of a study, to print; and what programs read of one study."""

import time
from typing import Final

import msgspec
from starlette.responses import Response, StreamingResponse

from edge.clock import iso
from edge.safety import safe_to_delete
from edge.store.stuck import groups
from edge.web.page import Page, get
from edge.web.pages.study import find
from edge.web.studies import proving, row, title
from edge.web.studies_name import writings
from edge.web.studies_receipt import PIECE, pieces, whole
from edge.web.visit import Visit

_JSON: Final = "application/json"


async def _receipt(visit: Visit) -> Response:
    box, study = visit.box, await find(visit.box, visit.number("id"))
    after = visit.query("after")
    number = min(int(after), 1 << 62) if after.isdecimal() else 0
    found = await box.reading.trace_study(study.id, number, PIECE + 1)
    now = box.clock.now()
    return await visit.render(
        "study/receipt.html",
        study=study,
        heading=title(study, visit.language),
        names=writings(study.patient_name),
        row=row(study, visit.language, now, proving(box.config)),
        pieces=pieces(found[:PIECE], visit.language),
        after=found[PIECE - 1].id if len(found) > PIECE else None,
        begun=number > 0,
        made=iso(now),
        zone=time.strftime("%z", time.localtime(now)),
        box_id=box.device,
    )


async def _study(visit: Visit) -> Response:
    """Answer with the study, whether it may be deleted from the scanner, and why what is not through is not."""
    study = await find(visit.box, visit.number("id"))
    found = await groups(visit.box.reading, study.id)
    told = msgspec.to_builtins(study) | {"safe": msgspec.to_builtins(safe_to_delete(study))}
    return Response(msgspec.json.encode({"study": told, "open": found}), media_type=_JSON)


async def _whole(visit: Visit) -> Response:
    """Answer with what ``edge trace --json`` prints."""
    study = await find(visit.box, visit.number("id"))
    name = {"Content-Disposition": f'attachment; filename="receipt-{study.id}.json"'}
    return StreamingResponse(whole(visit.box.reading, study.id), media_type=_JSON, headers=name)


PAGE: Final = Page(
    name="receipt",
    under="studies",
    endpoints=(
        get("/studies/{id:int}/receipt", _receipt),
        get("/api/studies/{id:int}", _study),
        get("/api/studies/{id:int}/receipt", _whole),
    ),
)
