"""The `tuning` and `training` sections of pipeline.yaml."""

from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.config.formats import INSTANCE_COUNT, INSTANCE_TYPE, SEED, TRAINING_SECONDS, VOLUME_SIZE_GB
from pipeline.config.ranges import CategoricalRange, ContinuousRange, IntegerRange, Range, ranges
from pipeline.config.setting import Rule, boolean, choice, null_or, setting, text, whole_number


def more_parallel_than_total(max_parallel_jobs: int, max_jobs: int) -> str | None:
    """CreateHyperParameterTuningJob refuses it."""
    if max_parallel_jobs <= max_jobs:
        return None
    return f"must not exceed max_jobs ({max_jobs}), but got {max_parallel_jobs}."


def hyperband_stopped_early(early_stopping: str, strategy: str) -> str | None:
    """Hyperband stops trials itself."""
    if strategy != "Hyperband" or early_stopping == "Off":
        return None
    return f"must be Off with strategy Hyperband, which stops trials itself, but got '{early_stopping}'."


def grid_of_intervals(searched: dict[str, Range], strategy: str) -> str | None:
    """A grid has a finite number of points."""
    endless = [name for name, found in searched.items() if not isinstance(found, CategoricalRange)]
    if strategy != "Grid" or not endless:
        return None
    return f"must all be categorical with strategy Grid, but these are not: {', '.join(endless)}."


def hyperband_without_epochs(searched: dict[str, Range], strategy: str) -> str | None:
    """Hyperband gives each trial so many epochs, and searches what else there is."""
    if strategy != "Hyperband" or (isinstance(searched.get(RESOURCE), IntegerRange) and len(searched) > 1):
        return None
    return (
        f"must hold {RESOURCE} with strategy Hyperband, as a range of whole numbers, and at least one more: a trial is "
        f"given up after its min epochs at the earliest, and ends after max."
    )


def grid_not_covered(max_jobs: int, strategy: str, searched: dict[str, Range]) -> str | None:
    """MaxNumberOfTrainingJobs of a grid is the number of its points."""
    points = 1
    for found in searched.values():
        points *= len(found.values) if isinstance(found, CategoricalRange) else max_jobs
    if strategy != "Grid" or max_jobs == points or grid_of_intervals(searched, strategy):
        return None
    return f"must be {points} with strategy Grid, which tries every combination of the ranges, but got {max_jobs}."


def shorter_wait_than_run(max_wait_seconds: int, max_runtime_seconds: int, use_spot: bool) -> str | None:
    """StoppingCondition counts the run as part of the wait."""
    if not use_spot or max_wait_seconds >= max_runtime_seconds:
        return None
    return f"must be at least max_runtime_seconds ({max_runtime_seconds}) with use_spot, but got {max_wait_seconds}."


RESOURCE = "epochs"  # what Hyperband shares out
SPOT = Rule(("max_wait_seconds", "max_runtime_seconds", "use_spot"), shorter_wait_than_run)


def default_ranges() -> dict[str, Range]:
    """What is searched when the file does not say."""
    return {
        "lr": ContinuousRange(min=0.001, max=0.004, scaling="Logarithmic"),
        "batch_size": CategoricalRange(values=(64, 128)),
        "epochs": IntegerRange(min=24, max=48, scaling="Linear"),
    }


@dataclass(frozen=True)
class TuningConfig:
    """TuneHyperparameters."""

    rules: ClassVar = (
        Rule(("max_parallel_jobs", "max_jobs"), more_parallel_than_total),
        Rule(("early_stopping", "strategy"), hyperband_stopped_early),
        Rule(("ranges", "strategy"), grid_of_intervals),
        Rule(("ranges", "strategy"), hyperband_without_epochs),
        Rule(("max_jobs", "strategy", "ranges"), grid_not_covered),
        SPOT,
    )
    strategy: str = setting("Bayesian", choice("Bayesian", "Random", "Grid", "Hyperband"))
    objective_metric: str = setting("selection:log_loss", text(".+", "the name of a metric", longest=255))
    objective_type: str = setting("Minimize", choice("Maximize", "Minimize"))
    max_jobs: int = setting(6, whole_number(at_least=1))
    max_parallel_jobs: int = setting(2, whole_number(at_least=1, at_most=100))
    early_stopping: str = setting("Auto", choice("Auto", "Off"))
    seed: int = setting(0, SEED)
    warm_start: str | None = setting(None, null_or(choice("last")))
    ranges: dict[str, Range] = field(default_factory=default_ranges, metadata={"read": ranges})
    instance_type: str = setting("ml.m5.xlarge", INSTANCE_TYPE)
    volume_size_gb: int = setting(30, VOLUME_SIZE_GB)
    max_runtime_seconds: int = setting(3600, TRAINING_SECONDS)
    use_spot: bool = setting(False, boolean)
    max_wait_seconds: int = setting(7200, TRAINING_SECONDS)

    @property
    def resource(self) -> IntegerRange | None:
        """The epochs that Hyperband shares out; None with another strategy."""
        found = self.ranges.get(RESOURCE)
        return found if self.strategy == "Hyperband" and isinstance(found, IntegerRange) else None

    @property
    def searched(self) -> dict[str, Range]:
        """The ranges that trials draw from: all but that of the epochs that Hyperband shares out."""
        return {name: found for name, found in self.ranges.items() if name != RESOURCE or not self.resource}


@dataclass(frozen=True)
class TrainingConfig:
    """TrainWithDebugger."""

    rules: ClassVar = (SPOT,)
    seed: int = setting(0, SEED)
    instance_type: str = setting("ml.m5.xlarge", INSTANCE_TYPE)
    instance_count: int = setting(1, INSTANCE_COUNT)
    volume_size_gb: int = setting(30, VOLUME_SIZE_GB)
    max_runtime_seconds: int = setting(14400, TRAINING_SECONDS)
    use_spot: bool = setting(False, boolean)
    max_wait_seconds: int = setting(28800, TRAINING_SECONDS)
