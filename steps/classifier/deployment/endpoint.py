"""The endpoint: one step towards serving a version, by the status that it is found in. Nothing here waits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from classifier.deployment.hosting import Hosting
from classifier.deployment.rollout import ATTEMPTED_TAG, VARIANT, Plan, digest, is_serverless, make_plan, update_request
from classifier.deployment.services import DeployError, ModelVersion, OtherClasses, client, found, model_version, said

IN_SERVICE = "once it is InService, its state change event or `run_pipeline.py approve {number}` deploys it"
AGAIN = {  # what deploys a version on an endpoint that takes no update now, where that is not IN_SERVICE
    "Deleting": "once it is gone, `run_pipeline.py approve {number}` creates it anew",
    "UpdateRollbackFailed": "delete the endpoint, then use `run_pipeline.py approve {number}`",
}
CLASSES_LENGTH = 60  # characters of a version's classes in a sentence


@dataclass(frozen=True)
class Outcome:
    """What the handler did."""

    status: str  # SageMaker's EndpointStatus, or NotDeployed, WaitingForApproval, ModelPackagePending or -InProgress
    version_arn: str
    message: str
    champion: ModelVersion | None = None  # what retrains are to be compared with from now on; None: as before


def describe_endpoint(name: str) -> dict[str, Any] | None:
    """DescribeEndpoint, or None if there is none."""
    return found(client("sagemaker").describe_endpoint, EndpointName=name)


def served_version(endpoint: dict[str, Any]) -> ModelVersion | None:
    """The version behind an endpoint's configuration in service; None if it is no model package, or a deleted one."""
    sagemaker = client("sagemaker")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    model = sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    arn = (model.get("Containers") or [{}])[0].get("ModelPackageName")
    return found(model_version, arn=arn) if arn else None


def attempted_version(endpoint: dict[str, Any]) -> str | None:
    """The ARN that the endpoint was last asked to serve; it serves another one if that failed or was rolled back."""
    tags = client("sagemaker").list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
    return {tag["Key"]: tag["Value"] for tag in tags}.get(ATTEMPTED_TAG)


def serve(hosting: Hosting, version: ModelVersion, endpoint: dict[str, Any] | None) -> Outcome:
    """Act on the endpoint as DescribeEndpoint found it; None: there is none."""
    plan = make_plan(hosting, version)
    if endpoint is None:
        return _create(plan)
    return ACTIONS.get(endpoint["EndpointStatus"], _leave)(plan, endpoint)


def settle(hosting: Hosting, endpoint: dict[str, Any], served: ModelVersion) -> Outcome:
    """An InService endpoint that keeps what it serves: its autoscaling, and what is no longer used."""
    _apply_autoscaling(hosting, is_on=hosting.is_autoscaled)
    _remove_unused(hosting, endpoint["EndpointConfigName"])
    return Outcome("InService", served.arn, f"Endpoint {hosting.endpoint_name} already serves {served}.", served)


def _create(plan: Plan) -> Outcome:
    """CreateEndpoint. Autoscaling has to wait until it is InService."""
    _send(plan, client("sagemaker").create_endpoint, plan.endpoint)
    _remove_unused(plan.hosting, plan.config_name)
    return _outcome(plan, "Creating", f"is being created with {plan.version}.", champion=plan.version)


def _update(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    """UpdateEndpoint, unless it serves the plan already."""
    hosting, sagemaker = plan.hosting, client("sagemaker")
    if endpoint["EndpointConfigName"] == plan.config_name:
        return settle(hosting, endpoint, plan.version)
    _refuse_other_classes(plan, endpoint)
    if hosting.is_serverless and not is_serverless(endpoint):
        raise DeployError(
            f"Endpoint {hosting.endpoint_name} has instances, and SageMaker cannot turn it into a serverless one: "
            f"delete it and use `run_pipeline.py approve {plan.version.version}`, or set deploy.serverless.memory_mb "
            "to 0."
        )
    _send(plan, sagemaker.update_endpoint, update_request(plan, endpoint))
    sagemaker.add_tags(ResourceArn=endpoint["EndpointArn"], Tags=plan.endpoint["Tags"])
    _remove_unused(hosting, plan.config_name, endpoint["EndpointConfigName"])
    return _outcome(plan, "Updating", f"is being updated to {plan.version}.", champion=plan.version)


def _refuse_other_classes(plan: Plan, endpoint: dict[str, Any]) -> None:
    """Raise OtherClasses unless the version knows the classes of the one in service, or may replace them."""
    new, served = plan.version, served_version(endpoint)
    if served is None or new.metadata.get("replace_classes") == "true":
        return
    before, after = (each.metadata.get("classes_sha256") for each in (served, new))
    if before and after and before != after:
        raise OtherClasses(
            f"{new} knows other classes ({_few(new)}) than {served} ({_few(served)}), which endpoint "
            f"{plan.hosting.endpoint_name} serves: `run_pipeline.py approve {new.version} --replace-classes` replaces "
            f"it, `run_pipeline.py reject {new.version}` gives the new one up."
        )


def _few(version: ModelVersion) -> str:
    """Its number of classes and the first of them."""
    text = version.metadata.get("classes", "")
    return text if len(text) <= CLASSES_LENGTH else f"{text[:CLASSES_LENGTH].rpartition(' / ')[0] or text[:20]} ..."


def _recreate(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    """A Failed endpoint can only be deleted; it is created again if it is gone at once, as deleting does not wait."""
    name = plan.hosting.endpoint_name
    _apply_autoscaling(plan.hosting, is_on=False)
    client("sagemaker").delete_endpoint(EndpointName=name)
    if describe_endpoint(name) is None:
        return _create(plan)
    reason = endpoint.get("FailureReason", "no reason given").rstrip(".")
    again = AGAIN["Deleting"].format(number=plan.version.version)
    message = f"had failed ({reason}) and is being deleted: {again} with {plan.version}."
    return _outcome(plan, "Deleting", message)


def _leave(plan: Plan, endpoint: dict[str, Any]) -> Outcome:
    """An endpoint that takes no update now."""
    status = endpoint["EndpointStatus"]
    under_way = endpoint.get("PendingDeploymentSummary", endpoint)["EndpointConfigName"]
    if status in ("Creating", "Updating") and under_way == plan.config_name:
        return _outcome(plan, status, f"is {status} with {plan.version} already.", champion=plan.version)
    again = AGAIN.get(status, IN_SERVICE).format(number=plan.version.version)
    return _outcome(plan, status, f"is {status}, so {plan.version} is not deployed: {again}.")


ACTIONS: dict[str, Callable[[Plan, dict[str, Any]], Outcome]] = {"InService": _update, "Failed": _recreate}


def _outcome(plan: Plan, status: str, message: str, champion: ModelVersion | None = None) -> Outcome:
    return Outcome(status, plan.version.arn, f"Endpoint {plan.hosting.endpoint_name} {message}", champion)


def _send(plan: Plan, request: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Make the plan's model and configuration, and send CreateEndpoint or UpdateEndpoint.

    What a refused request leaves costs nothing: the next call finds it by its name, or removes it as unused.
    """
    sagemaker = client("sagemaker")
    for create, content in ("create_model", plan.model), ("create_endpoint_config", plan.endpoint_config):
        try:
            getattr(sagemaker, create)(**content)
        except ClientError as error:
            if "already exist" not in said(error).lower():  # the same name means the same content
                raise
    try:
        request(**arguments)
    except (ClientError, BotoCoreError):
        # It took effect all the same if its answer was lost, or if an equal call was quicker.
        if plan.config_name not in _configs_in_use(plan.hosting):
            raise


def _configs_in_use(hosting: Hosting) -> set[str]:
    """The endpoint configurations that the endpoint serves or is going to."""
    endpoint = describe_endpoint(hosting.endpoint_name) or {}
    return {each.get("EndpointConfigName", "") for each in (endpoint, endpoint.get("PendingDeploymentSummary", {}))}


def _remove_unused(hosting: Hosting, *also_used: str) -> None:
    """Remove this endpoint's configurations, with their models, but those in use and the last `keep_versions`.

    A failure is printed only: the deployment is done, and the next one tries again.
    """
    sagemaker, mark = client("sagemaker"), digest(hosting.endpoint_name)
    query = {"NameContains": f"-{mark}-", "SortBy": "CreationTime", "SortOrder": "Descending"}
    try:
        pages = sagemaker.get_paginator("list_endpoint_configs").paginate(**query)
        names = [config["EndpointConfigName"] for page in pages for config in page["EndpointConfigs"]]
        in_use = {*_configs_in_use(hosting), *also_used}  # asked last, just before something is deleted
        unused = [name for name in names if name.split("-")[-3:-2] == [mark] and name not in in_use]
        kept_models = {name.rpartition("-")[0] for name in in_use.union(unused[: hosting.keep_versions])}
        for name in unused[hosting.keep_versions :]:
            model = name.rpartition("-")[0]
            if model not in kept_models:  # it goes first, as only configurations are listed
                found(sagemaker.delete_model, ModelName=model)
            found(sagemaker.delete_endpoint_config, EndpointConfigName=name)
    except (ClientError, BotoCoreError) as error:
        print(f"Unused models and endpoint configurations were not removed: {error}", flush=True)


def _apply_autoscaling(hosting: Hosting, *, is_on: bool) -> None:
    """Make or remove the scalable target and its policy, unless autoscaling is left alone.

    Only an InService endpoint may have one, so a new one gets it by its state change event. Updates keep it.
    """
    if not hosting.autoscaling_max:
        return
    scaling = client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{hosting.endpoint_name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    if not is_on:
        found(scaling.deregister_scalable_target, **target)  # and with it its policies and their alarms
        return
    low, high = hosting.autoscaling_min, hosting.autoscaling_max
    scaling.register_scalable_target(**target, MinCapacity=low, MaxCapacity=high)
    scaling.put_scaling_policy(
        **target,
        PolicyName="invocations-per-instance",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": hosting.autoscaling_target,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        },
    )
