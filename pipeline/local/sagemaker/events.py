"""EventBridge: the schedule that retrains, and the rule that calls a function when a model version is approved.

`run_pipeline.py schedule run` starts what is due.
"""

import secrets
from datetime import UTC, datetime

from pipeline import schedule_expression
from pipeline.local.jobs import functions
from pipeline.local.jobs.runtime import ACCOUNT, REGION, arn, now
from pipeline.local.store.answers import Api, RequestError, chosen, invalid
from pipeline.local.store.state import Document, State

DETAIL = (  # what the event tells of a model package
    "ModelPackageGroupName",
    "ModelPackageVersion",
    "ModelPackageArn",
    "CreationTime",
    "LastModifiedTime",
    "InferenceSpecification",
    "ModelPackageStatus",
    "ModelPackageStatusDetails",
    "ModelApprovalStatus",
    "ModelMetrics",
)


def make_schedule(state: State, name: str, expression: str, *, pipeline_name: str) -> None:
    """The schedule, switched off, unless there is one."""
    with state.transaction():
        if state.get("Schedule", name) is None:
            document = {
                "Arn": f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/{name}",
                "Name": name,
                "GroupName": "default",
                "ScheduleExpression": expression,
                "ScheduleExpressionTimezone": "UTC",
                "State": "DISABLED",
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "Target": {"Arn": arn("pipeline", pipeline_name), "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/local"},
                "CreationDate": now(),
                "LastModificationDate": now(),
            }
            state.put("Schedule", name, document)


def get_schedule(state: State, request: Document) -> Document:
    """GetSchedule; refused if there is none."""
    known = state.get("Schedule", request["Name"])
    if known is None:
        raise RequestError("ResourceNotFoundException", f"Schedule {request['Name']} does not exist.", 404)
    return known


def update_schedule(state: State, request: Document) -> Document:
    """UpdateSchedule: what the request leaves out gets its default."""
    known = get_schedule(state, request)
    if fault := schedule_expression.fault(request["ScheduleExpression"]):
        raise invalid(f"The schedule {fault}")
    fixed = chosen(known, "Arn", "Name", "GroupName", "CreationDate")
    usual = {"State": "ENABLED", "ScheduleExpressionTimezone": "UTC"}
    changed = {**usual, **request, **fixed, "LastModificationDate": now()}
    state.put("Schedule", request["Name"], changed)
    return {"ScheduleArn": known["Arn"]}


def deliver_approval(state: State, api: Api, package: Document) -> None:
    """Call the function that the rule of a package's group names with a state change event, if there is a rule.

    A function that fails is an error: on AWS nobody would hear of it, but here somebody waits for what it does.
    """
    rule = state.get("Rule", package["ModelPackageGroupName"].lower())
    if rule is None:
        return
    event = {
        "version": "0",
        "id": secrets.token_hex(16),
        "source": "aws.sagemaker",
        "detail-type": "SageMaker Model Package State Change",
        "account": ACCOUNT,
        "region": REGION,
        "time": datetime.fromtimestamp(now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "resources": [package["ModelPackageArn"]],
        "detail": chosen(package, *DETAIL),
    }
    name = rule["FunctionName"]
    try:
        functions.invoke_now(state, api, functions.function_named(state, name), event)
    except RequestError as problem:
        said = f"The version is {package['ModelApprovalStatus']} now, but function {name!r}, which heard of it, failed"
        raise RequestError("EventDeliveryFailed", f"{said}: {problem}") from problem  # no code of the service
