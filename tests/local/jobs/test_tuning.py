"""Searches as steps: real trials, what ends them, what the step's properties say, and what earlier searches teach."""

import asyncio
import json
import re
from typing import Any

import pytest

from pipeline.local.jobs.runtime import Runtime, StepCall
from pipeline.local.jobs.tuning import TuningJob
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from pipeline.service.executions import warm_start_parent as parent_for
from pipeline.service.local_target import LocalTarget
from tests.local.lab import Json, Lab, Report, compare, condition, fail, get, join, parameter
from tests.local.samples import run_cli

SCORE = """
    import argparse, os
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--kind", default="a")
    arguments, _ = parser.parse_known_args()
    open(os.environ["SM_MODEL_DIR"] + "/m.txt", "w").write(str(arguments.rate))
    print(f"score={arguments.rate if arguments.kind == 'a' else -arguments.rate:.6f}", flush=True)
"""
RANGES = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0.25", "MaxValue": "4", "ScalingType": "Linear"}]}


def kinds(*values: str) -> Json:
    """A categorical range."""
    return {"CategoricalParameterRanges": [{"Name": "kind", "Values": list(values)}]}


def trials_of(report: Report, name: str = "Tune") -> list[Json]:
    """TrainingJobSummaries, best first, each with its log."""
    found = report.properties(name)["TrainingJobSummaries"]
    logs = [report.home / "jobs" / trial["TrainingJobName"] / "log.txt" for trial in found]
    return [{**trial, "log": log.read_text()} for trial, log in zip(found, logs, strict=True)]


def test_the_winner_is_used_downstream(lab: Lab) -> None:
    tune = lab.tuning("Tune", SCORE, {**RANGES, **kinds("a", "b")}, jobs=4, static={"n": 1})
    best, top = "Steps.Tune.BestTrainingJob", get("Steps.Tune.TrainingJobSummaries[0].TrainingJobName")
    after = lab.processing(
        "After",
        "import json, sys, tarfile; tarfile.open('/opt/ml/processing/input/m/model.tar.gz').extractall('/opt/ml');"
        "print(json.dumps([*sys.argv[1:], open('/opt/ml/m.txt').read()]))",
        inputs={"m": join("/", "s3:/", "bucket", "models", top, "output/model.tar.gz")},
        arguments=[get(f"{best}.TunedHyperParameters['rate']"), get(f"{best}.TrainingJobName"), top],
    )
    report = lab.run(tune, after)
    assert report.statuses == {"Tune": "Succeeded", "After": "Succeeded"}
    properties = report.properties("Tune")
    winner, name = properties["BestTrainingJob"], properties["HyperParameterTuningJobName"]
    assert winner == properties["TrainingJobSummaries"][0]
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


def test_every_strategy_runs_with_every_kind_of_range_and_no_more_trials_at_once_than_allowed(lab: Lab) -> None:
    log = {"Name": "log", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
    reverse = {"Name": "reverse", "MinValue": "0.5", "MaxValue": "0.999", "ScalingType": "ReverseLogarithmic"}
    whole = {"Name": "n", "MinValue": "1", "MaxValue": "64", "ScalingType": "Auto"}
    every = {"ContinuousParameterRanges": [log, reverse], "IntegerParameterRanges": [whole], **kinds("a", "b c", "3")}
    epochs = {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 3}}
    code = """
        import time
        began = time.time()
        for n in range(1, 4):
            print(f"score=0.{n}", flush=True)
            time.sleep(0.1)
        print(began, time.time())
    """
    steps = [
        lab.tuning("Bayesian", code, every, config={"Strategy": "Bayesian"}),
        lab.tuning("Random", code, every, config={"Strategy": "Random"}),
        lab.tuning("Grid", code, kinds("a", "b c", "3"), jobs=None, config={"Strategy": "Grid"}),
        lab.tuning("Hyperband", code, every, config={"Strategy": "Hyperband", "StrategyConfig": epochs}),
    ]
    report = lab.run(*steps)
    assert report.statuses == dict.fromkeys(["Bayesian", "Random", "Grid", "Hyperband"], "Succeeded")
    for step in steps:
        ranges = step["Arguments"]["HyperParameterTuningJobConfig"]["ParameterRanges"]
        trials = trials_of(report, step["Name"])
        found = [trial["TunedHyperParameters"] for trial in trials]
        assert len(found) == 3
        assert {name for trial in found for name in trial} == {e["Name"] for kind in ranges.values() for e in kind}
        assert all(isinstance(value, str) for trial in found for value in trial.values())
        if step["Name"] == "Random":
            spans = [[float(word) for word in trial["log"].splitlines()[-1].split()] for trial in trials]
            assert max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans) == 2


def test_failed_and_silent_trials_do_not_fail_the_search_but_all_together_do(lab: Lab) -> None:
    code = """
        import sys
        if sys.argv[2] == "bad":
            sys.exit("no such kind")
        print("score=0.5" if sys.argv[2] == "good" else "nothing")
    """
    tried = {"Mixed": kinds("bad", "good", "silent"), "Failing": kinds("bad"), "Silent": kinds("silent")}
    config = {"Strategy": "Grid"}
    report = lab.run(*(lab.tuning(name, code, found, jobs=None, config=config) for name, found in tried.items()))
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


ENDS: dict[str, tuple[str, int, Json, list[tuple[str, str]]]] = {  # what trials do, so many at once; what ends them
    "early stopping": (
        "for _ in range(4): print(f'score={0.1 if kind == \"c\" else 0.9}', flush=True); time.sleep(9 * (kind > 'b'))",
        1,
        {"TrainingJobEarlyStoppingType": "Auto"},
        [("a", "Completed"), ("b", "Completed"), ("c", "Stopped")],
    ),
    "a target": (
        "print('score=0.1' if kind == 'a' else 'score=0.99', flush=True); time.sleep(30 if kind == 'a' else 0.3)",
        2,
        {"TuningJobCompletionCriteria": {"TargetObjectiveMetricValue": 0.9}},
        [("b", "Completed"), ("a", "Stopped")],
    ),
}


@pytest.mark.parametrize("what", ENDS)
def test_trials_are_ended_by_early_stopping_and_by_a_target_that_is_reached(lab: Lab, what: str) -> None:
    behaviour, parallel, more, expected = ENDS[what]
    code, config = f"import sys, time; kind = sys.argv[-1]\n{behaviour}", {"Strategy": "Grid", **more}
    report = lab.run(lab.tuning("Tune", code, kinds("a", "b", "c"), jobs=None, parallel=parallel, config=config))
    assert report.statuses == {"Tune": "Succeeded"}
    found = [(trial["TunedHyperParameters"]["kind"], trial["TrainingJobStatus"]) for trial in trials_of(report)]
    assert found == expected


def test_hyperband_ends_bad_trials_at_a_rung_and_good_ones_at_the_last_epoch(lab: Lab) -> None:
    code = """
        import sys, time
        for epoch in range(1, 100):
            print(f"score={float(sys.argv[2]) * epoch:.6f}", flush=True)
            time.sleep(0.05)
    """
    epochs = {"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 6}}
    config = {"Strategy": "Hyperband", "StrategyConfig": epochs}
    report = lab.run(lab.tuning("Tune", code, RANGES, jobs=9, parallel=2, config=config))
    assert report.statuses == {"Tune": "Succeeded"}
    trials = trials_of(report)
    assert {trial["TrainingJobStatus"] for trial in trials} == {"Stopped"}
    counts = [(float(t["TunedHyperParameters"]["rate"]), t["log"].count("score=")) for t in trials]
    assert all(2 <= count < 20 for _, count in counts)
    assert any(count < 6 for _, count in counts)
    assert max(counts)[1] >= 6  # the best is never given up


def test_a_search_that_cannot_be_made_is_refused_before_anything_runs(lab: Lab) -> None:
    bad = {"Name": "x", "MinValue": "0", "MaxValue": "1", "ScalingType": "Logarithmic"}
    tunes = [
        lab.tuning("Scale", SCORE, {"ContinuousParameterRanges": [bad]}),
        lab.tuning("Strategy", SCORE, RANGES, config={"Strategy": "Bayes"}),
        lab.tuning("Metric", SCORE, RANGES),
        lab.tuning("Several", SCORE, RANGES),
        warm(lab.tuning("Kind", SCORE, RANGES), "parent", kind="Identical"),
        warm(lab.tuning("Many", SCORE, RANGES), *["parent"] * 6),
    ]
    config = tunes[2]["Arguments"]["HyperParameterTuningJobConfig"]
    config["HyperParameterTuningJobObjective"] = {"Type": "Maximize", "MetricName": "f1"}
    tunes[3]["Arguments"]["TrainingJobDefinitions"] = [tunes[3]["Arguments"].pop("TrainingJobDefinition")]
    report = lab.run(lab.processing("Prep", ""), *tunes)
    assert (report.code, report.stdout) == (2, "")
    for name, said in (
        ("Scale", "Range 'x' must have MinValue > 0 on the logarithmic scale, but starts at 0.0."),
        ("Strategy", "but got 'Bayes'. Did you mean 'Bayesian'?"),
        ("Metric", "searches by the objective 'f1', but none of the MetricDefinitions"),
        ("Several", "has several TrainingJobDefinitions, which the local target does not search at once"),
        ("Kind", "but got 'Identical'"),
        ("Many", "at most 5 entries, but has 6"),
    ):
        assert any(f"'{name}'" in line and said in line for line in report.stderr.splitlines()), report.stderr
    assert not (lab.home / "jobs").exists()


def test_trials_of_several_hosts_run(lab: Lab) -> None:
    code = """
        import os, socket
        addresses = {socket.gethostbyname(host) for host in ("algo-1", "algo-2")}
        open(os.environ["SM_MODEL_DIR"] + "/" + os.environ["SM_CURRENT_HOST"], "w").close()
        print(f"score={len(addresses)}")
    """
    step = lab.tuning("Tune", code, RANGES, jobs=2)
    step["Arguments"]["TrainingJobDefinition"]["ResourceConfig"]["InstanceCount"] = 2
    report = lab.run(step)
    assert report.statuses == {"Tune": "Succeeded"}
    for trial in trials_of(report):
        assert trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 2
        model = f"s3://bucket/models/{trial['TrainingJobName']}/output/model.tar.gz"
        assert sorted(lab.unpacked(model)) == ["algo-1", "algo-2"]


def test_limits_may_come_from_parameters(lab: Lab) -> None:
    tune = lab.tuning("Tune", SCORE, RANGES)
    limits = {"MaxParallelTrainingJobs": get("Parameters.P"), "MaxNumberOfTrainingJobs": get("Parameters.N")}
    tune["Arguments"]["HyperParameterTuningJobConfig"]["ResourceLimits"] = limits
    found = "Steps.Tune.TrainingJobStatusCounters.Completed"
    gate = condition("Gate", [compare("Equals", get(found), get("Parameters.N"))], [], [fail("Wrong", "wrong count")])
    parameters = [parameter(name, "Integer", 1) for name in "PN"]
    report = lab.run(tune, gate, parameters=parameters, options=["--param", "N=2"])
    assert report.statuses == {"Tune": "Succeeded", "Gate": "Succeeded"}
    wrong = lab.run(tune, gate, parameters=parameters, options=["--param", "P=0"])
    assert "ResourceLimits.MaxParallelTrainingJobs must be at least 1, but got 0." in wrong.statuses["Tune"]


def test_stopping_a_search_keeps_what_its_trials_have_reached(lab: Lab) -> None:
    """MaxRuntimeInSeconds is at least 120 seconds, so the search is driven here without the command line."""
    code = "import time; open('/opt/ml/model/m', 'w'); print('score=0.5', flush=True); time.sleep(60)"
    step = lab.tuning("Tune", code, RANGES, jobs=5)
    state = State(lab.home)
    runtime = Runtime(state, Storage(state), find_mount(lab.home), LocalApi(state))

    async def search() -> TuningJob:
        job = TuningJob(StepCall("Tune", step, step["Arguments"], "e", "tune"), runtime)
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(job.run())
            while sum(trial.objective is not None for trial in job.trials) < 2:  # both have said their score
                await asyncio.sleep(0.02)
            job.expire()
        return job

    job = asyncio.run(search())
    state.close()
    assert [trial.status for trial in job.ranked()] == ["Stopped", "Stopped"]
    assert all(lab.path(f"{trial.output_uri}/model.tar.gz").is_file() for trial in job.ranked())
    assert job.document["BestTrainingJob"]["ObjectiveStatus"] == "Succeeded"


def warm(step: Json, *parents: Any, kind: str = "TransferLearning") -> Json:
    """The step, with parents."""
    names = [{"HyperParameterTuningJobName": parent} for parent in parents]
    step["Arguments"]["WarmStartConfig"] = {"WarmStartType": kind, "ParentHyperParameterTuningJobs": names}
    return step


def search_name(report: Report) -> str:
    return str(report.properties("Tune")["HyperParameterTuningJobName"])


def test_a_search_learns_from_its_parent_whose_name_is_a_parameter_and_from_none_that_does_not_fit(lab: Lab) -> None:
    bayesian = {"Strategy": "Bayesian"}
    first = lab.run(lab.tuning("Tune", SCORE, RANGES, jobs=5, config=bayesian))
    parent, expression = search_name(first), get("Parameters.Parent")
    step = warm(lab.tuning("Tune", SCORE, RANGES, jobs=3, parallel=1, config=bayesian), expression)
    other = warm(lab.tuning("Other", SCORE, RANGES), expression)
    other["Arguments"]["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["Type"] = "Minimize"
    absent = warm(lab.tuning("Absent", SCORE, RANGES), "nobody")
    more = warm(lab.tuning("More", SCORE, RANGES, static={"n": "1"}), expression)
    second = lab.run(step, absent, more, other, parameters=[parameter("Parent", "String", parent)])
    named = f"ClientError: WarmStartConfig names the tuning job '{parent}', "
    assert second.statuses == {
        "Tune": "Succeeded",
        "Absent": "ClientError: WarmStartConfig names the tuning job 'nobody', which does not exist.",
        "More": f"{named}which has 3 hyperparameters, static and searched, not 4.",
        "Other": f"{named}whose objective is score Maximize, not score Minimize.",
    }
    parents = second.properties("Tune")["WarmStartConfig"]["ParentHyperParameterTuningJobs"]
    assert parents == [{"HyperParameterTuningJobName": parent}]
    rates, earlier = ({t["TunedHyperParameters"]["rate"] for t in trials_of(report)} for report in (second, first))
    assert len(rates) == 3
    assert rates - earlier  # a cold search of the same seed begins as the first one did


def test_the_newest_completed_search_that_fits_is_the_parent(lab: Lab) -> None:
    step = lab.tuning("Tune", SCORE, RANGES, jobs=1)
    names = [search_name(lab.run(step, options=["--no-cache"])) for _ in range(2)]
    lab.run(lab.tuning("Tune", "print('nothing')", RANGES, jobs=1))
    other, more = lab.tuning("Tune", SCORE, RANGES, jobs=1), lab.tuning("Tune", SCORE, RANGES, static={"n": "1"})
    other["Arguments"]["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"] = "f1"
    target = LocalTarget(None, lab.home)
    found = [parent_for(target, "lab", json.dumps({"Steps": [wanted]})) for wanted in (step, more, other)]
    assert found == [names[1], None, None]
    assert names[0] != names[1]
    assert parent_for(target, "nobody", json.dumps({"Steps": [step]})) is None
    target.state.close()


def test_upsert_names_the_newest_search_of_the_pipeline(lab: Lab) -> None:
    """The search stands for one of an earlier run: the same objective, as many hyperparameters."""
    config_file, earlier = lab.folder / "pipeline.yaml", lab.folder / "earlier.json"
    config_file.write_text("tuning: {warm_start: last}\n")

    def upserted() -> Json:
        assert run_cli("upsert", "--config", config_file, "--home", lab.home, cwd=lab.folder).returncode == 0
        state = State(lab.home)
        document = state.get("Pipeline", "image-classification") or {}
        state.close()
        definition: Json = json.loads(document["PipelineDefinition"])
        return definition

    first = upserted()
    tune = next(step for step in first["Steps"] if step["Type"] == "Tuning")["Arguments"]
    static = {name: "1" for name in tune["TrainingJobDefinition"]["StaticHyperParameters"] if "sagemaker" not in name}
    searched = sum(len(kind) for kind in tune["HyperParameterTuningJobConfig"]["ParameterRanges"].values())
    static |= {f"other_{number}": "1" for number in range(searched - 1)}
    step = lab.tuning("Tune", SCORE, RANGES, jobs=1, static=static)
    objective = tune["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    step["Arguments"]["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"] = objective
    metric = {"Name": objective["MetricName"], "Regex": "score=([0-9.]+)"}
    step["Arguments"]["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"] = [metric]
    earlier.write_text(json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": [step]}))
    words = ["run", "--definition", earlier, "--home", lab.home, "--json", "--name", "image-classification"]
    done = run_cli(*words, cwd=lab.folder)
    parent = search_name(Report(lab.home, done.returncode, done.stdout, done.stderr))
    assert "WarmStartParent" not in json.dumps(first)
    assert upserted()["Parameters"][-1] == {"Name": "WarmStartParent", "Type": "String", "DefaultValue": parent}
