"""The search of a tuning job: proposals, early stopping, completion criteria, and the faults of a configuration."""

import itertools
import json
import math
import random
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.search_config import read_search_config
from pipeline.errors import DefinitionError
from pipeline.local.jobs.search import Known, Search, Trial

Json = dict[str, Any]
FILE = json.loads((Path(__file__).parent / "cases" / "search_config.json").read_text())
BATCH: Json = {"Name": "batch_size", "Values": ["32", "64", "128"]}
EPOCHS = {"StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 18}}}


def search(
    strategy: str = "Random", jobs: int | None = 8, parallel: int = 2, known: list[Known] | None = None, **fields: Any
) -> Search:
    """A search over lr, epochs and batch_size, unless `fields` say otherwise."""
    limits = {"MaxParallelTrainingJobs": parallel} | ({} if jobs is None else {"MaxNumberOfTrainingJobs": jobs})
    epochs = EPOCHS if strategy == "Hyperband" else {}
    config = FILE["configuration"] | {"Strategy": strategy, "ResourceLimits": limits} | epochs | fields
    return Search(read_search_config(config), known or [])


def ranges(kind: str = "Categorical", **found: Any) -> Json:
    """The field ParameterRanges: values of categorical ranges, or (low, high, scale) of numbers."""
    if kind == "Categorical":
        entries = [{"Name": name, "Values": values} for name, values in found.items()]
    else:
        entries = [
            {"Name": name, "MinValue": low, "MaxValue": high, "ScalingType": scale}
            for name, (low, high, scale) in found.items()
        ]
    return {"ParameterRanges": {f"{kind}ParameterRanges": entries}}


def ask(searching: Search) -> Trial:
    trial = searching.ask()
    assert trial is not None
    return trial


def run_all(searching: Search, objective: Any) -> list[Trial]:
    """Run a search to its end, finishing the trial that has run the longest whenever no more may start."""
    running: list[Trial] = []
    while searching.done is None:
        while (trial := searching.ask()) is not None:
            running.append(trial)
        oldest = running.pop(0)
        searching.finish(oldest, "Completed", objective(oldest.hyperparameters))
    return searching.trials


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
        read_search_config(FILE["configuration"] | case["fields"])
    [problem] = caught.value.problems
    assert case["problem"] in problem


def test_more_than_30_ranges_of_all_kinds_and_several_faults_are_told_at_once() -> None:
    many = ranges(**{f"p{number}": ["1", "1"] for number in range(25)})["ParameterRanges"]
    whole = ranges("Integer", **{f"n{number}": ("2", "1", "Auto") for number in range(6)})["ParameterRanges"]
    with pytest.raises(DefinitionError) as caught:
        search(ParameterRanges=many | whole)
    assert len(caught.value.problems) == 32
    assert caught.value.problems[-1] == "ParameterRanges must hold at most 30 ranges, but holds 31."


def test_importing_the_search_does_not_import_optuna() -> None:
    script = "import sys, pipeline.local.jobs.search; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("strategy", ["Bayesian", "Random", "Hyperband"])
def test_hyperparameters_are_strings_within_their_ranges(strategy: str) -> None:
    trials = run_all(search(strategy, jobs=20), accuracy)
    assert len(trials) == 20
    for trial in trials:
        assert list(trial.hyperparameters) == ["epochs", "lr", "batch_size"]
        assert all(type(value) is str for value in trial.hyperparameters.values())
        assert 0.0005 <= float(trial.hyperparameters["lr"]) <= 0.05
        assert trial.hyperparameters["epochs"] in [str(epochs) for epochs in range(8, 25)]
        assert trial.hyperparameters["batch_size"] in BATCH["Values"]


@pytest.mark.parametrize(
    ("scale", "low", "high", "middle"),
    [
        ("Linear", "0", "10", 5.0),
        ("Logarithmic", "0.001", "0.1", 0.01),
        ("ReverseLogarithmic", "0.9", "0.999", 0.99),
        ("Auto", "1e-5", "0.1", 0.001),
        ("Auto", "0.01", "0.1", 0.055),
        ("Auto", "0", "0.1", 0.05),
    ],
)
def test_half_of_the_values_lie_below_the_middle_of_a_scale(scale: str, low: str, high: str, middle: float) -> None:
    trials = run_all(search(jobs=400, **ranges("Continuous", x=(low, high, scale))), lambda values: 0.0)
    values = [float(trial.hyperparameters["x"]) for trial in trials]
    assert 160 < sum(value < middle for value in values) < 240
    assert float(low) <= min(values) and max(values) <= float(high)


def test_whole_numbers_on_the_linear_scale_have_equal_shares_and_the_logarithmic_one_favours_small_ones() -> None:
    for scale, share in (("Linear", 0.25), ("Logarithmic", 0.5)):
        found = search(jobs=750, **ranges("Integer", n=("1", "4", scale)))
        counts = Counter(trial.hyperparameters["n"] for trial in run_all(found, lambda values: 0.0))
        assert sorted(counts) == ["1", "2", "3", "4"]
        assert abs(counts["1"] / 750 - share) < 0.07


def test_a_range_of_a_single_value_is_passed_on() -> None:
    both = ranges("Continuous", lr=("0.1", "0.1", "Auto"))["ParameterRanges"]
    both |= ranges(mode=["fast"], batch_size=BATCH["Values"])["ParameterRanges"]
    trials = run_all(search("Bayesian", jobs=3, ParameterRanges=both), lambda values: 1.0)
    assert [(t.hyperparameters["lr"], t.hyperparameters["mode"]) for t in trials] == [("0.1", "fast")] * 3
    assert {trial.hyperparameters["batch_size"] for trial in trials} == {"32", "64", "128"}


def test_a_grid_is_enumerated_once_in_order() -> None:
    found = search("Grid", jobs=None, parallel=4, **ranges(a=["1", "2"], b=["x", "y", "z"]))
    trials = run_all(found, lambda values: float(values["a"]))
    assert [tuple(trial.hyperparameters.values()) for trial in trials] == list(itertools.product("12", "xyz"))
    assert found.done == "All 6 trials have ended."


@pytest.mark.parametrize("strategy", ["Random", "Hyperband"])
def test_a_seed_gives_the_same_trials_whatever_their_outcome_and_order(strategy: str) -> None:
    def trials(parallel: int, seed: int) -> list[dict[str, str]]:
        noise = random.Random()
        found = run_all(search(strategy, 12, parallel, RandomSeed=seed), lambda values: noise.random())
        return [trial.hyperparameters for trial in found]

    assert trials(1, 7) == trials(4, 7)
    assert trials(1, 7) != trials(1, 8)


def test_a_bayesian_search_repeats_itself_when_outcomes_do() -> None:
    first, second = (run_all(search("Bayesian", 12, 3), accuracy) for _ in range(2))
    assert [trial.hyperparameters for trial in first] == [trial.hyperparameters for trial in second]


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
@pytest.mark.parametrize("seed", range(3))
def test_combinations_are_not_repeated_while_others_are_left(strategy: str, seed: int) -> None:
    both = ranges(a=["1", "2", "3"])["ParameterRanges"] | ranges("Integer", b=("1", "3", "Linear"))["ParameterRanges"]
    trials = run_all(search(strategy, 10, RandomSeed=seed, ParameterRanges=both), lambda values: float(values["a"]))
    combinations = [tuple(trial.hyperparameters.values()) for trial in trials]
    assert (len(combinations), len(set(combinations[:9]))) == (10, 9)


def test_parallel_trials_of_a_bayesian_search_keep_apart() -> None:
    found = search("Bayesian", jobs=40, parallel=8)
    for _ in range(16):
        trial = ask(found)
        found.finish(trial, "Completed", accuracy(trial.hyperparameters))
    rates = [float(ask(found).hyperparameters["lr"]) for _ in range(8)]
    assert len(set(rates)) == 8
    assert found.ask() is None


def test_bayesian_search_needs_about_half_the_trials_of_random_search() -> None:
    def best(strategy: str, jobs: int, seed: int) -> float:
        noise = random.Random(seed)
        trials = run_all(
            search(strategy, jobs, RandomSeed=seed), lambda values: accuracy(values) + noise.gauss(0, 0.003)
        )
        return accuracy(max(trials, key=lambda trial: trial.objective or 0).hyperparameters)

    bayesian, half, equal = (
        statistics.fmean(best(strategy, jobs, seed) for seed in range(40))
        for strategy, jobs in (("Bayesian", 12), ("Random", 12), ("Random", 20))
    )
    assert bayesian > equal > half


def known(count: int) -> list[Known]:
    """Good near lr 0.01 and with batch size 64, bad elsewhere; three that the ranges do not hold."""
    good = [({"lr": str(0.01 + 0.0002 * i), "epochs": "10", "batch_size": "64"}, 0.9 + 0.001 * i) for i in range(count)]
    bad = [({"lr": str(0.04 + 0.0002 * i), "epochs": "20", "batch_size": "32"}, 0.1) for i in range(3 * count)]
    return [*good, *bad]


OUTSIDE: list[Known] = [
    ({"lr": "5", "epochs": "9", "batch_size": "32"}, 1.0),
    ({"lr": "0.01", "epochs": "9"}, 1.0),
    ({"lr": "x", "epochs": "9", "batch_size": "64"}, 1.0),
]


def test_a_bayesian_search_learns_from_earlier_trials_that_its_ranges_hold() -> None:
    def tried(strategy: str, earlier: list[Known]) -> list[dict[str, str]]:
        trials = run_all(search(strategy, 6, 1, known=earlier), lambda values: 0.5)
        return [trial.hyperparameters for trial in trials]

    near = [values for values in tried("Bayesian", known(5)) if float(values["lr"]) < 0.03]
    assert sum(values["batch_size"] == "64" for values in near) >= 4
    assert tried("Bayesian", OUTSIDE) == tried("Bayesian", []) != tried("Bayesian", known(5))
    for strategy in ("Random", "Hyperband"):
        assert tried(strategy, known(5)) == tried(strategy, [])


def test_no_more_trials_run_than_may() -> None:
    found = search(jobs=3, parallel=2)
    first, second = ask(found), ask(found)
    assert found.ask() is None
    found.finish(first, "Completed", 0.5)
    third = ask(found)
    found.finish(second, "Completed", 0.5)
    assert (found.ask(), found.done) == (None, None)
    found.finish(third, "Completed", 0.5)
    assert found.done == "All 3 trials have ended."
    assert [trial.number for trial in found.trials] == [1, 2, 3]


def test_failed_trials_do_not_end_a_search() -> None:
    found = search("Bayesian", jobs=6)
    while (trial := found.ask()) is not None:
        found.report(trial, 0.9)
        found.finish(trial, "Failed")
    assert [trial.objective for trial in found.trials] == [None] * 6
    assert found.done == "All 6 trials have ended."


def test_the_final_objective_is_the_last_value_reported_unless_given() -> None:
    found = search(jobs=4, parallel=4)
    reported, given, silent, undefined = (ask(found) for _ in range(4))
    for value in (0.5, 0.7, math.nan, 0.6):
        found.report(reported, value)
    found.finish(reported, "Stopped")
    found.finish(given, "Completed", 0.4)
    found.finish(silent, "Completed")
    found.finish(undefined, "Completed", math.nan)
    assert reported.reports == [0.5, 0.7, 0.6]
    assert [trial.objective for trial in found.trials] == [0.6, 0.4, None, None]
    with pytest.raises(ValueError, match=r"^Trial 1 has already finished as Stopped\.$"):
        found.finish(reported, "Failed")
    assert found.report(reported, 0.1) is False


def test_the_median_rule_stops_a_trial_below_the_running_averages_of_earlier_ones() -> None:
    found = search(parallel=1, TrainingJobEarlyStoppingType="Auto")
    run_epochs(found, [0.2, 0.4, 0.6, 0.8])
    run_epochs(found, [0.4, 0.6, 0.8, 0.9])
    third = ask(found)
    # medians of the running averages: 0.3, 0.4, 0.5, 0.5875
    assert [found.report(third, value) for value in (0.31, 0.41, 0.51, 0.58)] == [False, False, False, True]


def test_the_median_rule_follows_the_direction_of_the_objective() -> None:
    objective = {"Type": "Minimize", "MetricName": "loss"}
    found = search(TrainingJobEarlyStoppingType="Auto", HyperParameterTuningJobObjective=objective)
    run_epochs(found, [1.0, 0.5])
    assert run_epochs(found, [0.9, 0.8]).reports == [0.9, 0.8]
    assert run_epochs(found, [1.1, 0.4]).status == "Stopped"


def test_the_median_rule_waits_for_a_completed_trial_and_a_quarter_of_its_epochs() -> None:
    found = search(parallel=3, TrainingJobEarlyStoppingType="Auto")
    failed, good, bad = (ask(found) for _ in range(3))
    found.report(failed, 0.9)
    found.finish(failed, "Failed")
    assert [found.report(good, 0.9) for _ in range(8)] == [False] * 8
    assert found.report(bad, 0.1) is False
    found.finish(good, "Completed")
    assert found.report(bad, 0.1) is True
    found.finish(bad, "Stopped")
    late = ask(found)
    assert [found.report(late, 0.1) for _ in range(2)] == [False, True]
    assert run_epochs(search(), [0.9, 0.1]).status == "Completed"  # without the rule


def test_hyperband_stops_most_bad_trials_early_and_lets_good_ones_run() -> None:
    found = search("Hyperband", jobs=60, parallel=1)
    quality = random.Random(0)
    outcomes = []
    while found.done is None:
        level = quality.random()
        outcomes.append((level, len(run_epochs(found, [level + 0.001 * epoch for epoch in range(18)]).reports)))
    bad, good = (
        [epochs for level, epochs in outcomes if keep(level)] for keep in (lambda x: x < 0.5, lambda x: x > 0.9)
    )
    assert statistics.fmean(bad) < 9 < statistics.fmean(good)
    assert (min(bad), max(good)) == (2, 18)


def test_hyperband_stops_a_trial_past_the_last_epoch_and_bears_with_ones_that_end_by_themselves() -> None:
    found = search("Hyperband", jobs=12, parallel=1)
    levels = [0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.2, 0.1, 0.3, 0.4, 0.5]
    trials = [run_epochs(found, [level] * 7) for level in levels]
    assert (trials[1].status, len(trials[1].reports)) == ("Completed", 7)
    assert len(run_epochs(found, [1.0] * 30).reports) == 19
    static = read_search_config(FILE["configuration"] | {"Strategy": "Hyperband"}, {"epochs": "12"})
    assert (static.min_epochs, static.max_epochs) == (1, 12)


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
