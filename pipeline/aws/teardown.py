"""Removes what `inventory` lists, in an order in which nothing is left in use.

What is gone already is passed over, so that a teardown that was interrupted can be repeated.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from botocore.exceptions import WaiterError

from pipeline.aws import schedule, stack
from pipeline.aws.inventory import RUNNING, Item
from pipeline.aws.requests import WAITER, describe, list_all
from pipeline.aws.stack import Client
from pipeline.aws.stack_parameters import stack_name
from pipeline.config.config import Config
from pipeline.errors import ServiceError

IN_MOTION = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
DELETE_JOB = {  # by the member of a step's metadata: operation, parameter, log group
    "ProcessingJob": ("delete_processing_job", "ProcessingJobName", "/aws/sagemaker/ProcessingJobs"),
    "TrainingJob": ("delete_training_job", "TrainingJobName", "/aws/sagemaker/TrainingJobs"),
    "TuningJob": ("delete_hyper_parameter_tuning_job", "HyperParameterTuningJobName", None),
}


def remove(client: Client, config: Config, items: Sequence[Item], *, delete_data: bool = False) -> Iterator[str]:
    """Remove the items, data only with delete_data; yield a line for each thing that is done.

    Raises:
        ServiceError: something could not be removed; the command can be repeated once the reason is gone.
    """
    for kind, remove_one in REMOVE.items():
        for item in (item for item in items if item.kind == kind):
            if kind != "data" or delete_data:
                yield from remove_one(client, config, item)
            else:
                bucket, _, prefix = item.identifier.removeprefix("s3://").partition("/")
                again = "" if prefix else f"; `aws.bucket: {bucket}` in pipeline.yaml uses it again"
                yield f"{item.name} kept: `run_pipeline.py teardown --delete-data` removes it{again}"


def by_request(service: str, operation: str, parameter: str) -> Callable[[Client, Config, Item], Iterator[str]]:
    """Return a function that removes an item by one request."""

    def remove_one(client: Client, config: Config, item: Item) -> Iterator[str]:
        if is_deleted(getattr(client(service), operation), **{parameter: item.identifier or item.name}):
            yield f"{item.kind} {item.name} removed"

    return remove_one


def is_deleted(delete: Callable[..., Any], **request: Any) -> bool:
    """Send a Delete request; return whether there was something to delete."""
    return describe(delete, **request) is not None


def switch_schedule_off(client: Client, config: Config, item: Item) -> Iterator[str]:
    """Start nothing any more; the stack removes the schedule."""
    schedule.switch_off(client, config)
    yield f"schedule {item.name} switched off"


def stop_execution(client: Client, config: Config, item: Item) -> Iterator[str]:
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


def remove_endpoint(client: Client, config: Config, item: Item) -> Iterator[str]:
    """End the endpoint's scaling, then the endpoint, once no change of it is under way."""
    sagemaker, scaling, request = client("sagemaker"), client("application-autoscaling"), {"EndpointName": item.name}
    for target in list(list_all(scaling, "describe_scalable_targets", ServiceNamespace="sagemaker")):
        if target["ResourceId"].startswith(f"endpoint/{item.name}/"):
            keys = ("ServiceNamespace", "ResourceId", "ScalableDimension")
            if is_deleted(scaling.deregister_scalable_target, **{key: target[key] for key in keys}):
                yield f"scaling of {target['ResourceId']} removed"
    endpoint = describe(sagemaker.describe_endpoint, **request)
    if endpoint and endpoint["EndpointStatus"] in IN_MOTION:
        yield f"endpoint {item.name} is {endpoint['EndpointStatus']}: waiting for its end"
        with contextlib.suppress(WaiterError):  # the change has failed, or the endpoint is gone: both are its end
            sagemaker.get_waiter("endpoint_in_service").wait(**request, WaiterConfig=WAITER)
    yield from by_request("sagemaker", "delete_endpoint", "EndpointName")(client, config, item)
    try:
        sagemaker.get_waiter("endpoint_deleted").wait(**request, WaiterConfig=WAITER)
    except WaiterError as error:
        sentence = f"Endpoint {item.name} has not been removed: look at it in the console, then repeat the command."
        raise ServiceError(sentence) from error


def remove_pipeline(client: Client, config: Config, item: Item) -> Iterator[str]:
    """Remove the records and logs of the executions' jobs, which cost nothing and would stay, then the pipeline."""
    sagemaker = client("sagemaker")
    for execution in list(list_all(sagemaker, "list_pipeline_executions", PipelineName=item.name)):
        arn = execution["PipelineExecutionArn"]
        removed = sum([remove_job(client, kind, name) for kind, name in jobs(sagemaker, arn)])
        if removed:
            yield f"{removed} job records of execution {arn.rpartition('/')[2]} removed"
    yield from by_request("sagemaker", "delete_pipeline", "PipelineName")(client, config, item)


def jobs(sagemaker: Any, execution: str) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each job of an execution, a search's trials before the search."""
    for step in list_all(sagemaker, "list_pipeline_execution_steps", PipelineExecutionArn=execution):
        for kind, metadata in step.get("Metadata", {}).items():
            if kind in DELETE_JOB and "CacheHitResult" not in step:
                name, list_trials = (
                    metadata["Arn"].rpartition("/")[2],
                    "list_training_jobs_for_hyper_parameter_tuning_job",
                )
                if kind == "TuningJob":
                    for trial in list_all(sagemaker, list_trials, HyperParameterTuningJobName=name):
                        yield "TrainingJob", trial["TrainingJobName"]
                yield kind, name


def remove_job(client: Client, kind: str, name: str) -> bool:
    """Remove a job's log streams and its record; return whether there was a record."""
    operation, parameter, group = DELETE_JOB[kind]
    logs = client("logs")
    if group:
        streams = list_all(logs, "describe_log_streams", logGroupName=group, logStreamNamePrefix=f"{name}/")
        for stream in list(streams):
            is_deleted(logs.delete_log_stream, logGroupName=group, logStreamName=stream["logStreamName"])
    return is_deleted(getattr(client("sagemaker"), operation), **{parameter: name})


def remove_data(client: Client, config: Config, item: Item) -> Iterator[str]:
    """Remove every version of every object, and the bucket unless the user brought it."""
    s3 = client("s3")
    bucket, _, prefix = item.identifier.removeprefix("s3://").partition("/")
    while True:
        page = s3.list_object_versions(Bucket=bucket, Prefix=prefix, MaxKeys=500)
        stored = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        objects = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in stored]
        if not objects:
            break
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for error in answer.get("Errors", []):
            raise ServiceError(f"s3://{bucket}/{error['Key']} could not be removed: {error['Message']}")
    if not prefix:
        s3.delete_bucket(Bucket=bucket)
    yield f"{item.name} removed"


REMOVE: dict[str, Callable[[Client, Config, Item], Iterator[str]]] = {
    "schedule": switch_schedule_off,
    "execution": stop_execution,
    "endpoint": remove_endpoint,
    "endpoint configuration": by_request("sagemaker", "delete_endpoint_config", "EndpointConfigName"),
    "model": by_request("sagemaker", "delete_model", "ModelName"),
    "pipeline": remove_pipeline,
    "model version": by_request("sagemaker", "delete_model_package", "ModelPackageName"),
    "model package group": by_request("sagemaker", "delete_model_package_group", "ModelPackageGroupName"),
    "stack": lambda client, config, item: stack.delete(client("cloudformation"), stack_name(config)),
    "log group": by_request("logs", "delete_log_group", "logGroupName"),
    "data": remove_data,
}
