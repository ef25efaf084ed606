"""Two executions side by side."""

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.definition.diff import differences
from pipeline.service import comparison, executions
from pipeline.service.status import status
from pipeline.studio.pages.execution import address
from pipeline.studio.site import arn_of, go_to, missing, render, studio


def show(request: Request) -> Response:
    """The page: what differs is marked, and what has changed from the earlier execution to the later one."""
    target, asked = studio(request).target, request.query_params
    names = asked.getlist("pair")[::-1] or [asked.get("a", ""), asked.get("b", "")]  # ticks are the newest first
    if len(names) != 2:
        return go_to("/executions", problem=f"Two executions can be compared; {len(names)} are ticked.")
    arns = [arn_of(request, name) for name in names]
    if None in [target.state.execution(arn) for arn in arns]:
        raise missing(f"pair {' and '.join(names)}: compare two executions by ?a=<pipeline>/<id>&b=<pipeline>/<id>")
    steps = {arn: executions.steps(target, arn) for arn in arns}
    values = [comparison.comparable(status(target, arn)) | comparison.figures(target, steps[arn]) for arn in arns]
    sections = []
    for title, rows in comparison.side_by_side(*values).items():
        sections.append((title, [row for row in rows if row[1] != row[2]], [row for row in rows if row[1] == row[2]]))
    old, new = sorted(arns, key=lambda arn: executions.describe(target, arn)["CreationTime"])
    data = [executions.parameters_of(target, arn).get("InputDataUri") for arn in (old, new)]
    definitions = [{"PipelineDefinition": json.dumps(executions.definition_of(target, arn))} for arn in (old, new)]
    changes = {
        "Definition": differences(*definitions),
        "Code, arguments and inputs": comparison.job_changes(target, new, steps[old], steps[new]),
        "Images": comparison.file_changes(target, *data),
    }
    places, later = [(arn.rpartition("/")[2], address(arn)) for arn in arns], new.rpartition("/")[2]
    return render(request, "compare.html", places=places, later=later, sections=sections, changes=changes)


ROUTES = [Route("/compare", show)]
