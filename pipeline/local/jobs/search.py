"""The search of a tuning job: which hyperparameters to try next, which trials to stop early, and when to end.

    search = Search(config)
    while search.done is None:
        while (trial := search.ask()) is not None:      # None: nothing more to start now, or at all
            ...                                         # start a job with trial.hyperparameters
        ...                                             # for each objective value that a trial logs:
        if search.report(trial, value): ...             # stop it
        search.finish(trial, "Completed", value)        # for each trial that has ended
    search.best                                         # None when no trial has an objective

`done` may be set while trials are running (a completion criterion is met): they are to be stopped and finished. Which
hyperparameters come next is decided in `proposals.py`. All methods may be called from any thread.
"""

import math
import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.definition.search_config import SearchConfig, read_search_config
from pipeline.local.jobs.proposals import Grid, Sampled

TrialStatus = Literal["InProgress", "Completed", "Stopped", "Failed"]

_SIGNIFICANT_IMPROVEMENT = 0.01  # relative to the best objective so far, BestObjectiveNotImproving
_CONVERGENCE_TRIALS = 10  # SageMaker's own criterion is not published; this one is as `_converged` says


@dataclass
class Trial:
    """One combination of hyperparameters and what became of it."""

    number: int  # from 1, in the order of starting
    hyperparameters: dict[str, str]
    reports: list[float] = field(default_factory=list)  # objective values as they were logged, one an epoch
    status: TrialStatus = "InProgress"
    objective: float | None = None  # final; None while it runs and when none was logged


class Search:
    """One tuning job's search; the constructor raises `DefinitionError` with every fault of the configuration."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        ranges: Mapping[str, Any] | None = None,
        objective: Mapping[str, Any] | None = None,
        static_hyperparameters: Mapping[str, str] | None = None,
        known: Sequence[tuple[Mapping[str, str], float]] = (),
    ) -> None:
        """See `read_search_config` for the arguments; `known` are hyperparameters of earlier searches with their
        objectives, from which Bayesian search learns. They count neither as trials nor towards the best."""
        self.config: SearchConfig = read_search_config(
            config, ranges=ranges, objective=objective, static_hyperparameters=static_hyperparameters
        )
        self.trials: list[Trial] = []
        self.not_improving = 0  # trials in a row that did not improve the objective by 1 %
        self._reference: float | None = None  # the objective that these did not improve
        self._objectives: list[float] = []  # in the order of finishing
        self._completion: str | None = None
        self._proposals = Grid(self.config) if self.config.strategy == "Grid" else Sampled(self.config, known)
        self._lock = threading.RLock()

    @property
    def running(self) -> list[Trial]:
        """The trials that were asked for and have not finished."""
        return [trial for trial in self.trials if trial.status == "InProgress"]

    @property
    def done(self) -> str | None:
        """Why the search is over, or None while it is not."""
        with self._lock:
            if self._completion is None and len(self.trials) >= self.config.max_trials and not self.running:
                self._completion = f"All {self.config.max_trials} trials have ended."
            return self._completion

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective, of equals the one that started first."""
        ranked = self.ranked()
        return ranked[0] if ranked and ranked[0].objective is not None else None

    def ranked(self) -> list[Trial]:
        """All trials, the best first, those without an objective last."""
        with self._lock:
            return sorted(self.trials, key=lambda trial: (-self._score(trial.objective), trial.number))

    def ask(self) -> Trial | None:
        """The next trial to start; None when nothing more may start now, or at all."""
        with self._lock:
            all_started = len(self.trials) >= self.config.max_trials
            if all_started or self.done is not None or len(self.running) >= self.config.max_parallel:
                return None
            number = len(self.trials) + 1
            trial = Trial(number, self._proposals.propose(number))
            self.trials.append(trial)
            return trial

    def report(self, trial: Trial, value: float) -> bool:
        """Take an objective value that a running trial has logged; whether the trial should be stopped."""
        with self._lock:
            if not math.isfinite(value) or trial.status != "InProgress":
                return False
            trial.reports.append(value)
            epoch = len(trial.reports)
            if self.config.strategy == "Hyperband":
                # The epoch after the last one counts, since a trial may just be about to end by itself.
                return epoch > self.config.max_epochs or self._proposals.prunes(trial.number, value, epoch=epoch)
            return self.config.early_stopping and self._falls_behind(value, epoch)

    def finish(
        self, trial: Trial, status: Literal["Completed", "Stopped", "Failed"], value: float | None = None
    ) -> None:
        """Take the end of a trial and its final objective; by default that is the last value reported."""
        with self._lock:
            if trial.status != "InProgress":
                raise ValueError(f"Trial {trial.number} has already finished as {trial.status}.")
            last = trial.reports[-1] if value is None and trial.reports else value
            trial.status = status
            trial.objective = last if status != "Failed" and last is not None and math.isfinite(last) else None
            self._proposals.tell(trial.number, trial.objective)
            if trial.objective is not None:
                self._objectives.append(trial.objective)
                self._count_improvement(trial.objective)
                self._completion = self._completion or self._criterion_met(trial.objective)

    def _score(self, objective: float | None) -> float:
        """The higher the better."""
        if objective is None:
            return -math.inf
        return objective if self.config.maximize else -objective

    def _falls_behind(self, value: float, epoch: int) -> bool:
        """The median rule: worse than the median of what earlier trials had on average up to the same epoch.

        As the guide's automatic-model-tuning-early-stopping page has it. A trial is left alone for the first quarter of
        a completed trial's epochs (the median of these), as first epochs tell little.
        """
        completed = [len(other.reports) for other in self.trials if other.status == "Completed" and other.reports]
        if not completed or epoch < statistics.median(completed) / 4:
            return False
        ended = [other.reports for other in self.trials if other.status in ("Completed", "Stopped")]
        averages = [statistics.fmean(reports[:epoch]) for reports in ended if len(reports) >= epoch]
        return bool(averages) and self._score(value) < self._score(statistics.median(averages))

    def _improves(self, objective: float, reference: float) -> bool:
        gain = self._score(objective) - self._score(reference)
        return gain > 0 and gain >= _SIGNIFICANT_IMPROVEMENT * abs(reference)

    def _count_improvement(self, objective: float) -> None:
        if self._reference is None or self._improves(objective, self._reference):
            self._reference = objective
            self.not_improving = 0
        else:
            self.not_improving += 1

    def _criterion_met(self, objective: float) -> str | None:
        """Which of TuningJobCompletionCriteria ends the search now."""
        target, limit = self.config.target, self.config.max_not_improving
        if target is not None and self._score(objective) >= self._score(target):
            return f"The objective {objective:g} has reached the target {target:g}."
        if limit is not None and self.not_improving >= limit:
            return f"{self.not_improving} trials in a row have not improved the objective by 1 %."
        if self.config.stop_on_convergence and self._converged():
            return f"The search has converged: the last trials of {len(self._objectives)} improved it by less than 1 %."
        return None

    def _converged(self) -> bool:
        """Whether the last half of the trials, and at least ten, improved the best objective by less than 1 %."""
        count = len(self._objectives) - max(_CONVERGENCE_TRIALS, len(self._objectives) // 2)
        return count > 0 and not self._improves(
            self._best_of(self._objectives), self._best_of(self._objectives[:count])
        )

    def _best_of(self, objectives: Sequence[float]) -> float:
        return max(objectives) if self.config.maximize else min(objectives)
