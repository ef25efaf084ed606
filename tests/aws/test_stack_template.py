"""stack.yaml: clean for cfn-lint, no permission without a reason, nothing open, nothing forgotten."""

import importlib
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from cfnlint.decode import decode
from policies import Statement, template_statements

from pipeline.aws.infra import TEMPLATE
from pipeline.aws.stack_parameters import SERVING_NAME_LENGTH, stack_parameters
from pipeline.compile.placement import champion_uri, local_placement

CASES = json.loads((Path(__file__).with_name("cases") / "template.json").read_text())
DATA = decode(str(TEMPLATE))[0]
RESOURCES = DATA["Resources"]
STATEMENTS = template_statements(DATA)
ROLES = {"PipelineRole", "EndpointRole", "DeployRole", "SchedulerRole", "DriftRole"}
LISTS_OF_ARNS = {"ReadableObjectArns", "VpcArns"}  # parameters that may hold wildcards
NO_OPERATIONS = {"iam:PassRole", "lambda:InvokeFunction", "s3:ListBucket", "s3:*", "sts:AssumeRole"}  # but actions


def named(statement: Statement) -> str:
    return f"{statement.where}.{statement.sid}"


def has_wildcard(statement: Statement) -> bool:
    return any("*" in text or text in LISTS_OF_ARNS for text in statement.resources)


def reasons(name: str) -> dict[str, str]:
    found: dict[str, str] = RESOURCES[name].get("Metadata", {}).get("Wildcards", {})
    return found


def of_type(name: str) -> dict[str, Any]:
    """The properties of the resources of a type."""
    return {key: found["Properties"] for key, found in RESOURCES.items() if found["Type"] == name}


def expiring_prefixes() -> set[str]:
    rules = RESOURCES["ArtifactBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    return {rule["Prefix"]["Fn::Sub"].removeprefix("${PipelineName}/") for rule in rules if "ExpirationInDays" in rule}


def test_cfn_lint_finds_nothing_and_the_template_fits_into_a_request():
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(TEMPLATE)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    assert len(TEMPLATE.read_bytes()) <= 51200


@pytest.mark.parametrize("path", CASES)
def test_what_keeps_the_account_closed_and_tidy_is_as_decided(path):
    value = DATA
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    assert value == CASES[path]


def test_every_statement_of_every_role_is_found_and_has_a_name_of_its_own():
    assert {statement.where for statement in STATEMENTS} >= ROLES
    assert TEMPLATE.read_text().count("Effect: ") == len(STATEMENTS) == len({named(found) for found in STATEMENTS})
    assert all(statement.sid for statement in STATEMENTS)


def test_a_statement_has_no_wildcard_without_a_stated_reason_and_no_reason_is_left_over():
    allowing = [statement for statement in STATEMENTS if statement.effect == "Allow"]
    assert not [action for statement in allowing for action in statement.actions if "*" in action]
    assert not [statement for statement in allowing if statement.principal == "*"]
    stated = {f"{name}.{sid}": reason for name in RESOURCES for sid, reason in reasons(name).items()}
    assert stated.keys() == {named(statement) for statement in STATEMENTS if has_wildcard(statement)}
    assert all(len(reason.split()) > 3 for reason in stated.values())


def test_an_action_exists_in_its_service():
    session = botocore.session.get_session()
    actions = {action for statement in STATEMENTS for action in statement.actions} - NO_OPERATIONS
    for service, operation in (action.split(":") for action in actions):
        assert operation in session.get_service_model(service).operation_names


def test_roles_are_passed_to_sagemaker_only_and_only_their_own():
    passing = {named(found): found for found in STATEMENTS if "iam:PassRole" in found.actions}
    assert {name: found.resources for name, found in passing.items()} == {
        "PassPipelineRole.PassToJobs": ("PipelineRole.Arn",),
        "DeployRole.PassToEndpoint": ("EndpointRole.Arn",),
    }
    for found in passing.values():
        assert found.condition == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_every_role_takes_the_permissions_boundary():
    boundary = {"Fn::If": ["HasBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
    assert {name: found["PermissionsBoundary"] for name, found in of_type("AWS::IAM::Role").items()} == dict.fromkeys(
        ROLES, boundary
    )


def test_models_data_and_code_and_what_a_registered_version_refers_to_do_not_expire():
    expiring = {"executions/", "jobs/TuneHyperparameters/", "checkpoints/", "capture/", "transform/"}
    assert expiring_prefixes() == expiring
    kept = ("jobs/TrainWithDebugger/1/output/model.tar.gz", "evaluations/1/evaluation.json", "champion/model.tar.gz")
    assert not [key for key in kept if key.startswith(tuple(expiring))]


def test_the_function_is_told_exactly_the_settings_that_the_handler_reads(config):
    variables = RESOURCES["DeployFunction"]["Properties"]["Environment"]["Variables"]
    hosting = importlib.import_module("classifier.deployment.hosting").Hosting
    assert set(variables) == {field.name.upper() for field in fields(hosting)}
    champion = variables["CHAMPION_URI"]["Fn::Sub"][0].replace("${Bucket}", "b")
    placement = replace(local_placement("deploy"), bucket="b")
    assert champion.replace("${PipelineName}", config.pipeline.name) == champion_uri(config, placement)
    assert importlib.import_module("classifier.deployment.rollout").GROUP_LENGTH == SERVING_NAME_LENGTH


def test_every_event_rule_retries_and_then_keeps_the_event():
    rules = of_type("AWS::Events::Rule")
    assert set(rules) == {"ApprovalRule", "InServiceRule", "FailedExecutionRule", "FailedDeploymentRule", "DriftRule"}
    allowed = RESOURCES["DeadLetterPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Condition"]["ArnEquals"]
    suffixes = {text["Fn::Sub"].partition("${AWS::StackName}-")[2] for text in allowed["aws:SourceArn"]}
    for properties in rules.values():
        (target,) = properties["Targets"]
        assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
        assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}}
        assert properties["Name"]["Fn::Sub"].partition("${AWS::StackName}-")[2] in suffixes


def test_every_alarm_tells_the_topic_and_every_log_group_has_a_retention():
    alarms = of_type("AWS::CloudWatch::Alarm")
    assert len(alarms) == 5
    assert all(found["AlarmActions"] == [{"Ref": "AlarmTopic"}] for found in alarms.values())
    groups = of_type("AWS::Logs::LogGroup")
    assert len(groups) == 2
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups.values())


def test_images_without_a_tag_and_old_ones_expire():
    for repository in of_type("AWS::ECR::Repository").values():
        rules = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
        assert [rule["action"]["type"] for rule in rules] == ["expire", "expire"]


def test_no_condition_keeps_eventbridge_from_the_topic():
    """EventBridge fills no condition keys when it publishes to a topic, so a condition would never hold."""
    policy = RESOURCES["AlarmTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    by_service = {statement["Principal"]["Service"]: "Condition" in statement for statement in policy}
    assert by_service == {"events.amazonaws.com": False, "cloudwatch.amazonaws.com": True}


def test_pipeline_yaml_fills_every_parameter_and_what_lies_elsewhere_reaches_the_roles(config, configured):
    options = {"code_key": "key", "schedule": "rate(7 days)", "schedule_state": "DISABLED"}
    values = stack_parameters(config, **options)
    assert values.keys() == DATA["Parameters"].keys()
    assert values["MaxLatencyMicroseconds"] == "1000000"
    aws = {
        "vpc": {"subnet_ids": ["subnet-0123abcd"], "security_group_ids": ["sg-0123abcd"]},
        "training_image": "210987654321.dkr.ecr.eu-west-1.amazonaws.com/team/train@sha256:00",
        "inference_image": "docker.io/team/serve:1",
        "tags": {"team": "vision"},
    }
    own = configured(data={"source": "s3://pictures/animals/"}, model={"weights": "s3://weights/net.pth"}, aws=aws)
    ec2 = "arn:aws:ec2:us-east-1:*:"
    expected = {
        "ReadableObjectArns": "arn:aws:s3:::pictures/animals*,arn:aws:s3:::weights/net.pth*",
        "ReadableBucketArns": "arn:aws:s3:::pictures,arn:aws:s3:::weights",
        "SubnetIds": "subnet-0123abcd",
        "SecurityGroupIds": "sg-0123abcd",
        "VpcArns": f"{ec2}network-interface/*,{ec2}subnet/subnet-0123abcd,{ec2}security-group/sg-0123abcd",
        "OwnTrainingRepositoryArn": "arn:aws:ecr:eu-west-1:210987654321:repository/team/train",
        "OwnInferenceRepositoryArn": "",
        "ResourceTags": '{"pipeline-stack": "image-classification", "team": "vision"}',
    }
    assert stack_parameters(own, **options).items() >= expected.items()
