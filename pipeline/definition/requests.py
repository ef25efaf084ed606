"""A step's Arguments as the request that they become: of the kinds that the API has, and without nulls.

SDK v3 puts `{"Get": "Parameters.Epochs"}` as it is among the hyperparameters, and the service makes "3" of it. Only the
members that something here relies on are looked at, so that a request which SageMaker takes is never refused for one
that this machine does not know: tables by name, since reading the whole service model takes 35 ms. (In SageMaker's
model each of these names has one kind, wherever it stands.)
"""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.definition.expressions import ExpressionError, is_expression, text_of
from pipeline.definition.paths import kind_of, quoted

OBJECTS = """
    AlgorithmSpecification AppSpecification CacheConfig CaptureContentTypeHeader CheckpointConfig ClusterConfig
    DataCaptureConfig DataProcessing DataSource DebugHookConfig HyperParameterRanges HyperParameterTuningJobConfig
    HyperParameterTuningJobObjective InferenceSpecification ModelCard ModelDataSource ModelLifeCycle ModelMetrics
    ModelClientConfig NetworkConfig OutputDataConfig ParameterRanges PrimaryContainer ProcessingOutputConfig
    ProcessingResources ProfilerConfig ResourceConfig ResourceLimits S3DataSource S3Input S3Output StoppingCondition
    TensorBoardOutputConfig TrainingJobDefinition TransformInput TransformOutput TransformResources TuningObjective
    WarmStartConfig"""
LISTS_OF_OBJECTS = """
    AdditionalInferenceSpecifications AutoParameters CaptureOptions CategoricalParameterRanges
    CollectionConfigurations Containers ContinuousParameterRanges DebugRuleConfigurations InputDataConfig
    InstanceGroups IntegerParameterRanges MetricDefinitions OutputParameters Outputs ParentHyperParameterTuningJobs
    ProcessingInputs ProductionVariants PropertyFiles RetryPolicies Tags TrainingJobDefinitions"""
LISTS_OF_TEXT = "ContainerArguments ContainerEntrypoint CsvContentTypes JsonContentTypes"
MAPS_OF_TEXT = """
    CollectionParameters CustomerMetadataProperties Environment HookParameters HyperParameters ProfilingParameters
    RuleParameters StaticHyperParameters"""
NUMBERS = """
    ContainerStartupHealthCheckTimeoutInSeconds InitialInstanceCount InitialSamplingPercentage
    InstanceCount InvocationsMaxRetries InvocationsTimeoutInSeconds MaxConcurrentTransforms MaxParallelTrainingJobs
    MaxPayloadInMB MaxRuntimeInSeconds MaxWaitTimeInSeconds VolumeSizeInGB"""
SWITCHES = "EnableCapture EnableInterContainerTrafficEncryption EnableManagedSpotTraining EnableNetworkIsolation"
TEXTS = """
    Accept AssembleWith BatchStrategy CaptureMode ChannelName CompressionType ContentType DefinitionName
    DestinationS3Uri DisplayName EndpointConfigName EndpointName FilePath FunctionArn HyperParameterTuningJobName Image
    ImageUri InputFilter InputMode InputName InstanceType JoinSource LocalPath MetricName ModelApprovalStatus
    ModelDataUrl ModelName ModelPackageDescription ModelPackageGroupName ModelPackageName Name OutputFilter OutputName
    OutputType ProcessingJobName PropertyFileName Regex RoleArn S3DataDistributionType S3DataType S3OutputPath
    S3UploadMode S3Uri SplitType TrainingImage TrainingInputMode TrainingJobName TransformJobName VariantName
    WarmStartType"""
LARGEST_NUMBER = 2**31 - 1  # the service model's integer


def as_request(arguments: Any) -> Any:
    """The same request; numbers and booleans that the API has as text are text, and null members are left out.

    Raises:
        ExpressionError: a member is of another kind.
    """
    faults: list[str] = []
    request = _converted(arguments, "", faults)
    if faults:
        raise ExpressionError(" ".join(faults))
    return request


def request_faults(arguments: Any) -> list[str]:
    """The members that are of another kind than the API has, one sentence each; expressions may be anything."""
    faults: list[str] = []
    _converted(arguments, "", faults)
    return faults


def _converted(value: Any, path: str, faults: list[str]) -> Any:
    """A value of any kind."""
    if is_expression(value):
        return value
    if isinstance(value, dict):
        found = {}
        for name, member in value.items():
            if member is not None:
                place = f"{path}.{name}" if path else name
                noun, convert = KINDS.get(name, ANY)
                try:
                    found[name] = member if is_expression(member) else convert(member, place, faults)
                except (ExpressionError, TypeError, ValueError):
                    faults.append(f"{place} must be {noun}, but got {quoted(member)}.")
        return found
    return (
        [_converted(each, f"{path}[{i}]", faults) for i, each in enumerate(value)] if isinstance(value, list) else value
    )


def _object(value: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        raise TypeError
    return _converted(value, path, faults)


def _objects(value: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(value, list):
        raise TypeError
    for number, member in enumerate(value):
        if not isinstance(member, dict):
            faults.append(f"{path}[{number}] must be an object, but got {quoted(member)}.")
    return _converted(value, path, faults)


def _text(value: Any, path: str, faults: list[str]) -> Any:
    return value if is_expression(value) else text_of(value)


def _texts(value: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(value, list):
        raise TypeError
    return [_member(member, f"{path}[{number}]", faults) for number, member in enumerate(value)]


def _text_map(value: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        raise TypeError
    return {name: _member(member, f"{path}['{name}']", faults) for name, member in value.items() if member is not None}


def _member(value: Any, path: str, faults: list[str]) -> Any:
    """A member of a list or map of text."""
    try:
        return _text(value, path, faults)
    except ExpressionError:
        faults.append(f"{path} must be text, but got {kind_of(value)}.")
        return value


def _number(value: Any, path: str, faults: list[str]) -> Any:
    """A whole number, also one that is written as text."""
    if isinstance(value, bool | list | dict):
        raise TypeError
    number = float(value)
    if not 0 <= number <= LARGEST_NUMBER or number != int(number):
        raise ValueError
    return int(number)


def _switch(value: Any, path: str, faults: list[str]) -> Any:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


Convert = Callable[[Any, str, list[str]], Any]
ANY: tuple[str, Convert] = ("anything", _converted)
KINDS: Mapping[str, tuple[str, Convert]] = {
    **dict.fromkeys(OBJECTS.split(), ("an object", _object)),
    **dict.fromkeys(LISTS_OF_OBJECTS.split(), ("a list of objects", _objects)),
    **dict.fromkeys(LISTS_OF_TEXT.split(), ("a list of text", _texts)),
    **dict.fromkeys(MAPS_OF_TEXT.split(), ("an object whose members are text", _text_map)),
    **dict.fromkeys(NUMBERS.split(), ("a whole number, 0 or more", _number)),
    **dict.fromkeys(SWITCHES.split(), ("true or false", _switch)),
    **dict.fromkeys(TEXTS.split(), ("text", _text)),
}
