"""Searches as steps: real trials, what ends them, what the step's properties say, and what earlier searches teach."""

import asyncio
import json
import re
import subprocess
import sys
import tarfile
import time
from typing import Any

import pytest

from pipeline.local.jobs.runtime import Runtime, StepCall
from pipeline.local.jobs.tuning import TuningJob
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from pipeline.local_target import LocalTarget
from pipeline.warm_start import parent_for
from tests.local.lab import ROOT, Json, Lab, Report, compare, condition, fail, get, join, parameter

SCORE = """
    import argparse, os
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--kind", default="a")
    arguments, _ = parser.parse_known_args()
    open(os.environ["SM_MODEL_DIR"] + "/m.txt", "w").write(str(arguments.rate))
    print(f"score={arguments.rate if arguments.kind == 'a' else -arguments.rate:.6f}", flush=True)
"""
X = {"Name": "rate", "MinValue": "0.25", "MaxValue": "4", "ScalingType": "Linear"}
KIND = {"Name": "kind", "Values": ["a", "b"]}


def trials_of(report: Any, name: str = "Tune") -> list[dict[str, Any]]:
    """TrainingJobSummaries, best first."""
    found: list[dict[str, Any]] = report.properties(name)["TrainingJobSummaries"]
    return found


def test_the_winner_is_used_downstream(lab: Lab) -> None:
    ranges = {"ContinuousParameterRanges": [X], "CategoricalParameterRanges": [KIND]}
    tune = lab.tuning("Tune", SCORE, ranges, jobs=4, static={"n": 1})
    best = "Steps.Tune.BestTrainingJob"
    top = "Steps.Tune.TrainingJobSummaries[0].TrainingJobName"
    after = lab.processing(
        "After",
        "import json, sys, tarfile; tarfile.open('/opt/ml/processing/input/m/model.tar.gz').extractall('/opt/ml');"
        "print(json.dumps([*sys.argv[1:], open('/opt/ml/m.txt').read()]))",
        inputs={"m": join("/", "s3:/", "bucket", "models", get(top), "output/model.tar.gz")},
        arguments=[get(f"{best}.TunedHyperParameters['rate']"), get(f"{best}.TrainingJobName"), get(top)],
    )
    report = lab.run(tune, after)
    assert report.statuses == {"Tune": "Succeeded", "After": "Succeeded"}
    properties = report.properties("Tune")
    winner, name = properties["BestTrainingJob"], properties["HyperParameterTuningJobName"]
    assert winner == trials_of(report)[0]
    assert report.document["best_hyperparameters"] == winner["TunedHyperParameters"]
    rate, job = winner["TunedHyperParameters"]["rate"], winner["TrainingJobName"]
    assert report.printed("After") == [rate, job, job, rate]
    assert re.fullmatch(rf"{name}-00[1-4]-[0-9a-f]{{8}}", job) and len(name) <= 32
    objectives = [t["FinalHyperParameterTuningJobObjectiveMetric"] for t in trials_of(report)]
    assert [found["Value"] for found in objectives] == sorted((found["Value"] for found in objectives), reverse=True)
    assert objectives[0] | {"Value": 0} == {"Type": "Maximize", "MetricName": "score", "Value": 0}
    assert (winner["TrainingJobStatus"], winner["ObjectiveStatus"]) == ("Completed", "Succeeded")
    jobs = dict.fromkeys(["InProgress", "RetryableError", "NonRetryableError", "Stopped"], 0)
    assert properties["TrainingJobStatusCounters"] == {"Completed": 4, **jobs}
    assert properties["ObjectiveStatusCounters"] == {"Succeeded": 4, "Pending": 0, "Failed": 0}


def test_every_strategy_runs_with_every_kind_of_range(lab: Lab) -> None:
    categorical: dict[str, list[dict[str, Any]]] = {
        "CategoricalParameterRanges": [{"Name": "kind", "Values": ["a", "b c", "3"]}]
    }
    every = {
        "ContinuousParameterRanges": [
            {"Name": "log", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"},
            {"Name": "reverse", "MinValue": "0.5", "MaxValue": "0.999", "ScalingType": "ReverseLogarithmic"},
        ],
        "IntegerParameterRanges": [{"Name": "n", "MinValue": "1", "MaxValue": "64", "ScalingType": "Auto"}],
        **categorical,
    }
    epochs = {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 3}}
    code = "import sys; print(*(f'score=0.{n}' for n in range(1, 4)), sep='\\n', flush=True); print(sys.argv[1:])"
    steps = [
        lab.tuning("Bayesian", code, every, config={"Strategy": "Bayesian"}),
        lab.tuning("Random", code, every, config={"Strategy": "Random"}),
        lab.tuning("Grid", code, categorical, jobs=None, config={"Strategy": "Grid"}),
        lab.tuning("Hyperband", code, every, config={"Strategy": "Hyperband", "StrategyConfig": epochs}),
    ]
    report = lab.run(*steps)
    assert report.statuses == dict.fromkeys(["Bayesian", "Random", "Grid", "Hyperband"], "Succeeded")
    for step in steps:
        ranges = step["Arguments"]["HyperParameterTuningJobConfig"]["ParameterRanges"]
        found = [trial["TunedHyperParameters"] for trial in trials_of(report, step["Name"])]
        assert len(found) == 3
        assert {name for trial in found for name in trial} == {e["Name"] for kind in ranges.values() for e in kind}
        assert all(isinstance(value, str) for trial in found for value in trial.values())


def test_failed_and_silent_trials_do_not_fail_the_search_but_all_together_do(lab: Lab) -> None:
    code = """
        import argparse, sys
        parser = argparse.ArgumentParser()
        parser.add_argument("--kind")
        kind = parser.parse_known_args()[0].kind
        if kind == "bad":
            sys.exit("no such kind")
        if kind != "silent":
            print("score=0.5")
    """
    grid: dict[str, Any] = {"Strategy": "Grid"}
    mixed, failing, silent = (
        lab.tuning(
            name, code, {"CategoricalParameterRanges": [{"Name": "kind", "Values": kinds}]}, jobs=None, config=grid
        )
        for name, kinds in (("Mixed", ["bad", "good", "silent"]), ("Failing", ["bad"]), ("Silent", ["silent"]))
    )
    report = lab.run(mixed, failing, silent)
    assert report.statuses == {
        "Mixed": "Succeeded",
        "Failing": "All 1 training jobs failed. The last one: AlgorithmError: no such kind, exit code: 1",
        "Silent": "No training job printed the objective 'score'; its regular expression in MetricDefinitions never "
        "matched a number.",
    }
    properties = report.properties("Mixed")
    assert properties["BestTrainingJob"]["TunedHyperParameters"] == {"kind": "good"}
    counters = {name: number for name, number in properties["TrainingJobStatusCounters"].items() if number}
    assert counters == {"Completed": 2, "NonRetryableError": 1}
    assert properties["ObjectiveStatusCounters"] == {"Succeeded": 1, "Pending": 0, "Failed": 2}


ENDS: dict[str, tuple[str, Json, list[tuple[str, str]]]] = {  # what trials do, what ends them, best first
    "early stopping": (
        "for _ in range(4): print(f'score={0.1 if kind == \"c\" else 0.9}', flush=True); time.sleep(9 * (kind > 'b'))",
        {"Strategy": "Grid", "TrainingJobEarlyStoppingType": "Auto"},
        [("a", "Completed"), ("b", "Completed"), ("c", "Stopped")],
    ),
    "a target": (
        "print('score=0.1' if kind == 'a' else 'score=0.99', flush=True); time.sleep(30 if kind == 'a' else 0.3)",
        {"Strategy": "Grid", "TuningJobCompletionCriteria": {"TargetObjectiveMetricValue": 0.9}},
        [("b", "Completed"), ("a", "Stopped")],
    ),
}


@pytest.mark.parametrize("what", ENDS)
def test_trials_are_ended_by_early_stopping_and_by_a_target_that_is_reached(lab: Lab, what: str) -> None:
    behaviour, config, expected = ENDS[what]
    ranges = {"CategoricalParameterRanges": [{"Name": "kind", "Values": ["a", "b", "c"]}]}
    parallel = 1 if what == "early stopping" else 2
    code = f"import sys, time; kind = sys.argv[-1]\n{behaviour}"
    report = lab.run(
        lab.tuning("Tune", code, ranges, jobs=None, parallel=parallel, config={"Strategy": "Grid", **config})
    )
    assert report.statuses == {"Tune": "Succeeded"}
    found = [(trial["TunedHyperParameters"]["kind"], trial["TrainingJobStatus"]) for trial in trials_of(report)]
    assert found == expected


def test_hyperband_ends_bad_trials_at_a_rung_and_good_ones_at_the_last_epoch(lab: Lab) -> None:
    code = """
        import argparse, time
        parser = argparse.ArgumentParser()
        parser.add_argument("--rate", type=float)
        rate = parser.parse_known_args()[0].rate
        for epoch in range(1, 100):
            print(f"score={rate * epoch:.6f}", flush=True)
            time.sleep(0.05)
    """
    config = {
        "Strategy": "Hyperband",
        "StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 6}},
    }
    report = lab.run(lab.tuning("Tune", code, {"ContinuousParameterRanges": [X]}, jobs=9, parallel=2, config=config))
    assert report.statuses == {"Tune": "Succeeded"}
    epochs = []
    for trial in trials_of(report):
        log = (lab.home / "jobs" / trial["TrainingJobName"] / "log.txt").read_text()
        epochs.append((float(trial["TunedHyperParameters"]["rate"]), log.count("score=")))
    assert {trial["TrainingJobStatus"] for trial in trials_of(report)} == {"Stopped"}
    assert all(2 <= count < 20 for _, count in epochs)
    assert any(count < 6 for _, count in epochs)
    assert max(epochs)[1] >= 6  # the best is never given up


def test_no_more_trials_run_at_once_than_allowed(lab: Lab) -> None:
    code = "import time; print('from', time.time()); time.sleep(0.2); print('score=1'); print('to', time.time())"
    report = lab.run(lab.tuning("Tune", code, {"ContinuousParameterRanges": [X]}, jobs=4, parallel=2))
    spans = []
    for trial in trials_of(report):
        log = (lab.home / "jobs" / trial["TrainingJobName"] / "log.txt").read_text()
        start, _, end = (line.split()[-1] for line in log.splitlines())
        spans.append((float(start), float(end)))
    overlaps = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(overlaps) == 2


def test_a_search_that_cannot_be_made_is_refused_before_anything_runs(lab: Lab) -> None:
    prep = lab.processing("Prep", "")
    bad = {"Name": "x", "MinValue": "0", "MaxValue": "1", "ScalingType": "Logarithmic"}
    tunes = [
        lab.tuning("Scale", SCORE, {"ContinuousParameterRanges": [bad]}),
        lab.tuning("Strategy", SCORE, {"ContinuousParameterRanges": [X]}, config={"Strategy": "Bayes"}),
        lab.tuning("Metric", SCORE, {"ContinuousParameterRanges": [X]}),
        lab.tuning("Several", SCORE, {"ContinuousParameterRanges": [X]}),
    ]
    config = tunes[2]["Arguments"]["HyperParameterTuningJobConfig"]
    config["HyperParameterTuningJobObjective"] = {"Type": "Maximize", "MetricName": "f1"}
    tunes[3]["Arguments"]["TrainingJobDefinitions"] = [tunes[3]["Arguments"].pop("TrainingJobDefinition")]
    report = lab.run(prep, *tunes)
    assert (report.code, report.stdout) == (2, "")
    for name, said in (
        ("Scale", "Range 'x' must have MinValue > 0 on the logarithmic scale, but starts at 0.0."),
        ("Strategy", "but got 'Bayes'. Did you mean 'Bayesian'?"),
        ("Metric", "searches by the objective 'f1', but none of the MetricDefinitions"),
        ("Several", "has several TrainingJobDefinitions, which the local target does not search at once"),
    ):
        assert any(f"'{name}'" in line and said in line for line in report.stderr.splitlines()), report.stderr
    assert not (lab.home / "jobs").exists()


def test_trials_of_several_hosts_run(lab: Lab) -> None:
    code = """
        import os, socket
        me, hosts = os.environ["SM_CURRENT_HOST"], ("algo-1", "algo-2")
        addresses = {socket.gethostbyname(host) for host in hosts}
        open(os.environ["SM_MODEL_DIR"] + "/" + me, "w").close()
        print(f"score={len(addresses)}")
    """
    step = lab.tuning("Tune", code, {"ContinuousParameterRanges": [X]}, jobs=2)
    step["Arguments"]["TrainingJobDefinition"]["ResourceConfig"]["InstanceCount"] = 2
    report = lab.run(step)
    assert report.statuses == {"Tune": "Succeeded"}
    for trial in trials_of(report):
        assert trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 2
        with tarfile.open(lab.path(f"s3://bucket/models/{trial['TrainingJobName']}/output/model.tar.gz")) as archive:
            assert sorted(archive.getnames()) == ["algo-1", "algo-2"]


def test_limits_may_come_from_parameters(lab: Lab) -> None:
    tune = lab.tuning("Tune", SCORE, {"ContinuousParameterRanges": [X]})
    limits = {"MaxParallelTrainingJobs": get("Parameters.P"), "MaxNumberOfTrainingJobs": get("Parameters.N")}
    tune["Arguments"]["HyperParameterTuningJobConfig"]["ResourceLimits"] = limits
    found = "Steps.Tune.TrainingJobStatusCounters.Completed"
    gate = condition("Gate", [compare("Equals", get(found), get("Parameters.N"))], [], [fail("Wrong", "wrong count")])
    parameters = [{"Name": n, "Type": "Integer", "DefaultValue": 1} for n in "PN"]
    report = lab.run(tune, gate, parameters=parameters, options=["--param", "N=2"])
    assert report.statuses == {"Tune": "Succeeded", "Gate": "Succeeded"}
    wrong = lab.run(tune, gate, parameters=parameters, options=["--param", "P=0"])
    assert "ResourceLimits.MaxParallelTrainingJobs must be at least 1, but got 0." in wrong.statuses["Tune"]


def test_stopping_a_search_keeps_what_its_trials_have_reached(lab: Lab) -> None:
    """MaxRuntimeInSeconds is at least 120 seconds, so the search is driven here without the command line."""
    code = "import time; open('/opt/ml/model/m', 'w'); print('score=0.5', flush=True); time.sleep(60)"
    step = lab.tuning("Tune", code, {"ContinuousParameterRanges": [X]}, jobs=5)
    state = State(lab.home)
    runtime = Runtime(state, Storage(state), find_mount(lab.home), LocalApi(state))

    async def search() -> TuningJob:
        job = TuningJob(StepCall("Tune", step, step["Arguments"], "e", "tune"), runtime)

        async def expire() -> None:
            while sum(trial.objective is not None for trial in job.trials) < 2:  # both have said their score
                await asyncio.sleep(0.02)
            job.expire()

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(expire())
            tasks.create_task(job.run())
        return job

    began = time.monotonic()
    job = asyncio.run(search())
    state.close()
    assert time.monotonic() - began < 40
    assert [trial.status for trial in job.ranked()] == ["Stopped", "Stopped"]
    assert all(lab.path(f"{trial.output_uri}/model.tar.gz").is_file() for trial in job.ranked())
    assert job.document["BestTrainingJob"]["ObjectiveStatus"] == "Succeeded"


RANGES = {"ContinuousParameterRanges": [X]}


def warm(step: Any, *parents: Any, kind: str = "TransferLearning") -> Any:
    """The step, with parents."""
    names = [{"HyperParameterTuningJobName": parent} for parent in parents]
    step["Arguments"]["WarmStartConfig"] = {"WarmStartType": kind, "ParentHyperParameterTuningJobs": names}
    return step


def search_name(report: Report) -> str:
    name: str = report.properties("Tune")["HyperParameterTuningJobName"]
    return name


def test_a_search_learns_from_its_parent_whose_name_is_a_parameter(lab: Lab) -> None:
    bayesian = {"Strategy": "Bayesian"}
    first = lab.run(lab.tuning("Tune", SCORE, RANGES, jobs=5, config=bayesian))
    step = warm(lab.tuning("Tune", SCORE, RANGES, jobs=3, parallel=1, config=bayesian), get("Parameters.Parent"))
    second = lab.run(step, parameters=[parameter("Parent", "String", search_name(first))], options=["--no-cache"])
    assert second.statuses == {"Tune": "Succeeded"}
    properties = second.properties("Tune")
    assert properties["WarmStartConfig"]["ParentHyperParameterTuningJobs"] == [
        {"HyperParameterTuningJobName": search_name(first)}
    ]
    rates, earlier = (
        [trial["TunedHyperParameters"]["rate"] for trial in report.properties("Tune")["TrainingJobSummaries"]]
        for report in (second, first)
    )
    assert len(rates) == 3
    assert len(set(rates) & set(earlier)) < 3  # a cold search of the same seed begins as the first one did


def test_the_newest_completed_search_that_fits_is_the_parent(lab: Lab) -> None:
    step = lab.tuning("Tune", SCORE, RANGES, jobs=1)
    names = [search_name(lab.run(step, options=["--no-cache"])) for _ in range(2)]
    lab.run(lab.tuning("Tune", "print('nothing')", RANGES, jobs=1))
    target = LocalTarget(None, lab.home)
    text = json.dumps({"Steps": [step]})
    assert parent_for(target, "lab", text) == names[1] != names[0]
    more = lab.tuning("Tune", SCORE, RANGES, jobs=1, static={"n": "1"})
    other = lab.tuning("Tune", SCORE, RANGES, jobs=1)
    other["Arguments"]["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"] = "f1"
    assert parent_for(target, "lab", json.dumps({"Steps": [more]})) is None
    assert parent_for(target, "lab", json.dumps({"Steps": [other]})) is None
    assert parent_for(target, "nobody", text) is None
    target.state.close()


def test_upsert_names_the_newest_search_of_the_pipeline(lab: Lab) -> None:
    """The search stands for one of an earlier run: the same objective, as many hyperparameters."""
    config_file = lab.folder / "pipeline.yaml"
    config_file.write_text("tuning: {warm_start: last}\n")

    def upserted() -> Any:
        words = ["upsert", "--config", config_file, "--home", lab.home]
        subprocess.run([sys.executable, str(ROOT / "run_pipeline.py"), *map(str, words)], check=True, cwd=lab.folder)
        state = State(lab.home)
        document = state.get("Pipeline", "image-classification")
        state.close()
        assert document
        return json.loads(document["PipelineDefinition"])

    first = upserted()
    tune = next(step for step in first["Steps"] if step["Type"] == "Tuning")["Arguments"]
    static = {name: "1" for name in tune["TrainingJobDefinition"]["StaticHyperParameters"] if "sagemaker" not in name}
    searched = sum(len(kind) for kind in tune["HyperParameterTuningJobConfig"]["ParameterRanges"].values())
    static |= {f"other_{number}": "1" for number in range(searched - 1)}
    step = lab.tuning("Tune", SCORE, RANGES, jobs=1, static=static)
    objective = {"Type": "Maximize", "MetricName": "validation:best_accuracy"}
    step["Arguments"]["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"] = objective
    metrics = [{"Name": "validation:best_accuracy", "Regex": "score=([0-9.]+)"}]
    step["Arguments"]["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"] = metrics
    earlier = lab.folder / "earlier.json"
    earlier.write_text(json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": [step]}))
    words = ["run", "--definition", earlier, "--home", lab.home, "--json", "--name", "image-classification"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=lab.folder,
    )
    report = Report(lab.home, done.returncode, done.stdout, done.stderr)
    assert "WarmStartParent" not in json.dumps(first)
    assert upserted()["Parameters"][-1] == {
        "Name": "WarmStartParent",
        "Type": "String",
        "DefaultValue": search_name(report),
    }


def test_a_parent_that_does_not_fit_fails_the_search_with_a_sentence(lab: Lab) -> None:
    first = lab.run(lab.tuning("Tune", SCORE, RANGES, jobs=1))
    parent = search_name(first)
    other = warm(lab.tuning("Other", SCORE, RANGES), parent)
    other["Arguments"]["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["Type"] = "Minimize"
    report = lab.run(
        warm(lab.tuning("Absent", SCORE, RANGES), "nobody"),
        warm(lab.tuning("More", SCORE, RANGES, static={"n": "1"}), parent),
        other,
    )
    named = f"ClientError: WarmStartConfig names the tuning job '{parent}', "
    assert report.statuses == {
        "Absent": "ClientError: WarmStartConfig names the tuning job 'nobody', which does not exist.",
        "More": f"{named}which has 3 hyperparameters, static and searched, not 4.",
        "Other": f"{named}whose objective is score Maximize, not score Minimize.",
    }
    refused = lab.run(
        warm(lab.tuning("Kind", SCORE, RANGES), parent, kind="Identical"),
        warm(lab.tuning("Many", SCORE, RANGES), *[parent] * 6),
    )
    kind, many = refused.stderr.splitlines()
    assert "'Kind'" in kind and "but got 'Identical'" in kind
    assert "'Many'" in many and "at most 5 entries, but has 6" in many
