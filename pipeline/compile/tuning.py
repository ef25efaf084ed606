"""Builds TuneHyperparameters: a search over the ranges of pipeline.yaml."""

from typing import Any

from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter, ParameterRange
from sagemaker.mlops.workflow.steps import ProcessingStep, TuningStep
from sagemaker.train.tuner import HyperparameterTuner

from pipeline.compile.context import Context, job_retries
from pipeline.compile.training import (
    channels,
    fixed_hyperparameters,
    image_channels,
    metric_definitions,
    trainer,
    weights_channel,
)
from pipeline.config.sections import CategoricalRange, ContinuousRange, IntegerRange

SCRIPT = "trial.py"


def tune_step(context: Context, prepare: ProcessingStep) -> TuningStep:
    """Return the search, whose trials have no debugger and leave nothing to deploy."""
    name, tuning, fine_tunes = "TuneHyperparameters", context.config.tuning, context.config.searches_fine_tuning
    hyperparameters = {**fixed_hyperparameters(context, fine_tunes=fine_tunes), "seed": tuning.seed}
    tuner = HyperparameterTuner(
        model_trainer=trainer(context, name, tuning, SCRIPT, hyperparameters),
        objective_metric_name=tuning.objective_metric,
        objective_type=tuning.objective_type,
        metric_definitions=[{"Name": metric.name, "Regex": metric.regex} for metric in metric_definitions()],
        hyperparameter_ranges={searched: parameter_range(found) for searched, found in tuning.searched.items()},
        strategy=tuning.strategy,
        max_jobs=tuning.max_jobs,
        max_parallel_jobs=tuning.max_parallel_jobs,
        early_stopping_type=tuning.early_stopping,
    )
    images = [weights_channel(context), *image_channels(prepare)] if fine_tunes else []
    step = CompleteTuningStep(
        name=name,
        display_name="Tune hyperparameters",
        description="Searches for the best hyperparameters, by cross-validation.",
        step_args=tuner.tune(inputs=[*channels(context, prepare, context.code_uri(SCRIPT)), *images]),
        cache_config=context.cache(),
        retry_policies=job_retries(),
    )
    step.context = context
    return step


class CompleteTuningStep(TuningStep):  # type: ignore[misc]
    """A tuning step with what the SDK's tuner drops: limits that are parameters, and settings of its trainer."""

    context: Context

    @property
    def arguments(self) -> dict[str, Any]:
        """The CreateHyperParameterTuningJob request, completed."""
        request: dict[str, Any] = super().arguments
        tuning, parameters = self.context.config.tuning, self.context.parameters
        config, definition = request["HyperParameterTuningJobConfig"], request["TrainingJobDefinition"]
        config["ResourceLimits"] = {"MaxParallelTrainingJobs": parameters["MaxParallelTuningJobs"]}
        if tuning.strategy != "Grid":  # which is run whole: it takes no number
            config["ResourceLimits"]["MaxNumberOfTrainingJobs"] = parameters["MaxTuningJobs"]
        config["RandomSeed"] = tuning.seed  # the tuner drops a seed of 0
        if resource := tuning.resource:
            bounds = {"MinResource": resource.min, "MaxResource": resource.max}
            config["StrategyConfig"] = {"HyperbandStrategyConfig": bounds}
        if parent := parameters.get("WarmStartParent"):
            parents = [{"HyperParameterTuningJobName": parent}]
            request["WarmStartConfig"] = {
                "WarmStartType": "TransferLearning",
                "ParentHyperParameterTuningJobs": parents,
            }
        if self.context.config.aws.network_isolation:
            definition["EnableNetworkIsolation"] = True
        if key := self.context.volume_key(tuning.instance_type):
            definition["ResourceConfig"]["VolumeKmsKeyId"] = key
        return request


def parameter_range(found: ContinuousRange | IntegerRange | CategoricalRange) -> ParameterRange:
    """Return a range of pipeline.yaml as the SDK's."""
    if isinstance(found, CategoricalRange):
        return CategoricalParameter([str(value) for value in found.values])
    kind = ContinuousParameter if isinstance(found, ContinuousRange) else IntegerParameter
    return kind(found.min, found.max, scaling_type=found.scaling)
