"""An execution of every step type, described to real boto3 clients, which parse the answers."""

import json
from pathlib import Path

import pytest

from tests.local.sagemaker.test_scenarios import check

CASES = json.loads((Path(__file__).parent / "cases/run/described.json").read_text())


def test_the_run_went_to_the_end_that_the_definition_says(home):
    names = ["Process", "Train", "Tune", "Model", "Register", "Transform", "Hello", "Check"]
    assert home.report.statuses == {**dict.fromkeys(names, "Succeeded"), "No": "it is so"}
    assert home.report.document["status"] == "Failed"


@pytest.mark.parametrize("name", CASES)
def test_described(name, home):
    text = json.dumps(CASES[name], ensure_ascii=False).replace("{execution}", home.execution)
    for step in ("Process", "Train", "Tune", "Model", "Transform"):
        text = text.replace(f"{{{step}}}", home.job(step))
    check(home.session, json.loads(text))


def test_times_are_in_order_and_lines_have_the_time_of_their_job(home):
    client, logs = home.sagemaker, home.session.client("logs")
    arn = {"PipelineExecutionArn": home.execution}
    assert json.loads(client.describe_pipeline_definition_for_execution(**arn)["PipelineDefinition"]) == home.definition
    execution, step = client.describe_pipeline_execution(**arn), home.steps["Process"]
    job = client.describe_processing_job(ProcessingJobName=home.job("Process"))
    started, ended = job["ProcessingStartTime"], job["ProcessingEndTime"]
    assert execution["CreationTime"] <= step["StartTime"] <= started <= ended <= step["EndTime"]
    which = {"logGroupName": "/aws/sagemaker/ProcessingJobs", "logStreamName": f"{home.job('Process')}/algo-1"}
    time = logs.get_log_events(**which)["events"][0]["timestamp"]
    assert abs(time - job["CreationTime"].timestamp() * 1000) < 1
