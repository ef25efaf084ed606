"""The deploy Lambda: makes an endpoint serve what the model registry approves. boto3 and the standard library only.

One rule decides, whatever called the handler and in whichever order: an endpoint serves the newest approved version of
its model package group. So a repeated or late event changes nothing, an older version never replaces a newer approved
one, and rejecting the version in service brings back the newest that is still approved.

The handler is called
- by the pipeline's Lambda step with a flat event: model_package_arn and any setting of `hosting.Hosting`. What the step
  registered is deployed if it is the newest approved version; if a newer one was approved meanwhile, the endpoint gets
  that one, and the message says so.
- by EventBridge with a `SageMaker Model Package State Change`. The event may be stale: the registry is asked.
- by EventBridge with a `SageMaker Endpoint State Change` of the endpoint. Once it is InService, what could not be done
  before is done: autoscaling, and a version approved during an update. A version whose update failed or was rolled
  back is not tried again by this event, nor is a failed endpoint created again; both would repeat for ever.

It never waits: a Lambda step has ten minutes, an endpoint may take longer. It returns flat strings (see Outcome); a
raised error fails the step, and makes Lambda try an asynchronous invocation again.

Flow: read the settings (hosting) -> ask the registry (model_versions) -> plan the requests (rollout) -> act on the
endpoint's status (endpoint_actions), which makes and removes models and configurations (resources), sets the
autoscaling (autoscaling) and keeps a copy of the model for retrains to be compared with (champion).
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from classifier.deployment.champion import keep_champion, remove_champion
from classifier.deployment.endpoint_actions import Outcome, apply_plan, settle, update
from classifier.deployment.hosting import Hosting, read_hosting, required_text
from classifier.deployment.model_versions import ModelVersion, model_version, newest_approved, served_version
from classifier.deployment.resources import config_exists
from classifier.deployment.rollout import make_plan
from classifier.deployment.services import DeployError, endpoint_named, explained

MODEL_PACKAGE_CHANGE = "SageMaker Model Package State Change"
ENDPOINT_CHANGE = "SageMaker Endpoint State Change"

WAITING = "WaitingForApproval"
NOT_DEPLOYED = "NotDeployed"


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """The Lambda entry point."""
    try:
        outcome = deploy(event)
    except (ClientError, ParamValidationError) as error:
        sentence = explained(error)
        if sentence is None:
            raise
        raise sentence from error
    print(outcome.message, flush=True)
    return {name: value for name, value in asdict(outcome).items() if name != "left_undone"}


def deploy(event: dict[str, Any]) -> Outcome:
    """One step towards an endpoint that serves the newest approved version."""
    kind = event.get("detail-type")
    if kind not in SOURCES:
        accepted = " and ".join(f"'{name}'" for name in SOURCES if name)
        raise DeployError(f"The event is a '{kind}', but only {accepted} are understood.")
    hosting = read_hosting({} if kind else event)
    outcome = SOURCES[kind](hosting, event)
    if not outcome.left_undone:
        return outcome
    message = f"{outcome.message} {outcome.left_undone}"
    if kind:  # Lambda calls again, and if that does not help, an alarm tells somebody
        raise DeployError(message)
    return replace(outcome, message=message)


def _by_step(hosting: Hosting, event: dict[str, Any]) -> Outcome:
    asked = model_version(required_text(event, "model_package_arn"))
    return _deploy(hosting, asked) if asked.approval == "Approved" else _waiting(hosting, asked)


def _by_registry(hosting: Hosting, event: dict[str, Any]) -> Outcome:
    asked = model_version(event["detail"]["ModelPackageArn"])
    outcome = APPROVALS.get(asked.approval, _waiting)(hosting, asked)
    if outcome.endpoint_status == "Deleting":  # Lambda calls again a minute later, when the endpoint is gone
        raise DeployError(outcome.message)
    return outcome


def _by_endpoint(hosting: Hosting, event: dict[str, Any]) -> Outcome:
    """After the endpoint's status changed: what had to wait for it."""
    name, changed = hosting.endpoint_name, event["detail"]["EndpointName"]
    if changed.lower() != name.lower():  # events give names in either case
        return Outcome(changed, NOT_DEPLOYED, "", f"Endpoint {changed} is not {name}, so it is left alone.")
    endpoint = endpoint_named(name)
    if endpoint is None:
        return Outcome(name, NOT_DEPLOYED, "", f"Endpoint {name} does not exist, so nothing changes.")
    status = endpoint["EndpointStatus"]
    if status != "InService":
        reason = f" ({endpoint['FailureReason'].rstrip('.')})" if endpoint.get("FailureReason") else ""
        return Outcome(name, status, "", f"Endpoint {name} is {status}{reason}, so nothing changes.")
    served = served_version(endpoint)
    if served is None:
        return Outcome(name, status, "", f"Endpoint {name} serves no registered version, so it is left alone.")
    return _catch_up(hosting, served, endpoint)


def _catch_up(hosting: Hosting, served: ModelVersion, endpoint: dict[str, Any]) -> Outcome:
    """Deploy what was approved while the endpoint took no update."""
    wanted = newest_approved(served)
    if wanted is None or wanted.arn == served.arn:
        return settle(hosting, endpoint, served)
    plan = make_plan(hosting, wanted)
    failure = endpoint.get("FailureReason", "").rstrip(".")
    if failure and config_exists(plan.config_name):
        message = f"serves {served} after the update to {wanted} failed ({failure}): "
        again = "`run_pipeline.py approve` tries it again, `run_pipeline.py reject` gives it up."
        outcome = settle(hosting, endpoint, served)
        return replace(outcome, message=f"Endpoint {hosting.endpoint_name} {message}{again}")
    return update(plan, endpoint)


def _deploy(hosting: Hosting, asked: ModelVersion) -> Outcome:
    """The newest approved version, which is mostly the one asked for."""
    if asked.status in ("Pending", "InProgress"):
        message = f"{asked} is still being created ({asked.status}): it is deployed once it is Completed."
        return Outcome(hosting.endpoint_name, f"ModelPackage{asked.status}", asked.arn, message)
    if asked.status != "Completed":
        raise DeployError(
            f"{asked} has status {asked.status} and cannot be deployed: "
            "register the model again, or approve another version."
        )
    wanted = newest_approved(asked) or asked
    outcome = apply_plan(make_plan(hosting, wanted), endpoint_named(hosting.endpoint_name))
    if wanted.arn == asked.arn:
        return outcome
    prefix = f"{asked} is older than the approved version {wanted.version}. "
    return replace(outcome, message=prefix + outcome.message)


def _withdraw(hosting: Hosting, asked: ModelVersion) -> Outcome:
    """After a rejection: the newest version still approved takes over an endpoint that exists."""
    prefix = f"{asked} is rejected. "
    name, endpoint, wanted = hosting.endpoint_name, endpoint_named(hosting.endpoint_name), newest_approved(asked)
    # The champion at once: whatever the endpoint does, no retrain is to be compared with a rejected model.
    undone = keep_champion(hosting, wanted) if wanted else remove_champion(hosting)
    if endpoint is None:
        message = f"{prefix}Endpoint {name} does not exist, so nothing changes."
        return Outcome(name, NOT_DEPLOYED, asked.arn, message, undone)
    if wanted is None:
        message = f"{prefix}No other version is approved, so endpoint {name} keeps what it serves."
        return Outcome(name, endpoint["EndpointStatus"], asked.arn, message, undone)
    outcome = apply_plan(make_plan(hosting, wanted), endpoint)
    undone = outcome.left_undone or (undone and keep_champion(hosting, wanted))
    return replace(outcome, message=prefix + outcome.message, left_undone=undone)


def _waiting(hosting: Hosting, asked: ModelVersion) -> Outcome:
    state = {"Rejected": "is rejected"}.get(asked.approval, "waits for approval")
    message = f"{asked} {state}: nothing is deployed until `run_pipeline.py approve` approves it."
    return Outcome(hosting.endpoint_name, WAITING, asked.arn, message)


APPROVALS: dict[str, Callable[[Hosting, ModelVersion], Outcome]] = {"Approved": _deploy, "Rejected": _withdraw}
SOURCES: dict[str | None, Callable[[Hosting, dict[str, Any]], Outcome]] = {  # by the event's detail-type
    None: _by_step,
    MODEL_PACKAGE_CHANGE: _by_registry,
    ENDPOINT_CHANGE: _by_endpoint,
}
