"""The search of a tuning job: proposals, early stopping, completion criteria, and the faults of a configuration."""

import itertools
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DefinitionError
from pipeline.local.checks.search import read_search_config
from pipeline.local.jobs.search import Known, Search, Trial

Json = dict[str, Any]
FILE = json.loads((Path(__file__).parent / "cases" / "search_config.json").read_text())
STRATEGIES = ("Bayesian", "Random", "Hyperband")
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
    while True:
        while (trial := searching.ask()) is not None:
            running.append(trial)
        if not running:
            return [trial.hyperparameters for trial in searching.trials]
        searching.report(running[0], objective(running[0].hyperparameters))
        searching.finish(running.pop(0), "Completed")


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


def test_several_faults_are_told_at_once_and_without_optuna() -> None:
    many = ranges("Categorical", **{f"p{number}": ["1", "1"] for number in range(25)})
    whole = ranges("Integer", **{f"n{number}": ("2", "1", "Auto") for number in range(6)})
    with pytest.raises(DefinitionError) as caught:
        search(ParameterRanges=many | whole)
    assert len(caught.value.problems) == 32
    assert caught.value.problems[-1] == "ParameterRanges must hold 1 to 30 ranges, but holds 31."
    script = "import sys, pipeline.local.jobs.search; sys.exit('optuna' in sys.modules)"  # which takes a while to load
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hyperparameters_are_strings_within_their_ranges_and_a_seed_gives_the_same_again(strategy: str) -> None:
    def trials(parallel: int, seed: int) -> list[dict[str, str]]:
        noise = random.Random()
        objective = accuracy if strategy == "Bayesian" else lambda values: noise.random()
        return run_all(search(strategy, 12, parallel, RandomSeed=seed), objective)

    found = trials(2, 7)
    assert len(found) == 12
    assert found == trials(2 if strategy == "Bayesian" else 4, 7) != trials(2, 8)
    for values in found:
        assert list(values) == ["epochs", "lr", "batch_size"]
        assert 0.0005 <= float(values["lr"]) <= 0.05
        assert values["epochs"] in [str(epochs) for epochs in range(8, 25)]
        assert values["batch_size"] in ("32", "64", "128")


@pytest.mark.parametrize("case", FILE["scales"])
def test_values_are_spread_evenly_over_a_scale(case: Json) -> None:
    spread = ranges(case["kind"], x=case["range"])
    values = [float(found["x"]) for found in run_all(search(jobs=400, ParameterRanges=spread), lambda values: 0.0)]
    assert abs(sum(value < case["middle"] for value in values) / 400 - case["share_below"]) < 0.1
    assert float(case["range"][0]) <= min(values) and max(values) <= float(case["range"][1])


def test_a_grid_is_enumerated_once_in_order_and_ranges_of_a_single_value_are_passed_on() -> None:
    grid = search("Grid", None, 4, ParameterRanges=ranges("Categorical", a=["1", "2"], b=["x", "y", "z"]))
    found = run_all(grid, lambda values: float(values["a"]))
    assert [tuple(values.values()) for values in found] == list(itertools.product("12", "xyz"))
    mixed = ranges("Continuous", lr=("0.1", "0.1", "Auto")) | ranges("Categorical", mode=["fast"], size=["1", "2"])
    found = run_all(search("Bayesian", jobs=2, ParameterRanges=mixed), lambda values: 1.0)
    assert sorted(tuple(values.values()) for values in found) == [("0.1", "fast", "1"), ("0.1", "fast", "2")]


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
@pytest.mark.parametrize("seed", range(3))
def test_combinations_are_not_repeated_while_others_are_left(strategy: str, seed: int) -> None:
    both = ranges("Categorical", a=["1", "2", "3"]) | ranges("Integer", b=("1", "3", "Linear"))
    found = run_all(search(strategy, 10, RandomSeed=seed, ParameterRanges=both), lambda values: float(values["a"]))
    combinations = [tuple(values.values()) for values in found]
    assert (len(combinations), len(set(combinations[:9]))) == (10, 9)


def test_bayesian_search_beats_random_search_and_its_parallel_trials_keep_apart() -> None:
    def best(strategy: str, jobs: int, seed: int) -> float:
        noise, found = random.Random(seed), search(strategy, jobs, RandomSeed=seed)
        run_all(found, lambda values: accuracy(values) + noise.gauss(0, 0.003))
        return accuracy(max(found.trials, key=lambda trial: trial.reports[-1]).hyperparameters)

    kinds = (("Bayesian", 12), ("Random", 20), ("Random", 12))
    bayesian, equal, half = (statistics.fmean(best(*kind, seed) for seed in range(40)) for kind in kinds)
    assert bayesian > equal > half
    found = search("Bayesian", jobs=40, parallel=8)
    for _ in range(16):
        trial = ask(found)
        found.report(trial, accuracy(trial.hyperparameters))
        found.finish(trial, "Completed")
    assert len({ask(found).hyperparameters["lr"] for _ in range(8)}) == 8
    assert found.ask() is None


def test_a_bayesian_search_finds_more_with_the_trials_of_an_earlier_one() -> None:
    def good_ones(found: list[dict[str, str]]) -> int:
        return sum(abs(float(values["x"]) - 2.6) < 0.35 for values in found)

    def tried(jobs: int, seed: int, known: Sequence[Known] = ()) -> list[dict[str, str]]:
        spread = ranges("Continuous", x=("0.25", "4", "Linear"))
        return run_all(search("Bayesian", jobs, 1, known, RandomSeed=seed, ParameterRanges=spread), objective)

    def objective(values: dict[str, str]) -> float:
        return -abs(float(values["x"]) - 2.6)

    cold = sum(good_ones(tried(3, seed)) for seed in range(30))
    parents = [[(values, objective(values)) for values in tried(5, seed + 1000)] for seed in range(30)]
    assert sum(good_ones(tried(3, seed, parents[seed])) for seed in range(30)) > 1.5 * cold


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_earlier_trials_that_the_ranges_do_not_hold_teach_nothing(strategy: str) -> None:
    outside = [{"lr": "5", "batch_size": "32"}, {"lr": "0.01"}, {"lr": "x", "batch_size": "64"}]
    inside = [{"lr": str(0.0006 * n), "batch_size": "64"} for n in range(1, 9)]
    cold, same, warm = (
        run_all(search(strategy, 4, 1, [({**values, "epochs": "9"}, 1.0) for values in known]), lambda values: 0.5)
        for known in ([], outside, inside)
    )
    assert same == cold
    assert (warm == cold) is (strategy != "Bayesian")


def test_no_more_trials_run_than_may_and_failed_ones_do_not_end_a_search() -> None:
    found = search("Bayesian", jobs=3, parallel=2, TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 0.9})
    first, second = ask(found), ask(found)
    assert found.ask() is None
    found.report(first, 0.95)
    found.finish(first, "Failed")
    third = ask(found)
    found.finish(second, "Completed")
    assert (found.ask(), found.done) == (None, False)
    found.finish(third, "Completed")


def test_the_median_rule_stops_a_trial_below_the_running_averages_of_earlier_ones() -> None:
    found = search(parallel=3, TrainingJobEarlyStoppingType="Auto")
    failed, first, bad = (ask(found) for _ in range(3))
    found.report(failed, 0.9)
    found.finish(failed, "Failed")
    assert [found.report(first, value) for value in (0.2, 0.4, 0.6, 0.8)] == [False] * 4
    assert found.report(bad, 0.0) is False  # no trial is completed yet
    found.finish(first, "Completed")
    assert found.report(bad, 0.0) is True
    found.finish(bad, "Stopped")
    run_epochs(found, [0.4, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9])
    late = ask(found)
    # medians of the averages up to then: 0.3, 0.5, 0.5875; the first of about six epochs tells nothing
    assert [found.report(late, value) for value in (0.0, 0.31, 0.51, 0.58)] == [False, False, False, True]
    assert run_epochs(search(), [0.9, 0.1]).status == "Completed"  # without the rule


def test_hyperband_stops_a_trial_past_the_last_epoch_and_bears_with_ones_that_end_by_themselves() -> None:
    found = search("Hyperband", jobs=12, parallel=1)
    trials = [run_epochs(found, [0.1 * level] * 7) for level in (1, 9, 2, 3, 4, 5, 2, 1, 3, 4, 5)]
    assert (trials[1].status, len(trials[1].reports)) == ("Completed", 7)
    assert len(run_epochs(found, [1.0] * 30).reports) == 19
    static = {"TrainingJobDefinition": {"StaticHyperParameters": {"epochs": "12"}}}
    config = read_search_config(request(Strategy="Hyperband") | static)
    assert (config.min_epochs, config.max_epochs) == (1, 12)


@pytest.mark.parametrize("case", FILE["ends"], ids=lambda case: next(iter(case["criteria"])))
def test_a_criterion_that_is_met_ends_the_search_while_trials_run(case: Json) -> None:
    found = search(jobs=50, TuningJobCompletionCriteria=case["criteria"])
    other = ask(found)
    for value in case["values"]:
        assert not found.done
        trial = ask(found)
        found.report(trial, value)
        found.finish(trial, "Completed")
    assert (found.done, found.ask(), other.status) == (True, None, "InProgress")
    found.finish(other, "Stopped")
