"""The search for hyperparameters: every trial against the objective, the winner marked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from watch.read.values import items, mapping, number, text
from watch.report.charts import LOG_FROM_RATIO, Chart, Line, chart, shortened
from watch.report.page import counted, duration_text, number_text

LOWER, HIGHER = "Minimize", "Maximize"
SHOWN_CATEGORIES = 12
FEW_VALUES = 5
FOLDED_FROM = 40  # trials


@dataclass(frozen=True)
class Trial:
    """One training job of the search."""

    name: str
    status: str
    hyperparameters: Mapping[str, str]  # the ones that were searched
    objective: float | None  # None: it reported none
    seconds: float | None
    winner: bool = False


@dataclass(frozen=True)
class Search:
    """A tuning job."""

    name: str
    strategy: str
    objective_metric: str
    objective_type: str  # Maximize or Minimize
    trials: tuple[Trial, ...]  # in the order in which they started

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "trials": [asdict(trial) for trial in self.trials]}

    @property
    def winner(self) -> Trial | None:
        """The best trial: the one that is marked."""
        return next((trial for trial in self.trials if trial.winner), None)

    @property
    def names(self) -> list[str]:
        """The hyperparameters that were searched."""
        return sorted({name for trial in self.trials for name in trial.hyperparameters})


def read_search(value: Any) -> Search | None:
    """A search from its JSON; None where that holds no trial."""
    entry = mapping(value)
    trials = tuple(map(_trial, items(entry.get("trials"))))
    if not trials:
        return None
    return Search(
        name=text(entry.get("name")),
        strategy=text(entry.get("strategy")),
        objective_metric=text(entry.get("objective_metric")) or "objective",
        objective_type=text(entry.get("objective_type")) or HIGHER,
        trials=trials,
    )


def _trial(value: Any) -> Trial:
    entry = mapping(value)
    return Trial(
        name=text(entry.get("name")),
        status=text(entry.get("status")),
        hyperparameters={name: str(found) for name, found in mapping(entry.get("hyperparameters")).items()},
        objective=number(entry.get("objective")),
        seconds=number(entry.get("seconds")),
        winner=entry.get("winner") is True,
    )


def shown_search(search: Search | None) -> dict[str, Any] | None:
    """Plots by hyperparameter, and the table of all trials, best first."""
    if search is None:
        return None
    sign = 1 if search.objective_type == LOWER else -1
    ordered = sorted(
        search.trials,
        key=lambda trial: (not trial.winner, trial.objective is None, sign * (trial.objective or 0.0)),
    )
    return {
        "words": _in_words(search),
        "charts": [chart(_against(search, name)) for name in search.names],
        "heads": ["Trial", search.objective_metric, *search.names, "Time", "Status"],
        "rows": [_row(trial, search.names, search.trials.index(trial) + 1) for trial in ordered],
        "folded": len(ordered) >= FOLDED_FROM,
    }


def _in_words(search: Search) -> str:
    count = counted(len(search.trials), "trial")
    aim = "lowest" if search.objective_type == LOWER else "highest"
    said = f"{count} ({search.strategy or 'unknown strategy'}) looked for the {aim} {search.objective_metric}."
    winner = search.winner
    if winner is None:
        return f"{said} None of them won."
    values = ", ".join(f"{name} {_rounded(value)}" for name, value in winner.hyperparameters.items())
    reached = f" reached {number_text(winner.objective)}" if winner.objective is not None else ""
    return f"{said} The winner{reached} with {values}. Each dot is a trial; the ring is the winner."


def _against(search: Search, name: str) -> Chart:
    """One hyperparameter against the objective."""
    measured = [trial for trial in search.trials if trial.objective is not None and name in trial.hyperparameters]
    texts = [trial.hyperparameters[name] for trial in measured]
    known = [value for found in texts if (value := _as_number(found)) is not None]
    categories = categories_of(texts)
    if categories:
        measured = [trial for trial in measured if trial.hyperparameters[name] in categories]
        known = [float(categories.index(trial.hyperparameters[name])) for trial in measured]
    titles = [f"{_label(trial)}: {search.objective_metric} {number_text(trial.objective or 0)}" for trial in measured]
    dots = Line("trials", known, [trial.objective for trial in measured], "dots", titles)
    won = [(x, trial.objective or 0.0, "winner") for x, trial in zip(known, measured, strict=True) if trial.winner]
    return Chart(
        title=name,
        x_label=name,
        y_label=search.objective_metric,
        lines=[dots],
        best=won[0] if won else None,
        log_y=False,
        log_x=bool(known) and min(known) > 0 and max(known) / min(known) >= LOG_FROM_RATIO / 2,
        whole_x=not categories and all(value.is_integer() for value in known) and max(known, default=0) < 1e6,
        categories=categories,
    )


def categories_of(texts: Sequence[str]) -> list[str]:
    """The values to which an axis is divided: words, or a few numbers that occur again and again; else none."""
    distinct = set(texts)
    numbers = {found: value for found in distinct if (value := _as_number(found)) is not None}
    if len(numbers) < len(distinct):
        return sorted(distinct)[:SHOWN_CATEGORIES]
    few = len(distinct) <= FEW_VALUES and 2 * len(distinct) <= len(texts)
    return sorted(distinct, key=lambda found: numbers[found]) if few else []


def _row(trial: Trial, names: Sequence[str], position: int) -> dict[str, Any]:
    cells = [
        "–" if trial.objective is None else f"{trial.objective:.4g}",
        *(_rounded(trial.hyperparameters.get(name, "–")) for name in names),
        "–" if trial.seconds is None else duration_text(trial.seconds),
        trial.status,
    ]
    return {
        "winner": trial.winner,
        "name": trial.name,
        "label": f"{position} ★ winner" if trial.winner else str(position),
        "cells": [shortened(cell, 40) for cell in cells],
    }


def _label(trial: Trial) -> str:
    return ", ".join(f"{name} {_rounded(value)}" for name, value in trial.hyperparameters.items())


def _rounded(value: str) -> str:
    found = _as_number(value)
    return value if found is None else number_text(found).replace(",", "")


def _as_number(value: str) -> float | None:
    try:
        return number(float(value))
    except ValueError:
        return None
