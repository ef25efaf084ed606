"""The runtime parameters of the pipeline: what Studio, schedules and `--param` may override."""

from dataclasses import dataclass, fields

from sagemaker.core.workflow.parameters import Parameter, ParameterFloat, ParameterInteger, ParameterString

from pipeline.config.config import Config


@dataclass(frozen=True)
class Parameters:
    """One attribute a parameter, in the order in which Studio shows them."""

    input_data_uri: ParameterString
    accuracy_threshold: ParameterFloat
    model_approval_status: ParameterString
    max_tuning_jobs: ParameterInteger
    max_parallel_tuning_jobs: ParameterInteger
    processing_instance_type: ParameterString
    tuning_instance_type: ParameterString
    training_instance_type: ParameterString
    endpoint_name: ParameterString
    warm_start_parent: ParameterString | None  # none where a search begins with nothing

    def all(self) -> list[Parameter]:
        """Every parameter."""
        found = [getattr(self, field.name) for field in fields(self)]
        return [parameter for parameter in found if parameter is not None]


def declare(config: Config, input_data_uri: str, warm_start_parent: str | None = None) -> Parameters:
    """The parameters with the defaults of pipeline.yaml, and the tuning job that the search begins with."""
    parent = ParameterString("WarmStartParent", default_value=warm_start_parent) if warm_start_parent else None
    return Parameters(
        input_data_uri=ParameterString("InputDataUri", default_value=input_data_uri),
        accuracy_threshold=ParameterFloat("AccuracyThreshold", default_value=config.evaluation.accuracy_threshold),
        model_approval_status=ParameterString(
            "ModelApprovalStatus",
            default_value=config.registry.approval_status,
            enum_values=["Approved", "PendingManualApproval", "Rejected"],
        ),
        max_tuning_jobs=ParameterInteger("MaxTuningJobs", default_value=config.tuning.max_jobs),
        max_parallel_tuning_jobs=ParameterInteger(
            "MaxParallelTuningJobs", default_value=config.tuning.max_parallel_jobs
        ),
        processing_instance_type=ParameterString("ProcessingInstanceType", default_value=config.data.instance_type),
        tuning_instance_type=ParameterString("TuningInstanceType", default_value=config.tuning.instance_type),
        training_instance_type=ParameterString("TrainingInstanceType", default_value=config.training.instance_type),
        endpoint_name=ParameterString("EndpointName", default_value=config.deploy.endpoint_name),
        warm_start_parent=parent,
    )
