"""The search of a tuning job: proposals, early stopping, completion criteria, and the faults of a configuration."""

import itertools
import json
import math
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.search_config import read_search_config
from pipeline.errors import DefinitionError
from pipeline.local.jobs.search import Known, Search, Trial

Json = dict[str, Any]
FILE = json.loads((Path(__file__).parent / "cases" / "search_config.json").read_text())
EPOCHS = {"StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 18}}}


def request(**fields: Any) -> Json:
    """A search over lr, epochs and batch_size, unless `fields` say otherwise."""
    return {"HyperParameterTuningJobConfig": FILE["configuration"] | fields}


def search(
    strategy: str = "Random", jobs: int | None = 8, parallel: int = 2, known: Sequence[Known] = (), **fields: Any
) -> Search:
    limits = {"MaxParallelTrainingJobs": parallel} | ({} if jobs is None else {"MaxNumberOfTrainingJobs": jobs})
    epochs = EPOCHS if strategy == "Hyperband" else {}
    return Search(read_search_config(request(Strategy=strategy, ResourceLimits=limits, **epochs, **fields)), known)


def ranges(kind: str, **found: Any) -> Json:
    """ParameterRanges of one kind: values of categorical ranges, or (low, high, scale) of numbers."""
    names = ("MinValue", "MaxValue", "ScalingType")
    entries = [
        {"Name": name} | ({"Values": given} if kind == "Categorical" else dict(zip(names, given, strict=True)))
        for name, given in found.items()
    ]
    return {f"{kind}ParameterRanges": entries}


def ask(searching: Search) -> Trial:
    trial = searching.ask()
    assert trial is not None
    return trial


def run_all(searching: Search, objective: Callable[[dict[str, str]], float]) -> list[dict[str, str]]:
    """Run a search to its end, finishing the trial that has run the longest whenever no more may start."""
    running: list[Trial] = []
    while searching.done is None:
        while (trial := searching.ask()) is not None:
            running.append(trial)
        oldest = running.pop(0)
        searching.finish(oldest, "Completed", objective(oldest.hyperparameters))
    return [trial.hyperparameters for trial in searching.trials]


def run_epochs(searching: Search, values: list[float]) -> Trial:
    """Ask for a trial and report these values until it is to be stopped; then finish it."""
    trial = ask(searching)
    stopped = any(searching.report(trial, value) for value in values)
    searching.finish(trial, "Stopped" if stopped else "Completed")
    return trial


def accuracy(hyperparameters: dict[str, str]) -> float:
    """A validation accuracy as tuning meets it: a peak in log(lr) that moves with the batch size, more epochs help."""
    peak = {"32": -2.2, "64": -2.05, "128": -1.9}[hyperparameters["batch_size"]]
    epochs = (int(hyperparameters["epochs"]) - 8) / 16
    return 0.95 - 0.08 * (math.log10(float(hyperparameters["lr"])) - peak) ** 2 - 0.03 * math.exp(-3 * epochs)


@pytest.mark.parametrize("case", FILE["cases"], ids=[case["problem"][:60] for case in FILE["cases"]])
def test_a_fault_of_the_configuration_is_one_sentence(case: Json) -> None:
    with pytest.raises(DefinitionError) as caught:
        read_search_config(request(**case["fields"]))
    [problem] = caught.value.problems
    assert case["problem"] in problem


def test_several_faults_are_told_at_once() -> None:
    many = ranges("Categorical", **{f"p{number}": ["1", "1"] for number in range(25)})
    whole = ranges("Integer", **{f"n{number}": ("2", "1", "Auto") for number in range(6)})
    with pytest.raises(DefinitionError) as caught:
        search(ParameterRanges=many | whole)
    assert len(caught.value.problems) == 32
    assert caught.value.problems[-1] == "ParameterRanges must hold 1 to 30 ranges, but holds 31."


def test_importing_the_search_does_not_import_optuna() -> None:
    script = "import sys, pipeline.local.jobs.search; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("strategy", ["Bayesian", "Random", "Hyperband"])
def test_hyperparameters_are_strings_within_their_ranges(strategy: str) -> None:
    found = run_all(search(strategy, jobs=20), accuracy)
    assert len(found) == 20
    for values in found:
        assert list(values) == ["epochs", "lr", "batch_size"]
        assert 0.0005 <= float(values["lr"]) <= 0.05
        assert values["epochs"] in [str(epochs) for epochs in range(8, 25)]
        assert values["batch_size"] in ("32", "64", "128")


@pytest.mark.parametrize(
    ("kind", "given", "middle", "share"),
    [
        ("Continuous", ("0", "10", "Linear"), 5.0, 0.5),
        ("Continuous", ("0.001", "0.1", "Logarithmic"), 0.01, 0.5),
        ("Continuous", ("0.9", "0.999", "ReverseLogarithmic"), 0.99, 0.5),
        ("Continuous", ("1e-5", "0.1", "Auto"), 0.001, 0.5),
        ("Continuous", ("0.01", "0.1", "Auto"), 0.055, 0.5),
        ("Continuous", ("0", "0.1", "Auto"), 0.05, 0.5),
        ("Integer", ("1", "4", "Linear"), 1.5, 0.25),
        ("Integer", ("1", "4", "Logarithmic"), 1.5, 0.5),
    ],
)
def test_values_are_spread_evenly_over_a_scale(kind: str, given: tuple[str, ...], middle: float, share: float) -> None:
    found = run_all(search(jobs=400, ParameterRanges=ranges(kind, x=given)), lambda values: 0.0)
    values = [float(found["x"]) for found in found]
    assert abs(sum(value < middle for value in values) / 400 - share) < 0.1
    assert float(given[0]) <= min(values) and max(values) <= float(given[1])


def test_a_range_of_a_single_value_is_passed_on() -> None:
    mixed = ranges("Continuous", lr=("0.1", "0.1", "Auto")) | ranges("Categorical", mode=["fast"], size=["1", "2"])
    found = run_all(search("Bayesian", jobs=2, ParameterRanges=mixed), lambda values: 1.0)
    assert [(values["lr"], values["mode"]) for values in found] == [("0.1", "fast")] * 2
    assert {values["size"] for values in found} == {"1", "2"}


def test_a_grid_is_enumerated_once_in_order() -> None:
    grid = search("Grid", None, 4, ParameterRanges=ranges("Categorical", a=["1", "2"], b=["x", "y", "z"]))
    found = run_all(grid, lambda values: float(values["a"]))
    assert [tuple(values.values()) for values in found] == list(itertools.product("12", "xyz"))
    assert grid.done == "All 6 trials have ended."


@pytest.mark.parametrize("strategy", ["Random", "Hyperband", "Bayesian"])
def test_a_seed_gives_the_same_trials_again_and_but_for_bayesian_whatever_their_outcomes_are(strategy: str) -> None:
    def trials(parallel: int, seed: int) -> list[dict[str, str]]:
        noise = random.Random()
        objective = accuracy if strategy == "Bayesian" else lambda values: noise.random()
        return run_all(search(strategy, 12, parallel, RandomSeed=seed), objective)

    assert trials(2, 7) == trials(2 if strategy == "Bayesian" else 4, 7) != trials(2, 8)


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
@pytest.mark.parametrize("seed", range(3))
def test_combinations_are_not_repeated_while_others_are_left(strategy: str, seed: int) -> None:
    both = ranges("Categorical", a=["1", "2", "3"]) | ranges("Integer", b=("1", "3", "Linear"))
    found = run_all(search(strategy, 10, RandomSeed=seed, ParameterRanges=both), lambda values: float(values["a"]))
    combinations = [tuple(values.values()) for values in found]
    assert (len(combinations), len(set(combinations[:9]))) == (10, 9)


def test_parallel_trials_of_a_bayesian_search_keep_apart() -> None:
    found = search("Bayesian", jobs=40, parallel=8)
    for _ in range(16):
        trial = ask(found)
        found.finish(trial, "Completed", accuracy(trial.hyperparameters))
    assert len({ask(found).hyperparameters["lr"] for _ in range(8)}) == 8
    assert found.ask() is None


def test_bayesian_search_needs_about_half_the_trials_of_random_search() -> None:
    def best(strategy: str, jobs: int, seed: int) -> float:
        noise, found = random.Random(seed), search(strategy, jobs, RandomSeed=seed)
        run_all(found, lambda values: accuracy(values) + noise.gauss(0, 0.003))
        return accuracy(max(found.trials, key=lambda trial: trial.objective or 0).hyperparameters)

    kinds = (("Bayesian", 12), ("Random", 20), ("Random", 12))
    bayesian, equal, half = (statistics.fmean(best(*kind, seed) for seed in range(40)) for kind in kinds)
    assert bayesian > equal > half


TOYS: dict[str, tuple[Callable[[float], float], float]] = {  # an objective, and from where on it is good
    "at an end": (lambda x: x, 3.0),
    "in between": (lambda x: -abs(x - 2.6), -0.35),
}


@pytest.mark.parametrize("toy", TOYS)
def test_a_bayesian_search_finds_more_with_the_trials_of_an_earlier_one(toy: str) -> None:
    objective, good = TOYS[toy]

    def reached(jobs: int, seed: int, known: Sequence[Known] = ()) -> list[Known]:
        spread = ranges("Continuous", x=("0.25", "4", "Linear"))
        found = search("Bayesian", jobs, 1, known, RandomSeed=seed, ParameterRanges=spread)
        return [
            (values, objective(float(values["x"]))) for values in run_all(found, lambda v: objective(float(v["x"])))
        ]

    shares = Counter[str]()
    for seed in range(30):
        parent = reached(5, seed + 1000)
        shares["cold"] += sum(value > good for _, value in reached(3, seed))
        shares["warm"] += sum(value > good for _, value in reached(3, seed, parent))
    assert shares["warm"] > 1.5 * shares["cold"]


def test_earlier_trials_that_the_ranges_do_not_hold_teach_nothing() -> None:
    outside = [{"lr": "5", "batch_size": "32"}, {"lr": "0.01"}, {"lr": "x", "batch_size": "64"}]
    inside = [{"lr": str(0.0006 * n), "batch_size": "64"} for n in range(1, 9)]
    tried = {
        (strategy, name): run_all(
            search(strategy, 4, 1, [({**values, "epochs": "9"}, 1.0) for values in known]), lambda values: 0.5
        )
        for strategy in ("Bayesian", "Random", "Hyperband")
        for name, known in (("nothing", []), ("outside", outside), ("inside", inside))
    }
    for strategy in ("Bayesian", "Random", "Hyperband"):
        assert tried[strategy, "outside"] == tried[strategy, "nothing"]
        assert (tried[strategy, "inside"] == tried[strategy, "nothing"]) is (strategy != "Bayesian")


def test_no_more_trials_run_than_may_and_failed_ones_do_not_end_a_search() -> None:
    found = search("Bayesian", jobs=3, parallel=2)
    first, second = ask(found), ask(found)
    assert found.ask() is None
    found.report(first, 0.9)
    found.finish(first, "Failed")
    third = ask(found)
    found.finish(second, "Completed", 0.5)
    assert (found.ask(), found.done) == (None, None)
    found.finish(third, "Completed", 0.5)
    assert found.done == "All 3 trials have ended."
    assert [trial.objective for trial in found.trials] == [None, 0.5, 0.5]


def test_the_final_objective_is_the_last_value_reported_unless_given() -> None:
    found = search(jobs=4, parallel=4)
    reported, given, silent, undefined = (ask(found) for _ in range(4))
    for value in (0.5, 0.7, math.nan, 0.6):
        found.report(reported, value)
    found.finish(reported, "Stopped")
    found.finish(given, "Completed", 0.4)
    found.finish(silent, "Completed")
    found.finish(undefined, "Completed", math.nan)
    assert [trial.objective for trial in found.trials] == [0.6, 0.4, None, None]


def test_the_median_rule_stops_a_trial_below_the_running_averages_of_earlier_ones() -> None:
    found = search(parallel=1, TrainingJobEarlyStoppingType="Auto")
    run_epochs(found, [0.2, 0.4, 0.6, 0.8])
    run_epochs(found, [0.4, 0.6, 0.8, 0.9])
    third = ask(found)
    # medians of the running averages: 0.3, 0.4, 0.5, 0.5875
    assert [found.report(third, value) for value in (0.31, 0.41, 0.51, 0.58)] == [False, False, False, True]


def test_the_median_rule_waits_for_a_completed_trial_and_a_quarter_of_its_epochs() -> None:
    objective = {"Type": "Minimize", "MetricName": "loss"}
    found = search(parallel=3, TrainingJobEarlyStoppingType="Auto", HyperParameterTuningJobObjective=objective)
    failed, good, bad = (ask(found) for _ in range(3))
    found.report(failed, 0.1)
    found.finish(failed, "Failed")
    assert [found.report(good, 0.1) for _ in range(8)] == [False] * 8
    assert found.report(bad, 0.9) is False
    found.finish(good, "Completed")
    assert found.report(bad, 0.9) is True
    found.finish(bad, "Stopped")
    late = ask(found)
    assert [found.report(late, 0.9) for _ in range(2)] == [False, True]
    assert run_epochs(search(), [0.9, 0.1]).status == "Completed"  # without the rule


def test_hyperband_stops_most_bad_trials_early_and_lets_good_ones_run() -> None:
    found, quality = search("Hyperband", jobs=60, parallel=1), random.Random(0)
    outcomes = []
    while len(outcomes) < 60:
        level = quality.random()
        outcomes.append((level, len(run_epochs(found, [level + 0.001 * epoch for epoch in range(18)]).reports)))
    bad = [epochs for level, epochs in outcomes if level < 0.5]
    good = [epochs for level, epochs in outcomes if level > 0.9]
    assert statistics.fmean(bad) < 9 < statistics.fmean(good)
    assert (min(bad), max(good)) == (2, 18)


def test_hyperband_stops_a_trial_past_the_last_epoch_and_bears_with_ones_that_end_by_themselves() -> None:
    found = search("Hyperband", jobs=12, parallel=1)
    levels = [0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.2, 0.1, 0.3, 0.4, 0.5]
    trials = [run_epochs(found, [level] * 7) for level in levels]
    assert (trials[1].status, len(trials[1].reports)) == ("Completed", 7)
    assert len(run_epochs(found, [1.0] * 30).reports) == 19
    static = {"TrainingJobDefinition": {"StaticHyperParameters": {"epochs": "12"}}}
    config = read_search_config(request(Strategy="Hyperband") | static)
    assert (config.min_epochs, config.max_epochs) == (1, 12)


def test_reaching_the_target_ends_the_search_while_trials_run() -> None:
    found = search(TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 0.9})
    first, second = ask(found), ask(found)
    found.report(first, 0.95)
    assert found.done is None
    found.finish(first, "Completed", 0.9)
    assert (found.ask(), found.running) == (None, [second])
    found.finish(second, "Stopped", 0.3)
    assert found.done == "The objective 0.9 has reached the target 0.9."


@pytest.mark.parametrize(
    ("criteria", "values", "reason"),
    [
        (
            {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}},
            [0.5, 0.502, 0.4, 0.51, 0.51, 0.3, 0.514],
            "3 trials in a row have not improved the objective by 1 %.",
        ),
        (
            {"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}},
            [0.5, 0.8, *[0.805] * 9, 0.7],
            "The search has converged: the last trials of 12 improved it by less than 1 %.",
        ),
    ],
)
def test_a_search_that_does_not_improve_ends(criteria: Json, values: list[float], reason: str) -> None:
    found = search(jobs=50, TuningJobCompletionCriteria=criteria)
    for value in values:
        assert found.done is None
        found.finish(ask(found), "Completed", value)
    assert found.done == reason
