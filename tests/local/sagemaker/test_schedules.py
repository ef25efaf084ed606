"""EventBridge Scheduler, as clients use it, and what is due is started with its parameters."""

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from pipeline.local import session
from pipeline.local.jobs.runtime import arn
from pipeline.service import retraining
from tests.local.samples import wait_until

ROLE = "arn:aws:iam::000000000000:role/local"
TARGET = {"Arn": arn("pipeline", "p"), "RoleArn": ROLE, "SageMakerPipelineParameters": {
    "PipelineParameterList": [{"Name": "Text", "Value": "by schedule"}]}}  # fmt: skip
WINDOW = {"FlexibleTimeWindow": {"Mode": "OFF"}}


def test_schedules_are_made_changed_listed_and_deleted(tmp_path: Path) -> None:
    client = session(tmp_path).client("scheduler")
    wanted = {"Name": "one", "ScheduleExpression": "rate(7 days)", "Target": TARGET, **WINDOW}
    made = client.create_schedule(**wanted, Description="weekly", ScheduleExpressionTimezone="Europe/Berlin")
    assert made["ScheduleArn"].endswith(":schedule/default/one")
    found = client.get_schedule(Name="one", GroupName="default")
    assert (found["State"], found["Target"], found["Description"]) == ("ENABLED", TARGET, "weekly")
    client.create_schedule(**{**wanted, "Name": "other", "State": "DISABLED"})
    client.update_schedule(**{**wanted, "ScheduleExpression": "rate(1 day)"})
    changed = client.get_schedule(Name="one")
    assert "Description" not in changed
    assert (changed["ScheduleExpressionTimezone"], changed["CreationDate"]) == ("UTC", found["CreationDate"])
    pages = client.get_paginator("list_schedules").paginate(PaginationConfig={"PageSize": 1})
    assert [each["Name"] for page in pages for each in page["Schedules"]] == ["one", "other"]
    (off,) = client.list_schedules(State="DISABLED", NamePrefix="o")["Schedules"]
    assert (off["Name"], off["Target"]) == ("other", {"Arn": TARGET["Arn"]})
    assert [group["Name"] for group in client.list_schedule_groups()["ScheduleGroups"]] == ["default"]
    client.delete_schedule(Name="one")
    refused = [
        (client.get_schedule, {"Name": "one"}, "ResourceNotFoundException"),
        (client.delete_schedule, {"Name": "one"}, "does not exist"),
        (client.create_schedule, {**wanted, "Name": "other"}, "ConflictException"),
        (client.create_schedule, {**wanted, "GroupName": "mine"}, "group mine does not exist"),
        (client.create_schedule, {**wanted, "ScheduleExpression": "daily"}, "The schedule must be like"),
        (client.create_schedule, {**wanted, "ScheduleExpressionTimezone": "Nowhere"}, "is no time zone"),
        (client.create_schedule, {**wanted, "Target": {**TARGET, "Arn": "arn:aws:sqs:us-east-1:000000000000:q"}},
         "is no pipeline of this home"),
    ]  # fmt: skip
    for operation, request, said in refused:
        with pytest.raises(ClientError, match=said):
            operation(**request)


def test_what_is_due_is_started_once_with_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sagemaker, scheduler = (session(tmp_path).client(name) for name in ("sagemaker", "scheduler"))
    message = {"Get": "Parameters.Text"}
    definition = {"Version": "2020-12-01", "Parameters": [{"Name": "Text", "Type": "String"}],
                  "Steps": [{"Name": "Fail", "Type": "Fail", "Arguments": {"ErrorMessage": message}}]}  # fmt: skip
    sagemaker.create_pipeline(PipelineName="p", RoleArn=ROLE, PipelineDefinition=json.dumps(definition))
    soon = datetime.now(UTC) + timedelta(seconds=1)
    for name, target in (("works", TARGET), ("lost", {**TARGET, "Arn": arn("pipeline", "gone")})):
        scheduler.create_schedule(Name=name, ScheduleExpression=f"at({soon:%Y-%m-%dT%H:%M:%S})", Target=target,
                                  ActionAfterCompletion="DELETE" if name == "works" else "NONE", **WINDOW)  # fmt: skip
    scheduler.create_schedule(Name="ended", ScheduleExpression="rate(1 minute)", Target=TARGET,
                              EndDate=soon, **WINDOW)  # fmt: skip
    monkeypatch.setattr(retraining, "LOOK_SECONDS", 0.1)
    said: list[str] = []
    stopped = threading.Event()
    runner = threading.Thread(target=retraining.run_due, args=(tmp_path, stopped), kwargs={"say": said.append})
    runner.start()
    wait_until(lambda: len(said) == 2)
    stopped.wait(0.3)
    stopped.set()
    runner.join()
    works, lost = sorted(said, reverse=True)
    assert works.startswith("The schedule works has started arn:")
    assert "The schedule lost could not start its pipeline" in lost
    (summary,) = sagemaker.list_pipeline_executions(PipelineName="p")["PipelineExecutionSummaries"]
    request = {"PipelineExecutionArn": summary["PipelineExecutionArn"]}
    (parameter,) = sagemaker.list_pipeline_parameters_for_execution(**request)["PipelineParameters"]
    assert parameter["Value"] == "by schedule"
    created = sagemaker.describe_pipeline_execution(**request)["CreatedBy"]
    assert created["IamIdentity"] == {"SourceIdentity": "schedule"}
    assert [each["Name"] for each in scheduler.list_schedules()["Schedules"]] == ["ended", "lost"]
    wait_until(lambda: sagemaker.describe_pipeline_execution(**request)["PipelineExecutionStatus"] == "Failed")
