"""The stack: made on an empty account, made again, changed, and failing."""

import io
import json
import zipfile
from pathlib import Path
from re import escape

import pytest
from moto.awslambda.models import LambdaFunction
from moto.cloudformation.models import cloudformation_backends

from pipeline.aws import infra, stack
from pipeline.aws.stack import Change
from pipeline.compile.bundle import deploy_bundle
from pipeline.errors import ServiceError

NAME = "image-classification"


def test_on_an_empty_account_everything_is_proposed_and_nothing_is_left_of_a_refused_proposal(client, config):
    proposal = infra.propose(client, config)
    names = {change.name for change in proposal.changes}
    assert {change.action for change in proposal.changes} == {"add"}
    assert {"ArtifactBucket", "PipelineRole", "DeployFunction", "ApprovalRule"} <= names
    assert client("s3").list_buckets()["Buckets"] == client("iam").list_roles()["Roles"] == []
    stack.discard(client("cloudformation"), proposal)
    assert client("cloudformation").describe_stacks()["Stacks"] == []


def test_the_bucket_is_made_first_then_the_function_with_its_code_and_a_second_time_changes_nothing(client, config):
    proposal = infra.propose(client, config)
    told = list(infra.apply(client, config, proposal))
    made = stack.outputs(client, NAME)
    bucket, key = made["BucketName"], infra.code_key(config)
    uploaded = told.index(f"Code of the deploy function uploaded to s3://{bucket}/{key}")
    assert told.index("ArtifactBucket made") < uploaded < told.index("DeployFunction made")
    assert sorted(f"{change.name} made" for change in proposal.changes) == sorted(
        line for line in told if " made" in line
    )
    code = zipfile.ZipFile(io.BytesIO(client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()))
    assert code.namelist() == sorted(deploy_bundle().files)
    assert {member.date_time for member in code.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    function = client("lambda").get_function(FunctionName=config.aws.deploy_function)["Configuration"]
    assert (made["DeployFunctionArn"], "deploy.handler") == (function["FunctionArn"], function["Handler"])
    assert infra.propose(client, config) is None
    assert client("cloudformation").list_change_sets(StackName=NAME)["Summaries"][2:] == []


def test_the_function_is_told_what_the_configuration_says(client, config, made):
    function = client("lambda").get_function(FunctionName=made["DeployFunctionName"])["Configuration"]
    text = (Path(__file__).with_name("cases") / "function_variables.json").read_text()
    for name in ("EndpointRoleArn", "BucketName"):
        text = text.replace(f"{{{name}}}", made[name])
    assert {name: str(value) for name, value in function["Environment"]["Variables"].items()} == json.loads(text)


def test_a_changed_setting_modifies_what_it_is_about(client, made, configured, apply):
    longer = configured(aws={"log_retention_days": 90, "alarm_email": "team@example.com"})
    assert infra.propose(client, longer).changes == (
        Change("add", "AlarmSubscription", "AWS::SNS::Subscription"),
        Change("modify", "DeployLogGroup", "AWS::Logs::LogGroup"),
        Change("modify", "EndpointLogGroup", "AWS::Logs::LogGroup"),
    )
    assert apply(longer) == [
        "AlarmSubscription made", "DeployLogGroup changed", "EndpointLogGroup changed",
    ]  # fmt: skip
    [subscription] = client("sns").list_subscriptions()["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "team@example.com")
    assert infra.propose(client, longer) is None


def test_new_code_is_uploaded_and_updates_the_function(config, made, apply, monkeypatch):
    monkeypatch.setattr(infra, "code_key", lambda config: "image-classification/code/deploy-new/function.zip")
    place = f"s3://{made['BucketName']}/image-classification/code/deploy-new/function.zip"
    assert apply(config) == [f"Code of the deploy function uploaded to {place}", "DeployFunction changed"]


def test_a_bucket_of_the_user_is_used_in_one_step_and_not_made(client, configured, apply):
    client("s3").create_bucket(Bucket="my-own-bucket")
    told = apply(configured(aws={"bucket": "my-own-bucket"}))
    assert told[0].startswith("Code of the deploy function uploaded to s3://my-own-bucket/image-classification/code/")
    assert "DeployFunction made" in told
    assert stack.outputs(client, NAME)["BucketName"] == "my-own-bucket"
    assert [found["Name"] for found in client("s3").list_buckets()["Buckets"]] == ["my-own-bucket"]


def test_the_reason_of_a_failed_resource_is_one_sentence_and_a_repetition_starts_afresh(client, config, apply):
    client("logs").create_log_group(logGroupName="/aws/lambda/image-classification-deploy")
    with pytest.raises(
        ServiceError,
        match=escape(
            "could not be made, and everything was put back: DeployLogGroup (AWS::Logs::LogGroup) failed: The"
        ),
    ):
        apply(config)
    client("logs").delete_log_group(logGroupName="/aws/lambda/image-classification-deploy")
    assert "DeployFunction made" in apply(config)


def test_a_second_step_that_failed_is_made_up_for_by_the_next_application(client, config, apply, monkeypatch):
    def refuse(*arguments: object, **named: object) -> None:
        raise ValueError("The runtime parameter of python3.13 is not supported.")

    with (
        monkeypatch.context() as moto,
        pytest.raises(
            ServiceError,
            match=escape(
                "could not be changed, and everything was put back: DeployFunction (AWS::Lambda::Function) failed"
            ),
        ),
    ):
        moto.setattr(LambdaFunction, "create_from_cloudformation_json", refuse)
        apply(config)
    assert "DeployFunction made" in apply(config)


@pytest.mark.parametrize(
    ("status", "part"),
    [
        ("UPDATE_IN_PROGRESS", "is being changed (UPDATE_IN_PROGRESS): repeat the command once that has ended"),
        ("UPDATE_ROLLBACK_FAILED", "continue its rollback in the CloudFormation console, then repeat the command"),
        ("DELETE_FAILED", "delete it again with `run_pipeline.py teardown`"),
    ],
)
def test_a_stack_that_cannot_be_changed_now_is_left_alone(client, config, made, status, part):
    for found in cloudformation_backends["123456789012"]["us-east-1"].stacks.values():
        found.status = status
    with pytest.raises(ServiceError, match=escape(part)):
        infra.propose(client, config)


def test_a_stack_of_another_project_is_left_alone(client, config):
    template = '{"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}'
    client("cloudformation").create_stack(StackName=NAME, TemplateBody=template)
    with pytest.raises(
        ServiceError, match=escape("Stack 'image-classification' is another project's: choose another aws.project")
    ):
        infra.propose(client, config)
    client("cloudformation").delete_stack(StackName=NAME)
    request = {"StackName": NAME, "ChangeSetName": "left", "ChangeSetType": "CREATE", "TemplateBody": template}
    client("cloudformation").create_change_set(**request)  # which nobody executed; a stack has its tags only then
    assert infra.propose(client, config)


def test_two_environments_live_side_by_side(client, configured, apply):
    for name in ("staging", "prod"):
        apply(configured(name, environments={"staging": {}, "prod": {"deploy": {"instance_count": 2}}}))
    functions = {found["FunctionName"] for found in client("lambda").list_functions()["Functions"]}
    assert functions == {"image-classification-deploy-staging", "image-classification-deploy-prod"}
    stacks = {found["StackName"] for found in client("cloudformation").describe_stacks()["Stacks"]}
    assert stacks == {"image-classification-staging", "image-classification-prod"}


def test_the_model_package_group_is_made_once(client, config):
    assert infra.ensure_model_group(client, config)
    assert not infra.ensure_model_group(client, config)
