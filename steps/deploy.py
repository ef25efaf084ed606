"""The deploy Lambda: makes an endpoint serve what the model registry approves. boto3 and the standard library only.

One rule decides, whatever called the handler and in whichever order: an endpoint serves the newest approved version of
its model package group. So repeated and late events change nothing, and rejecting the version in service brings back
the newest that is still approved. Nothing here waits. An error fails the pipeline's step, and makes Lambda try an event
again: what was made by then is found by its name, which stands for its content.

What is served is a copy that only this function writes, `<models_uri>/<group>-<version>-<checksum>/model.tar.gz`, with
the SHA-256 that was registered when the model was evaluated. Copies stay when models go: an older approved version
comes back though its training's files are gone. `<champion_uri>/` holds a copy for retrains to be compared with, its
baseline.json, and champion.json, which says which version they are; it goes first and comes back last.
"""

import base64
import functools
import hashlib
import json
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

Request = dict[str, Any]
AWS_ERRORS = (ClientError, BotoCoreError)
CLIENT_CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
REMEDIES = {"AccessDenied": "allow the function's role this action", "LimitExceeded": "ask for a higher quota"}
ABSENT = ("could not find", "does not exist", "not found", "no scalable target")  # in the text of an error
VARIANT = "AllTraffic"  # always the same, so that autoscaling survives an update
VERSION_TAG = "deploy:version"  # of a model: the ARN of its version
ATTEMPT_TAG = "deploy:attempted"  # of the endpoint: its last update, see Endpoint.attempt
GROUP_LENGTH = 35  # of the 63 characters of a name; the rest is for six digits of version and hashes
PROVISIONING_SECONDS = 3600  # for starting the new instances, beside the waits
LOCAL_STORAGE = re.compile(r"ml\.([a-z]+\d+[a-z]*d|g[5-9]|p[5-9]|trn|dl)")  # encrypted by hardware; refuse a KMS key


class DeployError(Exception):
    """What was to be done is not done; the text is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """Where and how a version is served. Each field is an environment variable of the same name in capitals."""

    endpoint_name: str
    execution_role_arn: str  # of the model, in this account: it reads the copy and the image, writes logs
    models_uri: str  # s3://bucket/prefix of the archives that are served
    champion_uri: str  # s3://bucket/prefix; empty: no champion is kept
    instance_type: str
    initial_instance_count: int
    canary_fraction: float  # of the new instances take traffic first; 0: all at once
    canary_wait_seconds: int  # how long the alarms watch before the rest of the traffic, and the old fleet's end
    rollback_alarms: list[str]  # names of CloudWatch alarms; any of them undoes an update
    autoscaling_min: int  # instances
    autoscaling_max: int  # instances; 0: autoscaling is left alone, 1: it is switched off
    autoscaling_target: float  # invocations per minute and instance
    data_capture_percent: int
    data_capture_uri: str  # s3://bucket/prefix
    serverless_memory_mb: int  # 0: instances
    serverless_max_concurrency: int
    keep_versions: int  # unused endpoint configurations that are kept, with their models
    subnet_ids: list[str]
    security_group_ids: list[str]
    network_isolation: bool  # of instances; SageMaker has none for serverless endpoints
    kms_key_arn: str
    tags: list[dict[str, str]]  # of what is made; given as a JSON object


PARSERS: dict[Any, Callable[[str], Any]] = {
    **{kind: kind for kind in (str, int, float)},
    bool: lambda text: bool(["false", "true"].index(text.lower())),
    list[str]: lambda text: [part.strip() for part in text.split(",") if part.strip()],
    list[dict[str, str]]: lambda text: [{"Key": key, "Value": str(value)} for key, value in json.loads(text).items()],
}


def read_settings(endpoint_name: str) -> Settings:
    """Return the function's environment, but for an endpoint that is named; DeployError if a variable is wrong."""
    given, values = {**os.environ, **({"ENDPOINT_NAME": endpoint_name} if endpoint_name else {})}, {}
    for each in fields(Settings):
        try:
            values[each.name] = PARSERS[each.type](given[each.name.upper()])
        except (KeyError, ValueError, AttributeError) as error:
            wrong = f"{each.name.upper()} is {given.get(each.name.upper(), 'missing')!r}"
            raise DeployError(f"In the function's environment {wrong}: `run_pipeline.py infra` sets it.") from error
    return Settings(**values)


class ModelVersion:
    """One version of a model package group, as the registry has it now: events may be late or stale."""

    def __init__(self, arn: str) -> None:
        described = client("sagemaker").describe_model_package(ModelPackageName=arn)
        containers = described.get("InferenceSpecification", {}).get("Containers", [])
        statistics = described.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {})
        self.arn: str = described["ModelPackageArn"]
        self.group: str = described.get("ModelPackageGroupName") or described["ModelPackageName"]
        self.number: int = described.get("ModelPackageVersion", 0)  # 0: a package without a group
        self.approval: str = described.get("ModelApprovalStatus", "")
        self.status: str = described["ModelPackageStatus"]
        self.metadata: dict[str, str] = described.get("CustomerMetadataProperties", {})
        self.sha256 = self.metadata.get("archive_sha256", "")  # hexadecimal
        self.container: Request = containers[0] if len(containers) == 1 else {}
        self.archive: str = self.container.get("ModelDataUrl", "")
        folder, _, name = statistics.get("S3Uri", "").rpartition("/")
        self.baseline = f"{folder}/baseline.json" if name else ""

    def __str__(self) -> str:
        return f"{self.group} version {self.number}" if self.number else self.group


class Outcome(NamedTuple):
    status: str  # SageMaker's EndpointStatus, NotDeployed or WaitingForApproval
    message: str
    version: ModelVersion | None = None
    champion: ModelVersion | None = None  # what retrains are to be compared with from now on; None: as before


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """The Lambda entry point; returns the Lambda step's OutputParameters."""
    kind, content = event.get("detail-type"), event.get("detail", event)
    if kind not in EVENTS:
        raise DeployError(f"The event is a '{kind}', but only {', '.join(filter(None, EVENTS))} are understood.")
    action, key = EVENTS[kind]
    if key not in content:
        raise DeployError(f"The event has no '{key}', which says what it is about.")
    settings, done = read_settings(event.get("endpoint_name", "")), ""
    try:
        outcome = action(Endpoint(settings), content[key])
        if outcome.champion and settings.champion_uri:
            done = f"{outcome.message} But {settings.champion_uri}, which the next training is compared with, is old: "
            keep_champion(settings, outcome.champion)
    except (DeployError, *AWS_ERRORS) as error:
        raise DeployError(f"{done}{explained(error)}") from error
    if kind and action is deploy and outcome.status == "Deleting":
        raise DeployError(outcome.message)  # Lambda calls again a minute later, when it may be gone
    print(outcome.message, flush=True)
    answer = {"endpoint_name": settings.endpoint_name, "endpoint_status": outcome.status, "message": outcome.message}
    return {**answer, "model_package_arn": outcome.version.arn if outcome.version else ""}


def deploy(endpoint: "Endpoint", version_arn: str) -> Outcome:
    """A version was registered, approved or rejected: serve the newest that is approved."""
    asked = ModelVersion(version_arn)
    if asked.approval not in ("Approved", "Rejected"):
        message = f"{asked} waits for approval: nothing is deployed until `run_pipeline.py approve` approves it."
        return Outcome("WaitingForApproval", message, asked)
    is_approved, wanted = asked.approval == "Approved", newest_approved(endpoint.settings, asked)
    if is_approved and asked.status != "Completed":
        again = f"`run_pipeline.py approve {asked.number}` tries it again once it is Completed"
        raise DeployError(f"{asked} has status {asked.status} and cannot be deployed: {again}.")
    if wanted and (is_approved or endpoint.described):
        outcome = endpoint.serve(wanted)
    else:
        kept = "keeps what it serves, as no other version is approved" if endpoint.described else "does not exist"
        outcome = Outcome(endpoint.status, f"Endpoint {endpoint.name} {kept}.", asked)
    if wanted and is_approved:
        older = "" if wanted.arn == asked.arn else f"{asked} is older than the approved version {wanted.number}. "
        return outcome._replace(message=older + outcome.message)
    return outcome._replace(message=f"{asked} is rejected. {outcome.message}", champion=wanted or asked)


def catch_up(endpoint: "Endpoint", changed: str) -> Outcome:
    """An endpoint changed: do what had to wait until it is InService, but try no update again that failed."""
    name, status = endpoint.name, endpoint.status
    if changed.lower() != name.lower():  # events give names in either case
        return Outcome("NotDeployed", f"Endpoint {changed} is not {name}, so it is left alone.")
    served = endpoint.served_version() if status == "InService" else None
    if served is None:
        what = {"InService": "serves no registered version", "Failed": f"is Failed ({endpoint.failure})"}
        return Outcome(status, f"Endpoint {name} {what.get(status, f'is {status}')}, so nothing changes.")
    wanted = newest_approved(endpoint.settings, served)
    if wanted is None:
        return endpoint.settle(served)
    approve, reject = (f"`run_pipeline.py {verb} {wanted.number}`" for verb in ("approve", "reject"))
    failed = f"Endpoint {name} serves {served} after the update to {wanted} failed ({endpoint.failure})"
    message = f"{failed}: {approve} tries it again, {reject} gives it up."
    try:
        if not endpoint.has_attempted(Plan(endpoint.settings, wanted), served):
            return endpoint.serve(wanted)
    except DeployError as refusal:  # which was raised when that version was registered or approved
        message = str(refusal)
    return endpoint.settle(served)._replace(message=message)


EVENTS: dict[str | None, tuple[Callable[["Endpoint", str], Outcome], str]] = {  # by detail-type; the step has none
    None: (deploy, "model_package_arn"),
    "SageMaker Model Package State Change": (deploy, "ModelPackageArn"),
    "SageMaker Endpoint State Change": (catch_up, "EndpointName"),
}


class Plan:
    """The requests that serve a version: CopyObject, CreateModel and CreateEndpointConfig."""

    def __init__(self, settings: Settings, version: ModelVersion) -> None:
        if not version.archive.startswith("s3://"):
            raise DeployError(f"{version} cannot be served: it needs one container, with a ModelDataUrl on S3.")
        mark = version.sha256 or hashlib.sha256(version.archive.encode()).hexdigest()
        copy = f"{settings.models_uri}/{version.group}-{version.number}-{mark[:8]}/model.tar.gz"
        memory, key = settings.serverless_memory_mb, settings.kms_key_arn
        vpc = {"Subnets": settings.subnet_ids, "SecurityGroupIds": settings.security_group_ids}
        container = {name: value for name, value in version.container.items() if name in ("Image", "Environment")}
        model = given(
            ExecutionRoleArn=settings.execution_role_arn,
            PrimaryContainer={**container, "ModelDataUrl": copy},
            VpcConfig=vpc if settings.subnet_ids else None,
            EnableNetworkIsolation=settings.network_isolation and not memory,
        )
        serverless = {"MemorySizeInMB": memory, "MaxConcurrency": settings.serverless_max_concurrency}
        instances = {"InstanceType": settings.instance_type, "InitialInstanceCount": settings.initial_instance_count}
        variant: Request = {"VariantName": VARIANT, **({"ServerlessConfig": serverless} if memory else instances)}
        capture = {
            "EnableCapture": True,
            "InitialSamplingPercentage": settings.data_capture_percent,
            "DestinationS3Uri": settings.data_capture_uri,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            **given(KmsKeyId=key),
        }
        has_volume = not memory and not LOCAL_STORAGE.match(settings.instance_type)
        captured = capture if settings.data_capture_percent else None
        config = given(DataCaptureConfig=captured, KmsKeyId=key if has_volume else None)
        group, content = version.group[:GROUP_LENGTH].rstrip("-"), digest([version.arn, model, variant, config])
        self.name = f"{group}-{version.number}-{digest(settings.endpoint_name)}-{content}"  # of model and configuration
        self.version, self.copy = version, place(copy)
        variants, tags = [{**variant, "ModelName": self.name}], settings.tags
        self.model = {"ModelName": self.name, "Tags": [*tags, {"Key": VERSION_TAG, "Value": version.arn}], **model}
        self.config = {"EndpointConfigName": self.name, "ProductionVariants": variants, "Tags": tags, **config}


class Endpoint:
    """The endpoint as DescribeEndpoint has it now, and what may be done with it in each status."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.name, self.sagemaker = settings, settings.endpoint_name, client("sagemaker")
        self.described: Request = found(self.sagemaker.describe_endpoint, EndpointName=self.name) or {}
        self.status: str = self.described.get("EndpointStatus", "NotDeployed")
        self.failure = (self.described.get("FailureReason") or "no reason given").rstrip(".")
        pending, variants = (self.described.get(key) for key in ("PendingDeploymentSummary", "ProductionVariants"))
        self.configs = [(each or {}).get("EndpointConfigName", "") for each in (self.described, pending)]  # now, next
        self.is_serverless = any("CurrentServerlessConfig" in variant for variant in variants or [])

    def serve(self, version: ModelVersion) -> Outcome:
        return STATUSES[self.status][0](self, Plan(self.settings, version))

    def create(self, plan: Plan) -> Outcome:
        """CreateEndpoint. Autoscaling has to wait until it is InService."""
        self.send(plan, self.sagemaker.create_endpoint, {"Tags": self.settings.tags})
        return self.begun(plan, "Creating", f"is being created with {plan.version}.")

    def update(self, plan: Plan) -> Outcome:
        """UpdateEndpoint, unless the plan is in service."""
        new = plan.version
        if self.configs[0] == plan.name:
            return self.settle(new)
        self.refuse_other_classes(new)
        if self.settings.serverless_memory_mb and not self.is_serverless:
            raise DeployError(
                f"Endpoint {self.name} has instances, and SageMaker cannot turn it into a serverless one: delete it "
                f"and use `run_pipeline.py approve {new.number}`; or set deploy.serverless.memory_mb to 0."
            )
        guardrails, loud = self.guardrails()
        self.send(plan, self.sagemaker.update_endpoint, guardrails)
        left_out = f" It is not undone by {', '.join(loud)}, in ALARM before the update." if loud else ""
        return self.begun(plan, "Updating", f"is being updated to {new}.{left_out}")

    def guardrails(self) -> tuple[Request, list[str]]:
        """Blue/green, undone by alarms, and the names of those left out; to and from serverless there is none of it."""
        settings, names, kept = self.settings, self.settings.rollback_alarms, {}
        if settings.serverless_memory_mb or self.is_serverless:
            return {}, []
        # They watch the old fleet, too: what is in ALARM already would undo what may mend it.
        known = client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"] if names else []
        loud = [alarm["AlarmName"] for alarm in known if alarm["StateValue"] == "ALARM"]
        alarms, wait = [{"AlarmName": name} for name in names if name not in loud], settings.canary_wait_seconds
        count, percent = settings.initial_instance_count, round(100 * settings.canary_fraction)
        if settings.autoscaling_max > 1:  # the number of instances would fall back to the configuration's
            count = self.described["ProductionVariants"][0].get("DesiredInstanceCount", count)
            exceptions = [{"VariantPropertyType": "DataCaptureConfig"}]
            kept = {"RetainAllVariantProperties": True, "ExcludeRetainedVariantProperties": exceptions}
        routing: Request = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": wait}
        if count > 1 and percent:  # a canary needs instances to divide
            routing |= {"Type": "CANARY", "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": percent}}
        policy = {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": wait if alarms else 0,  # the old fleet costs as much as the new
            "MaximumExecutionTimeoutInSeconds": 2 * wait + PROVISIONING_SECONDS,
        }
        rollback = {"Alarms": alarms} if alarms else {}
        deployment = given(BlueGreenUpdatePolicy=policy, AutoRollbackConfiguration=rollback)
        return {"DeploymentConfig": deployment, **kept}, loud

    def recreate(self, plan: Plan) -> Outcome:
        """A Failed endpoint can only be deleted; it is created again if it is gone at once, as nothing waits here."""
        self.autoscale(is_on=False)
        self.sagemaker.delete_endpoint(EndpointName=self.name)
        left = Endpoint(self.settings)
        outcome = left.leave(plan) if left.described else left.create(plan)
        return outcome._replace(message=f"Endpoint {self.name} had failed ({self.failure}). {outcome.message}")

    def leave(self, plan: Plan) -> Outcome:
        status, version, again = self.status, plan.version, STATUSES[self.status][1].format(number=plan.version.number)
        if status in ("Creating", "Updating") and plan.name == (self.configs[1] or self.configs[0]):
            return self.begun(plan, status, f"is {status} with {version} already.")
        return Outcome(status, f"Endpoint {self.name} is {status}, so {version} is not deployed: {again}.", version)

    def settle(self, served: ModelVersion) -> Outcome:
        """It is InService and keeps what it serves: its autoscaling, and what is no longer used."""
        self.autoscale(is_on=self.settings.autoscaling_max > 1 and not self.settings.serverless_memory_mb)
        self.remove_unused(*self.configs)
        return Outcome("InService", f"Endpoint {self.name} already serves {served}.", served, champion=served)

    def begun(self, plan: Plan, status: str, message: str) -> Outcome:
        doubt = "" if plan.version.sha256 else " Nothing vouches for its archive, registered without archive_sha256."
        return Outcome(status, f"Endpoint {self.name} {message}{doubt}", plan.version, champion=plan.version)

    def send(self, plan: Plan, operation: Callable[..., Any], more: Request) -> None:
        """Make copy, model and configuration, then create or update; the next call finds what a refused one leaves."""
        protect(plan)
        for make, content in ("create_model", plan.model), ("create_endpoint_config", plan.config):
            try:
                getattr(self.sagemaker, make)(**content)
            except ClientError as error:
                if "already exist" not in str(error).lower():  # the same name means the same content
                    raise
        if self.described:  # before the update: afterwards there may be no chance
            self.note_attempt(self.attempt(plan))
        try:
            operation(EndpointName=self.name, EndpointConfigName=plan.name, **more)
        except AWS_ERRORS as error:  # it took effect all the same if its answer was lost, or an equal call was quicker
            if plan.name not in Endpoint(self.settings).configs:
                if self.described and isinstance(error, ClientError):  # refused, so it never began
                    self.note_attempt("")
                raise
        self.remove_unused(*self.configs, plan.name)

    def note_attempt(self, attempt: str) -> None:
        tags = [*self.settings.tags, {"Key": ATTEMPT_TAG, "Value": attempt}]
        self.sagemaker.add_tags(ResourceArn=self.described["EndpointArn"], Tags=tags)

    def attempt(self, plan: Plan) -> str:
        """An update as the tag has it: the configuration that it was to bring, the one before it, and since when."""
        return f"{plan.name} {self.configs[0]} {self.described['LastModifiedTime'].timestamp():.3f}"

    def has_attempted(self, plan: Plan, served: ModelVersion) -> bool:
        """Whether this update was begun before, and so was rolled back; not if nothing has changed since the tag."""
        before, now = tags_of(self.described["EndpointArn"]).get(ATTEMPT_TAG, ""), self.attempt(plan)
        if before == plan.version.arn:  # of an earlier release, which wrote it after UpdateEndpoint
            return served.arn != plan.version.arn
        return plan.name != self.configs[0] and before != now and before.split()[:2] == now.split()[:2]

    def served_version(self) -> ModelVersion | None:
        """The version behind the configuration in service; None if it is no model package, or anything is deleted."""
        config = found(self.sagemaker.describe_endpoint_config, EndpointConfigName=self.configs[0])
        name = config["ProductionVariants"][0].get("ModelName") if config else None
        model = found(self.sagemaker.describe_model, ModelName=name) if name else None
        if model is None:
            return None
        package = (model.get("Containers") or [{}])[0].get("ModelPackageName")  # of an earlier release
        arn = tags_of(model["ModelArn"]).get(VERSION_TAG, package)
        return found(ModelVersion, arn=arn) if arn else None

    def refuse_other_classes(self, new: ModelVersion) -> None:
        """Raise unless the version knows the classes of the one in service, or may replace them."""
        served = self.served_version()
        if served is None or new.metadata.get("replace_classes") == "true":
            return
        before, after = (each.metadata.get("classes_sha256") for each in (served, new))
        if before and after and before != after:
            few = [textwrap.shorten(each.metadata.get("classes", ""), 60, placeholder=" ...") for each in (new, served)]
            raise DeployError(
                f"{new} knows other classes ({few[0]}) than {served} ({few[1]}), which endpoint {self.name} serves: "
                f"`run_pipeline.py approve {new.number} --replace-classes` replaces it, `run_pipeline.py reject "
                f"{new.number}` gives the new one up."
            )

    def remove_unused(self, *used: str) -> None:
        """Remove this endpoint's configurations, with their models, but those in use and the last `keep_versions`."""
        mark = digest(self.name)
        query = {"NameContains": f"-{mark}-", "SortBy": "CreationTime", "SortOrder": "Descending"}
        try:
            pages = self.sagemaker.get_paginator("list_endpoint_configs").paginate(**query)
            names = [config["EndpointConfigName"] for page in pages for config in page["EndpointConfigs"]]
            in_use = {*used, *Endpoint(self.settings).configs}  # asked last, just before something is deleted
            unused = [name for name in names if mark in name.split("-")[-3:-1] and name not in in_use]
            for name in unused[self.settings.keep_versions :]:
                found(self.sagemaker.delete_model, ModelName=name)  # first, as only configurations are listed
                found(self.sagemaker.delete_endpoint_config, EndpointConfigName=name)
        except AWS_ERRORS as error:  # the deployment is done, and the next one tries again
            print(f"Unused models and endpoint configurations were not removed: {error}", flush=True)

    def autoscale(self, *, is_on: bool) -> None:
        """Make or remove the scalable target and its policy, unless autoscaling is left alone."""
        if not (high := self.settings.autoscaling_max):
            return
        scaling, resource = client("application-autoscaling"), f"endpoint/{self.name}/variant/{VARIANT}"
        dimension = "sagemaker:variant:DesiredInstanceCount"
        target = {"ServiceNamespace": "sagemaker", "ResourceId": resource, "ScalableDimension": dimension}
        if not is_on:
            found(scaling.deregister_scalable_target, **target)  # and with it its policies and their alarms
            return
        scaling.register_scalable_target(**target, MinCapacity=self.settings.autoscaling_min, MaxCapacity=high)
        metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
        tracking = {"TargetValue": self.settings.autoscaling_target, "PredefinedMetricSpecification": metric}
        policy = {"PolicyName": "invocations-per-instance", "PolicyType": "TargetTrackingScaling"}
        scaling.put_scaling_policy(**target, **policy, TargetTrackingScalingPolicyConfiguration=tracking)


WAITS = "once it is InService, its state change event or `run_pipeline.py approve {number}` deploys it"
STATUSES: dict[str, tuple[Callable[[Endpoint, Plan], Outcome], str]] = {  # and what deploys a version that has to wait
    "NotDeployed": (Endpoint.create, ""),
    "InService": (Endpoint.update, ""),
    "Failed": (Endpoint.recreate, "`run_pipeline.py approve {number}` tries it again"),
    **dict.fromkeys(("Creating", "Updating", "SystemUpdating", "RollingBack", "OutOfService"), (Endpoint.leave, WAITS)),
    "Deleting": (Endpoint.leave, "once it is gone, `run_pipeline.py approve {number}` creates it anew"),
    "UpdateRollbackFailed": (Endpoint.leave, "delete the endpoint, then use `run_pipeline.py approve {number}`"),
}


def newest_approved(settings: Settings, asked: ModelVersion) -> ModelVersion | None:
    """The newest version of the group of `asked` that is approved and complete; lists may lag, so it is described."""
    group = asked.group
    if asked.arn.split(":")[4] != settings.execution_role_arn.split(":")[4]:  # another account's, by its ARN
        group = asked.arn.rpartition("/")[0].replace(":model-package/", ":model-package-group/")
    query = {"ModelApprovalStatus": "Approved", "SortBy": "CreationTime", "SortOrder": "Descending"}
    pages = client("sagemaker").get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **query)
    arns = (each["ModelPackageArn"] for page in pages for each in page["ModelPackageSummaryList"])
    complete = (each for each in map(ModelVersion, arns) if (each.approval, each.status) == ("Approved", "Completed"))
    known = [each for each in (next(complete, None), asked) if each and each.approval == "Approved"]
    return max(known, key=lambda each: each.number, default=None)


def protect(plan: Plan) -> None:
    """Copy the version's archive, of at most 5 GB, unless that is done; an error if it is not what was evaluated."""
    version, s3 = plan.version, client("s3")
    known = found(s3.head_object, **plan.copy, ChecksumMode="ENABLED")
    if known is None:
        request = {"CopySource": place(version.archive), "ChecksumAlgorithm": "SHA256", "TaggingDirective": "REPLACE"}
        known = s3.copy_object(**plan.copy, **request)["CopyObjectResult"]
    checksum = base64.b64decode(known.get("ChecksumSHA256", "").partition("-")[0]).hex()
    if version.sha256 and checksum != version.sha256:
        s3.delete_object(**plan.copy)
        changed = f"was changed after it was evaluated (its SHA-256 is {checksum}, not {version.sha256})"
        reject = f"use `run_pipeline.py reject {version.number}`, and train again"
        raise DeployError(f"{version} is not served: {version.archive} {changed}: {reject}.")


def keep_champion(settings: Settings, version: ModelVersion) -> None:
    """Make a version the champion, or leave none if it is not approved."""
    names, s3 = ("champion.json", "model.tar.gz", "baseline.json"), client("s3")
    description, archive, baseline = (place(f"{settings.champion_uri}/{name}") for name in names)
    if version.approval != "Approved":
        for each in (description, archive, baseline):
            s3.delete_object(**each)
        return
    plan = Plan(settings, version)
    protect(plan)
    there, known = found(s3.head_object, **archive), found(s3.get_object, **description)
    content = {"model_package_arn": version.arn, "model_data_url": version.archive}
    if there and known and known["Body"].read() == json.dumps({**content, "etag": there["ETag"]}, indent=2).encode():
        return
    s3.delete_object(**description)
    copied = s3.copy_object(**archive, CopySource=plan.copy, TaggingDirective="REPLACE")["CopyObjectResult"]
    s3.delete_object(**baseline)
    if version.baseline:
        found(s3.copy_object, **baseline, CopySource=place(version.baseline), TaggingDirective="REPLACE")
    s3.put_object(**description, Body=json.dumps({**content, "etag": copied["ETag"]}, indent=2).encode())


def place(uri: str) -> Request:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


@functools.cache
def client(service: str) -> Any:
    """The client, made by the default session when first needed and kept while the container lives."""
    return boto3.client(service, config=CLIENT_CONFIG)


def found(call: Callable[..., Any], **arguments: Any) -> Any:
    """The answer, or None if what it is about is not there, which only an error's text tells."""
    try:
        return call(**arguments)
    except ClientError as error:
        if any(words in str(error).lower() for words in ABSENT):
            return None
        raise


def tags_of(arn: str) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in client("sagemaker").list_tags(ResourceArn=arn)["Tags"]}


def given(**members: Any) -> Request:
    """A request's members but those that are off or empty."""
    return {name: value for name, value in members.items() if value}


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]


def explained(error: Exception) -> str:
    """An error of ours as it is; botocore's own sentence, on one line, with what may help."""
    if isinstance(error, DeployError):
        return str(error)
    text = " ".join(str(error).split()).rstrip(".")
    remedies = (remedy for part, remedy in REMEDIES.items() if part in text)
    return f"{text}; {next(remedies, 'correct what it names, or try it again later')}."
