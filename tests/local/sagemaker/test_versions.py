"""Versions of pipelines: made by other definitions, described and started by number and alias; who started what."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local import session
from tests.local.samples import wait_until

ROLE = "arn:aws:iam::000000000000:role/local-pipeline"


def definition(message: str) -> str:
    fail = {"Name": "Fail", "Type": "Fail", "Arguments": {"ErrorMessage": message}}
    return json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": [fail]})


def ended(client: Any, arn: str) -> dict[str, Any]:
    wait_until(
        lambda: client.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"] == "Failed"
    )
    return dict(client.describe_pipeline_execution(PipelineExecutionArn=arn))


def test_another_definition_makes_a_version_which_executions_keep(tmp_path: Path) -> None:
    client = session(tmp_path).client("sagemaker")
    name = {"PipelineName": "p"}
    arn = client.create_pipeline(**name, RoleArn=ROLE, PipelineDefinition=definition("one"),
                                 PipelineVersionAliases=["prod", "first"])["PipelineArn"]  # fmt: skip
    assert client.update_pipeline(**name, PipelineDescription="described")["PipelineVersionId"] == 1
    assert client.update_pipeline(**name, PipelineDefinition=definition("two"))["PipelineVersionId"] == 2
    assert client.update_pipeline(**name, PipelineDefinition=definition("two"))["PipelineVersionId"] == 2

    def text(**version: Any) -> str:
        found = client.describe_pipeline(**name, **version)
        return str(json.loads(found["PipelineDefinition"])["Steps"][0]["Arguments"]["ErrorMessage"])

    assert [text(), text(PipelineVersionId=1), text(PipelineVersionAlias="prod")] == ["two", "one", "one"]
    started = [client.start_pipeline_execution(**name, **version)["PipelineExecutionArn"]
               for version in ({"PipelineVersionAlias": "first"}, {"PipelineVersionId": 2})]  # fmt: skip
    reasons = []
    for execution in started:
        ended(client, execution)
        (step,) = client.list_pipeline_execution_steps(PipelineExecutionArn=execution)["PipelineExecutionSteps"]
        reasons.append(step["FailureReason"])
    assert reasons == ["one", "two"]
    described = ended(client, started[0])
    assert (described["PipelineVersionId"], described["PipelineVersionAliases"]) == (1, ["prod", "first"])
    assert described["CreatedBy"] == {
        "UserProfileName": getpass.getuser(), "IamIdentity": {"SourceIdentity": "API"}
    }  # fmt: skip
    of_prod = client.list_pipeline_executions(**name, PipelineVersionAlias="prod")["PipelineExecutionSummaries"]
    assert [each["PipelineExecutionArn"] for each in of_prod] == started[:1]
    assert client.describe_pipeline(**name)["LastRunTime"] == ended(client, started[1])["CreationTime"]

    operations = {"Remove": ["prod"], "Add": ["old"]}
    client.update_pipeline_version(PipelineArn=arn, PipelineVersionId=1, PipelineVersionDisplayName="the-first",
                                   PipelineVersionAliasOperations=operations)  # fmt: skip
    client.update_pipeline_version(
        PipelineArn=arn, PipelineVersionId=2, PipelineVersionAliasOperations={"Add": ["prod"]}
    )
    second, first = client.list_pipeline_versions(PipelineName=arn)["PipelineVersionSummaries"]
    assert (first["PipelineVersionAliases"], first["PipelineVersionDisplayName"]) == (["first", "old"], "the-first")
    assert (second["PipelineVersionAliases"], second["PipelineVersionId"]) == (["prod"], 2)
    assert second["LastExecutionPipelineExecutionArn"] == started[1]
    assert text(PipelineVersionAlias="prod") == "two"
    refused = [
        (client.describe_pipeline, {**name, "PipelineVersionId": 7}, "ResourceNotFound.*has no version 7"),
        (client.describe_pipeline, {**name, "PipelineVersionAlias": "none"}, "ResourceNotFound.*alias 'none'"),
        (client.describe_pipeline, {**name, "PipelineVersionAlias": "old", "PipelineVersionId": 1}, "not both"),
        (client.start_pipeline_execution, {**name, "PipelineVersionId": 3}, "has no version 3"),
        (client.update_pipeline, {**name, "PipelineVersionAliases": ["x"]}, "has not changed"),
        (client.update_pipeline_version, {"PipelineArn": arn, "PipelineVersionId": 1, "PipelineVersionAliasOperations":
                                          {"Add": ["prod"]}}, "ConflictException.*is of version 2"),
        (client.update_pipeline_version, {"PipelineArn": arn, "PipelineVersionId": 1, "PipelineVersionAliasOperations":
                                          {"Remove": ["prod"]}}, "has no alias 'prod'"),
    ]  # fmt: skip
    for operation, request, said in refused:
        with pytest.raises(ClientError, match=said):
            operation(**request)
    client.delete_pipeline(**name)
    client.create_pipeline(**name, RoleArn=ROLE, PipelineDefinition=definition("three"))
    (only,) = client.list_pipeline_versions(**name)["PipelineVersionSummaries"]
    assert (only["PipelineVersionId"], only["PipelineVersionAliases"]) == (1, [])
    kept = client.describe_pipeline_definition_for_execution(PipelineExecutionArn=started[0])
    assert "one" in kept["PipelineDefinition"]
