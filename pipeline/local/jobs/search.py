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

STARTUP_TRIALS = 1  # drawn at random before TPE learns. 6 trials, 300 surfaces, regret: 0.67 %; with 4: 0.74, QMC: 0.75
GOOD_SHARE = 0.25  # of the trials, near which TPE tries others. 12 trials: 0.46 %; with Optuna's tenth: 0.52
DRAWS = 10  # for a combination that was not tried yet, before one of the others is taken
LISTED_COMBINATIONS = 10_000  # where there are more, the draws find one
REDUCTION_FACTOR = 3  # Hyperband lets one trial in three go on
SIGNIFICANT_IMPROVEMENT = 0.01  # relative to the best objective so far, BestObjectiveNotImproving
CONVERGENCE_TRIALS = 10  # without improvement, and at least half of all; SageMaker's own criterion is not published

Known = tuple[Mapping[str, str], float]  # hyperparameters, and the objective that they reached


@dataclass
class Trial:
    """One combination of hyperparameters and what became of it."""

    hyperparameters: dict[str, str]
    optuna: Any  # Optuna's own trial
    reports: list[float] = field(default_factory=list)  # objective values as they were logged, one an epoch
    status: str = "InProgress"  # then Completed, Stopped or Failed
    objective: float | None = None  # final; None while it runs and when none was logged


class Search:
    """One tuning job's search."""

    def __init__(self, config: SearchConfig, known: Sequence[Known] = ()) -> None:
        """Begin a search; from `known`, what earlier searches tried, Bayesian search learns and nothing is counted."""
        self.config = config
        self.sampler = Sampler(config, known)
        self.sign = 1 if config.maximize else -1
        self.trials: list[Trial] = []
        self.scores: list[float] = []  # objectives in the order of finishing, the higher the better
        self.completion: str | None = None

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
        self.trials.append(Trial(*self.sampler.propose()))
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
        """Take the end of a running trial and its final objective; by default that is the last value reported."""
        last = trial.reports[-1] if value is None and trial.reports else value
        trial.status = status
        trial.objective = last if status != "Failed" and last is not None and math.isfinite(last) else None
        self.sampler.tell(trial)
        if trial.objective is not None:
            self.scores.append(self.sign * trial.objective)
            self.completion = self.completion or self.criterion_met()

    def falls_behind(self, value: float, epoch: int) -> bool:
        """The median rule: worse than the median of what earlier trials had on average up to the same epoch.

        As the guide's automatic-model-tuning-early-stopping page has it; Optuna's MedianPruner compares other values.
        A trial is left alone for the first quarter of a completed trial's epochs (their median), which tell little.
        """
        completed = [len(other.reports) for other in self.trials if other.status == "Completed" and other.reports]
        if not completed or epoch < statistics.median(completed) / 4:
            return False
        ended = [other.reports for other in self.trials if other.status in ("Completed", "Stopped")]
        averages = [statistics.fmean(reports[:epoch]) for reports in ended if len(reports) >= epoch]
        return bool(averages) and self.sign * value < self.sign * statistics.median(averages)

    def criterion_met(self) -> str | None:
        """Which of TuningJobCompletionCriteria ends the search now."""
        config, scores = self.config, self.scores
        if config.target is not None and scores[-1] >= self.sign * config.target:
            return f"The objective {self.sign * scores[-1]:g} has reached the target {config.target:g}."
        reference, not_improving = scores[0], 0
        for score in scores[1:]:
            reference, not_improving = (score, 0) if improves(score, reference) else (reference, not_improving + 1)
        if config.max_not_improving is not None and not_improving >= config.max_not_improving:
            return f"{not_improving} trials in a row have not improved the objective by 1 %."
        before = scores[: max(0, len(scores) - max(CONVERGENCE_TRIALS, len(scores) // 2))]
        if config.stop_on_convergence and before and not improves(max(scores), max(before)):
            return f"The search has converged: the last trials of {len(scores)} improved it by less than 1 %."
        return None


def improves(score: float, reference: float) -> bool:
    """Whether a score is better than another one by 1 % of it."""
    return score > reference and score - reference >= SIGNIFICANT_IMPROVEMENT * abs(reference)


class Sampler:
    """Combinations drawn by Optuna; one that was tried is not drawn again as long as others are left."""

    def __init__(self, config: SearchConfig, known: Sequence[Known]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = None if config.seed is None else config.seed % 2**32  # what numpy accepts
        is_bayesian, is_hyperband = config.strategy == "Bayesian", config.strategy == "Hyperband"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `multivariate` is experimental, `gamma` to go in Optuna 6
            bayesian = optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=STARTUP_TRIALS,
                gamma=lambda count: min(math.ceil(GOOD_SHARE * count), 25),  # 25 as by default
                multivariate=True,
                constant_liar=True,  # trials still running count as bad, so that parallel ones keep apart
            )
        hyperband = optuna.pruners.HyperbandPruner(config.min_epochs, config.max_epochs, REDUCTION_FACTOR)
        self.ranges, self.combinations = config.ranges, config.combinations
        self.generator = random.Random(seed)
        self.distributions = {searched.name: distribution(searched) for searched in config.ranges}
        self.failed = optuna.trial.TrialState.FAIL  # of a trial that teaches nothing
        self.study = optuna.create_study(
            study_name="search",  # HyperbandPruner spreads trials over its brackets by this name
            direction="maximize" if config.maximize else "minimize",
            sampler=bayesian if is_bayesian else optuna.samplers.RandomSampler(seed=seed),
            pruner=hyperband if is_hyperband else optuna.pruners.NopPruner(),
        )
        self.grid = combinations_of(config.ranges) if config.strategy == "Grid" else None
        self.tried: set[tuple[str, ...]] = set()
        for hyperparameters, objective in known if is_bayesian else ():
            if point := self.point(hyperparameters):
                trial = optuna.trial.create_trial(params=point, distributions=self.distributions, value=objective)
                self.study.add_trial(trial)

    def propose(self) -> tuple[dict[str, str], Any]:
        """The hyperparameters of the next trial, and Optuna's trial."""
        if self.grid:
            self.study.enqueue_trial(next(self.grid))
        for draw in range(DRAWS + 1):
            trial = self.study.ask(self.distributions)
            texts = {searched.name: text_of(searched, trial.params[searched.name]) for searched in self.ranges}
            combination = tuple(texts.values())
            if combination not in self.tried or len(self.tried) >= self.combinations or draw == DRAWS:
                break
            self.study.tell(trial, state=self.failed)
            if draw == DRAWS - 1 and self.combinations <= LISTED_COMBINATIONS:
                others = [found for found in combinations_of(self.ranges) if tuple(found.values()) not in self.tried]
                self.study.enqueue_trial(self.point(self.generator.choice(others)) or {})
        self.tried.add(combination)
        return texts, trial

    def tell(self, trial: Trial) -> None:
        """Learn how a trial ended."""
        self.study.tell(trial.optuna, trial.objective, state=self.failed if trial.objective is None else None)

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
    if searched.scale == "ReverseLogarithmic":
        return min(max(1 - value, 1 - searched.high), 1 - searched.low)
    return round(value) if searched.is_whole else value


def combinations_of(ranges: Sequence[Range]) -> Iterator[dict[str, str]]:
    """Every combination of ranges that have finitely many values once, the last range varying fastest."""
    whole = [range(int(found.low), int(found.high) + 1) if found.is_whole else (found.low,) for found in ranges]
    values = [found.values or [repr(n) for n in numbers] for found, numbers in zip(ranges, whole, strict=True)]
    return (dict(zip([r.name for r in ranges], texts, strict=True)) for texts in itertools.product(*values))
