"""Builds TrainWithDebugger, and the trainer that the search shares with it.

Trials and the final training run under the same launcher, the sagemaker-training toolkit inside the image: the tuning
API has no ContainerEntrypoint, so both name their script by the toolkit's two hyperparameters. The code is an archive
in an input channel, which the toolkit unpacks to /opt/ml/code (4.9.0, files.py, download_and_extract: `elif
tarfile.is_tarfile(uri): with tarfile.open(name=uri, mode="r:gz") as t: t.extractall(path=path)`). It would download an
S3 URI itself, which a job in network isolation cannot. The SDK's SourceCode is not used: it would upload, under a
timestamp.
"""

import json
from collections.abc import Mapping
from typing import Any

from sagemaker.core.shapes import Channel, DataSource, S3DataSource
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep, TuningStep
from sagemaker.train import ModelTrainer, configs
from sagemaker.train.configs import InputData, MetricDefinition

from pipeline.compile.bundle import ARCHIVE
from pipeline.compile.context import Context, job_retries
from pipeline.compile.managed_rules import managed_fields
from pipeline.config.sections import METRICS, RESOURCE, DebugConfig, TrainingConfig, TuningConfig

SCRIPT = "train.py"
CODE_CHANNEL = "code"
MANAGED_INTERVAL_STEPS = 10  # of AWS's hook configuration, which knows no auto
HEAD = ("folds", "hidden_units", "dropout", "label_smoothing", "weight_decay", "class_balance", "patience")


def train_step(context: Context, prepare: ProcessingStep, tune: TuningStep) -> TrainingStep:
    """Return the step that trains with the winner's hyperparameters, tensors saved, watched by rules."""
    name, training, debug = "TrainWithDebugger", context.config.training, context.config.debug
    winner = tune.properties.BestTrainingJob.TunedHyperParameters
    hyperparameters = {
        **fixed_hyperparameters(context, fine_tunes=context.config.fine_tunes),
        **{searched: winner[searched] for searched in context.config.tuning.searched},
        "seed": training.seed,
        "debug": debug.enabled,
        "debug_save_interval_steps": debug.save_interval_steps or "auto",
        "debug_sample_interval_ms": debug.sample_interval_ms,
        "debug_profiled_steps": debug.profiled_steps,
        # JSON text, encoded once more: the toolkit decodes a value, and would spell a mapping its own way
        "debug_rules": json.dumps(json.dumps(debug.rules, separators=(",", ":"))),
    }
    if debug.enabled and not context.config.aws.network_isolation:  # in which a job reaches no S3
        hyperparameters["debug_output_uri"] = output_path(context, name)
    model_trainer = trainer(context, name, training, SCRIPT, hyperparameters)
    model_trainer.with_metric_definitions([*metric_definitions(), *rule_metrics(debug)])
    if training.use_spot:
        # The URI is part of the step's cache key, so training on spot capacity is never reused by another execution.
        uri = context.execution_uri("checkpoints", name)
        model_trainer.with_checkpoint_config(configs.CheckpointConfig(s3_uri=uri, local_path="/opt/ml/checkpoints"))
    inputs = [
        *channels(context, prepare, context.code_uri(SCRIPT)),
        weights_channel(context),  # of the backbone, to be exported
        *(image_channels(prepare) if context.config.fine_tunes else []),
    ]
    step = WatchedTrainingStep(
        name=name,
        display_name="Train with debugger",
        description="Trains the final model with the winning hyperparameters, watched by rules.",
        step_args=model_trainer.train(input_data_config=inputs),
        cache_config=context.cache(),
        retry_policies=job_retries(resumes=True),
    )
    step.more = managed_fields(context, debug.save_interval_steps or MANAGED_INTERVAL_STEPS)
    return step


class WatchedTrainingStep(TrainingStep):  # type: ignore[misc]
    """A training step whose request carries `more` than the SDK's trainer can say."""

    more: Mapping[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The CreateTrainingJob request with the additional fields."""
        return {**super().arguments, **self.more}


def trainer(
    context: Context,
    step_name: str,
    section: TrainingConfig | TuningConfig,
    script: str,
    hyperparameters: Mapping[str, object],
) -> ModelTrainer:
    """Return what the SDK calls a trainer: everything of a training job but its inputs."""
    path = output_path(context, step_name)
    key, volume_key = context.config.aws.kms_key_arn, context.volume_key(section.instance_type)
    code = f"/opt/ml/input/data/{CODE_CHANNEL}/{ARCHIVE}"
    launcher = {"sagemaker_program": script, "sagemaker_submit_directory": code}
    which, count = ("Training", section.instance_count) if isinstance(section, TrainingConfig) else ("Tuning", 1)
    compute = {"instance_type": context.parameters[f"{which}InstanceType"], "instance_count": count}
    stopping = {"max_runtime_in_seconds": section.max_runtime_seconds}
    if section.use_spot:
        compute["enable_managed_spot_training"] = True
        stopping["max_wait_time_in_seconds"] = section.max_wait_seconds
    if volume_key:
        compute["volume_kms_key_id"] = volume_key
    network = context.network_settings()
    return ModelTrainer(
        training_image=context.placement.training_image,
        role=context.placement.job_role_arn,
        sagemaker_session=context.session,
        base_job_name=step_name,
        hyperparameters={**hyperparameters, **launcher},
        compute=configs.Compute(volume_size_in_gb=section.volume_size_gb, **compute),
        stopping_condition=configs.StoppingCondition(**stopping),
        networking=configs.Networking(**network) if network else None,
        output_data_config=configs.OutputDataConfig(
            s3_output_path=path, compression_type="GZIP", **({"kms_key_id": key} if key else {})
        ),
    )


def output_path(context: Context, step_name: str) -> str:
    """Return the S3OutputPath of a step's jobs."""
    return context.placement.uri(context.config.pipeline.name, "jobs", step_name)


def metric_definitions() -> list[MetricDefinition]:
    """Return the metrics of every training and trial."""
    number = r"([0-9.eE+-]+)"
    return [MetricDefinition(name=name, regex=rf"\b{name.replace(':', '_')}={number}") for name in METRICS]


def rule_metrics(debug: DebugConfig) -> list[MetricDefinition]:
    """Return a metric for each rule: 1 if it found an issue, 0 if not, -1 if it could not judge the whole training."""
    names = debug.rules if debug.enabled else ()
    return [MetricDefinition(name=rule_metric(name), regex=rf"\brule_{name}=(-?[01])\b") for name in names]


def rule_metric(name: str) -> str:
    """Return the name of a rule's metric."""
    return f"rule:{name}"


def fixed_hyperparameters(context: Context, *, fine_tunes: bool) -> dict[str, object]:
    """Return the values of pipeline.yaml's sections `model` and, where a job fine-tunes, `finetuning`.

    Those that the search covers are left out. Hyperband's trials plan for all epochs, and so does the training.
    """
    config, model, resource = context.config, context.config.model, context.config.tuning.resource
    fixed = {
        **{name: getattr(model, name) for name in HEAD},
        **({RESOURCE: resource.max} if resource else {}),
        **({"finetune": model.finetune, **config.finetuning.hyperparameters} if fine_tunes else {}),
    }
    return {name: value for name, value in fixed.items() if name not in config.tuning.searched}


def channels(context: Context, prepare: ProcessingStep, code_uri: str) -> list[InputData]:
    """Return what every trial and training reads, and its code."""
    outputs = prepare.properties.ProcessingOutputConfig.Outputs
    sources = {"embeddings": outputs["embeddings"].S3Output.S3Uri, "manifest": outputs["manifest"].S3Output.S3Uri}
    sources[CODE_CHANNEL] = code_uri
    return [InputData(channel_name=name, data_source=source) for name, source in sources.items()]


def weights_channel(context: Context) -> InputData:
    """Return the backbone's."""
    return InputData(channel_name="weights", data_source=context.weights_uri)


def image_channels(prepare: ProcessingStep) -> list[Channel]:
    """Return the prepared images, streamed: a job reads what it needs of the shards, whatever its volume's size."""
    outputs = prepare.properties.ProcessingOutputConfig.Outputs
    found = []
    for name in ("train", "validation"):
        uri = outputs[name].S3Output.S3Uri
        source = S3DataSource(s3_data_type="S3Prefix", s3_uri=uri, s3_data_distribution_type="FullyReplicated")
        data_source = DataSource(s3_data_source=source)
        found.append(Channel(channel_name=name, data_source=data_source, input_mode="FastFile"))
    return found
