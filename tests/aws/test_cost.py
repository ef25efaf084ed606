"""Estimates, checked by hand; what they count follows from the compiled definition."""

import copy
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

import run_pipeline
from pipeline.aws import cost
from pipeline.errors import UsageError

PRICE = 0.23  # of an hour of ml.m5.xlarge
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DEFINITION = json.loads((Path(__file__).with_name("cases") / "definition.json").read_text())


def test_without_a_measurement_the_limits_of_the_definition_say_what_a_run_costs_at_most(config):
    run = cost.run_cost(config, DEFINITION)
    assert {step.step: (step.instance_seconds, step.amount, step.basis) for step in run} == {
        "Prepare": (3 * 7200, pytest.approx(6 * PRICE), "limit"),
        "Tune": (6 * 3600, pytest.approx(6 * PRICE), "limit"),
        "Predict": (2 * 5 * 86400, pytest.approx(240 * PRICE), "limit"),
    }


def test_a_step_that_is_added_to_the_definition_is_counted_and_a_measured_one_by_the_second(config):
    more = copy.deepcopy(DEFINITION)
    more["Steps"].append({**DEFINITION["Steps"][0], "Name": "Added"})
    run = {step.step: step for step in cost.run_cost(config, more, {"Prepare": 90.0})}
    assert run.keys() == {"Prepare", "Tune", "Predict", "Added"}
    assert (run["Prepare"].basis, run["Prepare"].amount) == ("measured", pytest.approx(90 / 3600 * PRICE))
    assert (run["Added"].basis, run["Added"].amount) == ("limit", pytest.approx(6 * PRICE))


@pytest.mark.parametrize(
    ("deploy", "expected"),
    [
        ({"instance_count": 2}, (2, 2, 167.9, 167.9)),
        ({"autoscaling": {"min_instances": 1, "max_instances": 4}}, (1, 4, 83.95, 335.8)),
        ({"serverless": {"memory_mb": 2048}, "max_request_megabytes": 4}, (0, 0, 0, 0)),
    ],
)
def test_the_endpoint_costs_its_instances_for_a_month(configured, deploy, expected):
    assert cost.endpoint_cost(configured(deploy=deploy)) == pytest.approx(expected)


def test_a_missing_price_is_named(configured):
    with pytest.raises(UsageError, match=r"^pipeline\.yaml: prices\.per_hour has no price for ml\.m5\.xlarge; add it"):
        config = configured()
        prices = config.prices.model_copy(update={"per_hour": {"ml.m5.large": 1.0}})
        cost.run_cost(config.model_copy(update={"prices": prices}), DEFINITION)


class RecordedSageMaker:
    """Answers about a finished execution: two instances, a spot training, three trials, a reused step; and an older."""

    def __init__(self) -> None:
        train = self.step("Train", "TrainingJob", "arn:job/train")
        reused = {**self.step("Evaluate", "ProcessingJob", "arn:job/old"), "CacheHitResult": {}}
        check = {"StepName": "Check", "StepStatus": "Succeeded", "Metadata": {"Condition": {"Outcome": "True"}}}
        prepare, tune = self.step("Prepare", "ProcessingJob", "arn:job/1"), self.step("Tune", "TuningJob", "arn:job/2")
        self.steps = {
            "arn:execution": [prepare, tune, train, reused, check],
            "arn:older": [self.step("Evaluate", "ProcessingJob", "arn:job/old")],
        }

    @staticmethod
    def step(name: str, kind: str, arn: str) -> dict[str, Any]:
        return {"StepName": name, "StepStatus": "Succeeded", "Metadata": {kind: {"Arn": arn}}}

    @staticmethod
    def times(kind: str, seconds: float) -> dict[str, Any]:
        return {f"{kind}StartTime": START, f"{kind}EndTime": START + datetime.timedelta(seconds=seconds)}

    def list_pipeline_executions(self, **request: Any) -> dict[str, Any]:
        assert request["SortOrder"] == "Descending"
        return {"PipelineExecutionSummaries": [{"PipelineExecutionArn": arn} for arn in self.steps]}

    def describe_processing_job(self, **request: str) -> dict[str, Any]:
        return {**self.times("Processing", 30), "ProcessingResources": {"ClusterConfig": {"InstanceCount": 2}}}

    def describe_training_job(self, **request: str) -> dict[str, Any]:
        return {**self.times("Training", 100), "BillableTimeInSeconds": 40, "ResourceConfig": {"InstanceCount": 1}}


def test_each_step_was_measured_by_the_newest_execution_that_ran_it(monkeypatch):
    sagemaker = RecordedSageMaker()
    trials = [sagemaker.times("Training", seconds) for seconds in (60, 70)]

    def list_all(client: Any, operation: str, **request: str) -> list[dict[str, Any]]:
        return sagemaker.steps[request["PipelineExecutionArn"]] if "PipelineExecutionArn" in request else [*trials, {}]

    monkeypatch.setattr(cost, "list_all", list_all)
    steps = ("Prepare", "Tune", "Train", "Evaluate")
    assert cost.measure(lambda service: sagemaker, "image-classification", steps) == (
        {"Prepare": 60.0, "Tune": 130.0, "Train": 40.0, "Evaluate": 60.0},
        ["arn:execution", "arn:older"],
    )
    assert cost.measure(lambda service: sagemaker, "image-classification", ["Train"])[1] == ["arn:execution"]


def test_the_command_says_that_it_is_an_estimate_and_counts_every_job_of_the_pipeline(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("pipeline.yaml").write_text("prices: {date: '2026-01-31', currency: EUR}\n")
    assert run_pipeline.main(["cost", "--config", "pipeline.yaml", "--home", "home"]) == 0
    said = capsys.readouterr().out
    assert "An estimate, not a bill: prices of 2026-01-31 in EUR" in said
    assert "3.45 at most" in said
    assert "(1 x ml.m5.large): 83.95 a month" in said
    assert run_pipeline.main(["cost", "--config", "pipeline.yaml", "--home", "home", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [step["step"] for step in document["steps"]] == [
        "PrepareData", "TuneHyperparameters", "TrainWithDebugger", "EvaluateModel",
    ]  # fmt: skip
    assert (document["estimate"], document["measured_on"], document["run"]) == (True, None, pytest.approx(3.45))
    assert not Path("home").exists()
