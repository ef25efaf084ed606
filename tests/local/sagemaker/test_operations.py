"""Pipelines through boto3 clients, what is refused, and the user's own AWS settings beside them."""

import json

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from pipeline.local.sagemaker.api import SAGEMAKER
from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.storage import Storage
from tests.local.sagemaker.home import ROLE, refusal
from tests.local.samples import ROOT, definition, python_step

TRAINING_LOGS = "/aws/sagemaker/TrainingJobs"


def test_pipelines_are_created_changed_and_deleted(home):
    client = home.sagemaker
    request = {"PipelineName": "mine", "PipelineDefinition": json.dumps(definition(python_step("A", "pass")))}
    arn = client.create_pipeline(**request, RoleArn=ROLE, ClientRequestToken="t" * 32)["PipelineArn"]
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:pipeline/mine"
    assert refusal(client.create_pipeline, **request, RoleArn=ROLE, ClientRequestToken="t" * 32) == (
        "ValidationException",
        "Pipeline names must be unique; 'mine' exists.",
    )
    client.update_pipeline(PipelineName="mine", PipelineDescription="new")
    for name in ("mine", arn):
        found = client.describe_pipeline(PipelineName=name)
        assert (found["PipelineDefinition"], found["PipelineDescription"]) == (request["PipelineDefinition"], "new")
        assert (found["PipelineStatus"], found["RoleArn"]) == ("Active", ROLE)
        assert found["CreationTime"] <= found["LastModifiedTime"]
    listed = client.list_pipelines(PipelineNamePrefix="mi")["PipelineSummaries"]
    assert [found["PipelineName"] for found in listed] == ["mine"]
    assert client.delete_pipeline(PipelineName="mine", ClientRequestToken="t" * 32)["PipelineArn"] == arn
    assert refusal(client.describe_pipeline, PipelineName="mine")[1] == "Could not find pipeline 'mine'."
    assert refusal(client.list_pipeline_executions, PipelineName="mine")[1] == "Could not find pipeline 'mine'."


def test_a_definition_may_be_given_by_its_place_in_s3(home):
    content = json.dumps(definition(python_step("A", "pass")))
    Storage(home.state).write("s3://other/definitions/large.json", content.encode())
    where = {"Bucket": "other", "ObjectKey": "definitions/large.json"}
    home.sagemaker.create_pipeline(PipelineName="large", PipelineDefinitionS3Location=where, RoleArn=ROLE)
    assert home.sagemaker.describe_pipeline(PipelineName="large")["PipelineDefinition"] == content
    home.sagemaker.delete_pipeline(PipelineName="large", ClientRequestToken="t" * 32)
    where["ObjectKey"] = "definitions/none.json"
    said = refusal(
        home.sagemaker.create_pipeline, PipelineName="none", PipelineDefinitionS3Location=where, RoleArn=ROLE
    )
    assert said[1].startswith("s3://other/definitions/none.json does not exist in the local S3 at ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not json", "The definition is not JSON: Expecting value: line 1 column 1 (char 0)."),
        ("[]", "The definition is not a pipeline definition: it has no list 'Steps'."),
        ("{}", "The definition is not a pipeline definition: it has no list 'Steps'."),
    ],
)
def test_a_definition_that_cannot_be_run_is_refused(home, text, sentence):
    request = {"PipelineName": "bad", "PipelineDefinition": text, "RoleArn": ROLE}
    assert refusal(home.sagemaker.create_pipeline, **request) == ("ValidationException", sentence)


def test_what_is_not_there_is_refused_in_the_services_words(home):
    client = home.sagemaker
    assert refusal(client.describe_endpoint, EndpointName="e") == (
        "ValidationException",
        "Could not find endpoint 'e'.",
    )
    for call, request, sentence in (
        (client.describe_model, {"ModelName": "m"}, "Could not find model 'm'."),
        (client.describe_training_job, {"TrainingJobName": "t"}, "Could not find training job 't'."),
        (client.describe_processing_job, {"ProcessingJobName": "p"}, "Could not find processing job 'p'."),
        (client.describe_transform_job, {"TransformJobName": "t"}, "Could not find transform job 't'."),
        (client.delete_endpoint, {"EndpointName": "e"}, "Could not find endpoint 'e'."),
        (
            client.describe_pipeline_execution,
            {"PipelineExecutionArn": "arn:aws:sagemaker:us-east-1:000000000000:pipeline/p/execution/x"},
            "Could not find pipeline execution 'arn:aws:sagemaker:us-east-1:000000000000:pipeline/p/execution/x'.",
        ),
    ):
        assert refusal(call, **request) == ("ValidationException", sentence)


def test_every_operation_is_one_of_sagemakers_and_any_other_is_refused_by_name(home):
    known = home.sagemaker.meta.service_model.operation_names
    assert set(SAGEMAKER) <= set(known)
    assert refusal(home.sagemaker.list_apps) == (
        "UnknownOperationException",
        "The local target does not answer sagemaker:ListApps.",
    )
    for service, operation, name in (
        ("ec2", "describe_regions", "DescribeRegions"),
        ("sts", "assume_role", "AssumeRole"),
    ):
        request = {"RoleArn": ROLE, "RoleSessionName": "me"} if service == "sts" else {}
        with pytest.raises(ClientError, match=f"The local target does not answer {service}:{name}"):
            getattr(home.session.client(service), operation)(**request)
    with pytest.raises(ClientError, match="does not answer sagemaker-runtime:InvokeEndpointAsync"):
        home.session.client("sagemaker-runtime").invoke_endpoint_async(EndpointName="e", InputLocation="s3://b/x")


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
    session = local_session(home.state)
    assert session.client("logs").describe_log_streams(logGroupName=TRAINING_LOGS)["logStreams"]
    assert session.client("sts").get_caller_identity()["Account"] == "000000000000"
    s3 = session.client("s3")
    s3.put_object(Bucket="bucket", Key="k", Body=b"v")
    assert s3.get_object(Bucket="bucket", Key="k")["Body"].read() == b"v"
    with pytest.raises(ClientError, match="Endpoint e of account 000000000000 not found"):
        session.client("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=b"")


def test_a_session_beside_it_is_not_answered_here(home):
    other = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    elsewhere = {"endpoint_url": "http://127.0.0.1:9", "config": Config(retries={"max_attempts": 0})}
    with pytest.raises(EndpointConnectionError):
        other.client("sagemaker", **elsewhere).list_pipelines()
