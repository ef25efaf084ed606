"""Two executions side by side."""

from itertools import groupby
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.service import executions
from pipeline.service.comparison import (
    compared,
    definition_changes,
    file_changes,
    image_counts,
    job_changes,
    recall_by_class,
    side_by_side,
)
from pipeline.service.status import status
from pipeline.studio.pages.execution import address
from pipeline.studio.site import go_to, missing, render, studio

SHOWN_NAMES = 20


def show(request: Request) -> Response:
    """The page: what differs is marked, and what has changed from the earlier execution to the later one."""
    target, arns = studio(request).target, []
    if pair := request.query_params.getlist("pair"):  # two ticks of the list, in which the newest comes first
        if len(pair) != 2:
            return go_to("/executions", problem=f"Two executions can be compared; {len(pair)} are ticked.")
        return go_to(f"/compare?{urlencode({'a': pair[1], 'b': pair[0]})}")
    for side in ("a", "b"):
        pipeline, _, execution = request.query_params.get(side, "").partition("/")
        arn = f"{target.placement.pipeline_arn(pipeline)}/execution/{execution}"
        if target.state.execution(arn) is None:
            raise missing(f"execution {pipeline}/{execution}: compare two by ?a=<pipeline>/<id>&b=<pipeline>/<id>")
        arns.append(arn)
    documents, steps = [status(target, arn) for arn in arns], [executions.steps(target, arn) for arn in arns]
    rows = compared(*documents)
    for read in (recall_by_class, image_counts):
        rows += side_by_side(*(read(target, each) for each in steps))
    described = [executions.describe(target, arn) for arn in arns]
    order = sorted((0, 1), key=lambda side: described[side]["CreationTime"])
    old, new = order
    data = [documents[side]["parameters"].get("InputDataUri") for side in order]
    changes = {
        "Definition": definition_changes(target, [arns[old], arns[new]]),
        "Code, arguments and inputs": list(job_changes(target, arns[new], steps[old], steps[new])),
        "Images": [
            f"{len(names):,} {what}: {', '.join(names[:SHOWN_NAMES])}{' ...' if len(names) > SHOWN_NAMES else ''}"
            for what, names in file_changes(target, *data).items()
        ],
    }
    return render(
        request,
        "compare.html",
        sides=[
            {"address": address(arn), "arn": arn, "execution": each} for arn, each in zip(arns, described, strict=True)
        ],
        sections=[(name, list(group)) for name, group in groupby(rows, key=lambda row: row[0])],
        changes=changes,
        older=arns[old].rpartition("/")[2],
        newer=arns[new].rpartition("/")[2],
    )


ROUTES = [Route("/compare", show)]
