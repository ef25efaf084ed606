"""The retrain schedule as EventBridge Scheduler would keep it. `run_pipeline.py schedule run` starts what is due."""

from pipeline import schedule_expression
from pipeline.local.jobs.runtime import ACCOUNT, REGION, arn, now
from pipeline.local.store.answers import RequestError, chosen, invalid
from pipeline.local.store.state import Document, State

KIND = "Schedule"
GROUP = "default"
GIVEN = (
    "Description",
    "FlexibleTimeWindow",
    "KmsKeyArn",
    "ScheduleExpression",
    "ScheduleExpressionTimezone",
    "State",
    "Target",
)


def make_schedule(state: State, name: str, expression: str, *, pipeline_name: str) -> None:
    """The schedule, switched off, unless there is one."""
    with state.transaction():
        if state.get(KIND, name) is None:
            document = {
                "Arn": f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/{GROUP}/{name}",
                "Name": name,
                "GroupName": GROUP,
                "ScheduleExpression": expression,
                "ScheduleExpressionTimezone": "UTC",
                "State": "DISABLED",
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "Target": {"Arn": arn("pipeline", pipeline_name), "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/local"},
                "CreationDate": now(),
                "LastModificationDate": now(),
            }
            state.put(KIND, name, document)


def answer(state: State, operation: str, request: Document) -> Document:
    """GetSchedule and UpdateSchedule.

    Raises:
        RequestError: another operation, no such schedule, or an expression that Scheduler would refuse.
    """
    name = request["Name"]
    known = state.get(KIND, name)
    if operation not in ("GetSchedule", "UpdateSchedule"):
        raise RequestError("ValidationException", f"The local target does not answer scheduler:{operation}.")
    if known is None:
        raise RequestError("ResourceNotFoundException", f"Schedule {name} does not exist.", 404)
    if operation == "GetSchedule":
        return known
    if fault := schedule_expression.fault(request["ScheduleExpression"]):
        raise invalid(f"The schedule {fault}")
    fixed = chosen(known, "Arn", "Name", "GroupName", "CreationDate")
    usual = {"State": "ENABLED", "ScheduleExpressionTimezone": "UTC"}
    state.put(KIND, name, {**fixed, **usual, **chosen(request, *GIVEN), "LastModificationDate": now()})
    return {"ScheduleArn": known["Arn"]}
