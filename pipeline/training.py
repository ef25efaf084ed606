"""Builds TrainWithDebugger, and the trainer that the search shares with it.

Trials and the final training run the same script under the same launcher, the sagemaker-training toolkit inside the
image: the tuning API has no ContainerEntrypoint, so both name the script by the toolkit's two hyperparameters.
"""

from collections.abc import Mapping

from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep, TuningStep
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import (
    Compute,
    InputData,
    MetricDefinition,
    Networking,
    OutputDataConfig,
    StoppingCondition,
)

from pipeline.bundle import ARCHIVE_NAME, training_bundle
from pipeline.config import TrainingConfig, TuningConfig
from pipeline.context import Context

NUMBER = r"([0-9.eE+-]+)"
METRICS = {
    "train:loss": "train_loss",
    "train:accuracy": "train_accuracy",
    "validation:loss": "validation_loss",
    "validation:accuracy": "validation_accuracy",
    "validation:best_accuracy": "best_validation_accuracy",
}


def train_step(context: Context, prepare: ProcessingStep, tune: TuningStep) -> TrainingStep:
    """Trains with the winner's hyperparameters, tensors saved."""
    training = context.config.training
    winner = tune.properties.BestTrainingJob.TunedHyperParameters
    hyperparameters = {
        **fixed_hyperparameters(context),
        **{name: winner[name] for name in context.config.tuning.ranges},
        "seed": training.seed,
        "final": True,
        "debug_save_interval_steps": training.debug_save_interval_steps,
    }
    model_trainer = trainer(
        context,
        step_name="TrainWithDebugger",
        hyperparameters=hyperparameters,
        section=training,
        instance_type=context.parameters.training_instance_type,
    )
    return TrainingStep(
        name="TrainWithDebugger",
        display_name="Train with debugger",
        description="Trains the final model with the winning hyperparameters and saves its tensors.",
        step_args=model_trainer.train(input_data_config=channels(context, prepare)),
        cache_config=context.cache(),
        retry_policies=context.job_retries(),
    )


def trainer(
    context: Context,
    *,
    step_name: str,
    hyperparameters: Mapping[str, object],
    section: TrainingConfig | TuningConfig,
    instance_type: object,
) -> ModelTrainer:
    """A trainer for steps/train.py. The SDK's SourceCode is not used: it would upload, under a timestamp."""
    launcher = {
        "sagemaker_program": training_bundle().entry_point,
        "sagemaker_submit_directory": context.code_uri(training_bundle(), ARCHIVE_NAME),
    }
    return ModelTrainer(
        training_image=context.placement.training_image,
        role=context.placement.role_arn,
        sagemaker_session=context.session,
        base_job_name=step_name,
        hyperparameters={**hyperparameters, **launcher},
        compute=compute(section, instance_type),
        stopping_condition=stopping_condition(section),
        networking=networking(context),
        output_data_config=OutputDataConfig(s3_output_path=output_path(context, step_name), compression_type="GZIP"),
    ).with_metric_definitions(metric_definitions())


def output_path(context: Context, step_name: str) -> str:
    """Where model.tar.gz goes, below the job's own name."""
    return context.placement.uri(context.config.pipeline.name, "jobs", step_name)


def metric_definitions() -> list[MetricDefinition]:
    """The metrics that SageMaker reads from the log, one line an epoch."""
    return [MetricDefinition(name=name, regex=rf"\b{key}={NUMBER}") for name, key in METRICS.items()]


def fixed_hyperparameters(context: Context) -> dict[str, object]:
    """The values of pipeline.yaml's `model` section, unless the search covers them."""
    model = context.config.model
    fixed = {
        "hidden_units": model.hidden_units,
        "dropout": model.dropout,
        "label_smoothing": model.label_smoothing,
        "weight_decay": model.weight_decay,
    }
    return {name: value for name, value in fixed.items() if name not in context.config.tuning.ranges}


def channels(context: Context, prepare: ProcessingStep) -> list[InputData]:
    """What steps/train.py reads."""
    outputs = prepare.properties.ProcessingOutputConfig.Outputs
    return [
        InputData(channel_name="embeddings", data_source=outputs["embeddings"].S3Output.S3Uri),
        InputData(channel_name="manifest", data_source=outputs["manifest"].S3Output.S3Uri),
        InputData(channel_name="weights", data_source=context.weights_uri),
    ]


def compute(section: TrainingConfig | TuningConfig, instance_type: object) -> Compute:
    """One instance of the type that the parameter names."""
    spot = {"enable_managed_spot_training": True} if section.use_spot else {}
    return Compute(instance_type=instance_type, instance_count=1, volume_size_in_gb=section.volume_size_gb, **spot)


def stopping_condition(section: TrainingConfig | TuningConfig) -> StoppingCondition:
    """How long a job may run and, on spot capacity, wait and run."""
    wait = {"max_wait_time_in_seconds": section.max_wait_seconds} if section.use_spot else {}
    return StoppingCondition(max_runtime_in_seconds=section.max_runtime_seconds, **wait)


def networking(context: Context) -> Networking | None:
    """The VPC of pipeline.yaml, if it names one."""
    vpc = context.config.aws.vpc
    if not vpc.subnet_ids:
        return None
    return Networking(subnets=list(vpc.subnet_ids), security_group_ids=list(vpc.security_group_ids))
