"""The search of a tuning job: proposals, early stopping, completion criteria, and the faults of a configuration."""

import collections
import itertools
import math
import random
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.definition.ranges import ContinuousRange, IntegerRange
from pipeline.errors import DefinitionError
from pipeline.local.jobs.search import Search, Trial

Json = dict[str, Any]

LR: Json = {"Name": "lr", "MinValue": "0.0005", "MaxValue": "0.05", "ScalingType": "Logarithmic"}
EPOCHS: Json = {"Name": "epochs", "MinValue": "8", "MaxValue": "24", "ScalingType": "Linear"}
BATCH: Json = {"Name": "batch_size", "Values": ["32", "64", "128"]}


def configuration(strategy: str = "Random", jobs: int | None = 8, parallel: int = 2, **fields: Any) -> Json:
    """A HyperParameterTuningJobConfig."""
    limits = {"MaxParallelTrainingJobs": parallel} | ({} if jobs is None else {"MaxNumberOfTrainingJobs": jobs})
    return {
        "Strategy": strategy,
        "RandomSeed": 0,
        "ResourceLimits": limits,
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "val:acc"},
        "ParameterRanges": {
            "ContinuousParameterRanges": [LR],
            "IntegerParameterRanges": [EPOCHS],
            "CategoricalParameterRanges": [BATCH],
        },
        **fields,
    }


def categorical(**values: list[str]) -> Json:
    """ParameterRanges of categorical ranges only."""
    return {"CategoricalParameterRanges": [{"Name": name, "Values": texts} for name, texts in values.items()]}


def ask(search: Search) -> Trial:
    trial = search.ask()
    assert trial is not None
    return trial


def run_all(search: Search, objective: Any) -> list[Trial]:
    """Run a search to its end, finishing the trial that has run the longest whenever no more may start."""
    running: list[Trial] = []
    while search.done is None:
        while (trial := search.ask()) is not None:
            running.append(trial)
        oldest = running.pop(0)
        search.finish(oldest, "Completed", objective(oldest.hyperparameters))
    return search.trials


def run_epochs(search: Search, values: list[float]) -> Trial:
    """Ask for a trial and report these values until it is to be stopped; then finish it."""
    trial = ask(search)
    stopped = any(search.report(trial, value) for value in values)
    search.finish(trial, "Stopped" if stopped else "Completed")
    return trial


def accuracy(hyperparameters: dict[str, str]) -> float:
    """A validation accuracy as tuning meets it: a peak in log(lr) that moves with the batch size, more epochs help."""
    peak = {"32": -2.2, "64": -2.05, "128": -1.9}[hyperparameters["batch_size"]]
    epochs = (int(hyperparameters["epochs"]) - 8) / 16
    return 0.95 - 0.08 * (math.log10(float(hyperparameters["lr"])) - peak) ** 2 - 0.03 * math.exp(-3 * epochs)


def test_importing_the_search_does_not_import_optuna() -> None:
    script = "import sys, pipeline.local.jobs.search; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("strategy", ["Bayesian", "Random", "Hyperband"])
def test_hyperparameters_are_strings_within_their_ranges(strategy: str) -> None:
    hyperband = {"StrategyConfig": {"HyperbandStrategyConfig": {"MaxResource": 9}}} if strategy == "Hyperband" else {}
    trials = run_all(Search(configuration(strategy, jobs=20, **hyperband)), accuracy)
    assert len(trials) == 20
    for trial in trials:
        assert list(trial.hyperparameters) == ["epochs", "lr", "batch_size"]
        assert all(type(value) is str for value in trial.hyperparameters.values())
        assert 0.0005 <= float(trial.hyperparameters["lr"]) <= 0.05
        assert trial.hyperparameters["epochs"] in [str(epochs) for epochs in range(8, 25)]
        assert trial.hyperparameters["batch_size"] in ("32", "64", "128")


@pytest.mark.parametrize(
    ("scale", "low", "high", "middle"),
    [("Linear", 0.0, 10.0, 5.0), ("Logarithmic", 0.001, 0.1, 0.01), ("ReverseLogarithmic", 0.9, 0.999, 0.99)],
)
def test_the_middle_of_a_scale_is_where_it_belongs(scale: str, low: float, high: float, middle: float) -> None:
    searched = ContinuousRange("x", low, high, scale)
    assert [float(searched.text_at(unit)) for unit in (0, 0.5, 1)] == pytest.approx([low, middle, high])


def test_whole_numbers_on_the_linear_scale_have_equal_shares() -> None:
    shares = collections.Counter(IntegerRange("n", 1, 4, "Linear").text_at((index + 0.5) / 400) for index in range(400))
    assert shares == {"1": 100, "2": 100, "3": 100, "4": 100}


def test_the_automatic_scale_is_logarithmic_for_positive_bounds_far_apart() -> None:
    ranges = [
        {"Name": name, "MinValue": low, "MaxValue": "0.1"} for name, low in (("a", "1e-5"), ("b", "0.01"), ("c", "0"))
    ]
    search = Search(configuration(ParameterRanges={"ContinuousParameterRanges": ranges}))
    assert [getattr(searched, "scale", None) for searched in search.config.ranges] == [
        "Logarithmic",
        "Linear",
        "Linear",
    ]


def test_a_range_of_a_single_value_is_passed_on() -> None:
    fixed = {"Name": "lr", "MinValue": "0.1", "MaxValue": "0.1"}
    ranges = {
        "ContinuousParameterRanges": [fixed],
        "CategoricalParameterRanges": [{"Name": "mode", "Values": ["fast"]}, BATCH],
    }
    trials = run_all(Search(configuration("Bayesian", jobs=3, ParameterRanges=ranges)), lambda values: 1.0)
    assert [(t.hyperparameters["lr"], t.hyperparameters["mode"]) for t in trials] == [("0.1", "fast")] * 3
    assert {trial.hyperparameters["batch_size"] for trial in trials} == {"32", "64", "128"}


def test_a_grid_is_enumerated_once_in_order() -> None:
    ranges = categorical(a=["1", "2"], b=["x", "y", "z"])
    search = Search(configuration("Grid", jobs=None, parallel=4, ParameterRanges=ranges))
    trials = run_all(search, lambda values: float(values["a"]))
    assert [tuple(trial.hyperparameters.values()) for trial in trials] == list(itertools.product("12", "xyz"))
    assert search.done == "All 6 trials have ended."
    assert search.best is trials[3]


@pytest.mark.parametrize("strategy", ["Random", "Hyperband"])
def test_a_seed_gives_the_same_trials_whatever_their_outcome_and_order(strategy: str) -> None:
    hyperband = {"StrategyConfig": {"HyperbandStrategyConfig": {"MaxResource": 9}}} if strategy == "Hyperband" else {}

    def trials(parallel: int, seed: int) -> list[dict[str, str]]:
        search = Search(configuration(strategy, 12, parallel, RandomSeed=seed, **hyperband))
        noise = random.Random()
        return [trial.hyperparameters for trial in run_all(search, lambda values: noise.random())]

    assert trials(1, 7) == trials(4, 7)
    assert trials(1, 7) != trials(1, 8)


def test_a_bayesian_search_repeats_itself_when_outcomes_do() -> None:
    first, second = (run_all(Search(configuration("Bayesian", 12, 3)), accuracy) for _ in range(2))
    assert [trial.hyperparameters for trial in first] == [trial.hyperparameters for trial in second]


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
def test_combinations_are_not_repeated_while_others_are_left(strategy: str) -> None:
    ranges = categorical(a=["1", "2", "3"], b=["x", "y", "z"])
    for seed in range(5):
        config = configuration(strategy, jobs=10, RandomSeed=seed, ParameterRanges=ranges)
        trials = run_all(Search(config), lambda values: float(values["a"]))
        combinations = [tuple(trial.hyperparameters.values()) for trial in trials]
        assert len(combinations) == 10
        assert len(set(combinations[:9])) == 9


def test_parallel_trials_of_a_bayesian_search_keep_apart() -> None:
    search = Search(configuration("Bayesian", jobs=40, parallel=8))
    for _ in range(16):
        trial = ask(search)
        search.finish(trial, "Completed", accuracy(trial.hyperparameters))
    rates = [float(ask(search).hyperparameters["lr"]) for _ in range(8)]
    assert len(set(rates)) == 8
    assert search.ask() is None


def test_bayesian_search_needs_about_half_the_trials_of_random_search() -> None:
    def best(strategy: str, jobs: int, seed: int) -> float:
        noise = random.Random(seed)
        search = Search(configuration(strategy, jobs, RandomSeed=seed))
        run_all(search, lambda values: accuracy(values) + noise.gauss(0, 0.003))
        assert search.best is not None
        return accuracy(search.best.hyperparameters)

    bayesian, half, equal = (
        statistics.fmean(best(strategy, jobs, seed) for seed in range(40))
        for strategy, jobs in (("Bayesian", 12), ("Random", 12), ("Random", 20))
    )
    assert bayesian > equal > half


def test_no_more_trials_run_than_may() -> None:
    search = Search(configuration(jobs=3, parallel=2))
    first, second = ask(search), ask(search)
    assert search.ask() is None
    search.finish(first, "Completed", 0.5)
    third = ask(search)
    search.finish(second, "Completed", 0.5)
    assert (search.ask(), search.done) == (None, None)
    search.finish(third, "Completed", 0.5)
    assert search.done == "All 3 trials have ended."
    assert [trial.number for trial in search.trials] == [1, 2, 3]


def test_threads_may_ask_and_report_at_the_same_time() -> None:
    search = Search(configuration(jobs=40, parallel=40))

    def work(_: int) -> int:
        trial = ask(search)
        for value in (0.1, 0.2):
            search.report(trial, value)
        search.finish(trial, "Completed")
        return trial.number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(work, range(40)))
    assert sorted(numbers) == list(range(1, 41))
    assert search.done == "All 40 trials have ended."


@pytest.mark.parametrize(("direction", "expected"), [("Maximize", [2, 3, 4, 1, 5]), ("Minimize", [1, 4, 2, 3, 5])])
def test_the_best_trial_has_the_best_objective_and_of_equals_started_first(direction: str, expected: list[int]) -> None:
    objective = {"Type": direction, "MetricName": "m"}
    search = Search(configuration(jobs=5, parallel=5, HyperParameterTuningJobObjective=objective))
    trials = [ask(search) for _ in range(5)]
    for trial, status, value in zip(trials, ["Completed"] * 3 + ["Stopped", "Failed"], [1, 3, 3, 2, 9], strict=True):
        search.finish(trial, status, value)  # type: ignore[arg-type]
    assert [trial.number for trial in search.ranked()] == expected
    assert search.best is trials[expected[0] - 1]


def test_a_failed_trial_does_not_end_the_search_and_all_failed_leave_no_best() -> None:
    search = Search(configuration("Bayesian", jobs=6))
    run = 0
    while (trial := search.ask()) is not None:
        run += 1
        search.report(trial, 0.9)
        search.finish(trial, "Failed")
    assert run == 6
    assert (search.done, search.best) == ("All 6 trials have ended.", None)


def test_the_final_objective_is_the_last_value_reported_unless_given() -> None:
    search = Search(configuration(jobs=4, parallel=4))
    reported, given, silent, undefined = (ask(search) for _ in range(4))
    for value in (0.5, 0.7, math.nan, 0.6):
        search.report(reported, value)
    search.finish(reported, "Stopped")
    search.finish(given, "Completed", 0.4)
    search.finish(silent, "Completed")
    search.finish(undefined, "Completed", math.nan)
    assert reported.reports == [0.5, 0.7, 0.6]
    assert [trial.objective for trial in search.trials] == [0.6, 0.4, None, None]


def test_a_trial_finishes_once() -> None:
    search = Search(configuration())
    trial = ask(search)
    search.finish(trial, "Completed", 1.0)
    with pytest.raises(ValueError, match=r"^Trial 1 has already finished as Completed\.$"):
        search.finish(trial, "Failed")
    assert search.report(trial, 0.1) is False


def test_the_median_rule_stops_a_trial_below_the_running_averages_of_earlier_ones() -> None:
    search = Search(configuration(parallel=1, TrainingJobEarlyStoppingType="Auto"))
    run_epochs(search, [0.2, 0.4, 0.6, 0.8])
    run_epochs(search, [0.4, 0.6, 0.8, 0.9])
    third = ask(search)
    # medians of the running averages: 0.3, 0.4, 0.5, 0.5875
    assert [search.report(third, value) for value in (0.31, 0.41, 0.51, 0.58)] == [False, False, False, True]
    search.finish(third, "Stopped")
    assert (third.status, third.objective) == ("Stopped", 0.58)


def test_the_median_rule_follows_the_direction_of_the_objective() -> None:
    objective = {"Type": "Minimize", "MetricName": "loss"}
    config = configuration(TrainingJobEarlyStoppingType="Auto", HyperParameterTuningJobObjective=objective)
    search = Search(config)
    run_epochs(search, [1.0, 0.5])
    assert run_epochs(search, [0.9, 0.8]).reports == [0.9, 0.8]
    assert run_epochs(search, [1.1, 0.4]).status == "Stopped"


def test_the_median_rule_waits_for_a_completed_trial_and_a_quarter_of_its_epochs() -> None:
    search = Search(configuration(parallel=3, TrainingJobEarlyStoppingType="Auto"))
    failed, good, bad = (ask(search) for _ in range(3))
    search.report(failed, 0.9)
    search.finish(failed, "Failed")
    assert [search.report(good, 0.9) for _ in range(8)] == [False] * 8
    assert search.report(bad, 0.1) is False
    search.finish(good, "Completed")
    assert search.report(bad, 0.1) is True
    search.finish(bad, "Stopped")
    late = ask(search)
    assert [search.report(late, 0.1) for _ in range(2)] == [False, True]


def test_without_early_stopping_no_trial_is_stopped() -> None:
    search = Search(configuration())
    run_epochs(search, [0.9] * 5)
    assert run_epochs(search, [0.1] * 5).status == "Completed"


def test_hyperband_stops_most_bad_trials_early_and_lets_good_ones_run() -> None:
    strategy_config = {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 18}}
    search = Search(configuration("Hyperband", jobs=60, parallel=1, StrategyConfig=strategy_config))
    quality = random.Random(0)
    outcomes = []
    while search.done is None:
        level = quality.random()
        outcomes.append((level, run_epochs(search, [level + 0.001 * epoch for epoch in range(18)])))
    good, bad = ([trial for level, trial in outcomes if keep(level)] for keep in (lambda x: x > 0.9, lambda x: x < 0.5))
    assert statistics.fmean(len(trial.reports) for trial in bad) < 9 < statistics.fmean(len(t.reports) for t in good)
    assert min(len(trial.reports) for trial in search.trials) == 2
    assert max(len(trial.reports) for trial in search.trials) == 18
    assert search.best is not None and len(search.best.reports) == 18


def test_hyperband_stops_a_trial_that_runs_past_the_last_epoch() -> None:
    search = Search(configuration("Hyperband", StrategyConfig={"HyperbandStrategyConfig": {"MaxResource": 3}}))
    trial = ask(search)
    assert [search.report(trial, value) for value in (0.1, 0.2, 0.3, 0.4)] == [False, False, False, True]


def test_hyperband_goes_on_with_trials_that_end_early_by_themselves() -> None:
    settings = {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 18}}
    search = Search(configuration("Hyperband", jobs=12, parallel=1, StrategyConfig=settings))
    levels = [0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.2, 0.1, 0.3, 0.4, 0.5, 0.6]
    trials = [run_epochs(search, [level] * 7) for level in levels]
    assert search.done is not None
    assert trials[1].status == "Completed" and len(trials[1].reports) == 7
    assert search.best is trials[1]


def test_hyperband_finds_its_last_epoch_in_the_static_hyperparameters() -> None:
    search = Search(configuration("Hyperband"), static_hyperparameters={"epochs": "12"})
    assert (search.config.min_epochs, search.config.max_epochs) == (1, 12)
    with pytest.raises(DefinitionError) as caught:
        Search(configuration("Hyperband"), static_hyperparameters={"epochs": "many"})
    assert caught.value.problems == [
        "StrategyConfig.HyperbandStrategyConfig.MaxResource must be a whole number, but is missing."
    ]


def test_reaching_the_target_ends_the_search_while_trials_run() -> None:
    search = Search(configuration(TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 0.9}))
    first, second = ask(search), ask(search)
    search.report(first, 0.95)
    assert search.done is None
    search.finish(first, "Completed", 0.9)
    assert search.done == "The objective 0.9 has reached the target 0.9."
    assert search.ask() is None
    assert search.running == [second]
    search.finish(second, "Stopped", 0.3)
    assert search.done == "The objective 0.9 has reached the target 0.9."


def test_the_search_ends_when_the_objective_does_not_improve_by_one_percent() -> None:
    criteria = {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    search = Search(configuration(jobs=20, TuningJobCompletionCriteria=criteria))
    counts = []
    for value in (0.5, 0.502, 0.4, 0.51, 0.51, 0.3, 0.514):
        search.finish(ask(search), "Completed", value)
        counts.append(search.not_improving)
    assert counts == [0, 1, 2, 0, 1, 2, 3]
    assert search.done == "3 trials in a row have not improved the objective by 1 %."


def test_the_search_ends_on_convergence() -> None:
    criteria = {"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}}
    search = Search(configuration(jobs=50, TuningJobCompletionCriteria=criteria))
    for value in [0.5, 0.8, *[0.805] * 9]:
        search.finish(ask(search), "Completed", value)
        assert search.done is None
    search.finish(ask(search), "Completed", 0.7)
    assert search.done == "The search has converged: the last trials of 12 improved it by less than 1 %."


def test_ranges_and_objective_may_come_from_a_training_job_definition() -> None:
    config = configuration("Grid", jobs=None)
    del config["ParameterRanges"], config["HyperParameterTuningJobObjective"]
    search = Search(config, ranges=categorical(a=["1", "2"]), objective={"Type": "Minimize", "MetricName": "loss"})
    run_all(search, lambda values: float(values["a"]))
    assert search.best is not None and search.best.hyperparameters == {"a": "1"}
    assert search.config.metric_name == "loss"
