"""What a search begins with: the trials of earlier ones, by WarmStartConfig of CreateHyperParameterTuningJob.

The rules are those of the guide's automatic-model-tuning-warm-start page: at most five parents, all ended, with the
same objective and as many hyperparameters, static and searched, as the new search. Their own parents do not count.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.jobs.search import Known
from pipeline.local.store.state import State

TYPES = ("IdenticalDataAndAlgorithm", "TransferLearning")
MOST_PARENTS = 5
ENDED = ("Completed", "Stopped", "Failed")


class WarmStartError(PipelineError):
    """The request's WarmStartConfig cannot be met."""


def known_trials(request: Mapping[str, Any], state: State) -> list[Known]:
    """The trials with an objective of all parents of a request; none without WarmStartConfig.

    Raises:
        WarmStartError: a parent does not fit.
    """
    config = request.get("WarmStartConfig")
    if not config:
        return []
    kind, parents = config.get("WarmStartType"), config.get("ParentHyperParameterTuningJobs") or []
    if kind not in TYPES:
        raise WarmStartError(f"WarmStartConfig.WarmStartType must be {' or '.join(TYPES)}, but is {kind!r}.")
    if not 1 <= len(parents) <= MOST_PARENTS:
        raise WarmStartError(
            f"WarmStartConfig.ParentHyperParameterTuningJobs must name 1 to {MOST_PARENTS} tuning jobs, but names "
            f"{len(parents)}."
        )
    names = [str(parent["HyperParameterTuningJobName"]) for parent in parents]
    return [known for name in names for known in parent_trials(name, request, state)]


def parent_trials(name: str, request: Mapping[str, Any], state: State) -> Iterator[Known]:
    """What the trials of a parent reached.

    Raises:
        WarmStartError: it is missing, has not ended, or searched something else.
    """
    parent, named = state.get("HyperParameterTuningJob", name), f"WarmStartConfig names the tuning job {name!r}, "
    if parent is None:
        raise WarmStartError(f"{named}which does not exist.")
    if (status := parent["HyperParameterTuningJobStatus"]) not in ENDED:
        raise WarmStartError(f"{named}which is {status}; wait for its end.")
    if (theirs := objective_of(parent)) != (ours := objective_of(request)):
        raise WarmStartError(f"{named}whose objective is {theirs}, not {ours}.")
    counts = [len(hyperparameters_of(each)) for each in (parent, request)]
    if counts[0] != counts[1]:
        raise WarmStartError(f"{named}which has {counts[0]} hyperparameters, static and searched, not {counts[1]}.")
    static = parent["TrainingJobDefinition"].get("StaticHyperParameters") or {}
    for trial in parent.get("Trials") or []:
        if objective := trial.get("FinalHyperParameterTuningJobObjectiveMetric"):
            yield {**static, **trial["TunedHyperParameters"]}, float(objective["Value"])


def objective_of(request: Mapping[str, Any]) -> str:
    """The metric and its direction."""
    objective = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    return f"{objective['MetricName']} {objective['Type']}"


def hyperparameters_of(request: Mapping[str, Any]) -> set[str]:
    """The names of all, static and searched."""
    ranges = request["HyperParameterTuningJobConfig"].get("ParameterRanges") or {}
    static = request["TrainingJobDefinition"].get("StaticHyperParameters") or {}
    return {*static, *(entry["Name"] for kind in ranges.values() for entry in kind or [])}
