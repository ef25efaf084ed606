"""The step types of SageMaker Pipelines: the only table that is keyed by them.

A local step type is an entry here and a coroutine in `pipeline.local.jobs.executors`; what the local target cannot do
of it is a function in `runnable`. Sources: StepTypeEnum of the SDK, SageMaker's service model, "Caching pipeline steps"
in the guide.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.definition import runnable
from pipeline.definition.serving_requests import endpoint_config_faults, transform_faults

JOB_MEMBERS = ("CacheConfig", "RetryPolicies")


@dataclass(frozen=True)
class StepType:
    """One step type."""

    name: str
    creates: str | None = None  # the operation that its Arguments become; None: see `arguments`
    name_member: str | None = None  # of that request: what Pipelines fills in itself
    reads: tuple[str, ...] = ()  # the operations whose responses are its properties
    properties: str | None = None  # what can be read of a type without such operations
    arguments: str = "Any"  # the shape of Arguments that are no request
    members: tuple[str, ...] | None = None  # of the step, beside those that every step has; None: not known
    metadata: str | None = None  # the member of the step's Metadata that holds its ARN
    arn_kind: str | None = None
    log_group: str | None = None  # in CloudWatch Logs: /aws/sagemaker/<log_group>
    cache_key: tuple[str, ...] | None = None  # members of Arguments in the step's cache key; None: never cached
    needs: tuple[str, ...] = ()  # paths in Arguments without which it cannot run here
    rule: Callable[[Mapping[str, Any]], Iterator[str]] | None = None  # what else of Arguments cannot run here
    refusal: str | None = None  # why it does not run here, and what to do; None: it runs

    @property
    def resource(self) -> str:
        """What the step creates: TrainingJob, Model, ...; its Describe operation asks for `<resource>Name`."""
        return (self.creates or "").removeprefix("Create")

    @property
    def job_kind(self) -> str | None:
        """TrainingJob, ProcessingJob, ...: the resource, if it is a job."""
        return self.resource if self.resource.endswith("Job") else None


_ALL = (
    StepType(
        "Processing", "CreateProcessingJob", "ProcessingJobName", ("DescribeProcessingJob",),
        members=(*JOB_MEMBERS, "PropertyFiles"),
        metadata="ProcessingJob", arn_kind="processing-job", log_group="ProcessingJobs",
        cache_key=("AppSpecification", "Environment", "ProcessingInputs"),
        needs=("AppSpecification",), rule=runnable.processing_faults,
    ),
    StepType(
        "Training", "CreateTrainingJob", "TrainingJobName", ("DescribeTrainingJob",),
        members=JOB_MEMBERS,
        metadata="TrainingJob", arn_kind="training-job", log_group="TrainingJobs",
        cache_key=(
            "AlgorithmSpecification", "CheckpointConfig", "DebugHookConfig", "DebugRuleConfigurations", "Environment",
            "HyperParameters", "InputDataConfig",
        ),
        needs=runnable.TRAINING_NEEDS, rule=runnable.training_faults,
    ),
    StepType(
        "Tuning", "CreateHyperParameterTuningJob", "HyperParameterTuningJobName",
        ("DescribeHyperParameterTuningJob", "ListTrainingJobsForHyperParameterTuningJob"),
        members=JOB_MEMBERS,
        metadata="TuningJob", arn_kind="hyper-parameter-tuning-job", log_group="TrainingJobs",
        cache_key=("HyperParameterTuningJobConfig", "TrainingJobDefinition"),
        needs=("HyperParameterTuningJobConfig",), rule=runnable.tuning_faults,
    ),
    StepType(
        "Transform", "CreateTransformJob", "TransformJobName", ("DescribeTransformJob",),
        members=JOB_MEMBERS,
        metadata="TransformJob", arn_kind="transform-job", log_group="TransformJobs",
        cache_key=("DataProcessing", "Environment", "ModelName", "TransformInput"),
        needs=("ModelName", "TransformInput.DataSource.S3DataSource.S3Uri", "TransformOutput.S3OutputPath"),
        rule=transform_faults,
    ),
    StepType(
        "Model", "CreateModel", "ModelName", ("DescribeModel",),
        members=("RetryPolicies",), metadata="Model", arn_kind="model", rule=runnable.model_faults,
    ),
    StepType(
        "RegisterModel", "CreateModelPackage", "ModelPackageName", ("DescribeModelPackage",),
        members=("RetryPolicies",), metadata="RegisterModel", arn_kind="model-package",
        needs=("ModelPackageGroupName",),
    ),
    StepType(
        "EndpointConfig", "CreateEndpointConfig", None, ("DescribeEndpointConfig",),
        members=("CacheConfig",), metadata="EndpointConfig", arn_kind="endpoint-config",
        rule=endpoint_config_faults,
    ),
    StepType(
        "Endpoint", "CreateEndpoint", None, ("DescribeEndpoint",),
        members=("CacheConfig",), metadata="Endpoint", arn_kind="endpoint",
    ),
    StepType(
        "Lambda", properties="OutputParameters", arguments="Object",
        members=("CacheConfig", "FunctionArn", "OutputParameters"), metadata="Lambda", cache_key=(),
    ),
    StepType("Condition", properties="Outcome", arguments="ConditionArguments", members=(), metadata="Condition"),
    StepType("Fail", arguments="FailArguments", members=(), metadata="Fail"),
    StepType(
        "Callback", properties="OutputParameters", arguments="Object",
        members=("CacheConfig", "SqsQueueUrl", "OutputParameters"),
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
BY_METADATA = {step_type.metadata: step_type for step_type in _ALL if step_type.metadata}
