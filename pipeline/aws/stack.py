"""A CloudFormation stack: what it gives, what a change set would change, and what happens while it changes.

A change set is made, described, and only then executed. Progress and the reason of a failure come from the stack's
events: the end is told by an event of the stack itself, since its status may lag behind a request.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from pipeline.errors import ServiceError

Client = Callable[[str], Any]  # a boto3 client by its service's name
POLL_SECONDS = 2.0
CAPABILITIES = ["CAPABILITY_IAM"]
NOTHING = re.compile(r"didn't contain changes|No updates are to be performed|no changes", re.IGNORECASE)
ENDED = re.compile(r"\w+_(COMPLETE|FAILED)")
WORDS = {"CREATE": "made", "UPDATE": "changed", "DELETE": "removed", "IMPORT": "taken in"}
SUCCEEDED = {"CREATE": "CREATE_COMPLETE", "UPDATE": "UPDATE_COMPLETE", "DELETE": "DELETE_COMPLETE"}


@dataclass(frozen=True)
class Change:
    """What becomes of one resource: add, modify, replace or remove."""

    action: str
    name: str
    resource_type: str

    def __str__(self) -> str:
        return f"{self.action:<8} {self.name:<22} {self.resource_type}"


@dataclass(frozen=True)
class ChangeSet:
    """A change set that can be executed; its kind is CREATE or UPDATE."""

    stack_id: str
    change_set_id: str
    kind: str
    changes: tuple[Change, ...]


def describe(cloudformation: Any, name: str) -> dict[str, Any] | None:
    """DescribeStacks for one stack, or None if there is none."""
    try:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def outputs(client: Client, name: str) -> dict[str, str]:
    """The stack's outputs by name.

    Raises:
        ServiceError: there is no such stack.
    """
    known = known_outputs(client, name)
    if not known:
        raise ServiceError(f"There is no stack '{name}' in this account and region: `run_pipeline.py infra` makes it.")
    return known


def known_outputs(client: Client, name: str) -> dict[str, str]:
    """The stack's outputs by name; empty before there is a stack."""
    stack = describe(client("cloudformation"), name) or {}
    return {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}


def deployed_parameters(stack: Mapping[str, Any] | None) -> dict[str, str]:
    """The parameters that a stack, as described, was last given."""
    given = stack.get("Parameters", []) if stack else []
    return {item["ParameterKey"]: item["ParameterValue"] for item in given}


def create_change_set(
    cloudformation: Any, name: str, template: str, *, parameters: Mapping[str, str], tags: Mapping[str, str]
) -> ChangeSet | None:
    """A change set towards the template, or None if nothing would change.

    Raises:
        ServiceError: CloudFormation refuses the template or a value.
    """
    stack = describe(cloudformation, name)
    kind = "CREATE" if stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS" else "UPDATE"
    made = cloudformation.create_change_set(
        StackName=name,
        ChangeSetName=f"infra-{secrets.token_hex(6)}",
        ChangeSetType=kind,
        TemplateBody=template,
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        Capabilities=CAPABILITIES,
    )
    described = wait_for_change_set(cloudformation, made["StackId"], made["Id"])
    if described["Status"] == "FAILED":
        cloudformation.delete_change_set(StackName=made["StackId"], ChangeSetName=made["Id"])
        reason = described.get("StatusReason", "no reason given")
        if NOTHING.search(reason):
            return None
        raise ServiceError(f"CloudFormation refuses the change of stack '{name}': {reason}")
    return ChangeSet(made["StackId"], made["Id"], kind, tuple(map(change, described["Changes"])))


def wait_for_change_set(cloudformation: Any, stack_id: str, change_set_id: str) -> dict[str, Any]:
    """DescribeChangeSet with all its changes, once the change set has been made or has failed."""
    request = {"StackName": stack_id, "ChangeSetName": change_set_id}
    while True:
        described: dict[str, Any] = cloudformation.describe_change_set(**request)
        if ENDED.fullmatch(described["Status"]) or described["Status"] == "FAILED":
            break
        time.sleep(POLL_SECONDS)
    changes, page = list(described.get("Changes", [])), described
    while page.get("NextToken"):
        page = cloudformation.describe_change_set(**request, NextToken=page["NextToken"])
        changes += page["Changes"]
    return {**described, "Changes": changes}


def change(described: Mapping[str, Any]) -> Change:
    """One entry of DescribeChangeSet."""
    resource = described["ResourceChange"]
    replaced = resource.get("Replacement") in ("True", "Conditional")
    action = "replace" if replaced else str(resource["Action"]).lower()
    return Change(action, resource["LogicalResourceId"], resource["ResourceType"])


def discard(cloudformation: Any, change_set: ChangeSet) -> None:
    """Forget a change set; a stack that was made only to hold it goes with it."""
    cloudformation.delete_change_set(StackName=change_set.stack_id, ChangeSetName=change_set.change_set_id)
    stack = describe(cloudformation, change_set.stack_id)
    if stack and stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        cloudformation.delete_stack(StackName=change_set.stack_id)


def execute(cloudformation: Any, change_set: ChangeSet) -> Iterator[str]:
    """Execute the change set; a line for each resource that is done.

    Raises:
        ServiceError: a resource failed, with its reason.
    """
    seen = seen_events(cloudformation, change_set.stack_id)
    cloudformation.execute_change_set(StackName=change_set.stack_id, ChangeSetName=change_set.change_set_id)
    yield from follow(cloudformation, change_set.stack_id, seen, change_set.kind)


def delete(cloudformation: Any, name: str) -> Iterator[str]:
    """Delete the stack, if there is one; a line for each resource that is done.

    Raises:
        ServiceError: a resource could not be removed, with its reason.
    """
    stack = describe(cloudformation, name)
    if stack is None:
        return
    stack_id = stack["StackId"]
    seen = seen_events(cloudformation, stack_id)
    cloudformation.delete_stack(StackName=stack_id)
    yield from follow(cloudformation, stack_id, seen, "DELETE")
    yield f"stack {name} removed"


def follow(cloudformation: Any, stack_id: str, seen: set[str], kind: str) -> Iterator[str]:
    """Lines for the events that are not seen yet, until the stack has reached an end.

    Raises:
        ServiceError: not the end that was wanted.
    """
    failures: list[Mapping[str, Any]] = []
    while True:
        for event in new_events(cloudformation, stack_id, seen):
            status = event["ResourceStatus"]
            if event.get("PhysicalResourceId") != stack_id:
                failures += [event] if status.endswith("_FAILED") else []
                yield from line(event)
            elif ENDED.fullmatch(status):
                if status != SUCCEEDED[kind]:
                    raise ServiceError(failure_sentence(event, failures, kind))
                return
        time.sleep(POLL_SECONDS)


def seen_events(cloudformation: Any, stack_id: str) -> set[str]:
    """The events that a stack has by now."""
    return {event["EventId"] for event in events(cloudformation, stack_id)}


def new_events(cloudformation: Any, stack_id: str, seen: set[str]) -> list[dict[str, Any]]:
    """The events that are not seen yet, in the order of time; they are seen then."""
    found: list[dict[str, Any]] = []
    for event in events(cloudformation, stack_id):  # newest first
        if event["EventId"] in seen:
            break
        found.insert(0, event)
    seen.update(event["EventId"] for event in found)
    return found


def events(cloudformation: Any, stack_id: str) -> Iterator[dict[str, Any]]:
    """DescribeStackEvents, newest first."""
    for page in cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id):
        yield from page["StackEvents"]


def line(event: Mapping[str, Any]) -> Iterator[str]:
    """What a person is told about an event of a resource: its end."""
    kind, _, end = event["ResourceStatus"].partition("_")
    if end == "COMPLETE" and kind in WORDS:
        yield f"{event['LogicalResourceId']} {WORDS[kind]}"
    elif end == "FAILED":
        yield f"{event['LogicalResourceId']} failed: {reason_of(event)}"


def failure_sentence(end: Mapping[str, Any], failures: list[Mapping[str, Any]], kind: str) -> str:
    """Why the stack did not get where it should; the first failure is the cause of the others."""
    start = f"Stack '{end['StackName']}' could not be {WORDS[kind]}"
    causes = [event for event in failures if "cancelled" not in reason_of(event)]
    if not causes:
        return f"{start}: it is {end['ResourceStatus']} ({reason_of(end)})."
    cause = causes[0]
    undone = ", and everything was put back" if "ROLLBACK_COMPLETE" in end["ResourceStatus"] else ""
    what = f"{cause['LogicalResourceId']} ({cause['ResourceType']})"
    return f"{start}{undone}: {what} failed: {reason_of(cause)}"


def reason_of(event: Mapping[str, Any]) -> str:
    """The reason in an event."""
    return " ".join(str(event.get("ResourceStatusReason") or "no reason given").split())
