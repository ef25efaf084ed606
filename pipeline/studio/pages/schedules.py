"""Schedules: when pipelines start by themselves, what was started so, on and off."""

import datetime
from typing import Any

from botocore.exceptions import ClientError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.aws.schedule import OFF, ON, change, every
from pipeline.config.schedule_expression import fault
from pipeline.service.executions import search
from pipeline.studio.site import attempt, form_of, go_to, missing, render, studio

SHOWN_TIMES, SHOWN_EXECUTIONS = 3, 3


def show_schedules(request: Request, name: str = "", typed: str = "", problem: str = "") -> Response:
    """Return every schedule of the home; of one that is named, what was typed and why it is not accepted."""
    target, now, rows = studio(request).target, datetime.datetime.now(datetime.UTC), list[dict[str, Any]]()
    schedules = every(target.client)
    names = {found.pipeline_arn.rpartition("/")[2] for found in schedules}
    runs = {name: search(target, {"pipeline": name, "client": "schedule"}, SHOWN_EXECUTIONS) for name in names}
    for found in schedules:
        pipeline = found.pipeline_arn.rpartition("/")[2]
        own = {"typed": typed, "problem": problem} if found.name == name else {"typed": found.expression, "problem": ""}
        times = found.next_times(now, SHOWN_TIMES)
        rows.append({"found": found, "pipeline": pipeline, "times": times, "runs": runs[pipeline]["Results"], **own})
    return render(request, "schedules.html", status=400 if problem else 200, rows=rows)


def set_schedule(request: Request) -> Response:
    """Switch a schedule on or off, or give it another expression, which switches it on."""
    client, form, name = studio(request).target.client, form_of(request), request.path_params["name"]
    changes = {"State": ON if form.get("state") == ON else OFF}
    if "expression" in form:
        changes = {"ScheduleExpression": str(form["expression"]).strip(), "State": ON}
        if problem := fault(changes["ScheduleExpression"], now=datetime.datetime.now(datetime.UTC)):
            return show_schedules(request, name, changes["ScheduleExpression"], f"It {problem}")
    try:
        change(client, name, **changes)
    except ClientError as refused:
        raise missing(f"schedule {name!r}") from refused
    return go_to("/schedules", done=f"Schedule {name} is {'on' if changes['State'] == ON else 'off'}.")


def make_schedule(request: Request) -> Response:
    """Make the schedule of pipeline.yaml, switched off."""
    here = studio(request)
    return attempt("/schedules", "The schedule is made.", lambda: here.target.set_up_schedule(here.config))


ROUTES = [
    Route("/schedules", show_schedules),
    Route("/schedules", make_schedule, methods=["POST"]),
    Route("/schedules/{name}", set_schedule, methods=["POST"]),
]
