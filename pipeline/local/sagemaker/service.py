"""SageMaker's operations that the local target answers. Anything else is refused by name."""

from functools import cache
from importlib import import_module

from botocore import xform_name

from pipeline.local.store.answers import Operation, RequestError
from pipeline.local.store.state import Document, State

# Operations by the module that answers them, by a function of the same name. Modules are imported when they are needed,
# since a command uses few of them.
MODULES = {
    "engine.pipelines": "CreatePipeline UpdatePipeline DescribePipeline ListPipelines DeletePipeline",
    "engine.executions": """
        StartPipelineExecution DescribePipelineExecution DescribePipelineDefinitionForExecution ListPipelineExecutions
        ListPipelineExecutionSteps ListPipelineParametersForExecution StopPipelineExecution RetryPipelineExecution
    """,
    "sagemaker.jobs": """
        DescribeProcessingJob ListProcessingJobs DescribeTrainingJob ListTrainingJobs DescribeHyperParameterTuningJob
        ListHyperParameterTuningJobs ListTrainingJobsForHyperParameterTuningJob
    """,
    "sagemaker.transform_jobs": "CreateTransformJob DescribeTransformJob ListTransformJobs StopTransformJob",
    "sagemaker.registry": """
        CreateModelPackageGroup DescribeModelPackageGroup ListModelPackageGroups DeleteModelPackageGroup
        CreateModelPackage DescribeModelPackage ListModelPackages UpdateModelPackage DeleteModelPackage
    """,
    "sagemaker.models": """
        CreateModel DescribeModel ListModels DeleteModel
        CreateEndpointConfig DescribeEndpointConfig ListEndpointConfigs DeleteEndpointConfig
    """,
    "sagemaker.endpoints": "CreateEndpoint UpdateEndpoint DescribeEndpoint ListEndpoints DeleteEndpoint",
    "sagemaker.tags": "AddTags ListTags DeleteTags",
}
SAGEMAKER = {operation: module for module, names in MODULES.items() for operation in names.split()}


def answer(state: State, operation: str, request: Document) -> Document:
    """Answer one request.

    Raises:
        RequestError: refused, with the service's error code.
    """
    if operation not in SAGEMAKER:
        raise RequestError("UnknownOperationException", f"The local target does not answer sagemaker:{operation}.")
    reply: Document = function_of(operation)(state, request)
    if request.get("Tags") and operation.startswith("Create"):
        (arn,) = reply.values()
        function_of("AddTags")(state, {"ResourceArn": arn, "Tags": request["Tags"]})
    return reply


@cache
def function_of(operation: str) -> Operation:
    """The function that answers an operation."""
    function: Operation = getattr(import_module(f"pipeline.local.{SAGEMAKER[operation]}"), xform_name(operation))
    return function
