"""The search of a tuning job: which hyperparameters to try next, which trials to stop early, and when to end.

    search = Search(config)
    while search.done is None:
        while (trial := search.ask()) is not None:      # None: nothing more to start now, or at all
            ...                                         # start a job with trial.hyperparameters
        ...                                             # for each objective value that a trial logs:
        if search.report(trial, value): ...             # stop it
        search.finish(trial, "Completed", value)        # for each trial that has ended

`done` may be set while trials are running (a completion criterion is met): they are to be stopped and finished.
Samplers and Hyperband are Optuna's. It is imported when a search begins, because that takes 0.2 s.
"""

import itertools
import math
import random
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.definition.search_config import Range, SearchConfig

STARTUP_TRIALS = 1  # drawn at random before Bayesian search learns: with 4 a search of 12 trials found less (see tests)
SAMPLER_ATTEMPTS = 10  # draws for a combination that was not tried yet, before one of the others is taken
LISTED_COMBINATIONS = 10_000  # where there are more, ten draws find one
REDUCTION_FACTOR = 3  # Hyperband lets one trial in three go on
SIGNIFICANT_IMPROVEMENT = 0.01  # relative to the best objective so far, BestObjectiveNotImproving
CONVERGENCE_TRIALS = 10  # SageMaker's own criterion is not published; this one is as `converged` says

Known = tuple[Mapping[str, str], float]  # hyperparameters, and the objective that they reached


@dataclass
class Trial:
    """One combination of hyperparameters and what became of it."""

    number: int  # from 1, in the order of starting
    hyperparameters: dict[str, str]
    optuna: Any  # Optuna's own trial; None of a grid
    reports: list[float] = field(default_factory=list)  # objective values as they were logged, one an epoch
    status: str = "InProgress"  # then Completed, Stopped or Failed
    objective: float | None = None  # final; None while it runs and when none was logged


class Search:
    """One tuning job's search."""

    def __init__(self, config: SearchConfig, known: Sequence[Known] = ()) -> None:
        """Begin a search; from `known`, what earlier searches tried, Bayesian search learns and nothing is counted."""
        self.config = config
        self.trials: list[Trial] = []
        self.not_improving = 0  # trials in a row that did not improve the objective by 1 %
        self.reference: float | None = None  # the objective that these did not improve
        self.objectives: list[float] = []  # in the order of finishing
        self.completion: str | None = None
        self.sampler = None if config.strategy == "Grid" else Sampler(config, known)
        self.grid = combinations_of(config.ranges) if config.strategy == "Grid" else iter(())

    @property
    def running(self) -> list[Trial]:
        """The trials that were asked for and have not finished."""
        return [trial for trial in self.trials if trial.status == "InProgress"]

    @property
    def done(self) -> str | None:
        """Why the search is over, or None while it is not."""
        if self.completion is None and len(self.trials) >= self.config.max_trials and not self.running:
            self.completion = f"All {self.config.max_trials} trials have ended."
        return self.completion

    def ask(self) -> Trial | None:
        """The next trial to start; None when nothing more may start now, or at all."""
        all_started = len(self.trials) >= self.config.max_trials
        if all_started or self.done is not None or len(self.running) >= self.config.max_parallel:
            return None
        hyperparameters, optuna_trial = self.sampler.propose() if self.sampler else (next(self.grid), None)
        self.trials.append(Trial(len(self.trials) + 1, hyperparameters, optuna_trial))
        return self.trials[-1]

    def report(self, trial: Trial, value: float) -> bool:
        """Take an objective value that a running trial has logged; whether the trial should be stopped."""
        if not math.isfinite(value) or trial.status != "InProgress":
            return False
        trial.reports.append(value)
        epoch = len(trial.reports)
        if self.config.strategy != "Hyperband":
            return self.config.early_stopping and self.falls_behind(value, epoch)
        trial.optuna.report(value, epoch)
        # The epoch after the last one counts, since a trial may just be about to end by itself.
        return epoch > self.config.max_epochs or bool(trial.optuna.should_prune())

    def finish(self, trial: Trial, status: str, value: float | None = None) -> None:
        """Take the end of a trial and its final objective; by default that is the last value reported."""
        if trial.status != "InProgress":
            raise ValueError(f"Trial {trial.number} has already finished as {trial.status}.")
        last = trial.reports[-1] if value is None and trial.reports else value
        trial.status = status
        trial.objective = last if status != "Failed" and last is not None and math.isfinite(last) else None
        if self.sampler:
            self.sampler.tell(trial)
        if trial.objective is not None:
            self.objectives.append(trial.objective)
            self.count_improvement(trial.objective)
            self.completion = self.completion or self.criterion_met(trial.objective)

    def score(self, objective: float) -> float:
        """The higher the better."""
        return objective if self.config.maximize else -objective

    def falls_behind(self, value: float, epoch: int) -> bool:
        """The median rule: worse than the median of what earlier trials had on average up to the same epoch.

        As the guide's automatic-model-tuning-early-stopping page has it. A trial is left alone for the first quarter of
        a completed trial's epochs (the median of these), as first epochs tell little.
        """
        completed = [len(other.reports) for other in self.trials if other.status == "Completed" and other.reports]
        if not completed or epoch < statistics.median(completed) / 4:
            return False
        ended = [other.reports for other in self.trials if other.status in ("Completed", "Stopped")]
        averages = [statistics.fmean(reports[:epoch]) for reports in ended if len(reports) >= epoch]
        return bool(averages) and self.score(value) < self.score(statistics.median(averages))

    def improves(self, objective: float, reference: float) -> bool:
        """Whether an objective is better than another one by 1 % of it."""
        gain = self.score(objective) - self.score(reference)
        return gain > 0 and gain >= SIGNIFICANT_IMPROVEMENT * abs(reference)

    def count_improvement(self, objective: float) -> None:
        """Count the trials in a row that do not improve the objective."""
        if self.reference is None or self.improves(objective, self.reference):
            self.reference, self.not_improving = objective, 0
        else:
            self.not_improving += 1

    def criterion_met(self, objective: float) -> str | None:
        """Which of TuningJobCompletionCriteria ends the search now."""
        target, limit = self.config.target, self.config.max_not_improving
        if target is not None and self.score(objective) >= self.score(target):
            return f"The objective {objective:g} has reached the target {target:g}."
        if limit is not None and self.not_improving >= limit:
            return f"{self.not_improving} trials in a row have not improved the objective by 1 %."
        if self.config.stop_on_convergence and self.converged():
            return f"The search has converged: the last trials of {len(self.objectives)} improved it by less than 1 %."
        return None

    def converged(self) -> bool:
        """Whether the last half of the trials, and at least ten, improved the best objective by less than 1 %."""
        count = len(self.objectives) - max(CONVERGENCE_TRIALS, len(self.objectives) // 2)
        best = max if self.config.maximize else min
        return count > 0 and not self.improves(best(self.objectives), best(self.objectives[:count]))


class Sampler:
    """Combinations drawn by Optuna; one that was tried is not drawn again as long as others are left."""

    def __init__(self, config: SearchConfig, known: Sequence[Known]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = None if config.seed is None else config.seed % 2**32  # what numpy accepts
        sampler: Any = optuna.samplers.RandomSampler(seed=seed)
        pruner: Any = optuna.pruners.NopPruner()
        if config.strategy == "Bayesian":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=STARTUP_TRIALS,
                    multivariate=True,
                    constant_liar=True,  # trials still running count as bad, so that parallel ones keep apart
                )
        if config.strategy == "Hyperband":
            pruner = optuna.pruners.HyperbandPruner(config.min_epochs, config.max_epochs, REDUCTION_FACTOR)
        self.ranges = config.ranges
        self.generator = random.Random(seed)
        self.distributions = {searched.name: distribution(searched) for searched in config.ranges}
        self.study = optuna.create_study(
            study_name="search",  # HyperbandPruner spreads trials over its brackets by this name
            direction="maximize" if config.maximize else "minimize",
            sampler=sampler,
            pruner=pruner,
        )
        self.combinations = config.combinations
        self.tried: set[tuple[str, ...]] = set()
        for hyperparameters, objective in known if config.strategy == "Bayesian" else ():
            if point := self.point(hyperparameters):
                trial = optuna.trial.create_trial(params=point, distributions=self.distributions, value=objective)
                self.study.add_trial(trial)

    def propose(self) -> tuple[dict[str, str], Any]:
        """The hyperparameters of the next trial, and Optuna's trial."""
        for attempt in itertools.count(1):
            trial = self.study.ask(self.distributions)
            texts = {searched.name: text_of(searched, trial.params[searched.name]) for searched in self.ranges}
            combination = tuple(texts.values())
            if combination not in self.tried or len(self.tried) >= self.combinations or attempt > SAMPLER_ATTEMPTS:
                break
            self.study.tell(trial, state=failed())
            if attempt == SAMPLER_ATTEMPTS:
                self.enqueue_another()
        self.tried.add(combination)
        return texts, trial

    def enqueue_another(self) -> None:
        """Let the next trial be a combination that was not tried, where all can be listed."""
        listed = combinations_of(self.ranges) if self.combinations <= LISTED_COMBINATIONS else iter(())
        if others := [texts for texts in listed if tuple(texts.values()) not in self.tried]:
            self.study.enqueue_trial(self.point(self.generator.choice(others)) or {})

    def tell(self, trial: Trial) -> None:
        """Learn how a trial ended."""
        if trial.objective is None:
            self.study.tell(trial.optuna, state=failed())
        else:
            self.study.tell(trial.optuna, trial.objective)

    def point(self, hyperparameters: Mapping[str, str]) -> dict[str, Any] | None:
        """Optuna's parameters for what a training job received; None where a range does not hold it."""
        found = {searched.name: value_of(searched, hyperparameters.get(searched.name)) for searched in self.ranges}
        return None if None in found.values() else found


def distribution(searched: Range) -> Any:
    """A range as Optuna has it: on the reverse logarithmic scale it is 1 - x whose logarithm is drawn evenly."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if searched.values:
        return CategoricalDistribution(searched.values)
    if searched.scale == "ReverseLogarithmic":
        return FloatDistribution(1 - searched.high, 1 - searched.low, log=True)
    kind = IntDistribution if searched.is_whole else FloatDistribution
    return kind(searched.low, searched.high, log=searched.scale == "Logarithmic")


def text_of(searched: Range, value: Any) -> str:
    """Optuna's value as a training job receives it."""
    if searched.scale == "ReverseLogarithmic":
        return repr(min(max(1 - value, searched.low), searched.high))
    return value if isinstance(value, str) else repr(value)


def value_of(searched: Range, text: str | None) -> Any:
    """Optuna's value for what a training job received; None where the range does not hold it."""
    if text is None or searched.values:
        return text if text in searched.values else None
    try:
        value = float(text.strip('"'))
    except ValueError:
        return None
    if not searched.low <= value <= searched.high:
        return None
    if searched.is_whole:
        return round(value)
    return min(max(1 - value, 1 - searched.high), 1 - searched.low) if searched.scale == "ReverseLogarithmic" else value


def combinations_of(ranges: Sequence[Range]) -> Iterator[dict[str, str]]:
    """Every combination of ranges that have finitely many values once, the last range varying fastest."""
    names = [found.name for found in ranges]
    whole = [range(int(found.low), int(found.high) + 1) if found.is_whole else (found.low,) for found in ranges]
    values = [found.values or [repr(n) for n in numbers] for found, numbers in zip(ranges, whole, strict=True)]
    return (dict(zip(names, combination, strict=True)) for combination in itertools.product(*values))


def failed() -> Any:
    """Optuna's state of a trial that teaches nothing."""
    from optuna.trial import TrialState

    return TrialState.FAIL
