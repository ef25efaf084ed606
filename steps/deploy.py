"""The deploy Lambda: makes an endpoint serve what the model registry approves. boto3 and the standard library only.

One rule decides, whatever called the handler and in whichever order: an endpoint serves the newest approved version of
its model package group. So a repeated or late event changes nothing, an older version never replaces a newer approved
one, and rejecting the version in service brings back the newest that is still approved.

The handler is called
- by the pipeline's Lambda step with a flat event: model_package_arn, endpoint_name, execution_role_arn, instance_type,
  initial_instance_count. What the step registered is deployed if it is the newest approved version; if a newer one was
  approved meanwhile, the endpoint gets that one, and the message says so.
- by EventBridge with a `SageMaker Model Package State Change`; the other values come from the environment variables
  ENDPOINT_NAME, EXECUTION_ROLE_ARN, INSTANCE_TYPE, INITIAL_INSTANCE_COUNT. The event may be stale: the registry is
  asked.

It never waits: a Lambda step has ten minutes, an endpoint may take longer. It returns flat strings (see Outcome); a
raised error fails the step, and makes Lambda try an asynchronous invocation again.

Flow: read the request -> describe the version -> choose the newest approved -> plan names -> act on the endpoint's
status. Models and endpoint configurations are named after group, version and a hash of their content, so the same
request finds and reuses what an earlier one made.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import boto3
from botocore.exceptions import ClientError, ParamValidationError

STATE_CHANGE = "SageMaker Model Package State Change"
VARIANT = "AllTraffic"
NAME_LIMIT = 63  # characters in the name of a model, a configuration or an endpoint

WAITING = "WaitingForApproval"
NOT_DEPLOYED = "NotDeployed"

REMEDIES = {  # error codes that a person can mend
    "AccessDeniedException": "allow the function's role this action",
    "AccessDenied": "allow the function's role this action",
    "ResourceLimitExceeded": "ask for a higher quota or choose another deploy.instance_type",
    "ResourceInUse": "run it again once the other change has ended",
    "ResourceNotFound": "correct the name or create it",
    "ValidationException": "correct what it names",
}
AGAIN = {  # what to do about an endpoint that takes no update now
    "Deleting": "once it is gone, `run_pipeline.py approve` creates it anew",
    "UpdateRollbackFailed": "delete the endpoint, then use `run_pipeline.py approve`",
}


class DeployError(Exception):
    """Nothing was deployed; the text is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Hosting:
    """Where and on what a version is served."""

    endpoint_name: str
    execution_role_arn: str
    instance_type: str
    initial_instance_count: int


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model package group, by DescribeModelPackage; version 0 is a package without a group."""

    arn: str
    group: str
    version: int
    approval: str
    status: str
    content: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.group} version {self.version}" if self.version else self.group


@dataclass(frozen=True)
class Plan:
    """The requests that serve one version; both names are known before anything is created."""

    version: ModelVersion
    hosting: Hosting
    model: dict[str, Any]
    endpoint_config: dict[str, Any]

    @property
    def config_name(self) -> str:
        """The name of the endpoint configuration."""
        return str(self.endpoint_config["EndpointConfigName"])


@dataclass(frozen=True)
class Outcome:
    """What the handler returns: the Lambda step's OutputParameters.

    endpoint_status is SageMaker's EndpointStatus, or WaitingForApproval, NotDeployed, ModelPackagePending,
    ModelPackageInProgress when this call did not touch the endpoint.
    """

    endpoint_name: str
    endpoint_status: str
    model_package_arn: str
    message: str


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """The Lambda entry point."""
    try:
        outcome = deploy(event)
    except ParamValidationError as error:
        details = "; ".join(str(error).splitlines()[1:])  # the first line is a heading
        raise DeployError(f"A value is not acceptable to SageMaker: {details}; correct it.") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code not in REMEDIES:  # throttling and faults of the service: the caller tries again
            raise
        message = " ".join(_message(error).split()).rstrip(".")
        raise DeployError(f"SageMaker refused {error.operation_name}: {message}; {REMEDIES[code]}.") from error
    print(outcome.message, flush=True)
    return asdict(outcome)


def deploy(event: dict[str, Any]) -> Outcome:
    """One step towards an endpoint that serves the newest approved version."""
    is_event = "detail" in event
    hosting = _hosting({} if is_event else event)
    asked = _model_version(_event_arn(event) if is_event else _text(event, "model_package_arn"))
    if asked.approval == "Approved":
        return _unfinished(hosting, asked) or _deploy_newest(hosting, asked)
    if asked.approval == "Rejected" and is_event:
        return _withdraw(hosting, asked)
    return _waiting(hosting, asked)


def _deploy_newest(hosting: Hosting, asked: ModelVersion) -> Outcome:
    wanted = _newest_approved(asked) or asked
    outcome = _apply(_plan(hosting, wanted), _endpoint(hosting.endpoint_name))
    if wanted.arn == asked.arn:
        return outcome
    prefix = f"{asked} is older than the approved version {wanted.version}. "
    return replace(outcome, message=prefix + outcome.message)


def _withdraw(hosting: Hosting, asked: ModelVersion) -> Outcome:
    """After a rejection: the newest version still approved takes over an endpoint that exists."""
    prefix = f"{asked} is rejected. "
    endpoint = _endpoint(hosting.endpoint_name)
    if endpoint is None:
        message = f"{prefix}Endpoint {hosting.endpoint_name} does not exist, so nothing changes."
        return Outcome(hosting.endpoint_name, NOT_DEPLOYED, asked.arn, message)
    wanted = _newest_approved(asked)
    if wanted is None:
        message = f"{prefix}No other version is approved, so endpoint {hosting.endpoint_name} keeps what it serves."
        return Outcome(hosting.endpoint_name, endpoint["EndpointStatus"], asked.arn, message)
    outcome = _apply(_plan(hosting, wanted), endpoint)
    return replace(outcome, message=prefix + outcome.message)


def _waiting(hosting: Hosting, asked: ModelVersion) -> Outcome:
    state = {"Rejected": "is rejected"}.get(asked.approval, "waits for approval")
    message = f"{asked} {state}: nothing is deployed until `run_pipeline.py approve` approves it."
    return Outcome(hosting.endpoint_name, WAITING, asked.arn, message)


def _unfinished(hosting: Hosting, asked: ModelVersion) -> Outcome | None:
    """The outcome for an approved version that SageMaker has not finished creating; None when it has."""
    if asked.status == "Completed":
        return None
    if asked.status not in ("Pending", "InProgress"):
        raise DeployError(
            f"{asked} has status {asked.status} and cannot be deployed: "
            "register the model again, or approve another version."
        )
    message = f"{asked} is still being created ({asked.status}): it is deployed once it is Completed."
    return Outcome(hosting.endpoint_name, f"ModelPackage{asked.status}", asked.arn, message)


def _model_version(arn: str) -> ModelVersion:
    found = sagemaker().describe_model_package(ModelPackageName=arn)
    return ModelVersion(
        arn=found["ModelPackageArn"],
        group=found.get("ModelPackageGroupName") or found["ModelPackageName"],
        version=found.get("ModelPackageVersion", 0),
        approval=found.get("ModelApprovalStatus", ""),
        status=found["ModelPackageStatus"],
        content=found.get("InferenceSpecification", {}),
    )


def _newest_approved(asked: ModelVersion) -> ModelVersion | None:
    """The newest version of the group of `asked` that is approved and complete; lists may lag, so it is described."""
    approved = asked if asked.approval == "Approved" else None
    for summary in _approved_summaries(asked.group) if asked.version else ():
        if approved and summary["ModelPackageVersion"] <= approved.version:
            break
        version = _model_version(summary["ModelPackageArn"])
        if version.approval == "Approved" and version.status == "Completed":
            return version
    return approved


def _approved_summaries(group: str) -> Iterator[dict[str, Any]]:
    """ListModelPackages, newest first."""
    query = {"ModelApprovalStatus": "Approved", "SortBy": "CreationTime", "SortOrder": "Descending"}
    pages = sagemaker().get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **query)
    return (summary for page in pages for summary in page["ModelPackageSummaryList"])


def _plan(hosting: Hosting, version: ModelVersion) -> Plan:
    model: dict[str, Any] = {
        "ExecutionRoleArn": hosting.execution_role_arn,
        "Containers": [{"ModelPackageName": version.arn}],
    }
    model["ModelName"] = _name(version, {"model": model, "package": version.content})
    endpoint_config: dict[str, Any] = {
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model["ModelName"],
                "InstanceType": hosting.instance_type,
                "InitialInstanceCount": hosting.initial_instance_count,
                "InitialVariantWeight": 1.0,
            }
        ]
    }
    endpoint_config["EndpointConfigName"] = _name(version, endpoint_config)
    return Plan(version, hosting, model, endpoint_config)


def _name(version: ModelVersion, content: dict[str, Any]) -> str:
    """`<group>-<version>-<8 hex digits of the content's hash>`, the group cut so that it fits."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
    suffix = f"-{version.version}-{digest}"
    return version.group[: NAME_LIMIT - len(suffix)].rstrip("-") + suffix


def _apply(plan: Plan, endpoint: dict[str, Any] | None) -> Outcome:
    """One step towards the plan, by the status that the endpoint is found in."""
    if endpoint is None:
        return _create(plan)
    return ACTIONS.get(endpoint["EndpointStatus"], _busy)(plan, endpoint)


def _create(plan: Plan) -> Outcome:
    _create_model_and_config(plan)
    sagemaker().create_endpoint(EndpointName=plan.hosting.endpoint_name, EndpointConfigName=plan.config_name)
    return _outcome(plan, "Creating", f"is being created with {plan.version}.")


def _update(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    if endpoint["EndpointConfigName"] == plan.config_name:
        return _outcome(plan, "InService", f"already serves {plan.version}.")
    _create_model_and_config(plan)
    sagemaker().update_endpoint(EndpointName=plan.hosting.endpoint_name, EndpointConfigName=plan.config_name)
    return _outcome(plan, "Updating", f"is being updated to {plan.version}.")


def _recreate(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    """A Failed endpoint can only be deleted; it is created again if it is gone at once, as deleting does not wait."""
    sagemaker().delete_endpoint(EndpointName=plan.hosting.endpoint_name)
    if _endpoint(plan.hosting.endpoint_name) is None:
        return _create(plan)
    reason = endpoint.get("FailureReason", "no reason given").rstrip(".")
    return _outcome(
        plan, "Deleting", f"had failed ({reason}) and is being deleted: {AGAIN['Deleting']} with {plan.version}."
    )


def _busy(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    status = endpoint["EndpointStatus"]
    under_way = endpoint.get("PendingDeploymentSummary", endpoint)["EndpointConfigName"]
    if status in ("Creating", "Updating") and under_way == plan.config_name:
        return _outcome(plan, status, f"is {status} with {plan.version} already.")
    again = AGAIN.get(status, "once it is InService, `run_pipeline.py approve` deploys it")
    return _outcome(plan, status, f"is {status}, so {plan.version} is not deployed: {again}.")


ACTIONS: dict[str, Callable[[Plan, dict[str, Any]], Outcome]] = {"InService": _update, "Failed": _recreate}


def _outcome(plan: Plan, status: str, message: str) -> Outcome:
    name = plan.hosting.endpoint_name
    return Outcome(name, status, plan.version.arn, f"Endpoint {name} {message}")


def _endpoint(name: str) -> dict[str, Any] | None:
    return _found(sagemaker().describe_endpoint, EndpointName=name)


def _create_model_and_config(plan: Plan) -> None:
    client = sagemaker()
    if _found(client.describe_model, ModelName=plan.model["ModelName"]) is None:
        _create_once(client.create_model, plan.model)
    if _found(client.describe_endpoint_config, EndpointConfigName=plan.config_name) is None:
        _create_once(client.create_endpoint_config, plan.endpoint_config)


def _found(describe: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
    """The description, or None: SageMaker answers a missing name with a ValidationException `Could not find ...`."""
    try:
        return describe(**name)
    except ClientError as error:
        if "could not find" in _message(error).lower():
            return None
        raise


def _create_once(create: Callable[..., dict[str, Any]], request: dict[str, Any]) -> None:
    """Creates, unless a call at the same time was quicker: the same name means the same content."""
    try:
        create(**request)
    except ClientError as error:
        if "already exist" not in _message(error).lower():
            raise


def _message(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", error))


def _event_arn(event: dict[str, Any]) -> str:
    if event.get("detail-type") != STATE_CHANGE:
        raise DeployError(f"The event is a '{event.get('detail-type')}', but only a '{STATE_CHANGE}' is understood.")
    return str(event["detail"]["ModelPackageArn"])


def _hosting(event: dict[str, Any]) -> Hosting:
    count = _text(event, "initial_instance_count")
    if not count.isdecimal() or int(count) < 1:
        raise DeployError(f"initial_instance_count must be a whole number of at least 1, but got '{count}'.")
    return Hosting(
        endpoint_name=_text(event, "endpoint_name"),
        execution_role_arn=_text(event, "execution_role_arn"),
        instance_type=_text(event, "instance_type"),
        initial_instance_count=int(count),
    )


def _text(event: dict[str, Any], key: str) -> str:
    value = event.get(key)
    if value in (None, ""):
        value = os.environ.get(key.upper(), "")
    if value == "":
        raise DeployError(
            f"The event has no '{key}' and the environment variable {key.upper()} is not set: give one of them."
        )
    return str(value)


@functools.cache
def sagemaker() -> Any:
    """The client, made by the default session when first needed and kept while the container lives."""
    return boto3.client("sagemaker")
