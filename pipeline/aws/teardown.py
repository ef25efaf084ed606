"""Back to an empty account: removes what `inventory` lists, in an order in which nothing is left in use.

    schedule off -> executions stopped -> scalable targets -> endpoints -> endpoint configurations -> models
    -> job records and their logs -> pipeline -> model versions -> model package group -> stack -> log groups
    -> data, only with delete_data

Each step looks for nothing by itself and forgives what is gone already, so that a teardown that was interrupted can be
repeated.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws import job_records, schedule, stack
from pipeline.aws.inventory import Inventory, Storage, find
from pipeline.aws.lookup import answer, is_missing
from pipeline.aws.serving import Endpoint
from pipeline.aws.stack import Client
from pipeline.aws.stack_parameters import stack_name
from pipeline.config.config import Config
from pipeline.errors import ServiceError

WAIT_SECONDS = 3600
IN_MOTION = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
RUNNING = ("Executing", "Stopping")
SCALED = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
DELETED_AT_ONCE = 1000  # objects in one DeleteObjects


def remove(client: Client, config: Config, found: Inventory, *, delete_data: bool = False) -> Iterator[str]:
    """Remove what was found; a line for each thing that is done.

    Raises:
        ServiceError: something could not be removed; repeat it once the reason is gone.
    """
    sagemaker = client("sagemaker")
    if found.schedule and found.schedule.is_on:
        schedule.switch_off(client, config)
        yield f"schedule {found.schedule.name} switched off"
    yield from stop_executions(sagemaker, found.executions)
    for endpoint in found.endpoints:
        yield from remove_endpoint(client, endpoint)
    for name in found.endpoint_configs:
        yield from gone(f"endpoint configuration {name}", sagemaker.delete_endpoint_config, EndpointConfigName=name)
    for name in found.models:
        yield from gone(f"model {name}", sagemaker.delete_model, ModelName=name)
    yield from job_records.remove(client, found.executions)
    if found.pipeline:
        yield from gone(f"pipeline {found.pipeline}", sagemaker.delete_pipeline, PipelineName=found.pipeline)
    for arn in found.versions:
        what = f"model version {arn.rpartition('model-package/')[2]}"
        yield from gone(what, sagemaker.delete_model_package, ModelPackageName=arn)
    if found.group:
        what = f"model package group {found.group}"
        yield from gone(what, sagemaker.delete_model_package_group, ModelPackageGroupName=found.group)
    yield from stack.delete(client("cloudformation"), stack_name(config))
    for name in found.log_groups:
        yield from gone(f"log group {name}", client("logs").delete_log_group, logGroupName=name)
    yield from remove_data(client("s3"), found.storage) if delete_data else kept_data(found.storage)


def find_and_remove(client: Client, config: Config, *, delete_data: bool = False) -> Iterator[str]:
    """`remove` of everything that is there."""
    yield from remove(client, config, find(client, config), delete_data=delete_data)


def stop_executions(sagemaker: Any, executions: tuple[str, ...]) -> Iterator[str]:
    """Stop what runs, and wait for its end: a pipeline that executes cannot be deleted."""
    for arn in executions:
        if has_ended(sagemaker, arn):
            continue
        sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn)
        yield f"execution {arn.rpartition('/')[2]} stopping"
        wait_until(f"execution {arn}", "stopped", partial(has_ended, sagemaker, arn))


def has_ended(sagemaker: Any, execution: str) -> bool:
    """Whether an execution no longer runs."""
    described = sagemaker.describe_pipeline_execution(PipelineExecutionArn=execution)
    return described["PipelineExecutionStatus"] not in RUNNING


def remove_endpoint(client: Client, endpoint: Endpoint) -> Iterator[str]:
    """End its scaling and the endpoint; its configuration is in use until it is gone."""
    sagemaker, scaling = client("sagemaker"), client("application-autoscaling")
    for resource_id in endpoint.scalable_targets:
        target = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
        yield from gone(
            f"scaling of {resource_id}", scaling.deregister_scalable_target, **target, ResourceId=resource_id
        )

    def status() -> str | None:
        found = answer(sagemaker.describe_endpoint, EndpointName=endpoint.name)
        return None if found is None else str(found["EndpointStatus"])

    if status() in IN_MOTION:
        yield f"endpoint {endpoint.name} is {status()}: waiting for its end"
        wait_until(f"endpoint {endpoint.name}", "at rest", lambda: status() not in IN_MOTION)
    yield from gone(f"endpoint {endpoint.name}", sagemaker.delete_endpoint, EndpointName=endpoint.name)
    wait_until(f"endpoint {endpoint.name}", "gone", lambda: status() is None)


def gone(what: str, delete: Callable[..., Any], **request: str) -> Iterator[str]:
    """Delete one thing, unless it is gone already."""
    try:
        delete(**request)
    except ClientError as error:
        if not is_missing(error) and error.response["Error"]["Code"] != "ObjectNotFoundException":
            raise
        return
    yield f"{what} removed"


def remove_data(s3: Any, places: tuple[Storage, ...]) -> Iterator[str]:
    """Every version of every object, and the bucket unless the user brought it."""
    for place in places:
        while stored := first_versions(s3, place):
            delete_objects(s3, place.bucket, stored)
        if not place.prefix:
            s3.delete_bucket(Bucket=place.bucket)
        yield f"{place} removed"


def first_versions(s3: Any, place: Storage) -> list[Mapping[str, str]]:
    """The first page of what is stored: a page's place is lost with the objects before it."""
    page = s3.list_object_versions(Bucket=place.bucket, Prefix=place.prefix)
    return [*page.get("Versions", []), *page.get("DeleteMarkers", [])]


def delete_objects(s3: Any, bucket: str, stored: list[Mapping[str, str]]) -> None:
    """DeleteObjects, which answers with the objects that it could not delete.

    Raises:
        ServiceError: it could not delete one.
    """
    for start in range(0, len(stored), DELETED_AT_ONCE):
        some = stored[start : start + DELETED_AT_ONCE]
        objects = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in some]
        answered = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for error in answered.get("Errors", []):
            raise ServiceError(f"s3://{bucket}/{error['Key']} could not be removed: {error['Message']}")


def kept_data(places: tuple[Storage, ...]) -> Iterator[str]:
    """What stays, and how to remove or use it."""
    for place in places:
        again = "" if place.prefix else f"; `aws.bucket: {place.bucket}` in pipeline.yaml uses it again"
        yield f"{place} kept: `run_pipeline.py teardown --delete-data` removes it{again}"


def wait_until(what: str, state: str, is_so: Callable[[], bool]) -> None:
    """Wait for something to happen.

    Raises:
        ServiceError: it did not within the hour.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise ServiceError(
                f"After an hour {what} is not {state}: look at it in the console, then repeat the command."
            )
        time.sleep(stack.POLL_SECONDS)
