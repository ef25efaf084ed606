"""HyperParameterTuningJobConfig, read and checked before the first trial; every problem is reported at once.

Limits are those of the CreateHyperParameterTuningJob operation and of the guide's automatic-model-tuning pages.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.definition.paths import listing
from pipeline.definition.ranges import CategoricalRange, Range, read_ranges
from pipeline.errors import DefinitionError
from pipeline.suggestion import did_you_mean

STRATEGIES = ("Bayesian", "Random", "Grid", "Hyperband")
DEFAULT_MAX_TRIALS = 750  # SageMaker's quota, which bounds a tuning job without MaxNumberOfTrainingJobs
MAX_EPOCHS = 20_000  # HyperbandStrategyConfig.MaxResource
_EPOCH_KEYS = ("epochs", "numepochs", "n-epochs", "n_epochs", "num_epochs")  # where Hyperband looks for MaxResource


@dataclass(frozen=True)
class SearchConfig:
    """One tuning job's settings, all of them acceptable."""

    strategy: str
    ranges: tuple[Range, ...]
    maximize: bool
    metric_name: str
    max_trials: int
    max_parallel: int
    max_runtime_seconds: int | None
    seed: int | None
    early_stopping: bool  # the median rule
    min_epochs: int  # Hyperband leaves a trial alone before it has reported so many objective values,
    max_epochs: int  # and stops it after so many
    target: float | None  # an objective at least this good ends the search
    max_not_improving: int | None  # so many trials without an improvement of 1 % end it
    stop_on_convergence: bool

    @property
    def combinations(self) -> float:
        """How many different trials there are; infinite with a continuous range."""
        return math.prod(searched.combinations for searched in self.ranges)


def read_search_config(
    config: Mapping[str, Any],
    *,
    ranges: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    static_hyperparameters: Mapping[str, str] | None = None,
) -> SearchConfig:
    """Read the resolved configuration of a tuning job.

    Args:
        config: HyperParameterTuningJobConfig.
        ranges: HyperParameterRanges of a member of TrainingJobDefinitions, in place of the config's ParameterRanges.
        objective: its TuningObjective, in place of the config's HyperParameterTuningJobObjective.
        static_hyperparameters: StaticHyperParameters, in which Hyperband looks for its MaxResource.
    """
    problems: list[str] = []
    root = _Section(config, problems)
    searched, faults = read_ranges(ranges or config.get("ParameterRanges") or {})
    problems += faults
    strategy = root.choice("Strategy", STRATEGIES)
    early_stopping = root.choice("TrainingJobEarlyStoppingType", ("Off", "Auto"), default="Off") == "Auto"
    if strategy == "Hyperband" and early_stopping:
        problems.append(
            "TrainingJobEarlyStoppingType must be 'Off' with Hyperband, which stops trials by its own rule."
        )
    metric = root.section("HyperParameterTuningJobObjective") if objective is None else _Section(objective, problems)
    limits = root.section("ResourceLimits")
    max_trials = limits.integer("MaxNumberOfTrainingJobs", at_least=1)
    if strategy == "Grid" and not faults:
        max_trials = _grid_size(searched, max_trials, problems)
    min_epochs, max_epochs = _epochs(root, strategy, static_hyperparameters or {})
    criteria = root.section("TuningJobCompletionCriteria")
    result = SearchConfig(
        strategy=strategy,
        ranges=tuple(searched),
        maximize=metric.choice("Type", ("Maximize", "Minimize")) == "Maximize",
        metric_name=metric.text("MetricName"),
        max_trials=max_trials or DEFAULT_MAX_TRIALS,
        max_parallel=limits.required_integer("MaxParallelTrainingJobs", at_least=1),
        max_runtime_seconds=limits.integer("MaxRuntimeInSeconds", at_least=120, at_most=15_768_000),
        seed=root.integer("RandomSeed", at_least=0),
        early_stopping=early_stopping,
        min_epochs=min_epochs,
        max_epochs=max_epochs,
        target=criteria.number("TargetObjectiveMetricValue"),
        max_not_improving=_max_not_improving(criteria),
        stop_on_convergence=_stop_on_convergence(criteria),
    )
    if problems:
        raise DefinitionError(problems)
    return result


def _grid_size(searched: list[Range], max_trials: int | None, problems: list[str]) -> int | None:
    others = [other.name for other in searched if not isinstance(other, CategoricalRange)]
    if others:
        are, their = ("is", "its") if len(others) == 1 else ("are", "their")
        problems.append(
            f"Strategy Grid takes categorical ranges only, but {listing(others)} {are} not; list {their} values."
        )
        return max_trials
    size = int(math.prod(categorical.combinations for categorical in searched))
    if max_trials not in (None, size):
        problems.append(
            f"ResourceLimits.MaxNumberOfTrainingJobs must be the size of the grid, {size}, with strategy Grid, "
            f"but is {max_trials}; leave it out."
        )
    return size


def _epochs(root: "_Section", strategy: str, static_hyperparameters: Mapping[str, str]) -> tuple[int, int]:
    """MinResource and MaxResource; the latter may also come from the static hyperparameters."""
    if strategy != "Hyperband":
        if root.values.get("StrategyConfig"):
            root.problems.append(f"StrategyConfig belongs to strategy Hyperband, but the strategy is {strategy}.")
        return 1, MAX_EPOCHS
    hyperband = root.section("StrategyConfig").section("HyperbandStrategyConfig")
    low = hyperband.integer("MinResource", at_least=1, at_most=MAX_EPOCHS) or 1
    static = next((static_hyperparameters[key] for key in _EPOCH_KEYS if key in static_hyperparameters), None)
    if "MaxResource" not in hyperband.values and static is not None and static.isdecimal():
        hyperband = _Section({"MaxResource": int(static)}, root.problems, hyperband.path)
    high = hyperband.required_integer("MaxResource", at_least=1, at_most=MAX_EPOCHS)
    if low > high:
        root.problems.append(f"{hyperband.path}MinResource must be at most MaxResource, {high}, but is {low}.")
    return low, high


def _max_not_improving(criteria: "_Section") -> int | None:
    return criteria.section("BestObjectiveNotImproving").integer("MaxNumberOfTrainingJobsNotImproving", at_least=3)


def _stop_on_convergence(criteria: "_Section") -> bool:
    accepted = ("Disabled", "Enabled")
    section = criteria.section("ConvergenceDetected")
    return section.choice("CompleteOnConvergence", accepted, default="Disabled") == "Enabled"


class _Section:
    """Reads fields of one object; what is not acceptable becomes a sentence in `problems`."""

    def __init__(self, values: Any, problems: list[str], path: str = "") -> None:
        self.values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        self.problems = problems
        self.path = path

    def section(self, key: str) -> "_Section":
        return _Section(self.values.get(key), self.problems, f"{self.path}{key}.")

    def choice(self, key: str, accepted: tuple[str, ...], default: str | None = None) -> str:
        found = self.values.get(key, default)
        if found not in accepted:
            self._refuse(key, f"one of {listing(accepted)}", found, did_you_mean(str(found), accepted))
        return str(found)

    def text(self, key: str) -> str:
        found = self.values.get(key)
        if not isinstance(found, str) or not found:
            self._refuse(key, "a name", found)
        return str(found)

    def number(self, key: str) -> float | None:
        found = self.values.get(key)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            self._refuse(key, "a number", found)
            return None
        return float(found)

    def integer(self, key: str, *, at_least: int, at_most: int | None = None) -> int | None:
        found = self.values.get(key)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int) or not at_least <= found <= (at_most or math.inf):
            limit = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
            self._refuse(key, f"a whole number {limit}", found)
            return None
        return found

    def required_integer(self, key: str, *, at_least: int, at_most: int | None = None) -> int:
        if self.values.get(key) is None:
            self._refuse(key, "a whole number", None)
        return self.integer(key, at_least=at_least, at_most=at_most) or at_least

    def _refuse(self, key: str, accepted: str, found: Any, hint: str = "") -> None:
        but = "is missing" if found is None else f"is {found!r}"
        self.problems.append(f"{self.path}{key} must be {accepted}, but {but}.{hint}")
