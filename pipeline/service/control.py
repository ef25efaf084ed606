"""Start, watch, stop, retry, approve: boto3 only, the same for both targets."""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.aws.errors import explain, is_missing, is_transient
from pipeline.errors import PassingError, ServiceError, UsageError
from pipeline.service.sources import SHIPPED
from pipeline.service.targets import POLL_SECONDS, Target

ACTIVE = ("Executing", "Stopping")
WAIT_SECONDS = 900
WATCH_ATTEMPTS = 12
QUIET_SHARE = 0.02  # of the time without news: what a watcher may be late by
LONGEST_PAUSE_SECONDS = 0.5  # on this machine, so that a step's lines come soon
EVENT_FAILED = "EventDeliveryFailed"  # of the local target: it waits for what the event leads to
NOT_FOUND = ("ResourceNotFound", "ResourceNotFoundException", "ValidationException")
ENDPOINT_IN_MOTION = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")


@contextmanager
def service_errors(action: str) -> Iterator[None]:
    """A request that was refused or not answered becomes one sentence.

    Raises:
        ServiceError: with the action and the reason; a PassingError if the same request may be answered later.
    """
    try:
        yield
    except (ClientError, BotoCoreError) as problem:
        kind = PassingError if is_transient(problem) else ServiceError
        raise kind(f"Could not {action}: {explain(problem)}") from problem


def existing(client: Any, name: str) -> dict[str, Any] | None:
    """DescribePipeline, or None if there is none."""
    try:
        description: dict[str, Any] = client.describe_pipeline(PipelineName=name)
    except ClientError as problem:
        if problem.response["Error"]["Code"] in NOT_FOUND:
            return None
        raise
    return description


def start(target: Target, name: str, parameters: Mapping[str, str], selection: Mapping[str, Any] | None = None) -> str:
    """Start an execution, of the steps of a SelectiveExecutionConfig if there is one; its ARN."""
    more = {"SelectiveExecutionConfig": selection} if selection else {}
    with service_errors(f"start pipeline {name!r}"):
        answer = target.client("sagemaker").start_pipeline_execution(
            PipelineName=name,
            PipelineParameters=[{"Name": key, "Value": value} for key, value in parameters.items()],
            ClientRequestToken=secrets.token_hex(16),
            **more,
        )
    arn: str = answer["PipelineExecutionArn"]
    return arn


def source_execution(target: Target, name: str, needed: Set[str]) -> str:
    """The newest execution that has ended and in which these steps succeeded.

    Raises:
        UsageError: there is none.
    """
    client, pages = target.client("sagemaker"), []
    with service_errors(f"list executions of pipeline {name!r}"):
        if existing(client, name):
            pages = client.get_paginator("list_pipeline_executions").paginate(PipelineName=name)
        summaries = [summary for page in pages for summary in page["PipelineExecutionSummaries"]]
    for summary in summaries:
        arn: str = summary["PipelineExecutionArn"]
        if summary["PipelineExecutionStatus"] not in ACTIVE:
            succeeded = {step["StepName"] for step in steps(target, arn) if step["StepStatus"] == "Succeeded"}
            if needed <= succeeded:
                return arn
    raise UsageError(
        f"No execution of pipeline {name!r} has what the chosen steps read, the values of "
        f"{', '.join(sorted(needed))}; run the whole pipeline first."
    )


def latest(target: Target, name: str) -> str:
    """The ARN of the newest execution.

    Raises:
        ServiceError: there is none.
    """
    client, summaries = target.client("sagemaker"), []
    with service_errors(f"list executions of pipeline {name!r}"):
        if existing(client, name):
            summaries = client.list_pipeline_executions(PipelineName=name)["PipelineExecutionSummaries"]
    if not summaries:
        raise ServiceError(f"Pipeline {name!r} has no execution yet; start one with: run_pipeline.py run")
    arn: str = summaries[0]["PipelineExecutionArn"]
    return arn


def execution_arn(target: Target, name: str, wanted: str | None) -> str:
    """An execution by ARN, by its last part, or the newest."""
    if wanted is None:
        return latest(target, name)
    return wanted if wanted.startswith("arn:") else f"{target.placement.pipeline_arn(name)}/execution/{wanted}"


def describe(target: Target, arn: str) -> dict[str, Any]:
    """DescribePipelineExecution.

    Raises:
        ServiceError: there is no such execution, or it may not be asked for.
    """
    with service_errors(f"find execution {arn}"):
        try:
            answer: dict[str, Any] = target.client("sagemaker").describe_pipeline_execution(PipelineExecutionArn=arn)
        except ClientError as problem:
            if not is_missing(problem):
                raise
            name, _, execution = arn.partition(":pipeline/")[2].partition("/execution/")
            sentence = f"Pipeline {name!r} has no execution {execution!r}; those there are: run_pipeline.py list"
            raise ServiceError(sentence) from problem
    return answer


def steps(target: Target, arn: str) -> list[dict[str, Any]]:
    """The steps that were started, in that order."""
    with service_errors(f"list the steps of {arn}"):
        pages = target.client("sagemaker").get_paginator("list_pipeline_execution_steps")
        found = pages.paginate(PipelineExecutionArn=arn, SortOrder="Ascending")
        return [step for page in found for step in page["PipelineExecutionSteps"]]


def watch(target: Target, arn: str, look: Callable[[list[dict[str, Any]]], None]) -> str:
    """Call `look` with the steps until the execution has ended; its status.

    An execution may take hours: a throttled or unanswered request is repeated.

    Raises:
        PassingError: that did not help several times in a row.
    """
    failed, known, changed = 0, None, time.monotonic()
    while True:
        try:
            status = str(describe(target, arn)["PipelineExecutionStatus"])
            found = steps(target, arn)
            look(found)
        except PassingError:
            failed += 1
            if failed == WATCH_ATTEMPTS:
                raise
        else:
            failed = 0
            if status not in ACTIVE:
                return status
            if found != known:
                known, changed = found, time.monotonic()
        time.sleep(pause(target, time.monotonic() - changed))


def pause(target: Target, quiet_seconds: float) -> float:
    """Seconds to the next look at steps that have not changed for so long: on this machine, what looking costs a
    training lacks."""
    return max(POLL_SECONDS[target.name], min(quiet_seconds * QUIET_SHARE, LONGEST_PAUSE_SECONDS))


def stop(target: Target, arn: str) -> None:
    """StopPipelineExecution."""
    with service_errors(f"stop execution {arn}"):
        target.client("sagemaker").stop_pipeline_execution(
            PipelineExecutionArn=arn, ClientRequestToken=secrets.token_hex(16)
        )


def retry(target: Target, arn: str) -> None:
    """RetryPipelineExecution."""
    with service_errors(f"retry execution {arn}"):
        target.client("sagemaker").retry_pipeline_execution(
            PipelineExecutionArn=arn, ClientRequestToken=secrets.token_hex(16)
        )


def models(target: Target, group: str) -> list[dict[str, Any]]:
    """The versions of a model package group, newest first."""
    with service_errors(f"list the versions of model package group {group!r}"):
        pages = target.client("sagemaker").get_paginator("list_model_packages")
        found = pages.paginate(ModelPackageGroupName=group, SortBy="CreationTime", SortOrder="Descending")
        return [package for page in found for package in page["ModelPackageSummaryList"]]


def model_package(target: Target, arn: str) -> dict[str, Any]:
    """DescribeModelPackage: unlike the list, with the version's metadata."""
    with service_errors(f"describe model package {arn}"):
        found: dict[str, Any] = target.client("sagemaker").describe_model_package(ModelPackageName=arn)
    return found


def model_package_arn(target: Target, group: str, wanted: str | None) -> str:
    """A version by ARN or number; else the newest that waits for approval.

    Raises:
        UsageError: there is no such version.
    """
    if wanted and wanted.startswith("arn:"):
        with service_errors(f"find {wanted}"):
            target.client("sagemaker").describe_model_package(ModelPackageName=wanted)
        return wanted
    versions = models(target, group)
    waiting = [package for package in versions if package["ModelApprovalStatus"] == "PendingManualApproval"]
    named = [package for package in versions if str(version(package)) == wanted]
    fitting = waiting if wanted is None else named
    if fitting:
        return str(fitting[0]["ModelPackageArn"])
    if not versions:
        raise UsageError(f"Model package group {group!r} has no version yet.")
    if wanted is None:
        states = ", ".join(f"{version(package)} ({package['ModelApprovalStatus']})" for package in versions[:5])
        raise UsageError(f"No version of model package group {group!r} waits for approval; name one: {states}.")
    known = ", ".join(str(version(package)) for package in versions)
    raise UsageError(f"Model package group {group!r} has no version {wanted!r}; its versions: {known}.")


def version(package: Mapping[str, Any]) -> int:
    """The number of a version."""
    return int(package.get("ModelPackageVersion") or str(package["ModelPackageArn"]).rpartition("/")[2])


def data_of(target: Target, package: Mapping[str, Any]) -> str | None:
    """The name of the data that a version as described was trained with, if its execution is still known."""
    arn = str(package.get("MetadataProperties", {}).get("GeneratedBy", ""))
    given: dict[str, str] = {}
    with suppress(ServiceError), service_errors(f"read the parameters of {arn}"):
        pages = target.client("sagemaker").get_paginator("list_pipeline_parameters_for_execution")
        for page in pages.paginate(PipelineExecutionArn=arn) if arn.startswith("arn:") else ():
            given |= {item["Name"]: item["Value"] for item in page.get("PipelineParameters", [])}
    key = given.get("InputDataUri", "").rstrip("/").rpartition("/")[2]
    names = {key: name for name, key in SHIPPED.items()}
    return names.get(key) or re.sub(r"-[0-9a-f]{16}$", "", key) or None


def allow_other_classes(target: Target, execution_arn: str) -> None:
    """Let the version that an execution registered replace one of other classes.

    Raises:
        UsageError: it has registered none yet.
    """
    arns = [step.get("Metadata", {}).get("RegisterModel", {}).get("Arn") for step in steps(target, execution_arn)]
    if not any(arns):
        raise UsageError("--replace-classes is for a registered version, and this execution has none: use it with run.")
    with service_errors(f"update {arns[-1]}"):
        client, permitted = target.client("sagemaker"), {"replace_classes": "true"}
        for arn in filter(None, arns):
            client.update_model_package(ModelPackageArn=arn, CustomerMetadataProperties=permitted)


def set_approval(target: Target, arn: str, status: str, *, why: str, replace_classes: bool = False) -> None:
    """UpdateModelPackage; on both targets the deploy function hears of it by an event."""
    permitted = {"CustomerMetadataProperties": {"replace_classes": "true"}} if replace_classes else {}
    with service_errors(f"set {arn} to {status}"):
        try:
            target.client("sagemaker").update_model_package(
                ModelPackageArn=arn, ModelApprovalStatus=status, ApprovalDescription=why, **permitted
            )
        except ClientError as problem:
            if problem.response["Error"]["Code"] == EVENT_FAILED:
                raise ServiceError(problem.response["Error"]["Message"]) from problem
            raise


def endpoint(target: Target, name: str) -> dict[str, Any] | None:
    """DescribeEndpoint, or None if there is none."""
    try:
        answer: dict[str, Any] = target.client("sagemaker").describe_endpoint(EndpointName=name)
    except ClientError as problem:
        if "not find" in problem.response["Error"]["Message"]:
            return None
        raise ServiceError(f"Could not describe endpoint {name!r}: {explain(problem)}") from problem
    return answer


def wait_for_endpoint(target: Target, name: str) -> dict[str, Any] | None:
    """The endpoint once it is neither being created nor updated."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = endpoint(target, name)
        busy = found and found["EndpointStatus"] in ENDPOINT_IN_MOTION
        if not busy or time.monotonic() > deadline:
            return found
        time.sleep(POLL_SECONDS[target.name])


def endpoints(target: Target) -> list[dict[str, Any]]:
    """Every endpoint, newest first."""
    with service_errors("list endpoints"):
        pages = target.client("sagemaker").get_paginator("list_endpoints").paginate()
        return [endpoint for page in pages for endpoint in page["Endpoints"]]
