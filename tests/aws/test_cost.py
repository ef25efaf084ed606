"""Estimates, checked by hand; what they count follows from the compiled definition."""

import copy
import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from own_account import step

import run_pipeline
from pipeline.aws import cost

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
CASES = Path(__file__).with_name("cases")
DEFINITION = json.loads((CASES / "definition.json").read_text())
PRICE_LIST = json.loads((CASES / "price_list.json").read_text())


def test_the_instances_of_every_step_are_read_from_the_definition():
    more = copy.deepcopy(DEFINITION)
    more["Steps"].append({**DEFINITION["Steps"][0], "Name": "Added"})
    found = {each.step: (each.step_type, each.at_once, each.most_seconds) for each in cost.instances(more)}
    assert found == {
        "Prepare": ("Processing", 3, 3 * 7200),
        "Tune": ("Tuning", 1, 6 * 3600),
        "Predict": ("Transform", 2, 2 * 5 * 86400),
        "Added": ("Processing", 3, 3 * 7200),
    }


@pytest.mark.parametrize(
    ("deploy", "expected"),
    [
        ({"instance_count": 2}, (2, 2)),
        ({"autoscaling": {"min_instances": 1, "max_instances": 4}}, (1, 4)),
        ({"serverless": {"memory_mb": 2048}, "max_request_megabytes": 4}, (0, 0)),
    ],
)
def test_the_endpoint_has_its_fewest_and_its_most_instances(configured, deploy, expected):
    assert cost.endpoint_instances(configured(deploy=deploy)) == expected


@pytest.fixture
def pricing() -> Iterator[Stubber]:
    """AWS's price list, as its documentation shapes it; the real service has not been asked."""
    stub = Stubber(boto3.client("pricing", "us-east-1", aws_access_key_id="k", aws_secret_access_key="s"))
    with stub:
        yield stub


def answer(stub: Stubber, *products: Any, instance_type: str = "ml.m5.xlarge") -> None:
    wanted = {"regionCode": "eu-west-1", "instanceName": instance_type}
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
    request = {"ServiceCode": "AmazonSageMaker", "Filters": filters}
    stub.add_response("get_products", {"PriceList": list(map(json.dumps, products))}, request)


def test_prices_are_those_of_the_use_and_what_is_not_clear_is_unknown(pricing):
    asked = []

    def client(service: str, **named: str) -> Any:
        asked.append((service, named))
        return pricing.client

    other = copy.deepcopy(PRICE_LIST[0])
    [offer] = other["terms"]["OnDemand"].values()
    [dimension] = offer["priceDimensions"].values()
    dimension["pricePerUnit"] = {"USD": "0.9"}
    answer(pricing, *PRICE_LIST)
    answer(pricing, PRICE_LIST[0], other, instance_type="ml.odd.large")
    found = cost.list_prices(client, "eu-west-1", ["ml.odd.large", "ml.m5.xlarge", "ml.m5.xlarge"])
    assert asked == [("pricing", {"region_name": "us-east-1"})]
    assert found == {("Train", "ml.m5.xlarge"): 0.257, ("Host", "ml.m5.xlarge"): 0.257}


def times(kind: str, seconds: float) -> dict[str, Any]:
    return {f"{kind}StartTime": START, f"{kind}EndTime": START + datetime.timedelta(seconds=seconds)}


REUSED = step("Evaluate", "ProcessingJob", "arn:job/old")
RECORDED = {
    "arn:execution": [
        step("Prepare", "ProcessingJob", "arn:job/1"),
        step("Tune", "TuningJob", "arn:job/2"),
        step("Train", "TrainingJob", "arn:job/train"),
        {**REUSED, "CacheHitResult": {}},
        step("Check", Metadata={"Condition": {"Outcome": "True"}}),
    ],
    "arn:older": [REUSED],
}


class RecordedSageMaker:
    """Answers about a finished execution: two instances, a spot training, three trials, a reused step; and an older."""

    def list_pipeline_executions(self, **request: Any) -> dict[str, Any]:
        assert request["SortOrder"] == "Descending"
        return {"PipelineExecutionSummaries": [{"PipelineExecutionArn": arn} for arn in RECORDED]}

    def describe_processing_job(self, **request: str) -> dict[str, Any]:
        return {**times("Processing", 30), "ProcessingResources": {"ClusterConfig": {"InstanceCount": 2}}}

    def describe_training_job(self, **request: str) -> dict[str, Any]:
        return {**times("Training", 100), "BillableTimeInSeconds": 40, "ResourceConfig": {"InstanceCount": 1}}

    def list_all(self, client: Any, operation: str, **request: str) -> list[dict[str, Any]]:
        trials = [times("Training", 60), times("Training", 70), {}]
        return RECORDED[request["PipelineExecutionArn"]] if "PipelineExecutionArn" in request else trials


def test_each_step_was_measured_by_the_newest_execution_that_ran_it(monkeypatch):
    sagemaker = RecordedSageMaker()
    monkeypatch.setattr(cost, "list_all", sagemaker.list_all)
    steps = ("Prepare", "Tune", "Train", "Evaluate")
    assert cost.measure(lambda service: sagemaker, "image-classification", steps) == (
        {"Prepare": 60.0, "Tune": 130.0, "Train": 40.0, "Evaluate": 60.0},
        ["arn:execution", "arn:older"],
    )
    assert cost.measure(lambda service: sagemaker, "image-classification", ["Train"])[1] == ["arn:execution"]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs `cost` and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    Path("pipeline.yaml").write_text("{}\n")

    def run(*words: str) -> str:
        assert run_pipeline.main(["cost", "--config", "pipeline.yaml", "--home", "home", *words]) == 0
        return capsys.readouterr().out

    yield run
    assert not Path("home").exists()


def test_the_command_counts_the_hours_of_every_job_and_says_where_their_prices_are(said):
    out = said()
    assert out.startswith("An estimate in instance-hours; their prices: https://aws.amazon.com/sagemaker/pricing/\n")
    assert re.search(r"total +15h 00m at most", out)
    assert "The endpoint, left on: 730 hours of ml.m5.large a month, price unknown." in out
    document = json.loads(said("--json"))
    assert [step["step"] for step in document["steps"]] == [
        "PrepareData", "TuneHyperparameters", "TrainWithDebugger", "EvaluateModel",
    ]  # fmt: skip
    assert (document["estimate"], document["measured_on"], document["run_instance_hours"]) == (True, None, 15)
    assert (document["run"], document["currency"]) == (None, None)


def test_on_aws_prices_are_asked_for_and_a_type_without_one_is_given_in_hours(said, client, monkeypatch):
    known = {("Processing", "ml.m5.xlarge"): 0.2, ("Train", "ml.m5.xlarge"): 0.3}
    monkeypatch.setattr(cost, "list_prices", lambda client, region, types: known)
    out = said("--target", "aws")
    assert out.startswith("An estimate, not a bill: AWS's prices on demand in us-east-1, in USD.\n")
    assert "The endpoint, left on: 730 hours of ml.m5.large a month, price unknown." in out
    assert re.search(r"EvaluateModel +ml.m5.xlarge +1h 00m +0.20 at most", out)


def test_without_credentials_the_hours_are_told_all_the_same(without_credentials, said):
    assert json.loads(said("--target", "aws", "--json"))["run_instance_hours"] == 15
