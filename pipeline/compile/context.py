"""What every step builder is given: configuration, placement, parameters, the SDK session and the shared policies."""

from dataclasses import dataclass
from typing import Any

from sagemaker.core.network import NetworkConfig
from sagemaker.core.shapes import ProcessingInput, ProcessingOutput, ProcessingS3Input, ProcessingS3Output
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow.retry import (
    SageMakerJobExceptionTypeEnum,
    SageMakerJobStepRetryPolicy,
    StepExceptionTypeEnum,
    StepRetryPolicy,
)
from sagemaker.mlops.workflow.steps import CacheConfig

from pipeline.compile.bundle import Bundle
from pipeline.compile.parameters import Parameters
from pipeline.compile.placement import Placement
from pipeline.config.config import Config
from pipeline.config.formats import LOCAL_STORAGE

PROCESSING = "/opt/ml/processing"


@dataclass(frozen=True)
class Context:
    """Handed to each builder; immutable."""

    config: Config
    placement: Placement
    parameters: Parameters
    session: PipelineSession
    weights_uri: str
    annotations_uri: str
    commit: str | None = None

    def code_uri(self, bundle: Bundle, *parts: str) -> str:
        """S3 URI of a bundle, or of something in it."""
        return self.placement.uri(bundle.key(self.config.pipeline.name), *parts)

    def output_uri(self, *parts: str) -> Join:
        """S3 URI below which one execution writes what may expire: no two executions share it."""
        return self._of_execution("executions", *parts)

    def checkpoint_uri(self, step_name: str) -> Join:
        """S3 URI of what an interrupted job of an execution goes on from."""
        return self._of_execution("checkpoints", step_name)

    def evaluation_uri(self) -> Join:
        """S3 URI of an execution's evaluation: apart, as it must last as long as the version registered with it."""
        return self._of_execution("evaluations")

    def _of_execution(self, folder: str, *parts: str) -> Join:
        top = self.placement.uri(self.config.pipeline.name, folder)
        return Join(on="/", values=[top, ExecutionVariables.PIPELINE_EXECUTION_ID, *parts])

    def network(self) -> NetworkConfig | None:
        """Processing jobs' VPC and isolation, where pipeline.yaml asks for them."""
        settings = self.network_settings()
        return NetworkConfig(**settings) if settings else None

    def network_settings(self) -> dict[str, Any]:
        """The arguments that the SDK's NetworkConfig and Networking share; empty where nothing is asked for."""
        aws = self.config.aws
        vpc = {"subnets": list(aws.vpc.subnet_ids), "security_group_ids": list(aws.vpc.security_group_ids)}
        isolation = {"enable_network_isolation": True}
        return {**(vpc if aws.vpc.subnet_ids else {}), **(isolation if aws.network_isolation else {})}

    def output_key(self) -> str | None:
        """The KMS key of what jobs write to S3."""
        return self.config.aws.kms_key_arn

    def volume_key(self, instance_type: str) -> str | None:
        """The KMS key of a job's volumes, if its type of instance takes one.

        A type with disks of its own encrypts them by hardware, and a request that names a key is refused (AWS API,
        ResourceConfig.VolumeKmsKeyId). The type is pipeline.yaml's; a run that overrides the parameter by such a type
        fails with the service's message.
        """
        return None if LOCAL_STORAGE.match(instance_type) else self.config.aws.kms_key_arn

    def cache(self) -> CacheConfig:
        """An unchanged step is reused for so many days."""
        return CacheConfig(enable_caching=True, expire_after=f"P{self.config.pipeline.cache_expire_days}D")

    def job_retries(self) -> list[StepRetryPolicy]:
        """Throttling and service faults are retried soon, missing capacity for up to two hours."""
        capacity = SageMakerJobStepRetryPolicy(
            exception_types=[
                SageMakerJobExceptionTypeEnum.CAPACITY_ERROR,
                SageMakerJobExceptionTypeEnum.RESOURCE_LIMIT,
            ],
            interval_seconds=60,
            backoff_rate=1.5,
            expire_after_mins=120,
        )
        return [*self.step_retries(), capacity]

    def training_retries(self) -> list[StepRetryPolicy]:
        """As of any job; and one that was lost is started twice more: with checkpoints it goes on from there."""
        lost = SageMakerJobStepRetryPolicy(
            exception_types=[SageMakerJobExceptionTypeEnum.INTERNAL_ERROR],
            interval_seconds=5,
            backoff_rate=2.0,
            max_attempts=2,
        )
        return [*self.job_retries(), lost]

    def step_retries(self) -> list[StepRetryPolicy]:
        """Throttling and service faults are retried soon."""
        return [
            StepRetryPolicy(
                exception_types=[StepExceptionTypeEnum.THROTTLING, StepExceptionTypeEnum.SERVICE_FAULT],
                interval_seconds=5,
                backoff_rate=2.0,
                max_attempts=5,
            )
        ]


def processing_input(name: str, uri: object) -> ProcessingInput:
    """An input below /opt/ml/processing/input, whole on every instance."""
    return ProcessingInput(
        input_name=name,
        s3_input=ProcessingS3Input(
            s3_uri=uri,
            local_path=f"{PROCESSING}/input/{name}",
            s3_data_type="S3Prefix",
            s3_input_mode="File",
            s3_data_distribution_type="FullyReplicated",
            s3_compression_type="None",
        ),
    )


def processing_output(name: str, uri: object, s3_upload_mode: str = "EndOfJob") -> ProcessingOutput:
    """An output below /opt/ml/processing/output, uploaded when the job ends or (Continuous) while it runs."""
    local_path = f"{PROCESSING}/output/{name}"
    return ProcessingOutput(
        output_name=name,
        s3_output=ProcessingS3Output(s3_uri=uri, local_path=local_path, s3_upload_mode=s3_upload_mode),
    )


def flags(**values: object) -> list[str]:
    """Command-line arguments: `flags(seed=1)` is `["--seed", "1"]`; True and None read as they do in pipeline.yaml."""
    spelled = {True: "true", False: "false", None: "auto"}
    arguments: list[str] = []
    for name, value in values.items():
        text = spelled[value] if isinstance(value, bool) or value is None else str(value)
        arguments += [f"--{name.replace('_', '-')}", text]
    return arguments
