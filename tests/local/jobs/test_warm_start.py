"""Searches that begin with what earlier ones have found."""

import json
import subprocess
import sys
from typing import Any

from pipeline.local.store.state import State
from pipeline.local_target import LocalTarget
from pipeline.warm_start import parent_for
from tests.local.jobs.test_tuning import SCORE, X
from tests.local.lab import ROOT, Lab, Report, get, parameter

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
