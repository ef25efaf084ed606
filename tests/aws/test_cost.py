"""Estimates, checked by hand."""

import datetime
from dataclasses import replace
from typing import Any

import pytest

from pipeline.aws import cost
from pipeline.config.config import AutoscalingConfig, ServerlessConfig
from pipeline.errors import UsageError


def test_without_a_measurement_the_limits_say_what_a_run_costs_at_most(config):
    found = cost.run_cost(config)
    assert {step.step: (step.instance_seconds, step.amount) for step in found.steps} == {
        "PrepareData": (14400, pytest.approx(4 * 0.23)),
        "TuneHyperparameters": (6 * 3600, pytest.approx(6 * 0.23)),
        "TrainWithDebugger": (14400, pytest.approx(4 * 0.23)),
        "EvaluateModel": (3600, pytest.approx(0.23)),
    }
    assert found.total == pytest.approx(15 * 0.23)
    assert found.is_limit


def test_measured_steps_are_counted_by_the_second_and_the_others_by_their_limit(config):
    measured = {"PrepareData": 90.0, "TuneHyperparameters": 600.0, "TrainWithDebugger": 180.0}
    found = cost.run_cost(config, measured)
    assert [step.basis for step in found.steps] == ["measured", "measured", "measured", "limit"]
    assert found.total == pytest.approx((90 + 600 + 180 + 3600) / 3600 * 0.23)
    assert not cost.run_cost(config, {**measured, "EvaluateModel": 60.0}).is_limit


def test_several_instances_are_all_counted(config, change):
    found = cost.run_cost(change(config, "data", instance_count=3))
    assert found.steps[0].instance_seconds == 3 * 14400


def test_the_endpoint_costs_its_instances_for_a_month(config, change):
    found = cost.endpoint_cost(change(config, "deploy", instance_count=2))
    assert (found.per_hour, found.per_month) == (pytest.approx(0.23), pytest.approx(167.9))
    assert found.per_month_at_most == found.per_month
    assert cost.standing(found) == "The endpoint, left on (2 x ml.m5.large): 167.90 a month."


def test_an_autoscaled_endpoint_costs_from_its_fewest_to_its_most_instances(config, change):
    scaled = change(config, "deploy", autoscaling=AutoscalingConfig(min_instances=1, max_instances=4))
    found = cost.endpoint_cost(scaled)
    assert cost.standing(found) == "The endpoint, left on (1 to 4 x ml.m5.large): 83.95 to 335.80 a month."


def test_a_serverless_endpoint_costs_by_use(config, change):
    found = cost.endpoint_cost(change(config, "deploy", serverless=ServerlessConfig(memory_mb=2048)))
    assert found.per_month == 0
    assert cost.standing(found) == "The endpoint is serverless: it costs by use, and nothing while it is idle."


def test_a_missing_price_is_named(config, change):
    with pytest.raises(UsageError) as caught:
        cost.run_cost(change(config, "training", instance_type="ml.p5.48xlarge"))
    assert str(caught.value).startswith("pipeline.yaml: prices.per_hour has no price for ml.p5.48xlarge; add it.")


def test_a_person_reads_that_it_is_an_estimate(config):
    measured = {"PrepareData": 90.0, "TuneHyperparameters": 600.0, "TrainWithDebugger": 3720.0}
    prices = replace(config.prices, date="2026-01-31", currency="EUR")
    config = replace(config, prices=prices)
    known = cost.Measured(measured, ("arn:a/execution/new1", "arn:a/execution/old1"))
    run, endpoint = cost.run_cost(config, measured), cost.endpoint_cost(config)
    said = cost.lines(run, endpoint, known)
    assert said == [
        "An estimate, not a bill: prices of 2026-01-31 in EUR, on demand, from pipeline.yaml.",
        "That table is a starting point: check it against AWS's price pages and edit it.",
        "Durations as billed in execution new1 and old1.",
        "One run:",
        "  PrepareData          ml.m5.xlarge        1m 30s       0.01",
        "  TuneHyperparameters  ml.m5.xlarge       10m 00s       0.04",
        "  TrainWithDebugger    ml.m5.xlarge        1h 02m       0.24",
        "  EvaluateModel        ml.m5.xlarge        1h 00m       0.23 at most",
        "  total                                                 0.51 at most",
        "The endpoint, left on (1 x ml.m5.large): 83.95 a month.",
        "At most: such a step has not been measured, so its max_runtime_seconds is counted in full.",
    ]
    assert cost.lines(run, endpoint, known, on_this_machine=True)[2] == (
        "Durations of the local run, execution new1 and old1: this machine is faster or slower than those instances."
    )


START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def ended(seconds: float) -> datetime.datetime:
    return START + datetime.timedelta(seconds=seconds)


class RecordedSageMaker:
    """Answers of a finished execution: two instances, a spot training, three trials, a cached step."""

    def get_paginator(self, operation: str) -> Any:
        steps = [
            self.step("PrepareData", ProcessingJob={"Arn": "arn:job/prepare"}),
            self.step("TuneHyperparameters", TuningJob={"Arn": "arn:job/search"}),
            self.step("TrainWithDebugger", TrainingJob={"Arn": "arn:job/train"}),
            self.step("EvaluateModel", ProcessingJob={"Arn": "arn:job/old"}) | {"CacheHitResult": {}},
            self.step("CheckAccuracy", Condition={"Outcome": "True"}),
        ]
        trials = [{"TrainingStartTime": START, "TrainingEndTime": ended(seconds)} for seconds in (60, 70)]
        pages = {
            "list_pipeline_execution_steps": {"PipelineExecutionSteps": steps},
            "list_training_jobs_for_hyper_parameter_tuning_job": {"TrainingJobSummaries": [*trials, {}]},
        }

        class Paginator:
            def paginate(paginator, **request: str) -> list[dict[str, Any]]:
                if request.get("PipelineExecutionArn") == "arn:older":
                    return [
                        {"PipelineExecutionSteps": [self.step("EvaluateModel", ProcessingJob={"Arn": "arn:job/old"})]}
                    ]
                return [pages[operation]]

        return Paginator()

    def list_pipeline_executions(self, **request: Any) -> dict[str, Any]:
        self.listed = request
        return {"PipelineExecutionSummaries": [{"PipelineExecutionArn": arn} for arn in ("arn:execution", "arn:older")]}

    @staticmethod
    def step(name: str, **metadata: Any) -> dict[str, Any]:
        return {"StepName": name, "StepStatus": "Succeeded", "Metadata": metadata}

    def describe_processing_job(self, ProcessingJobName: str) -> dict[str, Any]:
        resources = {"ClusterConfig": {"InstanceCount": 2}}
        return {"ProcessingStartTime": START, "ProcessingEndTime": ended(30), "ProcessingResources": resources}

    def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:
        times = {"TrainingStartTime": START, "TrainingEndTime": ended(100), "BillableTimeInSeconds": 40}
        return {**times, "ResourceConfig": {"InstanceCount": 1}}


def test_a_step_that_the_newest_execution_reused_was_measured_by_an_older_one():
    sagemaker = RecordedSageMaker()
    found = cost.measured(lambda service: sagemaker, "image-classification", ("PrepareData", "EvaluateModel"))
    assert found == cost.Measured({"PrepareData": 60.0, "EvaluateModel": 60.0}, ("arn:execution", "arn:older"))
    assert sagemaker.listed["SortOrder"] == "Descending"


def test_the_seconds_of_an_execution_are_those_that_were_billed():
    assert cost.billed_seconds(lambda service: RecordedSageMaker(), "arn:execution") == {
        "PrepareData": 60.0,
        "TuneHyperparameters": 130.0,
        "TrainWithDebugger": 40.0,
    }
