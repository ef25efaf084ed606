"""The stack: made on an empty account, made again, changed, and failing."""

import io
import json
import zipfile
from pathlib import Path
from re import escape

import pytest
from moto.awslambda.models import LambdaFunction
from moto.cloudformation.models import cloudformation_backends
from moto.s3.models import s3_backends
from policies import allows

from pipeline.aws import infra, stack
from pipeline.aws.stack import Change
from pipeline.compile.bundle import DEPLOY, bundle
from pipeline.errors import ServiceError

NAME = "image-classification"
ROOT_OF_OTHER = "arn:aws:iam::210987654321:root"


def test_on_an_empty_account_everything_is_proposed_and_nothing_is_left_of_a_refused_proposal(client, config):
    proposal = infra.propose(client, config)
    names = {change.name for change in proposal.changes}
    assert {change.action for change in proposal.changes} == {"add"}
    assert {"ArtifactBucket", "JobRole", "DeployFunction", "InputsFunction", "ApprovalRule"} <= names
    assert client("s3").list_buckets()["Buckets"] == client("iam").list_roles()["Roles"] == []
    infra.discard(client, proposal)
    assert client("cloudformation").describe_stacks()["Stacks"] == []


def test_the_base_is_made_first_then_the_functions_with_their_code_and_a_second_time_changes_nothing(client, config):
    proposal = infra.propose(client, config)
    told = list(infra.apply(client, config, proposal))
    bucket = stack.outputs(client, NAME)["BucketName"]
    keys = {name: f"{code.key(config.pipeline.name)}/function.zip" for name, code in infra.function_bundles().items()}
    stored = [f"code of the {name.lower()} function stored as s3://{bucket}/{key}" for name, key in keys.items()]
    assert told == [f"stack {NAME} made", *stored, f"stack {NAME}-app made"]
    code = zipfile.ZipFile(io.BytesIO(client("s3").get_object(Bucket=bucket, Key=keys["Deploy"])["Body"].read()))
    assert code.namelist() == sorted(bundle(DEPLOY).files)
    assert {member.date_time for member in code.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for name, handler in ((config.aws.deploy_function, "deploy"), (config.aws.inputs_function, "describe_inputs")):
        function = client("lambda").get_function(FunctionName=name)["Configuration"]
        assert function["Handler"] == f"{handler}.handler"
    assert infra.propose(client, config) is None
    assert len(client("cloudformation").list_change_sets(StackName=NAME)["Summaries"]) == 2  # moto lists any stack's


def parameters(client, name: str) -> dict[str, str]:
    described = client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]["Parameters"]
    return {item["ParameterKey"]: item["ParameterValue"] for item in described}


def test_a_function_runs_the_version_of_its_code_that_was_stored(client, config, made, apply):
    """Neither a zip that lies under the next key already nor a later object of the same key becomes the function."""
    key = infra.code_key(config, infra.function_bundles()["Deploy"])
    given = parameters(client, f"{NAME}-app")
    content = client("s3").get_object(Bucket=made["BucketName"], Key=key, VersionId=given["DeployCodeVersion"])
    planted = client("s3").put_object(Bucket=made["BucketName"], Key=key, Body=b"planted")["VersionId"]
    assert [change.name for change in infra.propose(client, config).changes] == ["DeployFunction"]
    assert apply(config)[0].startswith("code of the deploy function replaced")
    renewed = parameters(client, f"{NAME}-app")["DeployCodeVersion"]
    assert renewed not in (planted, given["DeployCodeVersion"])
    again = client("s3").get_object(Bucket=made["BucketName"], Key=key, VersionId=renewed)
    assert again["Body"].read() == content["Body"].read()


def test_the_function_is_told_what_the_configuration_says(client, config, made):
    function = client("lambda").get_function(FunctionName=made["DeployFunctionName"])["Configuration"]
    text = (Path(__file__).with_name("cases") / "function_variables.json").read_text()
    for name in ("EndpointRoleArn", "BucketName"):
        text = text.replace(f"{{{name}}}", made[name])
    assert {name: str(value) for name, value in function["Environment"]["Variables"].items()} == json.loads(text)


def test_a_changed_setting_modifies_what_it_is_about(client, made, configured, apply):
    longer = configured(aws={"log_retention_days": 90, "alarm_email": "team@example.com"})
    groups = (Change("modify", f"{name}LogGroup", "AWS::Logs::LogGroup") for name in ("Deploy", "Endpoint", "Inputs"))
    subscribed = Change("add", "AlarmSubscription", "AWS::SNS::Subscription")
    assert infra.propose(client, longer).changes == (subscribed, *groups)
    assert apply(longer) == [f"stack {NAME} changed"]
    [subscription] = client("sns").list_subscriptions()["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "team@example.com")
    assert infra.propose(client, longer) is None


def test_new_code_is_stored_and_updates_the_function(config, made, apply, monkeypatch):
    monkeypatch.setattr(infra, "code_key", lambda config, code: f"image-classification/code/{code.entry_point}/new.zip")
    place = f"s3://{made['BucketName']}/image-classification/code"
    assert apply(config) == [
        f"code of the deploy function stored as {place}/deploy.py/new.zip",
        f"code of the inputs function stored as {place}/describe_inputs.py/new.zip",
        f"stack {NAME}-app changed",
    ]


def test_a_bucket_of_the_user_is_used_and_not_made(client, configured, apply):
    client("s3").create_bucket(Bucket="my-own-bucket")
    own = configured(aws={"bucket": "my-own-bucket"})
    assert "code of the deploy function stored as s3://my-own-bucket/image-classification/code/" in apply(own)[1]
    assert stack.outputs(client, NAME)["BucketName"] == "my-own-bucket"
    assert [found["Name"] for found in client("s3").list_buckets()["Buckets"]] == ["my-own-bucket"]
    assert infra.propose(client, own) is None  # though this bucket keeps no versions


def test_an_account_that_has_all_in_one_stack_gets_the_second_one(client, config, apply):
    properties = {"Name": f"{NAME}-approval", "EventPattern": {"source": ["aws.sagemaker"]}}
    rule = {"Type": "AWS::Events::Rule", "Properties": properties}
    single = json.dumps({"Resources": {"ApprovalRule": rule}})
    tags = [{"Key": "pipeline-stack", "Value": NAME}]
    client("cloudformation").create_stack(StackName=NAME, TemplateBody=single, Tags=tags)
    proposal = infra.propose(client, config)
    assert Change("move", "ApprovalRule", "AWS::Events::Rule") in proposal.changes
    told = list(infra.apply(client, config, proposal))
    assert (told[0], told[-1]) == (f"stack {NAME} changed", f"stack {NAME}-app made")
    pattern = client("events").describe_rule(Name=f"{NAME}-approval")["EventPattern"]
    assert json.loads(pattern)["detail"]["ModelApprovalStatus"] == ["Approved", "Rejected"]
    assert infra.propose(client, config) is None


def test_the_reason_of_a_failed_resource_is_one_sentence_and_a_repetition_starts_afresh(client, config, apply):
    client("logs").create_log_group(logGroupName="/aws/lambda/image-classification-deploy")
    part = "could not be made, and everything was put back: DeployLogGroup (AWS::Logs::LogGroup) failed: The"
    with pytest.raises(ServiceError, match=escape(part)):
        apply(config)
    client("logs").delete_log_group(logGroupName="/aws/lambda/image-classification-deploy")
    assert f"stack {NAME} made" in apply(config)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("The runtime parameter of python3.13 is not supported.", ""),
        (
            "Specified ReservedConcurrentExecutions for function decreases UnreservedConcurrentExecution",
            "set aws.deploy_concurrency: null in pipeline.yaml",
        ),
    ],
)
def test_a_second_stack_that_failed_is_made_up_for_by_the_next_application(
    client, config, apply, monkeypatch, reason, remedy
):
    def refuse(*arguments: object, **named: object) -> None:
        raise ValueError(reason)

    part = (
        f"-app' could not be made, and everything was put back: DeployFunction (AWS::Lambda::Function) failed: {reason}"
    )
    with monkeypatch.context() as moto, pytest.raises(ServiceError, match=escape(part)) as caught:
        moto.setattr(LambdaFunction, "create_from_cloudformation_json", refuse)
        apply(config)
    assert remedy in str(caught.value)
    assert apply(config) == [f"stack {NAME}-app made"]


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
    assert functions == {f"image-classification-{name}" for name in (
        "deploy-staging", "deploy-prod", "staging-inputs", "prod-inputs")}  # fmt: skip
    stacks = {found["StackName"] for found in client("cloudformation").describe_stacks()["Stacks"]}
    assert stacks == {f"image-classification-{name}" for name in ("staging", "staging-app", "prod", "prod-app")}


def test_what_templates_leave_out_is_done_once_and_undone(client, configured):
    sagemaker, logs = client("sagemaker"), client("logs")
    logs.create_log_group(logGroupName="/aws/sagemaker/TrainingJobs")
    config = configured(aws={"promote_to": ["210987654321"], "job_log_retention_days": 30})
    told = list(infra.finish(client, config))
    assert told[:2] == [
        f"model package group {NAME} made", f"versions of model package group {NAME} can be read by 210987654321",
    ]  # fmt: skip
    kept = {group["logGroupName"]: group["retentionInDays"] for group in logs.describe_log_groups()["logGroups"]}
    assert kept == {f"/aws/sagemaker/{kind}Jobs": 30 for kind in ("Processing", "Training", "Transform")}
    policy = json.loads(sagemaker.get_model_package_group_policy(ModelPackageGroupName=NAME)["ResourcePolicy"])
    arn, other = "arn:aws:sagemaker:us-east-1:123456789012:model-package/", {"aws:PrincipalArn": f"{ROOT_OF_OTHER}"}
    assert allows(policy["Statement"], "sagemaker:DescribeModelPackage", f"{arn}{NAME}/1", other)
    assert not allows(policy["Statement"], "sagemaker:UpdateModelPackage", f"{arn}{NAME}/1", other)
    assert not allows(policy["Statement"], "sagemaker:DescribeModelPackage", f"{arn}other/1", other)
    assert list(infra.finish(client, config)) == []
    told = list(infra.finish(client, configured()))
    assert told == [f"versions of model package group {NAME} can be read by nobody else"]
    assert list(infra.finish(client, configured())) == []


def test_versions_are_promoted_by_events_archives_and_images_to_the_named_account(client, configured, apply):
    config = configured(aws={"promote_to": ["210987654321"]})
    apply(config)
    [target] = client("events").list_targets_by_rule(Rule=f"{NAME}-promotion")["Targets"]
    assert target["Arn"] == "arn:aws:events:us-east-1:210987654321:event-bus/default"
    made = stack.outputs(client, NAME)
    bucket = s3_backends["123456789012"]["aws"].get_bucket(made["BucketName"])
    archive = f"arn:aws:s3:::{made['BucketName']}/{NAME}/jobs/TrainWithDebugger/1/output/model.tar.gz"
    for role, may_read in (("image-classification-DeployRole-1A2B", True), ("another", False)):
        caller = {"aws:PrincipalArn": f"arn:aws:iam::210987654321:role/{role}"}
        assert allows(bucket.whole_policy, "s3:GetObject", archive, caller) == may_read
        assert not allows(bucket.whole_policy, "s3:PutObject", archive, caller)


def test_the_account_that_is_promoted_to_takes_the_others_events_and_reads_its_versions(client, configured, apply):
    apply(configured(aws={"promoted_from": "210987654321"}))
    [taken] = json.loads(client("events").describe_event_bus(Name="default")["Policy"])["Statement"]
    assert (taken["Principal"], taken["Action"]) == ({"AWS": ROOT_OF_OTHER}, "events:PutEvents")
    pattern = json.loads(client("events").describe_rule(Name=f"{NAME}-approval")["EventPattern"])
    assert "account" not in pattern
    name = stack.outputs(client, NAME)["DeployRoleArn"].rpartition("/")[2]
    policy = client("iam").get_role_policy(RoleName=name, PolicyName="promoted")["PolicyDocument"]["Statement"]
    for account, may in (("210987654321", True), ("111111111111", False)):
        version = f"arn:aws:sagemaker:us-east-1:{account}:model-package/{NAME}/1"
        assert allows(policy, "sagemaker:DescribeModelPackage", version) == may
        archive = f"arn:aws:s3:::their-bucket/{NAME}/jobs/1/model.tar.gz"
        assert allows(policy, "s3:GetObject", archive, {"s3:ResourceAccount": account}) == may


@pytest.mark.parametrize(
    ("sections", "bucket", "keys"),
    [
        ({}, None, f"{NAME}/data/*_READY"),
        ({"data": {"source": "s3://pictures/animals"}}, "pictures", "animals/*_READY"),
    ],
)
def test_an_uploads_marker_starts_the_pipeline(client, configured, apply, sections, bucket, keys):
    apply(configured(**sections, aws={"start_on_marker": True}))
    pattern = json.loads(client("events").describe_rule(Name=f"{NAME}-marker")["EventPattern"])
    place = bucket or stack.outputs(client, NAME)["BucketName"]
    assert pattern["detail"] == {"bucket": {"name": [place]}, "object": {"key": [{"wildcard": keys}]}}
    [target] = client("events").list_targets_by_rule(Rule=f"{NAME}-marker")["Targets"]
    assert (target["Arn"].rpartition(":")[2], "DeadLetterConfig" in target) == (f"pipeline/{NAME}", True)


def test_what_differs_between_the_stacks_and_pipeline_yaml_is_said_in_its_words(
    client, config, configured, apply, monkeypatch
):
    assert infra.stack_differences(client, config) == []  # there is no stack yet
    apply(config)
    assert infra.stack_differences(client, config) == []
    deploy = {"instance_type": "ml.m5.xlarge", "max_latency_ms": 500}
    edited = configured(deploy=deploy, aws={"deploy_concurrency": None})
    assert infra.stack_differences(client, edited) == [
        "aws.deploy_concurrency: 1 in the stack, null in pipeline.yaml",
        "deploy.instance_type: ml.m5.large in the stack, ml.m5.xlarge in pipeline.yaml",
        "deploy.max_latency_ms: 1000000 in the stack, 500000 in pipeline.yaml",
    ]
    monkeypatch.setattr(infra, "code_key", lambda config, code: "another")
    assert infra.stack_differences(client, config) == [
        "the code of the deploy function", "the code of the inputs function",
    ]  # fmt: skip
    list(stack.delete(client("cloudformation"), f"{NAME}-app"))
    assert infra.stack_differences(client, config) == [f"stack {NAME}-app is not made"]
