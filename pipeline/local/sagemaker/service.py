"""The operations that the local target answers, by service and name. Anything else is refused by name."""

import secrets
from datetime import UTC, datetime
from typing import Any

from pipeline.local.engine import executions, pipelines
from pipeline.local.jobs import functions
from pipeline.local.jobs.model_data import found_package
from pipeline.local.jobs.runtime import ACCOUNT, REGION, now
from pipeline.local.sagemaker import endpoint_configs, endpoints, models, registry, transform_jobs
from pipeline.local.store.answers import Operation, RequestError, chosen, found, listed, paged
from pipeline.local.store.state import Document, State

EVENT_FAILED = "EventDeliveryFailed"  # no code of the service
EVENT_MEMBERS = (
    "ModelPackageGroupName",
    "ModelPackageVersion",
    "ModelPackageArn",
    "CreationTime",
    "LastModifiedTime",
    "InferenceSpecification",
    "ModelPackageStatus",
    "ModelPackageStatusDetails",
    "ModelApprovalStatus",
    "ModelMetrics",
)


def described(kind: str, member: str, what: str) -> Operation:
    """A Describe operation that answers a stored document."""

    def operation(state: State, request: Document) -> Document:
        return found(state, kind, request[member], what)

    return operation


def list_trials(state: State, request: Document) -> Document:
    """ListTrainingJobsForHyperParameterTuningJob."""
    name = request["HyperParameterTuningJobName"]
    job = found(state, "HyperParameterTuningJob", name, "hyperparameter tuning job")
    return paged("TrainingJobSummaries", job["Trials"], request)


def list_training_jobs(state: State, request: Document) -> Document:
    """ListTrainingJobs."""
    wanted = request.get("NameContains", "")
    jobs = listed(state.all("TrainingJob"), request, lambda d: wanted in d["TrainingJobName"])
    members = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "TrainingJobStatus")
    return paged("TrainingJobSummaries", [chosen(document, *members) for document in jobs], request)


def update_model_package(state: State, request: Document) -> Document:
    """UpdateModelPackage, and the event that EventBridge would deliver to the function of a rule on the group."""
    answer = registry.update_model_package(state, request)
    if "ModelApprovalStatus" in request:
        deliver(state, found_package(state, request["ModelPackageArn"]))
    return answer


def deliver(state: State, package: Document) -> None:
    """Call the function that the group's rule names with a state change event.

    Raises:
        RequestError: the function failed. On AWS nobody would hear of it; here somebody waits for what it does.
    """
    rule = state.get("Rule", package["ModelPackageGroupName"].lower())
    if rule is None:
        return
    event = {
        "version": "0",
        "id": secrets.token_hex(16),
        "source": "aws.sagemaker",
        "detail-type": "SageMaker Model Package State Change",
        "account": ACCOUNT,
        "region": REGION,
        "time": datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "resources": [package["ModelPackageArn"]],
        "detail": chosen(package, *EVENT_MEMBERS),
    }
    from pipeline.local.sagemaker.api import LocalApi  # which answers by way of this module

    name = rule["FunctionName"]
    try:
        functions.invoke_now(state, LocalApi(state), functions.function_named(state, name), event)
    except RequestError as problem:
        status = package["ModelApprovalStatus"]
        raise RequestError(
            EVENT_FAILED, f"The version is {status} now, but function {name!r}, which heard of it, failed: {problem}"
        ) from problem


def nothing(state: State, request: Document) -> Document:
    """Tags and the like, which have no meaning here."""
    return {}


SAGEMAKER: dict[str, Operation] = {
    "CreatePipeline": pipelines.create_pipeline,
    "UpdatePipeline": pipelines.update_pipeline,
    "DescribePipeline": pipelines.describe_pipeline,
    "ListPipelines": pipelines.list_pipelines,
    "DeletePipeline": pipelines.delete_pipeline,
    "StartPipelineExecution": executions.start_pipeline_execution,
    "DescribePipelineExecution": executions.describe_pipeline_execution,
    "DescribePipelineDefinitionForExecution": executions.describe_pipeline_definition_for_execution,
    "ListPipelineExecutions": executions.list_pipeline_executions,
    "ListPipelineExecutionSteps": executions.list_pipeline_execution_steps,
    "ListPipelineParametersForExecution": executions.list_pipeline_parameters_for_execution,
    "StopPipelineExecution": executions.stop_pipeline_execution,
    "RetryPipelineExecution": executions.retry_pipeline_execution,
    "DescribeProcessingJob": described("ProcessingJob", "ProcessingJobName", "processing job"),
    "DescribeTrainingJob": described("TrainingJob", "TrainingJobName", "training job"),
    "CreateTransformJob": transform_jobs.create_transform_job,
    "DescribeTransformJob": transform_jobs.describe_transform_job,
    "ListTransformJobs": transform_jobs.list_transform_jobs,
    "StopTransformJob": transform_jobs.stop_transform_job,
    "DescribeHyperParameterTuningJob": described(
        "HyperParameterTuningJob", "HyperParameterTuningJobName", "hyperparameter tuning job"
    ),
    "ListTrainingJobs": list_training_jobs,
    "ListTrainingJobsForHyperParameterTuningJob": list_trials,
    "CreateModelPackageGroup": registry.create_model_package_group,
    "DescribeModelPackageGroup": registry.describe_model_package_group,
    "ListModelPackageGroups": registry.list_model_package_groups,
    "DeleteModelPackageGroup": registry.delete_model_package_group,
    "CreateModelPackage": registry.create_model_package,
    "DescribeModelPackage": registry.describe_model_package,
    "ListModelPackages": registry.list_model_packages,
    "UpdateModelPackage": update_model_package,
    "DeleteModelPackage": registry.delete_model_package,
    "CreateModel": models.create_model,
    "DescribeModel": models.describe_model,
    "ListModels": models.list_models,
    "DeleteModel": models.delete_model,
    "CreateEndpointConfig": endpoint_configs.create_endpoint_config,
    "DescribeEndpointConfig": endpoint_configs.describe_endpoint_config,
    "ListEndpointConfigs": endpoint_configs.list_endpoint_configs,
    "DeleteEndpointConfig": endpoint_configs.delete_endpoint_config,
    "CreateEndpoint": endpoints.create_endpoint,
    "UpdateEndpoint": endpoints.update_endpoint,
    "DescribeEndpoint": endpoints.describe_endpoint,
    "ListEndpoints": endpoints.list_endpoints,
    "DeleteEndpoint": endpoints.delete_endpoint,
    "AddTags": lambda state, request: {"Tags": request.get("Tags", [])},
    "ListTags": lambda state, request: {"Tags": []},
    "DeleteTags": nothing,
}


def answer(state: State, operation: str, request: Document) -> Any:
    """Answer one SageMaker request.

    Raises:
        RequestError: refused, with the service's error code.
    """
    function = SAGEMAKER.get(operation)
    if function is None:
        raise RequestError("UnknownOperationException", f"The local target does not answer sagemaker:{operation}.")
    return function(state, request)
