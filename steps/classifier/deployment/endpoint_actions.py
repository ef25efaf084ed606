"""One step towards a plan, by the status that the endpoint is found in. Nothing here waits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from classifier.deployment.autoscaling import apply_autoscaling, stop_autoscaling
from classifier.deployment.champion import keep_champion
from classifier.deployment.hosting import Hosting
from classifier.deployment.model_versions import ModelVersion
from classifier.deployment.resources import put_into_service, remove_unused
from classifier.deployment.rollout import Plan, is_serverless, tags, update_request
from classifier.deployment.services import DeployError, client, endpoint_named

AGAIN = {  # what deploys a version on an endpoint that takes no update now
    "Deleting": "once it is gone, `run_pipeline.py approve` creates it anew",
    "UpdateRollbackFailed": "delete the endpoint, then use `run_pipeline.py approve`",
}
AGAIN_IN_SERVICE = "once it is InService, its state change event or `run_pipeline.py approve` deploys it"


@dataclass(frozen=True)
class Outcome:
    """What the handler returns: the Lambda step's OutputParameters.

    endpoint_status is SageMaker's EndpointStatus, or WaitingForApproval, NotDeployed, ModelPackagePending,
    ModelPackageInProgress when this call did not touch the endpoint. left_undone is no output: a sentence about the
    champion (see `champion`), which a later call has to bring up to date.
    """

    endpoint_name: str
    endpoint_status: str
    model_package_arn: str
    message: str
    left_undone: str = ""


def apply_plan(plan: Plan, endpoint: dict[str, Any] | None) -> Outcome:
    """Act on the endpoint as DescribeEndpoint found it; None: there is none."""
    if endpoint is None:
        return create(plan)
    return ACTIONS.get(endpoint["EndpointStatus"], _leave)(plan, endpoint)


def create(plan: Plan) -> Outcome:
    """CreateEndpoint. Autoscaling has to wait until it is InService."""
    hosting = plan.hosting
    request = {"EndpointName": hosting.endpoint_name, "EndpointConfigName": plan.config_name, **tags(hosting)}
    put_into_service(plan, client("sagemaker").create_endpoint, request)
    remove_unused(hosting, {plan.config_name})
    return _served(plan, "Creating", f"is being created with {plan.version}.")


def update(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    """UpdateEndpoint, unless it serves the plan already."""
    hosting = plan.hosting
    if endpoint["EndpointConfigName"] == plan.config_name:
        return settle(hosting, endpoint, plan.version)
    if hosting.is_serverless and not is_serverless(endpoint):
        raise DeployError(
            f"Endpoint {hosting.endpoint_name} has instances, and SageMaker cannot turn it into a serverless one: "
            "delete it and use `run_pipeline.py approve`, or set deploy.serverless.memory_mb to 0."
        )
    put_into_service(plan, client("sagemaker").update_endpoint, update_request(plan, endpoint))
    remove_unused(hosting, {plan.config_name, endpoint["EndpointConfigName"]})
    return _served(plan, "Updating", f"is being updated to {plan.version}.")


def settle(hosting: Hosting, endpoint: dict[str, Any], served: ModelVersion) -> Outcome:
    """An InService endpoint that keeps what it serves: its autoscaling, the champion, and what is no longer used."""
    apply_autoscaling(hosting)
    remove_unused(hosting, {endpoint["EndpointConfigName"]})
    message = f"Endpoint {hosting.endpoint_name} already serves {served}."
    undone = keep_champion(hosting, served) if served.approval == "Approved" else ""
    return Outcome(hosting.endpoint_name, "InService", served.arn, message, undone)


def recreate(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    """A Failed endpoint can only be deleted; it is created again if it is gone at once, as deleting does not wait."""
    name = plan.hosting.endpoint_name
    stop_autoscaling(plan.hosting)
    client("sagemaker").delete_endpoint(EndpointName=name)
    if endpoint_named(name) is None:
        return create(plan)
    reason = endpoint.get("FailureReason", "no reason given").rstrip(".")
    message = f"had failed ({reason}) and is being deleted: {AGAIN['Deleting']} with {plan.version}."
    return _outcome(plan, "Deleting", message)


def _leave(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    """An endpoint that takes no update now."""
    status = endpoint["EndpointStatus"]
    under_way = endpoint.get("PendingDeploymentSummary", endpoint)["EndpointConfigName"]
    if status in ("Creating", "Updating") and under_way == plan.config_name:
        return _served(plan, status, f"is {status} with {plan.version} already.")
    again = AGAIN.get(status, AGAIN_IN_SERVICE)
    return _outcome(plan, status, f"is {status}, so {plan.version} is not deployed: {again}.")


def _served(plan: Plan, status: str, message: str) -> Outcome:
    """The endpoint is asked to serve the plan's version, which makes it the champion."""
    return replace(_outcome(plan, status, message), left_undone=keep_champion(plan.hosting, plan.version))


def _outcome(plan: Plan, status: str, message: str) -> Outcome:
    name = plan.hosting.endpoint_name
    return Outcome(name, status, plan.version.arn, f"Endpoint {name} {message}")


ACTIONS: dict[str, Callable[[Plan, dict[str, Any]], Outcome]] = {"InService": update, "Failed": recreate}
