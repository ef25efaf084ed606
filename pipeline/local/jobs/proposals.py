"""Where the hyperparameters of the next trial come from: a grid in its order, or a sampler of Optuna.

Optuna sees a unit interval for each numeric range (`ranges.py` does the scaling) and the texts of each categorical one.
It is imported when a search begins, because that takes 0.2 s.
"""

import itertools
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.definition.ranges import CategoricalRange
from pipeline.definition.search_config import SearchConfig

_STARTUP_TRIALS = 4  # trials spread evenly before Bayesian search learns from them
_SAMPLER_ATTEMPTS = 10  # draws for a combination that was not tried yet, before points are drawn evenly instead
_ATTEMPTS = 200
_REDUCTION_FACTOR = 3  # Hyperband lets one trial in three go on


class Grid:
    """Every combination once, the last range varying fastest."""

    def __init__(self, config: SearchConfig) -> None:
        names = [searched.name for searched in config.ranges]
        values = [searched.values for searched in config.ranges if isinstance(searched, CategoricalRange)]
        self._combinations = (dict(zip(names, combination, strict=True)) for combination in itertools.product(*values))

    def propose(self, number: int) -> dict[str, str]:
        """The hyperparameters of trial `number`."""
        return next(self._combinations)

    def prunes(self, number: int, value: float, *, epoch: int) -> bool:
        """A grid stops no trial."""
        return False

    def tell(self, number: int, objective: float | None) -> None:
        """A grid learns nothing."""


class Sampled:
    """Combinations drawn by Optuna; one that was tried is not drawn again as long as others are left."""

    def __init__(self, config: SearchConfig, known: Sequence[tuple[Mapping[str, str], float]] = ()) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = None if config.seed is None else config.seed % 2**32  # what numpy accepts
        startup = min(max(_STARTUP_TRIALS, config.max_parallel), config.max_trials)
        self._config = config
        self._generator = random.Random(seed)
        self._distributions = {
            searched.name: optuna.distributions.CategoricalDistribution(searched.values)
            if isinstance(searched, CategoricalRange)
            else optuna.distributions.FloatDistribution(0, 1)
            for searched in config.ranges
            if searched.combinations > 1
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                study_name="search",  # HyperbandPruner spreads trials over its brackets by this name
                direction="maximize" if config.maximize else "minimize",
                sampler=_SAMPLERS[config.strategy](seed, startup),
                pruner=_hyperband_pruner(config) if config.strategy == "Hyperband" else optuna.pruners.NopPruner(),
            )
        learnt = self._learn(known)
        if config.strategy == "Bayesian" and learnt < startup:
            for point in _even_spread(config, startup - learnt, self._generator):
                self._study.enqueue_trial(point)
        self._trials: dict[int, Any] = {}
        self._tried: set[tuple[str, ...]] = set()
        self._failed = optuna.trial.TrialState.FAIL

    def propose(self, number: int) -> dict[str, str]:
        """The hyperparameters of trial `number`."""
        for attempt in range(_ATTEMPTS):
            if attempt >= _SAMPLER_ATTEMPTS:
                self._study.enqueue_trial(_even_spread(self._config, 1, self._generator)[0])
            trial = self._study.ask(self._distributions)
            hyperparameters = self._texts(trial.params)
            combination = tuple(hyperparameters.values())
            is_last = attempt == _ATTEMPTS - 1 or len(self._tried) >= self._config.combinations
            if is_last or combination not in self._tried:
                break
            self._study.tell(trial, state=self._failed)
        self._trials[number] = trial
        self._tried.add(combination)
        return hyperparameters

    def prunes(self, number: int, value: float, *, epoch: int) -> bool:
        """Whether Hyperband gives up trial `number` after this epoch's objective value."""
        trial = self._trials[number]
        trial.report(value, epoch)
        return bool(trial.should_prune())

    def tell(self, number: int, objective: float | None) -> None:
        """Learn how trial `number` ended; None: without an objective."""
        trial = self._trials.pop(number)
        if objective is None:
            self._study.tell(trial, state=self._failed)
        else:
            self._study.tell(trial, objective)

    def _learn(self, known: Sequence[tuple[Mapping[str, str], float]]) -> int:
        """Add trials of earlier searches to the study, those within the ranges; how many that are."""
        import optuna

        points = [(self._point(hyperparameters), objective) for hyperparameters, objective in known]
        usable = [(point, objective) for point, objective in points if point is not None]
        for point, objective in usable:
            trial = optuna.trial.create_trial(params=point, distributions=self._distributions, value=objective)
            self._study.add_trial(trial)
        return len(usable)

    def _point(self, hyperparameters: Mapping[str, str]) -> dict[str, Any] | None:
        """Optuna's parameters for what a training job received; None where a range does not hold it."""
        point: dict[str, Any] = {}
        for searched in self._config.ranges:
            text = hyperparameters.get(searched.name)
            if searched.name not in self._distributions:
                continue
            if isinstance(searched, CategoricalRange):
                found: Any = text if text in searched.values else None
            else:
                found = None if text is None else searched.unit_of(text)
            if found is None:
                return None
            point[searched.name] = found
        return point

    def _texts(self, params: dict[str, Any]) -> dict[str, str]:
        """Optuna's parameters as a training job receives them."""
        return {
            searched.name: params.get(searched.name, searched.values[0])
            if isinstance(searched, CategoricalRange)
            else searched.text_at(params.get(searched.name, 0.0))
            for searched in self._config.ranges
        }


def _tpe(seed: int | None, startup: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=startup,
        multivariate=True,
        constant_liar=True,  # trials still running count as bad, so that parallel ones keep apart
    )


def _random(seed: int | None, startup: int) -> Any:
    import optuna

    return optuna.samplers.RandomSampler(seed=seed)


_SAMPLERS = {"Bayesian": _tpe, "Random": _random, "Hyperband": _random}


def _hyperband_pruner(config: SearchConfig) -> Any:
    import optuna

    return optuna.pruners.HyperbandPruner(
        min_resource=config.min_epochs, max_resource=config.max_epochs, reduction_factor=_REDUCTION_FACTOR
    )


def _even_spread(config: SearchConfig, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """A Latin hypercube: `count` points, of which each lies in another `count`-th of every numeric range."""
    columns: dict[str, list[Any]] = {}
    for searched in config.ranges:
        if searched.combinations == 1:
            continue
        if isinstance(searched, CategoricalRange):
            values = generator.sample(searched.values, len(searched.values))
            column: list[Any] = [values[index % len(values)] for index in range(count)]
        else:
            column = [(index + generator.random()) / count for index in range(count)]
        generator.shuffle(column)
        columns[searched.name] = column
    return [{name: column[index] for name, column in columns.items()} for index in range(count)]
