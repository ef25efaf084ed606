"""The search of a tuning job: which hyperparameters to try next, which trials to stop early, and when to end.

    search = Search(config)
    while (trial := search.ask()) is not None:          # None: nothing more to start now, or at all
        ...                                             # start a job with trial.hyperparameters
        if search.report(trial, value): ...             # for each objective value that it logs; True: stop it
        search.finish(trial, "Completed")               # once it has ended

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

from pipeline.local.checks.search import Range, SearchConfig

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


class Search:
    """One tuning job's search: combinations drawn by Optuna, none of them twice as long as others are left."""

    def __init__(self, config: SearchConfig, known: Sequence[Known] = ()) -> None:
        """Begin a search; from `known`, what earlier searches tried, Bayesian search learns and nothing is counted."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = None if config.seed is None else config.seed % 2**32  # what numpy accepts
        sampler, pruner = optuna.samplers.RandomSampler(seed=seed), optuna.pruners.NopPruner()
        if config.strategy == "Bayesian":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `multivariate` is experimental, `gamma` to go in Optuna 6
                sampler = optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=STARTUP_TRIALS,
                    gamma=lambda count: min(math.ceil(GOOD_SHARE * count), 25),  # 25 as by default
                    multivariate=True,
                    constant_liar=True,  # trials still running count as bad, so that parallel ones keep apart
                )
        elif config.strategy == "Hyperband":
            pruner = optuna.pruners.HyperbandPruner(config.min_epochs, config.max_epochs, REDUCTION_FACTOR)
        self.study = optuna.create_study(
            study_name="search",  # HyperbandPruner spreads trials over its brackets by this name
            direction="maximize" if config.maximize else "minimize",
            sampler=sampler,
            pruner=pruner,
        )
        self.config = config
        self.sign = 1 if config.maximize else -1
        self.distributions = {searched.name: distribution(searched) for searched in config.ranges}
        self.generator = random.Random(seed)
        self.grid = combinations_of(config.ranges) if config.strategy == "Grid" else None
        self.failed = optuna.trial.TrialState.FAIL  # of a trial that teaches nothing
        self.tried: set[tuple[str, ...]] = set()
        self.trials: list[Trial] = []
        self.scores: list[float] = []  # objectives in the order of finishing, the higher the better
        self.done = False
        for hyperparameters, objective in known if config.strategy == "Bayesian" else ():
            if point := self.point(hyperparameters):
                trial = optuna.trial.create_trial(params=point, distributions=self.distributions, value=objective)
                self.study.add_trial(trial)

    def ask(self) -> Trial | None:
        """The next trial to start; None when nothing more may start now, or at all."""
        running = sum(trial.status == "InProgress" for trial in self.trials)
        if self.done or len(self.trials) >= self.config.max_trials or running >= self.config.max_parallel:
            return None
        if self.grid:
            self.study.enqueue_trial(next(self.grid))
        for draw in range(DRAWS + 1):
            trial = self.study.ask(self.distributions)
            texts = {searched.name: text_of(searched, trial.params[searched.name]) for searched in self.config.ranges}
            combination = tuple(texts.values())
            if combination not in self.tried or len(self.tried) >= self.config.combinations or draw == DRAWS:
                break
            self.study.tell(trial, state=self.failed)
            if draw == DRAWS - 1 and self.config.combinations <= LISTED_COMBINATIONS:
                every = combinations_of(self.config.ranges)
                others = [found for found in every if tuple(found.values()) not in self.tried]
                self.study.enqueue_trial(self.point(self.generator.choice(others)) or {})
        self.tried.add(combination)
        self.trials.append(Trial(texts, trial))
        return self.trials[-1]

    def report(self, trial: Trial, value: float) -> bool:
        """Take an objective value that a running trial has logged; whether the trial should be stopped."""
        trial.reports.append(value)
        epoch = len(trial.reports)
        if self.config.strategy != "Hyperband":
            return self.config.early_stopping and self.falls_behind(value, epoch)
        trial.optuna.report(value, epoch)
        # The epoch after the last one counts, since a trial may just be about to end by itself.
        return epoch > self.config.max_epochs or bool(trial.optuna.should_prune())

    def finish(self, trial: Trial, status: str) -> None:
        """Take the end of a running trial; its objective is the last value reported, unless it has failed."""
        trial.status = status
        objective = trial.reports[-1] if trial.reports and status != "Failed" else None
        self.study.tell(trial.optuna, objective, state=self.failed if objective is None else None)
        if objective is not None:
            self.scores.append(self.sign * objective)
            self.done = self.done or self.criterion_met()

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

    def criterion_met(self) -> bool:
        """Whether one of TuningJobCompletionCriteria ends the search now."""
        config, scores = self.config, self.scores
        if config.target is not None and scores[-1] >= self.sign * config.target:
            return True
        reference, not_improving = scores[0], 0
        for score in scores[1:]:
            reference, not_improving = (score, 0) if improves(score, reference) else (reference, not_improving + 1)
        if config.max_not_improving is not None and not_improving >= config.max_not_improving:
            return True
        before = scores[: max(0, len(scores) - max(CONVERGENCE_TRIALS, len(scores) // 2))]
        return config.stop_on_convergence and bool(before) and not improves(max(scores), max(before))

    def point(self, hyperparameters: Mapping[str, str]) -> dict[str, Any] | None:
        """Optuna's parameters for what a training job received; None where a range does not hold it."""
        found = {each.name: value_of(each, hyperparameters.get(each.name)) for each in self.config.ranges}
        return None if None in found.values() else found


def improves(score: float, reference: float) -> bool:
    """Whether a score is better than another one by 1 % of it."""
    return score > reference and score - reference >= SIGNIFICANT_IMPROVEMENT * abs(reference)


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
