"""The step types of SageMaker Pipelines: the only table that is keyed by them.

A type that runs locally has a coroutine in `pipeline.local.jobs.executors`.
Sources: StepTypeEnum of the SDK, SageMaker's service model, "Caching pipeline steps"
in the guide.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class StepType:
    """One step type."""

    name: str
    resource: str = ""  # what it creates: its Arguments become `Create<resource>`, `Describe<resource>` its properties
    is_named_by_service: bool = True  # Pipelines fills in `<resource>Name`
    more_reads: tuple[str, ...] = ()  # operations whose responses are its properties too
    properties: str | None = None  # what can be read of a type without such operations
    log_group: str | None = None  # in CloudWatch Logs: /aws/sagemaker/<log_group>
    cache_key: tuple[str, ...] | None = None  # members of Arguments in the step's cache key; None: never cached

    @property
    def creates(self) -> str | None:
        """The operation that its Arguments become."""
        return f"Create{self.resource}" if self.resource else None

    @property
    def name_member(self) -> str | None:
        """The member of that request which Pipelines fills in itself."""
        return f"{self.resource}Name" if self.resource and self.is_named_by_service else None

    @property
    def reads(self) -> tuple[str, ...]:
        """The operations whose responses are its properties."""
        return (f"Describe{self.resource}", *self.more_reads) if self.resource else ()

    @property
    def job_kind(self) -> str | None:
        """TrainingJob, ProcessingJob, ...: the resource, if it is a job."""
        return self.resource if self.resource.endswith("Job") else None

    @property
    def metadata(self) -> str:
        """The member of the step's Metadata that holds its ARN: TrainingJob, TuningJob, Model, ..."""
        return f"{self.name}Job" if self.job_kind else self.name

    @property
    def arn_kind(self) -> str:
        """What an ARN calls the resource: training-job."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", self.resource).lower()


_ALL = (
    StepType(
        "Processing", "ProcessingJob", log_group="ProcessingJobs",
        cache_key=("AppSpecification", "Environment", "ProcessingInputs"),
    ),
    StepType(
        "Training", "TrainingJob", log_group="TrainingJobs",
        cache_key=("AlgorithmSpecification", "CheckpointConfig", "DebugHookConfig", "DebugRuleConfigurations",
                   "Environment", "HyperParameters", "InputDataConfig"),
    ),
    StepType(
        "Tuning", "HyperParameterTuningJob", log_group="TrainingJobs",
        more_reads=("ListTrainingJobsForHyperParameterTuningJob",),
        cache_key=("HyperParameterTuningJobConfig", "TrainingJobDefinition"),
    ),
    StepType(
        "Transform", "TransformJob", log_group="TransformJobs",
        cache_key=("DataProcessing", "Environment", "ModelName", "TransformInput"),
    ),
    StepType("Model", "Model"),
    StepType("RegisterModel", "ModelPackage"),
    StepType("EndpointConfig", "EndpointConfig", is_named_by_service=False),
    StepType("Endpoint", "Endpoint", is_named_by_service=False),
    StepType("Lambda", properties="OutputParameters", cache_key=()),
    StepType("Condition", properties="Outcome"),
    StepType("Fail"),
    StepType("Callback", properties="OutputParameters"),
    StepType("AutoML"),
    StepType("ClarifyCheck"),
    StepType("QualityCheck"),
    StepType("EMR"),
    StepType("EMRServerless"),
    StepType("InferenceComponent"),
    StepType("Lineage"),
    StepType("Job"),
    StepType("Cleanup"),
    StepType("ForEach"),
)  # fmt: skip
STEP_TYPES = {step_type.name: step_type for step_type in _ALL}
BY_METADATA = {step_type.metadata: step_type for step_type in _ALL}
