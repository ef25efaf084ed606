"""The drift check on AWS: as a scheduled job; its metric, and the alarm and the rule that hear of it."""

import argparse
import io
import json
import re
import tarfile
from typing import Any

import boto3
import pytest
from botocore.validate import ParamValidator
from policies import allows, statements_of

import drift
from pipeline.aws import inventory, stack
from pipeline.aws.drift_check import SCRIPT, job_request
from pipeline.cli.reports import put_metric
from pipeline.compile.bundle import bundle
from pipeline.config.config import load
from pipeline.errors import ConfigError
from pipeline.service.aws_target import AwsTarget

SETTINGS: dict[str, Any] = {"deploy": {"data_capture_percent": 10}, "drift": {"schedule": "rate(1 day)"}}
NAMES = {"BucketName": "b", "JobRoleArn": "arn:aws:iam::123456789012:role/jobs", "TrainingRepositoryUri": "r/training"}
FILLED = {"<aws.scheduler.execution-id>": "d32c5kddcf5bb8c3", "<aws.scheduler.scheduled-time>": "2026-03-22T18:59:43Z"}
VPC = {"subnet_ids": ["subnet-0123abcd"], "security_group_ids": ["sg-0123abcd"]}
KEY = "arn:aws:kms:us-east-1:123456789012:key/0"


def filled(request: str) -> Any:
    """The request as EventBridge Scheduler sends it."""
    for keyword, value in FILLED.items():
        request = request.replace(keyword, value)
    assert "<" not in request
    return json.loads(request)


@pytest.mark.parametrize("aws", [{}, {"vpc": VPC, "kms_key_arn": KEY}, {"project": "p" * 40}])
def test_the_request_is_one_that_sagemaker_takes(configured: Any, aws: dict[str, Any]) -> None:
    """By botocore's model, and what that does not check: the pattern of the name and the length of each argument."""
    text = json.dumps(job_request(configured(**SETTINGS, aws=aws), NAMES))
    request = filled(text)
    model = boto3.Session(region_name="us-east-1").client("sagemaker").meta.service_model
    report = ParamValidator().validate(request, model.operation_model("CreateProcessingJob").input_shape)
    assert report.generate_report() == ""
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", request["ProcessingJobName"])
    application = request["AppSpecification"]
    assert all(len(text) <= 256 for text in application["ContainerEntrypoint"] + application["ContainerArguments"])
    assert len(text) < 4096  # a parameter's of a stack
    assert ("NetworkConfig" in request, "KmsKeyId" in request["ProcessingOutputConfig"]) == ("vpc" in aws,) * 2


def test_the_script_takes_the_arguments_and_its_archive_holds_it(configured: Any, monkeypatch: Any) -> None:
    request = job_request(configured(**SETTINGS), NAMES)
    monkeypatch.setattr("sys.argv", ["drift.py", *request["AppSpecification"]["ContainerArguments"]])
    arguments: argparse.Namespace = drift.parse_arguments()
    assert arguments.capture_uri == "s3://b/image-classification/capture/image-classification/AllTraffic"
    places = {each["InputName"]: each["S3Input"] for each in request["ProcessingInputs"]}
    assert places["champion"]["LocalPath"] == str(arguments.champion_dir)
    assert request["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["LocalPath"] == str(arguments.report_dir)
    with tarfile.open(fileobj=io.BytesIO(bundle(SCRIPT).archive())) as archive:
        assert {"drift.py", "classifier/drift/capture.py"} <= set(archive.getnames())


def test_the_stack_stores_the_code_and_makes_the_schedule_and_its_role_may_make_these_jobs_alone(
    client: Any, configured: Any, apply: Any
) -> None:
    told = apply(configured(**SETTINGS))
    schedule = client("scheduler").get_schedule(Name="image-classification-drift-check")
    request = filled(schedule["Target"]["Input"])
    assert schedule["ScheduleExpression"] == "rate(1 day)"
    assert schedule["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:sagemaker:createProcessingJob"
    uri = request["ProcessingInputs"][0]["S3Input"]["S3Uri"]
    assert f"code of the drift check stored as {uri}" in told
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    assert client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == bundle(SCRIPT).archive()
    statements = statements_of(client, schedule["Target"]["RoleArn"])
    jobs = "arn:aws:sagemaker:us-east-1:123456789012:processing-job/"
    passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
    assert allows(statements, "sagemaker:CreateProcessingJob", f"{jobs}{request['ProcessingJobName']}")
    assert not allows(statements, "sagemaker:CreateProcessingJob", f"{jobs}other")
    assert allows(statements, "iam:PassRole", request["RoleArn"], passed)
    assert not allows(statements, "iam:PassRole", schedule["Target"]["RoleArn"], passed)


def test_without_a_schedule_there_is_none_and_no_permission(client: Any, made: dict[str, str]) -> None:
    assert [found["Name"] for found in client("scheduler").list_schedules()["Schedules"]] == [made["ScheduleName"]]
    role = made["SchedulerRoleArn"].rpartition("/")[2]
    assert "drift-check" not in client("iam").list_role_policies(RoleName=role)["PolicyNames"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drift": SETTINGS["drift"]}, "drift.schedule must be null while deploy.data_capture_percent is 0"),
        ({**SETTINGS, "aws": {"network_isolation": True}}, "drift.schedule must be null with aws.network_isolation"),
        ({**SETTINGS, "drift": {"schedule": "daily"}}, "drift.schedule must be like rate(7 days)"),
    ],
)
def test_a_schedule_that_could_check_nothing_is_refused(configured: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(**settings)
    assert said in str(refused.value)


@pytest.fixture
def retraining(configured: Any, apply: Any) -> Any:
    """The configuration of a stack that has been made, with data capture and retraining on drift."""
    found = configured(deploy={"data_capture_percent": 10}, drift={"retrain": True})
    apply(found)
    return found


def drift_alarms(client: Any) -> list[dict[str, Any]]:
    return list(client("cloudwatch").describe_alarms(AlarmNames=["image-classification-drift"])["MetricAlarms"])


def rules(client: Any) -> list[str]:
    return [rule["Name"] for rule in client("events").list_rules()["Rules"]]


def test_the_alarm_reads_the_metric_the_rule_hears_it_alone_and_both_go_with_the_stack(client, retraining):
    [alarm] = drift_alarms(client)
    put_metric(AwsTarget(retraining), retraining.aws.project, "image-classification", 1.5)
    [metric] = client("cloudwatch").list_metrics(Namespace=alarm["Namespace"])["Metrics"]
    assert (metric["MetricName"], metric["Dimensions"]) == (alarm["MetricName"], alarm["Dimensions"])
    assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (1, "GreaterThanThreshold")
    assert alarm["TreatMissingData"] == "ignore"  # else each check would start the pipeline anew
    pattern = json.loads(client("events").describe_rule(Name="image-classification-drift")["EventPattern"])
    assert pattern == {
        "source": ["aws.cloudwatch"],
        "detail-type": ["CloudWatch Alarm State Change"],
        "resources": [alarm["AlarmArn"]],
        "detail": {"state": {"value": ["ALARM"]}},
    }
    [target] = client("events").list_targets_by_rule(Rule="image-classification-drift")["Targets"]
    assert target["Arn"] == "arn:aws:sagemaker:us-east-1:123456789012:pipeline/image-classification"
    assert target["RoleArn"] == stack.outputs(client, "image-classification")["SchedulerRoleArn"]
    [found, _] = [item for item in inventory.find(client, retraining) if item.kind == "stack"]
    assert found.note.endswith(", 5 alarms")
    list(stack.delete(client("cloudformation"), found.name))
    assert (drift_alarms(client), "image-classification-drift" in rules(client)) == ([], False)


@pytest.mark.parametrize(("percent", "alarms"), [(10, 1), (0, 0)])
def test_without_retraining_the_alarm_only_tells_and_without_capture_there_is_none(
    client, configured, apply, percent, alarms
):
    found = configured(deploy={"data_capture_percent": percent})
    apply(found)
    assert (len(drift_alarms(client)), "image-classification-drift" in rules(client)) == (alarms, False)


def test_retraining_without_capture_is_a_mistake_in_the_configuration(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text("drift:\n  retrain: true\n")
    part = r"pipeline\.yaml:2: drift\.retrain must be false while deploy\.data_capture_percent is 0: nothing"
    with pytest.raises(ConfigError, match=part):
        load(path)
    path.write_text("drift:\n  retrain: true\ndeploy:\n  data_capture_percent: 1\n")
    assert load(path).drift.retrain
