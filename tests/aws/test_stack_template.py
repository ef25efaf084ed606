"""stack.yaml: clean for cfn-lint, no permission without a reason, nothing open, nothing forgotten."""

import importlib
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import botocore.session
import pytest
import yaml
from cfnlint.decode import decode
from policies import Statement, template_statements

from pipeline.aws.infra import TEMPLATE
from pipeline.aws.stack_parameters import SERVING_NAME_LENGTH, stack_parameters
from pipeline.compile.placement import champion_uri, local_placement
from pipeline.config.config import load

TEMPLATE_DATA = decode(str(TEMPLATE))[0]
RESOURCES = TEMPLATE_DATA["Resources"]
STATEMENTS = template_statements(TEMPLATE_DATA)
ROLES = {"PipelineRole", "EndpointRole", "DeployRole", "SchedulerRole", "DriftRole"}
LISTS_OF_ARNS = {"ReadableObjectArns", "VpcArns"}  # parameters that may hold wildcards


def named(statement: Statement) -> str:
    return f"{statement.where}.{statement.sid}"


def has_wildcard(statement: Statement) -> bool:
    return any("*" in text or text in LISTS_OF_ARNS for text in statement.resources)


def reasons(name: str) -> dict[str, str]:
    return RESOURCES[name].get("Metadata", {}).get("Wildcards", {})


def test_cfn_lint_finds_nothing():
    found = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(TEMPLATE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "")


def test_every_statement_of_every_role_is_found():
    assert {statement.where for statement in STATEMENTS} >= ROLES
    assert TEMPLATE.read_text().count("Effect: ") == len(STATEMENTS)
    names = [named(statement) for statement in STATEMENTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("statement", STATEMENTS, ids=named)
def test_a_statement_has_no_wildcard_without_a_stated_reason(statement):
    assert statement.sid
    if statement.effect == "Allow":
        assert not [action for action in statement.actions if "*" in action]
        assert statement.principal != "*"
    if has_wildcard(statement):
        assert len(reasons(statement.where).get(statement.sid, "").split()) > 3


def test_a_reason_belongs_to_a_wildcard():
    stated = {f"{name}.{sid}" for name in RESOURCES for sid in reasons(name)}
    assert stated == {named(statement) for statement in STATEMENTS if has_wildcard(statement)}


def test_an_action_exists_in_its_service():
    session = botocore.session.get_session()
    actions = {action for statement in STATEMENTS for action in statement.actions} - {"s3:*", "sts:AssumeRole"}
    unknown = {
        f"{service}:{operation}"
        for service, operation in (action.split(":") for action in actions)
        if operation not in session.get_service_model(service).operation_names
    }
    assert unknown == {"iam:PassRole", "lambda:InvokeFunction", "s3:ListBucket"}  # named after no operation


def test_only_aws_services_assume_the_roles():
    trusted = {name: RESOURCES[name]["Properties"]["AssumeRolePolicyDocument"]["Statement"] for name in ROLES}
    services = {name: statement[0]["Principal"]["Service"] for name, statement in trusted.items()}
    assert services == {
        "PipelineRole": "sagemaker.amazonaws.com",
        "EndpointRole": "sagemaker.amazonaws.com",
        "DeployRole": "lambda.amazonaws.com",
        "SchedulerRole": "scheduler.amazonaws.com",
        "DriftRole": "events.amazonaws.com",
    }


def test_roles_are_passed_to_sagemaker_only_and_only_their_own():
    passing = {named(found): found for found in STATEMENTS if "iam:PassRole" in found.actions}
    assert {name: found.resources for name, found in passing.items()} == {
        "PassPipelineRole.PassToJobs": ("PipelineRole.Arn",),
        "DeployRole.PassToEndpoint": ("EndpointRole.Arn",),
    }
    for found in passing.values():
        assert found.condition == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_every_role_takes_the_permissions_boundary():
    for name in ROLES:
        boundary = RESOURCES[name]["Properties"]["PermissionsBoundary"]
        assert boundary == {"Fn::If": ["HasBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}


def test_the_bucket_is_closed_encrypted_versioned_and_outlives_the_stack():
    bucket = RESOURCES["ArtifactBucket"]
    properties = bucket["Properties"]
    assert properties["PublicAccessBlockConfiguration"] == dict.fromkeys(
        ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True
    )
    (encryption,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    algorithm = encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"]
    assert algorithm == {"Fn::If": ["HasKey", "aws:kms", "AES256"]}
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    (only_tls,) = [found for found in STATEMENTS if found.where == "ArtifactBucketPolicy"]
    assert (only_tls.effect, only_tls.condition) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_models_data_and_code_are_not_in_the_lifecycle():
    rules = RESOURCES["ArtifactBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    expiring = {rule["Prefix"]["Fn::Sub"] for rule in rules if "ExpirationInDays" in rule}
    assert {text.removeprefix("${PipelineName}/") for text in expiring} == {
        "executions/", "jobs/TuneHyperparameters/", "checkpoints/", "capture/", "transform/",
    }  # fmt: skip


def test_what_a_registered_version_refers_to_is_in_no_expiring_prefix(config):
    """Its archive, its evaluation, and the champion."""
    rules = RESOURCES["ArtifactBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    prefixes = [rule["Prefix"]["Fn::Sub"].replace("${PipelineName}", config.pipeline.name) for rule in rules
                if "ExpirationInDays" in rule]  # fmt: skip
    for key in (
        "jobs/TrainWithDebugger/1/output/model.tar.gz",
        "evaluations/1/evaluation.json",
        "champion/model.tar.gz",
    ):
        assert not [prefix for prefix in prefixes if f"{config.pipeline.name}/{key}".startswith(prefix)]


def test_the_function_is_told_exactly_the_settings_that_the_handler_reads():
    hosting = importlib.import_module("classifier.deployment.hosting")
    variables = RESOURCES["DeployFunction"]["Properties"]["Environment"]["Variables"]
    assert set(variables) == {field.name.upper() for field in fields(hosting.Hosting)}


def test_the_function_keeps_the_champion_where_the_pipeline_looks_for_it(config):
    variable = RESOURCES["DeployFunction"]["Properties"]["Environment"]["Variables"]["CHAMPION_URI"]["Fn::Sub"][0]
    placement = replace(local_placement("deploy"), bucket="b")
    assert variable.replace("${Bucket}", "b").replace("${PipelineName}", config.pipeline.name) == champion_uri(
        config, placement
    )


def test_names_of_models_begin_as_the_handler_begins_them():
    rollout = importlib.import_module("classifier.deployment.rollout")
    assert SERVING_NAME_LENGTH == rollout.GROUP_LENGTH


def test_image_tags_are_immutable_scanned_and_expire():
    for name in ("TrainingRepository", "InferenceRepository"):
        properties = RESOURCES[name]["Properties"]
        assert properties["ImageTagMutability"] == "IMMUTABLE"
        assert properties["ImageScanningConfiguration"] == {"ScanOnPush": True}
        rules = json.loads(properties["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
        assert [rule["action"]["type"] for rule in rules] == ["expire", "expire"]


def test_the_schedule_is_made_switched_off_and_names_the_pipeline_by_arn():
    assert TEMPLATE_DATA["Parameters"]["RetrainState"]["Default"] == "DISABLED"
    properties = RESOURCES["RetrainingSchedule"]["Properties"]
    assert properties["State"] == {"Ref": "RetrainState"}
    assert properties["Target"]["Arn"]["Fn::Sub"].endswith(":pipeline/${PipelineNameInArn}")


def test_every_event_rule_retries_and_then_keeps_the_event():
    rules = {name: found["Properties"] for name, found in RESOURCES.items() if found["Type"] == "AWS::Events::Rule"}
    assert set(rules) == {"ApprovalRule", "InServiceRule", "FailedExecutionRule", "FailedDeploymentRule", "DriftRule"}
    allowed = RESOURCES["DeadLetterPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Condition"]["ArnEquals"]
    suffixes = {text["Fn::Sub"].partition("${AWS::StackName}-")[2] for text in allowed["aws:SourceArn"]}
    for properties in rules.values():
        (target,) = properties["Targets"]
        assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
        assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}}
        assert properties["Name"]["Fn::Sub"].partition("${AWS::StackName}-")[2] in suffixes


def test_every_alarm_tells_the_topic_and_latency_is_in_microseconds(config):
    alarms = {
        name: found["Properties"] for name, found in RESOURCES.items() if found["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert set(alarms) == {
        "EndpointErrorAlarm", "EndpointLatencyAlarm", "DeployErrorAlarm", "DeadLetterAlarm", "DriftAlarm",
    }  # fmt: skip
    assert all(found["AlarmActions"] == [{"Ref": "AlarmTopic"}] for found in alarms.values())
    assert alarms["EndpointLatencyAlarm"]["Threshold"] == {"Ref": "MaxLatencyMicroseconds"}
    values = stack_parameters(config, code_key="", schedule="rate(7 days)", schedule_state="DISABLED")
    assert values["MaxLatencyMicroseconds"] == "1000000"


def test_no_condition_keeps_eventbridge_from_the_topic():
    """EventBridge fills no condition keys when it publishes to a topic, so a condition would never hold."""
    policy = RESOURCES["AlarmTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    by_service = {statement["Principal"]["Service"]: statement for statement in policy}
    assert "Condition" not in by_service["events.amazonaws.com"]
    assert "Condition" in by_service["cloudwatch.amazonaws.com"]


def test_every_log_group_has_a_retention():
    groups = [found for found in RESOURCES.values() if found["Type"] == "AWS::Logs::LogGroup"]
    assert len(groups) == 2
    assert all(group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups)


def test_pipeline_yaml_fills_every_parameter(config):
    values = stack_parameters(config, code_key="key", schedule="rate(7 days)", schedule_state="DISABLED")
    assert values.keys() == TEMPLATE_DATA["Parameters"].keys()


def test_a_network_a_key_and_data_elsewhere_reach_the_roles(tmp_path):
    (tmp_path / "pipeline.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {"source": "s3://pictures/animals/"},
                "model": {"weights": "s3://weights/net.pth"},
                "aws": {
                    "vpc": {"subnet_ids": ["subnet-0123abcd"], "security_group_ids": ["sg-0123abcd"]},
                    "kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
                    "training_image": "210987654321.dkr.ecr.eu-west-1.amazonaws.com/team/train@sha256:00",
                    "inference_image": "docker.io/team/serve:1",
                    "tags": {"team": "vision"},
                },
            }
        )
    )
    config = load(tmp_path / "pipeline.yaml")
    values = stack_parameters(config, code_key="", schedule="rate(7 days)", schedule_state="DISABLED")
    expected = {
        "ReadableObjectArns": "arn:aws:s3:::pictures/animals*,arn:aws:s3:::weights/net.pth*",
        "ReadableBucketArns": "arn:aws:s3:::pictures,arn:aws:s3:::weights",
        "SubnetIds": "subnet-0123abcd",
        "SecurityGroupIds": "sg-0123abcd",
        "VpcArns": "arn:aws:ec2:us-east-1:*:network-interface/*,arn:aws:ec2:us-east-1:*:subnet/subnet-0123abcd,"
        "arn:aws:ec2:us-east-1:*:security-group/sg-0123abcd",
        "OwnTrainingRepositoryArn": "arn:aws:ecr:eu-west-1:210987654321:repository/team/train",
        "OwnInferenceRepositoryArn": "",
        "ResourceTags": '{"pipeline-stack": "image-classification", "team": "vision"}',
    }
    assert {name: values[name] for name in expected} == expected
