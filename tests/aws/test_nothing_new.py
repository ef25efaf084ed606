"""What `status` says on AWS of an execution whose model is registered already."""

import json
from typing import Any

import moto_bridge
import pytest

import describe_inputs
from pipeline.service.aws_target import AwsTarget
from pipeline.service.status import status

BUCKET, NAME, ROLE = "a-bucket-of-ours", "image-classification", "arn:aws:iam::123456789012:role/pipeline"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:1"
OWN = {"role_arn": ROLE, "bucket": BUCKET, "training_image": IMAGE, "inference_image": IMAGE}


@pytest.fixture
def target(client: Any, configured: Any) -> AwsTarget:
    """An account with a bucket and a pipeline whose steps matter by their names alone."""
    client("s3").create_bucket(Bucket=BUCKET)
    text = json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": []})
    token = {"ClientRequestToken": "x" * 32}
    client("sagemaker").create_pipeline(PipelineName=NAME, PipelineDefinition=text, RoleArn=ROLE, **token)
    return AwsTarget(configured(aws=OWN))


def ended(client: Any, described: dict[str, str], *, accepted: str = "True", registers: str = "False") -> str:
    """An execution of this pipeline that evaluated model `aaa`; its ARN."""
    output = {"S3Uri": f"s3://{BUCKET}/evaluation", "LocalPath": "/opt/ml/out", "S3UploadMode": "EndOfJob"}
    document = {"model_sha256": "aaa", "multiclass_classification_metrics": {"accuracy": {"value": 0.9}}}
    client("s3").put_object(Bucket=BUCKET, Key="evaluation/evaluation.json", Body=json.dumps(document).encode())
    job = client("sagemaker").create_processing_job(
        ProcessingJobName="pipelines-abc-EvaluateModel",
        ProcessingResources={
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 30}
        },
        AppSpecification={"ImageUri": IMAGE},
        RoleArn=ROLE,
        ProcessingOutputConfig={"Outputs": [{"OutputName": "evaluation", "S3Output": output}]},
    )
    outputs = [{"Name": name, "Value": value} for name, value in described.items()]
    steps = {
        "DescribeInputs": {"Lambda": {"OutputParameters": outputs}},
        "EvaluateModel": {"ProcessingJob": {"Arn": job["ProcessingJobArn"]}},
        "CheckAccuracy": {"Condition": {"Outcome": accepted}},
        "CheckIsNew": {"Condition": {"Outcome": registers}},
    }
    arn = str(client("sagemaker").start_pipeline_execution(PipelineName=NAME)["PipelineExecutionArn"])
    listed = [{"StepName": name, "StepStatus": "Succeeded", "Metadata": found} for name, found in steps.items()]
    moto_bridge.backends()["123456789012"]["us-east-1"].steps_of_executions = {arn: listed}
    return arn


@pytest.mark.parametrize(
    ("approval", "is_in_service", "words"),
    [
        ("Approved", True, "version 1, so nothing was registered or deployed."),
        (
            "Approved",
            False,
            "version 1, so nothing was registered or deployed. It was not in service: `run_pipeline.py approve 1` "
            "deploys it.",
        ),
        ("PendingManualApproval", False, "version 1 (PendingManualApproval), so nothing was registered or deployed."),
        ("Rejected", False, "version 1 (Rejected), so nothing was registered or deployed."),
    ],
)
def test_the_version_that_the_model_equals_is_named(client, target, register, approval, is_in_service, words):
    version = register(BUCKET, approval)
    known = {"registered": version, "registered_sha256": "aaa", "approved": "none", "champion_sha256": "none"}
    champion = version if is_in_service else describe_inputs.NONE
    document = status(target, ended(client, {**known, "champion": champion}))
    assert document["nothing_new"] == f"Nothing new: the model equals {NAME} {words}"
    assert (document["model_package_arn"], document["model_approval_status"]) == (version, approval)


def test_the_newest_approved_version_is_named_where_a_newer_one_holds_another_model(client, target, register):
    approved, newer = register(BUCKET), register(BUCKET, "Rejected")
    known = {"registered": newer, "registered_sha256": "bbb", "approved": approved, "champion_sha256": "aaa"}
    document = status(target, ended(client, {**known, "champion": approved}))
    assert document["model_package_arn"] == approved
    assert "version 1, so nothing" in document["nothing_new"]


@pytest.mark.parametrize("outcomes", [{"accepted": "False"}, {"registers": "True"}])
def test_it_says_nothing_of_a_model_that_is_refused_or_new(client, target, outcomes):
    document = status(target, ended(client, {"registered": "none", "registered_sha256": "none"}, **outcomes))
    assert (document["nothing_new"], document["model_package_arn"]) == (None, None)
