"""The step types of SageMaker Pipelines: the only table that is keyed by them.

A local step type is an entry here and a coroutine in `pipeline.local.jobs.executors`; what the local target cannot do
of it is a function in `runnable`. Sources: StepTypeEnum of the SDK, SageMaker's service model, "Caching pipeline steps"
in the guide.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.definition import runnable
from pipeline.definition.serving_requests import endpoint_config_problems, transform_problems


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
    needs: tuple[str, ...] = ()  # paths in Arguments without which it cannot run here
    rule: Callable[[Mapping[str, Any]], Iterator[str]] | None = None  # what else of Arguments cannot run here
    refusal: str | None = None  # why it does not run here, and what to do; None: it runs

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
        needs=("AppSpecification",), rule=runnable.processing_problems,
    ),
    StepType(
        "Training", "TrainingJob", log_group="TrainingJobs",
        cache_key=("AlgorithmSpecification", "CheckpointConfig", "DebugHookConfig", "DebugRuleConfigurations",
                   "Environment", "HyperParameters", "InputDataConfig"),
        needs=runnable.TRAINING_NEEDS, rule=runnable.training_problems,
    ),
    StepType(
        "Tuning", "HyperParameterTuningJob", log_group="TrainingJobs",
        more_reads=("ListTrainingJobsForHyperParameterTuningJob",),
        cache_key=("HyperParameterTuningJobConfig", "TrainingJobDefinition"),
        needs=("HyperParameterTuningJobConfig",), rule=runnable.tuning_problems,
    ),
    StepType(
        "Transform", "TransformJob", log_group="TransformJobs",
        cache_key=("DataProcessing", "Environment", "ModelName", "TransformInput"),
        needs=("ModelName", "TransformInput.DataSource.S3DataSource.S3Uri", "TransformOutput.S3OutputPath"),
        rule=transform_problems,
    ),
    StepType("Model", "Model", rule=runnable.model_problems),
    StepType("RegisterModel", "ModelPackage", needs=("ModelPackageGroupName",)),
    StepType("EndpointConfig", "EndpointConfig", is_named_by_service=False, rule=endpoint_config_problems),
    StepType("Endpoint", "Endpoint", is_named_by_service=False),
    StepType("Lambda", properties="OutputParameters", cache_key=()),
    StepType("Condition", properties="Outcome"),
    StepType("Fail"),
    StepType("Callback", properties="OutputParameters",
             refusal="it waits for a message from outside; replace it by a Lambda or Processing step"),
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
BY_METADATA = {step_type.metadata: step_type for step_type in _ALL if not step_type.refusal}
