"""All executions, newest first: what they are of, how they went, and two of them to be compared."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.service import executions
from pipeline.service.comparison import accuracy_text
from pipeline.service.executions import ACTIVE, ENDED
from pipeline.service.local_target import LocalTarget
from pipeline.service.status import details
from pipeline.studio.pages.execution import address
from pipeline.studio.site import live, render, studio

SHOWN = 50  # on a page
FILTERS = ("pipeline", "status", "text", "page")
DATA = "InputDataUri"  # the parameter of this project's pipeline that says what the data are


def show(request: Request) -> Response:
    names = executions.pipeline_names(studio(request).target)
    return render(request, "executions.html", pipelines=sorted(names), statuses=ACTIVE + ENDED, **view(request))


def show_live(request: Request) -> Response:
    return live(request, "executions_live.html", lambda: view(request))


def view(request: Request) -> dict[str, Any]:
    """Return a page of executions that the filters let through."""
    given = {name: request.query_params.get(name, "") for name in FILTERS}
    target = studio(request).target
    found = executions.search(target, given, SHOWN)
    return {
        "given": given,
        "rows": [row(target, each["PipelineExecution"]) for each in found["Results"]],
        "total": found["TotalHits"]["Value"],
        "older": urlencode(given | {"page": found["NextToken"]}) if "NextToken" in found else None,
        "newest": urlencode(given | {"page": ""}),
    }


def row(target: LocalTarget, execution: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of an execution."""
    arn, is_active = execution["PipelineExecutionArn"], execution["PipelineExecutionStatus"] in ACTIVE
    parameters = {each["Name"]: each["Value"] for each in execution.get("PipelineParameters", [])}
    return {
        "execution": execution,
        "address": address(arn),
        "data": parameters.get(DATA, "").rstrip("/").rpartition("/")[2],
        "result": None if is_active else result_of(target, arn, execution["LastModifiedTime"]),
    }


@lru_cache(maxsize=20_000)
def result_of(target: LocalTarget, arn: str, _modified: object) -> dict[str, Any]:
    """Return seconds and accuracy of an ended execution, read once for each time that it was modified."""
    found = details(target, arn)
    return {"seconds": found["seconds"], "accuracy": accuracy_text(found, {})}


ROUTES = [Route("/executions", show), Route("/executions.part", show_live)]
