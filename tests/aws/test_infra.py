"""The stack: made on an empty account, made again, changed, and failing."""

import io
import zipfile
from pathlib import Path

import pytest
from moto.awslambda.models import LambdaFunction

from pipeline.aws import deploy_code, infra, model_group, stack
from pipeline.aws.infra import Proposal
from pipeline.aws.stack import Change
from pipeline.compile.bundle import deploy_bundle
from pipeline.errors import ServiceError

OUTPUTS = {
    "BucketName", "TrainingRepositoryUri", "InferenceRepositoryUri", "PipelineRoleArn", "EndpointRoleArn",
    "DeployFunctionArn", "DeployFunctionName", "SchedulerRoleArn", "AlarmTopicArn", "ScheduleName", "ErrorAlarmName",
    "LatencyAlarmName", "DeadLetterQueueUrl",
}  # fmt: skip


def apply(client, config) -> list[str]:
    return list(infra.apply(client, config, infra.propose(client, config)))


def test_on_an_empty_account_everything_is_proposed_and_nothing_is_changed(client, config):
    proposal = infra.propose(client, config)
    names = {change.name for change in proposal.changes}
    assert {change.action for change in proposal.changes} == {"add"}
    assert {"ArtifactBucket", "PipelineRole", "DeployFunction", "ApprovalRule"} <= names
    assert client("s3").list_buckets()["Buckets"] == []
    assert client("iam").list_roles()["Roles"] == []


def test_a_proposal_that_is_not_wanted_leaves_no_stack(client, config):
    infra.discard(client, infra.propose(client, config))
    assert client("cloudformation").describe_stacks()["Stacks"] == []
    assert infra.propose(client, config).code_follows


def test_the_first_application_makes_the_bucket_then_the_function_with_its_code(client, config):
    told = apply(client, config)
    bucket = stack.outputs(client, "image-classification")["BucketName"]
    key = deploy_code.key("image-classification")
    uploaded = told.index(f"Code of the deploy function uploaded to s3://{bucket}/{key}")
    assert told.index("ArtifactBucket made") < uploaded < told.index("DeployFunction made")
    code = client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert zipfile.ZipFile(io.BytesIO(code)).namelist() == sorted(deploy_bundle().files)


def test_the_outputs_are_those_that_the_rest_of_the_product_reads(client, config, made):
    assert made.keys() == OUTPUTS
    assert made["DeployFunctionName"] == config.aws.deploy_function
    function = client("lambda").get_function(FunctionName=made["DeployFunctionName"])["Configuration"]
    assert made["DeployFunctionArn"] == function["FunctionArn"]
    assert (function["Handler"], function["Role"] != made["PipelineRoleArn"]) == ("deploy.handler", True)


def test_the_function_is_told_what_the_configuration_says(client, config, made):
    function = client("lambda").get_function(FunctionName=made["DeployFunctionName"])["Configuration"]
    variables = function["Environment"]["Variables"]
    assert {name: str(value) for name, value in variables.items()} == {
        "ENDPOINT_NAME": "image-classification",
        "EXECUTION_ROLE_ARN": made["EndpointRoleArn"],
        "INSTANCE_TYPE": "ml.m5.large",
        "INITIAL_INSTANCE_COUNT": "1",
        "CANARY_FRACTION": "0.3",
        "CANARY_WAIT_SECONDS": "300",
        "ROLLBACK_ALARMS": "image-classification-endpoint-5xx,image-classification-endpoint-latency",
        "AUTOSCALING_MIN": "1",
        "AUTOSCALING_MAX": "1",
        "AUTOSCALING_TARGET": "600",
        "DATA_CAPTURE_PERCENT": "0",
        "DATA_CAPTURE_URI": f"s3://{made['BucketName']}/image-classification/capture",
        "SERVERLESS_MEMORY_MB": "0",
        "SERVERLESS_MAX_CONCURRENCY": "5",
        "KEEP_VERSIONS": "3",
        "SUBNET_IDS": "",
        "SECURITY_GROUP_IDS": "",
        "KMS_KEY_ARN": "",
        "CHAMPION_URI": f"s3://{made['BucketName']}/image-classification/champion",
        "NETWORK_ISOLATION": "false",
        "TAGS": '{"pipeline-stack": "image-classification"}',
    }


def test_a_second_application_changes_nothing(client, config, made):
    again = infra.propose(client, config)
    assert again == Proposal(None, (), code_follows=False)
    assert again.is_empty
    assert list(infra.apply(client, config, again)) == []
    assert client("cloudformation").list_change_sets(StackName="image-classification")["Summaries"][2:] == []
    assert infra.is_current(client, config)


def test_a_changed_setting_modifies_what_it_is_about(client, config, made, change):
    longer = change(config, "aws", log_retention_days=90)
    proposal = infra.propose(client, longer)
    assert proposal.changes == (
        Change("modify", "DeployLogGroup", "AWS::Logs::LogGroup"),
        Change("modify", "EndpointLogGroup", "AWS::Logs::LogGroup"),
    )
    assert list(infra.apply(client, longer, proposal)) == ["DeployLogGroup changed", "EndpointLogGroup changed"]
    assert infra.propose(client, longer).is_empty


def test_new_code_is_uploaded_and_updates_the_function(client, config, made, monkeypatch):
    monkeypatch.setattr(deploy_code, "key", lambda pipeline_name: f"{pipeline_name}/code/deploy-new/function.zip")
    assert not infra.is_current(client, config)
    told = apply(client, config)
    bucket = made["BucketName"]
    assert told[0] == (
        f"Code of the deploy function uploaded to s3://{bucket}/image-classification/code/deploy-new/function.zip"
    )
    assert told[1:] == ["DeployFunction changed"]
    assert infra.is_current(client, config)


def test_a_bucket_of_the_user_is_used_in_one_step_and_not_made(client, config, change):
    client("s3").create_bucket(Bucket="my-own-bucket")
    own = change(config, "aws", bucket="my-own-bucket")
    proposal = infra.propose(client, own)
    assert not proposal.code_follows
    assert "ArtifactBucket" not in {item.name for item in proposal.changes}
    told = list(infra.apply(client, own, proposal))
    assert told[0].startswith("Code of the deploy function uploaded to s3://my-own-bucket/image-classification/code/")
    assert "DeployFunction made" in told
    assert stack.outputs(client, "image-classification")["BucketName"] == "my-own-bucket"
    assert [found["Name"] for found in client("s3").list_buckets()["Buckets"]] == ["my-own-bucket"]


def test_the_reason_of_a_failed_resource_is_one_sentence_and_a_repetition_starts_afresh(client, config):
    client("logs").create_log_group(logGroupName="/aws/lambda/image-classification-deploy")
    with pytest.raises(ServiceError) as caught:
        apply(client, config)
    assert str(caught.value) == (
        "Stack 'image-classification' could not be made, and everything was put back: DeployLogGroup "
        "(AWS::Logs::LogGroup) failed: The specified log group already exists"
    )
    client("logs").delete_log_group(logGroupName="/aws/lambda/image-classification-deploy")
    assert "DeployFunction made" in apply(client, config)


def test_a_second_step_that_failed_is_made_up_for_by_the_next_application(client, config):
    def refuse(*arguments: object, **named: object) -> None:
        raise ValueError("The runtime parameter of python3.13 is not supported.")

    with pytest.MonkeyPatch.context() as moto:
        moto.setattr(LambdaFunction, "create_from_cloudformation_json", refuse)
        with pytest.raises(ServiceError) as caught:
            apply(client, config)
    assert str(caught.value) == (
        "Stack 'image-classification' could not be changed, and everything was put back: DeployFunction "
        "(AWS::Lambda::Function) failed: The runtime parameter of python3.13 is not supported."
    )
    again = infra.propose(client, config)
    assert not again.code_follows
    assert "DeployFunction made" in list(infra.apply(client, config, again))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (
            "UPDATE_IN_PROGRESS",
            "Stack 'image-classification' is being changed (UPDATE_IN_PROGRESS): repeat the command once that has "
            "ended.",
        ),
        (
            "UPDATE_ROLLBACK_FAILED",
            "Stack 'image-classification' is UPDATE_ROLLBACK_FAILED: continue its rollback in the CloudFormation "
            "console, then repeat the command.",
        ),
    ],
)
def test_a_stack_that_cannot_be_changed_now_is_left_alone(client, config, made, status, sentence):
    from moto.cloudformation.models import cloudformation_backends

    for found in cloudformation_backends["123456789012"]["us-east-1"].stacks.values():
        found.status = status
    with pytest.raises(ServiceError) as caught:
        infra.propose(client, config)
    assert str(caught.value) == sentence


def test_without_a_stack_the_outputs_say_how_to_make_it(client, config):
    with pytest.raises(ServiceError) as caught:
        stack.outputs(client, "image-classification")
    assert str(caught.value) == (
        "There is no stack 'image-classification' in this account and region: `run_pipeline.py infra` makes it."
    )


def test_two_environments_live_side_by_side(client, tmp_path):
    from pipeline.config.config import load

    (tmp_path / "pipeline.yaml").write_text("environments: {staging: {}, prod: {deploy: {instance_count: 2}}}\n")
    for name in ("staging", "prod"):
        apply(client, load(tmp_path / "pipeline.yaml", name))
    functions = {found["FunctionName"] for found in client("lambda").list_functions()["Functions"]}
    assert functions == {"image-classification-deploy-staging", "image-classification-deploy-prod"}
    stacks = {found["StackName"] for found in client("cloudformation").describe_stacks()["Stacks"]}
    assert stacks == {"image-classification-staging", "image-classification-prod"}


def test_the_email_address_is_subscribed_to_the_alarms(client, config, change):
    apply(client, change(config, "aws", alarm_email="team@example.com"))
    found = client("sns").list_subscriptions()["Subscriptions"]
    assert [(item["Protocol"], item["Endpoint"]) for item in found] == [("email", "team@example.com")]


def test_the_archive_of_the_code_is_the_same_every_time():
    archive = deploy_code.archive(deploy_bundle())
    assert archive == deploy_code.archive(deploy_bundle())
    assert {member.date_time for member in zipfile.ZipFile(io.BytesIO(archive)).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_model_package_group_is_made_once(client, config):
    assert model_group.ensure(client, config)
    assert not model_group.ensure(client, config)


def test_the_template_fits_into_a_request():
    assert len((Path(infra.__file__).parent / "stack.yaml").read_bytes()) <= 51200
