"""Pipelines through boto3 clients, what is refused, and the user's own AWS settings beside them."""

import json
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from pipeline.local import session
from pipeline.local.sagemaker.api import SAGEMAKER
from pipeline.local.store.storage import Storage
from tests.local.sagemaker.home import ROLE, refusal
from tests.local.samples import ROOT, definition, python_step

TOKEN = {"ClientRequestToken": "t" * 32}


def test_pipelines_are_created_changed_and_deleted(home):
    client = home.sagemaker
    request = {"PipelineName": "mine", "PipelineDefinition": json.dumps(definition(python_step("A", "pass")))}
    arn = client.create_pipeline(**request, RoleArn=ROLE, **TOKEN)["PipelineArn"]
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:pipeline/mine"
    again = refusal(client.create_pipeline, **request, RoleArn=ROLE, **TOKEN)
    assert again == ("ValidationException", "Pipeline names must be unique; 'mine' exists.")
    client.update_pipeline(PipelineName="mine", PipelineDescription="new")
    for name in ("mine", arn):
        found = client.describe_pipeline(PipelineName=name)
        assert (found["PipelineDefinition"], found["PipelineDescription"]) == (request["PipelineDefinition"], "new")
        assert (found["PipelineStatus"], found["RoleArn"]) == ("Active", ROLE)
        assert found["CreationTime"] <= found["LastModifiedTime"]
    listed = client.list_pipelines(PipelineNamePrefix="mi")["PipelineSummaries"]
    assert [found["PipelineName"] for found in listed] == ["mine"]
    assert client.delete_pipeline(PipelineName="mine", **TOKEN)["PipelineArn"] == arn
    for call in (client.describe_pipeline, client.list_pipeline_executions):
        assert refusal(call, PipelineName="mine")[1] == "Could not find pipeline 'mine'."


def test_a_definition_may_be_given_by_its_place_in_s3(home):
    content = json.dumps(definition(python_step("A", "pass")))
    Storage(home.state).write("s3://other/definitions/large.json", content.encode())
    request = {"PipelineName": "large", "RoleArn": ROLE}
    where = {"Bucket": "other", "ObjectKey": "definitions/large.json"}
    home.sagemaker.create_pipeline(**request, PipelineDefinitionS3Location=where)
    assert home.sagemaker.describe_pipeline(PipelineName="large")["PipelineDefinition"] == content
    home.sagemaker.delete_pipeline(PipelineName="large", **TOKEN)
    where["ObjectKey"] = "definitions/none.json"
    said = refusal(home.sagemaker.create_pipeline, **request, PipelineDefinitionS3Location=where)[1]
    assert said.startswith("s3://other/definitions/none.json does not exist in the local S3 at ")


NO_LIST = "The definition is not a pipeline definition: it has no list 'Steps'."
NOT_JSON = "The definition is not JSON: Expecting value: line 1 column 1 (char 0)."


@pytest.mark.parametrize(("text", "sentence"), [("not json", NOT_JSON), ("[]", NO_LIST), ("{}", NO_LIST)])
def test_a_definition_that_cannot_be_run_is_refused(home, text, sentence):
    request = {"PipelineName": "bad", "PipelineDefinition": text, "RoleArn": ROLE}
    assert refusal(home.sagemaker.create_pipeline, **request) == ("ValidationException", sentence)


EXECUTION = "arn:aws:sagemaker:us-east-1:000000000000:pipeline/p/execution/x"


@pytest.mark.parametrize(
    ("operation", "member", "name", "what"),
    [
        ("describe_endpoint", "EndpointName", "e", "endpoint"),
        ("delete_endpoint", "EndpointName", "e", "endpoint"),
        ("describe_model", "ModelName", "m", "model"),
        ("describe_training_job", "TrainingJobName", "t", "training job"),
        ("describe_processing_job", "ProcessingJobName", "p", "processing job"),
        ("describe_transform_job", "TransformJobName", "t", "transform job"),
        ("describe_pipeline_execution", "PipelineExecutionArn", EXECUTION, "pipeline execution"),
    ],
)
def test_what_is_not_there_is_refused_in_the_services_words(home, operation, member, name, what):
    said = refusal(getattr(home.sagemaker, operation), **{member: name})
    assert said == ("ValidationException", f"Could not find {what} {name!r}.")


ROLE_REQUEST = {"RoleArn": ROLE, "RoleSessionName": "me"}
UNANSWERED: list[tuple[str, str, dict[str, Any], str]] = [
    ("sagemaker", "list_apps", {}, "ListApps"),
    ("ec2", "describe_regions", {}, "DescribeRegions"),
    ("sts", "assume_role", ROLE_REQUEST, "AssumeRole"),
    ("logs", "describe_log_groups", {}, "DescribeLogGroups"),
    ("lambda", "list_functions", {}, "ListFunctions"),
    (
        "sagemaker-runtime",
        "invoke_endpoint_async",
        {"EndpointName": "e", "InputLocation": "s3://b/x"},
        "InvokeEndpoint",
    ),
]


@pytest.mark.parametrize(("service", "operation", "request_", "name"), UNANSWERED, ids=lambda value: str(value)[:20])
def test_any_other_operation_is_refused_by_name(home, service, operation, request_, name):
    assert set(SAGEMAKER) <= set(home.sagemaker.meta.service_model.operation_names)
    said = refusal(getattr(home.session.client(service), operation), **request_)[1]
    assert said.startswith(f"The local target does not answer {service}:{name}")


def test_tags_are_kept(home):
    client = home.sagemaker
    request = {"ModelName": "tagged", "ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": "i"}}
    arn = client.create_model(**request, Tags=[{"Key": "a", "Value": "1"}])["ModelArn"]
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "b", "Value": "2"}, {"Key": "c", "Value": "3"}])
    client.delete_tags(ResourceArn=arn, TagKeys=["b"])
    assert client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "1"}, {"Key": "c", "Value": "3"}]


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_PROFILE": "nobody"},
        {"AWS_ENDPOINT_URL": "http://localhost:4566", "AWS_ENDPOINT_URL_S3": "http://localhost:4566"},
        {"AWS_DEFAULT_REGION": "no region!", "AWS_REGION": "eu-west-1"},
        {"AWS_CA_BUNDLE": "/nowhere", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_MAX_ATTEMPTS": "many", "AWS_RETRY_MODE": "wild", "AWS_DEFAULTS_MODE": "odd"},
        {"AWS_CONFIG_FILE": str(ROOT / "Makefile"), "AWS_SHARED_CREDENTIALS_FILE": str(ROOT / "Makefile")},
        {"HTTPS_PROXY": "http://localhost:1", "HTTP_PROXY": "http://localhost:1"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_users_own_aws_settings_change_nothing(home, monkeypatch, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    aws = session(home.state.home)
    assert aws.client("logs").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")["logStreams"]
    assert aws.client("sts").get_caller_identity()["Account"] == "000000000000"
    s3 = aws.client("s3")
    s3.put_object(Bucket="bucket", Key="k", Body=b"v")
    assert s3.get_object(Bucket="bucket", Key="k")["Body"].read() == b"v"
    with pytest.raises(ClientError, match="Endpoint e of account 000000000000 not found"):
        aws.client("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=b"")


def test_a_session_beside_it_is_not_answered_here():
    other = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    elsewhere = {"endpoint_url": "http://127.0.0.1:9", "config": Config(retries={"max_attempts": 0})}
    with pytest.raises(EndpointConnectionError):
        other.client("sagemaker", **elsewhere).list_pipelines()
