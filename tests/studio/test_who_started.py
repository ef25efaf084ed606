"""Who started an execution, and by what: the page, a client of the API."""

import getpass
import json

from tests.local.samples import wait_until
from tests.studio.conftest import Studio

FAIL = {"Name": "Fail", "Type": "Fail", "Arguments": {"ErrorMessage": "as it should"}}
DEFINITION = json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": [FAIL]})


def test_an_execution_says_who_started_it_and_by_what(studio: Studio) -> None:
    client = studio.client("sagemaker")
    client.create_pipeline(PipelineName="p", RoleArn="arn:aws:iam::000000000000:role/r", PipelineDefinition=DEFINITION)
    client.start_pipeline_execution(PipelineName="p", PipelineExecutionDisplayName="by-a-client")
    assert studio.post("/start/p", {"PipelineExecutionDisplayName": "by-the-page"}).ok
    wait_until(lambda: not running(client))
    found = [each["PipelineExecution"] for each in client.search(Resource="PipelineExecution")["Results"]]
    by = {each["PipelineExecutionDisplayName"]: each["CreatedBy"]["IamIdentity"]["SourceIdentity"] for each in found}
    assert by == {"by-a-client": "API", "by-the-page": "studio"}
    assert {each["CreatedBy"]["UserProfileName"] for each in found} == {getpass.getuser()}
    assert all(word in studio.get("/executions").text for word in (getpass.getuser(), "API", "studio"))


def running(client) -> bool:
    statuses = [each["PipelineExecutionStatus"] for each in
                client.list_pipeline_executions(PipelineName="p")["PipelineExecutionSummaries"]]  # fmt: skip
    return "Executing" in statuses
