"""The step types of SageMaker Pipelines: what each becomes, what can be read from it, and whether it runs locally.

The only table keyed by type that holds facts of the service. What a type does here is a function in `jobs.executors`.
Sources: StepTypeEnum of the SDK, SageMaker's service model, "Caching pipeline steps" in the guide.
"""

from dataclasses import dataclass

JOB_MEMBERS = ("CacheConfig", "RetryPolicies")


@dataclass(frozen=True)
class StepType:
    """One step type."""

    name: str
    creates: str | None = None  # the operation that its Arguments become
    reads: tuple[str, ...] = ()  # the operations whose responses are its properties
    name_member: str | None = None  # of the request: what Pipelines fills in itself
    metadata: str | None = None  # the member of the step's Metadata that holds its ARN
    arn_kind: str | None = None
    members: tuple[str, ...] = ()  # beside those that every step has
    cache_key: tuple[str, ...] | None = None  # members of Arguments in the step's cache key; None: never cached
    refusal: str | None = None  # why it does not run locally and what to do; None: it runs

    @property
    def job_kind(self) -> str | None:
        """TrainingJob, ProcessingJob, ...: the resource that a step of a job creates."""
        name = (self.creates or "").removeprefix("Create")
        return name if name.endswith("Job") else None


_ALL = (
    StepType(
        "Processing", "CreateProcessingJob", ("DescribeProcessingJob",), "ProcessingJobName",
        metadata="ProcessingJob", arn_kind="processing-job", members=(*JOB_MEMBERS, "PropertyFiles"),
        cache_key=("AppSpecification", "Environment", "ProcessingInputs"),
    ),
    StepType(
        "Training", "CreateTrainingJob", ("DescribeTrainingJob",), "TrainingJobName",
        metadata="TrainingJob", arn_kind="training-job", members=JOB_MEMBERS,
        cache_key=(
            "AlgorithmSpecification", "CheckpointConfig", "DebugHookConfig", "DebugRuleConfigurations", "Environment",
            "HyperParameters", "InputDataConfig",
        ),
    ),
    StepType(
        "Tuning", "CreateHyperParameterTuningJob",
        ("DescribeHyperParameterTuningJob", "ListTrainingJobsForHyperParameterTuningJob"),
        "HyperParameterTuningJobName",
        metadata="TuningJob", arn_kind="hyper-parameter-tuning-job", members=JOB_MEMBERS,
        cache_key=("HyperParameterTuningJobConfig", "TrainingJobDefinition"),
    ),
    StepType(
        "Transform", "CreateTransformJob", ("DescribeTransformJob",), "TransformJobName",
        metadata="TransformJob", arn_kind="transform-job", members=JOB_MEMBERS,
        cache_key=("DataProcessing", "Environment", "ModelName", "TransformInput"),
    ),
    StepType(
        "Model", "CreateModel", ("DescribeModel",), "ModelName",
        metadata="Model", arn_kind="model", members=("RetryPolicies",),
    ),
    StepType(
        "RegisterModel", "CreateModelPackage", ("DescribeModelPackage",), "ModelPackageName",
        metadata="RegisterModel", arn_kind="model-package", members=("RetryPolicies",),
    ),
    StepType(
        "EndpointConfig", "CreateEndpointConfig", ("DescribeEndpointConfig",),
        metadata="EndpointConfig", arn_kind="endpoint-config", members=("CacheConfig",),
    ),
    StepType(
        "Endpoint", "CreateEndpoint", ("DescribeEndpoint",),
        metadata="Endpoint", arn_kind="endpoint", members=("CacheConfig",),
    ),
    StepType(
        "Lambda", metadata="Lambda", members=("CacheConfig", "FunctionArn", "OutputParameters"), cache_key=(),
    ),
    StepType("Condition", metadata="Condition"),
    StepType("Fail", metadata="Fail"),
    StepType(
        "Callback", members=("CacheConfig", "SqsQueueUrl", "OutputParameters"),
        refusal="it waits for a message from outside; replace it by a Lambda or Processing step",
    ),
    StepType("AutoML", refusal="AutoML runs on the service only; replace it by a Tuning step"),
    StepType("ClarifyCheck", refusal="the Clarify image is AWS's; replace it by a Processing step of your own"),
    StepType("QualityCheck", refusal="the Model Monitor image is AWS's; replace it by a Processing step of your own"),
    StepType("EMR", refusal="there is no cluster here; replace it by a Processing step"),
    StepType("EMRServerless", refusal="there is no cluster here; replace it by a Processing step"),
    StepType("InferenceComponent", refusal="replace it by EndpointConfig and Endpoint steps"),
    StepType("Lineage", refusal="lineage is not kept here; leave the step out"),
    StepType("Job", refusal="replace it by a Processing or Training step"),
    StepType("Cleanup", refusal="there is nothing to clean up here; leave the step out"),
    StepType("ForEach", refusal="replace it by one step for each item"),
)  # fmt: skip
STEP_TYPES = {step_type.name: step_type for step_type in _ALL}
RUNNABLE = tuple(step_type.name for step_type in _ALL if step_type.refusal is None)
