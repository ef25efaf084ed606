"""base.yaml and app.yaml: clean for linters, no permission without a reason, nothing open, nothing forgotten."""

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

from pipeline.aws.infra import NOT_MADE
from pipeline.aws.stack_parameters import APP, BASE, SERVING_NAME_LENGTH, settings_of, stack_parameters
from pipeline.compile.placement import champion_uri, local_placement

CASES, ELSEWHERE = (
    json.loads((Path(__file__).with_name("cases") / f"{name}.json").read_text()) for name in ("template", "elsewhere")
)
TEMPLATES = {path.stem: decode(str(path))[0] for path in (BASE, APP)}
RESOURCES = {name: found for template in TEMPLATES.values() for name, found in template["Resources"].items()}
STATEMENTS = template_statements({"Resources": RESOURCES})
ROLES = {f"{name}Role" for name in ("Pipeline", "Job", "Endpoint", "Deploy", "Inputs", "Scheduler")}
LISTS_OF_ARNS = {"ReadableObjectArns", "VpcArns"}  # parameters that may hold wildcards
NO_OPERATIONS = {  # but actions
    "iam:PassRole", "lambda:InvokeFunction", "s3:DeleteObjectVersion", "s3:ListBucket", "s3:*", "sts:AssumeRole",
}  # fmt: skip


def named(statement: Statement) -> str:
    return f"{statement.where}.{statement.sid}"


def of_type(name: str) -> dict[str, Any]:
    """The properties of the resources of a type."""
    return {key: found["Properties"] for key, found in RESOURCES.items() if found["Type"] == name}


@pytest.mark.parametrize("template", [BASE, APP], ids=["base", "app"])
def test_cfn_lint_finds_nothing_and_a_template_fits_well_into_a_request(template):
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(template)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    assert len(template.read_bytes()) < 40_000  # of 51,200


def test_the_templates_share_no_name_and_what_app_has_no_default_for_base_gives():
    assert not TEMPLATES["base"]["Resources"].keys() & TEMPLATES["app"]["Resources"].keys()
    needed = {name for name, found in TEMPLATES["app"]["Parameters"].items() if "Default" not in found}
    assert needed == NOT_MADE.keys() <= TEMPLATES["base"]["Outputs"].keys()


@pytest.mark.parametrize("path", CASES)
def test_what_keeps_the_account_closed_and_tidy_is_as_decided(path):
    value: Any = {"Resources": RESOURCES, "Parameters": TEMPLATES["app"]["Parameters"]}
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    assert value == CASES[path]


def test_every_statement_of_every_role_is_found_and_has_a_name_of_its_own():
    assert {statement.where for statement in STATEMENTS} >= ROLES
    written = sum(path.read_text().count("Effect: ") for path in (BASE, APP))
    assert written == len(STATEMENTS) == len({named(found) for found in STATEMENTS})
    assert all(statement.sid for statement in STATEMENTS)


def test_a_statement_has_no_wildcard_without_a_stated_reason_and_no_reason_is_left_over():
    allowing = [statement for statement in STATEMENTS if statement.effect == "Allow"]
    assert not [action for statement in allowing for action in statement.actions if "*" in action]
    assert not [statement for statement in allowing if statement.principal == "*"]
    written = {name: found.get("Metadata", {}).get("Wildcards", {}) for name, found in RESOURCES.items()}
    stated = {f"{name}.{sid}": reason for name, found in written.items() for sid, reason in found.items()}
    wide = [found for found in STATEMENTS if LISTS_OF_ARNS & {*found.resources} or "*" in "".join(found.resources)]
    assert stated.keys() == {named(statement) for statement in wide}
    assert all(len(reason.split()) > 3 for reason in stated.values())


def test_an_action_exists_in_its_service():
    session = botocore.session.get_session()
    actions = {action for statement in STATEMENTS for action in statement.actions} - NO_OPERATIONS
    for service, operation in (action.split(":") for action in actions):
        assert operation in session.get_service_model(service).operation_names


def test_roles_are_passed_to_sagemaker_only_and_only_their_own():
    passing = {named(found): found for found in STATEMENTS if "iam:PassRole" in found.actions}
    assert {name: found.resources for name, found in passing.items()} == {
        "PipelineRole.PassToJobs": ("JobRole.Arn",),
        "DriftCheckPolicy.PassToDriftJobs": ("JobRoleArn",),
        "DeployRole.PassToEndpoint": ("EndpointRole.Arn",),
    }
    for found in passing.values():
        assert found.condition == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_every_role_takes_the_permissions_boundary():
    boundary = {"Fn::If": ["HasBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
    found = {name: role["PermissionsBoundary"] for name, role in of_type("AWS::IAM::Role").items()}
    assert found == dict.fromkeys(ROLES, boundary)


def test_models_data_and_code_and_what_a_registered_version_refers_to_do_not_expire():
    expiring = {"executions/", "jobs/TuneHyperparameters/", "checkpoints/", "capture/", "transform/"}
    rules = RESOURCES["ArtifactBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    prefixes = {rule["Prefix"]["Fn::Sub"] for rule in rules if "ExpirationInDays" in rule}
    assert {prefix.removeprefix("${PipelineName}/") for prefix in prefixes} == expiring
    kept = ("jobs/TrainWithDebugger/1/output/model.tar.gz", "evaluations/1/evaluation.json", "champion/model.tar.gz")
    assert not [key for key in kept if key.startswith(tuple(expiring))]


def test_the_function_is_told_exactly_the_settings_that_the_handler_reads(config):
    variables = RESOURCES["DeployFunction"]["Properties"]["Environment"]["Variables"]
    deploy = importlib.import_module("deploy")
    assert set(variables) == {field.name.upper() for field in fields(deploy.Settings)}
    placement = replace(local_placement("deploy"), bucket="b")
    champion = variables["CHAMPION_URI"]["Fn::Sub"].replace("${BucketName}", "b")
    assert champion.replace("${PipelineName}", config.pipeline.name) == champion_uri(config, placement)
    assert deploy.GROUP_LENGTH == SERVING_NAME_LENGTH


def test_every_event_rule_retries_and_then_keeps_the_event():
    rules = of_type("AWS::Events::Rule")
    names = (
        "Approval", "InService", "FailedExecution", "FailedDeployment", "Waiting", "Drift", "Marker", "Promotion",
    )  # fmt: skip
    assert set(rules) == {f"{name}Rule" for name in names}
    for properties in rules.values():
        target = properties["Targets"][0]
        assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
        assert target["DeadLetterConfig"] == {"Arn": {"Ref": "DeadLetterQueueArn"}}
        assert properties["Name"]["Fn::Sub"].startswith("${Project}-")  # which the queue's policy lets in


def test_every_alarm_tells_the_topic_and_every_log_group_has_a_retention():
    alarms = of_type("AWS::CloudWatch::Alarm")
    assert len(alarms) == 5
    assert all(found["AlarmActions"] == [{"Ref": "AlarmTopicArn"}] for found in alarms.values())
    groups = of_type("AWS::Logs::LogGroup")
    assert len(groups) == 3
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups.values())


def test_images_without_a_tag_and_old_ones_expire():
    for repository in of_type("AWS::ECR::Repository").values():
        rules = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
        assert [(rule["action"]["type"], rule["selection"]["tagStatus"]) for rule in rules] == [("expire", "any")]


def test_no_condition_keeps_eventbridge_from_the_topic():
    """EventBridge fills no condition keys when it publishes to a topic, so a condition would never hold."""
    policy = RESOURCES["AlarmTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    by_service = {statement["Principal"]["Service"]: "Condition" in statement for statement in policy}
    assert by_service == {"events.amazonaws.com": False, "cloudwatch.amazonaws.com": True}


def test_every_parameter_is_a_setting_with_its_default_or_infras_or_an_output_of_base(config):
    by_infra = {"DeployCodeKey": "", "DeployCodeVersion": "", "InputsCodeKey": "", "InputsCodeVersion": "",
                "RetrainSchedule": config.aws.retrain_schedule, "RetrainState": "DISABLED",
                "DriftJob": "{}"}  # fmt: skip
    for path in (BASE, APP):
        parameters = TEMPLATES[path.stem]["Parameters"]
        assert settings_of(path).keys() == parameters.keys()
        values = {**stack_parameters(config, path), **{name: by_infra[name] for name in by_infra if name in parameters}}
        assert parameters.keys() - values.keys() == (NOT_MADE.keys() if path == APP else set())
        assert {name: str(parameters[name]["Default"]) for name in values} == values


def test_what_lies_elsewhere_reaches_the_parameters(configured):
    own = configured(**ELSEWHERE["settings"])
    given = {**stack_parameters(own, BASE), **stack_parameters(own, APP)}
    assert given.items() >= ELSEWHERE["parameters"].items()
