"""The scheduled drift check: a request that SageMaker takes, made by a role that may do nothing else with it."""

import argparse
import io
import json
import re
import tarfile
from typing import Any

import boto3
import pytest
from botocore.validate import ParamValidator
from policies import allows, as_list

import drift
from pipeline.aws.drift_check import SCRIPT, job_request
from pipeline.compile.bundle import bundle
from pipeline.errors import ConfigError

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
    role, iam = schedule["Target"]["RoleArn"].rpartition("/")[2], client("iam")
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    statements = [statement for document in documents for statement in as_list(document["Statement"])]
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
