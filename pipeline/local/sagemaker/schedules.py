"""EventBridge Scheduler: schedules of the group `default` that start pipelines.

They are kept whether or not somebody runs them: the studio does while it is up (`pipeline.service.retraining.run_due`),
and `run_pipeline.py schedule run` the one that retrains.
"""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.config import schedule_expression
from pipeline.local.jobs.runtime import ACCOUNT, REGION, arn, now
from pipeline.local.store.answers import RequestError, chosen, invalid, paged
from pipeline.local.store.state import Document, State

GROUP = "default"
USUAL = {"State": "ENABLED", "ScheduleExpressionTimezone": "UTC", "ActionAfterCompletion": "NONE"}
SUMMARY = ("Arn", "Name", "GroupName", "State", "CreationDate", "LastModificationDate")


def make_schedule(state: State, name: str, expression: str, *, pipeline_name: str) -> None:
    """The schedule of a pipeline, switched off, unless there is one of the name."""
    with state.transaction():
        if state.get("Schedule", name) is None:
            target = {"Arn": arn("pipeline", pipeline_name), "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/local"}
            request = {"Name": name, "ScheduleExpression": expression, "State": "DISABLED", "Target": target}
            put_schedule(state, {**request, "FlexibleTimeWindow": {"Mode": "OFF"}}, {"CreationDate": now()})


def create_schedule(state: State, request: Document) -> Document:
    """CreateSchedule, whose target is a pipeline."""
    check_schedule(state, request)
    with state.transaction():
        if state.get("Schedule", request["Name"]):
            raise RequestError("ConflictException", f"Schedule {request['Name']} already exists.", 409)
        return put_schedule(state, request, {"CreationDate": now()})


def update_schedule(state: State, request: Document) -> Document:
    """UpdateSchedule: what the request leaves out gets its default."""
    check_schedule(state, request)
    with state.transaction():
        return put_schedule(state, request, chosen(get_schedule(state, request), "CreationDate"))


def put_schedule(state: State, request: Document, fixed: Document) -> Document:
    """Store a schedule; the answer to both requests."""
    made = {"Arn": f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/{GROUP}/{request['Name']}", "GroupName": GROUP}
    state.put("Schedule", request["Name"], {**USUAL, **request, **made, **fixed, "LastModificationDate": now()})
    return {"ScheduleArn": made["Arn"]}


def check_schedule(state: State, request: Document) -> None:
    """Refuse a schedule that could never start anything here."""
    in_group(request)
    if fault := schedule_expression.fault(request["ScheduleExpression"]):
        raise invalid(f"The schedule {fault}")
    try:
        ZoneInfo(zone := request.get("ScheduleExpressionTimezone", "UTC"))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid(f"ScheduleExpressionTimezone {zone!r} is no time zone such as Europe/Berlin.") from None
    target = request["Target"]["Arn"]
    if not target.startswith(arn("pipeline", "")):
        raise invalid(f"Target.Arn {target!r} is no pipeline of this home; schedules start pipelines alone here.")


def in_group(request: Document) -> None:
    """RequestError unless a request is about the one group that there is."""
    if (group := request.get("GroupName", GROUP)) != GROUP:
        raise RequestError("ResourceNotFoundException", f"Schedule group {group} does not exist; `{GROUP}` does.", 404)


def get_schedule(state: State, request: Document) -> Document:
    """GetSchedule; refused if there is none."""
    in_group(request)
    known = state.get("Schedule", request["Name"])
    if known is None:
        raise RequestError("ResourceNotFoundException", f"Schedule {request['Name']} does not exist.", 404)
    return known


def delete_schedule(state: State, request: Document) -> Document:
    """DeleteSchedule."""
    state.delete("Schedule", get_schedule(state, request)["Name"])
    return {}


def list_schedules(state: State, request: Document) -> Document:
    """ListSchedules, by their names."""
    in_group(request)
    prefix, status = request.get("NamePrefix", ""), request.get("State")
    known = sorted(state.all("Schedule"), key=lambda each: str(each["Name"]))
    wanted = [each for each in known if each["Name"].startswith(prefix) and status in (None, each["State"])]
    summaries = [{**chosen(each, *SUMMARY), "Target": chosen(each["Target"], "Arn")} for each in wanted]
    return paged("Schedules", summaries, request)


def list_schedule_groups(state: State, request: Document) -> Document:
    """ListScheduleGroups: `default` alone."""
    return paged("ScheduleGroups", [get_schedule_group(state, {"Name": GROUP})], request)


def get_schedule_group(state: State, request: Document) -> Document:
    """GetScheduleGroup."""
    in_group({"GroupName": request["Name"]})
    group = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule-group/{GROUP}"
    return {"Arn": group, "Name": GROUP, "State": "ACTIVE"}
