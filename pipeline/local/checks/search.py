"""The search that a tuning job asks for, read and checked before the first trial; every problem is reported at once.

What each member may be is told by the service model; what the guide's automatic-model-tuning pages say beyond it, here.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.definition.expressions import listing
from pipeline.errors import DefinitionError

DEFAULT_MAX_TRIALS = 750  # SageMaker's quota, which bounds a tuning job without MaxNumberOfTrainingJobs
MAX_EPOCHS = 20_000  # HyperbandStrategyConfig.MaxResource
MAX_RANGES = 30  # of all kinds together
EPOCH_KEYS = ("epochs", "numepochs", "n-epochs", "n_epochs", "num_epochs")  # where Hyperband looks for MaxResource
AUTO_LOGARITHMIC_RATIO = 100.0  # Auto takes the logarithmic scale for positive bounds at least this far apart
OPERATION = "CreateHyperParameterTuningJob"
KINDS = {  # of ParameterRanges: what bounds are, how they are read, which scales there are
    "IntegerParameterRanges": ("a whole number", int, ("Linear", "Logarithmic")),
    "ContinuousParameterRanges": ("a number", float, ("Linear", "Logarithmic", "ReverseLogarithmic")),
    "CategoricalParameterRanges": ("", str, ()),
}


@dataclass(frozen=True)
class Range:
    """What one hyperparameter may be: one of `values`, or a number from `low` to `high`, both included."""

    name: str
    values: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    scale: str = "Linear"
    is_whole: bool = False

    @property
    def combinations(self) -> float:
        """How many different values there are."""
        if self.values or self.low == self.high:
            return len(self.values) or 1
        return self.high - self.low + 1 if self.is_whole else math.inf


@dataclass(frozen=True)
class SearchConfig:
    """One tuning job's settings, all of them acceptable."""

    strategy: str
    ranges: tuple[Range, ...]
    maximize: bool
    metric_name: str
    max_trials: int
    max_parallel: int
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


def read_search_config(request: Mapping[str, Any]) -> SearchConfig:
    """Read the search of a resolved CreateHyperParameterTuningJob request.

    Raises:
        DefinitionError: with every fault of its HyperParameterTuningJobConfig and WarmStartConfig.
    """
    from pipeline.definition.schemas import (  # jsonschema, which most commands do without
        annotated,
        differences,
        operation,
    )

    given = {name: request[name] for name in ("HyperParameterTuningJobConfig", "WarmStartConfig") if request.get(name)}
    schema = {**operation(OPERATION, "input"), "required": []}
    known = annotated(given, lambda value: (None, None))  # what stands for a value may be of any type
    if problems := [text for _, text in differences(known, schema, OPERATION)]:
        raise DefinitionError(problems)
    config = request["HyperParameterTuningJobConfig"]
    strategy, limits = config["Strategy"], config["ResourceLimits"]
    objective: Mapping[str, Any] = config.get("HyperParameterTuningJobObjective") or {}
    ranges = read_ranges(config.get("ParameterRanges") or {}, problems)
    if not objective:
        problems.append("HyperParameterTuningJobObjective is missing, without which nothing can be compared.")
    min_epochs, max_epochs = 1, MAX_EPOCHS
    if strategy == "Hyperband":
        static = (request.get("TrainingJobDefinition") or {}).get("StaticHyperParameters") or {}
        min_epochs, max_epochs = read_epochs(config, static, problems)
    elif config.get("StrategyConfig"):
        problems.append(f"StrategyConfig belongs to strategy Hyperband, but the strategy is {strategy}.")
    max_trials = limits.get("MaxNumberOfTrainingJobs")
    if strategy == "Grid":
        size = math.prod(len(searched.values) for searched in ranges)
        if others := [searched.name for searched in ranges if not searched.values]:
            problems.append(f"Strategy Grid takes categorical ranges only, but not {listing(others)}; list the values.")
        elif max_trials not in (None, size):
            must = f"must be the size of the grid, {size}, with strategy Grid, but is {max_trials}; leave it out."
            problems.append(f"ResourceLimits.MaxNumberOfTrainingJobs {must}")
        max_trials = size
    if problems:
        raise DefinitionError(problems)
    criteria = config.get("TuningJobCompletionCriteria") or {}
    improving, converged = (criteria.get(name) or {} for name in ("BestObjectiveNotImproving", "ConvergenceDetected"))
    return SearchConfig(
        strategy=strategy,
        ranges=tuple(ranges),
        maximize=objective["Type"] == "Maximize",
        metric_name=objective["MetricName"],
        max_trials=max_trials or DEFAULT_MAX_TRIALS,
        max_parallel=limits["MaxParallelTrainingJobs"],
        seed=config.get("RandomSeed"),
        early_stopping=config.get("TrainingJobEarlyStoppingType") == "Auto",
        min_epochs=min_epochs,
        max_epochs=max_epochs,
        target=criteria.get("TargetObjectiveMetricValue"),
        max_not_improving=improving.get("MaxNumberOfTrainingJobsNotImproving"),
        stop_on_convergence=converged.get("CompleteOnConvergence") == "Enabled",
    )


def read_epochs(config: Mapping[str, Any], static: Mapping[str, str], problems: list[str]) -> tuple[int, int]:
    """MinResource and MaxResource of Hyperband; the latter may also come from the static hyperparameters."""
    if config.get("TrainingJobEarlyStoppingType") == "Auto":
        problems.append("TrainingJobEarlyStoppingType must be 'Off' with Hyperband, which stops trials by itself.")
    where = "StrategyConfig.HyperbandStrategyConfig."
    found = (config.get("StrategyConfig") or {}).get("HyperbandStrategyConfig") or {}
    epochs = next((str(static[key]) for key in EPOCH_KEYS if key in static), "")
    low = found.get("MinResource") or 1
    high = found.get("MaxResource") or (int(epochs) if epochs.isdecimal() else 0)
    if not 1 <= high <= MAX_EPOCHS:
        problems.append(f"{where}MaxResource must be a whole number up to {MAX_EPOCHS}, but is {high or 'missing'}.")
    elif low > high:
        problems.append(f"{where}MinResource must be at most MaxResource, {high}, but is {low}.")
    return low, high


def read_ranges(parameter_ranges: Mapping[str, Any], problems: list[str]) -> list[Range]:
    """The ranges in their order: integer, continuous, categorical."""
    entries = [(kind, entry) for kind in KINDS for entry in parameter_ranges.get(kind) or []]
    ranges: list[Range] = []
    for kind, entry in entries:
        try:
            ranges.append(read_range(kind, entry))
        except ValueError as fault:
            problems.append(f"Range '{entry['Name']}' {fault}")
    names = [entry["Name"] for _, entry in entries]
    problems += [f"Hyperparameter '{name}' has two ranges." for name in sorted(set(names)) if names.count(name) > 1]
    if not 1 <= len(names) <= MAX_RANGES:
        problems.append(f"ParameterRanges must hold 1 to {MAX_RANGES} ranges, but holds {len(names) or 'none'}.")
    if parameter_ranges.get("AutoParameters"):
        problems.append("AutoParameters (Autotune) are not known to the local target; give each of them a range.")
    return ranges


def read_range(kind: str, entry: Mapping[str, Any]) -> Range:
    """One range.

    Raises:
        ValueError: it is not acceptable; the end of the sentence says why.
    """
    name, (noun, parse, scales) = entry["Name"], KINDS[kind]
    if not scales:
        values = tuple(entry["Values"])
        if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
            raise ValueError(f"lists {listing(twice)} more than once.")
        return Range(name, values)
    low, high = (read_bound(entry, key, noun, parse) for key in ("MinValue", "MaxValue"))
    scale = entry.get("ScalingType") or "Auto"
    if scale == "Auto":
        scale = "Logarithmic" if low > 0 and high / low >= AUTO_LOGARITHMIC_RATIO else "Linear"
    if low > high:
        raise ValueError(f"must have MinValue <= MaxValue, but goes from {low} to {high}.")
    if scale not in scales:
        raise ValueError(f"must have Auto or one of {listing(scales)} as ScalingType, not {scale!r}.")
    if scale == "Logarithmic" and low <= 0:
        raise ValueError(f"must have MinValue > 0 on the logarithmic scale, but starts at {low}.")
    if scale == "ReverseLogarithmic" and not 0 <= low <= high < 1:
        raise ValueError(f"must lie in 0 <= x < 1 on the reverse logarithmic scale, but goes from {low} to {high}.")
    return Range(name, low=low, high=high, scale=scale, is_whole=parse is int)


def read_bound(entry: Mapping[str, Any], key: str, noun: str, parse: Callable[[str], float]) -> float:
    """MinValue or MaxValue; ValueError where it is no finite number of the kind."""
    with contextlib.suppress(ValueError):
        if math.isfinite(float(entry[key])):
            return parse(entry[key])
    raise ValueError(f"must have {noun} as {key}, but has {entry[key]!r}.")
