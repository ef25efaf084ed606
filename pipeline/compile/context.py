"""What every step builder is given: the inputs, the runtime parameters, and what all jobs have in common.

A builder asks the context for the URI of its code and of prefixes that must not be empty, and the context notes both:
what has to be uploaded follows from the definition that was built.
"""

from dataclasses import dataclass, field
from typing import Any

from sagemaker.core.helper.pipeline_variable import PipelineVariable
from sagemaker.core.lambda_helper import Lambda
from sagemaker.core.network import NetworkConfig
from sagemaker.core.processing import Processor
from sagemaker.core.shapes import ProcessingInput, ProcessingOutput, ProcessingS3Input, ProcessingS3Output
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join
from sagemaker.core.workflow.parameters import Parameter, ParameterFloat, ParameterInteger, ParameterString
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow import retry
from sagemaker.mlops.workflow.lambda_step import LambdaOutput, LambdaOutputTypeEnum
from sagemaker.mlops.workflow.steps import CacheConfig

from pipeline.compile.bundle import ARCHIVE, PROCESSING, Bundle, bundle, processing_command
from pipeline.compile.compiler import Inputs
from pipeline.config.sections import LOCAL_STORAGE, DataConfig, EvaluationConfig

PLACEHOLDER = "README"


@dataclass(frozen=True)
class Context(Inputs):
    """The inputs, and what the builders share and find out."""

    session: PipelineSession = None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    bundles: dict[str, Bundle] = field(default_factory=dict)  # by URI
    placeholders: dict[str, str] = field(default_factory=dict)  # URI -> text

    def code_uri(self, entry_point: str) -> str:
        """Return the S3 URI of the archive of the code that a script of steps/ needs."""
        found = bundle(entry_point)
        uri = self.placement.uri(found.key(self.config.pipeline.name), ARCHIVE)
        self.bundles[uri] = found
        return uri

    def shared_uri(self, *parts: str, about: str) -> str:
        """Return an S3 prefix that all executions share; the text keeps it from being empty, as no input may be."""
        uri = self.placement.uri(self.config.pipeline.name, *parts)
        self.placeholders[f"{uri}/{PLACEHOLDER}"] = about
        return uri

    def execution_uri(self, folder: str, *parts: str) -> Join:
        """Return an S3 URI that no two executions share; what lies below `executions` may expire."""
        top = self.placement.uri(self.config.pipeline.name, folder)
        return Join(on="/", values=[top, ExecutionVariables.PIPELINE_EXECUTION_ID, *parts])

    def processor(
        self, entry_point: str, section: DataConfig | EvaluationConfig, instance_type: object, instance_count: int = 1
    ) -> Processor:
        """Return the processor of a job that runs a script of the input `code`."""
        network = self.network_settings()
        return Processor(
            role=self.placement.job_role_arn,
            image_uri=self.placement.training_image,
            entrypoint=processing_command(entry_point),
            instance_count=instance_count,
            instance_type=instance_type,
            volume_size_in_gb=section.volume_size_gb,
            max_runtime_in_seconds=section.max_runtime_seconds,
            sagemaker_session=self.session,
            network_config=NetworkConfig(**network) if network else None,
            volume_kms_key=self.volume_key(section.instance_type),
            output_kms_key=self.config.aws.kms_key_arn,
        )

    def function(self, name: str, *answers: str) -> dict[str, Any]:
        """Return a Lambda step's arguments for a function that the stack has made; its answers are text."""
        outputs = [LambdaOutput(output_name=answer, output_type=LambdaOutputTypeEnum.String) for answer in answers]
        function = Lambda(function_arn=self.placement.function_arn(name), session=self.session)
        return {"lambda_func": function, "outputs": outputs}

    def network_settings(self) -> dict[str, Any]:
        """Return the arguments that the SDK's NetworkConfig and Networking share; empty where nothing is asked for."""
        aws = self.config.aws
        vpc = {"subnets": list(aws.vpc.subnet_ids), "security_group_ids": list(aws.vpc.security_group_ids)}
        isolation = {"enable_network_isolation": True}
        return {**(vpc if aws.vpc.subnet_ids else {}), **(isolation if aws.network_isolation else {})}

    def volume_key(self, instance_type: str) -> str | None:
        """Return the KMS key of a job's volumes; none for instances that encrypt disks of their own by hardware.

        For those SageMaker refuses a key (AWS API, ResourceConfig.VolumeKmsKeyId). The type is pipeline.yaml's.
        """
        return None if LOCAL_STORAGE.match(instance_type) else self.config.aws.kms_key_arn

    def cache(self) -> CacheConfig:
        """Return for how many days an unchanged step is reused."""
        return CacheConfig(enable_caching=True, expire_after=f"P{self.config.pipeline.cache_expire_days}D")


def declare(inputs: Inputs) -> dict[str, Parameter]:
    """Return the runtime parameters with their defaults, in Studio's order; schedules and `--param` override them."""
    config, tuning, parent = inputs.config, inputs.config.tuning, inputs.warm_start_parent
    statuses = ["Approved", "PendingManualApproval", "Rejected"]
    status = "Approved" if config.registry.approval_status == "auto" else config.registry.approval_status
    approval = [ParameterString("ModelApprovalStatus", status, enum_values=statuses)]
    found = [
        ParameterString("InputDataUri", inputs.input_data_uri),
        ParameterFloat("AccuracyThreshold", config.evaluation.accuracy_threshold),
        *(approval if inputs.placement.auto_approves else []),
        ParameterInteger("MaxTuningJobs", tuning.max_jobs),
        ParameterInteger("MaxParallelTuningJobs", tuning.max_parallel_jobs),
        ParameterString("ProcessingInstanceType", config.data.instance_type),
        ParameterString("TuningInstanceType", tuning.instance_type),
        ParameterString("TrainingInstanceType", config.training.instance_type),
        ParameterString("EndpointName", config.deploy.endpoint_name),
        ParameterString("ReplaceClasses", "false", enum_values=["false", "true"]),  # of the model in service
        *([ParameterString("WarmStartParent", parent)] if parent else []),
    ]
    return {parameter.name: parameter for parameter in found}


def step_retries() -> list[retry.StepRetryPolicy]:
    """Retry throttling and service faults soon."""
    kinds = [retry.StepExceptionTypeEnum.THROTTLING, retry.StepExceptionTypeEnum.SERVICE_FAULT]
    return [retry.StepRetryPolicy(kinds, interval_seconds=5, backoff_rate=2.0, max_attempts=5)]


def job_retries(*, resumes: bool = False) -> list[retry.StepRetryPolicy]:
    """Wait for missing capacity up to two hours; start a lost job that resumes from checkpoints twice more."""
    kinds, policy = retry.SageMakerJobExceptionTypeEnum, retry.SageMakerJobStepRetryPolicy
    missing, lost = [kinds.CAPACITY_ERROR, kinds.RESOURCE_LIMIT], [kinds.INTERNAL_ERROR]
    waits = policy(missing, interval_seconds=60, backoff_rate=1.5, expire_after_mins=120)
    again = policy(lost, interval_seconds=5, backoff_rate=2.0, max_attempts=2)
    return [*step_retries(), waits, *([again] if resumes else [])]


def processing_input(name: str, uri: object) -> ProcessingInput:
    """Return an input below /opt/ml/processing/input, whole on every instance."""
    source = ProcessingS3Input(
        s3_uri=uri,
        local_path=f"{PROCESSING}/input/{name}",
        s3_data_type="S3Prefix",
        s3_input_mode="File",
        s3_data_distribution_type="FullyReplicated",
        s3_compression_type="None",
    )
    return ProcessingInput(input_name=name, s3_input=source)


def processing_output(name: str, uri: object, s3_upload_mode: str = "EndOfJob") -> ProcessingOutput:
    """Return an output below /opt/ml/processing/output, uploaded when the job ends or (Continuous) while it runs."""
    local_path = f"{PROCESSING}/output/{name}"
    target = ProcessingS3Output(s3_uri=uri, local_path=local_path, s3_upload_mode=s3_upload_mode)
    return ProcessingOutput(output_name=name, s3_output=target)


def flags(**values: object) -> list[str | PipelineVariable]:
    """Return command-line arguments: `flags(seed=1)` is `["--seed", "1"]`; True and None read as in pipeline.yaml."""
    spelled = {True: "true", False: "false", None: "auto"}
    arguments: list[str | PipelineVariable] = []
    for name, value in values.items():
        text = spelled[value] if isinstance(value, bool) or value is None else value
        arguments += [f"--{name.replace('_', '-')}", text if isinstance(text, PipelineVariable) else str(text)]
    return arguments
