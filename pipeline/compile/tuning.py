"""Builds TuneHyperparameters: a search over the ranges of pipeline.yaml."""

from typing import Any

from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter, ParameterRange
from sagemaker.core.workflow.parameters import ParameterInteger, ParameterString
from sagemaker.mlops.workflow.steps import ProcessingStep, TuningStep
from sagemaker.train import ModelTrainer
from sagemaker.train.tuner import HyperparameterTuner

from pipeline.compile.bundle import trial_bundle
from pipeline.compile.context import Context
from pipeline.compile.training import (
    channels,
    fine_tuning_hyperparameters,
    fixed_hyperparameters,
    image_channels,
    metric_definitions,
    trainer,
    weights_channel,
)
from pipeline.config.config import CategoricalRange, ContinuousRange, IntegerRange, TuningConfig


def tune_step(context: Context, prepare: ProcessingStep) -> TuningStep:
    """Trials of steps/trial.py: no debugger, nothing to deploy."""
    tuning, fine_tunes = context.config.tuning, context.config.searches_fine_tuning
    images = [weights_channel(context), *image_channels(prepare)] if fine_tunes else []
    model_trainer = trainer(
        context,
        step_name="TuneHyperparameters",
        code=trial_bundle(),
        hyperparameters={
            **fixed_hyperparameters(context),
            **(fine_tuning_hyperparameters(context) if fine_tunes else {}),
            "seed": tuning.seed,
        },
        section=tuning,
        instance_type=context.parameters.tuning_instance_type,
    )
    tuner = HyperparameterTuner(
        model_trainer=model_trainer,
        objective_metric_name=tuning.objective_metric,
        objective_type=tuning.objective_type,
        metric_definitions=[{"Name": m.name, "Regex": m.regex} for m in metric_definitions()],
        hyperparameter_ranges={name: parameter_range(found) for name, found in tuning.searched.items()},
        strategy=tuning.strategy,
        max_jobs=tuning.max_jobs,
        max_parallel_jobs=tuning.max_parallel_jobs,
        early_stopping_type=tuning.early_stopping,
    )
    return CompleteTuningStep(
        limits=resource_limits(context),
        tuning=tuning,
        parent=context.parameters.warm_start_parent,
        model_trainer=model_trainer,
        name="TuneHyperparameters",
        display_name="Tune hyperparameters",
        description="Searches for the best hyperparameters, by cross-validation.",
        step_args=tuner.tune(inputs=[*channels(context, prepare, trial_bundle()), *images]),
        cache_config=context.cache(),
        retry_policies=context.job_retries(),
    )


class CompleteTuningStep(TuningStep):  # type: ignore[misc]
    """A tuning step with what the SDK's tuner drops: limits that are parameters, and settings of its trainer."""

    def __init__(
        self,
        *,
        limits: dict[str, ParameterInteger],
        tuning: TuningConfig,
        parent: ParameterString | None,
        model_trainer: ModelTrainer,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.limits = limits
        self.tuning = tuning
        self.parent = parent
        self.model_trainer = model_trainer

    @property
    def arguments(self) -> dict[str, Any]:
        """The CreateHyperParameterTuningJob request, completed."""
        request: dict[str, Any] = super().arguments
        config = request["HyperParameterTuningJobConfig"]
        config["ResourceLimits"] = dict(self.limits)
        config["RandomSeed"] = self.tuning.seed  # the tuner drops a seed of 0
        if resource := self.tuning.resource:
            bounds = {"MinResource": resource.min, "MaxResource": resource.max}
            config["StrategyConfig"] = {"HyperbandStrategyConfig": bounds}
        if self.parent is not None:
            request["WarmStartConfig"] = {
                "WarmStartType": "TransferLearning",
                "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": self.parent}],
            }
        networking, compute = self.model_trainer.networking, self.model_trainer.compute
        definition = request["TrainingJobDefinition"]
        if networking and networking.enable_network_isolation:
            definition["EnableNetworkIsolation"] = True
        if compute.volume_kms_key_id:
            definition["ResourceConfig"]["VolumeKmsKeyId"] = compute.volume_kms_key_id
        return request


def resource_limits(context: Context) -> dict[str, ParameterInteger]:
    """How many trials, and how many at once. A grid is run whole: it takes no number."""
    limits = {"MaxParallelTrainingJobs": context.parameters.max_parallel_tuning_jobs}
    if context.config.tuning.strategy != "Grid":
        limits["MaxNumberOfTrainingJobs"] = context.parameters.max_tuning_jobs
    return limits


def parameter_range(found: ContinuousRange | IntegerRange | CategoricalRange) -> ParameterRange:
    """A range of pipeline.yaml as the SDK's."""
    if isinstance(found, CategoricalRange):
        return CategoricalParameter([str(value) for value in found.values])
    kind = ContinuousParameter if isinstance(found, ContinuousRange) else IntegerParameter
    return kind(found.min, found.max, scaling_type=found.scaling)
