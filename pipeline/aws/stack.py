"""A CloudFormation stack: its outputs, and how a change set is executed and the stack deleted.

Progress and the reason of a failure come from the stack's events; so does its end, as its status may lag behind.
"""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.aws.requests import WAITER, describe, list_all
from pipeline.aws.stack_parameters import STACK_TAG
from pipeline.errors import ServiceError

Client = Callable[[str], Any]  # a boto3 client by its service's name
ENDED = re.compile(r"\w+_(COMPLETE|FAILED)")
DONE = {"CREATE": "made", "UPDATE": "changed", "DELETE": "removed"}


class Change(NamedTuple):
    """What becomes of one resource: add, modify, replace or remove."""

    action: str
    name: str
    resource_type: str


class ChangeSet(NamedTuple):
    """A change set that can be executed: what names it in a request, CREATE or UPDATE, and what it changes."""

    request: dict[str, str]
    kind: str
    changes: tuple[Change, ...]
    code_follows: bool = False  # whether another one is needed, once the deploy function's code is in the bucket


def describe_stack(cloudformation: Any, name: str) -> dict[str, Any] | None:
    """Return DescribeStacks' answer for one stack, or None if there is none."""
    stack = (describe(cloudformation.describe_stacks, StackName=name) or {"Stacks": [None]})["Stacks"][0]
    return stack if stack and stack["StackStatus"] != "DELETE_COMPLETE" else None


def is_own(stack: Mapping[str, Any]) -> bool:
    """Whether a stack, as described, was made by `infra`: it has its own name as a tag, or has never been made."""
    tag = {"Key": STACK_TAG, "Value": stack["StackName"]}
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


def discard(cloudformation: Any, change_set: ChangeSet) -> None:
    """Delete a change set, and the stack if it was made only to hold it."""
    cloudformation.delete_change_set(**change_set.request)
    stack = describe_stack(cloudformation, change_set.request["StackName"])
    if stack and stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        cloudformation.delete_stack(StackName=stack["StackId"])


def execute(cloudformation: Any, change_set: ChangeSet) -> Iterator[str]:
    """Execute a change set; yield a line for each resource. A ServiceError says which one failed, and why."""
    stack_id = change_set.request["StackName"]
    seen = {event["EventId"] for event in events_since(cloudformation, stack_id, set())}
    cloudformation.execute_change_set(**change_set.request)
    yield from follow(cloudformation, stack_id, change_set.kind, seen=seen)


def delete(cloudformation: Any, name: str) -> Iterator[str]:
    """Delete the stack, if there is one; yield a line for each resource. A ServiceError says which one failed."""
    if stack := describe_stack(cloudformation, name):
        seen = {event["EventId"] for event in events_since(cloudformation, stack["StackId"], set())}
        cloudformation.delete_stack(StackName=stack["StackId"])
        yield from follow(cloudformation, stack["StackId"], "DELETE", seen=seen)
        yield f"stack {name} removed"


def events_since(cloudformation: Any, stack_id: str, seen: set[str]) -> list[dict[str, Any]]:
    """Return the stack's events that are not in `seen`, oldest first."""
    events = list_all(cloudformation, "describe_stack_events", StackName=stack_id)  # newest first
    return list(itertools.takewhile(lambda event: event["EventId"] not in seen, events))[::-1]


def follow(cloudformation: Any, stack_id: str, kind: str, *, seen: set[str]) -> Iterator[str]:
    """Yield a line for each new event of a resource, until the stack has reached an end.

    A ServiceError says why it is not the end of a successful CREATE, UPDATE or DELETE, as `kind` names it.
    """
    failures: list[dict[str, Any]] = []
    while True:
        for event in events_since(cloudformation, stack_id, seen):
            seen.add(event["EventId"])
            status, name = event["ResourceStatus"], event["LogicalResourceId"]
            if event.get("PhysicalResourceId") == stack_id:
                if status == f"{kind}_COMPLETE":
                    return
                if ENDED.fullmatch(status):
                    raise ServiceError(explain_failure(event, failures, kind))
            elif status.endswith("_FAILED"):
                failures.append(event)
                yield f"{name} failed: {reason_of(event)}"
            elif (verb := status.removesuffix("_COMPLETE")) in DONE:
                yield f"{name} {DONE[verb]}"
        time.sleep(WAITER["Delay"])


def explain_failure(end: Mapping[str, Any], failures: list[dict[str, Any]], kind: str) -> str:
    """Return why the change failed: the first failure of a resource is the cause of the others."""
    outcome = f"Stack '{end['StackName']}' could not be {DONE[kind]}"
    cause = next((event for event in failures if "cancelled" not in reason_of(event)), None)
    if cause is None:
        return f"{outcome}: it is {end['ResourceStatus']} ({reason_of(end)})."
    undone = ", and everything was put back" if "ROLLBACK_COMPLETE" in end["ResourceStatus"] else ""
    return f"{outcome}{undone}: {cause['LogicalResourceId']} ({cause['ResourceType']}) failed: {reason_of(cause)}"


def reason_of(event: Mapping[str, Any]) -> str:
    return " ".join(str(event.get("ResourceStatusReason") or "no reason given").split())
