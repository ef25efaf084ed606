"""A step's Arguments as the request that they become: of the kinds that the API has, and without nulls.

SDK v3 puts `{"Get": "Parameters.Epochs"}` as it is among the hyperparameters, and the service makes "3" of it. Only the
members that something here relies on are looked at, so that a request which SageMaker takes is never refused for one
that this machine does not know: tables by name, since reading the whole service model takes 35 ms. (In SageMaker's
model each of these names has one kind, wherever it stands.)
"""

import math
from typing import Any

from pipeline.definition.expressions import ExpressionError, is_expression, text_of
from pipeline.definition.paths import quoted

OBJECT, OBJECTS, TEXTS = "an object", "a list of objects", "a list of text"
TEXT, TEXT_MAP, NUMBER, COUNT, SWITCH = (
    "text",
    "an object whose members are text",
    "a whole number, 0 or more",
    "a whole number, 1 or more",
    "true or false",
)
NAMES = {
    OBJECT: """
        AlgorithmSpecification AppSpecification CacheConfig CaptureContentTypeHeader CheckpointConfig ClusterConfig
        DataCaptureConfig DataProcessing DataSource DebugHookConfig HyperParameterRanges HyperParameterTuningJobConfig
        HyperParameterTuningJobObjective InferenceSpecification ModelCard ModelClientConfig ModelDataSource
        ModelLifeCycle ModelMetrics NetworkConfig OutputDataConfig ParameterRanges PrimaryContainer
        ProcessingOutputConfig ProcessingResources ProfilerConfig ResourceConfig ResourceLimits S3DataSource S3Input
        S3Output StoppingCondition TensorBoardOutputConfig TrainingJobDefinition TransformInput TransformOutput
        TransformResources TuningObjective WarmStartConfig""",
    OBJECTS: """
        AdditionalInferenceSpecifications AutoParameters CaptureOptions CategoricalParameterRanges
        CollectionConfigurations Containers ContinuousParameterRanges DebugRuleConfigurations InputDataConfig
        InstanceGroups IntegerParameterRanges MetricDefinitions OutputParameters Outputs
        ParentHyperParameterTuningJobs ProcessingInputs ProductionVariants PropertyFiles RetryPolicies Tags
        TrainingJobDefinitions""",
    TEXTS: "ContainerArguments ContainerEntrypoint CsvContentTypes JsonContentTypes",
    TEXT_MAP: """
        CollectionParameters CustomerMetadataProperties Environment HookParameters HyperParameters ProfilingParameters
        RuleParameters StaticHyperParameters""",
    NUMBER: """
        ContainerStartupHealthCheckTimeoutInSeconds InitialSamplingPercentage InvocationsMaxRetries
        InvocationsTimeoutInSeconds MaxConcurrentTransforms MaxParallelTrainingJobs MaxPayloadInMB
        MaxRuntimeInSeconds MaxWaitTimeInSeconds VolumeSizeInGB""",
    COUNT: "InitialInstanceCount InstanceCount",
    SWITCH: "EnableCapture EnableInterContainerTrafficEncryption EnableManagedSpotTraining EnableNetworkIsolation",
    TEXT: """
        Accept AssembleWith BatchStrategy CaptureMode ChannelName CompressionType ContentType DefinitionName
        DestinationS3Uri DisplayName EndpointConfigName EndpointName FilePath FunctionArn HyperParameterTuningJobName
        Image ImageUri InputFilter InputMode InputName InstanceType JoinSource LocalPath MetricName
        ModelApprovalStatus ModelDataUrl ModelName ModelPackageDescription ModelPackageGroupName ModelPackageName Name
        OutputFilter OutputName OutputType ProcessingJobName PropertyFileName Regex RoleArn S3DataDistributionType
        S3DataType S3OutputPath S3UploadMode S3Uri SplitType TrainingImage TrainingInputMode TrainingJobName
        TransformJobName VariantName WarmStartType""",
}
KINDS = {name: kind for kind, names in NAMES.items() for name in names.split()}  # member -> its kind
MEMBER_KINDS = {OBJECTS: OBJECT, TEXTS: TEXT, TEXT_MAP: TEXT}  # of what a list or a map holds
LARGEST_NUMBER = 2**31 - 1  # the service model's integer


def as_request(arguments: Any) -> Any:
    """The same request; numbers and booleans that the API has as text are text, and null members are left out.

    Raises:
        ExpressionError: a member is of another kind.
    """
    faults: list[str] = []
    request = _converted(arguments, "", None, faults)
    if faults:
        raise ExpressionError(" ".join(faults))
    return request


def request_faults(arguments: Any) -> list[str]:
    """The members that are of another kind than the API has, one sentence each; expressions may be anything."""
    faults: list[str] = []
    _converted(arguments, "", None, faults)
    return faults


def _converted(value: Any, path: str, kind: str | None, faults: list[str]) -> Any:
    """The value as the API has it; what is of another kind is added to the faults."""
    if is_expression(value):
        return value
    container = {OBJECT: dict, TEXT_MAP: dict, OBJECTS: list, TEXTS: list}.get(kind or "")
    try:
        if kind in SINGLE:
            return SINGLE[kind](value)
        if container and not isinstance(value, container):
            raise ValueError
    except (ExpressionError, ValueError):
        faults.append(f"{path} must be {kind}, but got {quoted(value)}.")
        return value
    inner = MEMBER_KINDS.get(kind or "")
    if isinstance(value, dict):
        places = {name: f"{path}['{name}']" if inner else f"{path}.{name}".lstrip(".") for name in value}
        return {
            name: _converted(member, places[name], inner or KINDS.get(name), faults)
            for name, member in value.items()
            if member is not None
        }
    if isinstance(value, list):
        return [_converted(member, f"{path}[{number}]", inner, faults) for number, member in enumerate(value)]
    return value


def _number(value: Any) -> int:
    """A whole number, also one that is written as text."""
    number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= LARGEST_NUMBER or number != int(number):
        raise ValueError
    return int(number)


def _count(value: Any) -> int:
    """A whole number of at least 1."""
    if (number := _number(value)) < 1:
        raise ValueError
    return number


def _switch(value: Any) -> bool:
    """True or false, also as text."""
    if str(value).lower() not in ("true", "false"):
        raise ValueError
    return str(value).lower() == "true"


SINGLE = {TEXT: text_of, NUMBER: _number, COUNT: _count, SWITCH: _switch}
