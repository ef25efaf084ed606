"""Two executions side by side."""

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.service import comparison, executions
from pipeline.service.status import status
from pipeline.studio.pages.execution import address
from pipeline.studio.site import go_to, missing, render, studio


def show(request: Request) -> Response:
    """The page: what differs is marked, and what has changed from the earlier execution to the later one."""
    target, arns = studio(request).target, []
    if pair := request.query_params.getlist("pair"):  # two ticks of the list, in which the newest comes first
        if len(pair) != 2:
            return go_to("/executions", problem=f"Two executions can be compared; {len(pair)} are ticked.")
        return go_to(f"/compare?{urlencode({'a': pair[1], 'b': pair[0]})}")
    for side in ("a", "b"):
        pipeline, _, execution = request.query_params.get(side, "").partition("/")
        arns.append(f"{target.placement.pipeline_arn(pipeline)}/execution/{execution}")
        if target.state.execution(arns[-1]) is None:
            raise missing(f"execution {pipeline}/{execution}: compare two by ?a=<pipeline>/<id>&b=<pipeline>/<id>")
    steps = {arn: executions.steps(target, arn) for arn in arns}
    values = [comparison.comparable(status(target, arn)) | comparison.figures(target, steps[arn]) for arn in arns]
    sections = []
    for title, rows in comparison.side_by_side(*values).items():
        sections.append((title, [row for row in rows if row[1] != row[2]], [row for row in rows if row[1] == row[2]]))
    old, new = sorted(arns, key=lambda arn: executions.describe(target, arn)["CreationTime"])
    data = [executions.parameters_of(target, arn).get("InputDataUri") for arn in (old, new)]
    changes = {
        "Definition": comparison.definition_changes(target, old, new),
        "Code, arguments and inputs": comparison.job_changes(target, new, steps[old], steps[new]),
        "Images": comparison.file_changes(target, *data),
    }
    places = [(arn.rpartition("/")[2], address(arn)) for arn in arns]
    later = new.rpartition("/")[2]
    return render(request, "compare.html", places=places, later=later, sections=sections, changes=changes)


ROUTES = [Route("/compare", show)]
