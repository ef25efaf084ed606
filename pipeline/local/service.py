"""The operations that the local target answers, by service and name. Anything else is refused by name."""

from typing import Any

from pipeline.local import endpoints, executions, functions, registry
from pipeline.local.answers import Operation, RequestError, chosen, found, listed
from pipeline.local.state import Document, State


def described(kind: str, member: str, what: str) -> Operation:
    """A Describe operation that answers a stored document."""

    def operation(state: State, request: Document) -> Document:
        return found(state, kind, request[member], what)

    return operation


def list_trials(state: State, request: Document) -> Document:
    """ListTrainingJobsForHyperParameterTuningJob."""
    name = request["HyperParameterTuningJobName"]
    job = found(state, "HyperParameterTuningJob", name, "hyperparameter tuning job")
    return {"TrainingJobSummaries": job["Trials"][: request.get("MaxResults", 100)]}


def list_training_jobs(state: State, request: Document) -> Document:
    """ListTrainingJobs."""
    wanted = request.get("NameContains", "")
    jobs = listed(state.all("TrainingJob"), request, lambda d: wanted in d["TrainingJobName"])
    members = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "TrainingJobStatus")
    return {"TrainingJobSummaries": [chosen(document, *members) for document in jobs]}


def update_model_package(state: State, request: Document) -> Document:
    """UpdateModelPackage, and the event that EventBridge would deliver to the function of a rule on the group."""
    answer = registry.update_model_package(state, request)
    if "ModelApprovalStatus" in request:
        package = registry.describe_model_package(state, {"ModelPackageName": request["ModelPackageArn"]})
        deliver(state, package)
    return answer


def deliver(state: State, package: Document) -> None:
    """Call the function that the group's rule names with a state change event."""
    rule = state.get("Rule", package["ModelPackageGroupName"])
    if rule is None:
        return
    members = (
        "ModelPackageGroupName",
        "ModelPackageVersion",
        "ModelPackageArn",
        "CreationTime",
        "ModelPackageStatus",
        "ModelApprovalStatus",
    )
    event = {
        "version": "0",
        "source": "aws.sagemaker",
        "detail-type": "SageMaker Model Package State Change",
        "account": "000000000000",
        "region": "us-east-1",
        "resources": [package["ModelPackageArn"]],
        "detail": chosen(package, *members),
    }
    functions.invoke_now(state, functions.function_named(state, rule["FunctionName"]), event)


def nothing(state: State, request: Document) -> Document:
    """Tags and the like, which have no meaning here."""
    return {}


SAGEMAKER: dict[str, Operation] = {
    "CreatePipeline": executions.create_pipeline,
    "UpdatePipeline": executions.update_pipeline,
    "DescribePipeline": executions.describe_pipeline,
    "ListPipelines": executions.list_pipelines,
    "DeletePipeline": executions.delete_pipeline,
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
    "DescribeTransformJob": described("TransformJob", "TransformJobName", "transform job"),
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
    "CreateModel": registry.create_model,
    "DescribeModel": registry.describe_model,
    "ListModels": registry.list_models,
    "DeleteModel": registry.delete_model,
    "CreateEndpointConfig": endpoints.create_endpoint_config,
    "DescribeEndpointConfig": endpoints.describe_endpoint_config,
    "ListEndpointConfigs": endpoints.list_endpoint_configs,
    "DeleteEndpointConfig": endpoints.delete_endpoint_config,
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
