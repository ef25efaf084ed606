"""What a search begins with: the trials of earlier ones, by WarmStartConfig of CreateHyperParameterTuningJob.

The rules are those of the guide's automatic-model-tuning-warm-start page: at most five parents, all ended, with the
same objective and as many hyperparameters, static and searched, as the new search. Their own parents do not count.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.store.state import Document, State

TYPES = ("IdenticalDataAndAlgorithm", "TransferLearning")
MOST_PARENTS = 5
ENDED = ("Completed", "Stopped", "Failed")
OBJECTIVE = ("MetricName", "Type")

Known = tuple[Mapping[str, str], float]  # hyperparameters, and the objective that they reached


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
    return [known for name in names for known in trials_of(fitting_parent(name, request, state))]


def fitting_parent(name: str, request: Mapping[str, Any], state: State) -> Document:
    """A parent's document.

    Raises:
        WarmStartError: it is missing, has not ended, or searched something else.
    """
    parent = state.get("HyperParameterTuningJob", name)
    if parent is None:
        raise WarmStartError(f"WarmStartConfig names the tuning job {name!r}, which does not exist.")
    status = parent["HyperParameterTuningJobStatus"]
    if status not in ENDED:
        raise WarmStartError(f"WarmStartConfig names the tuning job {name!r}, which is {status}; wait for its end.")
    theirs, ours = objective_of(parent), objective_of(request)
    if theirs != ours:
        raise WarmStartError(
            f"WarmStartConfig names the tuning job {name!r}, whose objective is {' '.join(theirs)}, not "
            f"{' '.join(ours)}."
        )
    if len(hyperparameters_of(parent)) != len(hyperparameters_of(request)):
        raise WarmStartError(
            f"WarmStartConfig names the tuning job {name!r}, which has {len(hyperparameters_of(parent))} "
            f"hyperparameters, static and searched, not {len(hyperparameters_of(request))}."
        )
    return parent


def trials_of(parent: Document) -> Iterator[Known]:
    """What its trials reached."""
    static = parent["TrainingJobDefinition"].get("StaticHyperParameters") or {}
    for trial in parent.get("Trials") or []:
        if objective := trial.get("FinalHyperParameterTuningJobObjectiveMetric"):
            yield {**static, **trial["TunedHyperParameters"]}, float(objective["Value"])


def objective_of(request: Mapping[str, Any]) -> list[str]:
    """The metric and its direction."""
    objective = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    return [str(objective[key]) for key in OBJECTIVE]


def hyperparameters_of(request: Mapping[str, Any]) -> set[str]:
    """The names of all, static and searched."""
    ranges = request["HyperParameterTuningJobConfig"].get("ParameterRanges") or {}
    static = request["TrainingJobDefinition"].get("StaticHyperParameters") or {}
    return {*static, *(entry["Name"] for kind in ranges.values() for entry in kind or [])}
