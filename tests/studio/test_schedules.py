"""The page of schedules, of pipeline.yaml's and of one that the API has made."""

import json
from typing import Any

import pytest

from pipeline.local import session
from tests.local.lab import ROLE
from tests.local.samples import definition, wait_until
from tests.studio.conftest import Studio

PIPELINE = "arn:aws:sagemaker:us-east-1:000000000000:pipeline/nightly"


@pytest.fixture(scope="module")
def scheduler(studio: Studio) -> Any:
    """A client of the home's schedules, with one that starts a pipeline each day, but not yet."""
    here = session(studio.home)
    text = json.dumps(definition({"Name": "Fail", "Type": "Fail", "Arguments": {"ErrorMessage": "no"}}))
    here.client("sagemaker").create_pipeline(
        PipelineName="nightly", PipelineDefinition=text, RoleArn=ROLE, ClientRequestToken="x" * 32
    )
    client = here.client("scheduler")
    client.create_schedule(
        Name="by-api", ScheduleExpression="rate(1 day)", Target={"Arn": PIPELINE, "RoleArn": ROLE},
        FlexibleTimeWindow={"Mode": "OFF"}, ScheduleExpressionTimezone="Europe/Berlin", Description="kept",
    )  # fmt: skip
    return client


def test_without_a_schedule_the_one_of_the_configuration_can_be_made(studio: Studio) -> None:
    assert "There is no schedule" in studio.get("/schedules").text
    found = studio.post("/schedules").text
    assert "image-classification-retrain" in found
    assert "It is off" in found


def test_a_schedule_is_switched_on_and_off_with_everything_else_kept(studio: Studio, scheduler: Any) -> None:
    before = scheduler.get_schedule(Name="by-api")
    assert "Next: " in studio.get("/schedules").text
    assert "Schedule by-api is off" in studio.post("/schedules/by-api", {"state": "DISABLED"}).text
    assert "Schedule by-api is on" in studio.post("/schedules/by-api", {"state": "ENABLED"}).text
    after = scheduler.get_schedule(Name="by-api")
    for name in ("Target", "Description", "ScheduleExpression", "ScheduleExpressionTimezone", "State"):
        assert after[name] == before[name]
    assert studio.post("/schedules/none", {"state": "ENABLED"}).status_code == 404


def test_an_expression_that_is_refused_stays_in_its_field_with_the_reason(studio: Studio, scheduler: Any) -> None:
    for typed in ("every day", "<script>alert(1)</script>", "at(2020-01-31T03:00:00)", ""):
        found = studio.post("/schedules/by-api", {"expression": typed})
        assert (found.status_code, "but got" in found.text, "<script>alert" in found.text) == (400, True, False)
    assert scheduler.get_schedule(Name="by-api")["ScheduleExpression"] == "rate(1 day)"
    assert "is on" in studio.post("/schedules/by-api", {"expression": " cron(0 3 ? * SUN *) "}).text
    assert "cron(0 3 ? * SUN *)" in studio.get("/schedules").text


def test_what_a_schedule_has_started_is_shown_with_its_status(studio: Studio, scheduler: Any) -> None:
    state = studio.state()
    client = session(studio.home).client("sagemaker")
    state.client = "schedule"
    execution = client.start_pipeline_execution(PipelineName="nightly", ClientRequestToken="y" * 32)
    arn = execution["PipelineExecutionArn"]
    wait_until(
        lambda: client.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"] == "Failed"
    )
    assert "has not started anything" in studio.get("/schedules").text
    who = {"CreatedBy": {"UserProfileName": "x", "IamIdentity": {"SourceIdentity": "schedule"}}}
    state.update_execution(arn, **who)
    found = studio.get("/schedules").text
    assert arn.rpartition("/")[2] in found
    assert "Failed" in found
