"""Removes what `inventory` lists, in an order in which nothing is left in use; an interrupted teardown is repeated."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from botocore.exceptions import WaiterError

from pipeline.aws import schedule, stack
from pipeline.aws.inventory import RUNNING, Item
from pipeline.aws.requests import WAITER, describe, list_all
from pipeline.aws.stack import Client
from pipeline.config.config import Config
from pipeline.errors import ServiceError

IN_MOTION = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
JOBS = {  # by the member of a step's metadata: how its record is deleted
    "ProcessingJob": ("delete_processing_job", "ProcessingJobName"),
    "TrainingJob": ("delete_training_job", "TrainingJobName"),
    "TuningJob": ("delete_hyper_parameter_tuning_job", "HyperParameterTuningJobName"),
}


def remove(client: Client, config: Config, items: list[Item], *, delete_data: bool = False) -> Iterator[str]:
    """Remove the items, data only with delete_data; yield a line for each thing that is done.

    A ServiceError says what could not be removed; the command can be repeated once the reason is gone.
    """
    if any(item.kind == "schedule" for item in items):  # the stack removes it
        yield f"schedule {schedule.switch_off(client, config).name} switched off"
    for kind, remove_one in REMOVE.items():
        for item in (item for item in items if item.kind == kind):
            yield from remove_one(client, item)
    for item in (item for item in items if item.kind == "data"):
        place = item.identifier.rstrip("/")
        again = "" if "/" in place else f"; `aws.bucket: {place}` uses it again"
        kept = f"{item.name} kept: `run_pipeline.py teardown --delete-data` removes it{again}"
        yield remove_data(client("s3"), item) if delete_data else kept


def by_request(service: str, operation: str, parameter: str, client: Client, item: Item) -> Iterator[str]:
    """Remove an item by one request."""
    if describe(getattr(client(service), operation), **{parameter: item.identifier or item.name}) is not None:
        yield f"{item.kind} {item.name} removed"


def stop_execution(client: Client, item: Item) -> Iterator[str]:
    """Stop an execution and wait for its end: a pipeline that executes cannot be deleted."""
    sagemaker, request = client("sagemaker"), {"PipelineExecutionArn": item.identifier}
    for attempt in range(WAITER["MaxAttempts"]):
        status = sagemaker.describe_pipeline_execution(**request)["PipelineExecutionStatus"]
        if status not in RUNNING:
            return
        if status == "Executing" and attempt == 0:
            sagemaker.stop_pipeline_execution(**request)
            yield f"execution {item.name} stopping"
        time.sleep(WAITER["Delay"])
    raise ServiceError(f"After an hour execution {item.name} has not stopped: look at it in the console, then repeat.")


def remove_endpoint(client: Client, item: Item) -> Iterator[str]:
    """End the endpoint's scaling, then the endpoint, once no change of it is under way."""
    sagemaker, scaling, request = client("sagemaker"), client("application-autoscaling"), {"EndpointName": item.name}
    for target in list(list_all(scaling, "describe_scalable_targets", ServiceNamespace="sagemaker")):
        if target["ResourceId"].startswith(f"endpoint/{item.name}/"):
            keys = ("ServiceNamespace", "ResourceId", "ScalableDimension")
            describe(scaling.deregister_scalable_target, **{key: target[key] for key in keys})
            yield f"scaling of {target['ResourceId']} removed"
    endpoint = describe(sagemaker.describe_endpoint, **request)
    if endpoint and endpoint["EndpointStatus"] in IN_MOTION:
        yield f"endpoint {item.name} is {endpoint['EndpointStatus']}: waiting for its end"
        with contextlib.suppress(WaiterError):  # the change has failed, or the endpoint is gone: both are its end
            sagemaker.get_waiter("endpoint_in_service").wait(**request, WaiterConfig=WAITER)
    yield from by_request("sagemaker", "delete_endpoint", "EndpointName", client, item)
    sagemaker.get_waiter("endpoint_deleted").wait(**request, WaiterConfig=WAITER)


def remove_pipeline(client: Client, item: Item) -> Iterator[str]:
    """Remove the records and logs of the executions' jobs, which cost nothing and would stay, then the pipeline."""
    sagemaker = client("sagemaker")
    for execution in list(list_all(sagemaker, "list_pipeline_executions", PipelineName=item.name)):
        arn = execution["PipelineExecutionArn"]
        if removed := sum([remove_job(client, kind, name) for kind, name in jobs_of(sagemaker, arn)]):
            yield f"{removed} job records of execution {arn.rpartition('/')[2]} removed"
    yield from by_request("sagemaker", "delete_pipeline", "PipelineName", client, item)


def jobs_of(sagemaker: Any, execution: str) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each job of an execution, a search's trials before the search."""
    for step in list_all(sagemaker, "list_pipeline_execution_steps", PipelineExecutionArn=execution):
        for kind, metadata in step.get("Metadata", {}).items():
            if kind in JOBS and "CacheHitResult" not in step:
                name = metadata["Arn"].rpartition("/")[2]
                if kind == "TuningJob":
                    operation = "list_training_jobs_for_hyper_parameter_tuning_job"
                    trials = list_all(sagemaker, operation, HyperParameterTuningJobName=name)
                    yield from [("TrainingJob", trial["TrainingJobName"]) for trial in trials]
                yield kind, name


def remove_job(client: Client, kind: str, name: str) -> bool:
    """Remove a job's log streams and its record; return whether there was a record."""
    operation, parameter = JOBS[kind]
    if kind != "TuningJob":  # whose trials have the logs
        remove_streams(client("logs"), f"/aws/sagemaker/{kind}s", f"{name}/")
    return describe(getattr(client("sagemaker"), operation), **{parameter: name}) is not None


def remove_streams(logs: Any, group: str, prefix: str) -> None:
    for stream in list(list_all(logs, "describe_log_streams", logGroupName=group, logStreamNamePrefix=prefix)):
        describe(logs.delete_log_stream, logGroupName=group, logStreamName=stream["logStreamName"])


def remove_job_logs(client: Client, item: Item) -> Iterator[str]:
    """Remove the log streams of transform jobs and drift checks."""
    group, _, prefix = item.name.partition(" ")
    remove_streams(client("logs"), group, prefix)
    yield f"log streams {item.name}* removed"


def remove_data(s3: Any, item: Item) -> str:
    """Remove every version of every object, and the bucket unless the user brought it."""
    bucket, _, prefix = item.identifier.partition("/")
    while True:
        page = s3.list_object_versions(Bucket=bucket, Prefix=prefix, MaxKeys=500)
        stored = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if not stored:
            break
        objects = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in stored]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for error in answer.get("Errors", []):
            raise ServiceError(f"s3://{bucket}/{error['Key']} could not be removed: {error['Message']}")
    if not prefix:
        s3.delete_bucket(Bucket=bucket)
    return f"{item.name} removed"


REMOVE: dict[str, Callable[[Client, Item], Iterator[str]]] = {
    "execution": stop_execution,
    "endpoint": remove_endpoint,
    "endpoint configuration": partial(by_request, "sagemaker", "delete_endpoint_config", "EndpointConfigName"),
    "model": partial(by_request, "sagemaker", "delete_model", "ModelName"),
    "pipeline": remove_pipeline,
    "model version": partial(by_request, "sagemaker", "delete_model_package", "ModelPackageName"),
    "model package group": partial(by_request, "sagemaker", "delete_model_package_group", "ModelPackageGroupName"),
    "stack": lambda client, item: stack.delete(client("cloudformation"), item.name),
    "log streams": remove_job_logs,
    "log group": partial(by_request, "logs", "delete_log_group", "logGroupName"),
}
