"""The deploy Lambda: makes an endpoint serve what the model registry approves. boto3 and the standard library only.

One rule decides, whatever called the handler and in whichever order: an endpoint serves the newest approved version of
its model package group. So a repeated or late event changes nothing, an older version never replaces a newer approved
one, and rejecting the version in service brings back the newest that is still approved. EVENTS says what calls it.

It never waits: a Lambda step has ten minutes, an endpoint may take longer. A raised error fails the step, and makes
Lambda try an asynchronous invocation again.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from classifier.deployment.champion import keep_champion
from classifier.deployment.endpoint import Outcome, attempted_version, describe_endpoint, serve, served_version, settle
from classifier.deployment.hosting import Hosting, read_hosting
from classifier.deployment.services import (
    DeployError,
    ModelVersion,
    OtherClasses,
    explained,
    model_version,
    newest_approved,
)


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """The Lambda entry point; returns the Lambda step's OutputParameters."""
    kind = event.get("detail-type")
    if kind not in EVENTS:
        accepted = " and ".join(f"'{name}'" for name in EVENTS if name)
        raise DeployError(f"The event is a '{kind}', but only {accepted} are understood.")
    hosting = read_hosting({} if kind else event)
    try:
        outcome = EVENTS[kind](hosting, event)
    except (ClientError, BotoCoreError) as error:
        raise DeployError(explained(error)) from error
    undone = keep_champion(hosting, outcome.champion) if outcome.champion else ""
    message = f"{outcome.message} {undone}".rstrip()
    if kind and undone:  # Lambda calls again, and if that does not help, an alarm tells somebody
        raise DeployError(message)
    print(message, flush=True)
    return {
        "endpoint_name": hosting.endpoint_name,
        "endpoint_status": outcome.status,
        "model_package_arn": outcome.version_arn,
        "message": message,
    }


def on_step(hosting: Hosting, event: dict[str, Any]) -> Outcome:
    """The pipeline registered a version; the event is flat and may hold any setting of Hosting."""
    if "model_package_arn" not in event:
        raise DeployError("The event has no 'model_package_arn': give the ARN of the version to deploy.")
    return deploy(hosting, model_version(event["model_package_arn"]))


def on_registry_change(hosting: Hosting, event: dict[str, Any]) -> Outcome:
    """A version was registered, approved or rejected; the event may be stale, so the registry is asked."""
    outcome = deploy(hosting, model_version(event["detail"]["ModelPackageArn"]))
    if outcome.status == "Deleting":  # Lambda calls again a minute later, when the endpoint is gone
        raise DeployError(outcome.message)
    return outcome


def on_endpoint_change(hosting: Hosting, event: dict[str, Any]) -> Outcome:
    """Do what had to wait for the endpoint to be InService: autoscaling, and a version approved during an update.

    A version whose update failed or was rolled back is not tried again, nor is a failed endpoint created again: both
    would repeat for ever.
    """
    name, changed = hosting.endpoint_name, event["detail"]["EndpointName"]
    if changed.lower() != name.lower():  # events give names in either case
        return Outcome("NotDeployed", "", f"Endpoint {changed} is not {name}, so it is left alone.")
    endpoint = describe_endpoint(name)
    if endpoint is None:
        return Outcome("NotDeployed", "", f"Endpoint {name} does not exist, so nothing changes.")
    status, failure = endpoint["EndpointStatus"], endpoint.get("FailureReason", "no reason given").rstrip(".")
    if status != "InService":
        reason = f" ({failure})" if status == "Failed" else ""
        return Outcome(status, "", f"Endpoint {name} is {status}{reason}, so nothing changes.")
    served = served_version(endpoint)
    if served is None:
        return Outcome(status, "", f"Endpoint {name} serves no registered version, so it is left alone.")
    wanted = newest_approved(served)
    if wanted is None or wanted.arn == served.arn:
        return settle(hosting, endpoint, served)
    message = (
        f"Endpoint {name} serves {served} after the update to {wanted} failed ({failure}): "
        f"`run_pipeline.py approve {wanted.version}` tries it again, `run_pipeline.py reject {wanted.version}` gives "
        "it up."
    )
    if wanted.arn != attempted_version(endpoint):
        try:
            return serve(hosting, wanted, endpoint)
        except OtherClasses as refusal:  # which was raised when that version was registered or approved
            message = str(refusal)
    return replace(settle(hosting, endpoint, served), message=message)


def deploy(hosting: Hosting, asked: ModelVersion) -> Outcome:
    """Serve the newest approved version, which is mostly the one asked for."""
    if asked.approval == "Rejected":
        return withdraw(hosting, asked)
    if asked.approval != "Approved":
        message = f"{asked} waits for approval: nothing is deployed until `run_pipeline.py approve` approves it."
        return Outcome("WaitingForApproval", asked.arn, message)
    if asked.status in ("Pending", "InProgress"):
        message = f"{asked} is still being created ({asked.status}): it is deployed once it is Completed."
        return Outcome(f"ModelPackage{asked.status}", asked.arn, message)
    if asked.status != "Completed":
        remedy = "register the model again, or approve another version."
        raise DeployError(f"{asked} has status {asked.status} and cannot be deployed: {remedy}")
    wanted = newest_approved(asked) or asked
    outcome = serve(hosting, wanted, describe_endpoint(hosting.endpoint_name))
    older = "" if wanted.arn == asked.arn else f"{asked} is older than the approved version {wanted.version}. "
    return replace(outcome, message=older + outcome.message)


def withdraw(hosting: Hosting, asked: ModelVersion) -> Outcome:
    """After a rejection: the newest version still approved takes over an endpoint that exists, and is the champion."""
    name, endpoint, wanted = hosting.endpoint_name, describe_endpoint(hosting.endpoint_name), newest_approved(asked)
    if endpoint is None:
        outcome = Outcome("NotDeployed", asked.arn, f"Endpoint {name} does not exist, so nothing changes.")
    elif wanted is None:
        message = f"No other version is approved, so endpoint {name} keeps what it serves."
        outcome = Outcome(endpoint["EndpointStatus"], asked.arn, message)
    else:
        outcome = serve(hosting, wanted, endpoint)
    return replace(outcome, message=f"{asked} is rejected. {outcome.message}", champion=wanted or asked)


EVENTS: dict[str | None, Callable[[Hosting, dict[str, Any]], Outcome]] = {  # by their detail-type; the step has none
    None: on_step,
    "SageMaker Model Package State Change": on_registry_change,
    "SageMaker Endpoint State Change": on_endpoint_change,
}
