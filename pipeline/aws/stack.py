"""A CloudFormation stack: its outputs, and how a change set is made and executed and the stack deleted."""

import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from botocore.exceptions import WaiterError

from pipeline.aws.requests import WAITER, describe, list_all
from pipeline.aws.stack_parameters import STACK_TAG
from pipeline.errors import ServiceError

Client = Callable[[str], Any]  # a boto3 client by its service's name
DONE = {"CREATE": "made", "UPDATE": "changed", "DELETE": "removed"}
NO_CHANGE = re.compile(r"didn't contain changes|No updates are to be performed|no changes", re.IGNORECASE)
STUCK = {
    "UPDATE_ROLLBACK_FAILED": "continue its rollback in the CloudFormation console",
    "ROLLBACK_FAILED": "delete it in the CloudFormation console",
    "DELETE_FAILED": "delete it again with `run_pipeline.py teardown`",
}
NEVER_MADE = ("ROLLBACK_COMPLETE", "CREATE_FAILED")  # nothing of a failed creation is left but the stack's name
REMEDIES = {  # part of a reason -> what helps
    "UnreservedConcurrentExecution": "The account's quota leaves nothing to reserve: raise it in Service Quotas, "
    "or set aws.deploy_concurrency: null in pipeline.yaml."
}


class Change(NamedTuple):
    """What becomes of one resource: add, modify, replace, remove, or move to the other stack."""

    action: str
    name: str
    resource_type: str


class ChangeSet(NamedTuple):
    """A change set: what names it in a request, CREATE or UPDATE, and what it changes."""

    request: dict[str, str]
    kind: str
    changes: tuple[Change, ...] = ()


def describe_stack(cloudformation: Any, name: str) -> dict[str, Any] | None:
    """Return DescribeStacks' answer for one stack, or None if there is none."""
    stack = (describe(cloudformation.describe_stacks, StackName=name) or {"Stacks": [None]})["Stacks"][0]
    return stack if stack and stack["StackStatus"] != "DELETE_COMPLETE" else None


def is_own(stack: Mapping[str, Any], project: str) -> bool:
    """Whether a stack, as described, was made by `infra`: its tag names the project, or it has never been made."""
    tag = {"Key": STACK_TAG, "Value": project}
    return tag in stack.get("Tags", []) or stack["StackStatus"] == "REVIEW_IN_PROGRESS"


def known_outputs(client: Client, name: str) -> dict[str, str]:
    """Return the stack's outputs by name; none before there is a stack."""
    stack = describe_stack(client("cloudformation"), name) or {}
    return {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}


def outputs(client: Client, name: str) -> dict[str, str]:
    """Return the stack's outputs by name; a ServiceError if there is no such stack."""
    if known := known_outputs(client, name):
        return known
    raise ServiceError(f"There is no stack '{name}' in this account and region: `run_pipeline.py infra` makes it.")


def require_changeable(cloudformation: Any, name: str, project: str) -> None:
    """Raise a ServiceError if a stack cannot be changed now; the rest of a failed creation is removed."""
    present = describe_stack(cloudformation, name)
    status = present["StackStatus"] if present else "REVIEW_IN_PROGRESS"  # of a change set that nobody executed
    if present and not is_own(present, project):
        raise ServiceError(f"Stack '{name}' is another project's: choose another aws.project in pipeline.yaml.")
    if status in STUCK:
        raise ServiceError(f"Stack '{name}' is {status}: {STUCK[status]}, then repeat the command.")
    if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
        raise ServiceError(f"Stack '{name}' is being changed ({status}): repeat the command once that has ended.")
    if status in NEVER_MADE:
        list(delete(cloudformation, name))


def make_change_set(
    cloudformation: Any, name: str, template: str, *, parameters: Mapping[str, str], tags: Mapping[str, str]
) -> ChangeSet | None:
    """Make a change set of a stack; None if nothing would change. A ServiceError says why CloudFormation refuses it."""
    present = describe_stack(cloudformation, name)
    kind = "UPDATE" if present and present["StackStatus"] != "REVIEW_IN_PROGRESS" else "CREATE"
    answer = cloudformation.create_change_set(
        StackName=name,
        ChangeSetName=f"infra-{secrets.token_hex(6)}",
        ChangeSetType=kind,
        TemplateBody=template,
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Tags=as_pairs(tags),
        Capabilities=["CAPABILITY_IAM"],
    )
    made = ChangeSet({"StackName": answer["StackId"], "ChangeSetName": answer["Id"]}, kind)
    try:
        cloudformation.get_waiter("change_set_create_complete").wait(**made.request, WaiterConfig=WAITER)
    except WaiterError as error:
        discard(cloudformation, made)
        reason = error.last_response.get("StatusReason") or str(error)
        if NO_CHANGE.search(reason):
            return None
        raise ServiceError(f"CloudFormation refuses the change of stack '{name}': {reason}") from error
    changed = (item["ResourceChange"] for item in list_all(cloudformation, "describe_change_set", **made.request))
    return made._replace(changes=tuple(map(read_change, changed)))


def read_change(item: Mapping[str, Any]) -> Change:
    action = "replace" if item.get("Replacement") in ("True", "Conditional") else item["Action"].lower()
    return Change(action, item["LogicalResourceId"], item["ResourceType"])


def as_pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as requests have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def discard(cloudformation: Any, change_set: ChangeSet) -> None:
    """Delete a change set, and the stack if it was made only to hold it."""
    cloudformation.delete_change_set(**change_set.request)
    stack = describe_stack(cloudformation, change_set.request["StackName"])
    if stack and stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        list(delete(cloudformation, stack["StackId"]))


def execute(cloudformation: Any, change_set: ChangeSet) -> Iterator[str]:
    """Execute a change set and wait for its end; a ServiceError says which resource failed, and why."""
    cloudformation.execute_change_set(**change_set.request)
    yield wait(cloudformation, change_set.request["StackName"], change_set.kind)


def delete(cloudformation: Any, name: str) -> Iterator[str]:
    """Delete the stack, if there is one, and wait for its end; a ServiceError says which resource failed, and why."""
    if stack := describe_stack(cloudformation, name):
        cloudformation.delete_stack(StackName=stack["StackId"])
        yield wait(cloudformation, stack["StackId"], "DELETE")


def wait(cloudformation: Any, stack_id: str, kind: str) -> str:
    """Wait for the end of a CREATE, UPDATE or DELETE; return a line about it. A ServiceError says why it failed."""
    try:
        time.sleep(WAITER["Delay"])  # until the status is no longer the former
        cloudformation.get_waiter(f"stack_{kind.lower()}_complete").wait(StackName=stack_id, WaiterConfig=WAITER)
    except WaiterError as error:
        events = list_all(cloudformation, "describe_stack_events", StackName=stack_id)  # newest first
        new = list(itertools.takewhile(lambda event: reason_of(event) != "User Initiated", events))
        raise ServiceError(explain_failure(new, stack_id.split("/")[1], kind)) from error
    return f"stack {stack_id.split('/')[1]} {DONE[kind]}"


def explain_failure(events: list[dict[str, Any]], name: str, kind: str) -> str:
    """Return why a change failed: the oldest failure of a resource, among events newest first, caused the others."""
    outcome, end = f"Stack '{name}' could not be {DONE[kind]}", events[0]
    failures = [event for event in events[1:] if event["ResourceStatus"].endswith("_FAILED")]
    cause = next((event for event in reversed(failures) if "cancelled" not in reason_of(event)), None)
    if cause is None:
        return f"{outcome}: it is {end['ResourceStatus']} ({reason_of(end)})."
    undone = ", and everything was put back" if "ROLLBACK_COMPLETE" in end["ResourceStatus"] else ""
    remedy = "".join(f" {text}" for part, text in REMEDIES.items() if part in reason_of(cause))
    resource = f"{cause['LogicalResourceId']} ({cause['ResourceType']})"
    return f"{outcome}{undone}: {resource} failed: {reason_of(cause)}{remedy}"


def reason_of(event: Mapping[str, Any]) -> str:
    return " ".join(str(event.get("ResourceStatusReason") or "no reason given").split())
