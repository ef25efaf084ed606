"""Builds TrainWithDebugger, and the trainer that the search shares with it.

Trials and the final training run under the same launcher, the sagemaker-training toolkit inside the image: the tuning
API has no ContainerEntrypoint, so both name their script by the toolkit's two hyperparameters. The code is an input
channel, which the toolkit copies to /opt/ml/code: it would download an S3 URI itself, and a job in network isolation
cannot.
"""

import json
from collections.abc import Mapping

from sagemaker.core.shapes import Channel, DataSource, S3DataSource
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep, TuningStep
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import (
    CheckpointConfig,
    Compute,
    InputData,
    MetricDefinition,
    Networking,
    OutputDataConfig,
    StoppingCondition,
)

from pipeline.compile.bundle import Bundle, training_bundle
from pipeline.compile.context import Context
from pipeline.compile.managed_rules import WatchedTrainingStep, managed_fields
from pipeline.config.config import DebugConfig, TrainingConfig, TuningConfig
from pipeline.config.training_config import RESOURCE

CODE_CHANNEL = "code"
NUMBER = r"([0-9.eE+-]+)"
MANAGED_INTERVAL_STEPS = 10  # of AWS's hook configuration, which knows no auto
METRICS = {
    "train:loss": "train_loss",
    "train:accuracy": "train_accuracy",
    "validation:loss": "validation_loss",
    "validation:accuracy": "validation_accuracy",
    "selection:accuracy": "selection_accuracy",
    "selection:log_loss": "selection_log_loss",
}


def train_step(context: Context, prepare: ProcessingStep, tune: TuningStep) -> TrainingStep:
    """Trains with the winner's hyperparameters, tensors saved."""
    training, debug = context.config.training, context.config.debug
    winner = tune.properties.BestTrainingJob.TunedHyperParameters
    hyperparameters = {
        **fixed_hyperparameters(context),
        **fine_tuning_hyperparameters(context),
        **{name: winner[name] for name in context.config.tuning.searched},
        "seed": training.seed,
        "debug": debug.enabled,
        "debug_save_interval_steps": debug.save_interval_steps or "auto",
        "debug_sample_interval_ms": debug.sample_interval_ms,
        "debug_profiled_steps": debug.profiled_steps,
        "debug_rules": rules_hyperparameter(debug),
    }
    model_trainer = trainer(
        context,
        step_name="TrainWithDebugger",
        code=training_bundle(),
        hyperparameters=hyperparameters,
        section=training,
        instance_type=context.parameters.training_instance_type,
        instance_count=training.instance_count,
    ).with_metric_definitions([*metric_definitions(), *rule_metrics(debug)])
    if training.use_spot:
        model_trainer.with_checkpoint_config(checkpoint_config(context, "TrainWithDebugger"))
    return WatchedTrainingStep(
        more=managed_fields(context, debug.save_interval_steps or MANAGED_INTERVAL_STEPS),
        name="TrainWithDebugger",
        display_name="Train with debugger",
        description="Trains the final model with the winning hyperparameters, watched by rules.",
        step_args=model_trainer.train(
            input_data_config=[
                *channels(context, prepare, training_bundle()),
                weights_channel(context),  # of the backbone, to be exported
                *(image_channels(prepare) if context.config.fine_tunes else []),
            ]
        ),
        cache_config=context.cache(),
        retry_policies=context.training_retries(),
    )


def trainer(
    context: Context,
    *,
    step_name: str,
    code: Bundle,
    hyperparameters: Mapping[str, object],
    section: TrainingConfig | TuningConfig,
    instance_type: object,
    instance_count: int = 1,
) -> ModelTrainer:
    """A trainer for a script of steps/. The SDK's SourceCode is not used: it would upload, under a timestamp."""
    launcher = {
        "sagemaker_program": code.entry_point,
        "sagemaker_submit_directory": f"/opt/ml/input/data/{CODE_CHANNEL}",
    }
    return ModelTrainer(
        training_image=context.placement.training_image,
        role=context.placement.role_arn,
        sagemaker_session=context.session,
        base_job_name=step_name,
        hyperparameters={**hyperparameters, **launcher},
        compute=compute(context, section, instance_type, instance_count),
        stopping_condition=stopping_condition(section),
        networking=networking(context),
        output_data_config=output_data_config(context, step_name),
    )


def output_data_config(context: Context, step_name: str) -> OutputDataConfig:
    """Where model.tar.gz goes, below the job's own name."""
    path = context.placement.uri(context.config.pipeline.name, "jobs", step_name)
    key = context.output_key()
    return OutputDataConfig(s3_output_path=path, compression_type="GZIP", **({"kms_key_id": key} if key else {}))


def checkpoint_config(context: Context, step_name: str) -> CheckpointConfig:
    """Where an interrupted job goes on from: one execution's own, so that no other's weights are taken up.

    The URI is part of the step's cache key, so training on spot capacity is never reused by another execution.
    """
    return CheckpointConfig(s3_uri=context.checkpoint_uri(step_name), local_path="/opt/ml/checkpoints")


def metric_definitions() -> list[MetricDefinition]:
    """The metrics that SageMaker reads from the log, one line an epoch."""
    return [MetricDefinition(name=name, regex=rf"\b{key}={NUMBER}") for name, key in METRICS.items()]


def rule_metrics(debug: DebugConfig) -> list[MetricDefinition]:
    """One metric a rule: 1 if it found an issue, 0 if not, -1 if it could not judge the whole training."""
    names = debug.rules if debug.enabled else ()
    return [MetricDefinition(name=rule_metric(name), regex=rf"\brule_{name}=(-?[01])\b") for name in names]


def rules_hyperparameter(debug: DebugConfig) -> str:
    """The rules as JSON text, encoded once more: the toolkit decodes a value, and would spell a mapping its own way."""
    return json.dumps(json.dumps(debug.rules, separators=(",", ":")))


def rule_metric(name: str) -> str:
    """The name of a rule's metric."""
    return f"rule:{name}"


def fixed_hyperparameters(context: Context) -> dict[str, object]:
    """The values of pipeline.yaml's `model` section, unless the search covers them; Hyperband's trials plan for all
    epochs, and so does the training."""
    model, resource = context.config.model, context.config.tuning.resource
    fixed = {
        "folds": model.folds,
        "hidden_units": model.hidden_units,
        "dropout": model.dropout,
        "label_smoothing": model.label_smoothing,
        "weight_decay": model.weight_decay,
        "class_balance": model.class_balance,
        "patience": model.patience,
        **({RESOURCE: resource.max} if resource else {}),
    }
    return {name: value for name, value in fixed.items() if name not in context.config.tuning.searched}


def fine_tuning_hyperparameters(context: Context) -> dict[str, object]:
    """The `finetuning` section, unless the search covers them; nothing with a frozen backbone."""
    config = context.config
    if not config.fine_tunes:
        return {}
    fixed = {"finetune": config.model.finetune, **config.finetuning.hyperparameters}
    return {name: value for name, value in fixed.items() if name not in config.tuning.searched}


def weights_channel(context: Context) -> InputData:
    """The backbone's."""
    return InputData(channel_name="weights", data_source=context.weights_uri)


def image_channels(prepare: ProcessingStep) -> list[Channel]:
    """The prepared images, streamed: a job reads what it needs of the shards, whatever the size of its volume."""
    outputs = prepare.properties.ProcessingOutputConfig.Outputs

    def channel(name: str) -> Channel:
        source = S3DataSource(
            s3_data_type="S3Prefix",
            s3_uri=outputs[name].S3Output.S3Uri,
            s3_data_distribution_type="FullyReplicated",
        )
        return Channel(channel_name=name, data_source=DataSource(s3_data_source=source), input_mode="FastFile")

    return [channel(name) for name in ("train", "validation")]


def channels(context: Context, prepare: ProcessingStep, code: Bundle) -> list[InputData]:
    """What a trial reads, and its script."""
    outputs = prepare.properties.ProcessingOutputConfig.Outputs
    return [
        InputData(channel_name="embeddings", data_source=outputs["embeddings"].S3Output.S3Uri),
        InputData(channel_name="manifest", data_source=outputs["manifest"].S3Output.S3Uri),
        InputData(channel_name=CODE_CHANNEL, data_source=context.code_uri(code, "source")),
    ]


def compute(
    context: Context, section: TrainingConfig | TuningConfig, instance_type: object, instance_count: int
) -> Compute:
    """Instances of the type that the parameter names."""
    spot = {"enable_managed_spot_training": True} if section.use_spot else {}
    key = context.volume_key(section.instance_type)
    encryption = {"volume_kms_key_id": key} if key else {}
    return Compute(
        instance_type=instance_type,
        instance_count=instance_count,
        volume_size_in_gb=section.volume_size_gb,
        **spot,
        **encryption,
    )


def stopping_condition(section: TrainingConfig | TuningConfig) -> StoppingCondition:
    """How long a job may run and, on spot capacity, wait and run."""
    wait = {"max_wait_time_in_seconds": section.max_wait_seconds} if section.use_spot else {}
    return StoppingCondition(max_runtime_in_seconds=section.max_runtime_seconds, **wait)


def networking(context: Context) -> Networking | None:
    """VPC and isolation, where pipeline.yaml asks for them."""
    settings = context.network_settings()
    return Networking(**settings) if settings else None
